"""Fused attention, with XLA's in the place of cuDNN's kernel: what it is given, and when."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from rsclip_jax.models import attention, clip, peft
from rsclip_jax.models.blocks import LayerNorm, Tower, Transformer, quick_gelu, recomputed

HEADS = 2
PEFT = {
    "targets": "attn/(query|value)",
    "rank": 4,
    "alpha": 4.0,
    "reduction": 4,
    "prefix": 3,
    "hidden": 8,
    "folded": False,
}
CLIP = {
    "variant": "custom",
    "sizes": (8, 32, 2, 2, 32, 2, 2, 16, 24, "gelu"),
    "image_size": 24,
    "context_length": 8,
    "vocab_size": 100,
    "eot_id": 99,
    "activation": "",
    "mean": clip.CLIP_MEAN,
    "std": clip.CLIP_STD,
    "init_scale": 10.0,
    "logit_bias": False,
    "dtype": "float32",
    "scan": True,
    "remat": "none",
    "peft": {"method": ""},
}


@pytest.fixture
def stand_in(monkeypatch):
    """Let `fused` run on a CPU; returns the lengths and the kinds of masks that it was given.

    What JAX refuses in training is refused here as well.
    """
    given = []
    xla = jax.nn.dot_product_attention

    def kernel(q, k, v, *, implementation, **options):
        assert implementation == "cudnn"
        if q.shape[1] % 2 or k.shape[1] % 2:
            raise NotImplementedError("Unsupported sequence length")
        given.append((q.shape[1], k.shape[1], options.get("mask") is not None))
        return xla(q, k, v, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(attention, "refusal", lambda dtype, head_dim: "")
    return given


def close(got, expected, tolerance=1e-5):
    """Compare two trees, each array against its greatest number."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        scale = max(0.1, float(np.abs(b).max()))
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=tolerance)


