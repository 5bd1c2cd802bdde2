"""Parameter-efficient tuning against a float64 transformer written out, and its promises."""

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import defaults
from rsclip_jax.models import clip, peft
from rsclip_jax.models.blocks import Tower, Transformer

COUNTS = {"lora": 491_520, "pfeiffer": 1_294_272, "prefix": 16_454_144, "unipelt": 18_275_872}


def config_of(method, **fields):
    config = defaults.get_config().model.peft.to_dict()
    return ConfigDict({**config, "method": method, **fields})


@pytest.mark.parametrize("method", list(COUNTS))
def test_as_many_parameters_are_trained_as_in_the_paper(method):
    config = defaults.get_config().model
    config.peft = config_of(method)
    config.vocab_size, config.eot_id = 49408, 49407
    model = clip.build(config)
    params = jax.eval_shape(lambda: clip.init_params(model, jax.random.key(0)))
    names = {
        "/".join(str(key.key) for key in path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    import re

    added = sum(size for name, size in names.items() if re.fullmatch(peft.ADDED, name))
    assert added == COUNTS[method]
    assert sum(names.values()) - added == 151_277_313


def randomised(params, seed=0):
    """Give every parameter random values, so that none of them is without effect."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.2 * jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def written_out(x, params, cfg, causal, end):
    """The transformer of one text or image, float64, a loop over layers and heads.

    x: [L, D]; end: number of real tokens.
    """
    p64 = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    x, given = np.asarray(x, np.float64), cfg.peft
    length, width = x.shape
    size = width // cfg.heads
    gate = lambda h, p: sigmoid(h[:end] @ p["kernel"] + p["bias"]).mean()  # noqa: E731
    if given.prefix:
        p = p64["prefix"]
        hidden = np.tanh(p["embedding"] @ p["fc1"]["kernel"] + p["fc1"]["bias"])
        made = hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"]
        made = made.reshape(given.prefix, cfg.depth, 2, width)
    for layer in range(cfg.depth):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p64["blocks"])

        def dense(h, group, name, block=block):
            p = block[group]
            y = h @ p[name]["kernel"] + p[name]["bias"]
            if f"lora_{name}" in p:
                lora = p[f"lora_{name}"]
                scale = gate(h, lora["gate"]) if given.gated else given.alpha / given.rank
                y = y + h @ lora["a"] @ lora["b"] * scale
            return y

        h = layer_norm(x, block["ln_1"])
        q, k, v = (dense(h, "attn", name) for name in ("query", "key", "value"))
        before = 0
        if given.prefix:
            open_ = gate(h, block["attn"]["gate_prefix"]) if given.gated else 1.0
            k = np.concatenate([made[:, layer, 0] * open_, k])
            v = np.concatenate([made[:, layer, 1] * open_, v])
            before = given.prefix
        out = np.zeros_like(x)
        for head in range(cfg.heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(length):
                seen = before + i + 1 if causal else before + length
                logits = k[:seen, part] @ q[i, part] / np.sqrt(size)
                weights = np.exp(logits - logits.max())
                out[i, part] = weights @ v[:seen, part] / weights.sum()
        x = x + dense(out, "attn", "out")
        h = dense(layer_norm(x, block["ln_2"]), "mlp", "fc1")
        x = x + dense(h * sigmoid(1.702 * h), "mlp", "fc2")
        if given.reduction:
            p = block["adapter"]
            y = np.maximum(x @ p["down"]["kernel"] + p["down"]["bias"], 0)
            y = y @ p["up"]["kernel"] + p["up"]["bias"]
            x = x + y * (gate(x, p["gate"]) if given.gated else 1.0)
    return x


ALL = ".*"  # every dense layer


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("lora", {}),
        ("lora", {"targets": ALL, "rank": 3, "alpha": 12.0}),
        ("pfeiffer", {}),
        ("prefix", {"prefix": 4}),
        ("unipelt", {"prefix": 3, "targets": ALL}),
    ],
)
def test_towers_equal_a_transformer_written_out(method, fields, causal):
    given = peft.make(config_of(method, **fields))
    cfg = Tower(32, 3, 2, peft=given)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 7, 32)), jnp.float32)
    at = jnp.array([6, 3]) if causal else jnp.zeros(2, jnp.int32)
    model = Transformer(cfg, causal)
    params = randomised(jax.jit(model.init)(jax.random.key(0), x, at)["params"])
    found = jax.jit(model.apply)({"params": params}, x, at)
    for row in range(2):
        end = int(at[row]) + 1 if causal else 7
        expected = written_out(x[row], params, cfg, causal, end)[int(at[row])]
        np.testing.assert_allclose(found[row, 0], expected, rtol=2e-4, atol=2e-4)
    for other in ({"scan": False}, {"remat": "full"}):
        again = Transformer(Tower(32, 3, 2, peft=given, **other), causal)
        same = jax.jit(again.apply)({"params": params}, x, at)
        np.testing.assert_allclose(same, found, atol=1e-5)


def golden_with(method, **fields):
    """Return (base model, its params, the model with `method`, its params, arrays)."""
    base, params, arrays = golden_models.load("openclip_tiny_quickgelu")
    given = peft.make(config_of(method, **fields))
    model = base.clone(
        image=dataclass_with(base.image, given), text=dataclass_with(base.text, given)
    )
    fresh = clip.init_params(model, jax.random.key(3))
    return base, params, model, overlay(fresh, params), arrays


def dataclass_with(tower, given):
    import dataclasses

    return dataclasses.replace(tower, peft=given)


def overlay(fresh, base):
    if not isinstance(fresh, dict):
        return base
    return {k: overlay(v, base[k]) if k in base else v for k, v in fresh.items()}


def embed(model, params, arrays):
    apply = jax.jit(model.apply)
    out = apply({"params": params}, image=arrays["image"], text=arrays["tokens"])
    return np.concatenate([out["zimg"], out["ztxt"]])


def test_lora_leaves_the_base_as_it_is_until_trained():
    base, params, model, both, arrays = golden_with("lora")
    np.testing.assert_array_equal(embed(model, both, arrays), embed(base, params, arrays))


def test_lora_merges_into_the_base():
    base, _, model, params, arrays = golden_with("lora", targets=ALL, alpha=4.0)
    params = randomised(params)
    merged = peft.merge_lora(params, model.image.peft)
    like = jax.eval_shape(lambda: clip.init_params(base, jax.random.key(0)))
    assert jax.tree.structure(merged) == jax.tree.structure(like)
    found, expected = embed(base, merged, arrays), embed(model, params, arrays)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plain = {k: v for k, v in golden_models.load("openclip_tiny_quickgelu")[1].items()}
    assert np.abs(expected - embed(base, plain, arrays)).max() > 0.1


def test_prefixes_fold():
    _, _, model, params, arrays = golden_with("prefix", prefix=5)
    params = randomised(params)
    folded = peft.fold_prefix(params, model.image.peft)
    given = peft.make(config_of("prefix", prefix=5, folded=True))
    short = model.clone(
        image=dataclass_with(model.image, given), text=dataclass_with(model.text, given)
    )
    like = jax.eval_shape(lambda: clip.init_params(short, jax.random.key(0)))
    assert jax.tree.structure(folded) == jax.tree.structure(like)
    np.testing.assert_allclose(
        embed(short, folded, arrays), embed(model, params, arrays), atol=1e-5
    )
    assert "embedding" not in folded["img"]["transformer"]["prefix"]


@pytest.mark.parametrize("method", list(COUNTS))
def test_padding_behind_a_text_changes_nothing(method):
    _, _, model, params, arrays = golden_with(method)
    params = randomised(params)
    ids = arrays["tokens"]
    lengths = (ids == model.eot_id).argmax(axis=1) + 1
    encode = jax.jit(lambda ids: model.apply({"params": params}, text=ids)["ztxt"])
    np.testing.assert_allclose(encode(ids[:, : lengths.max()]), encode(ids), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "lorra"}, "expected one of lora, pfeiffer, prefix, unipelt"),
        ({"rank": 0}, "peft.rank=0: expected 1 or more"),
        ({"targets": "query"}, r"targets='query' matches none of attn/query"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        peft.make(config_of(**{"method": "lora", **fields}))
