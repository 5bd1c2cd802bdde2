"""How the tensors of a CLIP ViT are named and turned in other codebases' checkpoints.

`open_clip` is also the layout of OpenAI CLIP, RemoteCLIP and GeoRSCLIP; `longclip` (Long-CLIP,
LRSCLIP, DGTRS-CLIP) has a second table of text positions; `huggingface` is transformers.CLIPModel.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KEPT_ROWS = 20  # Long-CLIP's mask: rows of `positional_embedding` that it never trains


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of their tensors: our parameters (three where theirs is query, key and value in one).

    `axes`: the permutation that turns ours into theirs.
    """

    theirs: str
    ours: tuple[str, ...]
    axes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of the tensors outside the layers, of one layer, and before a layer's number.

    `constants`: what may lie beside the weights and is none.
    """

    top: tuple[Entry, ...]
    block: tuple[Entry, ...]
    stems: Mapping[str, str]
    constants: re.Pattern


def _norm(theirs: str, ours: str) -> tuple[Entry, Entry]:
    return Entry(f"{theirs}.weight", (f"{ours}/scale",)), Entry(f"{theirs}.bias", (f"{ours}/bias",))


def _dense(theirs: str, *ours: str, suffix: str = ".") -> tuple[Entry, Entry]:
    return (
        Entry(f"{theirs}{suffix}weight", tuple(f"{name}/kernel" for name in ours), (1, 0)),
        Entry(f"{theirs}{suffix}bias", tuple(f"{name}/bias" for name in ours)),
    )


_PATCHES = (3, 2, 0, 1)  # [p, p, channels, width] -> [width, channels, p, p]

OPEN_CLIP = Layout(
    top=(
        Entry("visual.conv1.weight", ("img/embedding/kernel",), _PATCHES),
        Entry("visual.class_embedding", ("img/cls",)),
        Entry("visual.positional_embedding", ("img/pos_embedding",)),
        *_norm("visual.ln_pre", "img/ln_pre"),
        *_norm("visual.ln_post", "img/ln_post"),
        Entry("visual.proj", ("img/proj",)),
        Entry("token_embedding.weight", ("txt/token_embedding",)),
        Entry("positional_embedding", ("txt/pos_embedding",)),
        *_norm("ln_final", "txt/ln_final"),
        Entry("text_projection", ("txt/proj",)),
        Entry("logit_scale", ("t",)),
        Entry("logit_bias", ("b",)),
    ),
    block=(
        *_norm("ln_1", "ln_1"),
        *_dense("attn.in_proj", "attn/query", "attn/key", "attn/value", suffix="_"),
        *_dense("attn.out_proj", "attn/out"),
        *_norm("ln_2", "ln_2"),
        *_dense("mlp.c_fc", "mlp/fc1"),
        *_dense("mlp.c_proj", "mlp/fc2"),
    ),
    stems={"img": "visual.transformer.resblocks.", "txt": "transformer.resblocks."},
    constants=re.compile(
        r"(.*\.)?attn_mask|mask1|mask2|input_resolution|context_length|vocab_size"
    ),
)

HUGGINGFACE = Layout(
    top=(
        Entry(
            "vision_model.embeddings.patch_embedding.weight", ("img/embedding/kernel",), _PATCHES
        ),
        Entry("vision_model.embeddings.class_embedding", ("img/cls",)),
        Entry("vision_model.embeddings.position_embedding.weight", ("img/pos_embedding",)),
        *_norm("vision_model.pre_layrnorm", "img/ln_pre"),  # sic
        *_norm("vision_model.post_layernorm", "img/ln_post"),
        Entry("visual_projection.weight", ("img/proj",), (1, 0)),
        Entry("text_model.embeddings.token_embedding.weight", ("txt/token_embedding",)),
        Entry("text_model.embeddings.position_embedding.weight", ("txt/pos_embedding",)),
        *_norm("text_model.final_layer_norm", "txt/ln_final"),
        Entry("text_projection.weight", ("txt/proj",), (1, 0)),
        Entry("logit_scale", ("t",)),
    ),
    block=(
        *_norm("layer_norm1", "ln_1"),
        *_dense("self_attn.q_proj", "attn/query"),
        *_dense("self_attn.k_proj", "attn/key"),
        *_dense("self_attn.v_proj", "attn/value"),
        *_dense("self_attn.out_proj", "attn/out"),
        *_norm("layer_norm2", "ln_2"),
        *_dense("mlp.fc1", "mlp/fc1"),
        *_dense("mlp.fc2", "mlp/fc2"),
    ),
    stems={"img": "vision_model.encoder.layers.", "txt": "text_model.encoder.layers."},
    constants=re.compile(r".*\.position_ids"),
)

_TEXT = r"token_embedding\.|positional_embedding$|transformer\.|ln_final\.|text_projection$"
# Segments of names that stand for a wrapper around a part of the model.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)

LAYOUTS = {"open_clip": OPEN_CLIP, "longclip": OPEN_CLIP, "huggingface": HUGGINGFACE}


def without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Drop what a wrapper put into the names of the tensors.

    torch.compile puts `_orig_mod.` before the names of what it compiles, FSDP and checkpointing of
    activations likewise; DataParallel `module.`, Lightning the attribute that holds the model
    before all names. Names without the last kind of prefix are left as they are.

    Raises:
      ValueError: there are several models, under different prefixes.
    """
    if odd := [name for name in state if not name.isprintable()]:
        raise ValueError(f"a tensor is called {odd[0]!r:.80}; expected a name of letters and signs")
    bare = {_WRAPPERS.sub("", name): value for name, value in state.items()}
    # open_clip's `custom_text` models have the same text tower under a name of its own.
    bare = {re.sub(rf"(^|\.)text\.({_TEXT})", r"\1\2", k): v for k, v in bare.items()}
    if len(bare) < len(state):
        raise ValueError("it holds the same tensor under two names, with and without _orig_mod.")
    anchors = [LAYOUTS[name].top[0].theirs for name in ("open_clip", "huggingface")]
    anchors.append(HUGGINGFACE.top[1].theirs)
    ends = re.compile(rf"(|.*\.)(?:{'|'.join(map(re.escape, anchors))})")
    found = {match[1] for name in bare if (match := ends.fullmatch(name))}
    if len(found) > 1:
        raise ValueError(
            f"it holds several models, their names begin with {', '.join(sorted(found))}: keep "
            "the tensors of one, and save them without the prefix"
        )
    prefix = found.pop() if found else ""
    return {name.removeprefix(prefix): value for name, value in bare.items()}


