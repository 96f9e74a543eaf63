"""Training-time augmentation: three recipes, the one module that knows albumentations.

albumentations 2.0.8 is the last release under the MIT licence.
"""

import os
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image

from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError

Recipe = Literal["none", "light", "medium", "strong"]


class Augmentation:
    """Turns an RGB picture into a randomly changed ``(3, H, W)`` tensor, normalised.

    Args:
        recipe: ``light`` crops and flips; ``medium`` also turns and shifts colours; ``strong``
            also blurs, compresses and hides parts.
        preprocessing: Size, mean and standard deviation of the weights.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the internet on import otherwise
        import albumentations as A

        size = preprocessing.image_size
        crop = {"light": (0.5, 1.0), "medium": (0.35, 1.0), "strong": (0.2, 1.0)}
        if recipe not in crop:
            raise UsageError(f"data.augment is '{recipe}'; expected none, {', '.join(crop)}")
        steps: list[A.BasicTransform | A.BaseCompose] = []
        steps += [
            A.RandomResizedCrop(
                (size, size),
                scale=crop[recipe],
                interpolation=cv2.INTER_CUBIC,
                area_for_downscale="image",
            ),
            A.HorizontalFlip(p=0.5),
        ]
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
        self._compose = A.Compose(steps)
        self._normalise = preprocessing.normalisation()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Returns ``(3, H, W)``."""
        return self._normalise(self._compose(image=np.asarray(image))["image"])

    def seed(self, seed: int) -> None:
        """Starts the random draws anew; every loader worker needs its own seed."""
        self._compose.set_random_seed(seed)


Transform = Callable[[Image.Image], torch.Tensor]
