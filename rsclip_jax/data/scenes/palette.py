"""What the surfaces of the synthetic scenes look like: in colour and in the infrared.

Near infrared follows reflectance: vegetation and snow bright, water almost black, asphalt dark,
roofs and paint in between whatever their colour. Thermal is a sunny afternoon, warm is bright:
asphalt, sand and dark roofs hot, pale paint and vegetation cool, water and snow cold.
"""

from typing import NamedTuple

import numpy as np

RGB = tuple[int, int, int]


class Surface(NamedTuple):
    """Colour, near-infrared and thermal value (each 0-255), and how strong its texture is.

    `rough` is for grain and patches, `canopy` for tree crowns; both are deviations relative to 1.
    """

    rgb: RGB
    near: int
    thermal: int
    rough: float
    canopy: float = 0.0


# The first three are set by the scene: `Scene.tone`, `Scene.water` and `Scene.colour` say how.
GROUND, WATER, MAIN = "ground", "water", "main"

FIXED: dict[str, Surface] = {
    "asphalt": Surface((88, 89, 94), 74, 196, 0.08),
    "concrete": Surface((170, 167, 159), 184, 188, 0.07),
    "paving": Surface((196, 190, 178), 152, 180, 0.06),
    "marking": Surface((228, 228, 220), 205, 190, 0.03),
    "dirt": Surface((172, 136, 94), 126, 172, 0.11),
    "bare patch": Surface((150, 104, 70), 116, 184, 0.16),
    "pond": Surface((34, 66, 96), 13, 38, 0.06),
    "canal": Surface((30, 64, 92), 15, 40, 0.06),
    "tree": Surface((50, 80, 42), 156, 66, 0.13),
    "hedge": Surface((50, 80, 42), 156, 66, 0.13),
    "grass": Surface((98, 130, 66), 192, 82, 0.11),
    "crop dark": Surface((64, 102, 50), 196, 74, 0.08),
    "crop light": Surface((122, 146, 78), 186, 84, 0.08),
    "stubble": Surface((184, 164, 108), 160, 152, 0.09),
    "stubble dark": Surface((160, 140, 90), 150, 160, 0.09),
    "islet": Surface((84, 118, 58), 198, 92, 0.16),
    "sandbank": Surface((224, 206, 158), 176, 150, 0.08),
    "shallows": Surface((104, 158, 166), 38, 52, 0.07),
    "foam": Surface((236, 242, 242), 176, 60, 0.06),
    "roof": Surface((132, 130, 130), 124, 204, 0.08),
    "car": Surface((196, 198, 200), 168, 120, 0.03),
}

# Ground tones: the whole background of a scene.
TONES: dict[str, Surface] = {
    "green": Surface((98, 130, 66), 192, 84, 0.1),
    "dry": Surface((192, 174, 118), 160, 150, 0.09),
    "brown": Surface((136, 100, 72), 106, 176, 0.11),
    "snowy": Surface((226, 230, 236), 226, 24, 0.05),
    "pale sand": Surface((226, 208, 170), 190, 184, 0.08),
    "golden sand": Surface((212, 172, 104), 186, 186, 0.08),
    "reddish sand": Surface((186, 112, 74), 156, 188, 0.07),
    "dark green forest": Surface((44, 78, 42), 168, 70, 0.14, 0.2),
    "light green forest": Surface((102, 134, 62), 196, 76, 0.14, 0.16),
    "orange autumn forest": Surface((172, 100, 42), 172, 88, 0.16, 0.17),
}

# Water tones: harbour, river, lake, sea.
WATERS: dict[str, Surface] = {
    "blue": Surface((34, 78, 128), 8, 40, 0.08),
    "green": Surface((56, 110, 92), 10, 43, 0.08),
    "brown": Surface((124, 104, 74), 12, 46, 0.08),
}

# Main objects. Painted or roofed ones share a table, natural surfaces have their own.
PAINTED: dict[str, Surface] = {
    "white": Surface((240, 240, 236), 230, 116, 0.03),
    "red": Surface((204, 42, 38), 150, 234, 0.04),
    "blue": Surface((44, 96, 186), 112, 238, 0.04),
    "yellow": Surface((236, 196, 48), 188, 118, 0.04),
    "orange": Surface((234, 126, 34), 154, 232, 0.04),
    "green": Surface((36, 128, 78), 120, 236, 0.04),
    "grey": Surface((120, 124, 132), 116, 236, 0.04),
    "brown": Surface((118, 74, 50), 108, 240, 0.04),
    "black": Surface((30, 31, 36), 43, 246, 0.04),
}
NATURAL: dict[str, dict[str, Surface]] = {
    "field": {
        "yellow": Surface((226, 200, 58), 238, 118, 0.08),
        "brown": Surface((108, 76, 54), 104, 200, 0.09),
        "purple": Surface((136, 94, 160), 112, 117, 0.08),
        "beige": Surface((222, 204, 160), 148, 190, 0.08),
    },
    "island": {
        "green": Surface((92, 134, 60), 200, 90, 0.14),
        "yellow": Surface((228, 198, 90), 176, 186, 0.08),
        "grey": Surface((142, 138, 132), 118, 170, 0.17),
    },
    "clearing": {
        "green": Surface((142, 176, 84), 228, 124, 0.09),
        "yellow": Surface((222, 196, 88), 130, 160, 0.09),
        "brown": Surface((126, 88, 62), 108, 186, 0.12),
    },
    "rock": {
        "black": Surface((38, 36, 38), 40, 236, 0.23),
        "brown": Surface((104, 68, 50), 98, 136, 0.23),
        "grey": Surface((132, 132, 136), 122, 128, 0.23),
    },
    "panel": {
        "blue": Surface((36, 62, 136), 58, 214, 0.04),
        "black": Surface((30, 32, 42), 36, 222, 0.04),
    },
}

WORDS = {"near": ("dark", "mid-tone", "bright"), "thermal": ("cool", "mild", "warm")}
INFRARED = tuple(WORDS)

NAMES = (GROUND, WATER, MAIN, *FIXED)
IDS = {name: number for number, name in enumerate(NAMES)}


def main_surface(noun: str, colour: str) -> Surface:
    """Return how a main object (such as a "rock") of the given colour looks."""
    return NATURAL.get(noun, PAINTED)[colour]


def distance(one: Surface, other: Surface) -> float:
    """Return the Euclidean RGB distance of two surfaces (0-441): how well they tell apart."""
    return float(np.linalg.norm(np.subtract(one.rgb, other.rgb)))


def infrared_value(surface: Surface, infrared: str) -> int:
    """Return how bright (0-255) a surface is in the "near" or the "thermal" infrared."""
    return surface.near if infrared == "near" else surface.thermal


def contrast(one: Surface, other: Surface, infrared: str) -> int:
    """Return the difference (0-255) of two surfaces in the "near" or the "thermal" infrared."""
    return abs(infrared_value(one, infrared) - infrared_value(other, infrared))


def infrared_word(surface: Surface, infrared: str) -> str:
    """Return how a surface looks in the infrared image.

    It is "dark", "mid-tone" or "bright" in the near, "cool", "mild" or "warm" in the thermal one.
    """
    value = infrared_value(surface, infrared)
    return WORDS[infrared][0 if value < 75 else 1 if value < 142 else 2]
