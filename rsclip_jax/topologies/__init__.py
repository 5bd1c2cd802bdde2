"""Devices that are not there: GPUs by the descriptors beside this file, TPU slices by libtpu."""

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

GIB = 2**30
# What the compiler says is available of a TPU, by `device_kind`.
TPU_MEMORY = {"TPU v5 lite": 15.75 * GIB, "TPU v5": 95.74 * GIB, "TPU v6 lite": 31.25 * GIB}
CARDS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.textproto"))}
NODE = 8  # GPUs of a machine


class Machine(NamedTuple):
    """Devices to compile for.

    Attributes:
      devices: jax.Device, which cannot run anything.
      available: bytes of each that a program can have.
      told: how `available` follows from what the device has.
    """

    devices: list[Any]
    available: float
    told: str


def describe(topology: str) -> Machine:
    """Return the devices of a topology.

    Args:
      topology: a card and how many: "h100:1"; "h100:16" are two machines of eight, "h100:4x2" four
        of two. Or a TPU slice: "v5e:4x4".

    Raises:
      ValueError: no such topology, or no compiler for it here.
    """
    card, _, shape = topology.partition(":")
    if card in CARDS:
        return _gpus(topology, card, shape)
    if re.match(r"v\d", card):
        return _tpus(topology)
    raise ValueError(
        f"--topology={topology}: {card!r} is not known; expected a GPU and a number, such as "
        f"h100:8 ({', '.join(CARDS)}), or a TPU slice, such as v5e:4x4"
    )


def node_shape(topology: str, shape: str) -> tuple[int, int]:
    """Read how many machines, and GPUs of each, stand after the colon of a topology.

    Raises:
      ValueError: neither a number nor two.
    """
    numbers = [int(n) for n in shape.split("x")] if re.fullmatch(r"\d+(x\d+)?", shape) else [0]
    if len(numbers) == 1:
        count = numbers[0]
        numbers = [1, count] if count <= NODE else [count // NODE, NODE if count % NODE == 0 else 0]
    if 0 in numbers:
        raise ValueError(
            f"--topology={topology}: expected after the colon 1 to {NODE} GPUs of one machine, a "
            f"multiple of {NODE}, or MACHINESxGPUS as in 4x2"
        )
    return numbers[0], numbers[1]


def _gpus(topology: str, card: str, shape: str) -> Machine:
    machines, each = node_shape(topology, shape)
    from jax.experimental import topologies

    from rsclip_jax.startup import MEMORY_FRACTION, MEMORY_VARIABLES

    text = CARDS[card].read_text(encoding="utf-8")
    try:
        major, minor = importlib.metadata.version("nvidia-cudnn-cu13").split(".")[:2]
        described = topologies.get_topology_desc(
            platform="cuda",
            topology_name=card,
            target_config=f"{text}dnn_version_info {{ major: {major} minor: {minor} }}",
            # Groups that NVLink joins, machines of a group, GPUs of a machine.
            topology=f"{machines}x1x{each}",
        )
    except (importlib.metadata.PackageNotFoundError, NotImplementedError) as error:
        raise ValueError(
            f"--topology={topology}: the CUDA packages are not installed, "
            'pip install -e ".[cuda]" (no GPU is needed)'
        ) from error
    memory = int(re.findall(r"^ *device_memory_size: (\d+)", text, re.MULTILINE)[0])
    # What training would have (rsclip_jax.startup).
    given = next((x for x in MEMORY_VARIABLES if x.endswith("FRACTION") and os.environ.get(x)), "")
    fraction = float(os.environ[given]) if given else MEMORY_FRACTION
    told = (
        f"the {fraction * memory / GIB:.2f} GiB that are {fraction:g} of a card's "
        f"{memory / GIB:.2f} ({given or MEMORY_VARIABLES[0]} changes it)"
    )
    return Machine(list(described.devices), fraction * memory, told)


def _tpus(topology: str) -> Machine:
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        devices: list[Any] = list(described.devices)
    except Exception as error:  # JAX and libtpu raise many kinds
        raise ValueError(
            f"--topology={topology}: {str(error).strip().splitlines()[0]} (the compiler is "
            "libtpu, in the version that `pip install 'jax[tpu]'` takes; a shape is like v5e:4x4)"
        ) from error
    kind = devices[0].device_kind
    if kind not in TPU_MEMORY:
        raise ValueError(
            f"--topology={topology}: the memory of a {kind!r} is not known here, only that of "
            f"{', '.join(TPU_MEMORY)}"
        )
    return Machine(devices, TPU_MEMORY[kind], f"the {TPU_MEMORY[kind] / GIB:.2f} GiB of libtpu")
