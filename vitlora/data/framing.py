"""The part of a picture that a network sees, at the network's size. Needs Pillow alone."""

import math
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Framing:
    """Scales a picture and cuts a square out of its middle: timm's evaluation, to the last pixel.

    Attributes:
        size: Side of the square in pixels.
        scaled: Side in pixels that the picture is scaled to, at least ``size``: the short one
            (``center``), both (``squash``) or the long one (``border``).
        mode: ``center``, ``squash`` or ``border``; see ``Preprocessing.seeing``.
        interpolation: One of Pillow's resamplings, in lower case.
        fill: RGB in ``[0, 255]`` of what the picture does not cover, under ``border``.
    """

    size: int
    scaled: int
    mode: str
    interpolation: str
    fill: tuple[int, int, int]

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the square of an upright RGB picture.

        Under ``border`` a picture so thin that nothing of it would be left keeps one pixel.
        """
        if self.mode == "border":
            image = self._thickened(image)
        width, height = self._scaled(*image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.mode == "border":
            image = self._between_borders(image)
        left, top = ((side - self.size) / 2 for side in image.size)
        box = (round(left), round(top), round(left) + self.size, round(top) + self.size)
        return image.crop(box)

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height to which a picture is scaled, rounded as timm does."""
        if self.mode == "squash":
            return self.scaled, self.scaled
        if self.mode == "border":
            ratio = max(width / self.scaled, height / self.scaled)
            return round(width / ratio), round(height / ratio)
        long = int(self.scaled * max(width, height) / min(width, height))
        return (self.scaled, long) if width <= height else (long, self.scaled)

    def _thickened(self, image: Image.Image) -> Image.Image:
        """Widens a picture whose short side would shrink to 0 pixels, which Pillow refuses."""
        scale = max(image.size) / self.scaled
        if round(min(image.size) / scale) > 0:
            return image
        width, height = (max(side, math.ceil(scale)) for side in image.size)
        return image.resize((width, height), Image.Resampling.NEAREST)

    def _between_borders(self, image: Image.Image) -> Image.Image:
        """Returns a picture that is nowhere smaller than the square."""
        width, height = (max(side, self.size) for side in image.size)
        canvas = Image.new("RGB", (width, height), self.fill)
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas
