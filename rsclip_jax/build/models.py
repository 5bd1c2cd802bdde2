"""CLIP models in worker processes: loaded once, fed from image references."""

import functools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsclip_jax.build import files
from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import Drop
from rsclip_jax.data import images
from rsclip_jax.host import available_cores

if TYPE_CHECKING:
    from rsclip_jax.loading import Clip

_lock = threading.Lock()


def shared_clip(path: str) -> "Clip":
    """Load a model as `rsclip_jax.load` does, once in a process; the last three are kept."""
    with _lock:  # a process may work on several bundles at once
        return _load(path)


@functools.lru_cache(maxsize=3)
def _load(path: str) -> "Clip":
    # Workers of one machine share its GPU: none may take most of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from rsclip_jax.loading import load  # a worker's work, not its start

    return load(path)


def model_state(path: str) -> dict[str, list]:
    """Return what changes when a model's files do, for `Stage.settings`.

    Raises:
      FileNotFoundError: nothing is there.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"no model: {path} is not there")
    if (place / "checkpoints").is_dir():  # a workdir, whose other files grow while it trains
        place = place / "checkpoints"
        return {name: [] for name in sorted(os.listdir(place)) if name.isdigit()}
    names = [place] if place.is_file() else [p for p in sorted(place.iterdir()) if p.is_file()]
    return {name.name: files.state(str(name)) for name in names}


def read_pixels(reference: str) -> np.ndarray:
    """Read an image: uint8 [H, W, 3].

    Raises:
      Drop: it cannot be read or decoded.
    """
    try:
        return images.decode(files.read_image(reference))
    except OSError as error:
        raise Drop(f"unreadable file: {error}") from error
    except ValueError as error:
        raise Drop(f"not decoded: {error}") from error


def preprocess_rows(
    rows: list[Row], clips: list["Clip"]
) -> tuple[list[int], list[np.ndarray], dict[int, Drop]]:
    """Read the images of rows in threads, for several models at once.

    Returns:
      (indices of the rows whose image was read, for each model float32 [n, S, S, 3] of these,
      index -> why, of the others).
    """

    def read(row: Row) -> list[np.ndarray] | Drop:
        try:
            pixels = read_pixels(row["image"])
        except Drop as drop:
            return drop
        return [clip.preprocess(pixels) for clip in clips]

    with ThreadPoolExecutor(available_cores()) as pool:
        found: list[Any] = list(pool.map(read, rows))
    dropped = {index: drop for index, drop in enumerate(found) if isinstance(drop, Drop)}
    kept = [index for index in range(len(rows)) if index not in dropped]
    arrays = [np.stack([found[index][n] for index in kept]) for n in range(len(clips)) if kept]
    return kept, arrays, dropped


def encode_each(clip: "Clip", texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Embed lists of texts in one call: float32 [len(list), D] for each."""
    z = clip.encode_text([text for given in texts for text in given])
    return np.split(z, np.cumsum([len(given) for given in texts])[:-1])
