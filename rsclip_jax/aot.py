"""Compile the training step for GPUs or TPUs that are not there: does it fit, what does it run?

    python -m rsclip_jax.aot --config=configs/lrsclip.py:B/16 --topology=h100:8 \\
        --config.input.batch_size=4096 --config.model.remat=full

Needs the compiler, and no device: for TPUs libtpu (JAX's extra "tpu"), for GPUs the CUDA packages
(`pip install -e ".[cuda]"`). Prints the memory of a device, the collectives of a step, its matrix
products and, of GPUs, its fused attention kernels; with --fit the greatest batch that fits.
"""

import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# Before JAX is imported, in child processes as well. Without these libtpu asks the metadata server
# of a cloud machine, for minutes, and lets one process only compile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
os.environ.update(ENVIRONMENT)

from absl import app, flags
from ml_collections import ConfigDict

from rsclip_jax import errors, hlo, topologies
from rsclip_jax.main import define_config, parse_flags
from rsclip_jax.overrides import count_by, given
from rsclip_jax.topologies import GIB

# Of a TPU kept free: finished programs reported 0.22 and 0.27 more than was allotted. A GPU's
# programs lie outside of the memory that counts here.
PROGRAM = 0.3 * GIB


class Needs(NamedTuple):
    """What a step needs of each device, in bytes.

    Attributes:
      devices: how many there are.
      memory: of everything at once: state, batch and temporaries.
      available: of the device, without what the trainer leaves free.
      collectives: kind -> (times in a step, bytes of their results); empty where the compiler gave
        up because the step does not fit, as are all that follow.
      beside: what the trainer keeps there beside the step: batches that wait, on TPUs the program.
      state: parameters and what the optimiser holds.
      batch: the device's part.
      told: how `available` follows from what the device has.
      attention: the fused kernels; of a GPU, as are the next two.
      products: FLOPs of matrix products and convolutions, without those of fused attention.
      convolutions: how many run.
      model_flops: what the model asks for: forward, and backward of what is trained.
      seconds: that compiling took.
    """

    devices: int
    memory: float
    available: float
    collectives: dict[str, tuple[int, int]]
    beside: float = PROGRAM
    state: float = 0
    batch: float = 0
    told: str = ""
    attention: hlo.Attention | None = None
    products: float = 0
    convolutions: int = 0
    model_flops: float = 0
    seconds: float = 0

    @property
    def fits(self) -> bool:
        return self.memory + self.beside <= self.available

    @property
    def temporary(self) -> float:
        return self.memory - self.state - self.batch


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Define --config, with the overrides of its fields in `argv`, --topology, --fit, --finish."""
    define_config(values, argv)
    flags.DEFINE_string(
        "topology",
        None,
        f"A GPU ({', '.join(topologies.CARDS)}) and how many: h100:8, h100:16 or 2x8 for two "
        "machines; or TPU generation and shape: v5e:4x4, v5p:4x4x4.",
        flag_values=values,
    )
    flags.DEFINE_boolean("fit", False, "Find the greatest batch that fits.", flag_values=values)
    flags.DEFINE_boolean(
        "finish",
        False,
        "Generate machine code as well: slower, and the numbers stay as they are.",
        flag_values=values,
    )
    flags.mark_flags_as_required(["config", "topology"], flag_values=values)


def main(argv: list[str]) -> None:
    """Compile as the flags say, and print what it needs."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    config, topology = flags.FLAGS.config, flags.FLAGS.topology
    with errors.one_line("aot"):
        from rsclip_jax.training.initial import with_architecture  # imports JAX

        told = given(flags.FLAGS)
        if line := count_by(config, told):
            print(line, flush=True)
        config = with_architecture(config, None, told)
        config, needs = settle(config, topology)
        if not needs or flags.FLAGS.finish:
            needs = report(config, topology, flags.FLAGS.finish)
        if flags.FLAGS.fit:
            fitting(config, topology, needs)


