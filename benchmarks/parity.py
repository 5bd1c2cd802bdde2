"""How far this package is from the implementations it follows: the largest error of each part.

    python -m benchmarks.parity [--golden=DIR]
    bash tests/torch_parity.sh          # makes .parity, with open_clip and transformers
    .parity/bin/python -m benchmarks.parity

Golden files were computed with the reference implementations (tests/data/golden has all but
preprocess.npz); open_clip and transformers are run here where they are installed. Errors are
relative to the largest value of the reference unless said otherwise.
"""

import importlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from safetensors.numpy import save_file

import rsclip_jax
from rsclip_jax import convert, weights
from rsclip_jax.data import images
from rsclip_jax.data.text import ClipTokenizer
from rsclip_jax.evaluators import semantic_localization as selo
from rsclip_jax.evaluators.retrieval import retrieval_metrics
from rsclip_jax.losses.contrastive import contrastive_loss
from rsclip_jax.losses.pcm import principal_components
from rsclip_jax.models import clip

_HERE = Path(__file__).parents[1] / "tests" / "data" / "golden"
_GOLDEN = flags.DEFINE_string("golden", str(_HERE), "Directory of the golden files.")

MODELS = {
    "openclip_tiny_quickgelu": "quick_gelu",
    "openclip_tiny_gelu": "gelu",
    "longclip_tiny": "quick_gelu",
}
Row = tuple[str, str, str]  # what, beside what, the largest error


def main(_: Sequence[str]) -> None:
    """Print a table."""
    jax.config.update("jax_default_matmul_precision", "highest")
    golden = Path(_GOLDEN.value)
    print("| what | beside | largest error |\n|---|---|---|")
    for part in (towers, losses, tokens, preprocessing, retrieval, localization, live):
        for row in part(golden):
            print(f"| {' | '.join(row)} |", flush=True)


def towers(golden: Path) -> Iterator[Row]:
    """Embeddings before normalisation."""
    for name, activation in MODELS.items():
        arrays, model, params = _model(golden, name, activation)
        texts = {key: key.replace("tokens", "z") for key in arrays if key.startswith("tokens")}
        texts = {key: "z_text" if key == "tokens" else z for key, z in texts.items()}
        image = arrays["image"].transpose(0, 2, 3, 1)
        out = model.apply({"params": params}, image=image, normalize=False)
        yield f"image embeddings, {activation}", name, _relative(out["zimg"], arrays["z_image"])
        for key, z in texts.items():
            out = model.apply({"params": params}, text=arrays[key], normalize=False)
            what = f"text embeddings, {arrays[key].shape[1]} tokens, {activation}"
            yield what, f"{name} {z}", _relative(out["ztxt"], arrays[z])


def losses(golden: Path) -> Iterator[Row]:
    """Contrastive losses and the principal components of Long-CLIP."""
    arrays = np.load(golden / "longclip_tiny.npz")
    zimg = _unit(arrays["z_image"])
    for text, smoothing, name in (
        ("z_long", 0.0, "loss_long"),
        ("z_short", 0.0, "loss_short"),
        ("z_long", 0.1, "loss_long_smooth01"),
    ):
        scale = np.exp(arrays["param/logit_scale"])
        loss = contrastive_loss(zimg, _unit(arrays[text]), scale, smoothing)
        yield (
            f"loss, label smoothing {smoothing}",
            f"longclip {name}",
            _relative(loss, arrays[name]),
        )
    found = principal_components(zimg, 2)
    yield "principal components", "longclip pca2", _relative(found, arrays["pca2"])


def tokens(golden: Path) -> Iterator[Row]:
    """Token ids, at both lengths and on difficult texts."""
    known = json.loads((golden / "clip_tokens.json").read_text())
    for length in (77, 248):
        expected = np.array(known[f"ids{length}"])
        wrong = int((ClipTokenizer(length)(known["texts"]) != expected).sum())
        yield f"token ids at {length}", "open_clip", f"{wrong} of {expected.size} differ"


def preprocessing(golden: Path) -> Iterator[Row]:
    """Resize, crop and normalisation of evaluation images."""
    path = golden / "preprocess.npz"
    if not path.exists():
        yield "preprocessing", "torchvision", f"no preprocess.npz in {golden}"
        return
    arrays = np.load(path)
    for name in ("256", "301x417"):
        pixels = images.eval_preprocess(arrays[f"rgb_{name}"], 224) / 255
        found = ((pixels - clip.CLIP_MEAN) / clip.CLIP_STD).transpose(2, 0, 1)
        worst = np.abs(found - arrays[f"out_{name}"]).max()
        yield f"preprocessing of {name}", "torchvision, float16", f"{worst:.1e} (absolute)"


