"""What a run was made with: remembered, and compared."""

import subprocess

import pytest
from small_run import small_config

from rsclip_jax.training import made_with
from rsclip_jax.training.workdir import save_config

HERE = {"jax": "1.0", "commit": "", "data set scenes": "00ff"}


def git(folder, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


def test_a_commit_is_told_with_what_was_changed_since(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("1", encoding="utf-8")
    git(tmp_path, "init", "-q")
    assert made_with.commit(package) == ""  # installed in the repository of something else
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    clean = made_with.commit(package)
    assert len(clean) == 40
    (package / "__init__.py").write_text("2", encoding="utf-8")
    assert made_with.commit(package).startswith(f"{clean} with changes ")


def test_the_real_record_names_packages_devices_and_data(scenes):
    found = made_with.made_with(small_config(scenes))
    assert found["devices"] == "8 x cpu" and found["processes"] == "1"
    assert len(found["data set scenes"]) == 16 and found["jax"].count(".") == 2


def test_a_start_is_remembered_once_and_changes_are_told(tmp_path, monkeypatch, capsys):
    now = dict(HERE)
    monkeypatch.setattr(made_with, "made_with", lambda config: dict(now))
    for step in (0, 2):
        made_with.note_start(tmp_path, None, step, 9, None)
    now["jax"] = "1.1"
    made_with.note_start(tmp_path, None, 5, 9, None)
    assert [start["step"] for start in made_with.read_starts(tmp_path)] == ["0", "5"]
    told = "from step 5 on the run is made with:\n  jax: 1.0 there, 1.1 now\n"
    assert capsys.readouterr().out == told
    now["jax"] = "1.2"
    made_with.note_start(tmp_path, None, 9, 9, None)  # no step is made with it
    assert capsys.readouterr().out == ""
    (tmp_path / made_with.MADE_WITH_FILE).write_text("{", encoding="utf-8")
    made_with.note_start(tmp_path, None, 6, 9, None)
    assert "is damaged" in capsys.readouterr().err
    assert [start["step"] for start in made_with.read_starts(tmp_path)] == ["6"]


@pytest.mark.parametrize("same", [True, False])
def test_what_differs_from_the_reproduced_run_is_told(same, tmp_path, monkeypatch, capsys):
    other, new = tmp_path / "other", tmp_path / "new"
    new.mkdir()
    config = small_config("data")
    save_config(other / "config.json", config)
    (other / "fit.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(made_with, "made_with", lambda config: dict(HERE))
    made_with.note_start(other, config, 0, 9, None)
    if not same:
        config.lr = 2.0
        monkeypatch.setattr(made_with, "made_with", lambda config: HERE | {"commit": "abc"})
    made_with.note_start(new, config, 0, 9, other)
    out = capsys.readouterr().out
    if same:
        assert out.endswith("other: its config, versions, commit, data sets and devices\n")
    else:
        assert "lr: 0.001 there, 2.0 now" in out and "commit: unknown there, abc now" in out
        assert "jax" not in out
    assert (new / "fit.json").read_text(encoding="utf-8") == "{}"


def test_a_run_of_before_can_be_reproduced(tmp_path):
    config = small_config("data")
    save_config(tmp_path / "config.json", config)
    assert "has no made_with.json" in made_with.compared(tmp_path, config, HERE)
