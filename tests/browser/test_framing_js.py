"""Scaling and cutting in JavaScript against Pillow's, to the last grey level."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import BROWSER, Tab, chromium
from PIL import Image

import vitlora.browser.page as module
from vitlora.data.preprocessing import CropMode, Preprocessing

SCRIPT = Path(module.__file__).with_name("framing.js")
VIEWS: list[tuple[CropMode, float, int, str]] = [
    ("center", 0.9, 224, "bicubic"),
    ("center", 0.875, 96, "bilinear"),
    ("center", 1.0, 56, "lanczos"),
    ("squash", 1.0, 224, "bicubic"),
    ("squash", 0.95, 97, "hamming"),
    ("squash", 1.0, 64, "box"),
    ("squash", 1.0, 64, "nearest"),
    ("border", 1.0, 224, "bicubic"),
    ("border", 0.9, 99, "bilinear"),
]
# the third to fifth are scaled along their columns first
HALF = (0.5, 0.5, 0.5)
SIZES = [(400, 300), (333, 517), (256, 341), (61, 200), (230, 700), (224, 224), (30, 31), (1, 90),
         (249, 2), (1023, 37)]  # fmt: skip
ASK = """(() => {
  const bytes = Uint8Array.from(atob(%s), (letter) => letter.charCodeAt(0));
  const [width, height] = %s;
  const read = (x, y, wide, high) => {
    const part = new Uint8ClampedArray(4 * wide * high);
    for (let row = 0; row < high; row++) for (let n = 0; n < 4 * wide; n++)
      part[4 * wide * row + n] = bytes[4 * (width * (y + row) + x) + n];
    return part;
  };
  let letters = "";
  for (const value of frame(read, width, height, %s)) letters += String.fromCharCode(value);
  return btoa(letters);
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: Any) -> Iterator[Tab]:
    if BROWSER is None:
        pytest.skip("no Chromium: scripts/install-chromium")
    page = tmp_path_factory.mktemp("framing") / "framing.html"
    page.write_text(f"<meta charset=utf-8><script>{SCRIPT.read_text('utf-8')}</script>", "utf-8")
    with chromium() as opened:
        opened.open(page)
        yield opened


def framed(tab: Tab, pixels: np.ndarray, view: dict[str, Any]) -> np.ndarray:
    """Returns what the page makes of pixels `(H, W, 3)`."""
    high, wide, _ = pixels.shape
    whole = np.dstack([pixels, np.full((high, wide), 255, np.uint8)])
    data = json.dumps(base64.b64encode(whole.tobytes()).decode())
    got = base64.b64decode(tab.run(ASK % (data, [wide, high], json.dumps(view))))
    return np.frombuffer(got, np.uint8).reshape(view["size"], view["size"], 3)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_every_grey_level_is_pillows(tab: Tab, view: tuple[CropMode, float, int, str]) -> None:
    mode, share, size, interpolation = view
    framing = Preprocessing(size, share, (0.4, 0.5, 0.6), (1, 1, 1), interpolation, mode).framing()
    rng = np.random.default_rng(0)
    for wide, high in SIZES:
        pixels = rng.integers(0, 256, (high, wide, 3), dtype=np.uint8)
        expected = np.asarray(framing(Image.fromarray(pixels)))
        got = framed(tab, pixels, module.view_of(framing))
        assert np.array_equal(got, expected), (wide, high)


def test_the_order_of_the_passes_counts(tab: Tab) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 230, 3), dtype=np.uint8)
    framing = Preprocessing(224, 1.0, HALF, HALF, "bicubic", "squash").framing()
    view = asdict(framing)
    one, other = (framed(tab, pixels, {**view, "tall_first": first}) for first in (True, False))
    assert 1 <= np.abs(one.astype(int) - other).max() <= 16


def test_a_picture_as_thin_as_a_line_keeps_a_pixel(tab: Tab) -> None:
    framing = Preprocessing(32, 1.0, HALF, HALF, "bicubic", "border").framing()
    pixels = np.full((3000, 1, 3), 7, np.uint8)
    got = framed(tab, pixels, module.view_of(framing))
    assert np.array_equal(got, np.asarray(framing(Image.fromarray(pixels))))
    assert (got == 7).any()
