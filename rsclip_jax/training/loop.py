"""The training loop, from a config to a trained, evaluated and exported model."""

import collections
import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax import distributed, evaluators, host, sharding
from rsclip_jax.data import pipeline, synthetic
from rsclip_jax.data.packing import Packing, row_count
from rsclip_jax.data.records import open_source
from rsclip_jax.data.text import make_tokenizer
from rsclip_jax.embeddings import export_embeddings
from rsclip_jax.encoder import Encoder
from rsclip_jax.models.kinds import kind_of
from rsclip_jax.training import ahead, fields, fit
from rsclip_jax.training.ahead import check_batch, check_host, compile_step
from rsclip_jax.training.checkpoint import Checkpoints
from rsclip_jax.training.diagnose import diagnose
from rsclip_jax.training.initial import with_architecture
from rsclip_jax.training.made_with import note_start
from rsclip_jax.training.metrics import read_scores
from rsclip_jax.training.optim import describe_params, trained_parameters
from rsclip_jax.training.preemption import Stopped, StopSignal
from rsclip_jax.training.profile import Profile
from rsclip_jax.training.progress import Progress, log
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.state import State, make_state
from rsclip_jax.training.step import make_train_step, text_rows
from rsclip_jax.training.tasks import TASKS
from rsclip_jax.training.traps import traps
from rsclip_jax.training.workdir import (
    CONFIG_FILE,
    FINISHED_FILE,
    check_place,
    check_workdir,
    load_config,
    lock_workdir,
    mark_finished,
    remember,
    set_damaged_aside,
)

NO_DATA = (
    "Where the data sets lie, and which are read, say --config.input.data_dir=DIR and "
    "--config.input.data=\"{'NAME': 1.0}\"; --config=configs/lrsclip.py:demo draws its own"
)


def train(
    config: ConfigDict,
    workdir: str | Path,
    given: Collection[str] = (),
    reproduced: Path | None = None,
) -> State:
    """Train as `config` says and return the last state; an interrupted run is resumed.

    The order is fixed: take a step, save, evaluate, and only then draw the next batch. All that a
    later step depends on lies in the saved state; the position in the data is the step itself. What
    metrics.jsonl lacks of the evaluation of the saved step, a resumed run evaluates first.

    Args:
      given: names of the fields that the user set on the command line, which what config.init_from
        holds does not change (`initial.with_architecture`).
      reproduced: workdir of the run that this one is to be once more (`made_with.note_start`).

    Raises:
      ValueError: a config that cannot be trained, or a workdir of another architecture.
      FloatingPointError: `config.max_bad_steps` steps in a row were not finite.
    """
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopSignal())
        workdir = host.local_path(workdir, "--workdir")
        check_place(workdir)
        fields.check(config)
        set_damaged_aside(workdir)
        config = resolve(with_architecture(config, workdir, given), workdir)
        return _train(config, workdir, stop, held, reproduced)


