"""Every shipped config against its text in tests/data/configs, so that a changed default shows.

After a change that is meant: `PYTHONPATH=. python tests/test_configs.py` writes the texts anew.
"""

import importlib
import itertools
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from configs import georsclip
from rsclip_jax.models import clip, peft
from rsclip_jax.training.optim import decay_mask, describe_params, make_optimizer, param_names
from rsclip_jax.training.resolve import resolve

TEXTS = Path(__file__).parent / "data" / "configs"
CONFIGS = ["lrsclip:B/16", "lrsclip:L/14", "lrsclip:B/16,longclip", "lrsclip:B/16,longclip_first",
           "lrsclip:rsicd", "lrsclip:demo", "georsclip:", "georsclip:lora,L/14,rs5m",
           "georsclip:freeze_text", "georsclip:ret2", "georsclip:demo", "fusionrs:",
           "fusionrs:50k,grayscale,L/14", "fusionrs:mixed", "fusionrs:demo", "unified:",
           "unified:full,L/14", "unified:demo,lora", "translator:",
           "translator:bridge", "translator:demo", "build.rs5m:",
           "build.rs5m:public", "build.lrs2m:", "build.lrs2m:public", "build.fusionrs:",
           "build.fusionrs:pairs"]  # fmt: skip


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


TRAINED = {  # of B/32
    "full": 151_277_313,
    "lora": 491_520,
    "pfeiffer": 1_294_272,
    "prefix": 16_454_144,
    "unipelt": 18_275_872,
    "freeze_image": 151_277_313 - 87_849_216,
    "freeze_text": 87_849_216 + 1,
}
# What decays of a CLIP: matrices and the tables of tokens and positions, below img and txt.
BLOCK = {"attn/query", "attn/key", "attn/value", "attn/out", "mlp/fc1", "mlp/fc2"}
PLAIN = {f"{tower}/{name}" for tower in ("img", "txt") for name in ("proj", "pos_embedding")}
PLAIN |= {"img/embedding/kernel", "txt/token_embedding"}
PLAIN |= {f"{t}/transformer/blocks/{n}/kernel" for t in ("img", "txt") for n in BLOCK}
LORA = {f"blocks/attn/lora_{name}/{part}" for name in ("query", "value") for part in "ab"}
ADAPTER = {"blocks/adapter/down/kernel", "blocks/adapter/up/kernel"}
PREFIX = {"prefix/embedding", "prefix/fc1/kernel", "prefix/fc2/kernel"}
GATES = {"blocks/attn/lora_query/gate/kernel", "blocks/attn/lora_value/gate/kernel",
         "blocks/attn/gate_prefix/kernel", "blocks/adapter/gate/kernel"}  # fmt: skip
DECAYING = {"full": set(), "lora": LORA, "pfeiffer": ADAPTER, "prefix": PREFIX,
            "unipelt": LORA | ADAPTER | PREFIX | GATES}  # fmt: skip


def settled(name, tmp_path):
    config = get(name)
    config.init_from = "base"
    return resolve(config, tmp_path)


def parameters(config):
    model = clip.build(config.model)
    return jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))


@pytest.mark.parametrize("word", list(TRAINED))
def test_georsclip_trains_as_many_parameters_as_it_says(word, tmp_path):
    config = settled(f"georsclip:{word}", tmp_path)
    told = describe_params(config, parameters(config))
    still = told.endswith("; the temperature is frozen (config.schedule)")
    assert f" parameters, {TRAINED[word]:,} trained" in told
    assert still == (word in peft.METHODS)


@pytest.mark.parametrize("method", list(DECAYING))
def test_georsclip_decays_matrices_and_tables_of_positions(method, tmp_path):
    config = settled(f"georsclip:{method}", tmp_path)
    params = parameters(config)
    names, decays = param_names(params), decay_mask(params, config.wd_mask)
    found = {n for n, d in zip(*map(jax.tree.leaves, (names, decays)), strict=True) if d}
    added = {f"{tower}/transformer/{name}" for tower in ("img", "txt") for name in DECAYING[method]}
    assert found == PLAIN | added


def test_georsclips_words_come_in_any_order_and_combination(tmp_path):
    for words in itertools.product(*georsclip.WORDS.values()):
        method, size, statistics, frozen, stage = words
        arg = ",".join(word for word in reversed(words) if word)
        if stage == "demo":
            with pytest.raises(ValueError, match="leave out"):
                georsclip.get_config(arg)
            arg = arg.replace(f",{size}", "")
        if frozen and method != "full":
            with pytest.raises(ValueError, match=f"leave out '{frozen}'"):
                georsclip.get_config(arg)
            continue
        config = georsclip.get_config(arg)
        assert config.model.variant == ("tiny" if stage == "demo" else size)
        assert config.model.peft.method == ("" if method == "full" else method)
        assert (config.model.mean, config.model.std) == georsclip.STATISTICS[statistics]
        assert (config.schedule[0][1] is None) == bool(frozen)
        assert config.input.batch_size == {"": 700, "ret2": 600, "demo": 128}[stage]
    assert text_of(get("georsclip:clip,B/32,full")) == text_of(get("georsclip:"))
    for arg in ("lora,L/14,rs5m", "rs5m,ret2,H/14,freeze_image", "demo,prefix,rs3"):
        config = settled(f"georsclip:{arg}", tmp_path)
        make_optimizer(config, parameters(config), total_steps=10)


@pytest.mark.parametrize("arg", ["lora,prefix", "L/14,L/14", "rs4", "LoRA", "ret2,demo"])
def test_georsclip_names_its_words_when_it_is_given_others(arg):
    with pytest.raises(ValueError, match=r"full or lora .*B/32.*pub11.*freeze_image.*ret2 or demo"):
        get(f"georsclip:{arg}")


@pytest.mark.parametrize("word", ["lora", "freeze_text", "demo,pfeiffer"])
def test_georsclip_does_not_train_beside_a_random_base(word, tmp_path):
    with pytest.raises(ValueError, match=r"stay random: name a trained model, --config\.init_from"):
        resolve(get(f"georsclip:{word}"), tmp_path)
    resolve(get("georsclip:demo"), tmp_path)


if __name__ == "__main__":
    TEXTS.mkdir(exist_ok=True)
    for name in CONFIGS:
        path_of(name).write_text(text_of(get(name)))