def values_and_gradients(function, *x):
    def loss(*x):
        y = function(*x)
        return jnp.sum(jnp.sin(3 * y)), y

    return jax.jit(jax.value_and_grad(loss, tuple(range(len(x))), has_aux=True))(*x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries, keys, length", [(7, 7, 7), (8, 8, 7), (7, 10, 9)])
def test_fused_attention_equals_plain(stand_in, causal, queries, keys, length):
    """Odd and even lengths, keys that are no longer real, and prefixes before the first query."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, n, HEADS, 8)).astype(np.float32) for n in (queries, keys, keys))
    prefixes = keys - queries
    mask = attention.visible(
        jnp.arange(queries)[None],
        keys,
        prefixes=prefixes,
        length=length - prefixes,
        causal=causal,
    )

    def fused(q, k, v):
        told = not (causal and prefixes)
        return attention.fused(
            q, k, v, None if told else mask, causal=told and causal, length=length
        )[:, : length - prefixes]

    def plain(q, k, v):
        return attention.plain(q, k, v, mask)[:, : length - prefixes]

    close(values_and_gradients(fused, q, k, v), values_and_gradients(plain, q, k, v))
    assert all(n % 2 == 0 for n, _, _ in stand_in)


@pytest.mark.parametrize(
    "causal, remat, method",
    [
        (False, "none", ""),
        (True, "elementwise", ""),
        (False, "full", "prefix"),
        (True, "none", "prefix"),
        (False, "none", "unipelt"),
        (True, "none", "unipelt"),
    ],
)
def test_a_tower_of_odd_length_is_the_same_with_the_kernel(stand_in, causal, remat, method):
    added = peft.make({"method": method, **PEFT})
    tower = Tower(32, 2, HEADS, remat=remat, attention="xla", peft=added)
    x = jax.random.normal(jax.random.key(0), (4, 7, 32))
    at = jnp.array([6, 2, 4, 3]) if causal else jnp.zeros(4, jnp.int32)
    params = Transformer(tower, causal).init(jax.random.key(1), x, at)

    def run(kind):
        model = Transformer(dataclasses.replace(tower, attention=kind), causal)
        return values_and_gradients(lambda p, x: model.apply(p, x, at), params, x)

    expected = run("xla")
    assert not stand_in
    close(run("auto"), expected)
    assert {given[0] for given in stand_in} == {8}


def test_texts_that_share_rows_are_the_same_with_the_fused_kernel(stand_in):
    """Two rows of seven slots hold three texts each; the eighth slot belongs to no text."""
    tower = Tower(32, 2, HEADS, attention="xla")
    x = jax.random.normal(jax.random.key(0), (2, 7, 32))
    segments = jnp.array([[0, 0, 0, 3, 3, 5, 5], [7, 7, 7, 7, 11, 12, 12]])
    at = jnp.array([[1, 4, 6, 9, 11, 13]])  # counted through both rows
    params = Transformer(tower, True).init(jax.random.key(1), x)

    def run(kind):
        model = Transformer(dataclasses.replace(tower, attention=kind), True)
        return values_and_gradients(lambda p, x: model.apply(p, x, at, segments), params, x)

    expected = run("xla")
    close(run("auto"), expected)
    assert {given for given in stand_in} == {(8, 8, True)}


def test_a_clip_is_initialised_and_embeds_the_same_with_the_fused_kernel(stand_in):
    def run(kind):
        model = clip.build(CLIP | {"attention": kind})
        params = clip.init_params(model, jax.random.key(0))
        batch = {
            "image": jax.random.normal(jax.random.key(1), (2, 24, 24, 3)),
            "text": jnp.array([[5, 6, 7, 99, 0], [8, 99, 0, 0, 0]]),
        }
        out = model.apply({"params": params}, **batch)
        return params, out["zimg"], out["ztxt"]

    close(run("auto"), run("xla"))
    assert {given[:2] for given in stand_in} >= {(10, 10), (6, 6)}  # 9 patches, 5 tokens


def test_the_kernel_is_chosen_only_where_it_applies(monkeypatch):
    assert attention.implementation("auto", "bfloat16", 64)[0] == "xla"  # the tests run on a CPU
    with pytest.raises(ValueError, match="for GPUs, and this is a CPU"):
        attention.implementation("cudnn", "bfloat16", 64)
    with pytest.raises(ValueError, match=r"config\.model\.attention='flash'"):
        attention.implementation("flash", "bfloat16", 64)
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    kind, why = attention.implementation("auto", "float32", 64)
    assert kind == "xla" and "config.model.dtype is float32" in why
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    attention.refusal.cache_clear()
    for head_dim in (32, 48, 64, 80, 128):
        assert attention.implementation("auto", "bfloat16", head_dim)[0] == "cudnn"
    kind, why = attention.implementation("auto", "bfloat16", 20)
    assert kind == "xla" and "multiple of 8" in why
    attention.refusal.cache_clear()
    old = [types.SimpleNamespace(compute_capability="7.5")]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: old)
    kind, why = attention.implementation("auto", "bfloat16", 64)
    assert kind == "xla" and "8.0 or more" in why
    attention.refusal.cache_clear()


@pytest.mark.parametrize("scan", [True, False])
def test_layer_norm_equals_float64(scan):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, 2, (2, 5, 16)), rng.normal(size=(2, 5, 16))
    scale, bias = rng.normal(size=(2, 16))
    module = LayerNorm("float32", scan)

    def run(scale, bias, x):
        return module.apply({"params": {"scale": scale, "bias": bias}}, x)

    y, back = jax.vjp(jax.jit(run), *(a.astype(np.float32) for a in (scale, bias, x)))
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
    normal = (x - x.mean(axis=-1, keepdims=True)) / deviation
    g = dy * scale
    dx = g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)
    close(y, normal * scale + bias)
    expected = ((dy * normal).sum((0, 1)), dy.sum((0, 1)), dx / deviation)
    close(back(dy.astype(np.float32)), expected)


def test_a_recomputed_activation_has_the_same_gradient():
    x = jnp.linspace(-6, 6, 101)
    expected = jax.grad(lambda x: quick_gelu(x).sum())(x)
    for scan in (True, False):
        again = jax.jit(jax.grad(lambda x, scan=scan: recomputed(quick_gelu, scan)(x).sum()))(x)
        close(again, expected)


# Bytes for each token and unit of width: Korthikanti et al. 2022 (arXiv 2205.05198), section 4.1,
# count 34 in 16 bits without the attention weights, two of them for masks of dropout.
@pytest.mark.parametrize(
    "remat, most", [("none", 1.25 * 34), ("elementwise", 24), ("dots", 20), ("full", 2.1)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_what_a_layer_keeps_for_the_backward_pass(monkeypatch, causal, remat, most):
    assert 1.9 < kept_of_a_layer(monkeypatch, "gpu", causal, remat) < most


def test_a_tpu_keeps_no_attention_weights(monkeypatch):
    assert kept_of_a_layer(monkeypatch, "tpu", False, "none") < 1.25 * 34
    stored = kept_of_a_layer(monkeypatch, "cpu", False, "none")
    assert stored > 1.25 * 34  # 2 heads of 200 x 200 numbers


def kept_of_a_layer(monkeypatch, platform, causal, remat) -> float:
    """Return the bytes that a layer keeps, for each token and unit of width."""
    monkeypatch.setattr(attention, "platform", lambda: platform)
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    attention.refusal.cache_clear()
    tokens, width = 64 * 200, 128
    x = jax.ShapeDtypeStruct((64, 200, width), jnp.bfloat16)
    at = jnp.zeros(64, jnp.int32)

    def kept(depth):
        tower = Tower(width, depth, HEADS, dtype="bfloat16", remat=remat)
        model = Transformer(tower, causal)
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        residuals = jax.eval_shape(lambda p, x: jax.vjp(model.apply, p, x, at)[1], params, x)
        leaves = jax.tree.leaves(residuals)
        # Activations; parameters do not count.
        return sum(a.size * a.dtype.itemsize for a in leaves if a.size % (64 * 200) == 0)

    layer = (kept(5) - kept(3)) / 2 / tokens / width
    attention.refusal.cache_clear()
    return layer