def _train(
    config: ConfigDict,
    workdir: Path,
    stop: StopSignal,
    held: contextlib.ExitStack,
    reproduced: Path | None,
) -> State:
    mesh = sharding.make_mesh(**config.mesh)
    check_batch(config, mesh)
    check_host(config)
    draw_scenes(config)
    try:
        dataset = pipeline.train_dataset(
            config.input,
            config.model.image_size,
            {k: make_tokenizer(config.tokenizer, n) for k, n in config.input.lengths.items()},
            seed=config.seed,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
        )
    except FileNotFoundError as error:
        error.add_note(NO_DATA)
        raise
    check_export(config)
    task, models = TASKS[config.task], kind_of(config)
    runner = task.runner(models.build(config.model), mesh)
    runner.before_batch = stop.check
    evals = evaluators.build(config, runner)
    check_best(config, evals)
    check_epochs(workdir, config)
    total_steps = config.total_steps or steps_of_epochs(config)
    model, tx, abstract_state, shardings = ahead.setup(config, mesh, total_steps)
    held.enter_context(lock_workdir(workdir))
    check_workdir(workdir, config)

    # The state comes from the first of: this run's checkpoint, config.init_from, random numbers.
    state_bytes = sharding.bytes_per_device(abstract_state, shardings)
    fit.check_state(config, state_bytes)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    state = checkpoints.restore(abstract_state, shardings, config.init_from)
    if state is not None:
        log(f"resuming {workdir} at step {int(state['step'])} of {total_steps}")
    else:
        if config.init_from:
            params, checkpoints.base = task.parameters_from(config, model, mesh)
            params = jax.device_put(params, shardings["params"])
        else:
            init = lambda: models.init_params(model, jax.random.key(config.seed))  # noqa: E731
            params = jax.jit(init, out_shardings=shardings["params"])()
        wrap = lambda params: make_state(params, tx, ema=config.ema_decay > 0)  # noqa: E731
        state = jax.jit(wrap, out_shardings=shardings, donate_argnums=0)(params)
        del params
    with sharding.on_mesh(mesh):
        log(f"mesh {dict(mesh.shape)}; {models.described(model)}")
    log(describe_params(config, state["params"]))

    step = int(state["step"])
    remember(workdir, config, step < total_steps)
    note_start(workdir, config, step, total_steps, reproduced)
    progress = Progress(config, task.sample_flops(config, model), workdir, step, total_steps)

    def evaluate_step(state: State, known: Mapping[str, float | None]) -> None:
        report, params = functools.partial(progress.scores, step), evaluated_params(state)
        checkpoints.scored(step, evaluate(evals, params, config, workdir, report, known))

    with contextlib.suppress(Stopped), contextlib.ExitStack() as cleanup:
        cleanup.callback(progress.close)
        cleanup.callback(checkpoints.close)
        profile = Profile(config.profile, workdir, step, total_steps)
        cleanup.callback(profile.close)
        marked = distributed.gather((workdir / FINISHED_FILE).exists())[0]  # as the first sees it
        finished = step >= total_steps and marked
        if step < total_steps:
            (workdir / FINISHED_FILE).unlink(missing_ok=True)  # it goes on for more steps
        known = read_scores(workdir)
        for at, scores in known.items():
            checkpoints.scored(at, scores)
        checkpoints.keep_unscored(
            [at for at in range(1, step) if evaluated(config, at, total_steps) and at not in known]
        )
        if step and not finished and evaluated(config, step, total_steps):
            evaluate_step(state, known.get(step, {}))
        if step < total_steps:
            for trap in traps(config, pipeline.open_sources(config.input), total_steps):
                log(f"note: {trap}")
            config, fitting = fit.settle(config, mesh, workdir, total_steps, state_bytes)
            model = models.build(config.model)
            dataset = packed(dataset, config, mesh)
            iterator = pipeline.train_iterator(dataset, step, config.input)
            batches = pipeline.device_prefetch(iterator, sharding.batch_sharding(mesh))
            cleanup.callback(batches.close)
            draws = with_packed_rows(batches, config, mesh)
            batch, rows = next(draws)
            # By the number of rows that texts share.
            compiled: dict[int, jax.stages.Compiled] = {0: fitting} if fitting else {}
            progress.start(step, waited=lambda: batches.wait_s)

        try:
            while step < total_steps:
                if rows not in compiled:
                    loss_fn = task.make_loss(model, config, mesh, total_steps, rows)
                    train_step = make_train_step(loss_fn, tx, config, total_steps)
                    with progress.paused():
                        compiled[rows] = compile_step(train_step, state, batch, shardings, mesh)
                        if rows:
                            log(f"that was for {rows} rows of texts a device")
                state, metrics = profile.run(step + 1, compiled[rows], state, batch)
                step += 1
                progress.push(
                    step, metrics, rows * sharding.batch_shards(mesh) * config.grad_cache_steps
                )
                stopping, evaluating = stop.reached(), evaluated(config, step, total_steps)
                save = stopping or evaluating or checkpoints.due(step)
                if save:
                    with progress.paused():
                        checkpoints.save(step, state)
                if stopping:
                    raise Stopped
                if evaluating:
                    with progress.paused():
                        evaluate_step(state, {})
                if step < total_steps:
                    try:
                        batch, rows = next(draws)
                    except Exception:
                        if not save and jax.process_count() == 1:  # the others wait in their step
                            checkpoints.save(step, state)
                        raise
        except FloatingPointError as error:
            loss_fn = task.make_loss(model, config, mesh, total_steps)
            error.add_note(diagnose(model, loss_fn, state, batch, config))
            raise

    stop.release()
    if stop.reached():
        log(f"stopped at step {step}, which is saved; the same command resumes")
        return state
    write_embeddings(config, runner, inference_params(state), workdir, step)
    mark_finished(workdir, step, trained_parameters(config, state["params"]))
    log(f"done: step {step}, everything is in {workdir}")
    return state


