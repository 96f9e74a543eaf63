"""Colours, chance and brushes: what every other module here paints with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

# OpenCV's annotations leave element types open, so these two names tell them to the reader alone.
Array = npt.NDArray[Any]  # float32
Image = npt.NDArray[Any]  # uint8
Colour = tuple[int, int, int]

# One palette for every class, so that colour alone does not name the thing.
COLOURS: tuple[Colour, ...] = (
    (196, 30, 38), (24, 74, 160), (28, 120, 62), (236, 186, 32), (226, 104, 24), (20, 134, 140),
    (104, 48, 126), (34, 34, 38), (232, 230, 222), (104, 62, 34), (170, 176, 182), (226, 208, 170),
    (150, 20, 60), (90, 160, 210), (150, 180, 60), (236, 130, 150),
)  # fmt: skip
KRAFT: tuple[Colour, ...] = ((186, 142, 94), (168, 124, 78), (202, 164, 116), (150, 112, 74))
FOLIAGE: tuple[Colour, ...] = (
    (150, 96, 36), (176, 128, 40), (120, 60, 28), (92, 112, 40), (60, 88, 34),
)  # fmt: skip


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """Returns one of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: Sequence[int]) -> Array:
    """Returns smooth noise, about -1..1: one octave per cell count, each half as strong."""
    small = (max(shape[1] // 3, 64), max(shape[0] // 3, 64))
    total = np.zeros(small[::-1], np.float32)
    for octave, count in enumerate(cells):
        coarse = rng.random((count, count), np.float32) - 0.5
        total += cv2.resize(coarse, small, interpolation=cv2.INTER_CUBIC) / 2**octave
    return cv2.resize(total, shape[::-1])


def linear(srgb: Array | Image | Colour) -> Array:
    """Returns light, 0..1, for sRGB values 0..255."""
    steps = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
    return cv2.LUT(np.asarray(srgb, np.uint8), steps).reshape(np.shape(srgb))


def sampled(image: Array, x: Array, y: Array, border: int = cv2.BORDER_CONSTANT) -> Array:
    """Returns the image's values at columns x and rows y (H, W), between pixels too."""
    x, y = x.astype(np.float32), y.astype(np.float32)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=border)


def oval(
    art: Image,
    middle: tuple[int, int],
    axes: tuple[int, int],
    colour: Sequence[int],
    *,
    angle: float = 0,
    line: int = -1,
) -> None:
    """Draws an ellipse with half-axes in pixels, turned by degrees; line -1 fills it."""
    cv2.ellipse(art, middle, axes, angle, 0, 360, colour, line, cv2.LINE_AA)


def write(
    art: Image, word: str, spot: tuple[int, int], scale: float, ink: Sequence[int], line: int = 2
) -> None:
    """Writes a word whose lower left corner is the spot, in strokes `line` pixels wide."""
    cv2.putText(art, word, spot, cv2.FONT_HERSHEY_DUPLEX, scale, ink, line, cv2.LINE_AA)
