"""The stages in the order of their worth."""

from typing import NamedTuple


class Planned(NamedTuple):
    """A stage: the module whose `run(stage)` measures, its limit, and what it finds out."""

    name: str
    module: str
    minutes: float
    title: str


STAGES = tuple(
    Planned(name, f"benchmarks.gpu.{module}", minutes, title)
    for name, module, minutes, title in (
        ("demo", "demo", 4, "the demo trains, is killed, resumes, evaluates and exports"),
        ("numerics", "numerics", 3, "bfloat16 and fused attention beside float32 XLA"),
        ("step", "step", 5, "throughput and share of the peak"),
        ("settings", "settings", 3.5, "the step under other settings"),
        ("torch", "beside_torch", 5, "PyTorch on the same card, step by step in turn"),
        ("loss", "loss", 1, "ring, gather and dense loss"),
        ("packing", "packing", 1.5, "texts that share rows"),
        ("input", "feeding", 2, "the input pipeline, and B/32 from JPEG files"),
        ("retrieval", "searching", 2, "retrieval and semantic localisation"),
        ("trace", "trace", 1.5, "the kernels of ten steps, by a profiler"),
    )
)
