"""A batch embedded in parts: the gradients of the whole, the memory of a part."""

import jax
import numpy as np
import pytest
from small_run import flat, small_config

from rsclip_jax import sharding
from rsclip_jax.models import clip
from rsclip_jax.training import loop
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.step import make_loss

TRIMODAL = (("img", "txt", 1.0), ("ir", "txt_ir", 1.0), ("img", "ir", 1.0))
INFRARED = {"input__ir": True, "input__ir_text_source": "caption", "loss_pairs": TRIMODAL}
SETTINGS = {
    "dual text, sigmoid": {"loss__kind": "sigmoid", "model__logit_bias": True},
    "trimodal, lora": {**INFRARED, "model__peft__method": "lora", "init_from": "base"},
}


def made(scenes, tmp_path, size=64, **overrides):
    config = resolve(small_config(scenes, input__batch_size=size, **overrides), tmp_path)
    model = clip.build(config.model)
    rng = np.random.default_rng(0)
    shape = (size, 32, 32, 3)
    batch = {name: rng.integers(0, 256, shape, np.uint8) for name in ("image", "ir")}
    batch["ir_mask"] = rng.random(size) < 0.7
    batch["record"] = np.arange(size)
    for field, length in config.input.lengths.items():
        batch[field] = rng.integers(3, 400, (size, length)).astype(np.int32)
        batch[field][:, -1] = config.model.eot_id
    return config, model, batch


def compiled(config, model, batch, parts, mesh=None):
    config.grad_cache_steps = parts
    loss_fn = make_loss(model, config, mesh, 10)
    params = clip.init_params(model, jax.random.key(0))
    grad = jax.jit(jax.value_and_grad(loss_fn, has_aux=True)).lower(params, batch, 0).compile()
    return params, grad


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_of_parts_on_eight_devices_are_those_of_the_whole_on_one(
    setting, scenes, tmp_path
):
    config, model, batch = made(scenes, tmp_path, 32, **SETTINGS[setting])
    params, whole = compiled(config, model, batch, 1)
    (loss, metrics), grads = whole(params, batch, 0)
    mesh = sharding.make_mesh()
    placed = jax.device_put(batch, sharding.batch_sharding(mesh))
    _, in_parts = compiled(config, model, placed, 4, mesh)
    (loss_parts, metrics_parts), grads_parts = in_parts(params, placed, 0)
    np.testing.assert_allclose(loss_parts, loss, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_parts[name], value, rtol=1e-5, err_msg=name)
    scale = np.abs(flat(grads)).max()
    np.testing.assert_allclose(flat(grads_parts) / scale, flat(grads) / scale, atol=1e-5)


def test_activations_of_one_part_are_in_memory(scenes, tmp_path):
    config, model, batch = made(scenes, tmp_path, 128)
    needs = {
        parts: compiled(config, model, batch, parts)[1].memory_analysis().temp_size_in_bytes
        for parts in (1, 8)
    }
    assert needs[8] < needs[1] / 4


def test_parts_must_divide_what_each_device_has(scenes, tmp_path):
    config = small_config(scenes, grad_cache_steps=3)
    with pytest.raises(ValueError, match=r"multiple of 8, .*grad_cache_steps=3"):
        loop.train(config, tmp_path)
    with pytest.raises(ValueError, match="grad_cache_steps=-1: expected a whole number, 0 to"):
        resolve(small_config(scenes, grad_cache_steps=-1), tmp_path)
