"""Compile the training step for TPUs that are not there: does it fit, and what do they exchange?

    python -m rsclip_jax.aot --config=configs/lrsclip.py:B/16 --topology=v5e:4x4 \\
        --config.input.batch_size=4096 --config.model.remat=full

Needs the TPU compiler, libtpu in the version that JAX's extra "tpu" names, and no TPU. Prints the
memory of a device and the collectives of a step; with --fit also the greatest batch that fits.
"""

import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict

from rsclip_jax.main import define_config, parse_flags

# Before JAX is imported, in child processes as well. Without these libtpu asks the metadata server
# of a cloud machine, for minutes, and lets one process only compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
os.environ.update(ENVIRONMENT)

GIB = 2**30
# Of a device's memory, by `device_kind`: what the compiler says is available.
MEMORY = {"TPU v5 lite": 15.75 * GIB, "TPU v5": 95.74 * GIB, "TPU v6 lite": 31.25 * GIB}
PROGRAM = 0.3 * GIB  # kept free: finished programs reported 0.22 and 0.27 more than was allotted
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}


class Needs(NamedTuple):
    """What a step needs of each device, in bytes.

    Attributes:
      devices: how many there are.
      memory: of everything at once: state, batch and temporaries.
      available: of the device.
      collectives: kind -> (times in a step, bytes of their results); empty where the compiler gave
        up because the step does not fit.
    """

    devices: int
    memory: float
    available: float
    collectives: dict[str, tuple[int, int]]

    @property
    def fits(self) -> bool:
        return self.memory + PROGRAM <= self.available


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`, --topology and --fit."""
    define_config(values, argv)
    flags.DEFINE_string(
        "topology", None, "TPU generation and shape: v5e:4x4, v5p:4x4x4.", flag_values=values
    )
    flags.DEFINE_boolean("fit", False, "Find the greatest batch that fits.", flag_values=values)
    flags.mark_flags_as_required(["config", "topology"], flag_values=values)


def main(argv: list[str]) -> None:
    """Compile as the flags say, and print what it needs."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    config, topology = flags.FLAGS.config, flags.FLAGS.topology
    try:
        needs = report(config, topology)
        if flags.FLAGS.fit:
            fitting(config, topology, needs)
    except ValueError as error:
        sys.exit(f"aot: {error}")


def report(config: ConfigDict, topology: str) -> Needs:
    """Compile for a topology and print what the step needs."""
    start = time.perf_counter()
    needs = step_needs(config, topology)
    took = time.perf_counter() - start
    print(f"{config.model.variant} on {topology}, batch {config.input.batch_size:,}: "
          f"{needs.memory / GIB:.2f} of {needs.available / GIB:.2f} GiB of each device, "
          f"{'fits' if needs.fits else 'does not fit'} ({took:.0f} s)", flush=True)  # fmt: skip
    for kind, (count, size) in needs.collectives.items():
        print(f"  {kind}: {count:,} a step, {size / 2**20:,.1f} MiB")
    return needs


def fitting(config: ConfigDict, topology: str, needs: Needs) -> int:
    """Find and print the greatest batch that fits, to a sixteenth of itself.

    Args:
      needs: of the config's own batch.

    Raises:
      ValueError: not even one row on each device, and in each part, fits.
    """
    unit = needs.devices // config.mesh.tensor * config.grad_cache_steps
    tried = config.input.batch_size // unit
    fits, fails = (tried, 0) if needs.fits else (0, tried)
    while not fails or fails - fits > max(1, fits // 16):
        tried = 2 * fits if not fails else (fits + fails) // 2
        config.input.batch_size = tried * unit
        if report(config, topology).fits:
            fits = tried
        else:
            fails = tried
    if not fits:
        raise ValueError(
            f"not even a batch of {unit} fits: take a greater config.grad_cache_steps, "
            "config.model.remat='full', or a greater config.mesh.fsdp"
        )
    print(f"the greatest batch that fits is {fits * unit:,}")
    return fits * unit


def devices_of(topology: str) -> list[Any]:
    """Describe the devices of a TPU slice.

    Raises:
      ValueError: no TPU compiler here, or it knows no such topology.
    """
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        devices: list[Any] = list(described.devices)
    except Exception as error:  # JAX and libtpu raise many kinds
        raise ValueError(
            f"--topology={topology}: {str(error).strip().splitlines()[0]} (the compiler is "
            "libtpu, in the version that `pip install 'jax[tpu]'` takes; a shape is like v5e:4x4)"
        ) from error
    if devices[0].device_kind not in MEMORY:
        raise ValueError(
            f"--topology={topology}: the memory of a {devices[0].device_kind!r} is not known here, "
            f"only that of {', '.join(MEMORY)}"
        )
    return devices


def step_needs(config: ConfigDict, topology: str) -> Needs:
    """Compile the training step of a config for a topology, as far as memory is allotted.

    Generating machine code afterwards takes ten times as long and changes neither memory nor
    collectives: it is left out by ending the process that compiles.

    Raises:
      ValueError: a config that cannot be trained, or a topology that is not known.
    """
    with tempfile.TemporaryDirectory(prefix="rsclip_jax_aot_") as place:
        process = multiprocessing.get_context("spawn").Process(
            target=_compile, args=(config.to_dict(), topology, place), daemon=True
        )
        process.start()
        try:
            while process.is_alive() and not (written := _written(Path(place))):
                process.join(0.2)
            written = _written(Path(place))
        finally:
            process.kill()
            process.join()
        error = _read(Path(place) / "error")
        if not (devices := _read(Path(place) / "devices")):
            raise ValueError(error or f"the compiler died: {_read(Path(place) / 'stderr')}")
    kind, count = devices.split("\n")
    available = MEMORY[kind]
    if written:
        memory, hlo = written
        return Needs(int(count), memory, available, collectives(hlo))
    if needed := re.search(r"\(([\d.]+)([KMG])\) exceeds available", error):
        memory = float(needed[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[needed[2]]
        return Needs(int(count), memory, available, {})
    raise ValueError(error)


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _compile(fields: dict[str, Any], topology: str, place: str) -> None:
    """Compile the step in a process of its own; what it says, and fails with, lies in `place`."""
    with open(f"{place}/stderr", "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        devices = devices_of(topology)
        (Path(place) / "devices").write_text(f"{devices[0].device_kind}\n{len(devices)}")
        lowered = lower_step(ConfigDict(fields), devices)
        lowered.compile(compiler_options={"xla_dump_to": place, "xla_dump_hlo_as_text": True})
    except Exception as error:
        (Path(place) / "error").write_text(str(error))


def _written(place: Path) -> tuple[int, str] | None:
    """Read the memory and the program that the compiler has written, once they are whole."""
    found = list(place.glob("*jit_train_step*after_optimizations_after_buffer_assignment.txt"))
    if not found:
        return None
    hlo = found[0].read_text()
    if not hlo.rstrip().endswith("}"):
        return None
    (report,) = place.glob("*jit_train_step*after_optimizations-memory-usage-report.txt")
    # The first space of memory is the device's own; others are its caches.
    return int(re.findall(r"Total bytes: (\d+)", report.read_text())[0]), hlo


def lower_step(config: ConfigDict, devices: list[Any]) -> Any:
    """Trace the training step of a config for these devices (jax.stages.Lowered).

    Raises:
      ValueError: a config that cannot be trained.
    """
    from rsclip_jax import sharding
    from rsclip_jax.training import ahead
    from rsclip_jax.training.resolve import resolve

    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    return ahead.lower_step(resolve(config, Path.cwd()), mesh)


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Count the collectives of a compiled program, those in a loop as often as it turns.

    Args:
      hlo: text of an optimised program (`compiled.as_text()`).

    Returns:
      kind -> (times, bytes of the results: of what is gathered, reduced or received).
    """
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    found: dict[str, tuple[int, int]] = {}
    chains = set()
    for line, times in _run(bodies, entry, 1):
        kind = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        chain = re.search(r'chain_id="(\d+)"', line)
        if not kind or (chain and (kind[2], chain[1]) in chains):
            continue
        if chain:  # one that is hidden behind a chain of others is written with each of them
            chains.add((kind[2], chain[1]))
        shapes = _bytes(kind[1])
        # What is started returns its operand and its result.
        size = max(shapes) if kind[3] else sum(shapes)
        count, total = found.get(kind[2], (0, 0))
        found[kind[2]] = (count + times, total + times * size)
    return found


def _run(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[tuple[str, int]]:
    """Yield every line that is run, and how often."""
    for line in bodies.get(name, ()):
        yield line, times
        if loop := re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line):
            yield from _run(bodies, loop[2], times * _turns(bodies[loop[1]]))
        for called in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line):
            yield from _run(bodies, called, times)
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        branches = branches or re.search(r"true_computation=(.*?), false_computation=(\S+)", line)
        if branches:
            # The step's branch on bad gradients: the longer one is the usual one.
            names = re.findall(r"[\w.\-]+", ",".join(branches.groups()))
            yield from _run(bodies, max(names, key=lambda n: len(bodies.get(n, ()))), times)


def _turns(condition: list[str]) -> int:
    """Read how often a scan turns: its counter starts at 0 and is compared with a constant."""
    limits = [n for line in condition for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", line)]
    return int(limits[0]) if len(limits) == 1 else 1


def _bytes(shapes: str) -> list[int]:
    sizes = []
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        bits = BITS.get(kind) or int(re.sub(r"\D", "", kind) or 32)
        count = 1
        for n in filter(None, dims.split(",")):
            count *= int(n)
        sizes.append(count * bits // 8)
    return sizes


if __name__ == "__main__":
    define_flags(flags.FLAGS, sys.argv)
    app.run(main, flags_parser=partial(parse_flags, define=define_flags, command="aot"))
