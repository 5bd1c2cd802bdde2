"""The parameters that a run starts from, of a model that was trained before."""

from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax.models import clip, peft
from rsclip_jax.training.base import Base, base_of
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.progress import log
from rsclip_jax.training.state import adapt_params, with_added


def parameters_from(
    config: ConfigDict, model: clip.CLIP, mesh: Mesh | None = None
) -> tuple[Any, Base | None]:
    """Load config.init_from, its positions stretched or resampled to this model's.

    Args:
      mesh: replicate them over it, as all processes of a run do; None for the first device.

    Returns:
      The parameters, and what checkpoints can leave to their source.

    Raises:
      ValueError: the two models would read the same parameters in different ways.
    """
    source, read, step = load_for_inference(config.init_from, mesh=mesh)

    def unseen(config: ConfigDict) -> dict[str, Any]:  # what the shapes of parameters do not tell
        model = clip.build(config.model)
        heads = {"image heads": model.image.heads, "text heads": model.text.heads}
        fields = {f"model.{field}": getattr(model, field) for field in ("mean", "std", "eot_id")}
        activation: dict[str, Any] = {"model.activation": model.image.activation}
        activation["model.layer_norm_eps"] = model.image.epsilon
        added = {"model.peft": model.image.peft}
        added |= {f"model.{k}": getattr(model, k) for k in ("ir_lora", "ir_wavelength")}
        return {"tokenizer": config.tokenizer, **activation, **fields, **heads, **added}

    there, now = unseen(source), unseen(config)
    for name in ("model.peft", "model.ir_lora", "model.ir_wavelength"):
        if there[name] in (peft.NONE, 0.0):  # then it is new
            now.pop(name)
    changed = {k: f"  {k}: {there[k]} there, {now[k]} now" for k in now if there[k] != now[k]}
    for name in ("model.mean", "model.std"):  # GeoRSCLIP fine-tunes with other statistics
        if name in changed:
            log(f"images are normalised otherwise than by {config.init_from}:\n{changed.pop(name)}")
    wrong = list(changed.values())
    if wrong:
        raise ValueError(
            f"config.init_from={config.init_from!r}: that model reads its parameters otherwise\n"
            + "\n".join(wrong)
        )
    log(f"starting from {config.init_from}, step {step}")
    params = with_added(model, read, config.seed)
    stretch = config.model.stretch, config.model.keep, config.model.ratio
    params = adapt_params(model, params, *stretch)
    return params, base_of(config, read, step, params)
