"""The coffee tin."""

from __future__ import annotations

import cv2
import numpy as np

from vitlora.data.drawn.labels import label
from vitlora.data.drawn.paint import COLOURS, Colour, Image, oval, pick, write
from vitlora.data.drawn.rays import Lathe
from vitlora.data.drawn.skin import COLUMNS, Skin
from vitlora.data.drawn.thing import Thing, pose

METALS = ((190, 188, 184), (190, 188, 184), (204, 168, 96))
FIELDS = ((238, 226, 200), (226, 208, 170), (244, 240, 232), (240, 196, 80))
NAMES = ("COFFEE", "CAFE", "MOKA", "ARABICA")
CHINA = (110, 54, 28)


def coffee_tin(rng: np.random.Generator) -> Thing:
    """Returns a squat, wide tin: metal beads, a coffee label and mostly a wide plastic lid."""
    high, lidded = rng.uniform(1.5, 2.5), rng.random() < 0.85
    lid = [
        (1.07, high - 0.12, 0.76), (1.07, high + 0.12, 0.82), (1.0, high + 0.17, 0.84),
        (0.9, high + 0.17, 0.86), (0.87, high + 0.09, 0.88), (0, high + 0.09, 1),
    ]  # fmt: skip
    bare = [(1.02, high, 0.76), (0.95, high, 0.78), (0.93, high - 0.3, 0.86), (0, high - 0.26, 1)]
    profile = [
        (0, 0.08, 0), (0.92, 0.08, 0.04), (0.96, 0, 0.06), (1.03, 0.02, 0.08), (1.03, 0.09, 0.1),
        (0.97, 0.12, 0.11), (0.99, 0.2, 0.13), (0.97, 0.28, 0.15), (0.97, high - 0.24, 0.66),
        (0.99, high - 0.18, 0.69), (0.97, high - 0.12, 0.72), *(lid if lidded else bare),
    ]  # fmt: skip
    skin = Skin(pick(rng, METALS), 1, 0.75, 0.95)
    skin.band(0.155, 0.66, _label(rng), (1, 0.55, 0.2))
    plastic = pick(rng, ((236, 234, 226), *COLOURS))
    if lidded:
        skin.band(0.75, 1, plastic, (1, 0.45, 0))
        skin.disc(0.875, _lid(rng, plastic))
    else:
        ground = rng.integers(14, 70, (128, 128, 1)) * np.array([1, 0.62, 0.4])
        skin.band(0.87, 1, (50, 32, 20), (1, 0, 0))
        skin.disc(0.87, ground.astype(np.uint8))
    skin.stain(rng, (104, 80, 56), rng.uniform(0, 0.4))
    return Thing(Lathe(profile, skin), pose(rng, 0.25 if lidded else 0.1))


def _label(rng: np.random.Generator) -> Image:
    """Returns a coffee label, (200, COLUMNS): twice a cup or beans in a light medallion."""
    art = label(rng, (200, COLUMNS), ("",))
    field, name = pick(rng, FIELDS), pick(rng, NAMES)
    for middle in (128, 384):
        oval(art, (middle, 100), (92, 84), field)
        if rng.random() < 0.5:
            _cup(art, middle)
        else:
            for x, y, angle in ((-36, 66, 30), (2, 50, -40), (38, 70, 10), (-16, 98, -20),
                                (24, 104, 50)):  # fmt: skip
                _bean(art, (middle + x, y), 19, angle + rng.uniform(-20, 20))
        write(art, name, (middle - 62, 156), 0.85, (40, 24, 16))
    return art


def _cup(art: Image, middle: int) -> None:
    """Draws a steaming cup about the column `middle`."""
    cv2.rectangle(art, (middle - 34, 76), (middle + 26, 112), CHINA, -1)
    cv2.ellipse(art, (middle - 4, 110), (30, 20), 0, 0, 180, CHINA, -1, cv2.LINE_AA)
    oval(art, (middle + 30, 94), (14, 12), CHINA, line=5)
    for x in (-20, -4, 12):
        oval(art, (middle + x, 58), (5, 12), (170, 130, 100), angle=15, line=3)


def _bean(art: Image, middle: tuple[int, int], size: int, angle: float) -> None:
    """Draws one coffee bean, `size` pixels from its middle to its tip."""
    oval(art, middle, (size, int(size * 0.66)), (78, 44, 22), angle=angle)
    oval(art, middle, (size - 2, 2), (198, 150, 104), angle=angle + 8)


def _lid(rng: np.random.Generator, plastic: Colour) -> Image:
    """Returns a plastic lid, (128, 128): moulded rings and now and then three beans."""
    top = np.full((128, 128, 3), plastic, np.uint8)
    for radius in (58, 40, 20):
        cv2.circle(top, (64, 64), radius, tuple(int(c * 0.8) for c in plastic), 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        for middle, angle in (((50, 56), 30), ((78, 60), -50), ((62, 82), 0)):
            _bean(top, middle, 15, angle)
    return top
