"""Texts that share rows: where they stand, and that nothing but the work changes."""

import jax
import numpy as np
import pytest
from small_run import flat, losses, small_config

from rsclip_jax import sharding
from rsclip_jax.data.packing import Packing, pack, row_count
from rsclip_jax.models import clip
from rsclip_jax.training import loop
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.step import make_loss, text_rows

SETTINGS = {
    "dual text": {},
    "lora, in parts": {
        "model__peft__method": "lora",
        "init_from": "base",
        "grad_cache_steps": 2,
    },
}


def test_texts_lie_in_rows_and_never_on_each_other():
    rng = np.random.default_rng(0)
    for row_length in (16, 77, 248):
        lengths = rng.integers(1, row_length + 1, 300).tolist()
        starts = np.array(pack(lengths, row_length))
        ends = starts + lengths - 1
        np.testing.assert_array_equal(starts // row_length, ends // row_length)
        slots = np.concatenate([np.arange(s, e + 1) for s, e in zip(starts, ends, strict=True)])
        assert len(set(slots.tolist())) == sum(lengths)
        rows = set((starts // row_length).tolist())
        assert rows == set(range(len(rows)))
        # Of best-fit decreasing it is known that it needs at most 11/9 of the best, plus 1.
        assert len(rows) <= 11 / 9 * -(-sum(lengths) // row_length) + 1


def test_halves_and_thirds_fill_their_rows():
    assert sorted(pack([5, 10, 5, 10, 5, 5], 10)) == [0, 10, 20, 25, 30, 35]


def test_few_numbers_of_rows_none_an_eighth_too_many():
    counts = [row_count(need) for need in range(1, 1025)]
    assert all(need <= count <= need * 9 / 8 for need, count in enumerate(counts, 1))
    assert len(set(counts)) == 16 + 6 * 8 and counts[255] == 256


def made(scenes, tmp_path, size=32, **overrides):
    """A config, a model with random parameters and a batch of texts of random lengths."""
    config = resolve(small_config(scenes, input__pack_text=True, **overrides), tmp_path)
    model = clip.build(config.model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + rng.normal(0, 0.02, p.shape).astype(np.float32),
        clip.init_params(model, jax.random.key(0)),
    )
    batch = {"image": rng.integers(0, 256, (size, 32, 32, 3), np.uint8)}
    batch["record"] = np.arange(size, dtype=np.int32)
    for field, length in config.input.lengths.items():
        batch[field] = rng.integers(3, 400, (size, length)).astype(np.int32)
        for row in batch[field]:  # what follows is noise
            row[rng.integers(1, length)] = config.model.eot_id
        batch[field][5] = batch[field][3]
        batch[field][:, -1] = config.model.eot_id
    return config, model, params, batch


@pytest.mark.parametrize("setting", SETTINGS)
def test_loss_and_gradients_are_those_of_texts_in_rows_of_their_own(setting, scenes, tmp_path):
    config, model, params, batch = made(
        scenes, tmp_path, loss__mask_same_text=True, **SETTINGS[setting]
    )
    mesh = sharding.make_mesh(2, 4)
    fields, row_length = text_rows(config)
    assert (fields, row_length) == (("text", "text_long"), 32)
    parts = config.grad_cache_steps
    batch = Packing(fields, row_length, config.model.eot_id, mesh.size, parts)(batch)
    rows = batch["starts"].max() // row_length + 1
    assert rows < 32 / mesh.size / parts * len(fields)

    def grads(mesh, rows):
        placed = jax.device_put(batch, sharding.batch_sharding(mesh) if mesh else None)
        loss = make_loss(model, config, mesh, 10, int(rows))
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, placed, 0)

    (loss, metrics), packed = grads(mesh, rows)
    config.grad_cache_steps = 1
    (expected, expected_metrics), plain = grads(None, 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    scale = np.abs(flat(plain)).max()
    np.testing.assert_allclose(flat(packed) / scale, flat(plain) / scale, atol=1e-5)


def test_a_run_goes_the_same_way_with_shared_rows(scenes, tmp_path, capsys):
    short = {"total_steps": 3, "checkpoint__steps": 100, "input__batch_size": 32}
    for name, packed in (("plain", False), ("packed", True)):
        loop.train(small_config(scenes, input__pack_text=packed, **short), tmp_path / name)
    curves = [list(losses(tmp_path / name).values()) for name in ("plain", "packed")]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)
    assert "rows of texts" in capsys.readouterr().out


def test_what_cannot_share_rows_is_refused(scenes, tmp_path):
    unipelt = {"model__peft__method": "unipelt", "init_from": "base"}
    images = {"loss_pairs": (("img", "ir", 1.0),), "input__ir": True}
    for overrides, message in ((unipelt, "unipelt.*several texts"), (images, "no use.*has a text")):
        with pytest.raises(ValueError, match=f"config.input.pack_text=True.*{message}"):
            resolve(small_config(scenes, input__pack_text=True, **overrides), tmp_path)
