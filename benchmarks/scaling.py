"""Hours, cost and bottleneck of the papers' runs, reckoned: nothing here was run at that scale.

    python -m benchmarks.scaling [--mfu=0.4] [--images_per_core=1000]

Prints the table of docs/scaling.md. A step takes as long as the slowest of computing, exchanging
gradients and embeddings, and reading images, as if these overlapped wholly.
"""

import importlib
from typing import NamedTuple

from absl import app, flags

from rsclip_jax.models import clip
from rsclip_jax.training.step import compared_fields
from rsclip_jax.training.tasks import TASKS


class Machine(NamedTuple):
    """Devices of one kind.

    Attributes:
      peak: dense bfloat16 FLOP/s of a device (data sheet).
      link: bytes/s that a device receives from the others (data sheet, one direction).
      cores: of its host, for each device.
      price: dollars an hour and device, an assumption: prices differ threefold.
    """

    name: str
    devices: int
    peak: float
    link: float
    cores: int
    price: float


class Run(NamedTuple):
    """A paper's training: its config, and the pairs of its data set."""

    name: str
    config: str
    pairs: int


MACHINES = [
    Machine("1 H200", 1, 989e12, 450e9, 16, 3.5),
    Machine("8 H100", 8, 989e12, 450e9, 26, 3.0),
    Machine("v5e-256", 256, 197e12, 100e9, 28, 1.2),
]
RUNS = [
    Run("RS5M, B/32", "georsclip:B/32", 4_816_677),  # 95 % of 5,070,186
    Run("RS5M, L/14", "georsclip:L/14", 4_816_677),
    Run("RS5M, H/14", "georsclip:H/14", 4_816_677),
    Run("LRS2M, B/16", "lrsclip:B/16", 2_000_000),
    Run("LRS2M, L/14", "lrsclip:L/14", 2_000_000),
    Run("FusionRS, B/32", "fusionrs:B/32", 579_992),
    Run("FusionRS, L/14", "fusionrs:L/14", 579_992),
]
VOCABULARY, END = 49_408, 49_407  # CLIP's

_MFU = flags.DEFINE_float("mfu", 0.4, "Share of the peak that a step reaches.", 0.01, 1)
_IMAGES = flags.DEFINE_float("images_per_core", 1000, "Images a core decodes in a second.", 1)
_BATCH = flags.DEFINE_integer("batch_size", 0, "On a pod; 0: 16 a device, or the paper's.", 0)


def main(argv: list[str]) -> None:
    """Print the table."""
    print(
        "| run | epochs | machine | batch | time | dollars | images/s | compute, exchange, input |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for run in RUNS:
        for machine in MACHINES:
            print("| " + " | ".join(row(run, machine)) + " |")


def row(run: Run, machine: Machine) -> list[str]:
    """Reckon one run on one machine."""
    module, _, arg = run.config.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(arg)
    config.model.vocab_size, config.model.eot_id = VOCABULARY, END
    model = clip.build(config.model)
    fields = set(compared_fields(config).values())
    flops = TASKS[config.task].sample_flops(config, model)()
    paper = config.input.batch_size
    batch = _BATCH.value or max(paper, 16 * machine.devices)
    batch -= batch % machine.devices
    steps = config.total_epochs * run.pairs / batch
    images = len({"image", "ir"} & fields)
    per_device = batch / machine.devices
    compute = per_device * flops / (machine.peak * _MFU.value)
    exchange = exchanged(config, model, batch, machine.devices) / machine.link
    read = per_device * images / (machine.cores * _IMAGES.value)
    step = max(compute, exchange, read)
    hours = steps * step / 3600
    parts = ", ".join(f"{part / step:.2f}" for part in (compute, exchange, read))
    cost = hours * machine.devices * machine.price
    time = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    return [run.name, f"{config.total_epochs:g}", machine.name, f"{batch:,}", time,
            f"{cost:,.0f}", f"{batch * images / step:,.0f}", parts]  # fmt: skip


def exchanged(config, model: clip.CLIP, batch: int, devices: int) -> float:
    """Return the bytes that a device receives in a step of data parallelism.

    Gradients of blocks are reduced in the dtype of the computation, 2 bytes, those of the text
    tower once for each text; the ring loss passes (3 n - 2) b D float32 numbers a pair.
    """
    if devices == 1:
        return 0.0
    blocks = [12 * tower.depth * tower.width**2 for tower in (model.image, model.text)]
    texts = sum(field.startswith("text") for field in config.input.lengths)
    tables = VOCABULARY * model.text.width
    gradients = 2 * (blocks[0] + texts * (blocks[1] + tables))
    loss = 4 * len(config.loss_pairs) * 3 * batch * model.embed_dim
    return 2 * gradients + loss


if __name__ == "__main__":
    app.run(main)
