"""The fastest step that fits: what is chosen, that it stays chosen, and what is said."""

import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_run import flat, losses, small_config, stop_at
from test_hosts import two

from rsclip_jax import evaluate, sharding
from rsclip_jax.models import clip
from rsclip_jax.models.blocks import REMAT_POLICIES
from rsclip_jax.training import ahead, fit, loop, memory
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.fit import Choice
from rsclip_jax.training.resolve import resolve

OPEN = {"model__remat": "auto", "grad_cache_steps": 0}
MIB = 2**20


def open_config(scenes, **overrides):
    """Return a small run, 8 rows a device, that leaves everything to be chosen."""
    return small_config(scenes, **{**OPEN, "input__batch_size": 64, **overrides})


@pytest.fixture
def limited(monkeypatch):
    """Return a function that gives every device so many bytes."""
    return lambda size: monkeypatch.setattr(fit, "device_memory", lambda: size)


# Candidates, and the choice among them


def test_candidates_come_in_order_of_speed(scenes, tmp_path):
    config = resolve(open_config(scenes, input__batch_size=8 * 256), tmp_path)
    found = fit.candidates(config, 8)
    assert found[: len(REMAT_POLICIES)] == [Choice(policy, 1) for policy in REMAT_POLICIES if
                                            policy != "full"] + [Choice("full", 1)]  # fmt: skip
    assert found.index(Choice("none", 4)) < found.index(Choice("full", 2))
    assert found.index(Choice("full", 8)) < found.index(Choice("none", 128))  # of two rows
    assert found[-1] == Choice("full", 256)  # one row
    assert len(found) == len(set(found)) == 9 * len(REMAT_POLICIES)


def test_parts_divide_the_rows_of_a_device_whatever_they_are(scenes, tmp_path):
    config = resolve(open_config(scenes, input__batch_size=100), tmp_path)
    assert sorted({c.grad_cache_steps for c in fit.candidates(config, 1)}) == [
        1, 2, 4, 10, 20, 50, 100
    ]  # fmt: skip
    config.grad_cache_steps = 5
    assert {c.grad_cache_steps for c in fit.candidates(config, 1)} == {5}
    config.model.remat = "dots"
    assert fit.candidates(config, 1) == [Choice("dots", 5)]


def test_every_policy_has_its_place():
    assert set(REMAT_POLICIES) <= fit.RECOMPUTED.keys() == fit.KEPT.keys()


ALL = [Choice(policy, 1) for policy in ("none", "dots", "full")]
ALL += [Choice("none", n) for n in (2, 4, 8)] + [Choice("full", 8)]
SIZES = {"none": 800, "dots": 300, "full": 90}


def need(choice):
    return 10 + SIZES[choice.remat] / choice.grad_cache_steps


@pytest.mark.parametrize(
    ("available", "chosen", "asked"),
    [
        (1000, ALL[0], 1),
        (400, ALL[1], 2),
        (200, ALL[2], 3),
        # "none" is not asked about again: at best, 8 parts make 101 bytes of its 810.
        (104, Choice("full", 8), 4),
    ],
)
def test_the_first_that_fits_is_taken_and_few_are_asked_about(available, chosen, asked):
    calls = []

    def needs(choice):
        calls.append(choice)
        return 120 if choice == Choice("full", 1) and available == 104 else need(choice)

    assert fit.choose(ALL, needs, available) == chosen
    assert len(calls) == asked and len(set(calls)) == asked


def test_what_cannot_fit_is_not_asked_about():
    calls = []
    least = fit.choose(ALL, lambda c: calls.append(c) or need(c), 200, lambda c: need(c) / 1.5)
    assert least == Choice("full", 1) and calls == [Choice("full", 1)]


def test_some_memory_stays_free():
    assert fit.choose(ALL, need, 810 / (1 - fit.FREE) + 1) == ALL[0]
    assert fit.choose(ALL, need, 810 / (1 - fit.FREE) - 1) == ALL[1]


