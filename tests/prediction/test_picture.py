from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlora.prediction import picture


def rows(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))[480:]


@pytest.mark.parametrize("fonts", [(), picture._FONTS])
def test_accents_are_drawn_or_dropped_never_boxed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fonts: tuple[str, ...]
) -> None:
    monkeypatch.setattr(picture, "_FONTS", fonts)
    path = tmp_path / "p.png"
    Image.new("RGB", (40, 40), "red").save(path)
    accented = rows(picture.captioned(path, [("café", 0.9), ("cartón", 0.1)]))
    plain = rows(picture.captioned(path, [("cafe", 0.9), ("carton", 0.1)]))
    if picture._font(18)[1]:
        assert (accented != plain).any()
    else:
        assert (accented == plain).all()


def test_the_bar_is_as_long_as_the_confidence(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (50, 100), "red").save(path)
    image = picture.captioned(path, [("a", 0.75), ("b", 0.25)])
    assert image.size == (480, 480 + 2 * 34 + 16)
    green = np.all(np.asarray(image) == (0x1F, 0x7A, 0x4D), axis=2).sum(axis=1).max()
    assert green == pytest.approx(0.75 * 456, abs=2)
