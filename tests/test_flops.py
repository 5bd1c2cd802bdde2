import re

import jax
import numpy as np
import pytest
from test_clip import CONFIG

from rsclip_jax import hlo
from rsclip_jax.models import clip, peft
from rsclip_jax.training.flops import device_peak, forward_flops, step_flops
from rsclip_jax.training.optim import param_names

LENGTHS = {"text": 12, "text_long": 20}


@pytest.mark.parametrize(
    ("variant", "lengths", "ir", "gflop"),
    # Forward GFLOP per sample, counted by hand in the project's performance notes.
    [("B/32", [77], False, 14.8), ("B/16", [77], False, 41.1), ("B/16", [248], False, 55.4),
     ("B/16", [77, 248], False, 61.3), ("B/16", [248], True, 90.5), ("L/14", [77], False, 175.3),
     ("L/14", [248, 77], False, 219.7), ("H/14", [77], False, 381.7)],
)  # fmt: skip
def test_forward_flops(variant, lengths, ir, gflop):
    model = clip.build({**CONFIG, "variant": variant, "context_length": 248, "vocab_size": 49408})
    texts = {str(n): n for n in lengths}
    flops = forward_flops(model, {**texts, "other": 7}, {"image", *texts, *["ir"] * ir})
    # There all tokens pass through the last layer; here queries, attention and MLP of one do.
    runs = [(model.image, (model.image_size // model.patch_size) ** 2 + 1)] * (1 + ir)
    runs += [(model.text, n) for n in lengths]
    for tower, n in runs:
        flops += (n - 1) * (20 * tower.width**2 + 4 * n * tower.width)
    assert flops / 1e9 == pytest.approx(gflop, rel=0.005)


def test_flops_of_shared_rows_are_those_of_their_tokens():
    # Counted by hand: 2 texts, 3 rows of 10 tokens, width 64, 2 layers. A token of the first layer
    # costs 12 * 64**2 multiply-adds and 2 * 10 * 64 for attention; of the last, 3 * 64**2 and as
    # many for attention; a text that is read 9 * 64**2.
    products = 30 * (12 * 64**2 + 20 * 64) + 30 * (3 * 64**2 + 20 * 64) + 2 * 9 * 64**2
    model = clip.build(CONFIG)
    lengths = {"text": 5, "text_long": 10}
    flops = [forward_flops(model, lengths, {"image", *texts}, 3 * bool(texts))
             for texts in ((), lengths)]  # fmt: skip
    assert flops[1] - flops[0] == 2 * products


LORA = {"method": "lora", "rank": 1, "alpha": 1.0, "targets": "attn/(query|key|value)|mlp/.*"}
LORA |= {"reduction": 16, "hidden": 8, "folded": False}


@pytest.mark.parametrize(
    ("trained", "settings"),
    [
        (".*", {}),
        ("txt/.*", {}),  # locked images (LiT): a forward pass of theirs, and no more
        ("img/.*", {}),
        (".*/(proj|ln_post/.*|ln_final/.*)|t", {}),
        ("img/transformer/blocks/(attn/.*|mlp/fc2/.*)", {}),
        (".*/pos_embedding", {}),  # the gradient goes all the way down
        (peft.ADDED, {"peft": LORA}),
        (".*", {"ir_tower": "separate"}),
        ("ir/.*", {"ir_tower": "lora", "peft": {**LORA, "method": ""}}),
    ],
)
def test_the_flops_of_a_step_are_the_compilers(trained, settings):
    """Of every product in the program that XLA makes of loss and gradient."""
    model = clip.build({**CONFIG, "scan": True, "context_length": 20, **settings})
    params = clip.init_params(model, jax.random.key(0))
    names = param_names(params)
    moving = {name for name in jax.tree.leaves(names) if re.fullmatch(trained, name)}
    batch, side = 4, model.image_size
    inputs = {"image": np.zeros((batch, side, side, 3), np.uint8)}
    if "ir_tower" in settings:
        inputs["ir"] = inputs["image"] + np.uint8(1)
    for field, length in LENGTHS.items():
        inputs[field] = np.full((batch, length), model.eot_id, np.int32)

    def loss(params):
        held = jax.tree.map(
            lambda p, name: p if name in moving else jax.lax.stop_gradient(p), params, names
        )
        out = model.apply({"params": held}, **inputs)
        return sum(out[z].sum() for z in out if z.startswith("z")) * out["t"]

    program = jax.jit(jax.value_and_grad(loss)).lower(params).compile().as_text()
    flops = batch * step_flops(model, LENGTHS, set(inputs), moving)
    assert flops == pytest.approx(hlo.product_flops(program), rel=0.005)


def test_an_unknown_device_is_measured():
    peak, source = device_peak()
    assert peak > 1e8 and "measured" in source
