"""What a sweep is made of: named runs, and ways to combine values of config fields.

A sweep file (launch/sweeps/*.py) is Python with

    METRIC = "val/mean_recall"  # what runs are compared by, of the final evaluation
    BASELINE = "keep8-ratio4"  # the group that others are tested against; may be left out
    FIELD = "model.keep"  # the horizontal axis of the plot; may be left out; or what
    # WORKDIR/finished.json has: "trained_parameters"
    COLUMNS = ("val/i2t_R@1",)  # other metrics of the table; may be left out: the evaluators' means

    def runs(scale):  # "small", or "paper" for the paper's own sizes
        for fields in grid({"model.keep": (4, 8), "model.ratio": (4.0, 8.0)}):
            yield from seeds(Run(name_of(fields), fields, config="configs/lrsclip.py:rsicd"), 2)
"""

import dataclasses
import functools
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from rsclip_jax import main
from rsclip_jax.overrides import check_fields

Fields = Mapping[str, Any]
SCALES = ("small", "paper")
REQUIRED = "REQUIRED"  # a field that the command line must give


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
      name: of its directory: letters, digits, "-", "_", "." and "=".
      fields: config field -> value, what it has of its own.
      config: file of its config, with an argument after a colon.
      shared: further fields, which the tables do not show.
      after: name of the run whose result it starts from (`config.init_from`).
      group: runs that differ in nothing but the seed; default: the name.
      seed: `config.seed`.
      compared: False leaves it out of the tables, as a run that others start from.
    """

    name: str
    fields: Fields
    config: str
    shared: Fields = dataclasses.field(default_factory=dict)
    after: str = ""
    group: str = ""
    seed: int = 0
    compared: bool = True

    def but(self, name: str, fields: Fields, shared: Fields | None = None, **others: Any) -> "Run":
        """Return this run under another name, with fields of its own, and more that are shared."""
        shared = {**self.shared, **(shared or {})}
        return dataclasses.replace(self, name=name, fields=fields, shared=shared, **others)

    def overrides(self, runs_dir: Path) -> dict[str, Any]:
        """Return all fields that differ from those of the config."""
        start = {"init_from": str(runs_dir / self.after)} if self.after else {}
        return {**self.shared, **start, **self.fields, "seed": self.seed}

    def describe(self) -> str:
        """Return its own fields in one line."""
        return "  ".join(f"{field}={value}" for field, value in self.fields.items())

    def arguments(self, runs_dir: Path) -> list[str]:
        """Return the arguments of `rsclip_jax.main`."""
        overrides = self.overrides(runs_dir).items()
        return [
            f"--config={self.config}",
            f"--workdir={runs_dir / self.name}",
            *(f"--config.{field}={value}" for field, value in overrides),
        ]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All of a sweep file: its runs in order, and how they are compared."""

    name: str
    runs: tuple[Run, ...]
    metric: str
    baseline: str = ""
    field: str = ""
    columns: tuple[str, ...] = ()