def settle(config: ConfigDict, topology: str) -> tuple[ConfigDict, Needs | None]:
    """Choose what a config leaves open as the trainer would (training/fit.py), and print it.

    Returns:
      (config, what its step needs); None where the config leaves nothing open.

    Raises:
      ValueError: nothing fits, a config that cannot be trained, or a topology that is not known.
    """
    from rsclip_jax import sharding
    from rsclip_jax.training import ahead, fit
    from rsclip_jax.training.resolve import resolve

    resolved = resolve(config, Path.cwd())
    if not ahead.is_open(resolved):
        return config, None
    machine = topologies.describe(topology)
    mesh = sharding.make_mesh(**config.mesh, devices=machine.devices)
    ahead.check_batch(resolved, mesh)
    setup = ahead.setup(resolved, mesh, resolved.total_steps or 1)
    state = sharding.bytes_per_device(setup.state, setup.shardings)
    shards = sharding.batch_shards(mesh)
    least = fit.least_memory(resolved, shards, mesh.shape["tensor"])
    found: dict[fit.Choice, Needs] = {}

    def needs(choice: fit.Choice) -> float:
        print(choice, end=": ", flush=True)
        found[choice] = report(fit.fixed(config, choice), topology)
        return found[choice].memory + found[choice].beside

    choice = fit.choose(
        fit.candidates(resolved, shards), needs, machine.available, lambda c: state + least(c)
    )
    print(f"{choice}: the fastest that fits")
    return fit.fixed(config, choice), found[choice]


def report(config: ConfigDict, topology: str, finish: bool = False) -> Needs:
    """Compile for a topology and print what the step needs."""
    needs = step_needs(config, topology, finish)
    fits = "fits" if needs.fits else "does not fit"
    print(f"{config.model.variant} on {topology}, batch {config.input.batch_size:,}: "
          f"{needs.memory / GIB:.2f} of {needs.available / GIB:.2f} GiB of each device, "
          f"{fits} ({needs.seconds:.0f} s)", flush=True)  # fmt: skip
    if config.input.get("pack_text"):
        print("  compiled as with config.input.pack_text=False: "
              "how many rows texts share depends on the data")  # fmt: skip
    if not needs.model_flops:  # the compiler gave up
        return needs
    print(f"  state {needs.state / GIB:.2f}, batch {needs.batch / GIB:.2f}, temporary "
          f"{needs.temporary / GIB:.2f} GiB; {needs.beside / GIB:.2f} more are kept free for what "
          f"lies beside the step; available: {needs.told}")  # fmt: skip
    for kind, (count, size) in needs.collectives.items():
        print(f"  {kind}: {count:,} a step, {size / 2**20:,.1f} MiB")
    if kernels := needs.attention:
        print(f"  fused attention (cuDNN): {kernels.forward or 'no'} kernels forward, "
              f"{kernels.backward or 'no'} backward")  # fmt: skip
        counts = (needs.products + kernels.flops, kernels.flops, needs.model_flops)
        products, fused, model = (f"{flops / 1e12:,.2f}" for flops in counts)
        print(f"  products: {products} TFLOP a device and step, {fused} of them in fused "
              f"attention; forward and backward pass of the model have {model}")  # fmt: skip
    if needs.convolutions:
        print(f"  {needs.convolutions:,} convolutions; cuDNN takes memory of its own for them, "
              "which is known on the card only")  # fmt: skip
    return needs


