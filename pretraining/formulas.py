"""Formulas of the drawn pictures: what covers an object, and how its contour runs.

A category is nothing but the parameters of a formula: the harmonics of a contour, the maps of a
fractal, the exponent of a noise spectrum. Each function takes two generators. The first one is
started anew for every instance of a category, so it yields the same parameters each time; the
second one makes the instances of that category differ a little.

After Kataoka et al., "Pre-training without Natural Images" (ACCV 2020, fractal categories) and
"Replacing Labeled Real-Image Datasets with Auto-Generated Contours" (CVPR 2022, radial contours).
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

TILE = 128  # pixels a side of an outline or a surface

Formula = Callable[[Generator, Generator], np.ndarray]
"""Draws one instance: (category's generator, instance's generator) -> (TILE, TILE), 0 to 1."""


# --- surfaces ------------------------------------------------------------------------------------


def plasma(category: Generator, instance: Generator) -> np.ndarray:
    """Returns noise with a power-law spectrum, stretched along one axis."""
    return _spectrum(instance, category.uniform(0.8, 3.2), category.uniform(-1.3, 1.3))


def creases(category: Generator, instance: Generator) -> np.ndarray:
    """Returns thin bright ridges where smooth noise crosses its middle."""
    noise = _spectrum(instance, category.uniform(1.8, 3.2), category.uniform(-1.0, 1.0))
    return (1 - abs(2 * noise - 1)) ** category.uniform(1.5, 8)


def grating(category: Generator, instance: Generator) -> np.ndarray:
    """Returns stripes, bent by noise and sharpened from sine to square."""
    frequency = category.uniform(3, 22) * _jitter(instance)
    sharpness, bend = category.uniform(0.5, 5), category.choice([0, 0.05, 0.25])
    noise = _spectrum(instance, 2.5, 0)
    phase = 2 * np.pi * (frequency * _axis() + bend * 12 * noise + instance.uniform())
    return 0.5 + 0.5 * np.tanh(sharpness * np.sin(phase)) / np.tanh(sharpness)


def weave(category: Generator, instance: Generator) -> np.ndarray:
    """Returns two crossing sets of threads, each over and under the other in turn."""
    across, along = category.uniform(4, 16, 2) * _jitter(instance)
    x, y = _axis() * across, _axis().T * along
    over = (np.floor(x) + np.floor(y)) % 2
    contrast = category.uniform(0.3, 1)
    return over * abs(np.sin(np.pi * x)) + (1 - over) * (1 - contrast * abs(np.sin(np.pi * y)))


def lattice(category: Generator, instance: Generator) -> np.ndarray:
    """Returns spots on a skewed grid, soft or hard."""
    frequency, skew = category.uniform(3, 14) * _jitter(instance), category.uniform(0, 1)
    sharpness, size = category.uniform(1, 6), category.uniform(-0.9, 0.9)
    x, y = _axis() * frequency, _axis().T * frequency
    spots = np.cos(2 * np.pi * (x + skew * y)) + np.cos(2 * np.pi * y)
    return 0.5 + 0.5 * np.tanh(sharpness * (spots - size))


def cells(category: Generator, instance: Generator) -> np.ndarray:
    """Returns a Voronoi mosaic: a grey per cell, a slope inside it, or both."""
    count = int(category.uniform(8, 250) * _jitter(instance)) + 1
    slope, power = category.uniform(0, 1), category.uniform(0.5, 2)
    seeds = np.full((TILE, TILE), 255, np.uint8)
    seeds[instance.integers(0, TILE, count), instance.integers(0, TILE, count)] = 0
    distance, label = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    grey = instance.uniform(size=label.max() + 1)[label]
    return (1 - slope) * grey + slope * (distance / distance.max()) ** power


def facets(category: Generator, instance: Generator) -> np.ndarray:
    """Returns crumpled planes: the difference of two convex roofs, each a maximum of planes."""
    count, rough = category.integers(6, 60), category.uniform(0.005, 0.05)
    slopes = instance.uniform(-0.7, 0.7, (2, count, 2, 1, 1))
    offsets = instance.normal(0, rough, (2, count, 1, 1)) - (slopes**2).sum(2) / 2
    x, y = _axis() - 0.5, _axis().T - 0.5
    planes = np.float32(slopes[:, :, 0] * x + slopes[:, :, 1] * y + offsets)
    return _unit(planes.max(1)[0] - planes.max(1)[1])


def print_rows(category: Generator, instance: Generator) -> np.ndarray:
    """Returns rows of short random marks, as printed matter seen from afar."""
    rows, marks = category.integers(6, 26), category.integers(10, 60)
    density, gap = category.uniform(0.3, 0.8), category.uniform(0.3, 0.7)
    ink = (instance.uniform(size=(rows, marks)) < density).astype(np.float32)
    ink = cv2.resize(ink, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    return 1 - ink * ((_axis().T * rows) % 1 > gap)


def panels(category: Generator, instance: Generator) -> np.ndarray:
    """Returns a few large plain bands or blocks, as on a label."""
    shape = category.integers((1, 2), (5, 6))
    blocks = instance.uniform(size=shape).astype(np.float32)
    return cv2.resize(blocks, (TILE, TILE), interpolation=cv2.INTER_NEAREST)


# --- outlines ------------------------------------------------------------------------------------


def radial(category: Generator, instance: Generator) -> np.ndarray:
    """Returns the inside of a closed contour whose radius is a sum of harmonics."""
    order = np.arange(1, 9)[:, None]
    size = category.normal(0, 0.35, (8, 1)) / order ** category.uniform(0.3, 1.2)
    phase = category.uniform(0, 2 * np.pi, (8, 1)) + instance.normal(0, 0.1, (8, 1))
    wave = (size * instance.normal(1, 0.1, (8, 1)) * np.cos(order * _turn() + phase)).sum(0)
    return _polar(np.exp(wave))


def superformula(category: Generator, instance: Generator) -> np.ndarray:
    """Returns the inside of Gielis' superformula: rounded stars, squares, petals."""
    lobes, power = category.integers(2, 9), category.uniform(0.5, 8, 3)
    angle = lobes * _turn() / 4
    power = power * instance.normal(1, 0.06, 3)
    total = abs(np.cos(angle)) ** power[1] + abs(np.sin(angle)) ** power[2]
    return _polar(np.maximum(total, 1e-3) ** (-1 / power[0]))


