"""Parameter-efficient fine-tuning: LoRA, Pfeiffer adapters, prefix tuning, UniPELT.

What GeoRSCLIP (arXiv 2306.11300, section VI-A) adds to a frozen CLIP, with the semantics and
defaults of AdapterHub's adapter-transformers 3.2.1, in every layer of both towers. The base's
parameters keep their names; those added lie beside them, under `lora_NAME`, `adapter`, `prefix` and
`gate_prefix`. What the options for infrared images add (`InfraredLora`, `vit.Spectrum`) and a
pair's own scale (`t_PAIR`) count in.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

METHODS = ("", "lora", "pfeiffer", "prefix", "unipelt")
# Names of the parameters that are added.
ADDED = r".*/(lora_\w+|adapter|prefix|gate_prefix|spectrum)/.*|t_\w+"
PREFIX_TOKENS = {"prefix": 30, "unipelt": 10}
LAYERS = ("attn/query", "attn/key", "attn/value", "attn/out", "mlp/fc1", "mlp/fc2")


@dataclasses.dataclass(frozen=True)
class Peft:
    """What a tower is given.

    Attributes:
      lora: regular expression of the dense layers (LAYERS) with a low-rank update; "" for none.
      rank: of that update; alpha: it is multiplied with alpha / rank.
      reduction: an adapter after each MLP is width / reduction wide; 0 for none.
      prefix: tokens before the keys and values of each layer; 0 for none.
      hidden: width of the network that the prefixes come from; 0: they are parameters themselves.
      gated: each of these is multiplied with a gate that looks at the text or image (UniPELT).
    """

    lora: str = ""
    rank: int = 8
    alpha: float = 8.0
    reduction: int = 0
    prefix: int = 0
    hidden: int = 512
    gated: bool = False

    def adapts(self, layer: str) -> bool:
        """Tell whether a dense layer has a low-rank update."""
        return bool(self.lora) and re.fullmatch(self.lora, layer) is not None


NONE = Peft()


def make(config: Mapping[str, Any] | None) -> Peft:
    """Read `config.model.peft` (fields: configs/defaults.py).

    Raises:
      ValueError: no such method, sizes that cannot be, or targets that match no layer.
    """
    method = config["method"] if config else ""
    if not method:
        return NONE
    assert config is not None  # it has a method
    if method not in METHODS:
        raise ValueError(
            f"config.model.peft.method={method!r}: expected one of {', '.join(METHODS[1:])}"
        )
    for field in ("rank", "reduction", "hidden"):
        if config[field] < 1:
            raise ValueError(f"config.model.peft.{field}={config[field]}: expected 1 or more")
    both = method == "unipelt"
    peft = Peft(
        lora=config["targets"] if method == "lora" or both else "",
        rank=config["rank"],
        alpha=config["alpha"],
        reduction=config["reduction"] if method == "pfeiffer" or both else 0,
        prefix=(config["prefix"] or PREFIX_TOKENS[method]) if method in PREFIX_TOKENS else 0,
        hidden=0 if config["folded"] else config["hidden"],
        gated=both,
    )
    if peft.lora and not any(map(peft.adapts, LAYERS)):
        raise ValueError(
            f"config.model.peft.targets={peft.lora!r} matches none of {', '.join(LAYERS)}"
        )
    return peft


class Gate(nn.Module):
    """A number from 0 to 1 for each image or text: the mean over its tokens of a logistic unit.

    Tokens behind the end of a text do not count (AdapterHub counts its padding too): its embedding
    does not depend on how far it is padded.
    """

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, real_BxL: jax.Array | None) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x_BxLxD.shape[-1], 1))
        bias = self.param("bias", nn.initializers.zeros, (1,))
        open_BxLx1 = jax.nn.sigmoid(x_BxLxD.astype(jnp.float32) @ kernel + bias)
        real = None if real_BxL is None else real_BxL[..., None]
        return jnp.mean(open_BxLx1, axis=1, keepdims=True, where=real).astype(x_BxLxD.dtype)


class Lora(nn.Module):
    """The low-rank update of a dense layer (arXiv 2106.09685): x A B alpha / rank, B zero at first.

    With a gate, the gate takes the place of alpha / rank. Of the tokens `take` gives only.
    """

    peft: Peft
    features: int

    @nn.compact
    def __call__(
        self, x_BxLxD: jax.Array, real: jax.Array | None, take: Any = lambda x: x
    ) -> jax.Array:
        width, peft = x_BxLxD.shape[-1], self.peft
        bound = width**-0.5  # kaiming_uniform with a = sqrt(5)
        a = self.param("a", _uniform(bound), (width, peft.rank))
        b = self.param("b", nn.initializers.zeros, (peft.rank, self.features))
        x = take(x_BxLxD)
        update = (x @ a.astype(x.dtype)) @ b.astype(x.dtype)
        if peft.gated:
            return update * Gate(name="gate")(x_BxLxD, real)
        return update * jnp.asarray(peft.alpha / peft.rank, x.dtype)


def _uniform(bound: float) -> Any:
    """Make PyTorch's initialiser of linear layers, bound = fan_in ** -0.5."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Adapter(nn.Module):
    """Pfeiffer's bottleneck after the MLP (arXiv 2005.00247): h + up(relu(down(h)))."""

    peft: Peft

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array, real: jax.Array | None) -> jax.Array:
        width, dtype = h_BxLxD.shape[-1], h_BxLxD.dtype
        init = nn.initializers.normal(0.02)
        x = nn.Dense(width // self.peft.reduction, dtype=dtype, kernel_init=init, name="down")
        y = nn.Dense(width, dtype=dtype, kernel_init=init, name="up")(nn.relu(x(h_BxLxD)))
        if self.peft.gated:
            y = y * Gate(name="gate")(h_BxLxD, real)
        return h_BxLxD + y


class Prefix(nn.Module):
    """The keys and values that come before those of the tokens (arXiv 2101.00190).

    Returns [depth, 2, tokens, width]: from learned embeddings by a network with one hidden layer,
    which `fold` leaves out once training is over.
    """

    peft: Peft
    depth: int
    width: int

    @nn.compact
    def __call__(self) -> jax.Array:
        tokens, hidden = self.peft.prefix, self.peft.hidden
        shape = (self.depth, 2, tokens, self.width)
        if not hidden:
            return self.param("table", nn.initializers.zeros, shape)
        init = nn.initializers.normal(1.0)
        x = self.param("embedding", init, (tokens, self.width))
        x = nn.Dense(hidden, kernel_init=_uniform(self.width**-0.5), name="fc1")(x)
        out = 2 * self.depth * self.width
        y = nn.Dense(out, kernel_init=_uniform(hidden**-0.5), name="fc2")(jnp.tanh(x))
        return y.reshape(tokens, self.depth, 2, self.width).transpose(1, 2, 0, 3)


class InfraredLora(nn.Module):
    """The low-rank update that turns the layers of the shared image tower into infrared's.

    Returns it as a tree like that of the tower's parameters; `add_lora` adds it.
    """

    peft: Peft
    depth: int
    width: int

    @nn.compact
    def __call__(self) -> Any:
        features = {"fc1": (1, 4), "fc2": (4, 1)}  # of other layers: as wide as the tower
        tree: dict[str, Any] = {}
        for layer in filter(self.peft.adapts, LAYERS):
            part, name = layer.split("/")
            ins, outs = (n * self.width for n in features.get(name, (1, 1)))
            a = (_uniform(ins**-0.5), (self.depth, ins, self.peft.rank))
            b = (nn.initializers.zeros, (self.depth, self.peft.rank, outs))
            tree.setdefault(part, {})[f"lora_{name}"] = {"a": a, "b": b}

        def init(rng: jax.Array) -> Any:
            leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
            rngs = jax.random.split(rng, len(leaves))
            made = [make(key, shape) for key, (make, shape) in zip(rngs, leaves, strict=True)]
            return {"blocks": jax.tree.unflatten(treedef, made)}

        return {"transformer": self.param("transformer", init)}


def add_lora(params: Any, updates: Any, peft: Peft) -> Any:
    """Add low-rank updates, a tree of `lora_NAME`, to the kernels of the layers they are named for.

    What else is in `updates` is passed over. Only without gates, whose values depend on the input.
    """
    added = dict(params)
    for name, node in updates.items():
        if name.startswith("lora_"):
            layer = added[name.removeprefix("lora_")]
            update = jnp.einsum("ldr,lrf->ldf", node["a"], node["b"]) * (peft.alpha / peft.rank)
            kernel = layer["kernel"] + update
            added[name.removeprefix("lora_")] = {**layer, "kernel": kernel}
        elif isinstance(node, Mapping):
            added[name] = add_lora(added[name], node, peft)
    return added


def merge_lora(params: Any, peft: Peft) -> Any:
    """Add the towers' low-rank updates to their kernels: the parameters of the model without them.

    An update that makes infrared's tower of RGB's stays as it is.
    """

    def plain(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {k: plain(v) for k, v in node.items() if not k.startswith("lora_")}

    towers = {name: plain(add_lora(params[name], params[name], peft)) for name in _towers(params)}
    return {**params, **towers}


def fold_prefix(params: Any, peft: Peft) -> Any:
    """Replace the network of the prefixes by what it computes; then `hidden` is 0."""
    folded = dict(params)
    for tower in _towers(params):
        transformer = dict(params[tower]["transformer"])
        blocks = jax.tree.leaves(transformer["blocks"])
        width = transformer["prefix"]["embedding"].shape[1]
        module = Prefix(peft, blocks[0].shape[0], width)
        table = module.apply({"params": transformer["prefix"]})
        transformer["prefix"] = {"table": table}
        folded[tower] = {**params[tower], "transformer": transformer}
    return folded


def _towers(params: Any) -> list[str]:
    """Return the roots of the parameters that are whole towers."""
    return [name for name in ("img", "ir", "txt") if "proj" in params.get(name, {})]
