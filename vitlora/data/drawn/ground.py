"""What a thing stands on and before: maps of littered grounds and of walls, seen straight on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from vitlora.data.drawn.paint import (
    COLOURS,
    FOLIAGE,
    KRAFT,
    Array,
    Colour,
    Image,
    linear,
    noise,
    pick,
    sampled,
)

MAP, REACH = 420, 3.3  # pixels a side of a map, and units from its middle to its edge
GROUNDS: dict[str, tuple[Colour, ...]] = {
    "asphalt": ((92, 92, 94), (70, 72, 76)),
    "concrete": ((160, 156, 148), (128, 128, 126)),
    "grass": ((62, 84, 34), (84, 96, 44)),
    "sand": ((204, 180, 138), (178, 152, 112)),
    "earth": ((104, 80, 56), (126, 100, 74)),
    "wood": ((150, 104, 62), (106, 70, 42), (186, 150, 106)),
    "tiles": ((196, 190, 180), (150, 120, 100), (110, 124, 130)),
    "cloth": ((70, 84, 110), (130, 60, 56), (210, 204, 190)),
}
WALLS = ("concrete", "wood", "tiles")
ROUGH = {"asphalt": 0.28, "sand": 0.14, "earth": 0.3, "cloth": 0.12}  # the others: 0.06
PAINTS: tuple[Colour, ...] = ((226, 220, 208), (190, 200, 206), (150, 160, 150), *COLOURS)
SCRAPS: tuple[Colour, ...] = ((238, 236, 228), (222, 214, 196), *COLOURS)


def at(surface: Array, x: Array, y: Array) -> Array:
    """Returns the colours (H, W, 3) of a map at points given in units from its middle."""
    column, row = ((units / REACH + 1) * np.float32(MAP / 2) for units in (x, y))
    return sampled(surface, column, row, cv2.BORDER_REFLECT_101)


def wall_map(rng: np.random.Generator) -> Array:
    """Returns a wall as light, (MAP, MAP, 3): built like a ground, or painted and blotched."""
    if rng.random() < 0.4:
        return linear(bare_ground(rng, WALLS))
    paint = (linear(pick(rng, PAINTS)) + linear((176, 172, 166))) / 2
    blotches = 1 + 0.25 * noise(rng, (64, 64), (3, 8))
    return cv2.resize(paint * blotches[..., None], (MAP, MAP))


def ground_map(rng: np.random.Generator, away: Array) -> Array:
    """Returns a littered ground as light, (MAP, MAP, 3); `away` (2,) is how far shadows fall."""
    ground = bare_ground(rng, tuple(GROUNDS))
    for _ in range(int(rng.integers(0, 26))):
        spot = MAP / 2 + rng.normal(0, MAP / 5, 2)
        pick(rng, (_leaf, _pebble, _scrap, _twig))(rng, ground, spot, away)
    return linear(ground)


def bare_ground(rng: np.random.Generator, sorts: Sequence[str]) -> Image:
    """Returns a ground of one of the named sorts, (MAP, MAP, 3), with nothing lying on it."""
    sort = pick(rng, sorts)
    base = np.array(pick(rng, GROUNDS[sort]), np.float32)
    relief = 1 + 0.35 * noise(rng, (MAP, MAP), (4, 9, 30))
    grains = rng.standard_normal((MAP // 2, MAP // 2), np.float32)
    relief *= np.tile(1 + ROUGH.get(sort, 0.06) * grains, (2, 2))
    if sort == "wood":
        _planks(rng, relief)
    elif sort == "tiles":
        _tiles(rng, relief)
    elif sort == "sand":
        relief *= 1 + 0.08 * np.sin(np.arange(MAP) / 7 + 5 * noise(rng, (MAP, MAP), (3, 6)))
    ground = cv2.merge([cv2.convertScaleAbs(relief, alpha=float(part)) for part in base])
    if sort == "grass":
        _blades(rng, ground, base)
    elif sort == "concrete":
        _cracks(rng, ground)
    return ground


def _planks(rng: np.random.Generator, relief: Array) -> None:
    """Turns the ground into boards with grain and dark seams."""
    grain = rng.standard_normal((MAP, 9), np.float32)
    relief *= 1 + 0.07 * cv2.resize(grain, (MAP, MAP), interpolation=cv2.INTER_CUBIC)
    width = int(rng.integers(50, 110))
    for top in range(0, MAP, width):
        relief[top : top + width] *= rng.uniform(0.8, 1.15)
        relief[top : top + 3] *= 0.35


def _tiles(rng: np.random.Generator, relief: Array) -> None:
    """Turns the ground into square tiles, each its own tint, with joints."""
    pitch = int(rng.integers(56, 120))
    count = MAP // pitch + 1
    tints = rng.uniform(0.85, 1.1, (count, count)).astype(np.float32)
    relief *= np.repeat(np.repeat(tints, pitch, 0), pitch, 1)[:MAP, :MAP]
    joint = pick(rng, (0.5, 1.3))
    for edge in range(0, MAP, pitch):
        relief[edge : edge + 3] *= joint
        relief[:, edge : edge + 3] *= joint


def _blades(rng: np.random.Generator, ground: Image, base: Array) -> None:
    """Grows grass over the ground: strokes in a handful of greens."""
    for shade in np.linspace(0.5, 1.7, 7):
        root = rng.uniform(0, MAP, (650, 1, 2))
        tip = root + rng.normal(0, 8, (650, 1, 2)) + (0, -5)
        blades = list(np.concatenate([root, tip], 1).astype(np.int32))
        tint = base * shade * rng.uniform(0.85, 1.15, 3)
        cv2.polylines(ground, blades, False, tint.tolist(), 1, cv2.LINE_AA)


def _cracks(rng: np.random.Generator, ground: Image) -> None:
    """Draws up to three cracks that wander over the ground."""
    for _ in range(int(rng.integers(0, 4))):
        steps = rng.normal(0, 9, (40, 2)) + rng.normal(0, 7, 2)
        path = (np.cumsum(steps, 0) + rng.uniform(0, MAP, 2)).astype(np.int32)
        cv2.polylines(ground, [path], False, (70, 66, 62), 1, cv2.LINE_AA)


def _leaf(rng: np.random.Generator, ground: Image, spot: Array, away: Array) -> None:
    """Drops a pointed leaf, lobed or not, with its middle rib."""
    size = rng.uniform(9, 24)
    along = np.linspace(0, 2 * np.pi, 24)
    lobes = 1 + pick(rng, (0.0, 0.0, 0.25)) * np.cos(7 * along)
    width = rng.uniform(0.3, 0.55) * np.sin(along) * np.sqrt(np.abs(np.sin(along)))
    angle = rng.uniform(0, 2 * np.pi)
    spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = (np.stack([np.cos(along), width], 1) * lobes[:, None] * size) @ spin
    colour = pick(rng, FOLIAGE)
    points = _lay(ground, outline + spot, colour, away)
    rib = tuple(part * 2 // 3 for part in colour)
    cv2.line(ground, points[0], points[12], rib, 1, cv2.LINE_AA)


def _pebble(rng: np.random.Generator, ground: Image, spot: Array, away: Array) -> None:
    """Drops a grey pebble, lighter where it faces the sun."""
    size = rng.uniform(4, 9)
    outline = _circle(np.linspace(0, 2 * np.pi, 14, endpoint=False)) * size
    outline *= rng.uniform(0.7, 1.1, (14, 1))
    grey = int(rng.integers(90, 200))
    _lay(ground, outline + spot, (grey, grey, grey), away)
    lit = np.rint(spot - away * 0.6).astype(int).tolist()
    cv2.circle(ground, lit, int(size * 0.5), (grey + 34,) * 3, -1, cv2.LINE_AA)


def _scrap(rng: np.random.Generator, ground: Image, spot: Array, away: Array) -> None:
    """Drops an angular scrap of paper."""
    size = rng.uniform(9, 24)
    outline = _circle(np.sort(rng.uniform(0, 2 * np.pi, 6))) * size
    _lay(ground, outline + spot, pick(rng, SCRAPS), away)


def _twig(rng: np.random.Generator, ground: Image, spot: Array, away: Array) -> None:
    """Drops a straight twig."""
    size = rng.uniform(9, 24)
    ends = rng.normal(0, 1, (1, 2)) * size * np.array([[-1], [1]])
    _lay(ground, ends + spot, pick(rng, KRAFT[1::2]), away)


def _circle(angle: Array) -> Array:
    """Returns the points (N, 2) at these angles on the circle of radius 1."""
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _lay(ground: Image, outline: Array, colour: Colour, away: Array) -> Array:
    """Paints an outline (N, 2), filled, over its shadow, and returns it in whole pixels."""
    points = outline.astype(np.int32)
    dark = points + np.rint(away).astype(np.int32)
    (left, top), (right, bottom) = np.clip([dark.min(0) - 4, dark.max(0) + 4], 0, MAP)
    patch = ground[top:bottom, left:right]
    if patch.size:
        shadow = np.zeros(patch.shape[:2], np.uint8)
        _fill(shadow, dark - (left, top), (150,), cv2.LINE_8)
        patch[:] = patch * (1 - shadow[..., None] / np.float32(255))
    _fill(ground, points, colour, cv2.LINE_AA)
    return points


def _fill(image: Image, points: Array, colour: Sequence[int], edge: int) -> None:
    """Fills an outline; one of two points is a stroke."""
    if len(points) == 2:
        cv2.polylines(image, [points], False, colour, 3, edge)
    else:
        cv2.fillPoly(image, [points], colour, edge)
