"""The bottle."""

from __future__ import annotations

import numpy as np

from vitlora.data.drawn.labels import label
from vitlora.data.drawn.paint import COLOURS, pick
from vitlora.data.drawn.rays import Lathe
from vitlora.data.drawn.skin import COLUMNS, ROWS, Skin
from vitlora.data.drawn.thing import Thing, pose

GLASS = (
    (30, 105, 52), (120, 66, 20), (205, 226, 226), (190, 215, 228), (70, 130, 160), (150, 190, 90),
)  # fmt: skip
WORDS = ("AQUA", "SPRING", "LEMON", "ALE", "MALT", "OLIVE", "FRESH")


def bottle(rng: np.random.Generator) -> Thing:
    """Returns a glass or plastic bottle: body, shoulder, long neck and mostly a cap."""
    high, slope, neck = rng.uniform(2.6, 4.2), rng.uniform(0.3, 1.5), rng.uniform(0.5, 1.6)
    slim = rng.uniform(0.3, 0.44)
    waist = rng.uniform(0.82, 1) if rng.random() < 0.5 else 1
    cap, capped = pick(rng, COLOURS), rng.random() < 0.75
    top, lip = high + slope + neck, slim + 0.07
    closed = [(lip, top, 0.87), (lip, top + 0.42, 0.93), (0, top + 0.42, 1)]
    bare = [(lip, top, 0.87), (lip, top + 0.18, 0.93), (slim - 0.08, top + 0.2, 0.96), (0, top, 1)]
    profile = [
        (0, 0.2, 0), (0.7, 0.0, 0.03), (0.94, 0.04, 0.06), (1, 0.3, 0.1), (waist, high * 0.5, 0.32),
        (1, high, 0.6), (0.86, high + slope * 0.4, 0.68), (slim + 0.06, high + slope, 0.76),
        (slim, top - 0.02, 0.86), *(closed if capped else bare),
    ]  # fmt: skip
    glass, solid = pick(rng, GLASS), rng.random() < 0.18
    if solid:
        skin = Skin(pick(rng, COLOURS), 1, 0.95)
    else:
        skin = Skin(glass, rng.uniform(0.04, 0.22), 0.95)
    if rng.random() < 0.8:
        low = rng.uniform(0.14, 0.26)
        art = label(rng, (150, COLUMNS), WORDS)
        skin.band(low, low + rng.uniform(0.16, 0.34), art, (1, 0.35, 0))
    if capped:
        skin.band(0.865, 1, cap, (1, 0.5, 0.3 * (rng.random() < 0.3)))
        skin.colour[round(0.865 * ROWS) : round(0.93 * ROWS), ::12] //= 2
    skin.stain(rng, (110, 92, 66), rng.uniform(0, 0.5))
    dents = ((0.05, 1.5, 3.0, 1.0, rng.uniform(0, 6)),) if rng.random() < 0.2 else ()
    shape = Lathe(profile, skin, dents=dents, squash=rng.uniform(1, 1.12) if dents else 1)
    return Thing(shape, pose(rng, 0.45), 0 if solid else 0.45)
