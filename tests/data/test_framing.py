"""The square that a network sees, by Pillow alone, against timm's own to the last grey level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from vitlora.data.preprocessing import CropMode, Preprocessing

PHOTOS = Path(__file__).parents[2] / ".." / "shared" / "data"
MEAN = (0.485, 0.456, 0.406)
VIEWS: list[tuple[CropMode, float, int, str]] = [
    ("center", 0.9, 224, "bicubic"),
    ("center", 0.875, 96, "bilinear"),
    ("center", 1.0, 56, "lanczos"),
    ("squash", 1.0, 224, "bicubic"),
    ("squash", 0.95, 96, "bilinear"),
    ("border", 1.0, 224, "bicubic"),
    ("border", 0.9, 99, "bicubic"),
]
SIZES = [(640, 480), (333, 517), (61, 200), (224, 224), (30, 31), (1, 90), (249, 2), (1023, 37)]


def timms(mode: str, share: float, size: int, interpolation: str) -> Any:
    """Returns timm's transform, which ends in 8-bit values ``(3, H, W)``."""
    return create_transform(
        (3, size, size), crop_mode=mode, crop_pct=share, interpolation=interpolation, mean=MEAN,
        use_prefetcher=True,
    )  # fmt: skip


def assert_same(picture: Image.Image, view: tuple[CropMode, float, int, str]) -> None:
    mode, share, size, interpolation = view
    seen = Preprocessing(size, share, MEAN, MEAN, interpolation, mode)
    theirs = np.asarray(timms(*view)(picture)).transpose(1, 2, 0)
    got = np.asarray(seen.framing()(picture))
    assert got.shape == (size, size, 3) and np.array_equal(got, theirs)


@pytest.mark.parametrize("view", VIEWS)
def test_every_grey_level_is_timms(view: tuple[CropMode, float, int, str]) -> None:
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert_same(Image.fromarray(pixels), view)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["trashnet", "coffeeleaf", "steel", "caltech60", "bloodcells"])
def test_every_grey_level_of_photos_is_timms(name: str) -> None:
    if not PHOTOS.is_dir():
        pytest.skip("needs the photos beside the project")
    photos = sorted((PHOTOS / name / "val").rglob("*.*"))[::9][:8]
    assert photos
    for path in photos:
        for view in VIEWS:
            assert_same(Image.open(path).convert("RGB"), view)
