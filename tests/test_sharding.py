import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from rsclip_jax.sharding import make_mesh, state_shardings

pytestmark = pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((-1, 1), (8, 1)), ((-1, 4), (2, 4)), ((2, -1), (2, 4)), ((8, 1), (8, 1))],
)
def test_one_mesh_axis_may_take_the_rest(sizes, expected):
    assert tuple(make_mesh(*sizes).shape.values()) == expected


@pytest.mark.parametrize("sizes", [(3, 2), (-1, 3), (0, 8), (-1, -1)])
def test_meshes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(*sizes)


def test_fsdp_shards_the_longest_divisible_axis_but_never_the_layers():
    mesh = make_mesh(2, 4)
    tree = {
        "proj": jax.ShapeDtypeStruct((192, 256), jnp.float32),
        "odd": jax.ShapeDtypeStruct((1001, 64), jnp.float32),
        "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
        "blocks": {"kernel": jax.ShapeDtypeStruct((400, 64, 128), jnp.float32)},
    }
    specs = jax.tree.map(lambda s: s.spec, state_shardings(tree, mesh))
    assert specs["proj"] == PartitionSpec(None, "fsdp")
    assert specs["odd"] == PartitionSpec(None, "fsdp")
    assert specs["bias"] == PartitionSpec()
    assert specs["blocks"]["kernel"] == PartitionSpec(None, None, "fsdp")