def polygon(category: Generator, instance: Generator) -> np.ndarray:
    """Returns a straight-edged shape: a box, a shard, a star."""
    corners = int(category.integers(3, 10))
    angle = (np.arange(corners) + category.uniform(-0.4, 0.4, corners)) * 2 * np.pi / corners
    radius = category.uniform(1 - category.uniform(0, 0.7), 1, corners)
    angle, radius = angle + instance.normal(0, 0.05, corners), radius * _jitter(instance, corners)
    return _fill(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))


def lathe(category: Generator, instance: Generator) -> np.ndarray:
    """Returns the silhouette of a turned solid: a profile of smooth steps, mirrored."""
    height, steps = np.linspace(-1, 1, 64), category.integers(0, 4)
    centre = category.uniform(-0.9, 0.9, steps) + instance.normal(0, 0.04, steps)
    change, softness = category.uniform(-0.35, 0.35, steps), category.uniform(4, 30, steps)
    width = category.uniform(0.25, 0.8) * _jitter(instance)
    profile = width + (
        change[:, None] * np.tanh(softness[:, None] * (height - centre[:, None])) / 2
    ).sum(0)
    profile = np.maximum(profile, 0.08)
    return _fill(np.stack([np.r_[profile, -profile[::-1]], np.r_[height, height[::-1]]], 1))


