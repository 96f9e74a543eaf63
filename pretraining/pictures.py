"""Pictures of things that do not exist: formulas, laid on a background, lit and photographed.

Every picture shows one main object. Its outline and its surface each belong to a category of
`formulas`; pose, colours, finish, light, background and camera are drawn anew each time. Since the
picture is computed, everything about it is known: no photograph, download or label by hand.
"""

import colorsys
from typing import NamedTuple

import cv2
import numpy as np
from formulas import OUTLINES, SURFACES, TILE, Formula
from numpy.random import Generator, default_rng

SIDE = 96  # pixels of a picture
GRID = 12  # cells a side of the maps
ATTRIBUTES = (
    *("red", "green", "blue", "second_red", "second_green", "second_blue"),
    *("ground_red", "ground_green", "ground_blue", "light_x", "light_y"),
    *("gloss", "metal", "translucency", "relief", "roundness", "coverage", "blur"),
)
MAPS = ("mask", "red", "green", "blue", "normal_x", "normal_y")


class Picture(NamedTuple):
    """One drawn picture and what it was drawn from."""

    image: np.ndarray  # (SIDE, SIDE, 3) uint8, RGB
    outline: int  # category of the contour
    surface: int  # category of the texture
    attributes: np.ndarray  # (len(ATTRIBUTES),) float32, -1 to 1
    maps: np.ndarray  # (len(MAPS), GRID, GRID) float32, -1 to 1; zero beside the object but mask


class Studio:
    """Holds some instances of every category and draws pictures with them.

    Args:
        outlines: number of outline categories.
        surfaces: number of surface categories.
        instances: drawn variants of each category.
        seed: decides the categories, their instances and every picture.
    """

    def __init__(
        self, outlines: int = 192, surfaces: int = 192, instances: int = 16, seed: int = 0
    ):
        self.seed = seed
        self.outlines = _draw_tiles(OUTLINES, outlines, instances, (seed, 1))
        self.surfaces = _draw_tiles(SURFACES, surfaces, instances, (seed, 2))

    def draw(self, index: int) -> Picture:
        """Draws picture number `index`; the same number gives the same picture."""
        rng = default_rng((self.seed, 3, index))
        light = _light(rng)
        image = self._ground(rng, light)
        ground = image.mean((0, 1))
        if rng.uniform() < 0.3:
            image = self._put(rng, image, light, (0.2, 0.5), 0.5)[0]
        image, outline, surface, traits, maps = self._put(rng, image, light, (0.5, 1.5), 0.2)
        image, blur = _photograph(rng, image)
        attributes = np.r_[traits[:6], ground, light[:2] * 0.5 + 0.5, traits[6:], blur] * 2 - 1
        pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        return Picture(pixels, int(outline), int(surface), attributes.astype(np.float32), maps)

    def _ground(self, rng: Generator, light: np.ndarray) -> np.ndarray:
        """Returns a background: plain or textured, lit from one side. (SIDE, SIDE, 3)."""
        plain = rng.uniform() < 0.5
        first = _colour(rng, saturation=0.15 if plain else 1)
        second = _near(rng, first, 0.05 if plain else 0.25)
        tile = self.surfaces[rng.integers(len(self.surfaces)), rng.integers(self.surfaces.shape[1])]
        field = _place(tile, rng, rng.uniform(0.8, 2), 0)[..., None]
        x = np.linspace(-1, 1, SIDE)
        slope = (x[:, None] * light[1] + x * light[0])[..., None]
        return (first + (second - first) * field) * (1 + rng.uniform(0, 0.35) * slope)

    def _put(self, rng: Generator, image: np.ndarray, light: np.ndarray, extent, spread: float):
        """Lays an object and its shadow on `image`; returns it, categories, traits and maps."""
        outline, surface = rng.integers(len(self.outlines)), rng.integers(len(self.surfaces))
        variant = rng.integers(self.outlines.shape[1], size=2)
        scale, shift = rng.uniform(*extent), rng.normal(0, spread * SIDE / 2, 2)
        mask = _place(self.outlines[outline, variant[0]], rng, scale, shift, cv2.BORDER_CONSTANT)
        field = _place(self.surfaces[surface, variant[1]], rng, rng.uniform(0.7, 1.8), 0)
        first = _colour(rng)
        second = _near(rng, first, 0.1) if rng.uniform() < 0.5 else _colour(rng)
        gloss, metal, clear = rng.uniform(size=3) * (rng.uniform(size=3) < (0.5, 0.25, 0.25))
        relief, roundness = rng.uniform(size=2) * (rng.uniform(size=2) < (0.6, 0.8))

        normal = _normals(mask, field, relief, roundness)
        albedo = first + (second - first) * field[..., None]
        shaded = _shade(rng, albedo, normal, light, gloss, metal)
        sheer = (1 - 0.9 * clear * normal[..., 2:] ** 2) * mask[..., None]
        shadow = cv2.GaussianBlur(mask, (0, 0), rng.uniform(1.5, 6))
        shadow = np.roll(shadow, np.int32(-6 * light[1::-1]), (0, 1))[..., None]
        image = image * (1 - rng.uniform(0, 0.6) * shadow)
        traits = np.r_[first, second, gloss, metal, clear, relief, roundness, mask.mean()]
        image = image * (1 - sheer) + shaded * sheer
        return image, outline, surface, traits, _maps(mask, albedo, normal)