def recognise(names: Any) -> str:
    """Tell the layout from the names of the tensors.

    Raises:
      ValueError: they are not those of a CLIP with a vision transformer.
    """
    if others := [name for name in names if name.startswith(("visual.layer1.", "visual.trunk."))]:
        raise ValueError(
            f"the image tower ({others[0]}, ...) is a ResNet or another of timm's: expected a CLIP "
            "with a vision transformer, such as ViT-B-32"
        )
    if "positional_embedding_res" in names:
        return "longclip"
    for name in ("open_clip", "huggingface"):
        if {entry.theirs for entry in LAYOUTS[name].top[:3]} & set(names):
            return name
    some = sorted(names)
    raise ValueError(
        "these are not the weights of a CLIP with a vision transformer: expected OpenAI's and "
        "open_clip's names (visual.conv1.weight, ...) or Hugging Face's "
        f"(vision_model.embeddings.class_embedding, ...), got {len(some)} tensors"
        f"{': ' if some else ''}{', '.join(some[:4])}{', ...' if len(some) > 4 else ''}"
    )


def depths(state: Mapping[str, Any], layout: str) -> dict[str, int]:
    """Count the layers of both towers: {"img": ..., "txt": ...}.

    Raises:
      ValueError: a layer before the last one is not there.
    """
    found = {}
    for root, stem in LAYOUTS[layout].stems.items():
        numbered = re.compile(re.escape(stem) + r"(\d+)\.")
        numbers = {m[1] for k in state if (m := numbered.match(k))}
        expected = {str(n) for n in range(len(numbers))}
        if numbers != expected:  # in a damaged file, or one that claims a million layers
            raise ValueError(
                f"its {len(numbers)} layers {stem}N are not numbered from 0: "
                f"{min(expected - numbers)} is missing, {max(numbers - expected):.20} is there"
            )
        found[root] = max(len(numbers), 1)
    return found


