"""Ahead-of-time compilation; for TPUs and GPUs where their compilers are there."""

import importlib.util
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from small_run import small_config

from rsclip_jax import aot, hlo, topologies
from rsclip_jax.training.resolve import resolve

CUDA = importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
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
    found = aot.fitting(config, "any", needs(config, ""))
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
@pytest.mark.parametrize("topology", ["h100:1", "h100:8"])
def test_gpus_that_are_not_there(scenes, topology):
    config = small_config(scenes)
    found = aot.step_needs(config, topology)
    machine = topologies.describe(topology)
    compiled = aot.lower_step(config, machine.devices).compile()
    reference = compiled.memory_analysis()
    # Constants and results aside, which are small.
    assert found.temporary == pytest.approx(reference.temp_size_in_bytes, abs=2**16)
    assert found.state + found.batch == reference.argument_size_in_bytes
    assert found.devices == len(machine.devices) and found.fits
    assert found.available == machine.available
    assert found.products + found.attention.flops == pytest.approx(found.model_flops, rel=0.5)
    assert ("all-reduce" in found.collectives) == (found.devices > 1)
