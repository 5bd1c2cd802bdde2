"""The step of every paper config, traced and lowered as for GPUs that are not there.

cuDNN is not here either: what JAX refuses when it traces and lowers is found, what cuDNN would say
is not.
"""

import re

import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from configs import fusionrs, georsclip, lrsclip, unified
from rsclip_jax import sharding
from rsclip_jax.models import attention, clip
from rsclip_jax.training import ahead
from rsclip_jax.training.resolve import resolve

# Each config with the words after its name that change the shapes of its towers or what is trained.
WORDS = {
    lrsclip: ("B/16", "L/14", "B/16,longclip"),
    georsclip: (
        "",
        "L/14",
        "H/14",
        "lora",
        "pfeiffer",
        "prefix",
        "unipelt",
        "freeze_text",
        "ret2",
    ),
    fusionrs: ("", "dual_text", "mixed", "L/14"),
    unified: ("", "full,L/14"),
}
SHAPES = {"one": (1, 1, 1), "eight": (8, 1, 1), "fsdp and tensor": (2, 2, 2)}


def mesh_of(shape: tuple[int, int, int]) -> AbstractMesh:
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    return AbstractMesh(
        shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device
    )


@pytest.fixture
def cudnn(monkeypatch):
    """Stand in for the version of a cuDNN that is not installed."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    attention.refusal.cache_clear()
    yield
    attention.refusal.cache_clear()


def kernels(config, shape, tmp_path, rows=0) -> tuple[int, int]:
    """Count the calls of fused attention in a step, forward and backward."""
    config.input.batch_size = 64
    config.init_from = config.init_from or "base"  # of frozen parameters
    config.model.remat, config.grad_cache_steps = "elementwise", 1
    traced = ahead.trace_step(resolve(config, tmp_path), mesh_of(shape), packed_rows=rows)
    names = re.findall(r"dot_product_attention_(fwd|bwd)", str(traced.jaxpr))
    return names.count("fwd"), names.count("bwd")


@pytest.mark.parametrize(
    "config, words", [(c, w) for c, words in WORDS.items() for w in words],
    ids=lambda x: x if isinstance(x, str) else x.__name__.split(".")[-1],
)  # fmt: skip
def test_the_step_of_every_paper_config_takes_the_fused_kernel(cudnn, tmp_path, config, words):
    forward, backward = kernels(config.get_config(words or None), SHAPES["one"], tmp_path)
    # The loop over the layers of each tower that is trained; the last layer of one token is XLA's.
    frozen = words == "freeze_text"
    assert backward >= 1 + (not frozen) and forward >= 2


@pytest.mark.parametrize("shape", ["eight", "fsdp and tensor"])
def test_it_does_on_several_gpus_as_well(cudnn, tmp_path, shape):
    assert min(kernels(lrsclip.get_config("B/16"), SHAPES[shape], tmp_path)) >= 2


def test_what_is_taken_is_told(cudnn, tmp_path):
    config = resolve(lrsclip.get_config("B/16"), tmp_path)
    with sharding.on_mesh(mesh_of(SHAPES["one"])):
        told = clip.described(clip.build(config.model))
        assert told == "attention: cuDNN's fused kernel (bfloat16, heads of 64)"
        config.model.dtype = "float32"
        told = clip.described(clip.build(config.model))
        assert told.startswith("attention: XLA's (the fused kernel wants bfloat16")


def test_texts_that_share_rows_take_it_too(cudnn, tmp_path):
    config = lrsclip.get_config("B/16")
    config.input.pack_text = True
    assert min(kernels(config, SHAPES["one"], tmp_path, rows=60)) >= 2


def test_without_cudnn_attention_is_xlas(cudnn, monkeypatch, tmp_path):
    def absent():
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", absent)
    assert kernels(lrsclip.get_config("B/16"), SHAPES["one"], tmp_path) == (0, 0)
