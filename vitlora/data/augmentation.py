"""Training-time augmentation: three recipes, the one module that knows albumentations.

albumentations 2.0.8 is the last release under the MIT licence.
"""

import os
import random
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image

from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError
from vitlora.light_imports import light_imports

Recipe = Literal["none", "light", "medium", "strong"]
_RATIO = (3 / 4, 4 / 3)  # of a crop's width to its height, where it is stretched to a square
_LEAST_AREA = {"light": 0.5, "medium": 0.35, "strong": 0.2}  # of a picture, that a crop keeps


class Augmentation:
    """Turns an RGB picture into a randomly changed ``(3, H, W)`` tensor, normalised.

    Args:
        recipe: ``light`` crops and flips; ``medium`` also turns and shifts colours; ``strong``
            also blurs, compresses and hides parts.
        preprocessing: Size, mean and standard deviation of the weights, and the part of a picture
            that they see. Under ``border`` a crop takes the shape of its picture, and is laid on
            the mean colour last of all, as evaluation lays the whole picture: a crop stretched to a
            square would show neither the shapes nor the borders that evaluation shows. A square
            picture is changed as under ``center``.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the internet on import otherwise
        with light_imports():
            import albumentations as A

        if recipe not in _LEAST_AREA:
            raise UsageError(f"data.augment is '{recipe}'; expected none, {', '.join(_LEAST_AREA)}")
        self._size = size = preprocessing.image_size
        self._crop = A.RandomResizedCrop(
            (size, size),
            scale=(_LEAST_AREA[recipe], 1.0),
            ratio=_RATIO,
            interpolation=cv2.INTER_CUBIC,
            area_for_downscale="image",
        )
        steps: list[A.BasicTransform | A.BaseCompose] = [self._crop, A.HorizontalFlip(p=0.5)]
        if recipe in ("medium", "strong"):
            steps += [
                A.Rotate(limit=20, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
                A.ColorJitter(
                    brightness=(0.75, 1.25),
                    contrast=(0.75, 1.25),
                    saturation=(0.75, 1.25),
                    hue=(-0.02, 0.02),
                    p=0.7,
                ),
            ]
        if recipe == "strong":
            steps += [
                A.OneOf(
                    [
                        A.GaussianBlur(p=1),
                        A.MotionBlur(p=1),
                        A.ImageCompression(quality_range=(40, 90), p=1),
                    ],
                    p=0.3,
                ),
                A.RandomGamma((70, 140), p=0.3),
                A.CoarseDropout(
                    num_holes_range=(1, 4),
                    hole_height_range=(0.1, 0.3),
                    hole_width_range=(0.1, 0.3),
                    fill="random_uniform",
                    p=0.4,
                ),
            ]
        self._keeps_shape = preprocessing.crop_mode == "border"
        if self._keeps_shape:
            fill = tuple(round(255 * value) for value in preprocessing.mean)
            steps += [A.PadIfNeeded(size, size, fill=fill)]
        self._compose = A.Compose(steps)
        self._numbers = np.random.Generator(np.random.Philox(0))
        self._python = random.Random()
        # one stream for all steps: albumentations' own seeding gives each step a generator with
        # the same seed, and as of 2.0.8, two coin flips of one picture then always agree
        self._compose.set_random_state(self._numbers, self._python)
        self._normalise = preprocessing.normalisation()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Returns ``(3, H, W)``."""
        if self._keeps_shape:
            self._take_shape(*image.size)
        return self._normalise(self._compose(image=np.asarray(image))["image"])

    def _take_shape(self, width: int, height: int) -> None:
        """Lets crops be as near to a picture's shape as they otherwise are to a square."""
        scale = self._size / max(width, height)
        self._crop.size = (max(1, round(height * scale)), max(1, round(width * scale)))
        low, high = _RATIO
        self._crop.ratio = (low * width / height, high * width / height)

    def seed(self, seed: int, view: int = 0, index: int = 0) -> None:
        """Makes the following draws depend on these numbers alone.

        They are the key and the counter of Philox, which makes of each of them a stream of its own.
        To seed generators anew takes ten times as long.

        Args:
            seed: Seed of the run, ``0 <= seed < 2**64``.
            view: Number of the view, from 0.
            index: Index of the picture, from 0.
        """
        self._numbers.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {
                "counter": np.array([0, 0, index, view], np.uint64),
                "key": np.array([seed, 0], np.uint64),
            },
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,  # none of the buffer is left
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._python.seed(int(self._numbers.integers(2**63)))


Transform = Callable[[Image.Image], torch.Tensor]
