"""A thing to photograph: a shape, and how it came to rest on the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitlora.data.drawn.paint import Array
from vitlora.data.drawn.rays import Lathe, Panels


@dataclass(frozen=True)
class Thing:
    """A shape, how it is turned (3, 3), and how much light its shadow still lets through, 0..1."""

    shape: Lathe | Panels
    turn: Array
    clear: float = 0


def turned(tilt: float, spin: float, yaw: float) -> Array:
    """Returns the rotation by spin about y, then tilt about z, then yaw about y (radians)."""
    (ct, cs, cy), (st, ss, sy) = np.cos([tilt, spin, yaw]), np.sin([tilt, spin, yaw])
    spun = np.array([[cs, 0, ss], [0, 1, 0], [-ss, 0, cs]])
    tilted = np.array([[ct, -st, 0], [st, ct, 0], [0, 0, 1]])
    return (np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ tilted @ spun).astype(np.float32)


def pose(rng: np.random.Generator, lying: float) -> Array:
    """Returns a rotation: lying on its side with chance `lying`, else standing, a little askew."""
    spin = rng.uniform(0, 2 * np.pi)
    tilt = np.pi / 2 + rng.normal(0, 0.03) if rng.random() < lying else rng.normal(0, 0.02)
    return turned(tilt, spin, rng.uniform(0, 2 * np.pi))
