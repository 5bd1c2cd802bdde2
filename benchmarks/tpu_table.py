"""What LRSCLIP needs of TPU slices that are not there, by the TPU compiler: memory and collectives.

    python -m benchmarks.tpu_table [--models=B/16,L/14,H/14] [--slices=v5e-16,v5e-256,v5p-128]

Prints a row of docs/scaling.md for every model, slice and batch, with the least number of parts
(config.grad_cache_steps, a power of two) in which the batch fits. Needs libtpu, see rsclip_jax.aot.
"""

import math

from absl import app, flags

from configs import lrsclip
from rsclip_jax import aot

# Names of Google Cloud -> topology. A v5p slice is named by its cores, two of a device.
SLICES = {"v5e-16": "v5e:4x4", "v5e-256": "v5e:16x16", "v5p-128": "v5p:4x4x4"}
FSDP = {"B/16": 1, "L/14": 16, "H/14": 16}

_MODELS = flags.DEFINE_list("models", list(FSDP), "Variants.")
_SLICES = flags.DEFINE_list("slices", list(SLICES), "TPU slices.")
_BATCHES = flags.DEFINE_list("batches", ["4096", "8192", "16384", "32768", "65536"], "Global.")


def main(argv: list[str]) -> None:
    """Print the table row by row."""
    print("| model | slice | `mesh.fsdp` | batch | parts | GiB per device | all-gather, MiB | "
          "all-reduce, MiB | others, MiB |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for model in _MODELS.value:
        for name in _SLICES.value:
            for batch in map(int, _BATCHES.value):
                print(row(model, name, batch), flush=True)


def row(model: str, name: str, batch: int) -> str:
    """Compile with ever more parts until the step fits."""
    config = lrsclip.get_config("B/16" if model == "B/16" else "L/14")
    config.model.variant = model
    config.model.remat, config.grad_cache_steps = "full", 1
    config.mesh.fsdp = FSDP[model]
    config.input.batch_size = batch
    while True:
        needs = aot.step_needs(config, SLICES[name])
        if needs.fits:
            break
        needed = (needs.memory + needs.beside) / needs.available
        config.grad_cache_steps *= max(2, 2 ** math.ceil(math.log2(needed)))
    mib = {kind: size / 2**20 for kind, (_, size) in needs.collectives.items()}
    main_kinds = [mib.pop("all-gather", 0), mib.pop("all-reduce", 0)]
    memory = f"{needs.memory / aot.GIB:.1f} of {needs.available / aot.GIB:.1f}"
    columns = [model, name, FSDP[model], f"{batch:,}", config.grad_cache_steps, memory]
    columns += [f"{size:,.0f}" for size in (*main_kinds, sum(mib.values()))]
    return "| " + " | ".join(map(str, columns)) + " |"


if __name__ == "__main__":
    app.run(main)