def grid(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values of several fields."""
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def zipped(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first values of all fields together, then the second, and so on."""
    for combination in zip(*values.values(), strict=True):
        yield dict(zip(values, combination, strict=True))


def random(
    draws: Mapping[str, Callable[[np.random.Generator], Any]], count: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield `count` random combinations; each field has a function that draws its value."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield {field: draw(rng) for field, draw in draws.items()}


def seeds(run: Run, seeds: int | Iterable[int]) -> Iterator[Run]:
    """Yield a run once for each seed: 0, 1, ... or those that are given."""
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        yield dataclasses.replace(run, name=f"{run.name}-s{seed}", group=run.name, seed=seed)


def name_of(fields: Fields) -> str:
    """Make a name of fields: {"model.keep": 8, "lr": 1e-4} -> "keep8-lr0.0001"."""
    parts = (f"{field.split('.')[-1]}{value}" for field, value in fields.items())
    return re.sub(r"[^\w.=-]+", "_", "-".join(parts)).strip("_")


def load(path: str | Path, scale: str = "small", extra: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and check all of its runs.

    Args:
      scale: "small" or "paper".
      extra: arguments `--config.FIELD=VALUE` for all runs; the runs' own fields are stronger.

    Raises:
      FileNotFoundError: no such file. ValueError: no such scale; runs with impossible or equal
        names; a run after one that does not come before it; a field that the config does not have.
    """
    path = Path(path)
    if scale not in SCALES:
        raise ValueError(f"--sweep.scale={scale}: expected one of {', '.join(SCALES)}")
    if not path.exists():
        known = sorted(str(p) for p in path.parent.glob("*.py") if p.stem != "__init__")
        raise FileNotFoundError(f"no sweep file {path}; there are: {', '.join(known) or 'none'}")
    shared = {}
    for argument in extra:
        match = re.fullmatch(r"--?config\.([\w.]+)=(.*)", argument, re.DOTALL)
        if not match:
            raise ValueError(f"cannot understand {argument}: expected --config.FIELD=VALUE")
        shared[match[1]] = match[2]
    module = _module(path)
    for name in ("METRIC", "runs"):
        if not hasattr(module, name):
            raise ValueError(f"{path} has no {name}: see launch/plan.py")
    runs = tuple(
        dataclasses.replace(run, group=run.group or run.name, shared={**run.shared, **shared})
        for run in module.runs(scale)
    )
    sweep = Sweep(
        path.stem,
        runs,
        module.METRIC,
        getattr(module, "BASELINE", ""),
        getattr(module, "FIELD", ""),
        getattr(module, "COLUMNS", ()),
    )
    _check(sweep, path)
    return sweep


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # as for every path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check(sweep: Sweep, path: Path) -> None:
    seen: set[str] = set()
    if not sweep.runs:
        raise ValueError(f"{path}: it has no runs")
    for run in sweep.runs:
        if not re.fullmatch(r"[\w.=-]+", run.name) or run.name.startswith("."):
            raise ValueError(f"{path}: {run.name!r} cannot be the name of a directory")
        if run.name in seen:
            raise ValueError(f"{path}: two runs are called {run.name!r}")
        if run.after and run.after not in seen:
            raise ValueError(
                f"{path}: {run.name!r} is to start from {run.after!r}, no run before it"
            )
        seen.add(run.name)
        try:
            if "seed" in run.fields or "seed" in run.shared:
                raise ValueError("the seed is no field: give it to `seeds`, or as Run(seed=...)")
            _check_arguments(run)
        except ValueError as error:
            raise ValueError(f"{path}, run {run.name!r}: {error}") from error
    groups = {run.group for run in sweep.runs}
    if sweep.baseline and sweep.baseline not in groups:
        raise ValueError(
            f"{path}: BASELINE={sweep.baseline!r} is none of {', '.join(sorted(groups))}"
        )


def _check_arguments(run: Run) -> None:
    """Parse the arguments of a run as the trainer will: every value must arrive as it was meant."""
    file, _, argument = run.config.partition(":")
    if not Path(file).exists():
        raise ValueError(f"no config file {file} (looked for below {Path.cwd()})")
    overrides = run.overrides(Path())
    for field, value in overrides.items():
        if value == REQUIRED:
            raise ValueError(f"give --config.{field}=...")
    config = _module(Path(file)).get_config(*([argument] if argument else []))
    check_fields(config, [f"--config.{field}=" for field in overrides])
    argv = ["main", *run.arguments(Path())]
    values = flags.FlagValues()
    main.define_flags(values, argv)
    try:
        values(argv)
    except (flags.Error, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error
    for field, value in overrides.items():
        found = functools.reduce(lambda node, key: node[key], field.split("."), values.config)
        found = found.to_dict() if isinstance(found, ConfigDict) else found
        written = isinstance(value, str) and not isinstance(found, str)  # on the command line
        if not written and found != value and str(found) != str(value):
            raise ValueError(f"{field}={value!r} would arrive as {found!r}")
