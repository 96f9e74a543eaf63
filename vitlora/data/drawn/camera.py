"""Where a picture is taken from."""

from __future__ import annotations

import numpy as np

from vitlora.data.drawn.paint import Array


class Camera:
    """An eye (3,), a frame (3, 3) about it, and one ray (3, side, side) of length 1 per pixel."""

    def __init__(self, rng: np.random.Generator, size: Array, side: int):
        """Aims so that what stands in the middle, of this size (3,) in units, fills the view."""
        pitch, roll = rng.uniform(0.22, 0.95), rng.normal(0, 0.07)
        spread = np.tan(rng.uniform(0.24, 0.4))
        broad = max(float(np.hypot(size[0], size[2]) * 0.9), float(size[1]))
        far = broad / 2 / (spread * rng.uniform(0.66, 0.94)) + 0.25
        target = np.array([0, size[1] / 2, 0]) + rng.normal(0, 0.07, 3)
        forward = -np.array([0, np.sin(pitch), np.cos(pitch)])
        level, upright = np.array([1.0, 0, 0]), np.array([0, np.cos(pitch), -np.sin(pitch)])
        right = np.cos(roll) * level + np.sin(roll) * upright
        up = np.cos(roll) * upright - np.sin(roll) * level
        self.side = side
        self.eye: Array = (target - forward * far).astype(np.float32)
        self.frame: Array = np.stack([right / spread, up / spread, forward]).astype(np.float32)
        across = ((np.arange(side) + 0.5) / side * 2 - 1) * spread
        forward, right, up = (axis[:, None, None] for axis in (forward, right, up))
        rays = forward + right * across + up * -across[:, None]
        self.rays: Array = (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)

    def window(self, points: Array) -> tuple[slice, slice]:
        """Returns the rows and columns that hold points (3, N) given from the eye, and a margin."""
        x, y, depth = self.frame @ points
        across, up = ((part / depth + 1) * self.side / 2 for part in (x, y))
        margin = self.side * 0.03
        (top, bottom), (left, right) = (
            np.clip((part.min() - margin, part.max() + margin), 0, self.side).astype(int).tolist()
            for part in (self.side - up, across)
        )
        return slice(top, bottom), slice(left, right)
