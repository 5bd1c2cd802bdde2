import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rsclip_jax.training.optim import decay_mask, learning_rate, make_optimizer, rate_factors

PARAMS = {
    "img": {"proj": jnp.ones((3, 2)), "ln": {"scale": jnp.ones(3)}},
    "txt": {"pos_embedding": jnp.arange(12.0).reshape(6, 2) + 1, "proj": jnp.ones((2, 2))},
    "t": jnp.float32(2.0),
}


def config(**fields):
    return ConfigDict(
        dict(lr=0.1, warmup_steps=0, wd=0.5, wd_mask=(".*",), b1=0.9, b2=0.999, eps=1e-8,
             grad_clip_norm=0.0, schedule=((".*", 1.0),), frozen_positions=0) | fields
    )  # fmt: skip


def random_grads(seed):
    rng = np.random.default_rng(seed)
    return {
        "img": {
            "proj": jnp.array(rng.normal(size=(3, 2)), jnp.float32),
            "ln": {"scale": jnp.array(rng.normal(size=3), jnp.float32)},
        },
        "txt": {
            "pos_embedding": jnp.array(rng.normal(size=(6, 2)), jnp.float32),
            "proj": jnp.array(rng.normal(size=(2, 2)), jnp.float32),
        },
        "t": jnp.float32(rng.normal()),
    }


def run(steps=3, **fields):
    tx = make_optimizer(config(**fields), PARAMS, total_steps=10**6)
    params, state = PARAMS, tx.init(PARAMS)
    for step in range(steps):
        updates, state = tx.update(random_grads(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def adamw_by_hand(value, grads, decay, lr=0.1, b1=0.9, b2=0.999, eps=1e-8):
    value, m, v = np.asarray(value, np.float64), 0.0, 0.0
    for i, g in enumerate(np.asarray(grads, np.float64), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps)
        value = value - lr * (step + decay * value)
    return value


def test_updates_are_torchs_adamw():
    params, _ = run(wd_mask=("img/.*",))
    grads = [random_grads(step) for step in range(3)]
    np.testing.assert_allclose(
        params["img"]["proj"],
        adamw_by_hand(np.ones((3, 2)), [g["img"]["proj"] for g in grads], 0.5),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        params["t"], adamw_by_hand(2.0, [g["t"] for g in grads], 0.0), rtol=1e-5
    )


def test_warm_up_then_cosine_as_long_clip_does():
    schedule = learning_rate(1e-6, warmup_steps=200, total_steps=1200)
    assert float(schedule(0)) == pytest.approx(1e-6 / 200)
    assert float(schedule(199)) == pytest.approx(1e-6)
    assert float(schedule(200)) == pytest.approx(1e-6)
    assert float(schedule(700)) == pytest.approx(0.5e-6)
    assert float(schedule(1200)) == pytest.approx(0, abs=1e-12)


def test_frozen_positions_keep_their_bits_in_spite_of_weight_decay():
    params, _ = run(frozen_positions=4)
    old, new = PARAMS["txt"]["pos_embedding"], params["txt"]["pos_embedding"]
    np.testing.assert_array_equal(new[:4], old[:4])
    assert np.all(new[4:] != old[4:])


def test_frozen_parameters_stay_and_have_no_optimiser_state():
    params, state = run(schedule=(("img/.*", None), (".*", 1.0)), frozen_positions=2)
    np.testing.assert_array_equal(params["img"]["proj"], PARAMS["img"]["proj"])
    assert np.all(params["txt"]["proj"] != PARAMS["txt"]["proj"])
    shapes = [x.shape for x in optax.tree.get(state, "mu")["txt"].values()]
    assert shapes == [(6, 2), (2, 2)]
    assert isinstance(optax.tree.get(state, "mu")["img"]["proj"], optax.MaskedNode)


def test_a_frozen_text_tower_allows_frozen_positions():
    params, _ = run(schedule=(("txt/.*", None), (".*", 1.0)), frozen_positions=2)
    np.testing.assert_array_equal(params["txt"]["pos_embedding"], PARAMS["txt"]["pos_embedding"])


def test_schedule_factors_scale_the_whole_update():
    half, _ = run(steps=1, schedule=(("img/.*", 0.5), (".*", 1.0)))
    full, _ = run(steps=1)
    np.testing.assert_allclose(half["img"]["proj"] - 1, 0.5 * (full["img"]["proj"] - 1), rtol=1e-5)
    np.testing.assert_array_equal(half["txt"]["proj"], full["txt"]["proj"])


def test_gradients_are_clipped_to_the_global_norm():
    tx = make_optimizer(config(grad_clip_norm=1e-3, b1=0.0), PARAMS, 10)
    _, state = tx.update(random_grads(0), tx.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(optax.tree.get(state, "mu"))) == pytest.approx(1e-3, rel=1e-4)


def test_decay_mask_matches_whole_names():
    mask = decay_mask(PARAMS, (".*proj", "txt/pos.*"))
    assert mask["img"] == {"proj": True, "ln": {"scale": False}}
    assert mask["txt"] == {"pos_embedding": True, "proj": True} and not mask["t"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [((("img/.*", None),), "no pattern matches parameter"),
     ((("image/.*", None), (".*", 1.0)), "decide no parameter")],
)  # fmt: skip
def test_schedules_that_miss_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        rate_factors(PARAMS, schedule)
