"""Is this caption fit to be used, and does it say more than is there? Pure functions.

Each returns the problem, its kind before a colon so that problems can be counted, or "" for none.
They judge words, not images: what passes may still be wrong.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from rsclip_jax.build.boxes import NUMBER_WORDS, Box, clean_label, plural
from rsclip_jax.data.text import ClipTokenizer

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|\Z)")  # not the point of "0.34"
_TALK = re.compile(
    r"\bas an? (?:ai|language model|assistant)\b"
    r"|\bi(?:['’](?:m|ve)| am| can| cannot| can['’]t| could| do| don['’]t| see| have"
    r"| apologi[sz]e)\b"
    r"|\b(?:i['’]m|we are) (?:sorry|unable)\b|\b(?:sorry|unfortunately)\b"
    r"|\b(?:unable|not able|impossible) to (?:see|view|determine|describe|identify|tell)\b"
    r"|\b(?:cannot|can't|can’t) be (?:determined|identified|told|seen)\b"
    r"|\b(?:this|the|an?) (?:provided |given |attached )?(?:image|picture|photo(?:graph)?) "
    r"(?:shows?|depicts?|displays?|contains?|features?|captures?|appears?|is of)\b"
    r"|\bthe (?:caption|annotations?|prompt|bounding box(?:es)?|user)\b"
    r"|\bhere (?:is|are) (?:a|the|your|some) (?:captions?|descriptions?)\b",
    re.IGNORECASE,
)
_SPECULATION = re.compile(
    r"\b(?:probabl[ey]|possibl[ey]|perhaps|maybe|likely|presumably|apparently|seemingly|supposedly"
    r"|might|could be|may (?:be|have|indicate|suggest|serve|represent)|seems?|appears?|appearing"
    r"|suggest(?:s|ed|ing)?|indicat(?:es?|ed|ing)|impl(?:y|ies|ying)|hint(?:s|ing)? at"
    r"|potential(?:ly)?|assum(?:e|ed|ing|ably)|presume[ds]?|speculat\w*|what looks like"
    r"|looks? like|some kind of|some sort of|as if)\b",
    re.IGNORECASE,
)
# Words that say nothing about the content, for comparing a long text with a short one.
_STOP_WORDS = frozenset(
    "a an the and or of in on at to by with from for as is are was were be been it its this that "
    "these those there which while where near next into over under between along around across "
    "some several many other each both two three".split()
)
_NUMBERS = {word: number for number, word in enumerate(NUMBER_WORDS) if number >= 2} | {"dozen": 12}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is asked of a caption; see the functions below.

    Attributes:
      min_words, max_words: of the caption.
      max_tokens: CLIP tokens with start and end marks (77, or 248 for long text); 0: no limit.
      speculation: whether "probably" and its like are let pass.
      max_overlap: greatest share of content words that a long caption has in common with a short
        one of its image; 0: not compared.
    """

    min_words: int = 3
    max_words: int = 60
    max_tokens: int = 77
    speculation: bool = False
    max_overlap: float = 0.0


def find_problem(
    caption: str,
    limits: Limits,
    *,
    label: str = "",
    classes: Sequence[str] = (),
    boxes: Sequence[Box] | None = None,
    objects: Sequence[str] = (),
    short: Iterable[str] = (),
) -> str:
    """Return the first problem of a caption, "" for none.

    Args:
      caption: one caption.
      limits: what is asked of it.
      label: class of the image, compared if `classes` are given.
      classes: of the scene, of which `label` is one.
      boxes: what a detector or annotator found; None: unknown.
      objects: all that the detector knows, so that others in the caption are not there; without
        them only the numbers of what is in `boxes` are compared.
      short: captions of the image that a long one must differ from.
    """
    problems = [
        check_length(caption, limits.min_words, limits.max_words, limits.max_tokens),
        check_repetition(caption),
        check_talk(caption),
        "" if limits.speculation else check_speculation(caption),
        check_label(caption, label, classes) if label and classes else "",
        check_boxes(caption, boxes, objects) if boxes is not None else "",
    ]
    if limits.max_overlap:
        problems += [check_distinct(caption, text, limits.max_overlap) for text in short]
    return next(filter(None, problems), "")


def check_length(caption: str, min_words: int, max_words: int, max_tokens: int = 0) -> str:
    """Count words, and CLIP tokens with start and end marks."""
    count = len(words(caption))
    if count < min_words:
        return f"too short: {count} words, at least {min_words}"
    if count > max_words:
        return f"too long: {count} words, at most {max_words}"
    if max_tokens and (tokens := int(ClipTokenizer().lengths([caption])[0])) > max_tokens:
        return f"too long: {tokens} CLIP tokens, at most {max_tokens}"
    return ""


