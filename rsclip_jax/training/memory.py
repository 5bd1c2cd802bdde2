"""How much memory the devices have, and how much of it a compiled step needs."""

import math
import os
import socket
from pathlib import Path

import jax

from rsclip_jax.distributed import gather

# Of a machine whose CPU is the device. The rest is for the process itself: libraries, images on
# their way, copies of the state that are being restored or written.
CPU_SHARE = 0.75
# Batches on a device beside that of the step: two wait, one is being brought (DevicePrefetch).
BATCHES_AHEAD = 3


def device_memory() -> float:
    """Return the bytes that a step may use of each device, the least of all processes' devices.

    A GPU or TPU tells its own `bytes_limit`. CPU devices share CPU_SHARE of what their machine
    has, or the container. Infinite where a device does not tell. All processes must call this.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        limits = [(d.memory_stats() or {}).get("bytes_limit", math.inf) for d in devices]
        return min(gather(min(limits)))
    told = gather([socket.gethostname(), CPU_SHARE * host_memory(), len(devices)])
    return min(
        memory / sum(count for other, _, count in told if other == host) for host, memory, _ in told
    )


def host_memory(
    membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return the bytes of memory of this machine, or the least limit of a cgroup of this process.

    Args:
      membership: the groups that the process is in; there is none but on Linux.
      groups: where they are mounted.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:  # version 2
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")  # a container may see the root alone, with its own limit
        for group in (own, *own.parents):
            file = group / name
            if group.is_relative_to(root) and file.exists():
                text = file.read_text(encoding="utf-8").strip()
                limits += [] if text == "max" else [int(text)]
    return min(limits)


def step_memory(compiled: jax.stages.Compiled, batch_bytes: float) -> float:
    """Return the bytes that training takes of each device; 0 where the compiler does not tell.

    Args:
      compiled: the step, whose state is donated to it.
      batch_bytes: a device's part of a batch.
    """
    memory = compiled.memory_analysis()
    if not memory:
        return 0.0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        + BATCHES_AHEAD * batch_bytes
    )
