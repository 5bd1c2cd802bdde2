"""Ahead-of-time compilation; for TPUs and GPUs where their compilers are there."""

import importlib.util
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from small_run import small_config
from tiny_clip import write_tiny_clip

from rsclip_jax import aot, hlo, topologies
from rsclip_jax.training.resolve import resolve

CUDA = importlib.util.find_spec("jax_cuda13_plugin") is not None
on_eight = pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices")


@on_eight
def test_the_step_it_compiles_is_the_one_that_is_trained(scenes, tmp_path):
    config = small_config(scenes)
    config.mesh.data = 8
    text = aot.lower_step(config, jax.devices()).compile().as_text()
    reduced = hlo.collectives(text)["all-reduce"][1]
    shapes = jax.eval_shape(
        lambda: aot_params(resolve(config, tmp_path)),
    )
    gradients = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    # Every gradient once, those of the text tower for each of two texts, and some scalars.
    twice = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["txt"]))
    assert gradients <= reduced <= 1.05 * (gradients + twice)


def aot_params(config):
    from rsclip_jax.models import clip

    return clip.init_params(clip.build(config.model), jax.random.key(0))


@pytest.mark.parametrize(
    "fixed, each, first", [(0, 1, 16), (0, 1, 4096), (200, 0.3, 8), (0, 30, 8)]
)
def test_fitting_needs_few_compilations(monkeypatch, scenes, capsys, fixed, each, first):
    compiled = []

    def needs(config, topology, finish=False):
        compiled.append(config.input.batch_size)
        return aot.Needs(8, (fixed + each * compiled[-1]) * 2**20, 1000 * 2**20, {})

    monkeypatch.setattr(aot, "step_needs", needs)
    config = small_config(scenes)
    config.input.batch_size = first
    room = (1000 - aot.PROGRAM / 2**20 - fixed) / each
    aot.fitting(config, "any", needs(config, ""))
    found = config.input.batch_size
    assert 0.93 * room - 8 <= found <= room and found % 8 == 0
    assert f"fits is {found:,}" in capsys.readouterr().out
    assert len(compiled) <= 3


def test_fitting_refuses_what_never_fits(monkeypatch, scenes):
    def needs(config, topology, finish=False):
        return aot.Needs(8, config.input.batch_size * 2**20, 1000 * 2**20, {})

    monkeypatch.setattr(aot, "step_needs", needs)
    config = small_config(scenes)
    config.grad_cache_steps = 1000
    config.input.batch_size = 8000
    with pytest.raises(ValueError, match="grad_cache_steps"):
        aot.fitting(config, "any", needs(config, ""))


def test_mistakes_are_told(scenes):
    command = [sys.executable, "-m", "rsclip_jax.aot", "--config=configs/lrsclip.py:demo"]
    wrong = subprocess.run([*command, "--config.mash=1", "--topology=v5e:4x4"],
                           capture_output=True, text=True)  # fmt: skip
    assert wrong.returncode == 1 and wrong.stderr.startswith("aot:") and "mesh" in wrong.stderr
    told = {
        "v99:1x1": "--topology=v99:1x1",
        "h1000:8": "h100,",
        "h100:9": "multiple of 8",
        "h100:8": "" if CUDA else 'pip install -e ".[cuda]"',
    }
    for topology, words in told.items():
        if not words:
            continue
        wrong = subprocess.run([*command, f"--topology={topology}"], capture_output=True, text=True)
        assert wrong.returncode == 1 and words in wrong.stderr
        assert wrong.stderr.startswith("aot:") and wrong.stderr.count("\n") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)
def test_a_tpu_slice(scenes):
    config = small_config(scenes)
    found = aot.step_needs(config, "v5e:4x4")
    assert found.devices == 16 and found.fits and found.collectives["all-reduce"][0] > 0
    assert os.environ["JAX_PLATFORMS"] == "cpu"


@pytest.mark.skipif(not CUDA, reason="the CUDA packages are not installed")
def test_eight_gpus_that_are_not_there(scenes):
    found = aot.step_needs(small_config(scenes), "h100:8")
    assert found.devices == 8 and found.fits and found.collectives["all-reduce"][0] > 0
    assert found.products + found.attention.flops == pytest.approx(found.model_flops, rel=0.5)


@pytest.mark.skipif(not CUDA, reason="the CUDA packages are not installed")
def test_memory_is_what_the_finished_program_reports(scenes):
    config = small_config(scenes)
    found = aot.step_needs(config, "h100:1")
    compiled = aot.lower_step(config, topologies.describe("h100:1").devices).compile()
    reference = compiled.memory_analysis()
    assert found.state + found.batch == reference.argument_size_in_bytes
    # Constants and results aside, which are small.
    assert found.temporary == pytest.approx(reference.temp_size_in_bytes, abs=2**16)


def test_the_architecture_is_that_of_init_from(monkeypatch, tmp_path, capsys):
    base = write_tiny_clip(tmp_path / "base.safetensors")
    argv = ["aot", "--config=configs/georsclip.py", "--topology=v5e:4x4"]
    argv.append(f"--config.init_from={base}")
    values = flags.FlagValues()
    aot.define_flags(values, argv)
    values(argv)
    monkeypatch.setattr(aot.flags, "FLAGS", values)
    seen = []

    def settle(config, topology):
        seen.append(config)
        return config, aot.Needs(1, 0, 0, {})

    monkeypatch.setattr(aot, "settle", settle)
    aot.main(["aot"])
    assert seen[0].model.variant == "custom"
    assert "takes the place of the config's B/32 (" in capsys.readouterr().out


def test_what_a_config_leaves_open_is_chosen_as_by_the_trainer(monkeypatch, scenes, capsys):
    memory = {"none": 900, "elementwise": 700, "dots": 500, "full": 100}
    asked = []

    def needs(config, topology, finish=False):
        asked.append(config.model.remat)
        return aot.Needs(1, memory[asked[-1]] * 2**20, 600 * 2**20, {}, beside=0)

    monkeypatch.setattr(aot, "step_needs", needs)
    machine = topologies.Machine(jax.devices()[:1], 600 * 2**20, "made up")
    monkeypatch.setattr(topologies, "describe", lambda topology: machine)
    config, found = aot.settle(small_config(scenes, model__remat="auto"), "any")
    assert config.model.remat == asked[-1] == "dots" and found.memory == 500 * 2**20
    assert config.grad_cache_steps == 1 and "none" in asked
    assert "'dots'" in capsys.readouterr().out
    settled, nothing = aot.settle(config, "any")
    assert settled is config and nothing is None
    assert "pack_text" not in capsys.readouterr().out
    config.input.pack_text = True
    aot.report(config, "any")
    assert "compiled as with config.input.pack_text=False" in capsys.readouterr().out
