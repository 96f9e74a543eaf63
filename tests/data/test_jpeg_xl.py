"""Tests of JPEG XL: its header, its orientation, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_images import SLOPE, UPRIGHT, exif_of

from vitlora.data.images import deep_values, open_image
from vitlora.data.jpeg_xl import Header, read_header
from vitlora.errors import DataError

pillow_jxl = pytest.importorskip("pillow_jxl")

# SLOPE, of orientation 2, as libjxl's encoder writes a turned JPEG that it does not repack: the
# orientation is in the picture's own header, and no EXIF block
TURNED = base64.b64decode(
    "AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAADuanhsY/8KywyQUFwSABKIAgBcA13lEgAAFSqjjBu8nOv58kOH"
    "xbSN6wxttW1hSaLIODZJJ3CYpKDAXZJiDFJUjDEKqTYKWW7bUm6MimRjjGQ+x7IG6L+8vPuv6LbfzGk1lx8vNrOMPWwNYhXU"
    "dIU+beET96wGvyGz+NXcJMQjIfCCiR7gFSxLj1E1Cv/UGjp3SHGscJGSDfhIEBX0IyPZqgSrc1ZFoNfDRP7vD+fxD0ZWIQWu"
    "tnS8O12M8Q44lgBAKYgWOhAml+h2iavtI1rlv7zw5xqrSSKrjeUkwh3w4ytBU3YX/AOjEOoV"
)
_HEADER = 43  # the byte whose bits 3 to 5 are the orientation less 1
# 8 x 8 pixels: a red frame, then a blue one
ANIMATED = base64.b64decode(
    "/wpBBAFYUFwSCAgAAABkAEsYixXCSQLmBSQA2P/+0PsDAAAAAAAAAAAICEAAAFQASxiLFcJJQV5AAgD6AwAAAAAAAAAA"
)


def off(path: Path, orientation: int) -> float:
    """Returns how far a picture is from SLOPE turned upright; the next turn is 30 levels off."""
    got, want = np.asarray(open_image(path)), UPRIGHT[orientation](SLOPE)
    assert got.shape == want.shape
    return np.abs(got.astype(int) - want).mean()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_turned_by_its_header(tmp_path, orientation):
    turned = bytearray(TURNED)
    turned[_HEADER] = turned[_HEADER] & ~0b111000 | (orientation - 1) << 3
    (tmp_path / "a.jxl").write_bytes(turned)
    assert off(tmp_path / "a.jxl", orientation) < 3


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_repacked_jpeg_is_turned_by_its_exif(tmp_path, orientation):
    Image.fromarray(SLOPE).save(tmp_path / "a.jpg", exif=exif_of(orientation), quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jxl", lossless_jpeg=True)
    assert off(tmp_path / "a.jxl", orientation) < 3


def test_exif_turns_no_other_picture(tmp_path):
    # ISO/IEC 18181-2: the header's orientation counts, whatever EXIF says
    Image.fromarray(SLOPE).save(tmp_path / "a.jxl", lossless=True, exif=exif_of(6))
    with Image.open(tmp_path / "a.jxl") as image:
        assert image.getexif()[0x0112] == 6
    assert off(tmp_path / "a.jxl", 1) == 0


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (300, 200), (256, 256), (1600, 900), (9000, 3)])
def test_the_header_says_the_size(tmp_path, size):
    for container in (False, True):
        Image.new("L", size).save(tmp_path / "a.jxl", use_container=container, effort=1)
        assert read_header(tmp_path / "a.jxl") == Header(*size, animated=False)


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path):
    # bits, the lowest first: no eighths; 30 bits of height, less 1; as wide as high
    head = 0 | 3 << 1 | 99_999 << 3 | 1 << 33
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + head.to_bytes(8, "little") + bytes(50))
    assert read_header(tmp_path / "a.jxl") == Header(100_000, 100_000, False)
    with pytest.raises(DataError, match="too large to open safely: more than 178 million pixels"):
        open_image(tmp_path / "a.jxl")


def test_an_animation_is_refused(tmp_path):
    (tmp_path / "a.jxl").write_bytes(ANIMATED)
    with Image.open(tmp_path / "a.jxl") as image:  # of the plugin's own accord
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)  # the last frame
    with pytest.raises(DataError, match=r"a\.jxl: an animated JPEG XL is not read; export its"):
        open_image(tmp_path / "a.jxl")


@pytest.mark.parametrize("left", [2, 12, 40, 60, 200])
def test_a_torn_file_is_damaged(tmp_path, left):
    (tmp_path / "a.jxl").write_bytes(TURNED[:left])
    with pytest.raises(DataError, match=r"a\.jxl: (damaged JPEG XL picture|not a picture)"):
        open_image(tmp_path / "a.jxl")


def test_damaged_bytes_are_one_line_each(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = np.frombuffer(TURNED, np.uint8).copy()
        data[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "a.jxl").write_bytes(data.tobytes())
        try:
            open_image(tmp_path / "a.jxl")
        except DataError as error:
            assert "\n" not in str(error)


def test_16_bit_grey_is_read_in_full(tmp_path):
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(deep).save(tmp_path / "a.jxl", lossless=True)
    np.testing.assert_array_equal(deep_values(tmp_path / "a.jxl"), deep)
    got = np.asarray(open_image(tmp_path / "a.jxl", value_range=(0, 65535), srgb=False))
    np.testing.assert_array_equal(got[..., 0], np.rint(deep / 257))
