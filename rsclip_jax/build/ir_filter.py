"""FusionRS's strict filter of infrared-aware captions.

An infrared-style image is made from an RGB one, so its caption may say what is bright or dark, but
nothing physical: no temperature, emission, reflectivity or material, and no colour that only the
RGB image shows. A caption with one such word is rejected, whatever the word means there ("orange
grove", "hot spring"): the filter is strict on purpose. Cooling towers and thermal power stations,
which are classes of scenes, pass.

The five categories, and that they are case-insensitive patterns with word boundaries, are those of
the FusionRS release (48,616 -> 45,957 -> 45,913 captions by its second and third version; the last
step took out 34 "thermal signature", 9 colours and 1 temperature). Stems that are known from it:
heat, temperature, hot/cold/warm, thermal signature, emissiv-, radiance, reflectiv-, material,
metallic, conductiv-, colours from red to turquoise. The further inflections and both exceptions
are ours.
"""

import collections
import re
from collections.abc import Iterable

CATEGORIES = {
    "temperature": re.compile(
        # Neither a heath nor a cooling tower nor a thermal power station is a claim.
        r"\b(?:heat(?!h)\w*|temperatures?|hot(?:ter|test|spots?)?|cold(?:er|est|ness)?"
        r"|warm(?:er|est|th|ing|ly|s|ed)?|cool(?:er|est|ness)?"
        r"|cool(?:ing|ed|s)(?! towers?\b)|thermal(?:ly)?(?! power (?:station|plant)s?\b)"
        r"|degrees? (?:celsius|fahrenheit|kelvin)|celsius|fahrenheit|kelvins?)\b",
        re.IGNORECASE,
    ),
    "emissivity": re.compile(
        r"\b(?:emissiv\w*|emission\w*|emits?|emitted|emitting|emitters?|radian(?:ce|ces|t|tly)"
        r"|radiat\w*|radiometr\w*)\b",
        re.IGNORECASE,
    ),
    "reflectivity": re.compile(
        r"\b(?:reflectiv\w*|reflectan\w*|reflect(?:s|ed|ing|ions?|ors?)?|albedos?)\b",
        re.IGNORECASE,
    ),
    "material": re.compile(
        r"\b(?:materials?|metal(?:s|lic)?|conductiv\w*|conduct(?:s|ed|ing)|insulat\w*"
        r"|surface propert(?:y|ies))\b",
        re.IGNORECASE,
    ),
    # Black, white and grey are intensities: an infrared image has those.
    "colour": re.compile(
        r"\b(?:colou?r(?:s|ed|ful|ing)?|(?:red|green|blue|yellow|orange|purple|pink|brown)(?:s|ish)?"
        r"|reddish|violet|magenta|cyan|turquoise|teal|maroon|beige|tan|golden|olive|crimson"
        r"|scarlet|navy blue|khaki|lavender|indigo)\b",
        re.IGNORECASE,
    ),
}


def rejection(caption: str) -> tuple[str, str]:
    """Return the (category, word) for which a caption is rejected, ("", "") if it passes.

    Categories are tried in their order above; the word is the first one of that category.
    """
    for category, pattern in CATEGORIES.items():
        if match := pattern.search(caption):
            return category, match[0].lower()
    return "", ""


def filter_captions(captions: Iterable[str]) -> tuple[list[str], dict[str, int]]:
    """Return the captions that pass, and how many were rejected by category (all five listed)."""
    kept = []
    counts: collections.Counter[str] = collections.Counter()
    for caption in captions:
        category, _ = rejection(caption)
        if category:
            counts[category] += 1
        else:
            kept.append(caption)
    return kept, {category: counts[category] for category in CATEGORIES}
