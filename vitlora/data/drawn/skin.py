"""What a lathe-turned thing wears: a texture of colours, and of how the surface takes light."""

from __future__ import annotations

import cv2
import numpy as np

from vitlora.data.drawn.paint import Array, Colour, Image, noise, sampled

ROWS, COLUMNS = 256, 512  # of every skin: along the profile, and once round the thing


class Skin:
    """A texture: colours (ROWS, COLUMNS, 3) and traits opacity, gloss, metal, 0..255."""

    def __init__(self, colour: Colour, opacity: float = 1, gloss: float = 0.4, metal: float = 0):
        self.colour: Image = np.full((ROWS, COLUMNS, 3), colour, np.uint8)
        self.traits: Image = np.zeros((ROWS, COLUMNS, 3), np.uint8)
        self.traits[:] = [round(255 * value) for value in (opacity, gloss, metal)]

    def band(
        self,
        low: float,
        high: float,
        colour: Colour | Image,
        traits: tuple[float, ...] | None = None,
    ) -> None:
        """Paints the rows from `low` to `high`, 0..1, with a colour or with an upright image."""
        rows = slice(round(low * ROWS), round(high * ROWS))
        if isinstance(colour, np.ndarray):
            size = (COLUMNS, rows.stop - rows.start)
            colour = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)[::-1, ::-1]
        self.colour[rows] = colour
        if traits is not None:
            self.traits[rows] = [round(255 * value) for value in traits]

    def disc(self, low: float, picture: Image) -> None:
        """Wraps a square picture over the top: its rim at row `low`, its middle at the last row."""
        first, side = round(low * ROWS), picture.shape[0]
        radius = np.linspace(1, 0, ROWS - first, dtype=np.float32)[:, None] * side / 2.02
        angle = np.linspace(0, 2 * np.pi, COLUMNS, dtype=np.float32)[None]
        x, y = side / 2 + radius * np.cos(angle), side / 2 + radius * np.sin(angle)
        self.colour[first:] = sampled(picture, x, y)

    def stain(self, rng: np.random.Generator, colour: Colour, strength: float) -> None:
        """Rubs dirt of one colour over the skin in patches; strength 0..1 is the most it covers."""
        patches: Array = noise(rng, (ROWS // 4, COLUMNS // 4), (5, 11, 40))
        cover = (np.clip(patches * 2, 0, 1) * strength).astype(np.float32)
        cover = cv2.resize(cover, (COLUMNS, ROWS))
        mud = np.full_like(self.colour, colour)
        self.colour = cv2.blendLinear(self.colour, mud, 1 - cover, cover)
