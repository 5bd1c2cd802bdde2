"""requirements.lock holds what setup.py asks for, and .ci/run installs nothing else."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def asked(monkeypatch) -> list[Requirement]:
    """Return what setup.py asks for, the extra of the tests included."""
    given: dict = {}
    setuptools = SimpleNamespace(find_packages=lambda **_: [], setup=given.update)
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    exec(compile((ROOT / "setup.py").read_text(encoding="utf-8"), "setup.py", "exec"), {})
    return [Requirement(x) for x in given["install_requires"] + given["extras_require"]["test"]]


def locked() -> list[tuple[Requirement, int]]:
    """Return each pin of the lock, and how many hashes it has."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.lstrip()[:1] != "#"]
    pins = "\n".join(lines).replace("\\\n", " ").splitlines()
    parts = [pin.split(" --hash=sha256:") for pin in pins]
    return [(Requirement(pin.strip()), len(hashes)) for pin, *hashes in parts]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_has_one_version_that_setup_py_allows_of_each_requirement(monkeypatch, python):
    machine = {"python_version": python, "python_full_version": f"{python}.1"}
    pins: dict[str, list[str]] = {}
    for pin, hashes in locked():
        assert hashes, f"{pin} has no hash"
        if pin.marker is None or pin.marker.evaluate(machine):
            (version,) = (v.version for v in pin.specifier)
            pins.setdefault(canonicalize_name(pin.name), []).append(version)
    for requirement in asked(monkeypatch):
        versions = pins.get(canonicalize_name(requirement.name), [])
        assert len(versions) == 1, f"{requirement}: .ci/lock renews the lock"
        assert requirement.specifier.contains(versions[0]), f"{requirement}: .ci/lock renews it"


def test_the_licence_of_each_locked_package_is_listed():
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    rows = [line.split("|")[3] for line in text.splitlines() if line.startswith("| ")]
    listed = {canonicalize_name(name.strip()) for row in rows for name in row.split(",")}
    machine = {"python_version": "3.11", "python_full_version": "3.11.1"}
    locked_here = {
        canonicalize_name(pin.name)
        for pin, _ in locked()
        if pin.marker is None or pin.marker.evaluate(machine)
    }
    assert locked_here <= listed, f".ci/licences renews it: {locked_here - listed}"


def test_ci_installs_the_lock_first_and_then_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = [x.strip() for x in readme.splitlines() if x.strip().endswith("-m pytest")]
    before, ran, _ = (ROOT / ".ci/run").read_text(encoding="utf-8").partition(command)
    assert ran
    assert "install -q --no-deps --require-hashes -r requirements.lock" in before
    assert "PIP_NO_INDEX=1" in before  # what the lock lacks is an error, not an unknown file
