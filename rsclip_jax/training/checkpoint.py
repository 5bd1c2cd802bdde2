"""Checkpoints of a run: Orbax, asynchronous, verified when read.

A step holds the items `params`, `ema` (where kept), `train` (optimiser state, counters) and `meta`,
whose checksums tell a whole step from one that was damaged after it was written. Of `params` and
`ema` it holds what is not left to the base that the run started from (`training/base.py`).
"""

import itertools
import logging
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from rsclip_jax import atomic, weights
from rsclip_jax.models.kinds import kind_of
from rsclip_jax.sharding import replicated
from rsclip_jax.training.base import Base, checksum, joined, named, without
from rsclip_jax.training.fields import check_stored
from rsclip_jax.training.progress import log
from rsclip_jax.training.state import State, from_plain, to_plain
from rsclip_jax.training.workdir import CONFIG_FILE, is_workdir, load_config, save_config

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what is meant
# Of a full disk it logs the traceback of each of its threads, and then raises the error as well.
logging.getLogger("absl").addFilter(
    lambda record: not (record.exc_info and atomic.of_full_disk(record.exc_info[1]))
)

# By default every replica saves a slice of each array, and compiles a program to cut it out: ten
# seconds before the first checkpoint, for nothing where one process holds all replicas.
ocp.type_handlers.register_type_handler(
    jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False), override=True
)


class Checkpoints:
    """The checkpoints under WORKDIR/checkpoints.

    Args:
      workdir: directory of the run.
      config: `config.checkpoint`: steps, minutes, keep, best.

    Attributes:
      base: what is left to the base of the run; `restore` reads it, a new run sets it.
    """

    def __init__(self, workdir: Path, config: Any):
        saves: list = []
        if config.steps:
            saves.append(policies.FixedIntervalPolicy(config.steps))
        if config.minutes:
            seconds = round(60 * config.minutes)
            saves.append(policies.ContinuousCheckpointingPolicy(minimum_interval_secs=seconds))
        self.base: Base | None = None
        self._directory = workdir.absolute() / "checkpoints"
        self._best = _Best(config.best)
        self._manager = _Manager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.AnySavePolicy(saves),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(config.keep), self._best]
                ),
                cleanup_tmp_directories=True,
            ),
        )

    def due(self, step: int) -> bool:
        """Tell whether this step is to be saved, by steps or by time."""
        return self._manager.should_save(step)

    def scored(self, step: int, scores: Mapping[str, float | None]) -> None:
        """Take what the evaluation of a step has found: the next `save` keeps the best step."""
        self._best.add(step, scores)

    def keep_unscored(self, steps: Collection[int]) -> None:
        """Keep those of these steps that are there: one may be the best, and its score is lost."""
        there = sorted(set(self._manager.all_steps()) & set(steps))
        if self._best.metric and there:
            log(
                f"steps {', '.join(map(str, there))} are kept: metrics.jsonl has no "
                f"{self._best.metric} of them, and one may be the best"
            )
            self._best.unscored.update(there)

    def save(self, step: int, state: State) -> None:
        """Save a step; the copy off the device is made before this returns, writing goes on behind.

        Then the steps are removed that are neither among the newest nor the best.
        """
        items = _items(state)
        meta: dict[str, Any] = {"step": step}
        if self.base:
            meta["base"] = self.base._asdict()
            items = _without_base(items, self.base)
        meta["checksums"] = {k: checksum(v) for k, v in items.items()}
        args = ocp.args.Composite(
            meta=ocp.args.JsonSave(meta),
            **{name: ocp.args.StandardSave(item) for name, item in items.items()},
        )
        with atomic.writing(self._directory):
            self._manager.wait_until_finished()  # of the step before this one
            # On a full disk TensorStore's threads print hundreds of lines.
            atomic.check_space(self._directory, sum(x.nbytes for x in jax.tree.leaves(items)))
            self._manager.save(step, args=args, force=True)

    def restore(self, like: State, shardings: Any, init_from: str = "") -> State | None:
        """Restore the newest whole step into the structure and shardings given, or return None.

        Damaged steps are reported, renamed to `N.damaged` and passed over.

        Args:
          init_from: where the base is that the checkpoints may be without.

        Raises:
          ValueError: there are steps, but none that can be read; or the base is not there.
        """
        abstract = _items(
            jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
            )
        )
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                items, base = _read(self._manager, step, abstract)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                log(f"passing over checkpoint {step}: {_first_line(error)}")
                damaged.append(step)
                continue
            if base:
                places = named(shardings["params"])
                mesh = next(iter(places.values())).mesh
                leaves = _read_base(base, init_from, self._directory.parent, mesh)
                leaves = {k: jax.device_put(v, places[k]) for k, v in leaves.items()}
                items = _with_base(items, leaves)
            self.base = base
            self._put_aside(damaged)
            train = items.pop("train")
            return from_plain({**train, **items}, like)
        unreadable = [s for s in damaged if any((self._directory / str(s)).iterdir())]
        if unreadable:
            raise ValueError(
                f"none of the checkpoints {sorted(unreadable)} in {self._directory} can be read "
                "(see above); move them away to start anew"
            )
        self._put_aside(damaged)
        return None

    def _put_aside(self, steps: list[int]) -> None:
        for step in steps:
            names = (f"{step}.damaged{i or ''}" for i in itertools.count())
            free = next(name for name in names if not (self._directory / name).exists())
            os.replace(self._directory / str(step), self._directory / free)
        if steps:
            self._manager.reload()

    def close(self) -> None:
        """Wait for the writing to end."""
        with atomic.writing(self._directory):
            self._manager.wait_until_finished()
            self._manager.close()


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # JAX counts the questions, and `preemption.StopSignal` asks them: Orbax's own, numbered by
        # steps and partly asked from a thread, would put the processes out of step.
        return False


