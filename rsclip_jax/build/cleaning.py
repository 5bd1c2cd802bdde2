"""FusionRS's cleaning of the captions that data sets come with.

Known of it is what goes: noise of stock photographs, copyright and Google Earth; captions that are
not English, too short, too long, too generic, or without a scene; and that images whose class is
known then take its name. Words and thresholds are ours. One caption of an image stays, as there.
"""

import dataclasses
import re

import apache_beam as beam

from rsclip_jax.build.boxes import clean_label
from rsclip_jax.build.caption_checks import check_length, words
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop, each_row

MIN_WORDS, MAX_WORDS, MAX_TOKENS = 3, 77, 77
_NOISE = re.compile(
    r"\bstock (?:photos?|photography|photographs?|images?|pictures?|illustrations?|footage|videos?"
    r"|vectors?)\b"
    r"|\broyalty[- ]free\b|\ball rights reserved\b|\bcopyrights?(?:ed)?\b|©|\(c\) ?\d{4}"
    r"|\bgoogle[- ](?:earth|maps?)\b|\bhigh[- ]res stock\b"
    r"|\b(?:shutterstock|getty images|gettyimages|istock\w*|alamy|dreamstime|123rf|depositphotos)\b"
    r"|https?://|\bwww\.",
    re.IGNORECASE,
)
# Words of a few letters that stand in nearly every sentence of a language.
_ENGLISH = frozenset(
    "a an the of in on at to by with from for and or is are was were there this that its near next "
    "some many two three above below".split()
)
_OTHER_LANGUAGES = frozenset(
    "de del la las le les el los et y un une una des du der die das und von mit im il di da do dos "
    "na em o e os van het een en och av na w z i".split()
)
_SAYS_NOTHING = _ENGLISH | frozenset(
    "image images photo photos photograph photography picture pictures pic view views map maps "
    "aerial satellite drone overhead bird bird's-eye birds eye top remote sensing earth space "
    "imagery data scene area place location site land landscape background texture abstract nice "
    "beautiful amazing great large small big different various other here seen taken shot color "
    "colour google landsat sentinel it can be see shows showing".split()
)


def find_fault(caption: str) -> str:
    """Return why a caption is not kept, its kind before a colon, "" if it is."""
    if match := _NOISE.search(caption):
        return f"noise: {match[0].lower()!r}"
    if problem := check_length(caption, MIN_WORDS, MAX_WORDS, MAX_TOKENS):
        return problem
    letters = [c for c in caption if c.isalpha()]
    foreign = sum(not c.isascii() for c in letters)
    if foreign > 0.1 * len(letters):
        return f"not English: {foreign} of {len(letters)} letters"
    found = words(caption)
    others = [word for word in found if word in _OTHER_LANGUAGES]
    if len(others) >= 2 and len(others) > sum(word in _ENGLISH for word in found):
        return f"not English: {' '.join(others[:3])!r}"
    if all(word in _SAYS_NOTHING or word.isdigit() for word in found):
        return "generic: names nothing in the scene"
    return ""


def clean_captions(row: Row) -> Row:
    """Return the row with the first of its captions that is kept, else with the name of its class.

    Raises:
      Drop: it has neither (the reason is the fault of its first caption).
    """
    faults = []
    for caption in row["captions"]:
        if not (fault := find_fault(caption)):
            return row | {"captions": [caption]}
        faults.append(fault)
    if label := clean_label(row["label"]):
        return row | {"captions": [label]}
    raise Drop(faults[0] if faults else "no caption")


@dataclasses.dataclass
class CleanCaptions(beam.PTransform):
    """Leave each row one caption; see `clean_captions`."""

    def expand(self, rows):
        return rows | each_row(clean_captions)
