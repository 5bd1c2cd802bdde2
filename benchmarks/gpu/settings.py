"""The step of LRSCLIP's B/16 under other settings than the usual ones."""

from typing import Any

from benchmarks.gpu.rows import Stage
from benchmarks.gpu.step import USUAL, measure, said, settings_of
from rsclip_jax.models.blocks import REMAT_POLICIES

WHAT = "B/16+248+77"
# XLA's flags, by name, each beside its default.
FLAGS: tuple[dict[str, Any], ...] = (
    {"xla_gpu_enable_triton_gemm": False},
    {"xla_gpu_enable_command_buffer": ""},
    {"xla_gpu_enable_latency_hiding_scheduler": True},
    {"xla_gpu_cudnn_gemm_fusion_level": 2},
)


def run(stage: Stage) -> None:
    """Measure one change after the other, those first that may gain most."""
    toy = [(USUAL, {"cast_once": True, "donate": False})]
    for fields, others in toy if stage.toy else changes():
        settings = {**settings_of(WHAT, stage.toy, fields), **others}
        setting = ", ".join([said(fields), *map(_said, others.items())])
        stage.measure(WHAT, setting, lambda s=settings: measure(s, stage.toy))


def changes() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return fields of the config, and other settings of a `BareStep`."""
    # All at a batch that the greediest of them may fit with.
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({**USUAL, "model.remat": name}, {"batch_size": 256}) for name in REMAT_POLICIES
    ]
    found += [
        ({**USUAL, "model.scan": False}, {}),
        (USUAL, {"cast_once": True}),
        (USUAL, {"batch_size": 1024}),
        ({**USUAL, "model.attention": "xla"}, {}),
    ]
    found += [(USUAL, {"options": flags}) for flags in FLAGS]
    return [*found, (USUAL, {"donate": False})]


def _said(setting: tuple[str, Any]) -> str:
    name, value = setting
    return said(value) if name == "options" else f"{name}={value}"