def retrieval(golden: Path) -> Iterator[Row]:
    """Recalls in percent."""
    known = json.loads((golden / "retrieval.json").read_text())
    index = known["text_image_index"]
    found = retrieval_metrics(known["image_embeddings"], known["text_embeddings"], index)
    names = {"i2t": "image_to_text", "t2i": "text_to_image"}
    pairs = [
        (value, known["metrics"][name.replace(name[:3], names.get(name[:3], name[:3]), 1)])
        for name, value in found.items()
    ]
    worst = max(abs(ours - theirs) for ours, theirs in pairs)
    yield "recall at 1, 5, 10 and mean recall", "torchmetrics", f"{worst:.1e} points of percent"


def localization(golden: Path) -> Iterator[Row]:
    """Rsu, Ras, Rda and Rmi."""
    worst = 0.0
    cases = json.loads((golden / "selo_metric.json").read_text())
    for case in cases.values():
        y, x = np.mgrid[: case["H"], : case["W"]].astype(float)
        blobs = [
            a * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s * s))
            for cx, cy, s, a in case["blobs"]
        ]
        found = selo.score(np.uint8(np.floor(255 * np.max(blobs, axis=0))), case["regions"])
        worst = max(worst, *(abs(found[m] - case[m]) for m in selo.METRICS))
    beside = "SemanticLocalizationMetrics"
    yield f"Rsu, Ras, Rda, Rmi of {len(cases)} maps", beside, f"{worst:.1e} (absolute)"


def live(golden: Path) -> Iterator[Row]:
    """Our exports in the real classes: normalised embeddings of images and texts."""
    for layout, package in (("open_clip", "open_clip"), ("huggingface", "transformers")):
        try:
            importlib.import_module(package)
        except ImportError as error:
            yield f"export to {layout}", package, f"not installed: {error}"
            continue
        for name in ("openclip_tiny_quickgelu", "openclip_tiny_gelu"):
            yield from _exported(golden, name, layout, package)


def _exported(golden: Path, name: str, layout: str, package: str) -> Iterator[Row]:
    import torch

    with np.load(golden / f"{name}.npz") as file:
        arrays = dict(file)
    with tempfile.TemporaryDirectory() as directory:
        path, out = Path(directory) / "tiny.safetensors", Path(directory) / "out"
        save_file({k[6:]: v for k, v in arrays.items() if k.startswith("param/")}, path)
        convert.main(
            [f"--input={path}", f"--output={out}", f"--to={layout}", f"--activation={MODELS[name]}"]
        )
        ours = rsclip_jax.load(out)
        image = torch.tensor(arrays["image"])
        text = torch.tensor(arrays["tokens"].astype(np.int64))
        with torch.no_grad():
            if package == "open_clip":
                import open_clip

                theirs = open_clip.create_model_and_transforms(f"local-dir:{out}")[0].eval()
                zimg, ztxt = theirs.encode_image(image), theirs.encode_text(text)
            else:
                import transformers

                theirs = transformers.CLIPModel.from_pretrained(out).eval()
                found = theirs(input_ids=text, pixel_values=image)
                zimg, ztxt = found.image_embeds, found.text_embeds
    image = arrays["image"].transpose(0, 2, 3, 1)
    for what, z, other in (
        ("image", ours.encode_image(image), zimg),
        ("text", ours.encode_text(arrays["tokens"]), ztxt),
    ):
        worst = np.abs(z - _unit(other.numpy())).max()
        yield f"{what} embeddings, exported, {MODELS[name]}", package, f"{worst:.1e} (absolute)"


def _model(golden: Path, name: str, activation: str):
    with np.load(golden / f"{name}.npz") as file:
        arrays = dict(file)
    state = {k[6:]: v for k, v in arrays.items() if k.startswith("param/")}
    config, params = weights.from_state_dict(state, activation)
    return arrays, clip.build(config.model), params


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def _relative(found, expected) -> str:
    return f"{np.abs(np.asarray(found) - expected).max() / np.abs(expected).max():.1e}"


if __name__ == "__main__":
    app.run(main)