def draw_scenes(config: ConfigDict) -> None:
    """Draw the data set "scenes" where config.scenes asks for it and it is absent.

    Raises:
      ValueError: it is there, in another infrared, or there is no such infrared.
    """
    if not config.scenes.train or "scenes" not in config.input.data:
        return
    absent = not (Path(config.input.data_dir) / "scenes").exists()
    if jax.process_index() == 0 and absent:
        host.output_directory(config.input.data_dir, "config.input.data_dir")
        log(f"drawing {config.scenes.train + config.scenes.val} scenes")
        synthetic.write_scenes(
            config.input.data_dir,
            "scenes",
            config.scenes.train,
            config.scenes.val,
            config.seed,
            infrared=config.scenes.infrared,
        )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("scenes")  # the others wait for them
    synthetic.check_infrared(config.input.data_dir, "scenes", config.scenes.infrared)


def packed(dataset: Any, config: ConfigDict, mesh: Mesh) -> Any:
    """Let the texts of a device, in each part of its batch, share rows if the config says so."""
    if not config.input.pack_text:
        return dataset
    fields, row_length = text_rows(config)
    shards = sharding.batch_shards(mesh) // jax.process_count()
    return dataset.map(
        Packing(fields, row_length, config.model.eot_id, shards, config.grad_cache_steps)
    )


