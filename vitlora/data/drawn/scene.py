"""A scene and how its light reaches the camera."""

from __future__ import annotations

import cv2
import numpy as np

from vitlora.data.drawn.camera import Camera
from vitlora.data.drawn.ground import at, ground_map, wall_map
from vitlora.data.drawn.paint import Array, linear, sampled
from vitlora.data.drawn.rays import Hit, dot
from vitlora.data.drawn.thing import Thing


class Light:
    """The light on a scene: a sun and a sky, and a lamp that shows in what is glossy."""

    def __init__(self, rng: np.random.Generator):
        """Sets where sun and lamp stand, and the colours of sun and sky: (3,) each."""
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.25)
        x, y, z = np.cos(azimuth) * np.cos(height), np.sin(height), np.sin(azimuth) * np.cos(height)
        self.toward = np.array([x, y, z], np.float32)
        warm, haze = rng.uniform(-0.12, 0.16), rng.uniform(0.65, 1)
        sun, sky = rng.uniform(1.0, 1.8) * haze, rng.uniform(0.28, 0.42) / haze
        self.sun = np.array([1 + warm, 1, 1 - warm], np.float32) * np.float32(sun)
        self.sky = np.array([0.9, 1, 1.12], np.float32) * np.float32(sky)
        aside = rng.uniform(-0.8, 0.8)
        self.lamp = np.array([aside, 0.75, 0.6], np.float32) / np.float32(np.hypot(aside, 0.96))


class Scene:
    """One thing on a ground before a wall, under a sun and a sky, before a camera."""

    def __init__(self, rng: np.random.Generator, thing: Thing, side: int):
        """Places the thing on the ground's middle and the camera so that it fills the view."""
        self.rng, self.thing = rng, thing
        self.outline = thing.turn @ thing.shape.outline
        low, high = self.outline.min(1), self.outline.max(1)
        self.place = -np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2], np.float32)
        self.light = Light(rng)
        toward = self.light.toward
        self.ground = ground_map(rng, (-toward[[0, 2]] / toward[1] * 5).astype(float))
        self.wall = wall_map(rng)
        self.wall_at = -float(rng.uniform(1.3, 5))
        self.camera = Camera(rng, high - low, side)

    def picture(self) -> Array:
        """Returns the scene as light, (side, side, 3), from about 0 to 1.5."""
        view, eye = self._backdrop(), self.camera.eye
        window = self.camera.window(self.outline + (self.place - eye)[:, None])
        rays = np.ascontiguousarray(self.camera.rays[(slice(None), *window)])
        inside = self._inside
        hit = self.thing.shape.trace(
            inside(eye - self.place), inside(rays), inside(self.light.toward)
        )
        view[window] = self._shaded(hit, rays, view, window)
        return view

    def _inside(self, vectors: Array) -> Array:
        """Returns vectors (3, ...) turned into the thing's own frame."""
        return np.tensordot(self.thing.turn.T, vectors, 1).astype(np.float32)

    def _backdrop(self) -> Array:
        """Returns the lit ground and wall with the thing's shadow on them, (side, side, 3)."""
        eye, rays, toward = self.camera.eye, self.camera.rays, self.light.toward
        down, back = _way(eye[1], rays[1]), _way(eye[2] - self.wall_at, rays[2])
        on_wall = back < down
        p = eye[:, None, None] + rays * np.minimum(down, back).astype(np.float32)
        wall, ground = at(self.wall, p[0], p[1]), at(self.ground, p[0], p[2])
        facing = np.where(on_wall, max(float(toward[2]), 0) * 0.8, toward[1])
        seen, ambient = self._shadow(p)
        corner = 1 - 0.35 * np.exp(-np.abs(np.where(on_wall, p[1], p[2] - self.wall_at)) * 5)
        sun = (facing * seen)[..., None] * self.light.sun
        light = sun + (ambient * corner)[..., None] * self.light.sky
        return (np.where(on_wall[..., None], wall, ground) * light).astype(np.float32)

    def _shadow(self, p: Array) -> tuple[Array, Array]:
        """Returns how much sun and sky, (side, side), the thing leaves to points p."""
        coarse = np.ascontiguousarray(p[:, ::2, ::2])
        local = self._inside(coarse - self.place[:, None, None])
        seen = self.thing.shape.lit(local, self._inside(self.light.toward), self.rng)
        apart = self.thing.shape.distance(local)
        ambient = np.sqrt(np.clip(0.06 + apart * 1.4, 0, 1))
        seen = seen + (1 - seen) * self.thing.clear
        seen = seen * np.clip(0.12 + apart * 6, 0, 1)
        size = p.shape[:0:-1]
        return cv2.resize(seen.astype(np.float32), size), cv2.resize(ambient, size)

    def _shaded(self, hit: Hit, rays: Array, view: Array, window: tuple[slice, slice]) -> Array:
        """Returns what the window shows: the thing, and the backdrop round it and through it."""
        sun, sky, toward = self.light.sun, self.light.sky, self.light.toward[:, None, None]
        normal = np.tensordot(self.thing.turn, hit.normal, 1).astype(np.float32)
        colour = linear(hit.colour)
        opacity, gloss, metal = np.moveaxis(hit.traits, -1, 0)
        facing = np.clip(dot(normal, toward), 0, 1) * hit.sunlit
        slant = np.clip(-dot(normal, rays), 0, 1)
        mirror = rays + 2 * slant * normal
        around = _surroundings(mirror)

        overcast = ((0.62 + 0.38 * normal[1]) * hit.open_sky)[..., None] * sky
        matte = colour * (facing[..., None] * sun + overcast)
        metallic = colour * (around * hit.open_sky)[..., None] * (sky + 0.5 * sun)
        solid = matte + metal[..., None] * (metallic - matte)

        half = toward - rays
        shine = dot(normal, half) / np.linalg.norm(half, axis=0)
        shine = np.exp((shine - 1) * (8 + 150 * gloss**2)) * gloss * hit.sunlit * (facing > 0)
        lamp = dot(mirror, self.light.lamp[:, None, None])
        lamp = np.clip(lamp * 14 - 12.6, 0, 1) * gloss**2 * 0.45
        edge = (1 - slant) * (1 - slant)
        fresnel = (0.04 + 0.9 * edge * edge) * gloss
        gleam = (shine * 1.1 + lamp)[..., None] * sun
        gleam = gleam + (fresnel * around)[..., None] * (sky + 0.4 * sun)

        if float(opacity.min()) < 0.99:
            behind = _through(colour, normal, slant, view, window)
            solid = behind + opacity[..., None] * (solid - behind)
        met = np.isfinite(hit.t)[..., None]
        return np.where(met, solid + gleam, view[window]).astype(np.float32)


def _way(drop: Array, slope: Array) -> Array:
    """Returns how far rays go until they have dropped so deep; 1000 for those that do not drop."""
    return np.where(slope < -1e-4, -drop / np.minimum(slope, -1e-4), 1e3)


def _surroundings(mirror: Array) -> Array:
    """Returns what a mirror would show in directions (3, H, W): blotchy, bright above a horizon."""
    x, y, z = mirror
    blotches = 0.5 + 0.45 * np.sin(x * 4 + z * 3 + 1)
    return np.clip(y * 5 + 0.5, 0.12, 1) * blotches + np.clip(y, 0, 1) * 0.35


def _through(
    colour: Array, normal: Array, slant: Array, view: Array, window: tuple[slice, slice]
) -> Array:
    """Returns the backdrop bent and tinted by glass, darker where the glass is seen edge on."""
    y, x = np.mgrid[window].astype(np.float32)
    bend = 0.11 * view.shape[0]
    behind = sampled(view, x - bend * normal[0], y + bend * normal[1], cv2.BORDER_REFLECT_101)
    depth = (0.7 + 1.5 * (1 - slant) ** 2)[..., None]
    return behind * np.maximum(colour, 0.003) ** (depth * 0.55)
