"""The two sorts of shape that a ray can hit: `Lathe` and `Panels`.

A lathe's profile is kept as a table of signed distances and found by stepping along each ray;
panels are met exactly. Local units: a shape fits a ball of radius 1 about its origin; y is its
own axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vitlora.data.drawn.paint import Array, Image, sampled
from vitlora.data.drawn.skin import COLUMNS, ROWS, Skin

CELL = 0.02  # the side of a square of a lathe's table, in units
SHEET = 96  # the side of a panel's picture, in pixels


def dot(a: Array, b: Array) -> Array:
    """Returns the inner products (H, W) of vectors (3, H, W)."""
    return (a * b).sum(0)


@dataclass(frozen=True)
class Hit:
    """What a field of rays met."""

    t: Array  # (H, W), the way along the ray, infinite for a miss
    normal: Array  # (3, H, W), length 1
    colour: Image  # (H, W, 3), sRGB
    traits: Array  # (H, W, 3): opacity, gloss, metal, 0..1
    open_sky: Array  # (H, W), 0 in a crevice .. 1 in the open
    sunlit: Array  # (H, W), 0 where the thing shades itself


class Lathe:
    """A profile turned about the y axis, worn by a skin whose rows run along the profile."""

    def __init__(
        self,
        profile: Sequence[tuple[float, float, float]],
        skin: Skin,
        *,
        closed: bool = False,
        squash: float = 1,
        dents: Sequence[tuple[float, ...]] = (),
    ):
        """Turns (radius, height, skin row 0..1) points; dents are (size, kx, ky, kz, phase)."""
        points = _rounded(np.array(profile, np.float32), closed)
        points[:, 1] -= (points[:, 1].min() + points[:, 1].max()) / 2
        points[:, :2] /= np.hypot(points[:, 0].max(), points[:, 1].max())
        self.skin, self.squash = skin, float(squash)
        self.dents = [tuple(float(number) for number in dent) for dent in dents]
        pad = 0.14
        self.low = float(points[:, 1].min()) - pad
        self.shape = (
            int((points[:, 1].max() + pad - self.low) / CELL),
            int((points[:, 0].max() + pad) / CELL),
        )
        self.signed, self.along = _table(points, self.shape, self.low)
        self.outline = self._rim(points)

    def _rim(self, points: Array) -> Array:
        """Returns points (3, N) of the surface: rings about each of the profile's points."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False, dtype=np.float32)
        ring = np.stack([np.cos(angle) * self.squash, np.zeros(24), np.sin(angle) / self.squash])
        rim = (ring[:, None] * points[:, 0, None]).astype(np.float32)
        rim[1] = points[:, 1, None]
        reach = points[:, 0, None] + 1e-6
        shrink = np.clip(2 - self._unwound(rim)[0] * CELL / reach, 0, 1)
        return (rim * np.stack([shrink, np.ones_like(shrink), shrink])).reshape(3, -1)

    def _unwound(self, p: Array) -> tuple[Array, Array]:
        """Returns table columns and rows (H, W) of the points (3, H, W)."""
        x, y, z = p
        radius = np.sqrt((x / self.squash) ** 2 + (z * self.squash) ** 2)
        for size, kx, ky, kz, phase in self.dents:
            radius = radius + size * np.abs(np.sin(kx * x + ky * y + kz * z + phase))
        return radius / CELL, (y - self.low) / CELL

    def distance(self, p: Array) -> Array:
        """Returns the signed distance (H, W) of points (3, H, W), never much too large."""
        column, row = self._unwound(p)
        inside = sampled(self.signed, column, row, cv2.BORDER_REPLICATE)
        height, width = self.shape
        aside = np.maximum(column - width, 0)
        beyond = aside + np.maximum(np.abs(row - height / 2) - height / 2, 0)
        return inside + beyond * (0.7 * CELL)

    def trace(self, origin: Array, rays: Array, light: Array) -> Hit:
        """Returns where rays (3, H, W) of length 1 from origin (3,) meet the surface."""
        start, height, width = origin[:, None, None], *rays.shape[1:]
        first = np.float32(max(float(np.linalg.norm(origin)) - 1.1, 0))
        coarse = np.ascontiguousarray(rays[:, ::3, ::3])
        t, _ = self._march(start, coarse, np.full(coarse.shape[1:], first), 26)
        # Each ray sets out a little before the nearest of its coarse neighbours arrived.
        t = cv2.resize(cv2.erode(t, np.ones((3, 3), np.uint8)), (width, height)) - np.float32(0.06)
        t, gap = self._march(start, rays, np.minimum(t, first + 2.4), 13)
        p = start + rays * t
        normal = self._normal(p)
        open_sky = np.clip(0.25 + self.distance(p + normal * 0.16) / 0.2, 0, 1)
        colour, traits = self._worn(p)
        t = np.where(gap < 0.015, t, np.inf).astype(np.float32)
        return Hit(t, normal, colour, traits / np.float32(255), open_sky, np.ones_like(t))

    def _march(self, start: Array, rays: Array, t: Array, steps: int) -> tuple[Array, Array]:
        """Returns how far each ray came in so many steps from t, and its last gap."""
        pace = 0.65 if self.dents or self.squash != 1 else 0.95
        gap = t
        for _ in range(steps):
            gap = self.distance(start + rays * t)
            t = t + gap * pace
        return t, gap

    def _normal(self, p: Array) -> Array:
        """Returns the way out (3, H, W) at points of the surface, from a tetrahedron about each."""
        normal = np.zeros_like(p)
        for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
            step = np.array(corner, np.float32)[:, None, None]
            normal += step * self.distance(p + step * 0.012)
        return normal / (np.linalg.norm(normal, axis=0) + 1e-6)

    def _worn(self, p: Array) -> tuple[Image, Image]:
        """Returns the skin's colour and traits (H, W, 3) at points of the surface."""
        v = sampled(self.along, *self._unwound(p), cv2.BORDER_REPLICATE)
        v = np.clip(v * ROWS - 0.5, 0, ROWS - 1)
        u = (np.arctan2(p[2], p[0]) / (2 * np.pi)).astype(np.float32) % 1 * (COLUMNS - 1)
        return sampled(self.skin.colour, u, v), sampled(self.skin.traits, u, v)

    def lit(self, p: Array, light: Array, rng: np.random.Generator) -> Array:
        """Returns the part (H, W), 0..1, of a wide lamp towards `light` that points p can see."""
        seen, t = np.ones(p.shape[1:], np.float32), np.full(p.shape[1:], 0.03, np.float32)
        for _ in range(15):
            gap = self.distance(p + light[:, None, None] * t)
            seen = np.minimum(seen, 0.5 + 5 * gap / t)
            t += np.clip(gap, 0.04, 0.3)
        return np.clip(seen, 0, 1)


