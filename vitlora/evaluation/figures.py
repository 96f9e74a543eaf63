"""Pictures for a report: thumbnails, and the network's inputs with saliency maps."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from vitlora.data.bit_depth import ValueRange
from vitlora.data.images import open_image
from vitlora.data.preprocessing import Preprocessing
from vitlora.evaluation.saliency import saliency
from vitlora.pages.page import data_uri

_THUMBNAIL = 112  # pixels
_LARGE = 224
_MOST_MATRIX = 8 * 144 * 196**2  # attention weights at once: 8 pictures of 224 px in a ViT-B
_HEAT = (255, 70, 0)
_STRONGEST = 190  # of 255: the picture must shine through


@dataclass(frozen=True)
class Figure:
    """A picture of a report with its answer.

    Attributes:
        name: The file, relative to the data's folder.
        image: The picture as a data URI.
        map: The map to lay over it, stretched, as a data URI; empty for none.
        true: The true class.
        predicted: The predicted class.
        confidence: Confidence of the prediction, in ``[0, 1]``.
    """

    name: str
    image: str
    map: str
    true: str
    predicted: str
    confidence: float


def thumbnail(path: Path, value_range: ValueRange | None = None) -> str:
    """Returns the whole picture, made small, as a data URI.

    Args:
        path: The file.
        value_range: The values that become 0 and 255 in files deeper than 8 bits.

    Raises:
        DataError: It cannot be read.
    """
    return data_uri(open_image(path, _THUMBNAIL, value_range), _THUMBNAIL)


def looked_at(
    network: nn.Module,
    paths: Sequence[Path],
    classes: Sequence[int],
    preprocessing: Preprocessing,
    device: torch.device,
) -> list[tuple[str, str]]:
    """Returns each picture as the network saw it, with the saliency map of a class.

    Args:
        network: A plain timm ViT on the device, in evaluation mode.
        paths: The pictures.
        classes: The class of each map.
        preprocessing: The network's.
        device: The network's.

    Returns:
        Two data URIs for each picture: itself, and the map to stretch over it.

    Raises:
        DataError: A picture cannot be read.
    """
    transform = preprocessing.transform()
    drawn: list[tuple[str, str]] = []
    patches: int = network.patch_embed.num_patches  # pyright: ignore
    heads = sum(block.attn.num_heads for block in network.blocks)  # pyright: ignore
    batch = max(1, _MOST_MATRIX // (heads * patches**2))
    for start in range(0, len(paths), batch):
        some = paths[start : start + batch]
        images = torch.stack([transform(preprocessing.open(path).image) for path in some])
        asked = torch.tensor(classes[start : start + batch])
        drawn += draw_looked_at(network, images.to(device), asked, preprocessing)
    return drawn


def draw_looked_at(
    network: nn.Module, images: torch.Tensor, classes: torch.Tensor, preprocessing: Preprocessing
) -> list[tuple[str, str]]:
    """Returns what ``looked_at`` does, of pictures ``(B, 3, H, W)`` on the network's device."""
    maps = saliency(network, images, classes)
    seen = [data_uri(as_seen(image.cpu(), preprocessing), _LARGE) for image in images]
    return list(zip(seen, map(_heat_uri, maps), strict=True))


def as_seen(image: torch.Tensor, preprocessing: Preprocessing) -> Image.Image:
    """Returns a normalised tensor ``(3, H, W)`` as a picture."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    pixels = ((image * std + mean) * 255).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _heat_uri(values: torch.Tensor) -> str:
    """Returns a map ``(h, w)`` in ``[0, 1]`` as a PNG of one colour; high values are opaque."""
    alpha = Image.fromarray((values * _STRONGEST).round().byte().numpy())
    heat = Image.new("RGB", alpha.size, _HEAT)
    heat.putalpha(alpha)
    buffer = io.BytesIO()
    heat.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