@pytest.mark.parametrize("size", [30 * 2**30, math.inf])
def test_nothing_that_fits_is_an_error_that_says_what_would(size):
    with pytest.raises(ValueError, match=r"does not fit.*'full'.*=8.*config.mesh.fsdp") as error:
        fit.choose(ALL, lambda choice: size, 2**30)
    assert "1.00 GiB" in str(error.value) and "inf" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def small(scenes, tmp_path_factory):
    """Return a config, a mesh and the bytes of its state."""
    config = resolve(open_config(scenes, input__batch_size=256), tmp_path_factory.mktemp("x"))
    mesh = sharding.make_mesh()
    made = ahead.setup(config, mesh, 6)
    return config, mesh, sharding.bytes_per_device(made.state, made.shardings)


@pytest.mark.parametrize("policy", list(REMAT_POLICIES))
def test_activations_take_what_is_reckoned_or_more(policy, small):
    config, mesh, state_bytes = small
    choice = Choice(policy, 1)
    compiled = fit._compile(fit.fixed(config, choice), mesh, 6, state_bytes)
    least = fit.least_memory(config, 8, 1)(choice)
    assert 0 < least < compiled.memory_analysis().temp_size_in_bytes
    assert memory.step_memory(compiled, MIB) > state_bytes + least + 3 * MIB


def test_nothing_is_reckoned_of_a_model_that_is_frozen_in_part(small):
    config = small[0].copy_and_resolve_references()
    config.schedule = (("img/.*", None), (".*", 1.0))
    assert fit.least_memory(config, 8, 1)(Choice("none", 1)) == 0


# In a run


def told(workdir):
    content = json.loads((workdir / "fit.json").read_text())
    return Choice(content["remat"], content["grad_cache_steps"]), content["bytes"]


@pytest.fixture(scope="module")
def roomy(scenes, tmp_path_factory):
    """Return the workdir of a run that had the memory of this machine, and what it printed."""
    workdir = tmp_path_factory.mktemp("roomy")
    with pytest.MonkeyPatch.context() as patch:
        said = []
        for module in (fit, loop, ahead):
            patch.setattr(module, "log", said.append)
        loop.train(open_config(scenes), workdir)
    return workdir, "\n".join(said)


def test_with_room_the_first_candidate_is_compiled_once_and_used(roomy, scenes, tmp_path):
    workdir, said = roomy
    assert told(workdir)[0] == Choice("none", 1)
    assert said.count("compiled in") == 1 and "the fastest that fits" in said
    loop.train(small_config(scenes, input__batch_size=64), tmp_path)
    assert losses(workdir) == losses(tmp_path)


def test_the_same_command_goes_on_and_the_workdir_can_be_used(roomy, scenes, tmp_path, capsys):
    workdir, _ = roomy
    loop.train(open_config(scenes), workdir)
    assert "changed fields" not in capsys.readouterr().out
    config, _, step = load_for_inference(workdir)
    assert step == 6 and config.model.remat == "auto" and config.grad_cache_steps == 0
    evaluated = [f"--config.evals.val.{k}={v}" for k, v in
                 {"type": "retrieval", "data": "scenes", "split": "val"}.items()]  # fmt: skip
    metrics = evaluate.main([f"--model={workdir}", f"--output={tmp_path}", *evaluated])
    assert "val/i2t_R@1" in metrics
    loop.train(open_config(scenes, init_from=str(workdir), total_steps=1), tmp_path / "next")
    assert losses(tmp_path / "next")


def test_with_less_memory_more_is_recomputed_and_then_parts_are_made(
    small, tmp_path, limited, capsys, monkeypatch
):
    config, mesh, state_bytes = small
    steps, compiled = {}, fit._compile

    def compile_once(config, *others):
        choice = (config.model.remat, config.grad_cache_steps)
        if choice not in steps:
            steps[choice] = compiled(config, *others)
        return steps[choice]

    monkeypatch.setattr(fit, "_compile", compile_once)
    found, room = [], math.inf
    while not found or found[-1].grad_cache_steps == 1:
        limited(room / (1 - fit.FREE))
        workdir = tmp_path / str(len(found))
        workdir.mkdir()
        settled, step = fit.settle(config, mesh, workdir, 6, state_bytes)
        choice, size = told(workdir)
        assert (settled.model.remat, settled.grad_cache_steps) == choice
        assert size <= room and isinstance(step, jax.stages.Compiled)
        assert f"{choice}: {size / 2**30:.2f} GiB of " in capsys.readouterr().out
        found.append(choice)
        room = size - 1
    costs = [fit.RECOMPUTED[choice.remat] for choice in found[:-1]]
    assert found[0] == Choice("none", 1) and costs == sorted(costs)
    assert Choice("full", 1) in found


