"""From a thing's name and a seed to a photograph of it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vitlora.data.drawn.paint import FOLIAGE, Array, Image, linear, pick
from vitlora.data.drawn.scene import Scene
from vitlora.data.drawn.things import THINGS


def draw(name: str, seed: Sequence[int], size: int) -> Image:
    """Returns the picture (size, size, 3), sRGB, of the thing `name` that belongs to this seed."""
    rng = np.random.default_rng(seed)
    light = Scene(rng, THINGS[name](rng), size * 3 // 2).picture()
    _overhang(rng, light)
    return _developed(rng, light, size)


def _overhang(rng: np.random.Generator, light: Array) -> None:
    """Lets blurred leaves or grass blades reach into the picture from below, now and then."""
    if rng.random() > 0.3:
        return
    side = light.shape[0]
    cover = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(1, 7))):
        root = np.array([rng.uniform(0, side), side + 5.0])
        tip = root + np.array([rng.normal(0, side * 0.12), -rng.uniform(0.15, 0.5) * side])
        width = np.array([rng.uniform(0.01, 0.025) * side, 0])
        blade = np.array([root - width, (root + tip) / 2 - width * 0.8, tip, root + width])
        cv2.fillPoly(cover, [blade.astype(np.int32)], 1.0, cv2.LINE_AA)
    cover = cv2.GaussianBlur(cover, (0, 0), side * rng.uniform(0.004, 0.012))[..., None]
    light += cover * (linear(pick(rng, FOLIAGE)) * 0.8 - light)


def _developed(rng: np.random.Generator, light: Array, size: int) -> Image:
    """Returns the photograph, (size, size, 3) sRGB: exposure, vignette, blur and sensor noise."""
    light = cv2.GaussianBlur(light, (3, 3), 0.55)
    light = cv2.resize(light, (size, size), interpolation=cv2.INTER_AREA)
    balance = np.array([1 + rng.normal(0, 0.06), 1, 1 + rng.normal(0, 0.08)], np.float32)
    middle = float(np.median(light[size // 4 : -size // 4, size // 4 : -size // 4]))
    gain = (0.32 / (0.08 + middle)) ** 0.45 * rng.uniform(0.75, 1.25)
    y = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - rng.uniform(0, 0.4) * (y[:, None] ** 2 + y**2) / 2
    light = light * balance * (gain * vignette[..., None])
    light = light * (1 + light * 0.18) / (1 + light * 0.42)
    photo = np.clip(light, 0, 1) ** np.float32(1 / 2.2)
    if rng.random() < 0.35:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.4, 1.0) * size / 160)
    grain = rng.standard_normal((size, size, 3), np.float32) * rng.uniform(0.004, 0.026)
    return (np.clip(photo + grain, 0, 1) * 255 + 0.5).astype(np.uint8)
