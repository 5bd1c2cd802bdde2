"""What each field of a config may hold."""

import math
import re

import pytest
from ml_collections import ConfigDict
from small_run import small_config

from configs import defaults, translator
from rsclip_jax.training import fields
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.workdir import flat

SECTIONS = (
    "evals.",
    "input.data.",
    "input.lengths.",
    "export.",
    "mesh.",
)  # their names are the user's


@pytest.mark.parametrize("file", [defaults, translator])
def test_every_field_of_the_shipped_configs_is_in_the_table(file):
    config = file.get_config()
    known, _ = fields.TASKS[config.task]
    shipped = {name for name in flat(config) if not name.startswith(SECTIONS)}
    assert shipped - known.keys() <= {"task", "loss.l1", "loss.adversarial"}
    fields.check(config)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("checkpoint.keep", (0, -1)),
        ("seed", (-1, 2**32)),
        ("lr", (-1e-3, math.nan, math.inf, 5.0)),
        ("total_steps", (-1, 2**31)),
        ("eps", (0.0, math.nan)),
        ("b2", (1.0, -0.1)),
        ("ema_decay", (1.0, -0.5)),
        ("warmup_steps", (-1,)),
        ("frozen_positions", (-1,)),
        ("grad_cache_steps", (-1,)),
        ("model.image_size", (-32,)),
        ("model.dtype", ("fp16",)),
        ("model.remat", ("most",)),
        ("model.mean", ((123, 116, 103), (0.5, 0.5), (-0.1, 0.5, 0.5), 0.5)),
        ("model.std", ((0.0, 1.0, 1.0), (1.0, 1.0), (58.4, 57.1, 57.4))),
        ("model.init_scale", (0.0, 0.07)),
        ("model.ir_wavelength", (-1.0, 850.0)),
        ("model.sizes", ((1, 2), (8, 96, 3, 5, 64, 2, 2, 64, 64))),
        ("model.peft.targets", ("(",)),
        ("wd_mask", (("(",), (3,))),
        ("schedule", ((("(", 1.0),), ("img",), ((".*", -1.0),), ((".*", "x"),))),
        (
            "sharding",
            (
                (("(", ("fsdp",)),),
                ((".*", "fsdp"),),
                ((".*", ("fdsp",)),),
                ((".*", (["data"], None)),),
            ),
        ),
        ("input.crop", ((1,), ("a", "b"), (0.9, 0.2))),
        ("input.data", ({"scenes": 0.0}, {"scenes": "x"})),
        ("input.lengths", ({"text": "x"},)),
        ("mesh", ({"data": -2}, {"data": 0}, {"model": 1})),
        ("export", ({"scenes": "val"},)),
    ],
)
def test_values_outside_a_fields_range_are_refused_by_name(name, values):
    *sections, key = name.split(".")
    for value in values:
        config = defaults.get_config().unlock()
        node = config
        for section in sections:
            node = node[section]
        del node[key]
        node[key] = ConfigDict(value) if isinstance(value, dict) else value
        with pytest.raises(ValueError, match=rf"^config\.{re.escape(name)}=.*: expected ") as error:
            fields.check(config)
        assert repr(value) in str(error.value) and "\n" not in str(error.value)


UNUSUAL = {
    "lr": 0.05,
    "wd": 5.0,
    "b1": 0.999,
    "b2": 0.02,
    "eps": 0.1,
    "ema_decay": 1e-4,
    "loss.label_smoothing": 0.9,
    "loss.max_scale": 4.6052,
    "model.init_scale": 2.6592,
    "model.layer_norm_eps": 0.1,
    "model.noise": 25.0,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_value_in_another_unit_is_told(name):
    config = (translator if name == "model.noise" else defaults).get_config()
    assert not list(fields.unusual(config))
    config.update_from_flattened_dict({name: UNUSUAL[name]})
    fields.check(config)  # it can be meant
    (line,) = fields.unusual(config)
    assert line.startswith(f"config.{name}={UNUSUAL[name]} is unusual: expected a number")


def test_a_translator_that_lacks_its_weights_is_refused(tmp_path):
    config = translator.get_config("bridge,demo")
    config.model.variant = "pix2pix"
    with pytest.raises(ValueError, match=r"config\.loss\.l1 and .*translator\.py:pix2pix"):
        resolve(config, tmp_path)


def test_options_of_the_loss_that_do_not_go_together_are_told_before_any_model(scenes, tmp_path):
    wrong = {"loss__kind": "sigmoid", "model__logit_bias": True, "loss__label_smoothing": 0.1}
    with pytest.raises(ValueError, match=r"label_smoothing .* belong to the softmax loss"):
        resolve(small_config(scenes, **wrong), tmp_path)
    alone = {"loss_pairs": (("img", "txt_long", 1.0),), "loss__pcm_dim": 3}
    with pytest.raises(ValueError, match="pcm_dim = 3 acts on"):
        resolve(small_config(scenes, **alone), tmp_path)