def with_packed_rows(
    batches: Iterator[dict], config: ConfigDict, mesh: Mesh
) -> Iterator[tuple[dict, int]]:
    """Yield each batch and the number of rows that the texts of a device share; 0: they do not.

    All processes take the most that any device needs. They ask for it one batch ahead: it is known
    before the step is over that the devices then have before them.
    """
    if not config.input.pack_text:
        yield from ((batch, 0) for batch in batches)
        return
    _, row_length = text_rows(config)
    greatest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
    waiting: collections.deque[tuple[dict, jax.Array]] = collections.deque()
    for batch in batches:
        waiting.append((batch, greatest(batch["starts"])))
        if len(waiting) == 2:
            first, start = waiting.popleft()
            yield first, row_count(int(start) // row_length + 1)


def evaluated(config: ConfigDict, step: int, total_steps: int) -> bool:
    """Tell whether the evaluators run at a step: every config.eval_steps (0: never), and last."""
    return step >= total_steps or bool(config.eval_steps and step % config.eval_steps == 0)


def steps_of_epochs(config: ConfigDict) -> int:
    """Return the steps that make config.total_epochs passes over the sum of the data sets.

    Raises:
      ValueError: more steps than a run can count.
    """
    size = sum(map(len, pipeline.open_sources(config.input).values()))
    steps = config.total_epochs * size / config.input.batch_size
    if steps > fields.MOST:
        raise ValueError(
            f"config.total_epochs={config.total_epochs:g} of {size:,} records are {steps:.0e} "
            f"steps: expected {fields.MOST} at most"
        )
    return max(1, int(steps))


def check_best(config: ConfigDict, evals: Mapping[str, evaluators.Evaluator]) -> None:
    """Refuse a config.checkpoint.best that its evaluator does not measure in every run.

    Raises:
      ValueError: lists the metrics of the evaluator it names.
    """
    name, _, metric = config.checkpoint.best.partition("/")
    metrics = getattr(evals.get(name), "metrics", ())  # one of the user's own may not say
    if metrics and metric not in metrics:
        known = evaluators.expected(metric, metrics)
        raise ValueError(
            f"config.checkpoint.best={config.checkpoint.best!r}: after {name}/ {known}"
        )


def check_export(config: ConfigDict) -> None:
    """Refuse a config.export of data sets or splits that are not there, before the first step.

    Raises:
      FileNotFoundError, ValueError: names the field and what there is.
    """
    for name, splits in config.export.items():
        try:
            for split in splits:
                open_source(config.input.data_dir, name, split)
        except (FileNotFoundError, ValueError) as error:
            error.add_note(
                f"config.export.{name} asks for it; --config.export={{}} exports nothing at the end"
            )
            raise


def check_epochs(workdir: Path, config: ConfigDict) -> None:
    """Refuse another batch size where epochs are counted and steps of another size were taken.

    Raises:
      ValueError: names both sizes, and the number of steps that the epochs left would take.
    """
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    if config.total_steps or not steps or not (workdir / CONFIG_FILE).exists():
        return
    before, now = load_config(workdir / CONFIG_FILE).input.batch_size, config.input.batch_size
    if before != now:
        step = max(steps)
        left = max(0, steps_of_epochs(config) * now - step * before)
        total = step + -(-left // now)
        raise ValueError(
            f"config.input.batch_size={now}, but the {step} steps in {workdir} were of {before}: "
            f"config.total_epochs={config.total_epochs:g} cannot count them both; go on with "
            f"--config.input.batch_size={before}, or give --config.total_steps={total}, in which "
            f"the {left:,} records that are left fit"
        )


def inference_params(state: State) -> Any:
    """Return the parameters that evaluation and export use: the average where one is kept."""
    return state.get("ema", state["params"])


def evaluated_params(state: State) -> dict[str, Any]:
    """Return the parameters to evaluate, by what the names of their metrics have in addition."""
    raw = {"_raw": state["params"]} if "ema" in state else {}
    return {**raw, "": inference_params(state)}


def evaluate(
    evals: dict[str, Any],
    params: dict[str, Any],
    config: Any,
    workdir: Path,
    report: Callable[[str, dict[str, float], evaluators.Evaluator], None],
    known: Mapping[str, float | None],
) -> dict[str, float | None]:
    """Run every evaluator, metric names prefixed with its own; pictures go to WORKDIR/eval.

    Args:
      params: see `evaluated_params`; the pictures are of the last of them.
      report: takes the name, the metrics and the evaluator, each when it has finished.
      known: metrics of this step that are there: their evaluators are not run once more.

    Raises:
      ValueError: none of the metrics is config.checkpoint.best.
    """
    scores = dict(known)
    for name, evaluator in evals.items():
        for suffix, of in params.items():
            if any(metric.startswith(f"{name}{suffix}/") for metric in known):
                continue
            try:
                found = dict(evaluator.run(of))
                if not suffix and jax.process_index() == 0:
                    evaluators.draw({name: evaluator}, workdir / "eval")
            except Exception as error:
                error.add_note(
                    f"(in config.evals.{name}; the step is saved, and the same command evaluates "
                    "it again, or with --config.eval_steps=0 only the last step)"
                )
                raise
            report(name + suffix, found, evaluator)  # which ends it: a resumed run asks for no more
            scores |= {f"{name}{suffix}/{metric}": value for metric, value in found.items()}
    if config.checkpoint.best and config.checkpoint.best not in scores:
        raise ValueError(
            f"config.checkpoint.best={config.checkpoint.best!r} is none of {', '.join(scores)}"
        )
    return scores


def write_embeddings(config: ConfigDict, encoder: Encoder, params: Any, workdir: Path, step: int):
    """Export the embeddings that config.export asks for; shards that are there are kept."""
    for dataset, splits in config.export.items():
        output = workdir / "embeddings" / dataset
        log(f"writing embeddings of {dataset} to {output}")
        export_embeddings(
            encoder,
            params,
            config,
            model=str(workdir),
            step=step,
            dataset=dataset,
            splits=splits,
            output=output,
            overwrite=True,  # of an earlier end, when a run was continued for more steps
        )
