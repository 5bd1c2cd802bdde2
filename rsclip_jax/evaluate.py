"""Run evaluators on a model: those of its run's config, and any others.

    python -m rsclip_jax.evaluate --model=WORKDIR [--config.evals.NAME.split=test ...]
    python -m rsclip_jax.evaluate --model=ViT-B-32.pt --suite=georsclip --data=DIR --output=OUTPUT

Prints the metrics and writes OUTPUT/results.json, report.md and report.html, the last with pictures
of what the model finds and confuses. A suite (georsclip, lrsclip, fusionrs) takes the place of the
run's own evaluators: the benchmarks of that paper, beside published numbers, as far as DIR has
their data sets; for the others it says where to get them.

Every field of the run's config can be overridden, as in training. A new evaluator is one with a
type (the evaluators' docstrings have their fields); `--only` leaves out the others:

    --config.evals.aid.type=zero_shot --config.evals.aid.data=aid --config.evals.aid.split=test
    --only=aid

Evaluators run in the order of the config, new ones after them, or in that of `--only`. The results
of each are printed and written when it has finished.

On several hosts (`srun`, `mpirun`, or the flags of rsclip_jax.main) each reads a part of the data.
"""

import argparse
import datetime
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict, config_flags

from rsclip_jax import atomic, distributed, errors, evaluators, sharding, startup, weights
from rsclip_jax.data.records import dataset_fingerprint
from rsclip_jax.evaluators import report, suites
from rsclip_jax.evaluators.arguments import add_evaluators
from rsclip_jax.host import check_paths, local_path
from rsclip_jax.models.kinds import kind_of
from rsclip_jax.overrides import check_fields, explain_value
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.fields import check_lengths, check_model
from rsclip_jax.training.progress import log
from rsclip_jax.training.tasks import TASKS
from rsclip_jax.training.workdir import changed_fields

FILES = ("results.json", "report.md", "report.html")