def ribbon(category: Generator, instance: Generator) -> np.ndarray:
    """Returns a thick Lissajous curve: bent tubes, rings and knots."""
    order, phase = category.integers(1, 4, 2), category.uniform(0, np.pi)
    span = category.uniform(0.3, 1) * np.linspace(0, 2 * np.pi, 200)
    phase = phase + instance.normal(0, 0.08)
    points = np.stack([np.sin(order[0] * span + phase), np.sin(order[1] * span)], 1)
    tile = np.zeros((TILE, TILE), np.uint8)
    width = int(category.uniform(4, 22) * _jitter(instance)) + 1
    cv2.polylines(tile, [_pixels(points, 0.8)], False, 255, width, cv2.LINE_AA)
    return tile / 255


def fractal(category: Generator, instance: Generator) -> np.ndarray:
    """Returns the attractor of an iterated function system of two to five affine maps."""
    count = category.integers(2, 6)
    turn, flip = category.uniform(-np.pi, np.pi, (2, count)), category.choice([-1, 1], count)
    scale = category.uniform(0.35, 0.85, (count, 2)) * instance.normal(1, 0.02, (count, 2))
    shift = category.uniform(-1, 1, (count, 2)) + instance.normal(0, 0.03, (count, 2))
    left, right = _rotation(turn[0]), _rotation(turn[1])
    maps = left @ (scale[:, :, None] * right) * np.stack([flip, np.ones(count)], 1)[:, None]
    point, cloud = np.zeros((1500, 2)), []
    for step in range(24):
        choice = instance.integers(0, count, len(point))
        point = np.einsum("nij,nj->ni", maps[choice], point) + shift[choice]
        if step >= 10:
            cloud.append(point)
    return _density(np.concatenate(cloud))


SURFACES: tuple[Formula, ...] = (
    plasma, creases, grating, weave, lattice, cells, facets, print_rows, panels,
)  # fmt: skip
OUTLINES: tuple[Formula, ...] = (radial, superformula, polygon, lathe, ribbon, fractal)


# --- the small geometry behind the formulas ------------------------------------------------------


def _axis() -> np.ndarray:
    return np.linspace(0, 1, TILE, endpoint=False)[None]  # (1, TILE)


def _turn() -> np.ndarray:
    return np.linspace(0, 2 * np.pi, 180, endpoint=False)


def _jitter(instance: Generator, size: int | None = None):
    return np.exp(instance.normal(0, 0.08, size))


def _unit(field: np.ndarray) -> np.ndarray:
    return (field - field.min()) / max(np.ptp(field), 1e-6)


def _spectrum(instance: Generator, exponent: float, stretch: float) -> np.ndarray:
    """Returns noise whose amplitude falls as frequency to the power `-exponent`."""
    rows, columns = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    rows, columns = rows * np.exp(stretch), columns / np.exp(stretch)
    amplitude = (rows**2 + columns**2 + TILE**-2.0) ** (-exponent / 2)
    amplitude[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(instance.standard_normal((TILE, TILE))) * amplitude)
    return 0.5 + 0.5 * np.tanh(noise / noise.std())


def _rotation(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _pixels(points: np.ndarray, extent: float = 0.95) -> np.ndarray:
    centred = points - (points.max(0) + points.min(0)) / 2
    return ((centred / abs(centred).max() * extent + 1) * TILE / 2).astype(np.int32)


def _fill(points: np.ndarray) -> np.ndarray:
    tile = np.zeros((TILE, TILE), np.uint8)
    cv2.fillPoly(tile, [_pixels(points)], 255, cv2.LINE_AA)
    return tile / 255


def _polar(radius: np.ndarray) -> np.ndarray:
    return _fill(np.stack([radius * np.cos(_turn()), radius * np.sin(_turn())], 1))


def _density(points: np.ndarray) -> np.ndarray:
    low, high = np.quantile(points, (0.005, 0.995), axis=0)
    cell = np.clip((points - low) / np.maximum(high - low, 1e-6), 0, 1) * (TILE - 1)
    cell = cell.astype(np.int32)
    count = np.bincount(cell[:, 1] * TILE + cell[:, 0], minlength=TILE * TILE)
    hit = np.minimum(count, 1).reshape(TILE, TILE).astype(np.float32)
    return cv2.GaussianBlur(cv2.morphologyEx(hit, cv2.MORPH_CLOSE, np.ones((3, 3))), (3, 3), 0)