class _Best:
    """A preservation policy: keep the step of the greatest score, of equals the newest."""

    def __init__(self, metric: str):
        self.metric = metric
        self.unscored: set[int] = set()  # kept as well
        self._scores: dict[int, float] = {}

    def add(self, step: int, scores: Mapping[str, float | None]) -> None:
        score = scores.get(self.metric)
        if score is not None and math.isfinite(score):
            self._scores[step] = score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        there = [info.step for info in checkpoints if info.step in self._scores]
        best = max(there, key=lambda step: (self._scores[step], step), default=None)
        return [info.step == best or info.step in self.unscored for info in checkpoints]


def load_for_inference(
    path: str | os.PathLike,
    step: int | None = None,
    mesh: Mesh | None = None,
    activation: str | None = None,
    clip_for: str = "",
) -> tuple[ConfigDict, Any, int]:
    """Load a model's config and parameters: of a run, the average (EMA) where it keeps one.

    Args:
      path: the --workdir of a run, a converted model, or weights of another codebase
        (`rsclip_jax.weights`).
      step: which checkpoint of a run; None for the newest whole one.
      mesh: replicate the parameters over it; None for the first device.
      activation: for weights of another codebase, see `rsclip_jax.weights.read`.
      clip_for: what works with CLIP models alone, for the message to those who give another.

    Returns:
      (config, params, step); step 0 for weights of another codebase.

    Raises:
      FileNotFoundError, ImportError, ValueError: nothing there that can be read, or a run without
        the base that it started from, or one of another task than `clip_for` works with.
    """
    workdir = Path(path).absolute()
    sharding = replicated(mesh) if mesh else SingleDeviceSharding(jax.devices()[0])
    if not is_workdir(workdir):
        if step is not None:
            raise ValueError(f"{workdir} is no workdir of rsclip_jax.main: it has no steps")
        config, params = weights.read(workdir, activation)
        log(f"{workdir.name}: {weights.describe(config)} (which no tensor tells)")
        return config, jax.device_put(params, sharding), 0
    config = load_config(workdir / CONFIG_FILE)
    try:
        check_stored(config)
        models = kind_of(config)
        model = models.build(config.model)
    except ValueError as error:
        raise ValueError(f"{workdir / CONFIG_FILE}: {error}") from error
    except (KeyError, AttributeError) as error:
        raise ValueError(
            f"{workdir / CONFIG_FILE}: a field of config.model is missing: {error.args[0]}"
        ) from error
    if clip_for and config.get("task", "clip") != "clip":
        raise ValueError(
            f"{workdir} is a translator, and {clip_for} is for CLIP models: name the run or the "
            "weights of one (rsclip_jax.build.translate runs translators)"
        )
    if activation:
        raise ValueError(
            f"{workdir} is a run of {config.model.activation}; leave out the activation"
        )
    if not (workdir / "checkpoints").is_dir():
        raise ValueError(f"{workdir} holds no checkpoint yet")
    name = "ema" if config.ema_decay else "params"
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(lambda: models.init_params(model, jax.random.key(0))),
    )
    with ocp.CheckpointManager(
        workdir / "checkpoints", options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if step is not None and step not in steps:
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {steps[::-1]}")
        for candidate in steps if step is None else [step]:
            try:
                items, base = _read(manager, candidate, {name: abstract})
            except Exception as error:  # Orbax and TensorStore raise many kinds
                log(f"passing over checkpoint {candidate}: {_first_line(error)}")
                continue
            if base:
                items = _with_base(items, _read_base(base, config.init_from, workdir, mesh))
            return config, items[name], candidate
    asked = f"the checkpoint of step {step}" if step is not None else "no checkpoint"
    raise ValueError(f"{workdir}: {asked} can{'not' if step is not None else ''} be read")


def save_for_inference(workdir: Path, config: ConfigDict, params: Any) -> None:
    """Write a model that was not trained here as a workdir of step 0; it appears when it is whole.

    Raises:
      ValueError: the directory is there and not empty.
    """
    if workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty; give a new directory")
    unfinished = workdir.absolute().with_name(f".{workdir.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    with ocp.CheckpointManager(unfinished / "checkpoints") as manager:
        meta = {"step": 0, "checksums": {"params": checksum(params)}}
        manager.save(
            0,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta), params=ocp.args.StandardSave(params)
            ),
        )
    config = config.copy_and_resolve_references().unlock()
    config.ema_decay = 0.0  # these parameters are the only ones
    save_config(unfinished / CONFIG_FILE, config)
    os.replace(unfinished, workdir)


