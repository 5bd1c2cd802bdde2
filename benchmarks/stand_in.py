"""A server that stands in for a captioning model: what it writes are measures of the image.

    PYTHONPATH=tests python -m benchmarks.stand_in --requests=1000

Prints its address for --config.endpoint.base_url, and each second what it was asked: requests,
different ones, completions made. It is for trying pipelines, not for captions.
"""

import json
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags
from chat_server import Reply, serve
from test_build_captioning import shown

from rsclip_jax.data import images

_REQUESTS = flags.DEFINE_integer("requests", 0, "Ends after so many; 0: never.")

_TONES = "very dark,dark,dim,medium dark,medium bright,bright,very bright,pale".split(",")
_SURFACES = "plain,smooth,calm,patterned,varied,busy,crowded,restless".split(",")


def main(argv: Sequence[str]) -> None:
    """Serve."""
    del argv
    with serve(reply) as server:
        print(server.url, flush=True)
        told = 0
        while not _REQUESTS.value or told < _REQUESTS.value:
            time.sleep(1)
            if len(server.bodies) != told:
                told = len(server.bodies)
                paid = sum(server.paid.values())
                print(f"{told:,} requests, {len(server.paid):,} different, {paid:,} answered")


def reply(body: dict, number: int) -> Reply:
    """Answer in 20 ms."""
    del number
    pixels = images.decode(shown(body)[-1]).astype(np.float32)
    if "ir_aware_caption" in json.dumps(body):
        answer = {"ir_aware_caption": infrared(pixels.mean(axis=2))}
    else:
        long = "4 to 8 sentences" in body["messages"][0]["content"]
        answer = {"caption": describe(pixels) if long else sketch(pixels)}
    return Reply(json.dumps(answer), delay=0.02)


def _tone(grey: np.ndarray) -> str:
    return _TONES[int(grey.mean() / 32)]


def _surface(grey: np.ndarray) -> str:
    return _SURFACES[min(7, int(grey.std() / 9))]


def _colour(pixels: np.ndarray) -> str:
    return ("red", "green", "blue")[int(pixels.mean(axis=(0, 1)).argmax())]


def sketch(pixels: np.ndarray) -> str:
    """Write a short caption of float32 [H, W, 3]."""
    grey = pixels.mean(axis=2)
    return f"a {_surface(grey)} scene of {_tone(grey)} tone where {_colour(pixels)} is strongest"


def describe(pixels: np.ndarray) -> str:
    """Write a long caption of float32 [H, W, 3]."""
    grey = pixels.mean(axis=2)
    row, column = grey.shape[0] // 2, grey.shape[1] // 2
    parts = grey[:row, :column], grey[:row, column:], grey[row:, :column], grey[row:, column:]
    (t1, t2, t3, t4), (s1, s2, s3, s4) = map(_tone, parts), map(_surface, parts)
    edges = "sharp" if np.abs(np.diff(grey, axis=1)).mean() > 12 else "soft"
    return (
        f"Taken as a whole the ground is {_surface(grey)}, and its tone is {_tone(grey)}. "
        f"Towards the upper left corner it turns {t1}, where the surface is {s1}. "
        f"In the upper right part lies {s2} ground of a {t2} kind. "
        f"Below, on the left hand, everything looks {s3} and rather {t3}. "
        f"What fills the lower right quarter has {t4} shades with a {s4} texture. "
        f"Edges between these areas are {edges}, and {_colour(pixels)} prevails among all colours."
    )


def infrared(grey: np.ndarray) -> str:
    """Write an infrared-aware caption of float32 [H, W]."""
    above, below = np.array_split(grey, 2)
    return (
        f"A {_tone(grey)} view with {_surface(grey)} ground, {_tone(above)} above and "
        f"{_tone(below)} below."
    )


if __name__ == "__main__":
    app.run(main)
