"""Principal component matching (Long-CLIP, section 3.3): keep what matters of an image embedding.

Long-CLIP takes the components of each GPU's own batch, so its result changes with the number of
GPUs; here they are those of the global batch. As there, the result is not L2-normalised again.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

_matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def principal_components(x: jax.Array, k: int) -> jax.Array:
    """Return the rows of x rebuilt from their first k principal components.

    (x - mu) V_k V_k^T + mu, with mu the mean row and V_k the first k right singular vectors of
    x - mu. With k >= rank(x - mu), at most min(B - 1, D), this is x itself, gradient included.

    The gradient is that of the projector: finite where singular values repeat or vanish (see
    `_projector`), and exact wherever the kept and the dropped ones are apart.

    Args:
      x: [B, D], computed in float32. B may be sharded: under jit, use the global batch.
      k: number of components, >= 1.

    Returns:
      float32 [B, D].

    Raises:
      ValueError: k < 1.
    """
    if k < 1:
        raise ValueError(f"principal_components needs k >= 1, got {k}")
    x = x.astype(jnp.float32)
    rows, columns = x.shape
    if k >= min(rows - 1, columns):
        return x
    mu = jnp.mean(x, axis=0)
    centred = x - mu
    if rows < columns:  # U_k U_k^T X = X V_k V_k^T: decompose the smaller of the two squares
        return _matmul(_projector(_matmul(centred, centred.T), k), centred) + mu
    return _matmul(centred, _projector(_matmul(centred.T, centred), k)) + mu


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _projector(s: jax.Array, k: int) -> jax.Array:
    """Return the projector on the k leading eigenvectors of s (symmetric, no negative eigenvalue).

    The derivative of eigenvectors divides by the gap between every two eigenvalues; that of their
    projector only by the gaps between a kept and a dropped one, and only those terms are computed:
    dP = sum_ij (u_i^T dS u_j) / (lambda_i - lambda_j) (u_i u_j^T + u_j u_i^T), i kept, j dropped.
    Below a gap of 0.1 % of lambda_i + lambda_j the divisor stops shrinking and the term fades to 0.
    """
    return _project(*_kept_eigenvectors(s, k)[1:])


@_projector.defjvp
def _projector_jvp(k, primals, tangents):
    values, vectors, kept = _kept_eigenvectors(primals[0], k)
    gap = jnp.abs(values[:, None] - values[None, :])
    smallest = 1e-3 * (values[:, None] + values[None, :]) + _noise(values) + 1e-12
    inverse_gap = gap / jnp.maximum(gap, smallest) ** 2
    cross = jnp.where(kept[:, None] != kept[None, :], inverse_gap, 0.0)
    tangent = cross * _matmul(_matmul(vectors.T, tangents[0]), vectors)
    return _project(vectors, kept), _matmul(_matmul(vectors, tangent), vectors.T)


def _project(vectors, kept):
    return _matmul(vectors * kept, vectors.T)


def _kept_eigenvectors(s, k):
    """Return the eigenvalues [n] in rising order, eigenvectors [n, n] and which are kept [n]."""
    values, vectors = jnp.linalg.eigh(s)
    values = jnp.maximum(values, 0.0)
    first = len(values) - k
    # Nothing to drop but rounding: keep all, so that the projector is the identity, with no
    # derivative in directions that only rounding chose.
    full = values[first - 1] <= _noise(values)
    return values, vectors, full | (jnp.arange(len(values)) >= first)


def _noise(values):
    """Return the size of an eigenvalue that is zero but for rounding."""
    return 10.0 * jnp.finfo(values.dtype).eps * values[-1]