def check_repetition(caption: str) -> str:
    """Find a model that goes round in circles.

    A sentence that comes twice, four words that come three times, one word three times in a row, or
    fewer than half of the triples of words different in a text of 20 words and more.
    """
    sentences = Counter(" ".join(words(sentence)) for sentence in _SENTENCE_END.split(caption))
    if twice := [sentence for sentence, count in sentences.items() if sentence and count > 1]:
        return f"repetition: the sentence {twice[0][:60]!r} twice"
    tokens = words(caption)
    fours = Counter(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))
    if often := [four for four, count in fours.items() if count > 2]:
        return f"repetition: {' '.join(often[0])!r} {fours[often[0]]} times"
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    if stuck := [triple for triple in triples if len(set(triple)) == 1]:
        return f"repetition: {stuck[0][0]!r} three times in a row"
    if len(tokens) >= 20 and len(set(triples)) < len(triples) / 2:
        return f"repetition: {len(set(triples))} different triples of words out of {len(triples)}"
    return ""


def check_talk(caption: str) -> str:
    """Find a model that refuses, or speaks of itself, the image as such or its task."""
    match = _TALK.search(caption)
    return f"talk: {match[0].lower()!r}" if match else ""


def check_speculation(caption: str) -> str:
    """Find guesses: probably, appears to, might be ..."""
    match = _SPECULATION.search(caption)
    return f"speculation: {match[0].lower()!r}" if match else ""


def check_label(caption: str, label: str, classes: Iterable[str]) -> str:
    """Find a caption that names another class of the set, and nothing of its own.

    Its own class counts as named with any one of the content words of its name, in the singular or
    the plural; another class only with its whole name.
    """
    own = clean_label(label)
    own_words = [word for word in words(own) if word not in _STOP_WORDS]
    if any(_names(caption, word) for word in own_words):
        return ""
    for other in map(clean_label, classes):
        if other != own and _names(caption, other):
            return f"another class: {other!r} instead of {own!r}"
    return ""


def check_boxes(caption: str, boxes: Iterable[Box], objects: Iterable[str] = ()) -> str:
    """Find objects that are not there, and more of them than there are.

    Fewer are no fault: a caption may speak of some of them. A number above five may be too large by
    a fifth, as people count.

    Args:
      caption: one caption.
      boxes: all objects of the image.
      objects: what the detector knows besides them; other words are not judged.
    """
    counts = Counter(clean_label(box.label) for box in boxes)
    names = {*counts, *map(clean_label, objects)}
    # Longest names first, each taken out of the text: a "storage tank" is no "tank".
    for name in sorted(names, key=lambda name: (-len(name), name)):
        if not _names(caption, name):
            continue
        if not counts[name]:
            return f"object not there: {name!r}"
        for number in _stated(caption, name):
            most = counts[name] * 1.2 if number > 5 else counts[name]
            if number > most:
                return f"too many: {number} x {name!r}, where there are {counts[name]}"
        caption = re.sub(_either(name), "#", caption, flags=re.IGNORECASE)
    return ""


def check_clip_score(score: float, least: float) -> str:
    """Compare the cosine of image and caption with the least that is accepted."""
    return f"CLIP score: {score:.3f}, at least {least:g}" if score < least else ""


def check_distinct(long: str, short: str, max_overlap: float = 0.6) -> str:
    """Find a long caption that says no more than the short one.

    Overlap is the Jaccard index of their sets of content words, in [0, 1].
    """
    first, second = (
        {word for word in words(text) if word not in _STOP_WORDS} for text in (long, short)
    )
    if not first | second:
        return ""
    overlap = len(first & second) / len(first | second)
    if overlap > max_overlap:
        return f"not distinct: {overlap:.0%} of the words are the short caption's"
    if len(words(long)) <= len(words(short)):
        return f"not distinct: {len(words(long))} words, the short caption {len(words(short))}"
    return ""


def words(text: str) -> list[str]:
    """Split a text into words, lower-case."""
    return [word.lower() for word in _WORD.findall(text)]


def _either(name: str) -> str:
    """Return a pattern of a thing's name, in the singular or the plural."""
    return rf"\b(?:{re.escape(name)}|{re.escape(plural(name))})\b"


def _names(caption: str, name: str) -> bool:
    return re.search(_either(name), caption, re.IGNORECASE) is not None


def _stated(caption: str, name: str) -> list[int]:
    """Return the numbers that stand before a thing, two words between them at most."""
    # Not "two roads and ships": what stands between describes the thing.
    between = r"(?:(?!and\b|or\b|with\b|of\b)[\w-]+\s+){0,2}"
    number = rf"\b(\d+|{'|'.join(_NUMBERS)})\s+(?:of\s+)?"
    found = re.findall(number + between + _either(name), caption, re.IGNORECASE)
    return [_NUMBERS.get(text.lower()) or int(text) for text in found]
