import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import flat, small_config

from rsclip_jax import sharding
from rsclip_jax.data import train_sentencepiece
from rsclip_jax.models import clip
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import adapt_params, from_plain, make_state, to_plain
from rsclip_jax.training.step import average_decay, make_loss, make_train_step


@pytest.fixture(scope="module")
def parts(scenes, tmp_path_factory):
    config = resolve(small_config(scenes, ema_decay=0.9), tmp_path_factory.mktemp("x"))
    model = clip.build(config.model)
    params = clip.init_params(model, jax.random.key(0))
    tx = make_optimizer(config, params, 10)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 32, 32, 3), np.uint8)}
    batch["record"] = np.arange(16)
    for field, length in config.input.lengths.items():
        batch[field] = rng.integers(3, 400, (16, length)).astype(np.int32)
        batch[field][:, -1] = config.model.eot_id
    return config, model, params, tx, batch


def test_loss_and_gradients_on_a_ring_of_eight_devices_equal_one(parts):
    config, model, params, _, batch = parts
    mesh = sharding.make_mesh()
    placed = jax.device_put(batch, sharding.batch_sharding(mesh))
    one = jax.value_and_grad(make_loss(model, config, None, 10), has_aux=True)
    config = config.copy_and_resolve_references()
    config.loss.impl, config.loss.chunk = "ring", 1
    eight = jax.value_and_grad(make_loss(model, config, mesh, 10), has_aux=True)
    (loss_1, _), grads_1 = jax.jit(one)(params, batch, 0)
    (loss_8, _), grads_8 = jax.jit(eight)(params, placed, 0)
    np.testing.assert_allclose(loss_8, loss_1, rtol=1e-5)
    scale = np.abs(flat(grads_1)).max()
    np.testing.assert_allclose(flat(grads_8) / scale, flat(grads_1) / scale, atol=1e-5)


def test_a_bad_batch_leaves_all_but_the_counters(parts):
    config, model, params, tx, batch = parts
    step = jax.jit(make_train_step(make_loss(model, config, None, 10), tx, config, 10))
    good, metrics = step(make_state(params, tx, ema=True), batch)
    assert int(metrics["bad_steps"]) == 0
    image = batch["image"].astype(np.float32)
    image[3, 0, 0, 0] = np.nan
    bad, metrics = step(good, {**batch, "image": image})
    assert int(bad["step"]) == 2 and int(bad["bad_steps"]) == int(metrics["bad_steps"]) == 1
    for part in ("params", "opt_state", "ema"):
        np.testing.assert_array_equal(flat(bad[part]), flat(good[part]))
    again, _ = step(bad, batch)
    assert int(again["bad_steps"]) == 0 and int(again["bad_steps_total"]) == 1
    assert np.any(flat(again["params"]) != flat(bad["params"]))


def test_the_temperature_is_clamped(parts):
    config, model, params, tx, batch = parts
    hot = {**params, "t": jnp.float32(np.log(200.0))}
    state, metrics = jax.jit(make_train_step(make_loss(model, config, None, 10), tx, config, 10))(
        make_state(hot, tx, ema=True), batch
    )
    assert float(metrics["scale"]) == pytest.approx(200, rel=1e-5)
    assert float(jnp.exp(state["params"]["t"])) <= 100 * (1 + 1e-6)


def test_the_average_forgets_the_initial_weights():
    for decay in (0.99, 0.9999):
        decays = np.asarray(average_decay(decay, np.arange(100_000)))
        np.testing.assert_allclose(decays[[0, 1, 80]], [0.1, 2 / 11, 0.9], rtol=1e-6)
        assert np.all(np.diff(decays) >= 0) and decays[-1] == np.float32(decay)
        # The share of the initial weights; at a constant 0.99 it would be .97, and .37 at 100.
        assert np.prod(decays[:2]) > 0.01 > np.prod(decays[:3])


def test_the_average_follows_its_formula(parts):
    config, model, params, tx, batch = parts
    state, _ = jax.jit(make_train_step(make_loss(model, config, None, 10), tx, config, 10))(
        make_state(params, tx, ema=True), batch
    )
    # The first update leaves a tenth, not 0.9, of the initial weights.
    expected = 0.1 * flat(params).astype(np.float64) + 0.9 * flat(state["params"])
    np.testing.assert_allclose(flat(state["ema"]), expected, atol=1e-6)
    still = flat(state["params"]) == flat(params)  # a layer norm's kind that has not moved, say
    np.testing.assert_array_equal(flat(state["ema"])[still], flat(params)[still])


def test_states_become_plain_dicts_and_back(parts):
    _, _, params, tx, _ = parts
    state = make_state(params, tx, ema=True)
    plain = to_plain(state)
    assert type(plain["opt_state"]) is dict
    back = from_plain(plain, state)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    np.testing.assert_array_equal(flat(back), flat(state))


def test_parameters_of_another_model_are_refused_by_name(parts):
    _, model, params, _, _ = parts
    wrong = {**params, "txt": {**params["txt"], "proj": jnp.zeros((64, 32))}}
    del wrong["t"]
    with pytest.raises(ValueError) as error:
        adapt_params(model, wrong, "kps", 20, 4.0)
    assert "txt/proj: this model has (64, 64), the checkpoint (64, 32)" in str(error.value)
    assert "  t: this model has (), the checkpoint none" in str(error.value)


@pytest.mark.parametrize("stretch", ["kps", "interpolate"])
def test_positions_of_another_size_are_fitted(parts, stretch):
    config, model, params, _, _ = parts
    smaller = clip.build({**config.model, "image_size": 16, "context_length": 77})
    old = clip.init_params(smaller, jax.random.key(1))
    new = adapt_params(model, old, stretch, 20, 4.0)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params)
    kept = np.array_equal(new["txt"]["pos_embedding"][:20], old["txt"]["pos_embedding"][:20])
    assert kept == (stretch == "kps")


def test_a_sentencepiece_vocabulary_sizes_the_model(tmp_path):
    words = ["ship", "harbour", "white", "road", "field", "green", "river", "bridge"]
    captions = [f"a {a} near the {b}" for a in words for b in words]
    (tmp_path / "own.model").write_bytes(train_sentencepiece.train(captions, 60, "bpe"))
    config = small_config("unused", tokenizer=f"sentencepiece:{tmp_path / 'own.model'}")
    resolved = resolve(config, tmp_path)
    assert (resolved.model.vocab_size, resolved.model.eot_id) == (60, 2)