def _items(state: State) -> dict[str, Any]:
    plain = to_plain(state)
    items = {k: plain.pop(k) for k in ("params", "ema") if k in plain}
    return {**items, "train": plain}


def _without_base(items: dict[str, Any], base: Base) -> dict[str, Any]:
    return {k: v if k == "train" else without(v, base.leaves) for k, v in items.items()}


def _with_base(items: dict[str, Any], leaves: dict[str, Any]) -> dict[str, Any]:
    # The average of what does not move is the same arrays once more: a copy, for donation's sake.
    copies = {"params": leaves, "ema": leaves}
    if "params" in items and "ema" in items:
        copies["ema"] = {k: v.copy() for k, v in leaves.items()}
    return {k: joined(v, copies[k]) if k in copies else v for k, v in items.items()}


def _read(
    manager: ocp.CheckpointManager, step: int, abstract: dict[str, Any]
) -> tuple[dict[str, Any], Base | None]:
    """Restore the items in `abstract`, without what is left to the base, and compare checksums."""
    meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    base = None
    if "base" in meta:
        base = Base(**{**meta["base"], "leaves": tuple(meta["base"]["leaves"])})
        abstract = _without_base(abstract, base)
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            **{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()},
        ),
    )
    items = {name: restored[name] for name in abstract}
    for name, item in items.items():
        if checksum(item) != meta["checksums"][name]:
            raise ValueError(f"the arrays of {name!r} are not those that were saved")
    return items, base


def _read_base(
    base: Base, init_from: str, workdir: Path, mesh: Mesh | None = None
) -> dict[str, jax.Array]:
    """Read what the checkpoints of `workdir` leave to its base, name -> array.

    Raises:
      ValueError: there is no base at `init_from`, or another one.
    """
    wanted = f"fingerprint {base.checksum:08x}, step {base.step}"
    mend = (
        f"The checkpoints of {workdir} hold only what was trained: they need the model that the "
        f"run started from ({wanted}). Put it back, or give its place as --config.init_from to go "
        f"on training, else as init_from in {workdir / CONFIG_FILE}"
    )
    if not init_from:
        raise ValueError(f"config.init_from is empty. {mend}")
    try:
        # That run may have gone on since.
        there = (Path(init_from) / "checkpoints" / str(base.step)).is_dir()
        known = base.step if there else None
        _, params, step = load_for_inference(init_from, known, mesh)
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(
            f"config.init_from={init_from!r} cannot be read: {error}\n{mend}"
        ) from error
    if checksum(params) != base.checksum:
        found = f"fingerprint {checksum(params):08x}, step {step}"
        raise ValueError(f"config.init_from={init_from!r} is another model now ({found}). {mend}")
    leaves = named(params)
    return {name: leaves[name] for name in base.leaves}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
