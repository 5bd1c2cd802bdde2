"""Fitting positional embeddings to another text length or image size."""

import jax
import jax.numpy as jnp
import numpy as np


def stretch_positions(table: jax.Array, keep: int = 20, ratio: float = 4) -> jax.Array:
    """Stretch a text position table, keeping its first rows (KPS, Long-CLIP section 3.1).

    Row p < keep is copied. Row p >= keep reads the old table at keep + (p - keep) / ratio, linearly
    between two rows; past the last row the line through the last two is continued. This is what
    Long-CLIP's and LRSCLIP's code does, not the formula printed in the Long-CLIP paper.

    Args:
      table: [L, D] learned positions, L > keep.
      keep: rows left as they are (the well-trained ones), 0 <= keep <= L - 2.
      ratio: stretch of the rest, >= 1.

    Returns:
      [keep + ratio * (L - keep), D]: 77 rows become 248 by default.

    Raises:
      ValueError: keep or ratio out of range.
    """
    table = jnp.asarray(table)
    length = table.shape[0]
    if not 0 <= keep <= length - 2:
        raise ValueError(f"keep={keep}: expected 0 to {length - 2} for a table of {length} rows")
    if ratio < 1:
        raise ValueError(f"ratio={ratio}: expected at least 1")
    rows = np.arange(round(ratio * (length - keep)))
    source = keep + rows / ratio
    below = np.minimum(source.astype(int), length - 2)  # the tail extrapolates from row L - 2
    fraction = jnp.asarray(source - below, table.dtype)[:, None]
    stretched = (1 - fraction) * table[below] + fraction * table[below + 1]
    return jnp.concatenate([table[:keep], stretched])


def interpolate_positions(table: jax.Array, length: int) -> jax.Array:
    """Resample a [L, D] text position table to [length, D] linearly, first and last row kept.

    The plain alternative that KPS is compared with in the Long-CLIP paper.
    """
    table = jnp.asarray(table)
    source = np.linspace(0, table.shape[0] - 1, length)
    below = np.minimum(source.astype(int), table.shape[0] - 2)
    fraction = jnp.asarray(source - below, table.dtype)[:, None]
    return (1 - fraction) * table[below] + fraction * table[below + 1]


def fit_text_positions(
    table: jax.Array, length: int, method: str = "kps", keep: int = 20, ratio: float = 4
) -> jax.Array:
    """Return a [length, D] position table made from `table` [L, D].

    A longer table is cut. A shorter one is stretched by `method`: "kps" (`stretch_positions`, its
    first `length` rows) or "interpolate" (`interpolate_positions`); by "none" it is refused.

    Raises:
      ValueError: unknown method, or KPS with these values yields fewer than `length` rows.
    """
    if table.shape[0] == length:
        return table
    if table.shape[0] > length:
        return table[:length]
    if method == "interpolate":
        return interpolate_positions(table, length)
    if method == "none":
        raise ValueError(
            f"config.model.stretch='none', but {table.shape[0]} text positions are fewer than "
            f"config.model.context_length={length}: stretch them by 'kps' or 'interpolate'"
        )
    if method != "kps":
        raise ValueError(
            f"config.model.stretch={method!r}: expected 'kps', 'interpolate' or 'none'"
        )
    stretched = stretch_positions(table, keep, ratio)
    if stretched.shape[0] < length:
        raise ValueError(
            f"KPS with keep={keep}, ratio={ratio} stretches {table.shape[0]} positions to "
            f"{stretched.shape[0]}, fewer than config.model.context_length={length}: "
            "raise config.model.ratio or lower the context length"
        )
    return stretched[:length]


def fit_image_positions(table: jax.Array, grid: int) -> jax.Array:
    """Resample a [1 + g * g, D] image position table (class token first) to [1 + grid * grid, D].

    Bicubic with antialiasing, as open_clip resizes (Keys kernel, a = -0.5).
    """
    old = round((table.shape[0] - 1) ** 0.5)
    if 1 + old * old != table.shape[0]:
        raise ValueError(f"{table.shape[0]} image positions are not 1 + a square grid")
    if old == grid:
        return table
    cls, rest = table[:1], table[1:].reshape(old, old, -1)
    rest = jax.image.resize(rest, (grid, grid, rest.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([cls, rest.reshape(grid * grid, -1)])