def main(argv: Sequence[str]) -> dict[str, float]:
    """Run the command with its arguments (without the program's name); return the metrics."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.evaluate",
        description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE overrides a field of the run's config",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, help="workdir of a run, or weights (see rsclip_jax.convert)"
    )
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")
    parser.add_argument("--suite", choices=suites.NAMES, help="benchmarks of a paper")
    parser.add_argument("--only", help="evaluators to run, comma-separated (default: all)")
    parser.add_argument("--data", help="where the data sets lie (default: as in training)")
    parser.add_argument("--output", help="directory of the results (default: MODEL/eval)")
    parser.add_argument("--batch_size", type=int, help="records at a time, a process")
    distributed.add_flags(parser)
    # The config's flags can be defined only once the model is known, hence the two rounds.
    args, overrides = parser.parse_known_args(argv)
    check_paths(args, "model", "data")
    if not Path(args.model).exists():
        raise ValueError(
            f"--model={args.model}: no such file or directory; expected the workdir of a run, or "
            "weights (see rsclip_jax.convert)"
        )
    if not (args.output or Path(args.model).is_dir()):
        parser.error("--output is needed where --model is no directory")
    args.output = args.output or str(Path(args.model) / "eval")
    with startup.started(args, again="begins again"):
        return _evaluate(args, overrides)


def _evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> dict[str, float]:
    first = jax.process_index() == 0  # the others compute the same, and are silent
    mesh = sharding.make_mesh()
    config, params, step = load_for_inference(args.model, args.step, mesh)
    if args.data:
        config.input.data_dir = args.data
    if args.suite:
        config.unlock().evals = ConfigDict(suites.read(args.suite)["evals"])
        lengths = config.input.lengths
        if lengths and "text_long" not in lengths:  # a model of one length has no other
            config.input.lengths.text_long = config.model.context_length
    trained, config = config, override(config, overrides).unlock()
    _check_model(config, trained, params)
    local_path(config.input.data_dir, "config.input.data_dir")
    if args.only:
        config.evals = chosen(config.evals, args.only)
    skipped = suites.cut(args.suite, config) if args.suite else {}
    for name, why in skipped.items():
        log(f"{name}: skipped, {why}\n")
    if not config.evals:
        raise ValueError(
            f"--suite={args.suite}: none of its data sets is there, see above"
            if args.suite
            else f"{args.model}: its config has no evaluators (config.evals is empty); give --suite"
        )
    task, size = TASKS[config.get("task", "clip")], args.batch_size
    model = kind_of(config).build(config.model)
    runner = task.runner(model, mesh, size) if size is not None else task.runner(model, mesh)
    evals = evaluators.build(config, runner)
    output = Path(args.output)
    if first:
        _check_writable(output)
        if (output / "results.json").exists():
            files = f"{', '.join(FILES)} and pictures"
            log(f"{files} in {output} are replaced; another --output keeps them")
    names = sorted({fields["data"] for fields in config.evals.values() if "data" in fields})
    results: dict[str, Any] = {
        "complete": False,
        "model": args.model,
        "description": weights.describe(config),
        "step": step,
        "date": f"{datetime.date.today()}",
        "metrics": {},
        "details": {},
        "failed": {},
        "suite": args.suite,
        "skipped": skipped,
        "evals": evaluators.settle(config),
        "dataset_fingerprints": {
            name: dataset_fingerprint(config.input.data_dir, name) for name in names
        },
    }
    pictures: dict[str, Path] = {}
    if first:  # an older result must not pass for this one
        _write_results(output, results, pictures)
    for name, evaluator in evals.items():
        try:
            _run(name, evaluator, params, results)
            if first:
                pictures |= evaluators.draw({name: evaluator}, output)
        except Exception as error:  # hours may have gone into the others
            if jax.process_count() > 1:
                raise  # the other processes may wait for this one within the evaluator
            print(f"{name}: {errors.report(error)}", file=sys.stderr)
            results["failed"][name] = f"{type(error).__name__}: {error}"
        done = len(results["details"]) + len(results["failed"]) == len(evals)
        results["complete"] = done and not results["failed"]
        if first:  # after each: the command may be stopped at any moment
            _write_results(output, results, pictures)
    if not first:
        return results["metrics"]
    print("\n".join(map(str, [*(output / name for name in FILES), *pictures.values()])))
    if results["failed"]:
        failed = ", ".join(results["failed"])
        raise EvaluationError(f"{failed} failed (see above); the other results are in {output}")
    return results["metrics"]


class EvaluationError(Exception):
    """Some of the evaluators failed; the message names them."""


def chosen(evals: ConfigDict, names: str) -> ConfigDict:
    """Return the evaluators of these names, comma-separated, in their order.

    Raises:
      ValueError: there is no evaluator of one of them.
    """
    there = evaluators.in_order(evals)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"--only={names} names no evaluator: {evaluators.expected('', there)}")
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(f"--only={names}: {evaluators.expected(unknown[0], there)}")
    return ConfigDict({name: evals[name] for name in wanted})


def _run(name: str, evaluator: Any, params: Any, results: dict[str, Any]) -> None:
    start = time.perf_counter()
    found = dict(evaluator.run(params))
    about = evaluator.about()
    log(f"{name} ({time.perf_counter() - start:.1f} s)")
    log("\n".join([report.table(found, evaluator.protocol), *(f"  {line}" for line in about), ""]))
    results["metrics"] |= {f"{name}/{metric}": value for metric, value in found.items()}
    if jax.process_index() == 0:
        more = evaluator.details() if hasattr(evaluator, "details") else {}
        results["details"][name] = {"about": about, "protocol": evaluator.protocol, **more}


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """Return the config with `--config.FIELD=VALUE` arguments applied.

    Evaluators may be new, and those that are there have all their fields.

    Raises:
      ValueError: an argument that is no override, an unknown field, a value of the wrong type.
    """
    config = config.copy_and_resolve_references().unlock()
    add_evaluators(config, arguments)
    check_fields(config, arguments)
    values = flags.FlagValues()
    argv = ["evaluate", *arguments]
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=argv
        )
        left = values(argv)[1:]
    except (flags.Error, AttributeError, TypeError) as error:
        if refused := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL):
            raise ValueError(explain_value(config, refused[1], refused[2])) from error
        reason: Any = error
        while isinstance(reason, Exception):  # ml_collections wraps what it says in two more
            reason = reason.args[0]
        raise ValueError(f"cannot apply {' '.join(arguments)}: {reason}") from error
    if left:
        raise ValueError(f"cannot understand {' '.join(left)}: expected --config.FIELD=VALUE")
    return holder.value


def _check_model(config: ConfigDict, trained: ConfigDict, params: Any) -> None:
    """Print what differs of config.model from the checkpoint's, and refuse what cannot be run.

    Raises:
      ValueError: a value that cannot be, or a model with other parameters than are there.
    """
    check_model(config)
    check_lengths(config)
    changed = changed_fields(
        ConfigDict({"model": trained.model}), ConfigDict({"model": config.model})
    )
    if not changed:
        return
    told = "; ".join(map(str.strip, changed.values()))
    models = kind_of(config)
    model = models.build(config.model)
    wanted = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    if jax.tree.map(jnp.shape, wanted) != jax.tree.map(jnp.shape, params):
        raise ValueError(
            f"the checkpoint has no parameters of such a model ({told}): leave these fields as "
            "they were trained (rsclip_jax.convert makes other lengths and image sizes)"
        )
    log(f"note: the model is not run as it was trained ({told})")


def _check_writable(output: Path) -> None:
    """Make the directory of the results; one that cannot be written would be told too late."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ValueError(
            f"the results cannot be written to {output} ({error.strerror}): give another --output"
        ) from error


def _write_results(output: Path, results: dict[str, Any], pictures: dict[str, Path]) -> None:
    texts = (
        json.dumps(results, indent=2) + "\n",
        report.markdown(results),
        report.page(results, pictures),
    )
    for name, text in zip(FILES, texts, strict=True):
        atomic.write(output / name, text)


if __name__ == "__main__":
    with errors.one_line("evaluate", "begins again"):
        main(sys.argv[1:])
