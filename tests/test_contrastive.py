"""The contrastive losses against float64 NumPy, on one and on 8 simulated devices."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rsclip_jax.losses.contrastive import contrastive_loss, pair_loss, sigmoid_loss

GOLDEN = Path(__file__).parent / "data" / "golden" / "longclip_tiny.npz"
SCALE, BIAS = 14.0, -3.0
MASK = np.random.default_rng(7).random(32) < 0.6
SAME = np.random.default_rng(8).integers(0, 12, (2, 32, 1))  # two keys, equal for some rows


def normalize(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(rows=32, width=16, seed=0):
    """Pairs that agree in part: losses and accuracies away from both extremes."""
    rng = np.random.default_rng(seed)
    za = normalize(rng.normal(size=(rows, width)))
    zb = normalize(za + 0.3 * rng.normal(size=(rows, width)))
    return za.astype(np.float32), zb.astype(np.float32)


def make_mesh(shape):
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def reference(za, zb, scale, bias=None, smoothing=0.0, mask=None, same=(), stopped=False):
    """Return loss, gradients (za, zb, scale, bias) and accuracies in float64, row by row."""
    here = np.arange(len(za)) if mask is None else np.flatnonzero(mask)
    a, b = za[here].astype(np.float64), zb[here].astype(np.float64)
    n, cosine = len(here), a @ b.T
    logits = scale * cosine + (bias or 0.0)
    among = np.ones((n, n))  # which rows are candidates of which
    for key in same:
        among *= key[here] != key[here].T
    np.fill_diagonal(among, 1)
    if bias is None:
        targets = (1 - smoothing) * np.eye(n) + smoothing * among / among.sum(1, keepdims=True)

        def cross_entropy(x):
            log_p = x - np.log((among * np.exp(x)).sum(axis=1, keepdims=True))
            return -(targets * log_p).sum() / n, (among * np.exp(log_p) - targets) / n

        loss_ab, grad_ab = cross_entropy(logits)
        loss_ba, grad_ba = cross_entropy(logits.T)
        loss, grad_ab, grad_ba = (loss_ab + loss_ba) / 2, grad_ab / 2, grad_ba.T / 2
    else:
        y = 2 * np.eye(n) - 1
        loss = (among * np.log1p(np.exp(-y * logits))).sum() / n
        grad_ab = -among * y / (1 + np.exp(y * logits)) / n
        grad_ba = np.zeros_like(grad_ab)
    grad = grad_ab + grad_ba
    to_a, to_b = (grad_ab, grad_ba) if stopped else (grad, grad)
    dza, dzb = np.zeros(za.shape), np.zeros(zb.shape)
    dza[here], dzb[here] = scale * to_a @ b, scale * to_b.T @ a
    scores = np.where(among, logits, -np.inf)
    accuracy = [(x.argmax(axis=1) == np.arange(n)).mean() for x in (scores, scores.T)]
    return loss, (dza, dzb, (grad * cosine).sum(), grad.sum()), accuracy


def value_and_grad(za, zb, scale, bias, mesh, **options):
    def loss_fn(za, zb, scale, bias, mask, same):
        return pair_loss(
            za,
            zb,
            scale,
            bias=bias if options.get("kind") == "sigmoid" else None,
            mesh=mesh,
            **{**options, "mask": mask, "same": same},
        )

    args = [za, zb, scale, bias, options.pop("mask", None), tuple(options.pop("same", ()))]
    if mesh is not None:
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        args = jax.tree.map(lambda x: jax.device_put(x, rows) if np.ndim(x) else x, args)
    return jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1, 2, 3), has_aux=True))(*args)


def assert_equal(got, want):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6 * np.abs(y).max())


def compiled_step(shape, rows, width, **options):
    """Compile loss and gradients for embeddings sharded over a mesh."""
    mesh = make_mesh(shape)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    z = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=sharding)
    loss_fn = partial(pair_loss, mesh=mesh, **options)
    step = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1, 2), has_aux=True))
    return step.lower(z, z, SCALE).compile()


CASES = {
    "softmax": {},
    "smoothing": {"label_smoothing": 0.1},
    "mask": {"mask": MASK},
    "mask and smoothing": {"mask": MASK, "label_smoothing": 0.1},
    "stopped": {"stop_gradient_gather": True, "label_smoothing": 0.1, "mask": MASK},
    "same": {"same": SAME},
    "same, mask and smoothing": {"same": SAME[:1], "mask": MASK, "label_smoothing": 0.1},
    "sigmoid": {"kind": "sigmoid"},
    "sigmoid and same": {"kind": "sigmoid", "same": SAME},
    "sigmoid and mask": {"kind": "sigmoid", "mask": MASK},
}


def assert_exact(za, zb, shape, options, **how):
    """Check loss, gradients and accuracies against the reference."""
    (loss, accuracy), grads = value_and_grad(
        za, zb, SCALE, BIAS, shape and make_mesh(shape), **options, **how
    )
    want, want_grads, want_accuracy = reference(
        za,
        zb,
        SCALE,
        bias=BIAS if options.get("kind") == "sigmoid" else None,
        smoothing=options.get("label_smoothing", 0.0),
        mask=options.get("mask"),
        same=options.get("same", ()),
        stopped=options.get("stop_gradient_gather", False),
    )
    if options.get("kind") != "sigmoid":
        assert grads[3] == 0.0
        grads, want_grads = grads[:3], want_grads[:3]
    assert_equal(loss, want)
    assert_equal(grads, want_grads)
    assert 0.0 < min(want_accuracy) and max(want_accuracy) < 1.0
    assert_equal([accuracy["acc_ab"], accuracy["acc_ba"]], want_accuracy)


@pytest.mark.parametrize("shape", [None, (1, 1), (4, 2)])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_accuracies_equal_float64_numpy_on_any_mesh(case, shape):
    assert_exact(*embeddings(), shape, CASES[case])


@pytest.mark.parametrize(
    ("case", "shape", "chunk"),
    [
        ("same, mask and smoothing", None, 5),
        ("same, mask and smoothing", (2, 1), 7),
        ("same, mask and smoothing", (4, 1), 3),
        ("same, mask and smoothing", (4, 2), 3),
        ("sigmoid and same", None, 5),
        ("sigmoid and mask", (2, 1), 16),
        ("sigmoid and mask", (4, 1), 1),
        ("sigmoid and same", (4, 2), 3),
        ("stopped", (4, 2), 3),
        ("softmax", (2, 4), 0),
    ],
)
def test_the_ring_is_as_exact_with_any_devices_and_chunk(case, shape, chunk):
    options = CASES[case]
    za, zb = embeddings()
    if "mask" in options:
        za[~MASK], zb[~MASK] = np.nan, np.inf  # must not matter
    assert_exact(za, zb, shape, options, impl="ring", chunk=chunk)


def test_the_ring_without_any_participant_gives_zeros():
    za, zb = embeddings()
    options = {**CASES["same, mask and smoothing"], "mask": np.zeros(32, bool)}
    result = value_and_grad(za, zb, SCALE, BIAS, make_mesh((4, 2)), impl="ring", chunk=3, **options)
    for leaf in jax.tree.leaves(result):
        assert not np.any(leaf)


def test_the_ring_counts_ties_between_its_blocks_as_misses():
    half = embeddings(rows=16)[0]
    z = np.concatenate([half, half])
    for mesh in (None, make_mesh((2, 1))):
        _, accuracy = jax.jit(partial(pair_loss, impl="ring", chunk=5, mesh=mesh))(z, z, SCALE)
        assert accuracy["acc_ab"] == accuracy["acc_ba"] == 0.0


def test_the_ring_holds_neither_its_rows_logits_nor_their_memory():
    gather, ring = (compiled_step((4, 2), 1024, 32, impl=impl) for impl in ("gather", "ring"))
    logits = re.compile(r"\[128,(128|1024)\]")
    assert logits.search(gather.as_text()) and not logits.search(ring.as_text())
    assert "[16,128]" in ring.as_text()  # the blocks
    memory = [x.memory_analysis().temp_size_in_bytes for x in (gather, ring)]
    assert memory[1] < 8 * 128 * 32 * 4 < memory[0] / 8  # 8 times a device's embeddings


@pytest.mark.parametrize(("shape", "rows"), [(None, 4096), ((4, 2), 11584)])
def test_auto_is_the_ring_above_64_mib_of_logits_on_a_device(shape, rows):
    mesh = shape and make_mesh(shape)
    for batch, ring in ((rows, False), (rows + 8, True)):
        z = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
        program = jax.make_jaxpr(partial(pair_loss, mesh=mesh))(z, z, SCALE)
        assert ("custom_vjp" in str(program)) == ring


@pytest.mark.parametrize(
    ("text", "smoothing", "name"),
    [("z_long", 0.0, "loss_long"), ("z_short", 0.0, "loss_short")]
    + [("z_long", 0.1, "loss_long_smooth01")],
)
def test_loss_equals_longclips(text, smoothing, name):
    golden = np.load(GOLDEN)
    loss = contrastive_loss(
        normalize(golden["z_image"]),
        normalize(golden[text]),
        np.exp(golden["param/logit_scale"]),
        smoothing,
    )
    np.testing.assert_allclose(loss, golden[name], rtol=1e-5)


def test_sigmoid_loss_equals_its_formula():
    za, zb = embeddings()
    want = reference(za, zb, SCALE, bias=BIAS)[0]
    np.testing.assert_allclose(sigmoid_loss(za, zb, SCALE, BIAS), want, rtol=1e-5)


@pytest.mark.parametrize("shape", [None, (4, 2)])
def test_stopped_gather_equals_a_loss_with_detached_candidates(shape):
    za, zb = embeddings()

    def explicit(za, zb, scale):
        def cross_entropy(logits):
            return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))

        image_to_text = cross_entropy(scale * za @ jax.lax.stop_gradient(zb).T)
        text_to_image = cross_entropy(scale * zb @ jax.lax.stop_gradient(za).T)
        return 0.5 * (image_to_text + text_to_image)

    mesh = shape and make_mesh(shape)
    (loss, _), grads = value_and_grad(za, zb, SCALE, BIAS, mesh, stop_gradient_gather=True)
    want, want_grads = jax.value_and_grad(explicit, argnums=(0, 1, 2))(za, zb, SCALE)
    assert_equal((loss, grads[:3]), (want, want_grads))
    exact = value_and_grad(za, zb, SCALE, BIAS, mesh)[1]
    assert np.abs(exact[0] - grads[0]).max() > 1e-3  # the flag leaves something out
    assert_equal(exact[2], grads[2])  # but nothing of the scale's gradient


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [None, (4, 2)])
def test_without_any_participant_loss_and_gradients_are_zero(kind, shape):
    za, zb = embeddings()
    za[3] = np.nan
    (loss, accuracy), grads = value_and_grad(
        za, zb, SCALE, BIAS, shape and make_mesh(shape), kind=kind, mask=np.zeros(32, bool)
    )
    for leaf in jax.tree.leaves((loss, accuracy, grads)):
        assert not np.any(leaf)


def test_what_a_masked_row_holds_does_not_matter():
    za, zb = embeddings()
    clean = value_and_grad(za, zb, SCALE, BIAS, make_mesh((4, 2)), mask=MASK)
    za[~MASK], zb[~MASK] = np.nan, np.inf
    dirty = value_and_grad(za, zb, SCALE, BIAS, make_mesh((4, 2)), mask=MASK)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert not np.any(dirty[1][0][~MASK])


def test_a_collapsed_model_scores_no_accuracy():
    z = np.full((8, 4), 0.5, np.float32)
    loss, accuracy = pair_loss(z, z, SCALE)
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-6)
    assert accuracy["acc_ab"] == accuracy["acc_ba"] == 0.0


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_bfloat16_embeddings_give_the_float32_loss_of_their_values(kind):
    za, zb = (jnp.asarray(z, jnp.bfloat16) for z in embeddings())
    bias = BIAS if kind == "sigmoid" else None
    loss, _ = pair_loss(za, zb, jnp.bfloat16(SCALE), kind=kind, bias=bias)
    want = reference(np.asarray(za), np.asarray(zb), SCALE, bias=bias)[0]
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_no_device_holds_the_logits_of_all_devices(kind):
    rows = 72  # a size that nothing else in the program has
    options = {"kind": "sigmoid", "bias": BIAS} if kind == "sigmoid" else {}
    whole, part = re.compile(rf"\[{rows},{rows}\]"), re.compile(rf"\[{rows // 8},{rows}\]")
    one = compiled_step((1, 1), rows, 16, **options).as_text()
    assert whole.search(one)  # the search would find them
    eight = compiled_step((4, 2), rows, 16, **options).as_text()
    assert part.search(eight)
    assert not whole.search(eight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hinge"}, "unknown loss kind 'hinge'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in"),
        ({"bias": 0.0}, "no bias"),
        ({"kind": "sigmoid"}, "needs a bias"),
        ({"kind": "sigmoid", "bias": 0.0, "label_smoothing": 0.1}, "belong to the softmax"),
        ({"kind": "sigmoid", "bias": 0.0, "stop_gradient_gather": True}, "belong to the softmax"),
        ({"mask": np.ones(12)}, "mask must be bool"),
        ({"mesh": (4, 2)}, "config.input.batch_size"),
        ({"impl": "blocks"}, "config.loss.impl='blocks'"),
        ({"impl": "ring", "chunk": -1}, "config.loss.chunk=-1"),
        ({"impl": "gather", "chunk": 8}, "config.loss.chunk=8 with config.loss.impl='gather'"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    if "mesh" in options:
        options = {"mesh": make_mesh(options["mesh"])}
    za, zb = embeddings(rows=12)
    with pytest.raises(ValueError, match=message):
        pair_loss(za, zb, SCALE, **options)


def test_embeddings_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        contrastive_loss(np.ones((4, 3)), np.ones((4, 2)), 1.0)
