"""The tyre."""

from __future__ import annotations

import cv2
import numpy as np

from vitlora.data.drawn.paint import COLOURS, Image, pick, write
from vitlora.data.drawn.rays import Lathe
from vitlora.data.drawn.skin import COLUMNS, Skin
from vitlora.data.drawn.thing import Thing, turned

WORDS = (("RADIAL", "205/55"), ("ROADGRIP", "R16"), ("TERRA", "TUBELESS"))
DUST = ((126, 106, 78), (96, 84, 70), (120, 120, 116))


def tyre(rng: np.random.Generator) -> Thing:
    """Returns a tyre without its wheel: treaded, lettered, hollow; flat, upright or leaning."""
    hole, half = rng.uniform(0.52, 0.68), rng.uniform(0.22, 0.42)
    profile = [
        (hole, -half * 0.7, 0.0), (hole + 0.03, -half * 0.85, 0.03), (0.8, -half, 0.16),
        (0.93, -half * 0.92, 0.27), (0.99, -half * 0.7, 0.31), (1, 0, 0.46),
        (0.99, half * 0.7, 0.61), (0.93, half * 0.92, 0.65), (0.8, half, 0.76),
        (hole + 0.03, half * 0.85, 0.89), (hole, half * 0.7, 0.92),
        (hole + 0.06, half * 0.62, 0.94), (0.84, half * 0.72, 0.96), (0.9, 0, 0.97),
        (0.84, -half * 0.72, 0.98), (hole + 0.06, -half * 0.62, 1),
    ]  # fmt: skip
    grey = int(rng.integers(34, 74))
    skin = Skin((grey, grey, grey + 2), 1, rng.uniform(0.1, 0.45))
    skin.band(0.3, 0.62, _tread(rng, grey))
    side = _side(rng, grey)
    skin.band(0.03, 0.26, side)
    skin.band(0.66, 0.89, side)
    skin.stain(rng, pick(rng, DUST), rng.uniform(0, 0.75))
    tilt = pick(rng, (0.0, np.pi / 2, np.pi / 2)) + rng.normal(0, 0.04)
    yaw = rng.uniform(0, 2 * np.pi)
    return Thing(Lathe(profile, skin, closed=True), turned(tilt, rng.uniform(0, 6), yaw))


def _side(rng: np.random.Generator, grey: int) -> Image:
    """Returns a tyre's side wall, (100, COLUMNS): rings, lettering and now and then a stripe."""
    side = np.full((100, COLUMNS, 3), grey, np.uint8)
    for row in (12, 84, 92):
        cv2.line(side, (0, row), (COLUMNS, row), (grey + 26,) * 3, 2)
    ink = pick(rng, ((grey + 30,) * 3, (grey + 36,) * 3, (210, 208, 200)))
    if rng.random() < 0.2:
        side[30:44] = pick(rng, ((214, 210, 200), *COLOURS))
    for part, word in enumerate(pick(rng, WORDS) * 2):
        write(side, word, (12 + part * 128, 72), 0.75, ink)
    return side


def _tread(rng: np.random.Generator, grey: int) -> Image:
    """Returns a tyre's running face, (80, COLUMNS): grooves round it and lugs across it."""
    y, x = np.mgrid[0:80, 0:COLUMNS]
    lean, pitch = rng.uniform(0, 0.5), pick(rng, (8, 10.667, 16))
    phase = (x + lean * np.abs(y - 40)) % pitch / pitch
    lugs = (phase < 0.3) & ((np.abs(y - 40) > 10) | (rng.random() < 0.4))
    grooves = np.isin(y // 5, pick(rng, ((4, 11), (3, 7, 8, 12), (5, 10), (2, 6, 9, 13))))
    face = np.where(lugs | grooves, grey // 4, np.where(phase < 0.45, grey + 40, grey + 14))
    return np.repeat(face.astype(np.uint8)[..., None], 3, -1)