def fitting(config: ConfigDict, topology: str, needs: Needs) -> Needs:
    """Find and print the greatest batch that fits, to a sixteenth of itself.

    Memory grows nearly evenly with the batch, so that a few compilations are enough: each tries
    what the two before it promise.

    Args:
      config: its batch size is set to the one that is found.
      needs: of the config's own batch.

    Returns:
      What the greatest batch needs.

    Raises:
      ValueError: not even one row on each device, and in each part, fits.
    """
    unit = needs.devices // config.mesh.tensor * config.grad_cache_steps
    tried = config.input.batch_size // unit
    fits = fails = before = 0
    best, needed_before = needs, needs.state
    while True:
        if needs.fits:
            fits, best = tried, needs
        else:
            fails = tried
        needed = needs.memory + needs.beside
        each = max(1.0, (needed - needed_before) / (tried - before))
        limit = tried + (needs.available - needed) / each
        if fits >= 15 / 16 * limit or (fails and fails - fits <= max(1, fits // 16)):
            break
        before, needed_before = tried, needed
        tried = _round(int(0.99 * limit))
        tried = max(fits + 1, min(tried, fails - 1) if fails else tried)
        config.input.batch_size = tried * unit
        needs = report(config, topology)
    if not fits:
        raise ValueError(
            f"not even a batch of {unit} fits: take a greater config.grad_cache_steps, "
            "config.model.remat='full', or a greater config.mesh.fsdp"
        )
    config.input.batch_size = fits * unit
    print(f"the greatest batch that fits is {fits * unit:,}")
    return best


def _round(rows: int) -> int:
    """Round down, by a 32nd at most, to a multiple of a power of two."""
    return rows - rows % 2 ** max(0, (rows // 32).bit_length() - 1)


def step_needs(config: ConfigDict, topology: str, finish: bool = False) -> Needs:
    """Compile the training step of a config for a topology, as far as memory is allotted.

    Generating machine code afterwards takes two to ten times as long and changes neither memory nor
    what is run: unless `finish` it is left out by ending the process that compiles.

    Raises:
      ValueError: a config that cannot be trained, or a topology that is not known.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rsclip_jax_aot_") as place:
        process = multiprocessing.get_context("spawn").Process(
            target=_compile, args=(config.to_dict(), topology, place), daemon=True
        )
        process.start()
        try:
            while process.is_alive() and (finish or not _written(Path(place))):
                process.join(0.2)
            ended = process.exitcode  # None: it would generate code now
            written = _written(Path(place))
        finally:
            process.kill()
            process.join()
        error = _read(Path(place) / "error")
        if ended and not error:
            raise ValueError(f"the compiler died: {_read(Path(place) / 'stderr')}")
        facts = json.loads(_read(Path(place) / "facts") or "{}")
    if written and not error:
        return _needs(*written, seconds=time.perf_counter() - start, **facts)
    if needed := re.search(r"\(([\d.]+)([KMG])\) exceeds available", error):
        memory = float(needed[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[needed[2]]
        return Needs(facts["devices"], memory, facts["available"], {})
    raise ValueError(error)


def _needs(memory: int, program: str, gpu: bool, **facts: Any) -> Needs:
    """Join what the compiler has written and what was known before."""
    from rsclip_jax.training.memory import BATCHES_AHEAD

    arguments = hlo.argument_bytes(program)
    ahead = BATCHES_AHEAD * arguments["batch"]
    needs = Needs(
        memory=memory,
        collectives=hlo.collectives(program),
        beside=ahead + PROGRAM,
        state=arguments["state"],
        batch=arguments["batch"],
        **facts,
    )
    if not gpu:
        return needs
    return needs._replace(
        beside=ahead,
        attention=hlo.attention(program),
        products=hlo.product_flops(program),
        convolutions=hlo.convolutions(program),
    )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _compile(fields: dict[str, Any], topology: str, place: str) -> None:
    """Compile the step in a process of its own; what it says, and fails with, lies in `place`."""
    with open(f"{place}/stderr", "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        from rsclip_jax.training.fit import FREE
        from rsclip_jax.training.xla_options import compile_for

        machine = topologies.describe(topology)
        facts = {
            "devices": len(machine.devices),
            "available": (1 - FREE) * machine.available,
            "told": f"{1 - FREE:.0%} of {machine.told}",
            "gpu": machine.devices[0].platform == "gpu",
            "model_flops": model_flops(ConfigDict(fields)) / len(machine.devices),
        }
        (Path(place) / "facts").write_text(json.dumps(facts), encoding="utf-8")
        lowered = lower_step(ConfigDict(fields), machine.devices)
        compile_for(lowered, machine.devices, xla_dump_to=place, xla_dump_hlo_as_text=True)
    except Exception as error:
        (Path(place) / "error").write_text(str(error) or repr(error), encoding="utf-8")


def _written(place: Path) -> tuple[int, str] | None:
    """Read the memory and the program that the compiler has written, once they are whole."""
    # Those of TPUs and of GPUs; TPUs' without the second half of its name is not yet whole.
    endings = ("after_optimizations_after_buffer_assignment", "gpu_after_optimizations")
    found = [x for end in endings for x in place.glob(f"*jit_train_step*{end}.txt")]
    reports = list(place.glob("*jit_train_step*after_optimizations-memory-usage-report.txt"))
    if not found or not reports:
        return None
    program = found[0].read_text(encoding="utf-8")
    # The first space of memory is the device's own; others are its caches.
    sizes = re.findall(r"Total bytes: (\d+)", reports[0].read_text(encoding="utf-8"))
    if not sizes or not program.rstrip().endswith("}"):
        return None
    return int(sizes[0]), program


def model_flops(config: ConfigDict) -> float:
    """Return the FLOPs of a step, forward and backward, by the model's dimensions.

    Raises:
      ValueError: a config that cannot be trained.
    """
    from rsclip_jax.models.kinds import kind_of
    from rsclip_jax.training.resolve import resolve
    from rsclip_jax.training.tasks import TASKS

    config = resolve(config, Path.cwd())
    model = kind_of(config).build(config.model)
    return config.input.batch_size * TASKS[config.task].sample_flops(config, model)()


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


if __name__ == "__main__":
    define_flags(flags.FLAGS, sys.argv)
    app.run(main, flags_parser=partial(parse_flags, define=define_flags, command="aot"))
