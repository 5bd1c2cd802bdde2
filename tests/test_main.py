"""What `python -m rsclip_jax.main` answers to mistakes: one line each, before any work."""

import re
import sys
from pathlib import Path

import pytest
from absl import flags
from small_run import small_config
from tiny_clip import write_tiny_clip

from rsclip_jax import main
from rsclip_jax.training import loop
from rsclip_jax.training.workdir import save_config

ROOT = Path(__file__).parents[1]
DEMO = "--config=configs/lrsclip.py:demo"
UNDRAWN = "--config.scenes.train=0"


def run(monkeypatch, *arguments):
    """Run the command in this process; return the message that it ends with."""
    argv = main.with_config(["main", *arguments])
    monkeypatch.setattr(main.flags, "FLAGS", flags.FlagValues())
    main.define_flags(main.flags.FLAGS, argv)
    with pytest.raises(SystemExit) as end:
        main.main(main.parse_flags(argv, example=main.EXAMPLE))
    assert isinstance(end.value.code, str)  # printed, and the status is 1
    return end.value.code


# What is wrong, and what the answer must name: what was given, what is expected, how to mend it.
MISTAKES = {
    "config file": (["--config=configs/lrsclp.py"], ["lrsclp.py", "no such file", "lrsclip.py,"]),
    "word of a config": (["--config=configs/georsclip.py:L/15"], ["L/15", "B/16 or L/14"]),
    "field": (["--config.learning_rate=1"], ["learning_rate", "no such field", "--config.lr"]),
    "flag": (["--batch_size=8"], ["--batch_size", "no such flag", "--config.input.batch_size"]),
    "type": (["--config.total_steps=many"], ["total_steps=many", "a whole number"]),
    "dictionary": (["--config.input.data=scenes"], ["data=scenes", "a dictionary", "{'scenes'"]),
    "data set": (["--config.input.data_dir=/none"], ["'/none'", "rsclip_jax.prepare", ":demo"]),
    "no directory": (["--config.input.data_dir=README.md"], ["README.md is a file: expected the"]),
    "a path from a file": (["--config.input.data_dir=data\n"], ["data_dir='data\\n': expected a"]),
    "split": (["--config.input.split=trian"], ["'trian'", "it has train, val"]),
    "init_from": (["--config.init_from=/none"], ["=/none: no such file", "workdir of a run"]),
    "task": (["--config.task=translate"], ["task='translate'", "translation"]),
    "size": (["--config.model.variant=B/31"], ["'B/31'", "B/32"]),
    "batch": (["--config.input.batch_size=12"], ["batch_size=12", "a multiple of 8"]),
    "mesh": (["--config.mesh.fsdp=3"], ["fsdp=3", "8 devices"]),
    "evaluator": (["--config.evals.val.type=retreival"], ["'retreival'", "mean 'retrieval'?"]),
    "length of the run": (["--config.total_steps=3", "--config.total_epochs=1"], ["exactly one"]),
    "value": (["--config.checkpoint.keep=0"], ["keep=0: expected a whole number, 1 to 2147483647"]),
    "pattern": (["--config.wd_mask=('(',)"], ["wd_mask=('(',)", "regular expressions"]),
    "another task": (["--config.task=translation"], ["model.width is missing", "translator.py"]),
    "splits": (["--config.export={'scenes':'val'}"], ["'val'}: expected", "{'scenes': ('val',)}"]),
    "schedule": (["--config.schedule=(('im/.*', None), ('.*', 1.0))"], ["['im/.*'] decide no"]),
    "components": (["--config.loss.pcm_dim=65"], ["pcm_dim=65", "at most 64 components"]),
    "loss": (["--config.loss.impl=gather", "--config.loss.chunk=8"], ["chunk=8 with"]),
    "curriculum": (["--config.loss.curriculum=(1, 2)"], ["curriculum must be () or", "got (1, 2)"]),
    "best metric": (["--config.checkpoint.best=val/mean_recal"], ["after val/", "'mean_recall'?"]),
    "a whole evaluator": (["--config.evals.val=retrieval"], ["evals.val.type=..."]),
    "steps": (["--config.total_steps=10000000000"], ["total_steps=10000000000", "to 2147483647"]),
    "huge batch": (["--config.input.batch_size=8000000000"], ["=8000000000", "to 2147483647"]),
    "memory": (["--config.input.batch_size=800000000"], ["=800000000 images", "GiB a process"]),
    "huge images": (["--config.model.image_size=800000"], ["image_size=800000", "at most 8192"]),
    "statistics": (["--config.model.mean=(123,116,103)"], ["mean=(123", "from 0 to 1", "by 255"]),
    "bucket": (["--workdir=gs://bucket/run"], ["gs://bucket/run", "mount"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_line_and_leaves_nothing(mistake, scenes, tmp_path, monkeypatch):
    wrong, named = MISTAKES[mistake]
    usual = [DEMO, UNDRAWN, f"--config.input.data_dir={scenes}", f"--workdir={tmp_path / 'run'}"]
    told = run(monkeypatch, *usual, *wrong)
    assert told.startswith("main: ") and all(part in told for part in named), told
    first, *notes = told.split("\n")
    assert len(notes) <= 1 and "Error" not in first
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left_out", [(), ("--config=x.py",), ("--workdir=x",)])
def test_a_newcomer_is_shown_the_demo_and_how_to_prepare(left_out, monkeypatch, tmp_path):
    given = [DEMO if a.startswith("--config") else a for a in left_out]
    told = run(monkeypatch, *given)
    assert len(told.split("\n")) < 8
    assert ("--config" in told.split(" missing")[0]) != ("--config" in "".join(given))
    for part in (DEMO, "rsclip_jax.prepare --format=folder", "--workdir=runs/mine"):
        assert part in told


def test_every_command_that_a_newcomer_is_shown_has_these_flags(monkeypatch):
    commands = main.EXAMPLE.replace("\\\n", " ").split("\n")
    for command in (line for line in commands if "rsclip_jax.main" in line):
        argv = [
            "main",
            *re.sub('["]', "", command.split("rsclip_jax.main")[1]).replace(": 1", ":1").split(),
        ]
        values = flags.FlagValues()
        main.define_flags(values, argv)
        monkeypatch.setattr(main.flags, "FLAGS", values)
        assert main.parse_flags(argv) == ["main"]


# What a config file holds, and what is said of it.
FILES = {
    "get_config = lambda arg=None: {'lr': 1.0}": "returns a dict, expected an ml_collections.Conf",
    "x = 1; 1 / 0": ", line 1: ZeroDivisionError: division by zero",
    "get_config = lambda arg=None: open('/none')": "No such file or directory: '/none'",
    "def get_config(": ", line 1: SyntaxError: ",
    "from ml_collections import ConfigDict as get_config": "config.seed is missing, which",
    "c.lr = 'fast'": ", line 4: TypeError: ",
    "c.mine = len": "config.mine=<built-in function len>: expected numbers, strings",
    "del c.wd": "config.wd is missing, which config.task='clip' needs: begin with",
    "del c.evals; c.evals = ()": "config.evals=(): expected a dictionary of evaluators",
    "del c.lr; c.lr = len": "config.lr=<built-in function len>: expected a number from 0",
}  # fmt: skip
AROUND = "from configs import lrsclip\ndef get_config(arg=None):\n    c = lrsclip.get_config('demo')\n    {}\n    return c\n"  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("content", FILES)
def test_a_config_file_that_gives_no_config_is_told_in_a_line(content, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    changes = content.startswith(("c.", "del c."))
    file.write_text(AROUND.format(content) if changes else content, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    told = run(monkeypatch, f"--config={file}", f"--workdir={tmp_path / 'run'}")
    assert FILES[content] in told and "\n" not in told
    assert not (tmp_path / "run").exists()


def test_a_config_of_the_repository_can_be_read_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p and Path(p) != ROOT])
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "mine.py").write_text(AROUND.format("c.seed = -1"), encoding="utf-8")
    told = run(monkeypatch, "--config=mine.py", "--workdir=run")
    assert told.startswith("main: No module named 'configs'\n(it lies in the root of the repos")
    file = ROOT / "configs" / "lrsclip.py"
    told = run(monkeypatch, f"--config={file}:demo", "--workdir=run", "--config.seed=-1")
    assert told == "main: config.seed=-1: expected a whole number, 0 to 4294967295"


def test_a_step_of_a_run_is_answered_with_the_run(scenes, tmp_path, monkeypatch):
    step = tmp_path / "base" / "checkpoints" / "2"
    step.mkdir(parents=True)
    told = run(monkeypatch, DEMO, f"--workdir={tmp_path / 'run'}", f"--config.init_from={step}")
    assert f"2 is one step of the run {tmp_path / 'base'}: name the run" in told


def test_workdirs_that_cannot_be_are_refused(scenes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    usual = [DEMO, UNDRAWN, f"--config.input.data_dir={scenes}"]
    told = run(monkeypatch, *usual, f"--workdir={tmp_path / 'file' / 'run'}")
    assert (
        told == f"main: --workdir={tmp_path}/file/run: {tmp_path}/file is a file; give a directory"
    )
    (tmp_path / "other" / "checkpoints" / "2").mkdir(parents=True)
    save_config(tmp_path / "other" / "config.json", loop.resolve(small_config(scenes), tmp_path))
    told = run(monkeypatch, *usual, f"--workdir={tmp_path / 'other'}")
    assert "other holds a run of another architecture (" in told and "\n" not in told
    assert "model.image_size: 32 there, 64 now" in told and "use another --workdir" in told


def test_weights_of_another_size_than_the_command_line_asks_for_are_refused(
    scenes, tmp_path, monkeypatch
):
    base = write_tiny_clip(tmp_path / "base.safetensors")
    usual = [f"--workdir={tmp_path / 'run'}", f"--config.init_from={base}"]
    for words in (["--config=configs/georsclip.py:L/14"], [DEMO, "--config.model.variant=L/14"]):
        told = run(monkeypatch, *words, *usual)
        assert "base.safetensors is custom, but the command line asks for L/14 (" in told
        assert "image_width 1024 -> 64" in told and "\n" not in told


def test_the_command_line_chooses_between_steps_and_epochs():
    for given, left in (({"total_steps": 3}, (3, 0.0)), ({"total_epochs": 2.0}, (0, 2.0))):
        config = small_config("data", total_steps=3, total_epochs=2.0)
        told = main.count_by(config, given)
        assert (config.total_steps, config.total_epochs) == left
        (name,) = given
        assert f"--config.{name}=" in told and "is switched off" in told
    for given in ({}, {"total_steps": 3, "total_epochs": 2.0}, {"total_steps": 0}):
        config = small_config("data", total_steps=3, total_epochs=2.0)
        assert main.count_by(config, given) == ""
        assert (config.total_steps, config.total_epochs) == (3, 2.0)


def test_a_run_is_reproduced_by_its_own_config(tmp_path, monkeypatch):
    config = small_config("data", lr=0.25, wd_mask=(".*kernel",))
    save_config(tmp_path / "config.json", config)
    for written in ([f"--reproduce={tmp_path}"], ["--reproduce", str(tmp_path)]):
        given = [*written, "--workdir=new", "--config.total_steps=7"]
        argv = main.with_config(["main", *given])
        monkeypatch.setattr(main.flags, "FLAGS", flags.FlagValues())
        main.define_flags(main.flags.FLAGS, argv)
        main.parse_flags(argv)
        assert main.flags.FLAGS.reproduce == str(tmp_path)
        config.total_steps = 7
        assert main.flags.FLAGS.config == config


@pytest.mark.parametrize(
    ("others", "message"),
    [([DEMO], "leave out --config"), ([], "give another, new --workdir"),
     (["--reproduce=/none"], "/none: no run has left its config.json there")],
)  # fmt: skip
def test_a_run_is_reproduced_elsewhere_and_by_nothing_else(others, message, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        main.with_config(["main", f"--reproduce={tmp_path}", f"--workdir={tmp_path}", *others])
