"""Ahead-of-time compilation: its reading of programs, and TPU topologies where libtpu is there."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from small_run import small_config

from rsclip_jax import aot, sharding
from rsclip_jax.training.resolve import resolve

on_eight = pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices")


@on_eight
def test_collectives_in_loops_and_branches_are_counted_as_often_as_they_run():
    mesh = sharding.make_mesh()
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def inside(x):
        def turn(carry, _):
            return carry + jax.lax.psum(x, "data").sum(), None

        total = jax.lax.scan(turn, 0.0, None, length=5)[0]
        gathered = jax.lax.all_gather(x, "data", tiled=True)
        return total + gathered.max(), gathered.min()

    program = jax.jit(
        jax.shard_map(
            inside, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(),
            check_vma=False,
        )
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=rows)
    found = aot.collectives(program.lower(x).compile().as_text())
    assert found["all-gather"] == (1, 8 * 256 * 4)
    # The compiler may take the sum out of the loop; it is never counted as once and five times.
    assert found["all-reduce"] in ((5, 5 * 256 * 4), (1, 256 * 4))


PROGRAM = """HloModule step

%cond (p.0: (s32[], f32[4])) -> pred[] {
  %p.0 = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(11)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.1 = (bf16[768]{0}, bf16[768,2304]{1,0}) all-reduce(%a, %b), to_apply=%add
}

%chain (p.2: f32[1]) -> f32[4] {
  %all-gather.5 = f32[4096,512]{1,0} all-gather(%p.2), frontend_attributes={chain_id="0"}
}

%other (p.3: f32[1]) -> f32[4] {
  %all-gather.7 = f32[4096,512]{1,0} all-gather(%p.3), frontend_attributes={chain_id="0"}
}

%good (p.4: f32[1]) -> f32[1] {
  %x = f32[1]{0} add(%p.4, %p.4)
  %all-reduce.2 = f32[10]{0} all-reduce(%x), to_apply=%add
}

%bad (p.5: f32[1]) -> f32[1] {
  ROOT %p.5 = f32[1]{0} parameter(0)
}

ENTRY %main (p: f32[1]) -> f32[1] {
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body
  %f.1 = f32[4]{0} fusion(%p), kind=kCustom, calls=%chain
  %f.2 = f32[4]{0} fusion(%p), kind=kCustom, calls=%other
  %permute = (f32[2,3]{1,0}, f32[2,3]{1,0}) collective-permute-start(%p)
  ROOT %if = f32[1]{0} conditional(%i, %p, %p), branch_computations={%bad, %good}
}
"""


def test_a_tpu_program_is_read_as_the_compiler_writes_it():
    assert aot.collectives(PROGRAM) == {
        "all-reduce": (12, 11 * 2 * (768 + 768 * 2304) + 40),
        "all-gather": (1, 4096 * 512 * 4),
        "collective-permute": (1, 24),
    }


@on_eight
def test_the_step_it_compiles_is_the_one_that_is_trained(scenes, tmp_path):
    config = small_config(scenes)
    config.mesh.data = 8
    hlo = aot.lower_step(config, jax.devices()).compile().as_text()
    reduced = aot.collectives(hlo)["all-reduce"][1]
    shapes = jax.eval_shape(
        lambda: aot_params(resolve(config, tmp_path)),
    )
    gradients = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
    # Every gradient once, those of the text tower for each of two texts, and some scalars.
    text = sum(4 * int(np.prod(x.shape)) for x in jax.tree.leaves(shapes["txt"]))
    assert gradients <= reduced <= 1.05 * (gradients + text)


def aot_params(config):
    from rsclip_jax.models import clip

    return clip.init_params(clip.build(config.model), jax.random.key(0))


def test_fitting_halves_the_distance_until_it_knows(monkeypatch, scenes, capsys):
    def needs(config, topology):
        return aot.Needs(8, config.input.batch_size * 2**20, 1000 * 2**20, {})

    monkeypatch.setattr(aot, "step_needs", needs)
    config = small_config(scenes)
    room = (1000 * 2**20 - aot.PROGRAM) / 2**20  # 692.8 rows
    for first in (16, 4096):
        config.input.batch_size = first
        found = aot.fitting(config, "any", needs(config, ""))
        assert found <= room and found >= 0.9 * room and found % 8 == 0
    assert f"fits is {found}" in capsys.readouterr().out
    config.grad_cache_steps = 1000
    config.input.batch_size = 8000
    with pytest.raises(ValueError, match="grad_cache_steps"):
        aot.fitting(config, "any", needs(config, ""))


def test_mistakes_are_told(scenes):
    command = [sys.executable, "-m", "rsclip_jax.aot", "--config=configs/lrsclip.py:demo"]
    wrong = subprocess.run([*command, "--config.mash=1", "--topology=v5e:4x4"],
                           capture_output=True, text=True)  # fmt: skip
    assert wrong.returncode == 1 and wrong.stderr.startswith("aot:") and "mesh" in wrong.stderr
    wrong = subprocess.run([*command, "--topology=v99:1x1"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "--topology=v99:1x1" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)
def test_a_tpu_slice(scenes):
    config = small_config(scenes)
    found = aot.step_needs(config, "v5e:4x4")
    assert found.devices == 16 and found.fits and found.collectives["all-reduce"][0] > 0
    assert os.environ["JAX_PLATFORMS"] == "cpu"
