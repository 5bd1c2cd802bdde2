"""The weighted sum over pairs: masks, schedules, principal components, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rsclip_jax.losses.pairs import DUAL_TEXT_PRESETS, check_pairs, pair_weights, total_loss

DUAL = (("img", "txt_long", 1.0), ("img", "txt", 0.1))
TRIMODAL = (("img", "txt", 1.0), ("ir", "txt", 1.0), ("img", "ir", 2.0))
ROWS, WIDTH = 16, 24


def outputs(names=("img", "ir", "txt", "txt_long"), seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(ROWS, WIDTH))
    out = {"t": np.float32(10.0), "b": np.float32(-2.0)}
    for name in names:
        z = shared + rng.normal(size=shared.shape)
        out["z" + name] = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    return out


def softmax_loss(za, zb, scale, smoothing=0.0):
    """Return the loss in float64."""
    logits = scale * za.astype(np.float64) @ zb.astype(np.float64).T
    n = len(logits)
    targets = (1 - smoothing) * np.eye(n) + smoothing / n

    def cross_entropy(x):
        return -(targets * (x - np.log(np.exp(x).sum(axis=1, keepdims=True)))).sum() / n

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def test_total_is_the_weighted_sum_and_every_pair_is_reported():
    out = outputs()
    loss, metrics = total_loss(out, DUAL, label_smoothing=0.1)
    long = softmax_loss(out["zimg"], out["ztxt_long"], out["t"], 0.1)
    short = softmax_loss(out["zimg"], out["ztxt"], out["t"], 0.1)
    np.testing.assert_allclose(loss, long + 0.1 * short, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_img_txt_long"], long, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_img_txt"], short, rtol=1e-5)
    np.testing.assert_allclose(metrics["weight_img_txt"], 0.1, rtol=1e-6)
    right = np.arange(ROWS)
    cosine = out["zimg"] @ out["ztxt"].T
    np.testing.assert_allclose(metrics["acc_img_txt"], (cosine.argmax(1) == right).mean())
    np.testing.assert_allclose(metrics["acc_txt_img"], (cosine.argmax(0) == right).mean())
    assert set(metrics) == {
        f"{kind}_{pair}"
        for kind in ("loss", "weight", "acc")
        for pair in ("img_txt_long", "img_txt")
    } | {"acc_txt_long_img", "acc_txt_img"}


def test_normalize_divides_by_the_sum_of_the_weights():
    out = outputs()
    r, i, t, s = out["zimg"], out["zir"], out["ztxt"], out["t"]
    want = (softmax_loss(r, t, s) + softmax_loss(i, t, s) + 2 * softmax_loss(r, i, s)) / 4
    np.testing.assert_allclose(total_loss(out, TRIMODAL, normalize=True)[0], want, rtol=1e-5)


def test_a_missing_modality_leaves_only_its_own_pairs():
    out = outputs()
    has_ir, has_txt = np.arange(ROWS) % 3 != 0, np.arange(ROWS) % 4 != 0
    out["zir"][~has_ir] = 0.0
    _, metrics = total_loss(out, TRIMODAL, masks={"ir": has_ir, "txt": has_txt})
    for a, b, rows in (
        ("img", "txt", has_txt),
        ("ir", "txt", has_ir & has_txt),
        ("img", "ir", has_ir),
    ):
        want = softmax_loss(out["z" + a][rows], out["z" + b][rows], out["t"])
        np.testing.assert_allclose(metrics[f"loss_{a}_{b}"], want, rtol=1e-5)


def test_components_replace_only_the_image_of_the_short_text_pair():
    out = outputs()
    x = out["zimg"].astype(np.float64)
    mu = x.mean(axis=0)
    v = np.linalg.svd(x - mu, full_matrices=False)[2][:3]
    rebuilt = (x - mu) @ v.T @ v + mu
    _, metrics = total_loss(out, DUAL, pcm_dim=3)
    want = softmax_loss(rebuilt, out["ztxt"], out["t"])
    np.testing.assert_allclose(metrics["loss_img_txt"], want, rtol=1e-5)
    want = softmax_loss(out["zimg"], out["ztxt_long"], out["t"])
    np.testing.assert_allclose(metrics["loss_img_txt_long"], want, rtol=1e-5)
    flipped = total_loss(out, (("txt", "img", 1.0),), pcm_dim=3)[1]
    np.testing.assert_allclose(flipped["loss_txt_img"], metrics["loss_img_txt"], rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"pcm_dim": 3, "label_smoothing": 0.1},
        {"kind": "sigmoid"},
        {"stop_gradient_gather": True},
    ],
)
def test_eight_devices_equal_one_in_loss_metrics_and_gradients(options):
    out = outputs()
    pairs = DUAL + (("img", "ir", 0.5),)
    mask = np.arange(ROWS) % 3 != 0

    def run(mesh):
        def loss_fn(out, mask):
            return total_loss(out, pairs, masks={"ir": mask}, mesh=mesh, **options)

        args = (out, mask)
        if mesh is not None:
            rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
            args = jax.tree.map(lambda x: jax.device_put(x, rows) if x.ndim else x, args)
        return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(*args)

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    for x, y in zip(jax.tree.leaves(run(mesh)), jax.tree.leaves(run(None)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_constant_weights_are_those_of_the_pairs():
    np.testing.assert_array_equal(pair_weights(5, 10, DUAL), np.float32([1.0, 0.1]))


def test_curriculum_follows_a_cosine_between_its_fractions():
    curriculum = ((1.0, 0.0), (0.5, 0.6), 0.2, 0.8)
    weights = jax.jit(lambda step: pair_weights(step, 1000, DUAL, curriculum))
    for step, share in ((0, 0.0), (200, 0.0), (350, (1 - np.sqrt(0.5)) / 2), (500, 0.5)):
        want = [1.0 - 0.5 * share, 0.6 * share]
        np.testing.assert_allclose(weights(step), want, atol=1e-6)
    for step in (800, 1000, 2000):
        np.testing.assert_allclose(weights(step), [0.5, 0.6], atol=1e-6)


def test_scheduled_weights_take_the_place_of_the_pairs_own():
    out = outputs()

    @jax.jit
    def loss_at(step):
        weights = pair_weights(step, 100, DUAL, ((1.0, 0.0), (0.5, 0.5), 0.0, 1.0))
        return total_loss(out, DUAL, weights=weights)

    loss, metrics = loss_at(50)
    np.testing.assert_allclose(metrics["weight_img_txt"], 0.25, rtol=1e-6)
    want = 0.75 * metrics["loss_img_txt_long"] + 0.25 * metrics["loss_img_txt"]
    np.testing.assert_allclose(loss, want, rtol=1e-6)


@pytest.mark.parametrize("name", DUAL_TEXT_PRESETS)
def test_presets_are_options_of_the_loss(name):
    loss, metrics = total_loss(outputs(), **DUAL_TEXT_PRESETS[name])
    assert jnp.isfinite(loss)
    np.testing.assert_allclose(
        metrics["weight_img_txt"], 0.1 if name == "longclip_first" else 1.0, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "is empty"),
        (("img", "txt", 1.0), "expected \\(name, name, weight\\), got 'img'"),
        ((("img", "txt"),), "expected \\(name, name, weight\\)"),
        ((("img", "txt_lnog", 1.0),), "did you mean 'txt_long'"),
        ((("img", "img", 1.0),), "with itself"),
        ((("img", "txt", 1.0), ("txt", "img", 1.0)), "twice"),
        ((("img", "txt", -1.0),), "finite weight >= 0"),
        ((("img", "txt", float("nan")),), "finite weight >= 0"),
        ((("img", "txt", "1"),), "finite weight >= 0"),
        ((("img", "txt", 0.0),), "all weights are 0"),
    ],
)
def test_wrong_pairs_are_refused_by_name(pairs, message):
    with pytest.raises(ValueError, match="config.loss_pairs.*" + message):
        check_pairs(pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_pairs": (("img", "txt_ir", 1.0),)}, "add 'text_ir' to config.input.lengths"),
        ({"loss_pairs": (("img", "txt_long", 1.0),), "pcm_dim": 3}, "pcm_dim = 3 acts on"),
        ({"pcm_dim": 3, "masks": {"img": np.ones(ROWS, bool)}}, "no 'img' mask"),
        ({"masks": {"zir": np.ones(ROWS, bool)}}, "unknown names"),
        ({"weights": [1.0]}, "one number for each of the 2"),
        ({"kind": "sigmoid", "out": outputs() | {"b": None}}, "bias"),
        ({"kind": "hinge"}, "unknown loss kind"),
    ],
)
def test_options_the_model_cannot_serve_are_refused(options, message):
    options = {"out": outputs(), "loss_pairs": DUAL} | options
    options["out"] = {key: x for key, x in options["out"].items() if x is not None}
    with pytest.raises(ValueError, match=message):
        total_loss(**options)


@pytest.mark.parametrize(
    "curriculum",
    [
        ((1.0, 0.0), (0.5, 0.5), 0.2),
        ((1.0,), (0.5, 0.5), 0.2, 0.8),
        ((1.0, -0.1), (0.5, 0.5), 0.2, 0.8),
        ((0.0, 0.0), (0.5, 0.5), 0.2, 0.8),
        ((1.0, 0.0), (0.5, 0.5), 0.8, 0.2),
        ((1.0, 0.0), (0.5, 0.5), 0.2, 1.2),
        (1.0, 0.5, 0.2, 0.8),
    ],
)
def test_wrong_curriculum_is_refused(curriculum):
    with pytest.raises(ValueError, match=r"config\.loss\.curriculum must be"):
        pair_weights(0, 10, DUAL, curriculum)
