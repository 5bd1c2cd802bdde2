"""The model that a run starts from: its architecture and its parameters."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from rsclip_jax import host, weights
from rsclip_jax.models import clip, peft
from rsclip_jax.training.base import Base, base_of
from rsclip_jax.training.checkpoint import load_for_inference
from rsclip_jax.training.progress import log
from rsclip_jax.training.state import adapt_params, with_added
from rsclip_jax.training.workdir import CONFIG_FILE, has_steps, is_workdir, load_config

# Fields of config.model that are taken from config.init_from where they are as here: nobody has set
# them. The sizes (variant, sizes) are taken in any case, unless the command line gives them.
UNSET: dict[str, Any] = {
    "image_size": 0,
    "activation": "",
    "layer_norm_eps": 1e-5,
    "mean": clip.CLIP_MEAN,
    "std": clip.CLIP_STD,
}
SIZE_FIELDS = ("model.variant", "model.sizes")


def with_architecture(
    config: ConfigDict, workdir: Path | None, given: Collection[str] = ()
) -> ConfigDict:
    """Return the config with the architecture of the model at config.init_from; print what changes.

    Taken are the sizes of the towers, and the fields of UNSET and the tokenizer where the config
    leaves them as they are by default. The command line wins: a field in `given` is kept. The
    number of text positions is the config's, too: positions are stretched or cut.

    A run that is resumed takes them from its own config, wherever init_from has gone to.

    Args:
      workdir: of the run; None where there is none to be resumed.
      given: names of fields such as "model.image_size", see `overrides.given`.

    Raises:
      FileNotFoundError: nothing is there. ValueError: a model of another task, or the command line
        asks for other sizes than are there.
    """
    if not config.init_from:
        return config
    config = config.copy_and_resolve_references().unlock()
    task, path = config.get("task", "clip"), host.local_path(config.init_from, "config.init_from")
    own = workdir / CONFIG_FILE if workdir and has_steps(workdir) else None
    resumed = own is not None and own.exists()
    source = load_config(own) if own and resumed else _config_of(path)
    if source.get("task", "clip") != task:
        kinds = {"clip": "a CLIP", "translation": "a translator"}
        raise ValueError(
            f"config.init_from={path} is {kinds[source.get('task', 'clip')]}, but the config "
            f"trains {kinds[task]} (config.task={task!r}): start from another model"
        )
    if task != "clip":
        return config
    before = _architecture(config)
    there = {**_architecture(source), **{k: source.model.get(k, v) for k, v in UNSET.items()}}
    names = [config.model.variant, source.model.variant]
    sizes = clip.Sizes._fields[:-2]  # those that weights are of
    other = [f"{k} {before[k]} -> {there[k]}" for k in sizes if before[k] != there[k]]
    if other and set(given) & {"model", *SIZE_FIELDS}:
        if resumed:
            return config  # which is refused by name, see `workdir.check_workdir`
        raise ValueError(
            f"config.init_from={path} is {names[1]}, but the command line asks for {names[0]} "
            f"({', '.join(other)}): leave that out, or start from weights of {names[0]}"
        )
    if other:
        config.model.variant, config.model.sizes = names[1], tuple(source.model.get("sizes", ()))
    for field, unset in UNSET.items():
        if config.model.get(field, unset) == unset and f"model.{field}" not in given:
            config.model[field] = there[field]
    if config.tokenizer == "clip" and "tokenizer" not in given:
        config.tokenizer = source.tokenizer
    after = _architecture(config)
    if changes := [f"{k} {before[k]} -> {after[k]}" for k in before if before[k] != after[k]]:
        of = f"{names[1]} of {path} takes the place of the config's {names[0]}" if other else path
        if not resumed:
            log(f"init_from: {of} ({', '.join(changes)})")
    return config


def _config_of(path: Path) -> ConfigDict:
    if not path.exists():
        raise FileNotFoundError(
            f"config.init_from={path}: no such file or directory; expected the workdir of a run, a "
            "weights file (.pt, .bin, .safetensors), or a directory of open_clip or Hugging Face"
        )
    return load_config(path / CONFIG_FILE) if is_workdir(path) else weights.config_of(path)


def _architecture(config: ConfigDict) -> dict[str, Any]:
    """Return sizes, and what else of the architecture the sizes leave open, as they are in use."""
    sizes, model = clip.sizes_of(config.model)._asdict(), config.model
    own = {k: model[k] or sizes[k] for k in ("image_size", "activation")}
    others = {k: model.get(k, unset) for k, unset in UNSET.items() if k not in own}
    return {**sizes, **own, **others, "tokenizer": config.tokenizer}


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
    changed = {k: f"{k}: {there[k]} there, {now[k]} now" for k in now if there[k] != now[k]}
    for name in ("model.mean", "model.std"):  # GeoRSCLIP fine-tunes with other statistics
        if name in changed:
            log(f"images are normalised otherwise than by {config.init_from}: {changed.pop(name)}")
    if changed:
        raise ValueError(
            f"config.init_from={config.init_from!r}: that model reads its parameters otherwise ("
            + "; ".join(changed.values())
            + "): leave these fields as they are there, or convert that model first "
            "(rsclip_jax.convert merges LoRA, and has --activation)"
        )
    log(f"starting from {config.init_from}, step {step}: {weights.describe(source)}")
    _tell_positions(config, source, model)
    params = with_added(model, read, config.seed)
    stretch = config.model.stretch, config.model.keep, config.model.ratio
    params = adapt_params(model, params, *stretch)
    return params, base_of(config, read, step, params)


def _tell_positions(config: ConfigDict, source: ConfigDict, model: clip.CLIP) -> None:
    """Print where positions are cut, stretched or resampled, and which field decides."""
    old, new = source.model.context_length, model.context_length
    if old > new:
        log(
            f"note: text positions are cut from {old} to config.model.context_length={new}: longer "
            f"texts cannot be read afterwards; --config.model.context_length={old} keeps them all"
        )
    elif old < new:
        how = f"config.model.stretch={config.model.stretch!r}"
        log(f"text positions are stretched from {old} to {new} ({how})")
    pixels = clip.build(source.model).image_size
    sides = [size // model.patch_size for size in (pixels, model.image_size)]
    grids = [f"{side}x{side}" for side in sides]
    if grids[0] != grids[1]:
        log(
            f"note: image positions are resampled from {grids[0]} to {grids[1]}, for images of "
            f"config.model.image_size={model.image_size} pixels; the model was trained on {pixels}"
        )
