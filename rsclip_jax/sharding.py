"""The device mesh, and where batches and parameters lie on it."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**14  # smaller arrays are replicated: gathering them costs more than they weigh


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange all devices as a ("data", "fsdp") mesh; one of the sizes may be -1, for the rest.

    With `devices` it is these, and not those of all processes.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    count = len(devices or jax.devices())
    sizes = {"data": data, "fsdp": fsdp}
    for axis, other in (("data", "fsdp"), ("fsdp", "data")):
        if sizes[axis] == -1 and sizes[other] > 0:
            sizes[axis] = count // sizes[other]
    if min(sizes.values()) < 1 or sizes["data"] * sizes["fsdp"] != count:
        raise ValueError(
            f"config.mesh data={data}, fsdp={fsdp}: their product must be the {count} devices "
            "at hand (-1 stands for the rest)"
        )
    # Under the newer default, AxisType.Explicit, x @ y.T of two batch-sharded arrays raises.
    return jax.make_mesh(
        (sizes["data"], sizes["fsdp"]),
        BATCH_AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the leading axis over every device."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """Give every array of a train state its place: the longest axis that `fsdp` divides.

    Small arrays are replicated. The layer axis of stacked blocks stays whole, so that a scan
    gathers one layer at a time.
    """
    fsdp = mesh.shape["fsdp"]

    def place(path, leaf) -> NamedSharding:
        stacked = any(getattr(key, "key", None) == "blocks" for key in path)
        axes = [a for a in range(int(stacked), leaf.ndim) if leaf.shape[a] % fsdp == 0]
        if fsdp == 1 or leaf.size < MIN_SHARDED_SIZE or not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda a: leaf.shape[a])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree_util.tree_map_with_path(place, tree)
