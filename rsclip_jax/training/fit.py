"""The fastest step that fits: what is stored, what is recomputed, and in how many parts.

`config.model.remat="auto"` and `config.grad_cache_steps=0` leave it to this module. It compiles
candidates, the fastest first, until one needs no more memory than the devices have. The choice is
kept in WORKDIR/fit.json: it changes how sums are rounded, and a run that is resumed must go on with
the same numbers.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax import sharding
from rsclip_jax.data.packing import pack, row_count
from rsclip_jax.distributed import gather
from rsclip_jax.models import clip
from rsclip_jax.models.blocks import REMAT_POLICIES
from rsclip_jax.training import ahead
from rsclip_jax.training.memory import device_memory, step_memory
from rsclip_jax.training.progress import log
from rsclip_jax.training.step import compared_fields, text_rows
from rsclip_jax.training.workdir import write_json

FIT_FILE = "fit.json"
GIB = 2**30
# Of the memory stays free: an allocator leaves holes between arrays, and a step's temporaries want
# one whole piece.
FREE = 0.05
# What each policy recomputes: its time as a share of the forward pass, reckoned.
RECOMPUTED = {"none": 0.0, "elementwise": 0.1, "dots": 0.3, "full": 1.0}
# What each keeps of a layer for the backward pass, at the least: numbers for each token and unit of
# width. By the formulas 16 (input 1, LayerNorms 2, queries, keys and values 3, attention 1, its
# projection 1, hidden units before and after their activation 8), 10, 9 and 1; the papers' configs,
# compiled for an H100, took 19, 11, 10 and 2. The bounds leave room for a thriftier compiler.
KEPT = {"none": 14.0, "elementwise": 9.0, "dots": 8.0, "full": 1.0}
# A part of so few rows a device takes twice its share of the time, reckoned.
SMALL_PART = 8
MEND = "take a greater config.mesh.fsdp, a smaller config.model.variant, or other devices"


class Choice(NamedTuple):
    """What can be chosen; the names are those of the config's fields."""

    remat: str
    grad_cache_steps: int

    def __str__(self) -> str:
        return f"config.model.remat={self.remat!r}, config.grad_cache_steps={self.grad_cache_steps}"


def candidates(config: ConfigDict, shards: int) -> list[Choice]:
    """Return what a resolved config leaves open, in order of speed.

    Parts compute the towers' forward pass twice, as `remat="full"` does, and are smaller besides:
    they come after every policy on the whole batch.

    Args:
      shards: parts that the devices split a batch into (`sharding.batch_shards`).
    """
    rows = config.input.batch_size // shards
    policies = list(REMAT_POLICIES) if config.model.remat == "auto" else [config.model.remat]
    parts = [config.grad_cache_steps] if config.grad_cache_steps else _divisors(rows)

    def seconds(choice: Choice) -> float:
        passes = 3 + RECOMPUTED[choice.remat] + (choice.grad_cache_steps > 1)
        return passes * (1 + SMALL_PART * choice.grad_cache_steps / rows)

    return sorted((Choice(policy, n) for n in parts for policy in policies), key=seconds)


def _divisors(rows: int) -> list[int]:
    """Return, for every power of two up to `rows`, the least divisor of `rows` from it on."""
    divisors = [n for n in range(1, rows + 1) if rows % n == 0]
    powers = (2**k for k in range(rows.bit_length()))
    return sorted({next(n for n in divisors if n >= power) for power in powers})


def fixed(config: ConfigDict, choice: Choice) -> ConfigDict:
    """Return a copy of the config in which nothing is left open."""
    config = config.copy_and_resolve_references().unlock()
    config.model.remat, config.grad_cache_steps = choice
    return config