def test_a_restart_takes_what_was_chosen_whatever_the_memory(
    scenes, tmp_path, limited, monkeypatch, capsys
):
    tight = {"model__remat": "full", "grad_cache_steps": 2}
    whole = loop.train(open_config(scenes, **tight), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(fit, "candidates", lambda *_: [Choice("full", 2)])
        stop_at(patch, 3)
        loop.train(open_config(scenes), tmp_path / "run")
    limited(2**40)
    state = loop.train(open_config(scenes), tmp_path / "run")
    assert "chosen earlier" in capsys.readouterr().out
    assert told(tmp_path / "run")[0] == Choice("full", 2)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    np.testing.assert_array_equal(flat(state["params"]), flat(whole["params"]))


def test_a_smaller_machine_goes_on_with_another_choice_and_says_so(
    roomy, scenes, tmp_path, limited, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        loop.train(open_config(scenes), tmp_path)
    choice, size = told(tmp_path)
    limited((size - 1) / (1 - fit.FREE))
    capsys.readouterr()
    loop.train(open_config(scenes), tmp_path)
    out = capsys.readouterr().out
    assert f"fit.json has {choice}, which does not fit here" in out
    assert "rounded differently from now on" in out
    assert told(tmp_path)[0] != choice
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(losses(roomy[0]).values()), rtol=1e-4
    )


def test_too_little_memory_is_told_before_anything_is_made(scenes, tmp_path, limited):
    limited(MIB)
    with pytest.raises(ValueError, match=r"state alone takes 0\.\d+ GiB.*config.mesh.fsdp"):
        loop.train(open_config(scenes), tmp_path)
    assert not (tmp_path / "fit.json").exists()


def test_a_file_that_is_no_choice_is_told(scenes, tmp_path):
    (tmp_path / "fit.json").write_text('{"remat": "full"}')
    with pytest.raises(ValueError, match=r"fit.json: expected 'remat', 'grad_cache_steps'"):
        loop.train(open_config(scenes), tmp_path)


def test_texts_that_share_rows_are_counted_as_long_as_they_may_be(scenes, tmp_path, capsys):
    config = open_config(scenes, input__pack_text=True, total_steps=1)
    loop.train(config, tmp_path)
    out = capsys.readouterr().out
    # Once to choose, and once for the rows of the batch. 8 short texts share 4 rows, 8 long ones 8.
    assert out.count("compiled in") == 2
    (rows,) = (int(x.split()[3]) for x in out.splitlines() if x.startswith("that was for"))
    assert rows <= 12 and told(tmp_path)[0] == Choice("none", 1)


def test_a_compiler_that_gives_up_for_want_of_memory_is_heard(small, tmp_path, monkeypatch):
    config, mesh, state_bytes = small
    monkeypatch.setattr(fit, "device_memory", lambda: 2**40)
    compile_lowered = ahead.compile_lowered

    def refuse(message):
        def compile_once(*_):
            monkeypatch.setattr(ahead, "compile_lowered", compile_lowered)
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(ahead, "compile_lowered", compile_once)

    refuse("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
    found, step = fit.settle(config, mesh, tmp_path, 6, state_bytes)
    assert found.model.remat != "none" and step is not None
    refuse("INTERNAL: the compiler has a bug")
    with pytest.raises(jax.errors.JaxRuntimeError, match="has a bug"):
        fit.settle(config, mesh, tmp_path / "other", 6, state_bytes)


def test_what_is_left_open_is_not_compiled_by_mistake(small):
    with pytest.raises(ValueError, match=r"config.model.remat='auto', config.grad_cache_steps=0"):
        ahead.lower_step(small[0], small[1])
    assert clip.build(small[0].model).image.remat == "none"  # of a model that is not trained


def test_a_policy_that_is_not_known_is_refused(scenes, tmp_path):
    with pytest.raises(
        ValueError, match=r"config.model.remat='most': expected one of 'auto', 'none'"
    ):
        resolve(open_config(scenes, model__remat="most"), tmp_path)


# Each process tells what it takes. The first candidate fits for the first process alone, which has
# more memory and is told of a smaller need.
TAKING = """
import sys
import jax
from absl import app, flags
from rsclip_jax import main
from rsclip_jax.training import fit, memory
settle, step_memory, needs = fit.settle, fit.step_memory, []

def told(*arguments):
    config, step = settle(*arguments)
    print("takes", config.model.remat, config.grad_cache_steps)
    return config, step

def need(*arguments):
    needs.append(step_memory(*arguments))
    return 2**33 if jax.process_index() and len(needs) == 1 else needs[-1]

fit.settle, fit.step_memory = told, need
memory.host_memory = lambda: 2**34 if jax.process_index() else 2**40
main.define_flags(flags.FLAGS, sys.argv)
app.run(main.main, flags_parser=main.parse_flags)
"""


def test_two_processes_take_the_same(scenes, tmp_path):
    fields = {
        "total_steps": 2, "warmup_steps": 1, "log_steps": 1, "scenes.train": 0, "evals": {},
        "export": {}, "model.image_size": 32, "model.scan": True, "input.batch_size": 16,
        "input.lengths.text": 16, "input.lengths.text_long": 32, "input.data_dir": scenes,
        "tokenizer": f"sentencepiece:{scenes}/words.model",
    }  # fmt: skip
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    config = ["--config=configs/lrsclip.py:demo", *flags, f"--workdir={tmp_path / 'run'}"]
    processes = two(["-c", TAKING, *config], tmp_path)
    logs = []
    for i, process in enumerate(processes):
        status = process.wait(timeout=400)
        logs.append((tmp_path / f"{i}.log").read_text())
        assert status == 0, logs[-1]
    second = fit.candidates(resolve(open_config(scenes, input__batch_size=16), tmp_path), 2)[1]
    assert all(f"takes {second.remat} 1\n" in log for log in logs)
    assert told(tmp_path / "run")[0] == second
    assert logs[0].count("compiled in") == 2 and len(losses(tmp_path / "run")) == 2


# The memory of devices


def devices(monkeypatch, platform, *limits):
    stats = [{"bytes_limit": n} if n else None for n in limits]
    found = [SimpleNamespace(platform=platform, memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: found)


def test_a_device_tells_its_memory_and_processors_share_that_of_their_machines(monkeypatch):
    devices(monkeypatch, "gpu", 80, 70)
    assert memory.device_memory() == 70
    devices(monkeypatch, "gpu", None)
    assert memory.device_memory() == math.inf
    devices(monkeypatch, "cpu", None, None)
    monkeypatch.setattr(memory, "host_memory", lambda: 1000)
    assert memory.device_memory() == 1000 * memory.CPU_SHARE / 2
    others = [["a", 600, 2], ["a", 600, 1], ["b", 150, 1]]
    monkeypatch.setattr(memory, "gather", lambda own: others)
    assert memory.device_memory() == 150
    others[2][1] = 900
    assert memory.device_memory() == 200


def test_a_container_has_the_least_memory_of_its_groups(tmp_path):
    machine = memory.host_memory(tmp_path / "nothing")
    assert machine > 2**28
    member, groups = tmp_path / "cgroup", tmp_path / "groups"
    (groups / "job" / "step").mkdir(parents=True)
    (groups / "job" / "step" / "memory.max").write_text("max\n")
    (groups / "job" / "memory.max").write_text("123456789\n")
    member.write_text("0::/job/step\n")
    assert memory.host_memory(member, groups) == 123456789
    (groups / "memory").mkdir()
    (groups / "memory" / "memory.limit_in_bytes").write_text("98765432\n")
    member.write_text("9:cpu:/a\n4:memory:/of/the/host\n0::/\n")
    assert memory.host_memory(member, groups) == 98765432