def _draw_tiles(formulas: tuple[Formula, ...], categories: int, instances: int, seed) -> np.ndarray:
    """Returns (categories, instances, TILE, TILE) uint8; the formulas take turns."""
    tiles = np.empty((categories, instances, TILE, TILE), np.uint8)
    for k, i in np.ndindex(categories, instances):
        field = formulas[k % len(formulas)](default_rng((*seed, k)), default_rng((*seed, k, i)))
        tiles[k, i] = np.clip(field, 0, 1) * 255
    return tiles


def _light(rng: Generator) -> np.ndarray:
    """Returns the unit vector towards the light: right, down, towards the viewer. (3,)."""
    angle, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.85)
    return np.array([tilt * np.cos(angle), tilt * np.sin(angle), np.sqrt(1 - tilt**2)])


def _colour(rng: Generator, saturation: float = 1) -> np.ndarray:
    """Returns a colour, dull or bright; dark ones are rarer than light ones. (3,), 0 to 1."""
    strength = saturation * rng.choice((0.1, 0.5, 1)) * rng.uniform()
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), strength, rng.uniform(0.05, 1) ** 0.7))


def _near(rng: Generator, colour: np.ndarray, distance: float) -> np.ndarray:
    return np.clip(colour + rng.normal(0, distance, 3), 0, 1)


def _place(
    tile: np.ndarray, rng: Generator, scale: float, shift, border=cv2.BORDER_REFLECT
) -> np.ndarray:
    """Returns `tile` turned at random, scaled against the picture and moved by `shift` pixels."""
    scale, angle = scale * SIDE / TILE, rng.uniform(-180, 180)
    matrix = cv2.getRotationMatrix2D((TILE / 2, TILE / 2), angle, scale)
    matrix[:, 2] += SIDE / 2 - TILE / 2 + shift
    return cv2.warpAffine(tile, matrix, (SIDE, SIDE), borderMode=border) / np.float32(255)


def _normals(mask: np.ndarray, field: np.ndarray, relief: float, roundness: float) -> np.ndarray:
    """Returns unit normals of a body bulging from its rim and embossed by its texture."""
    inside = cv2.distanceTransform((mask > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    inside = np.minimum(inside, SIDE / 2)  # without a rim in sight the distance has no bound
    reach = max(inside.max(), 1) * (0.2 + 0.8 * roundness)
    bulge = np.sqrt(1 - (1 - np.minimum(inside / reach, 1)) ** 2) * reach * roundness
    height = cv2.GaussianBlur((bulge + 5 * relief * field).astype(np.float32), (0, 0), 1.2)
    slope = cv2.Sobel(height, -1, 1, 0, scale=1 / 8), cv2.Sobel(height, -1, 0, 1, scale=1 / 8)
    normal = np.stack([-slope[0], -slope[1], np.ones_like(height)], -1)
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _shade(rng: Generator, albedo, normal, light, gloss: float, metal: float) -> np.ndarray:
    """Returns Lambert shading, a Blinn highlight and a banded mirror image, by gloss and metal."""
    halfway = light + np.array([0, 0, 1])
    halfway /= np.linalg.norm(halfway)
    diffuse = 0.35 + 0.75 * np.maximum(normal @ light, 0)
    highlight = np.maximum(normal @ halfway, 0) ** (8 + 120 * gloss) * gloss
    turn = rng.uniform(0, 2 * np.pi)
    mirror = normal[..., 0] * np.cos(turn) + normal[..., 1] * np.sin(turn)
    mirror = 0.6 + 0.5 * np.sin(rng.uniform(3, 12) * mirror + rng.uniform(0, 2 * np.pi))
    lit = diffuse * (1 - metal) + mirror * metal
    return albedo * lit[..., None] + highlight[..., None]


def _maps(mask: np.ndarray, albedo: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Returns what each cell shows: the object's mask, own colour, normal."""
    layers = np.dstack([albedo * 2 - 1, normal[..., :2]]) * mask[..., None]
    layers = np.dstack([mask * 2 - 1, layers]).astype(np.float32)
    return cv2.resize(layers, (GRID, GRID), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)


def _photograph(rng: Generator, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns `image` with exposure, white balance, blur and grain, and the blur from 0 to 1."""
    balance = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.04, 3))
    blur = rng.uniform() * (rng.uniform() < 0.4)
    image = cv2.GaussianBlur(image * balance, (0, 0), 0.3 + 1.2 * blur)
    return image + rng.normal(0, 0.03) * rng.standard_normal(image.shape), blur
