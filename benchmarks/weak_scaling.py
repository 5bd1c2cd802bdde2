"""Weak scaling of the training step on simulated devices: memory of each, and what they exchange.

    python -m benchmarks.weak_scaling [--devices=1,2,4,8] [--fsdp]

Compiles the step of a small LRSCLIP for meshes of so many CPU devices, 32 samples on each, and
prints a row of docs/performance.md for each: temporary memory of a device, and the bytes of the
collectives beside what they should be: gradients once, those of the text tower for each of two
texts; with the ring loss the texts' embeddings travel as collective permutes, which are counted
apart (docs/performance.md has their formula).
"""

import os

from absl import app, flags

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from configs import defaults
from rsclip_jax import aot, hlo

ROWS = 32  # samples of a device

_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices.")
_FSDP = flags.DEFINE_boolean("fsdp", False, "They share one copy of the parameters.")


def main(argv: list[str]) -> None:
    """Print the table."""
    import jax

    from rsclip_jax.models import clip

    print("| devices | batch | MiB state and batch | MiB temporary | MiB all-reduce | expected "
          "| MiB all-gather | MiB collective-permute |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for count in map(int, _DEVICES.value):
        config = defaults.get_config()
        config.total_steps = 10
        config.model.variant = "small"
        config.model.remat, config.grad_cache_steps = "none", 1
        config.input.lengths = {"text": 32, "text_long": 77}
        config.loss_pairs = (("img", "txt_long", 1.0), ("img", "txt", 1.0))
        config.loss.impl = "ring"
        config.input.batch_size = ROWS * count
        config.mesh.data, config.mesh.fsdp = (1, count) if _FSDP.value else (count, 1)
        config.model.vocab_size, config.model.eot_id = 49_408, 49_407  # CLIP's
        compiled = aot.lower_step(config, jax.devices()[:count]).compile()
        memory = compiled.memory_analysis()
        model = clip.build(config.model)
        params = jax.eval_shape(lambda model=model: clip.init_params(model, jax.random.key(0)))
        size = {tower: sum(4 * x.size for x in jax.tree.leaves(p)) for tower, p in params.items()}
        expected = size["img"] + 2 * size["txt"] if count > 1 else 0
        found = hlo.collectives(compiled.as_text())
        kinds = [found.get(kind, (0, 0))[1] for kind in hlo.COLLECTIVES]
        numbers = [memory.argument_size_in_bytes, memory.temp_size_in_bytes]
        numbers += [kinds[1], expected, kinds[0], kinds[3]]
        print(f"| {count} | {config.input.batch_size} | "
              + " | ".join(f"{n / 2**20:.1f}" for n in numbers) + " |", flush=True)  # fmt: skip


if __name__ == "__main__":
    app.run(main)
