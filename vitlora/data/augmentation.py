"""Training-time augmentation: three recipes, the one module that knows albumentations.

albumentations 2.0.8 is the last release under the MIT licence.
"""

import math
import os
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import torch
from PIL import Image

from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError

if TYPE_CHECKING:
    import albumentations

Recipe = Literal["none", "light", "medium", "strong"]
_LEAST_AREA = {"light": 0.5, "medium": 0.35, "strong": 0.2}  # of a picture, that a crop keeps


class Augmentation:
    """Turns an RGB picture into a randomly changed ``(3, H, W)`` tensor, normalised.

    Args:
        recipe: ``light`` crops and flips; ``medium`` also turns and shifts colours; ``strong``
            also blurs, compresses and hides parts.
        preprocessing: Size, mean and standard deviation of the weights, and the part of a picture
            that they see. Under ``border`` a crop has about the picture's own shape and is laid on
            the mean colour, as evaluation lays the whole picture: a crop stretched to a square
            would show neither the shapes nor the borders that evaluation shows.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the internet on import otherwise
        import albumentations as A

        if recipe not in _LEAST_AREA:
            raise UsageError(f"data.augment is '{recipe}'; expected none, {', '.join(_LEAST_AREA)}")
        steps: list[A.BasicTransform | A.BaseCompose] = []
        steps += _cropped(_LEAST_AREA[recipe], preprocessing)
        steps += [A.HorizontalFlip(p=0.5)]
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

    def seed(self, *entropy: int) -> None:
        """Starts the random draws anew, each step's independent of the others'.

        albumentations' own ``set_random_seed`` gives every step the same seed, and so the same
        draws: as of 2.0.8, two coin flips of one picture always agree.

        Args:
            entropy: Numbers from 0 that decide on the draws. Every loader worker needs its own.
        """
        steps = list(_with_parts(self._compose))
        for step, sequence in zip(
            steps, np.random.SeedSequence(entropy).spawn(len(steps)), strict=True
        ):
            first, second = sequence.spawn(2)
            # a step that holds others hands its own generators down: they come later
            step.set_random_state(
                np.random.default_rng(first), random.Random(second.generate_state(4).tobytes())
            )


def _cropped(
    least: float, preprocessing: Preprocessing
) -> "list[albumentations.BasicTransform | albumentations.BaseCompose]":
    """Returns the steps from a picture to a random crop of it that fills the network's input.

    Args:
        least: Share of the picture's area that the smallest crop keeps, ``0 < least < 1``.
        preprocessing: Size, mean colour, and whether borders may fill a part of the input.
    """
    import albumentations as A

    size, area = preprocessing.image_size, "image"  # OpenCV's other ways to shrink leave out pixels
    if preprocessing.crop_mode != "border":
        scale = (least, 1.0)
        cubic = cv2.INTER_CUBIC
        return [
            A.RandomResizedCrop((size, size), scale, interpolation=cubic, area_for_downscale=area)
        ]
    most = (1 - math.sqrt(least)) / 2  # cut from each side
    fill = tuple(round(255 * value) for value in preprocessing.mean)
    return [
        A.RandomCropFromBorders(most, most, most, most, p=1),
        A.LongestMaxSize(size, interpolation=cv2.INTER_CUBIC, area_for_downscale="image"),
        A.PadIfNeeded(size, size, fill=fill),
    ]


def _with_parts(
    step: "albumentations.BasicTransform | albumentations.BaseCompose",
) -> Iterator["albumentations.BasicTransform | albumentations.BaseCompose"]:
    """Yields a step and, after it, all that are nested in it."""
    yield step
    for part in getattr(step, "transforms", ()):
        if hasattr(part, "set_random_state"):  # ColorJitter's are plain functions
            yield from _with_parts(part)


Transform = Callable[[Image.Image], torch.Tensor]