def to_tensors(params: Any, layout: str) -> dict[str, Any]:
    """Name and turn our parameters into theirs; under `jax.eval_shape`, their shapes."""
    tensors = {}
    for entry, layer, leaves in _entries(params, layout):
        parts = [leaf if layer is None else leaf[layer] for leaf in leaves]
        parts = [part if entry.axes is None else part.transpose(entry.axes) for part in parts]
        tensors[entry.theirs] = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
    if layout == "longclip":
        tensors["positional_embedding_res"] = tensors["positional_embedding"]
    return tensors


def from_tensors(state: Mapping[str, np.ndarray], like: Any, layout: str) -> dict:
    """Undo `to_tensors`: float32 parameters of the structure and shapes of `like`.

    Long-CLIP's pair of position tables is merged into the one table it stands for.

    Raises:
      ValueError: names every missing, unexpected and misshapen tensor.
    """
    shapes = {
        name: leaf.shape
        for name, leaf in jax.eval_shape(lambda p: to_tensors(p, layout), like).items()
    }
    constants = LAYOUTS[layout].constants
    unexpected = [k for k in state if k not in shapes and not constants.fullmatch(k)]
    wrong = [
        *(f"  missing: {k} {shapes[k]}" for k in sorted(shapes.keys() - state.keys())),
        *(f"  unexpected: {k} {np.shape(state[k])}" for k in sorted(unexpected)),
        *(
            f"  misshapen: {k} is {np.shape(state[k])}, expected {shape}"
            for k, shape in shapes.items()
            if k in state and np.shape(state[k]) != shape
        ),
    ]
    if wrong:
        raise ValueError(
            f"the tensors are not those of this CLIP ({layout} layout):\n" + "\n".join(wrong)
        )
    state = dict(state)
    if layout == "longclip":
        kept, trained = state["positional_embedding"], state["positional_embedding_res"]
        state["positional_embedding"] = np.concatenate([kept[:KEPT_ROWS], trained[KEPT_ROWS:]])

    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), like)
    for entry, layer, leaves in _entries(params, layout):
        value = np.asarray(state[entry.theirs])
        for leaf, part in zip(
            leaves, np.split(value, len(leaves)) if value.ndim else [value], strict=True
        ):
            part = part if entry.axes is None else part.transpose(np.argsort(entry.axes))
            leaf[... if layer is None else layer] = part
    return params


def _entries(params: Any, layout: str) -> Iterator[tuple[Entry, int | None, list[Any]]]:
    """Yield each of their tensors with the number of its layer and our parameters for it."""
    chosen = LAYOUTS[layout]
    for entry in chosen.top:
        if entry.theirs != "logit_bias" or "b" in params:
            yield entry, None, [_at(params, path) for path in entry.ours]
    for root, stem in chosen.stems.items():
        blocks = params[root]["transformer"]["blocks"]
        for layer in range(len(blocks["ln_1"]["scale"])):
            for entry in chosen.block:
                named = dataclasses.replace(entry, theirs=f"{stem}{layer}.{entry.theirs}")
                yield named, layer, [_at(blocks, path) for path in entry.ours]


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree
