"""Every shipped config against its text in tests/data/configs, so that a changed default shows.

After a change that is meant: `python tests/test_configs.py` writes the texts anew.
"""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

TEXTS = Path(__file__).parent / "data" / "configs"
CONFIGS = ["lrsclip:B/16", "lrsclip:L/14", "lrsclip:B/16,longclip", "lrsclip:B/16,longclip_first",
           "lrsclip:rsicd", "lrsclip:demo", "fusionrs:", "fusionrs:50k,grayscale,L/14",
           "fusionrs:mixed", "fusionrs:demo", "unified:", "unified:full,L/14",
           "unified:demo,lora"]  # fmt: skip


def get(name: str) -> ConfigDict:
    module, _, arg = name.partition(":")
    return importlib.import_module(f"configs.{module}").get_config(arg)


def path_of(name: str) -> Path:
    return TEXTS / (name.replace("/", "").replace(":", "-").replace(",", "-") + ".txt")


def text_of(config: ConfigDict, prefix: str = "") -> str:
    lines = []
    for key in sorted(config):
        value = config[key]
        if isinstance(value, ConfigDict):
            lines.append(text_of(value, f"{prefix}{key}."))
        else:
            lines.append(f"{prefix}{key} = {value!r}\n")
    return "".join(lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_are_as_reviewed(name):
    assert text_of(get(name)) == path_of(name).read_text()


def test_long_clip_presets_follow_its_two_releases():
    current, first = get("lrsclip:B/16,longclip"), get("lrsclip:B/16,longclip_first")
    assert current.loss_pairs == (("img", "txt_long", 1.0), ("img", "txt", 1.0))
    assert first.loss_pairs == (("img", "txt_long", 1.0), ("img", "txt", 0.1))
    assert current.loss.label_smoothing == 0.1 and current.loss.pcm_dim == 32


def test_an_unknown_argument_names_the_known_ones():
    with pytest.raises(ValueError, match="B/16, L/14, rsicd, demo"):
        get("lrsclip:B/8")
    with pytest.raises(ValueError, match="longclip_first"):
        get("lrsclip:B/16,longclips")


if __name__ == "__main__":
    TEXTS.mkdir(exist_ok=True)
    for name in CONFIGS:
        path_of(name).write_text(text_of(get(name)))