def least_memory(config: ConfigDict, shards: int, tensor: int) -> Callable[[Choice], float]:
    """Return a function that tells the bytes of a device that activations take at the least.

    It knows the two towers of a model that is trained as a whole, and 0 of all else.

    Args:
      shards: parts that the devices split a batch into.
      tensor: devices that compute the same rows.
    """
    whole = all(factor is not None for _, factor in config.schedule)
    model, fields = clip.build(config.model), set(compared_fields(config).values())
    patches = (model.image_size // model.patch_size) ** 2
    images = len({"image", "ir"} & fields) * (patches + 1)
    # Texts that share rows are left out: how many rows depends on them.
    lengths = {} if config.input.pack_text else config.input.lengths.to_dict()
    texts = sum(n for field, n in lengths.items() if field in fields)
    towers = ((model.image, images), (model.text, texts))
    # Of the last layer one token is computed.
    numbers = sum((tower.depth - 1) * tower.width * tokens for tower, tokens in towers)
    size = 2 if config.model.dtype in ("bfloat16", "float16") else 4
    row = whole * numbers * size / tensor
    rows = config.input.batch_size // shards
    return lambda choice: KEPT[choice.remat] * row * rows / choice.grad_cache_steps


def choose(
    candidates: Sequence[Choice],
    needs: Callable[[Choice], float],
    available: float,
    least: Callable[[Choice], float] = lambda choice: 0.0,
) -> Choice:
    """Return the first candidate that fits.

    Those that cannot fit are not asked about: by `least`, or because of the same policy with fewer
    parts too much was needed. Half as many rows need half the memory, or more.

    Args:
      candidates: in order of preference, the one that needs least last.
      needs: bytes of each device that a candidate needs, by compiling it; infinite where the
        compiler refused it and did not say.
      available: bytes of each device; FREE of them are left alone.
      least: bytes below which `needs` is never.

    Raises:
      ValueError: none fits.
    """
    room = (1 - FREE) * available
    asked: list[tuple[Choice, float]] = []
    for choice in candidates:
        bounds = [
            need * other.grad_cache_steps / choice.grad_cache_steps
            for other, need in asked
            if other.remat == choice.remat and need < math.inf
        ]
        at_least = max(least(choice), *bounds, 0.0)
        if at_least > room:
            continue
        need = needs(choice)
        if need <= room:
            return choice
        asked.append((choice, need))
        at_least = need if need < math.inf else max(at_least, room)
    raise ValueError(
        f"the step does not fit: at {candidates[-1]} it needs {_gib(at_least)} or more of each "
        f"device, which has {_gib(available)} ({FREE:.0%} stays free): {MEND} "
        "(config.model.remat='auto' and config.grad_cache_steps=0 try all settings)"
    )


def check_state(config: ConfigDict, state_bytes: int) -> None:
    """Raise ValueError where not even the train state fits, of a config that leaves things open."""
    if ahead.is_open(config) and state_bytes > (1 - FREE) * (available := device_memory()):
        raise ValueError(
            f"the train state alone takes {_gib(state_bytes)} of each device, which has "
            f"{_gib(available)} ({FREE:.0%} stays free): {MEND}"
        )


def settle(
    config: ConfigDict, mesh: Mesh, workdir: Path, total_steps: int, state_bytes: int
) -> tuple[ConfigDict, jax.stages.Compiled | None]:
    """Return the config with nothing left open, and the step if it was compiled for that.

    What was chosen earlier in `workdir` is chosen again as long as it fits. All processes choose
    the same: they must call this together.

    Args:
      total_steps: of the run.
      state_bytes: that the train state takes of a device.

    Returns:
      (config, step); None for a step whose texts share rows: it was compiled for texts as long as
      they may be.

    Raises:
      ValueError: nothing that the config leaves open makes the step fit.
    """
    if not ahead.is_open(config):
        return config, None
    shards, available = sharding.batch_shards(mesh), device_memory()
    if available == math.inf:
        log("the devices do not tell how much memory they have: it is taken for enough")
    possible = candidates(config, shards)
    activations = least_memory(config, shards, mesh.shape["tensor"])
    batch = sum(x.size * x.dtype.itemsize for x in ahead.abstract_batch(config).values()) / shards
    found: dict[Choice, float] = {}
    compiled: jax.stages.Compiled | None = None  # the last one

    def needs(choice: Choice) -> float:
        nonlocal compiled
        if choice not in found:
            log(f"compiling the step with {choice}")
            compiled = _compile(fixed(config, choice), mesh, total_steps, state_bytes)
            own = step_memory(compiled, batch) if compiled else math.inf
            found[choice] = max(gather(own))
        return found[choice]

    earlier = _read(workdir / FIT_FILE)
    if earlier in possible and needs(earlier) <= (1 - FREE) * available:
        choice, why = earlier, f"chosen earlier; without {FIT_FILE} the choice would be made anew"
    else:
        choice = choose(possible, needs, available, lambda c: state_bytes + activations(c))
        why = "the fastest that fits"
        if earlier:
            log(
                f"{workdir / FIT_FILE} has {earlier}, which "
                + ("does not fit here" if earlier in possible else "the config does not allow")
                + ": the run goes on with another choice, and its numbers are rounded differently "
                "from now on"
            )
    need = found[choice]
    log(f"{choice}: {_gib(need)} of {_gib(available)} of each device, {why}")
    if jax.process_index() == 0:
        write_json(workdir / FIT_FILE, {**choice._asdict(), "bytes": need, "of": available})
    return fixed(config, choice), None if config.input.pack_text else compiled


def _read(path: Path) -> Choice | None:
    """Read the choice of an earlier start, as the first process sees it.

    Raises:
      ValueError: a file that this module has not written.
    """
    text = gather(path.read_text(encoding="utf-8") if path.exists() else "")[0]
    if not text:
        return None
    try:
        content = json.loads(text)
        return Choice(content["remat"], content["grad_cache_steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected {', '.join(map(repr, Choice._fields))} in JSON; delete it, and the "
            "choice is made anew"
        ) from error


def _compile(
    config: ConfigDict, mesh: Mesh, total_steps: int, state_bytes: int
) -> jax.stages.Compiled | None:
    """Compile a step; None where the compiler gives up because it does not fit."""
    rows = 0
    if config.input.pack_text:
        fields, row_length = text_rows(config)
        samples = config.input.batch_size // sharding.batch_shards(mesh) // config.grad_cache_steps
        lengths = [config.input.lengths[field] for field in fields] * samples
        rows = row_count(max(pack(lengths, row_length)) // row_length + 1)
    lowered = ahead.lower_step(config, mesh, total_steps, rows)
    try:
        return ahead.compile_lowered(lowered, mesh, state_bytes)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        log(f"the compiler says: {str(error).splitlines()[0]}")
        return None


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
