"""What the settings beside weights may hold: one table, looked at before they are used."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_OBJECTS = """model_cfg preprocess_cfg vision_cfg text_cfg norm_kwargs vision_config text_config
    vision_config_dict text_config_dict"""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_three(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(fits, value))


_SCALE = "on the scale from 0 to 1"
# Names of settings, wherever in a file they stand; what is expected, in words and as a test.
_OPTIONAL: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (  # null: not given
    (_OBJECTS, "an object of settings", lambda v: isinstance(v, dict)),
    ("hf_tokenizer_name", "a string", lambda v: isinstance(v, str)),
    ("mean image_mean", f"three numbers {_SCALE}", lambda v: _are_three(v, _is_share)),
    (
        "std image_std",
        f"three numbers {_SCALE}, above 0",
        lambda v: _are_three(v, lambda x: _is_share(x) and x > 0),
    ),
)
_WHOLE = "heads head_width width num_attention_heads"
_NEEDED: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (_WHOLE, "a whole number above 0", lambda v: type(v) is int and v > 0),
    ("eps layer_norm_eps rescale_factor", "a number above 0", _is_positive),
    ("eos_id", "a token id", lambda v: type(v) is int),
)


def check(path: Path, settings: Mapping[str, Any], where: str = "") -> None:
    """Refuse settings that hold what they cannot, those of inner objects included.

    Args:
      path: of the file, for the message.
      settings: its content.
      where: the objects around them, each with a dot behind it.

    Raises:
      ValueError: names the file, the setting, what it holds and what is expected.
    """
    for name, value in settings.items():
        for names, expected, fits in _NEEDED if value is None else _OPTIONAL + _NEEDED:
            if name in names.split() and not fits(value):
                raise ValueError(f"{path}: {where}{name} is {value!r:.80}; expected {expected}")
        if isinstance(value, dict):
            check(path, value, f"{where}{name}.")
