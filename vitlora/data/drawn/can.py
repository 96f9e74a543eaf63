"""The drinks can."""

from __future__ import annotations

import cv2
import numpy as np

from vitlora.data.drawn.labels import label
from vitlora.data.drawn.paint import COLOURS, Colour, Image, oval, pick
from vitlora.data.drawn.rays import Lathe
from vitlora.data.drawn.skin import COLUMNS, Skin
from vitlora.data.drawn.thing import Thing, pose

WORDS = ("COLA", "FIZZ", "ZEST", "SODA", "TONIC", "BREW", "MAX")


def can(rng: np.random.Generator) -> Thing:
    """Returns a drinks can: printed body, bright tapered ends, ring pull; some are crushed."""
    crushed = rng.random() < 0.35
    high = rng.uniform(3.5, 5.0) * (rng.uniform(0.6, 0.85) if crushed else 1)
    profile = [
        (0, 0.3, 0), (0.66, 0.22, 0.04), (0.74, 0, 0.07), (0.78, 0.04, 0.08), (1, 0.36, 0.14),
        (1, high - 0.5, 0.72), (0.8, high - 0.1, 0.79), (0.86, high - 0.05, 0.8),
        (0.86, high, 0.82), (0.78, high, 0.84), (0.75, high - 0.14, 0.86), (0, high - 0.12, 1),
    ]  # fmt: skip
    skin = Skin((186, 190, 194), 1, 0.8, 0.95)
    skin.band(0.13, 0.745, label(rng, (220, COLUMNS), WORDS), (1, 0.75, 0.4))
    skin.disc(0.85, _top(rng, pick(rng, COLOURS) if rng.random() < 0.25 else (216, 218, 220)))
    skin.stain(rng, (104, 88, 64), rng.uniform(0, 0.45))
    dents = []
    for size in (0.09, 0.05) if crushed else ():
        waves = rng.normal(0, 1, 3) * (1.6, 2.2, 1.6)
        dents.append((size, *waves, rng.uniform(0, 6)))
    shape = Lathe(profile, skin, dents=dents, squash=rng.uniform(1, 1.25) if crushed else 1)
    return Thing(shape, pose(rng, 0.45))


def _top(rng: np.random.Generator, tab: Colour) -> Image:
    """Returns a drinks can's top, (128, 128): pressed ring, mouth and ring pull."""
    top = np.full((128, 128, 3), (176, 180, 184), np.uint8)
    cv2.circle(top, (64, 64), 54, (120, 124, 128), 3, cv2.LINE_AA)
    cv2.circle(top, (64, 64), 57, (228, 230, 232), 2, cv2.LINE_AA)
    mouth, line = ((18, 18, 20), -1) if rng.random() < 0.6 else ((130, 134, 138), 2)
    oval(top, (64, 92), (19, 15), mouth, line=line)
    oval(top, (64, 52), (13, 22), (84, 86, 90))
    oval(top, (63, 50), (12, 21), tab)
    oval(top, (63, 42), (6, 8), (96, 98, 102))
    return top
