"""Principal component matching against Long-CLIP, float64 SVD and finite differences."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rsclip_jax.losses.pcm import principal_components

GOLDEN = Path(__file__).parent / "data" / "golden" / "longclip_tiny.npz"
SHAPES = [(12, 20), (40, 10)]  # decomposed as [B, B], as [D, D]


def reference(x, k):
    """Return the reconstruction from k components by a float64 SVD."""
    x = np.asarray(x, np.float64)
    mu = x.mean(axis=0)
    _, _, v = np.linalg.svd(x - mu, full_matrices=False)
    return (x - mu) @ v[:k].T @ v[:k] + mu


def with_singular_values(rows, columns, values, seed=0):
    """Return x [rows, columns] whose centred rows have exactly these singular values."""
    rng = np.random.default_rng(seed)
    left = rng.normal(size=(rows, len(values)))
    left = np.linalg.qr(left - left.mean(axis=0))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return left @ np.diag(values) @ right.T + rng.normal(size=columns)


def gradient(x, k, sharding=None):
    """Return the gradient of a fixed random functional of the reconstruction."""
    weight = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    x = jnp.asarray(x, jnp.float32)
    if sharding is not None:
        x, weight = jax.device_put(x, sharding), jax.device_put(weight, sharding)
    grad = jax.jit(jax.grad(lambda x, w: jnp.sum(w * principal_components(x, k))))
    return weight, np.asarray(grad(x, weight))


def test_reconstruction_equals_longclips():
    golden = np.load(GOLDEN)
    z = golden["z_image"] / np.linalg.norm(golden["z_image"], axis=1, keepdims=True)
    np.testing.assert_allclose(principal_components(z, 2), golden["pca2"], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_reconstruction_equals_float64_svd(shape):
    x = np.random.default_rng(2).normal(size=shape)
    np.testing.assert_allclose(principal_components(jnp.array(x), 4), reference(x, 4), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_float64_finite_differences(shape):
    x = with_singular_values(*shape, [4.0, 3.3, 2.5, 1.4, 1.0, 0.6])
    weight, grad = gradient(x, 3)
    want = np.zeros(shape)
    for index in np.ndindex(shape):
        step = np.zeros(shape)
        step[index] = 1e-5
        change = reference(x + step, 3) - reference(x - step, 3)
        want[index] = np.sum(weight * change) / 2e-5
    np.testing.assert_allclose(grad, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [9, 11, 64])
def test_with_enough_components_it_is_the_identity(shape, k):
    """Rank 9: for k = 9 the values decide it, for 11 and 64 mostly the shape."""
    x = with_singular_values(*shape, np.linspace(1, 2, 9)).astype(np.float32)
    weight, grad = gradient(x, k)
    np.testing.assert_allclose(principal_components(x, k), x, atol=1e-5)
    np.testing.assert_allclose(grad, weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "values",
    [
        [2.0, 1.0, 1.0, 1.0, 0.5],  # the last kept one equals the first dropped one
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 1e-4, 1e-8, 1e-9],  # dropped ones far below rounding
        [1.0, 0.5, 1e-3, 1e-3 * (1 + 1e-6), 1e-3],
        [1.0],
    ],
)
def test_gradient_stays_bounded_where_singular_values_repeat_or_vanish(shape, values):
    x = with_singular_values(*shape, values)
    weight, grad = gradient(x, 2)
    assert np.isfinite(grad).all()
    assert np.linalg.norm(grad) < 20 * np.linalg.norm(weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_finite_for_constant_and_duplicate_rows(shape):
    rng = np.random.default_rng(3)
    unique = rng.normal(size=(4, shape[1]))
    for x in (
        np.zeros(shape),
        np.ones(shape),
        np.repeat(unique, shape[0] // 4, axis=0),
        np.concatenate([unique, np.repeat(unique[:1], shape[0] - 4, axis=0)]),
    ):
        for k in (1, 3, 5):
            weight, grad = gradient(x, k)
            assert np.isfinite(grad).all()
            assert np.linalg.norm(grad) < 20 * np.linalg.norm(weight)
            np.testing.assert_allclose(
                principal_components(jnp.array(x), k), reference(x, k), atol=1e-5
            )


@pytest.mark.parametrize("shape", [(16, 20), (40, 10)])
def test_eight_devices_equal_one(shape):
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    sharded = jax.jit(principal_components, static_argnums=1)(jax.device_put(x, sharding), 4)
    np.testing.assert_allclose(sharded, principal_components(x, 4), atol=1e-5)
    np.testing.assert_allclose(sharded, reference(x, 4), atol=1e-5)
    np.testing.assert_allclose(gradient(x, 4, sharding)[1], gradient(x, 4)[1], rtol=1e-4, atol=1e-4)


def test_no_component_is_refused():
    with pytest.raises(ValueError, match="k >= 1, got 0"):
        principal_components(np.ones((4, 4)), 0)
