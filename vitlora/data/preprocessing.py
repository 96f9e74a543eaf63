"""How a picture becomes the tensor that a set of weights expects; only that tensor needs torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from vitlora.data.archives import InMemory
from vitlora.data.bit_depth import ValueRange
from vitlora.data.framing import Framing
from vitlora.data.images import File, Opened, Side, open_marked
from vitlora.data.in_memory import seen_as
from vitlora.data.value_range import read_range

if TYPE_CHECKING:
    import torch

CropMode = Literal["center", "squash", "border"]

# A JPEG decoded at no less than so many times the side it is resized to answers alike (see
# benchmarks/results/predicting.jsonl); with fewer pixels than a camera's it is decoded in full.
_AMPLE, _CAMERA = 3, 1344
# Limits on a bundle, which may come from anywhere.
_MOST_PIXELS, _LEAST_SHARE, _MOST_COLOUR = 4096, 0.1, 1e4
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation preprocessing that belongs to a set of weights.

    Attributes:
        image_size: Side of the square network input, in pixels.
        crop_pct: Share of the resized picture's side that the square input keeps, its middle,
            ``0 < crop_pct <= 1``. The side is the short one, under ``border`` the long one.
        mean: Per-channel mean of RGB in ``[0, 1]``.
        std: Per-channel standard deviation of RGB in ``[0, 1]``.
        interpolation: ``bilinear`` or ``bicubic``.
        crop_mode: timm's name: ``center``, ``squash`` or ``border``; see ``seeing``.
        value_range: The values that become 0 and 255 in files deeper than 8 bits; None where
            training had no such files.
        srgb: Whether the colours that a picture's profile describes are turned into sRGB; False for
            older bundles, which do not record it.
    """

    image_size: int
    crop_pct: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    value_range: ValueRange | None = None
    srgb: bool = True

    @classmethod
    def from_timm(cls, cfg: dict[str, Any]) -> "Preprocessing":
        """Reads timm's data configuration (``timm.data.resolve_data_config``)."""
        return cls(
            image_size=int(cfg["input_size"][-1]),
            crop_pct=float(cfg["crop_pct"]),
            mean=tuple(cfg["mean"]),
            std=tuple(cfg["std"]),
            interpolation=cfg["interpolation"],
            crop_mode=cfg.get("crop_mode") or "center",
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        """Reads the JSON of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: The fields are not those of a preprocessing.
        """
        mean, std = (tuple(map(float, fields[name])) for name in ("mean", "std"))
        size, share = fields["image_size"], float(fields["crop_pct"])
        if type(size) is not int or not 1 <= size <= _MOST_PIXELS or not _LEAST_SHARE <= share <= 1:
            raise ValueError(f"pictures are of {size} pixels, crop_pct {share}")
        colours = [*mean, *(1 / value for value in std)]
        if len(mean) != 3 or len(std) != 3 or not all(abs(v) < _MOST_COLOUR for v in colours):
            raise ValueError(f"pictures are normalised by mean {mean}, std {std}")
        read = {"mean": mean, "std": std, "crop_pct": share}
        read["value_range"] = read_range(fields.get("value_range"))  # older bundles have none
        read["srgb"] = fields.get("srgb", False)  # nor this
        made = cls(**{**fields, **read})
        if type(made.srgb) is not bool:
            raise ValueError(f"srgb is {made.srgb!r}")
        if made.interpolation not in _INTERPOLATIONS or made.crop_mode not in get_args(CropMode):
            raise ValueError(f"pictures are {made.interpolation!r} and {made.crop_mode!r}")
        return made

    @property
    def at_least(self) -> int:
        """Pixels that the deciding ``side`` must be decoded at, ``open_image``'s argument.

        JPEGs where that side is below twice as long are decoded in full, larger ones at 1/2, 1/4
        or 1/8 scale: at 224 pixels and ``crop_pct`` 1, and for smaller inputs, from 1344 pixels on.
        """
        return max(_AMPLE * math.ceil(self.image_size / self.crop_pct), _CAMERA // 2)

    @property
    def side(self) -> Side:
        """Which side of a picture decides how much it is scaled."""
        return "long" if self.crop_mode == "border" else "short"

    def open(self, path: File) -> Opened:
        """Returns a picture file as upright 8-bit RGB, and whether its values fit the range.

        Raises:
            DataError: It cannot be read.
        """
        return open_marked(path, self.at_least, self.value_range, self.srgb, self.side)

    def see(self, picture: Image.Image | np.ndarray | bytes) -> Opened:
        """Returns a picture that is in memory as ``open`` returns a file.

        Raises:
            DataError: It is not a picture; see ``in_memory.seen_as``.
        """
        if isinstance(picture, bytes):
            return self.open(InMemory(picture, f"the picture's {len(picture):,} bytes"))
        return seen_as(picture, self.value_range, self.srgb)

    def at(self, image_size: int) -> "Preprocessing":
        """Returns the same preprocessing for another input size in pixels."""
        return replace(self, image_size=image_size)

    def seeing(self, crop_mode: CropMode) -> "Preprocessing":
        """Returns the same preprocessing for another part of the picture.

        Args:
            crop_mode: ``center`` keeps ``crop_pct`` of the short side, and as much of the long one;
                ``squash`` squeezes the whole picture into the square; ``border`` shrinks the whole
                picture until it fits, its shape kept, and fills the rest with the mean colour.
        """
        share = self.crop_pct if crop_mode == "center" else 1.0
        return replace(self, crop_mode=crop_mode, crop_pct=share)

    def framing(self) -> Framing:
        """Returns what cuts the network's square out of an upright RGB picture, as timm does."""
        fill = tuple(round(255 * value) for value in self.mean)
        return Framing(
            self.image_size,
            math.floor(self.image_size / self.crop_pct),
            self.crop_mode,
            self.interpolation,
            (fill[0], fill[1], fill[2]),
        )

    def transform(self) -> "Transform":
        """Returns timm's evaluation transform: RGB picture -> ``(3, H, W)``, normalised."""
        return Transform(self.framing(), self.normalisation())

    def normalisation(self) -> "Normalisation":
        """Returns what turns 8-bit RGB into the network's input."""
        return Normalisation(self.mean, self.std)


@dataclass(frozen=True)
class Transform:
    """Turns an upright RGB picture into the network's input.

    Attributes:
        framing: Cuts the square out.
        normalisation: Makes numbers of it.
    """

    framing: Framing
    normalisation: "Normalisation"

    def __call__(self, image: Image.Image) -> "torch.Tensor":
        """Returns ``(3, H, W)``, normalised."""
        return self.normalisation(self.framing(image))


class Normalisation:
    """Turns 8-bit RGB ``(H, W, 3)``, picture or array, into ``(3, H, W)``, normalised.

    Each of the 3 * 256 values is computed once, in the order torchvision's ToTensor and Normalize
    do: the same to the last bit, in half their time.

    Args:
        mean: Per-channel mean of RGB in ``[0, 1]``.
        std: Per-channel standard deviation of RGB in ``[0, 1]``.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        shares = np.arange(256, dtype=np.float32) / np.float32(255)
        means, stds = (np.array(values, np.float32)[:, None] for values in (mean, std))
        self._values = (shares - means) / stds  # (3, 256)

    def __call__(self, image: Image.Image | np.ndarray) -> "torch.Tensor":
        """Returns ``(3, H, W)``."""
        import torch

        planes = np.asarray(image).transpose(2, 0, 1)
        normal = np.empty(planes.shape, np.float32)
        for channel, plane in enumerate(planes):
            np.take(self._values[channel], plane, out=normal[channel], mode="clip")
        return torch.from_numpy(normal)
