"""A picture with its prediction drawn under it."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vitlora.data.images import open_image

_SIDE = 480  # pixels of the picture's longer side
_ROW = 34  # pixels of one class


def captioned(path: Path, top: Sequence[tuple[str, float]]) -> Image.Image:
    """Returns the picture above one bar for each class.

    Args:
        path: The picture file.
        top: Classes and confidences in ``[0, 1]``, most confident first.
    """
    image = open_image(path)
    scale = _SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    width = _SIDE
    canvas = Image.new("RGB", (width, image.height + _ROW * len(top) + 16), "white")
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(18)
    for index, (name, confidence) in enumerate(top):
        y = image.height + 8 + index * _ROW
        colour = "#1f7a4d" if index == 0 else "#b9c4bf"
        draw.rectangle((12, y + 24, 12 + (width - 24) * confidence, y + 30), fill=colour)
        draw.text((12, y), _in_font(name, font), fill="black", font=font)
        draw.text((width - 12, y), f"{confidence:.2%}", fill="black", font=font, anchor="ra")
    return canvas


def _in_font(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Returns the name as the font can draw it; Pillow's small fallback font knows Latin-1."""
    if isinstance(font, ImageFont.FreeTypeFont):
        return name
    return name.encode("latin-1", "replace").decode("latin-1")