def _rounded(points: Array, closed: bool) -> Array:
    """Returns the polyline with each corner cut twice."""
    for _ in range(2):
        nearer, further = points[:-1] * 0.8 + points[1:] * 0.2, points[:-1] * 0.2 + points[1:] * 0.8
        cut = np.stack([nearer, further], 1).reshape(-1, 3)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return np.concatenate([points, points[:1]]) if closed else points


def _table(points: Array, shape: tuple[int, int], low: float) -> tuple[Array, Array]:
    """Returns, over a grid of (height, radius), signed distance and nearest skin row."""
    y = (np.arange(shape[0], dtype=np.float32) * CELL + low)[:, None, None]
    x = (np.arange(shape[1], dtype=np.float32) * CELL)[None, :, None]
    (ax, ay, av), (bx, by, bv) = points[:-1].T, points[1:].T
    ex, ey = bx - ax, by - ay
    along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-9), 0, 1)
    square = (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2
    nearest = square.argmin(-1)[..., None]
    row = np.take_along_axis(av + along * (bv - av), nearest, -1)[..., 0]
    distance = np.sqrt(np.take_along_axis(square, nearest, -1)[..., 0])
    crossed = ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / np.where(ey == 0, 1e-9, ey))
    inside = crossed.sum(-1) % 2 == 1
    return np.where(inside, -distance, distance).astype(np.float32), row.astype(np.float32)


