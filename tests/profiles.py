"""Colour profiles for tests, and what they mean, computed from the primaries' chromaticities."""

from __future__ import annotations

import numpy as np

from vitlora.data.icc import adobe_rgb, matrix_profile

WHITE = (0.3127, 0.3290)  # D65, as of all three
ADOBE_GAMMA = 563 / 256
# red, green and blue, as x and y: IEC 61966-2-1, SMPTE EG 432-1, Adobe RGB (1998)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PRIMARIES = {
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}


def light(values: np.ndarray) -> np.ndarray:
    """Returns sRGB's light of values, both in [0, 1]; Display P3 has the same curve."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def values(light: np.ndarray) -> np.ndarray:
    """Returns sRGB's values of light, both in [0, 1]."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Returns the matrix from light of red, green and blue to XYZ."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    x, y = WHITE
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def between(name: str, back: bool = False) -> np.ndarray:
    """Returns the matrix from a colour space's light to sRGB's, or back."""
    matrix = np.linalg.solve(to_xyz(SRGB_PRIMARIES), to_xyz(PRIMARIES[name]))
    return np.linalg.inv(matrix) if back else matrix


def in_srgb(name: str, pixels: np.ndarray) -> np.ndarray:
    """Returns what pixels `(..., 3)` of a colour space, 0 to 255, are in sRGB, unrounded."""
    shares = pixels / 255
    seen = shares**ADOBE_GAMMA if name == "Adobe RGB" else light(shares)
    return values(seen @ between(name).T) * 255


def stored_in(name: str, pixels: np.ndarray) -> np.ndarray:
    """Returns what stands in a file of a colour space for sRGB's pixels `(..., 3)`, uint8."""
    seen = np.clip(light(pixels / 255) @ between(name, back=True).T, 0, 1)
    stored = seen ** (1 / ADOBE_GAMMA) if name == "Adobe RGB" else values(seen)
    return np.rint(stored * 255).astype(np.uint8)


CURVE = [float(one) for one in light(np.linspace(0, 1, 1024))]
SRGB_LIKE = matrix_profile(
    "like sRGB",
    ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)),
    CURVE,
)
PROFILES = {
    "Display P3": matrix_profile(
        "Display P3",
        ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
        CURVE,
    ),
    "Adobe RGB": adobe_rgb(),
}
