"""Texts that cannot be stored or read as they came: half characters, control characters.

Surrogates are the halves of characters beyond U+FFFF in UTF-16. A caption cut between two of them
(`"\\ud83d"` in JSON) holds a lone one, which UTF-8 cannot hold.
"""

import re
from collections.abc import Sequence

from rsclip_jax.data.text import without_surrogates

# White space among them is left: tokenizers take it for a space.
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]+")

HALF = "captions had half a character: U+FFFD is in its place"
CONTROL = "captions had control characters: a space is in their place"
NAME = "ids, labels or sources were not Unicode: \\xNN or \\uNNNN is in its place"


def mend_captions(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the captions as they can be stored, and what was mended, one item for each mended."""
    mended, remarks = [], []
    for text in texts:
        whole = without_surrogates(text)
        if whole.count("\ufffd") > text.count("\ufffd"):
            remarks.append(HALF)
        if _CONTROL.search(whole):
            remarks.append(CONTROL)
            whole = _CONTROL.sub(" ", whole).strip()
        if whole:
            mended.append(whole)
    return mended, remarks


def mend_name(text: str) -> tuple[str, list[str]]:
    """Return an id or label as it can be stored, and what was mended.

    What is not Unicode is written as an escape, so that different names stay different: file names
    of other encodings hold such bytes.
    """
    mended = text.encode(errors="backslashreplace").decode()
    return mended, [NAME] if mended != text else []
