"""The device mesh, and where batches, parameters and their optimiser state lie on it."""

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")
AXES = (*BATCH_AXES, "tensor")  # the last one joins neighbours, which are the best connected
MIN_SHARDED_SIZE = 2**14  # smaller arrays are replicated: gathering them costs more than they weigh


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] = ()
) -> Mesh:
    """Arrange devices as a ("data", "fsdp", "tensor") mesh.

    Args:
      data: copies of the model, each with its part of the batch.
      fsdp: devices that share a copy: each has a part of the batch, and of every parameter.
      tensor: devices that compute the same rows, each with some of the heads and hidden units.
        One of the three may be -1, for the rest.
      devices: () for those of all processes.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or `tensor` crosses hosts.
    """
    devices = devices or jax.devices()
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    rest = [axis for axis, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(rest) == 1 and known > 0:
        sizes[rest[0]] = len(devices) // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"config.mesh data={data}, fsdp={fsdp}, tensor={tensor}: their product must be the "
            f"{len(devices)} devices at hand (-1 stands for the rest)"
        )
    if jax.process_count() > 1 and jax.local_device_count() % sizes["tensor"]:
        raise ValueError(
            f"config.mesh.tensor={tensor}: expected a divisor of the {jax.local_device_count()} "
            "devices of a process, since these read the same rows"
        )
    # Under the newer default, AxisType.Explicit, x @ y.T of two batch-sharded arrays raises.
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def batch_shards(mesh: Mesh) -> int:
    """Return the number of parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the leading axis into `batch_shards` parts."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, mesh: Mesh, rules: Sequence[tuple[str, tuple]]) -> Any:
    """Give every array of a train state its place; those of the optimiser lie as their parameters.

    A parameter lies as the first rule says that matches its whole name. One that none matches is
    split over `fsdp` along its longest axis that can be, unless it is small. The layer axis of
    stacked blocks stays whole, so that a scan gathers one layer at a time.

    Args:
      state: `params`, and anything that holds arrays under the names of parameters.
      rules: pairs (regular expression, mesh axis or None for each dimension), `config.sharding`;
        leading dimensions count from the layer axis on. A dimension that its axis does not divide
        stays whole.

    Raises:
      ValueError: a rule that matches no parameter or names no axis of the mesh.
    """
    names = {_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state["params"])}
    for pattern, axes in rules:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"config.sharding: {pattern!r} matches no parameter (regular expressions match "
                "whole names such as 'img/transformer/blocks/mlp/fc1/kernel')"
            )
        if unknown := sorted({a for a in axes if a} - set(mesh.shape)):
            raise ValueError(f"config.sharding: {pattern!r} names {unknown}, not of {AXES}")

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = _name(path)
        while name and name not in names:  # what the optimiser puts before the names
            name = name.partition("/")[2]
        first = int("blocks" in name.split("/"))
        axes = next((axes for pattern, axes in rules if re.fullmatch(pattern, name)), None)
        if axes is None:
            axes = _longest(leaf.shape[first:], mesh.shape["fsdp"])
        fitting = [
            axis if axis and length % mesh.shape[axis] == 0 else None
            for axis, length in zip(axes, leaf.shape[first:], strict=False)
        ]
        return NamedSharding(mesh, PartitionSpec(*[None] * first, *fitting))

    return jax.tree_util.tree_map_with_path(place, state)


def _name(path: tuple) -> str:
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def _longest(shape: tuple[int, ...], size: int) -> tuple[str | None, ...]:
    axes = [axis for axis, length in enumerate(shape) if length % size == 0]
    if not axes or math.prod(shape) < MIN_SHARDED_SIZE:
        return ()
    longest = max(axes, key=lambda axis: shape[axis])
    return (None,) * longest + ("fsdp",)


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Tell the models that are called inside which mesh `spread` is about."""
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def spread(x: jax.Array, *axes: str | None) -> jax.Array:
    """Hold activations [B, ...] to their places on the mesh: rows on the batch axes.

    Left to itself the compiler may prefer to exchange rows, where gathering a layer's parameters is
    what `fsdp` means.

    Args:
      axes: of the dimensions after the first. A dimension that its axis does not divide stays
        whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    sizes = mesh.shape | {BATCH_AXES: mesh.shape["data"] * mesh.shape["fsdp"]}
    spec = [
        axis if axis and length % sizes[axis] == 0 else None
        for axis, length in zip((BATCH_AXES, *axes), x.shape, strict=False)
    ]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def tensor_parallel() -> bool:
    """Tell whether the mesh in use spreads heads and hidden units over devices."""
    return jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """Return what the arrays of a tree take of each device, lying as `shardings` say."""

    def size(leaf: Any, sharding: NamedSharding) -> int:
        return leaf.dtype.itemsize * math.prod(sharding.shard_shape(leaf.shape))

    return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))