class Panels:
    """Flat parallelograms, each with its own square of skin, seen from both sides."""

    def __init__(self, panels: Sequence[tuple[Array, Array, Array]], skins: Sequence[Image]):
        """Takes (corner, edge, edge) per panel, and one (SHEET, SHEET, 3) picture for each."""
        corners = np.stack(
            [c + i * a + j * b for c, a, b in panels for i in (0, 1) for j in (0, 1)], 1
        )
        middle = (corners.min(1) + corners.max(1)) / 2
        size = float(np.linalg.norm(corners - middle[:, None], axis=0).max())
        self.outline: Array = ((corners - middle[:, None]) / size).astype(np.float32)
        self.atlas: Image = np.concatenate(skins)
        self.panels = []
        for corner, a, b in panels:
            across = np.cross(a, b)
            frame = np.stack([a, b, across / np.linalg.norm(across)], 1) / size
            self.panels.append(((corner - middle) / size, np.linalg.inv(frame).astype(np.float32)))

    def _nearest(self, origin: Array, rays: Array) -> tuple[Array, Array, Array, Array]:
        """Returns t, u, v and panel number (H, W) of the first panel on each ray."""
        shape = rays.shape[1:]
        best: Array = np.full(shape, np.inf, np.float32)
        u, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        which = np.zeros(shape, np.int32)
        flat = rays.reshape(3, -1)
        for number, (corner, inverse) in enumerate(self.panels):
            start = inverse @ (origin.reshape(3, -1) - corner[:, None]).astype(np.float32)
            speed = inverse @ flat
            t = -start[2] / np.where(np.abs(speed[2]) < 1e-6, 1e-6, speed[2])
            a, b = ((start[i] + t * speed[i]).reshape(shape) for i in (0, 1))
            t = t.reshape(shape)
            met = (t > 0.004) & (t < best) & (np.abs(a - 0.5) <= 0.5) & (np.abs(b - 0.5) <= 0.5)
            for kept, new in ((best, t), (u, a), (v, b), (which, number)):
                np.copyto(kept, new, where=met)
        return best, u, v, which

    def trace(self, origin: Array, rays: Array, light: Array) -> Hit:
        """Returns where rays (3, H, W) from origin (3,) meet the panels."""
        t, u, v, which = self._nearest(origin, rays)
        normals = np.stack([inverse[2] for _, inverse in self.panels])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        normal = np.moveaxis(normals[which], -1, 0).astype(np.float32)
        normal = normal * np.where(dot(normal, rays) > 0, -1, 1).astype(np.float32)
        first, last = 0.5, SHEET - 1.5  # so that no panel borrows from its neighbour in the atlas
        rows = which * SHEET + np.clip((1 - v) * SHEET - 0.5, first, last)
        colour = sampled(self.atlas, np.clip(u * SHEET - 0.5, first, last), rows)
        fewer = (slice(None), slice(None, None, 2), slice(None, None, 2))
        p = (origin[:, None, None] + rays * np.where(np.isfinite(t), t, 0) + normal * 0.01)[fewer]
        blocked = self._shadowed(p, light[:, None, None])
        covered = self._shadowed(p, normal[fewer] * 0.8 + np.array([[[0]], [[0.6]], [[0]]]))
        sunlit, open_sky = (
            cv2.resize(cv2.blur(1 - part * dark, (size, size)), t.shape[::-1])
            for part, dark, size in ((blocked, 1, 2), (covered, 0.6, 5))
        )
        traits = np.broadcast_to(np.array([1, 0.12, 0], np.float32), colour.shape)
        return Hit(t, normal, colour, traits, open_sky, sunlit)

    def _shadowed(self, p: Array, toward: Array) -> Array:
        """Returns 1 where a panel lies in that direction (3, H, W) from the points, else 0."""
        rays = np.broadcast_to(toward, p.shape).astype(np.float32)
        return np.isfinite(self._nearest(p, rays)[0]).astype(np.float32)

    def lit(self, p: Array, light: Array, rng: np.random.Generator) -> Array:
        """Returns the part (H, W), 0..1, of a wide lamp towards `light` that points p can see."""
        seen = np.zeros(p.shape[1:], np.float32)
        for _ in range(4):
            toward = light + rng.normal(0, 0.05, 3).astype(np.float32)
            seen += 1 - self._shadowed(p, toward[:, None, None])
        return cv2.blur(seen / 4, (3, 3))

    def distance(self, p: Array) -> Array:
        """Returns the distance (H, W) from points (3, H, W) to the panels' bounding box."""
        beyond = np.abs(p) - np.abs(self.outline).max(1)[:, None, None] * 0.85
        return np.linalg.norm(np.maximum(beyond, 0), axis=0)
