import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small_run import flat, small_config

from configs import defaults
from rsclip_jax import sharding
from rsclip_jax.models import clip
from rsclip_jax.sharding import make_mesh, state_shardings
from rsclip_jax.training.ahead import jitted
from rsclip_jax.training.optim import make_optimizer
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import make_state
from rsclip_jax.training.step import make_loss, make_train_step

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices")
RULES = defaults.get_config().sharding


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((-1, 1), (8, 1, 1)),
        ((-1, 4), (2, 4, 1)),
        ((2, -1), (2, 4, 1)),
        ((1, 4, -1), (1, 4, 2)),
        ((-1, 2, 2), (2, 2, 2)),
    ],
)
def test_one_mesh_axis_may_take_the_rest(sizes, expected):
    assert tuple(make_mesh(*sizes).shape.values()) == expected


@pytest.mark.parametrize("sizes", [(3, 2), (-1, 3), (0, 8), (-1, -1), (2, 2, 3), (8, 1, 0)])
def test_meshes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(*sizes)


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_rules_decide_first_then_the_longest_axis_but_never_the_layers():
    params = {
        "proj": array(192, 256),
        "odd": array(1001, 64),
        "scale": array(256),
        "blocks": {
            "query": {"kernel": array(400, 64, 96), "bias": array(400, 96)},
            "out": {"kernel": array(400, 96, 64)},
            "ln": array(400, 64),
            "fc1": {"kernel": array(400, 66, 30)},
        },
    }
    state = {"step": array(), "params": params, "opt_state": ({"x": {"mu": params}}, array())}
    specs = jax.tree.map(lambda s: s.spec, state_shardings(state, make_mesh(2, 2, 2), RULES))
    P = PartitionSpec
    expected = {
        "proj": P(None, "fsdp"),
        "odd": P(None, "fsdp"),
        "scale": P(),
        "blocks": {
            "query": {"kernel": P(None, "fsdp", "tensor"), "bias": P(None, "tensor")},
            "out": {"kernel": P(None, "tensor", "fsdp")},
            "ln": P(None),
            "fc1": {"kernel": P(None, "fsdp", "tensor")},
        },
    }
    assert specs["params"] == specs["opt_state"][0]["x"]["mu"] == expected
    assert specs["step"] == P()
    whole = jax.tree.map(lambda s: s.spec, state_shardings(state, make_mesh(1, 4, 2), RULES))
    assert whole["params"]["blocks"]["fc1"]["kernel"] == P(None, None, "tensor")  # 66 = 4 * 16 + 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [((".*/krenel", ("fsdp",)), "krenel.*no parameter"), ((".*", ("model",)), "model.*tensor")],
)
def test_rules_that_cannot_be_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        state_shardings({"params": {"a": {"kernel": array(8, 8)}}}, make_mesh(), (rule,))


@pytest.fixture(scope="module")
def parts(scenes, tmp_path_factory):
    """Return a config of kernels large enough to be split, a batch, and two steps on one device."""
    config = small_config(scenes)
    config.model.variant = "custom"
    config.model.sizes = (16, 128, 5, 4, 128, 4, 4, 128, 32, "gelu")
    config = resolve(config, tmp_path_factory.mktemp("x"))
    config.loss.impl, config.model.scan = "ring", True
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (16, 32, 32, 3), np.uint8)}
    batch["record"] = np.arange(16, dtype=np.int32)
    for field, length in config.input.lengths.items():
        batch[field] = rng.integers(3, 400, (16, length)).astype(np.int32)
        batch[field][:, -1] = config.model.eot_id
    return config, batch, two_steps(config, batch, make_mesh(devices=jax.devices()[:1]))


def two_steps(config, batch, mesh):
    model = clip.build(config.model)
    params = clip.init_params(model, jax.random.key(0))
    tx = make_optimizer(config, params, 10)
    state = make_state(params, tx, ema=False)
    places = state_shardings(state, mesh, config.sharding)
    loss_fn = make_loss(model, config, mesh, 10)
    step = jitted(make_train_step(loss_fn, tx, config, 10), places, mesh)
    state = jax.device_put(state, places)
    compiled = step.lower(state, batch).compile()
    held = sharding.bytes_per_device(state, places)
    first = jax.devices()[0]
    local = [s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards
             if s.device == first]  # fmt: skip
    assert held == sum(local)
    rows = sum(x.nbytes for x in batch.values()) // sharding.batch_shards(mesh)
    assert compiled.memory_analysis().argument_size_in_bytes == pytest.approx(held + rows, rel=0.01)
    placed = jax.device_put(batch, sharding.batch_sharding(mesh))
    for _ in range(2):
        state, metrics = compiled(state, placed)
    return flat(state["params"]), float(metrics["training_loss"]), compiled


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_every_mesh_trains_to_the_same_parameters(parts, sizes):
    config, batch, (params, loss, _) = parts
    found, found_loss, _ = two_steps(config, batch, make_mesh(*sizes))
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(found, params, atol=1e-5 * np.abs(params).max())


def test_fsdp_gathers_one_layer_at_a_time(parts):
    config, batch, (_, _, alone) = parts
    compiled = two_steps(config, batch, make_mesh(1, 8))[2]
    gathered = re.findall(r"= \(?f32\[([\d,]+)\]\S* all-gather", compiled.as_text())
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in gathered]
    # The largest kernels, fc1 and fc2, have 4 * 128 * 128 numbers; the vocabulary is smaller.
    assert 4 * 128 * 128 in sizes and max(sizes) == 4 * 128 * 128
    held = [x.memory_analysis().argument_size_in_bytes for x in (compiled, alone)]
    assert held[0] < 1.3 * held[1] / 8
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < alone.memory_analysis().temp_size_in_bytes / 2
