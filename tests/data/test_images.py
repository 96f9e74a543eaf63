"""Tests of opening pictures of every kind."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFile, ImageOps

from vitlora.data import picture_file
from vitlora.data.duplicates import fingerprints, near_duplicates
from vitlora.data.images import MemoryShortError, open_image, open_marked
from vitlora.data.value_range import find_range
from vitlora.errors import DataError

pillow_heif.register_heif_opener()
RNG = np.random.default_rng(0)
CASES = Path(__file__).parents[2] / ".." / "shared" / "cases"
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
HEIC_START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"

# EXIF 2.32, tag 0x0112: what the stored picture needs to stand upright, as array operations
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, k=-1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, k=1),
}


def opened(path) -> np.ndarray:
    """Returns the opened picture's pixels, having checked the promise made for every picture."""
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"a{suffix}"
    Image.fromarray(NOISE).save(file, exif=exif, **({"lossless": True} if ".w" in suffix else {}))
    np.testing.assert_array_equal(opened(file), UPRIGHT[orientation](NOISE))


def test_orientation_holds_where_a_jpeg_is_decoded_small(tmp_path):
    pixels = np.zeros((320, 640, 3), np.uint8)
    pixels[:, :320, 0] = 255  # left half red: the upper half once turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    small = open_image(tmp_path / "a.jpg", at_least=80)
    assert small.size == (80, 160)
    values = np.asarray(small).astype(int)
    assert values[:70, :, 0].min() > 200 and values[90:, :, 0].max() < 50


def test_grey_becomes_three_equal_channels(tmp_path):
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(opened(tmp_path / "a.png"), NOISE[..., :1].repeat(3, axis=2))


def test_one_bit_picture_is_black_and_white(tmp_path):
    bits = NOISE[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(opened(tmp_path / "a.png")[..., 1], bits * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    bands = len(mode)
    pixels = RNG.integers(0, 256, (16, 16, bands), dtype=np.uint8)
    pixels[:4, :, -1], pixels[4:8, :, -1] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == mode
    colour = np.broadcast_to(pixels[..., :-1].astype(float), (16, 16, 3))
    share = pixels[..., -1:] / 255
    got = opened(tmp_path / "a.png")
    assert np.abs(got - (colour * share + 255 * (1 - share))).max() <= 1  # rounding
    assert (got[:4] == 255).all()
    np.testing.assert_array_equal(got[4:8], colour[4:8])


def test_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert opened(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_transparent_rgb_colour_is_white(tmp_path):
    image = Image.fromarray(np.array([[[10, 20, 30], [200, 100, 50]]], np.uint8))
    image.save(tmp_path / "a.png", transparency=(10, 20, 30))
    assert opened(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    # cyan, magenta, yellow, black ink, as (C, M, Y, K)
    inks = [(255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    want = [(0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]
    image = Image.new("CMYK", (64, 16))
    for index, ink in enumerate(inks):
        image.paste(ink, (16 * index, 0, 16 * index + 16, 16))
    image.save(tmp_path / "a.jpg", quality=95)
    got = opened(tmp_path / "a.jpg")[8, 8::16].astype(int)
    assert np.abs(got - want).max() < 10


def test_16_bit_grey_png_is_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(opened(tmp_path / "a.png")[..., 0], np.rint(deep / 257))


def test_dark_16_bit_picture_stays_dark(tmp_path):
    dark = np.linspace(0, 4095, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(dark).save(tmp_path / "a.png")
    got = opened(tmp_path / "a.png")
    np.testing.assert_array_equal(got[..., 2], np.rint(dark / 257))
    assert got.max() == 16


def test_even_a_16_bit_picture_with_only_tiny_values_is_black(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert opened(tmp_path / "a.png").max() == 1


def test_32_bit_grey_tiff_with_16_bit_values_is_scaled(tmp_path):
    deep = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.int32)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    assert Image.open(tmp_path / "a.tif").mode == "I"
    np.testing.assert_array_equal(opened(tmp_path / "a.tif")[..., 0], np.rint(deep / 257))


def test_32_bit_grey_tiff_with_8_bit_values_is_kept(tmp_path):
    grey = NOISE[..., 0].astype(np.int32)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(opened(tmp_path / "a.tif")[..., 0], grey)


@pytest.mark.parametrize("white", [1.0, 5000.0])
def test_float_tiff_runs_from_black_at_0_to_white(tmp_path, white):
    share = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    Image.fromarray(share * np.float32(white)).save(tmp_path / "a.tif")
    assert np.abs(opened(tmp_path / "a.tif")[..., 0] - share * 255.0).max() <= 0.501


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_float_tiff_is_black_only_where_it_has_no_value(tmp_path, hole):
    values = np.full((4, 4), 0.5, np.float32)
    values[0, 0] = hole
    Image.fromarray(values).save(tmp_path / "a.tif")
    got = opened(tmp_path / "a.tif")[..., 0]
    assert got[0, 0] == 0 and np.abs(got.ravel()[1:] - 127.5).max() <= 0.5


def test_16_bit_colour_png_is_scaled_not_clipped(tmp_path):
    deep = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert np.abs(opened(tmp_path / "a.png") - deep / 257).max() <= 1  # Pillow takes the high byte


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif", ".tif", ".heic"])
def test_an_animation_or_several_pages_give_the_first(tmp_path, suffix):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    file = tmp_path / f"a{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(file), "n_frames", 1) == 2
    assert np.abs(opened(file).astype(int) - (255, 0, 0)).max() < 10


def test_at_least_decodes_a_large_jpeg_smaller_but_never_too_small(tmp_path):
    wide = cv2.resize(NOISE, (640, 480), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(wide).save(tmp_path / "a.jpg")
    sizes = {n: open_image(tmp_path / "a.jpg", at_least=n).size for n in (60, 61, 120, 240, 241)}
    assert sizes == {
        60: (80, 60),
        61: (160, 120),
        120: (160, 120),
        240: (320, 240),
        241: (640, 480),
    }
    assert open_image(tmp_path / "a.jpg").size == (640, 480)
    reference = cv2.resize(wide, (320, 240), interpolation=cv2.INTER_AREA).astype(int)
    half = np.asarray(open_image(tmp_path / "a.jpg", at_least=240)).astype(int)
    assert np.abs(half - reference).mean() < 6  # the same picture


def test_at_least_leaves_other_formats_whole(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png", at_least=1)), NOISE)


def _good(folder):
    file = folder / "good.jpg"
    Image.fromarray(NOISE).save(file)
    return file


def _empty(folder):
    file = folder / "empty.jpg"
    file.touch()
    return file


def _torn(folder, suffix=".jpg"):
    whole, file = folder / f"whole{suffix}", folder / f"torn{suffix}"
    Image.fromarray(NOISE).save(whole)
    data = whole.read_bytes()
    file.write_bytes(data[: len(data) * 3 // 4])
    return file


def _torn_png(folder):
    return _torn(folder, ".png")


def _text(folder):
    file = folder / "text.jpg"
    file.write_text("I am not a picture.")
    return file


def _folder(folder):
    file = folder / "x.jpg"
    file.mkdir()
    return file


def _heic(folder):
    file = folder / "IMG_0001.HEIC"
    file.write_bytes(HEIC_START + bytes(100))
    return file


def _missing(folder):
    return folder / "gone.jpg"


BAD = {
    _empty: "the file is empty",
    _torn: "damaged picture",
    _torn_png: "damaged picture",
    _text: "not a picture, whatever its name says",
    _folder: "is a folder",
    _heic: "damaged HEIC photo",
    _missing: "no such file",
}


@pytest.mark.parametrize(("make", "reason"), BAD.items())
def test_bad_file_is_named_with_the_reason_in_one_line(tmp_path, make, reason):
    file = make(tmp_path)
    with pytest.raises(DataError) as raised:
        open_image(file)
    line = str(raised.value)
    assert line.startswith(f"{file}: ") and reason in line and "\n" not in line


def test_the_package_that_a_format_needs_is_named(tmp_path, monkeypatch):
    starts = {"pillow-heif": HEIC_START, "pillow-jxl-plugin": b"\xff\x0a"}
    missing = {name.replace("-plugin", "").replace("-", "_") for name in starts}
    monkeypatch.setattr(picture_file, "find_spec", lambda name: None if name in missing else name)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name not in ("HEIF", "JXL")])
    for package, start in starts.items():
        (tmp_path / "a").write_bytes(start + bytes(100))
        with pytest.raises(DataError, match=f"needs? the package {package}; install it, or export"):
            open_image(tmp_path / "a")


def test_a_picture_too_large_to_be_honest_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 1000)
    with pytest.raises(DataError, match="too large to open safely"):
        open_image(_good(tmp_path))


def test_a_limit_on_pixels_counts_what_is_decoded(tmp_path):
    noise = Image.effect_noise((1200, 1000), 80)
    noise.save(tmp_path / "a.jpg", quality=60)
    noise.save(tmp_path / "a.png")
    for name in ("a.jpg", "a.png"):
        assert open_marked(tmp_path / name, most_pixels=1_200_000).image.size == (1200, 1000)
        with pytest.raises(DataError, match="more than 1 million pixels to decode at once"):
            open_marked(tmp_path / name, most_pixels=1_199_999)
    small = open_marked(tmp_path / "a.jpg", 200, most_pixels=400_000)
    assert small.image.size == (300, 250)  # a quarter of the pixels counts at least


def bomb(file, width=20_000, height=20_000):
    """Writes a small PNG of one colour that decodes to gigabytes; returns it."""
    return write_png(file, (width, height, 8, 2), zlib.compress(bytes(100)))


def write_png(file, head, lines):
    """Writes a PNG; `head` is width, height, bits and colour type, `lines` are compressed."""
    chunk = lambda kind, data: (  # noqa: E731
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    head = struct.pack(">IIBBBBB", *head, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )
    return file


def test_a_png_that_decodes_to_gigabytes_is_refused_before_it_does(tmp_path):
    with pytest.raises(DataError, match=r"more than 178 million pixels.*make it smaller"):
        open_image(bomb(tmp_path / "a.png"))


def huge_jpeg(file, **how):
    """Writes a JPEG of 14,000 x 14,000 pixels: 196 millions, as phones have them; returns it."""
    Image.new("L", (14_000, 14_000), 99).save(file, **how)
    return file


def test_a_jpeg_counts_as_large_as_it_is_decoded(tmp_path, recwarn):
    file = huge_jpeg(tmp_path / "a.jpg")
    small = open_image(file, at_least=224)
    assert small.size == (1750, 1750) and small.getpixel((9, 9)) == (99, 99, 99)
    assert not recwarn.list  # nor is the user told of an attack
    with pytest.raises(DataError, match="too large to open safely"):
        open_image(file)


def test_a_progressive_jpeg_counts_as_large_as_it_is_held(tmp_path):
    file = huge_jpeg(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(DataError, match="too large to open safely"):
        open_image(file, at_least=224)


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory when reading image")])
def test_too_little_memory_is_not_a_damaged_picture(tmp_path, monkeypatch, error):
    def full(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(MemoryShortError, match=r"too little memory.* 64 x 48 pixels; close other"):
        open_image(_good(tmp_path))
    for read in (fingerprints, near_duplicates):  # and so skip_unreadable loses none
        with pytest.raises(MemoryShortError):
            read([_good(tmp_path)])


def exif_of(orientation, description=b"", kind=2):
    """Returns an EXIF block with an orientation, after a description of some TIFF type."""
    count = 2 if description else 1
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count)
    if description:
        values = 1 if kind == 11 else len(description)
        block += struct.pack("<HHI4s", 0x010E, kind, values, description[:4])
    return block + struct.pack("<HHIHHI", 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_malformed_tag_costs_neither_the_picture_nor_its_orientation(tmp_path, orientation):
    image = Image.fromarray(NOISE)
    image.save(tmp_path / "good.jpg", exif=exif_of(orientation), quality=90)
    # a text whose type says it is a float
    image.save(tmp_path / "bad.jpg", exif=exif_of(orientation, b"text", kind=11), quality=90)
    if orientation != 1:
        with pytest.raises(AttributeError):  # of Pillow 13, which writes all EXIF anew
            ImageOps.exif_transpose(Image.open(tmp_path / "bad.jpg"), in_place=True)
    np.testing.assert_array_equal(opened(tmp_path / "bad.jpg"), _oracle(tmp_path / "good.jpg"))


def _oracle(path):
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0no TIFF", exif_of(6)[:20]]
)
def test_a_broken_exif_block_turns_nothing(tmp_path, block):
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", exif=block)
    Image.fromarray(NOISE).save(tmp_path / "plain.jpg")
    np.testing.assert_array_equal(opened(tmp_path / "a.jpg"), opened(tmp_path / "plain.jpg"))


ROWS, COLUMNS = np.mgrid[:48, :64]
SLOPE = np.stack([2 * ROWS + 60, 3 * COLUMNS + 9, ROWS + COLUMNS], axis=-1).astype(np.uint8)
TURNING = {
    "a.jpg": {},
    "a.mpo": {"save_all": True, "append_images": [Image.fromarray(NOISE)]},
    "a.png": {},
    "a.webp": {"lossless": True},
    "a.avif": {"quality": 100},
    "a.heic": {"quality": 100},
    "a.hif": {"quality": 100, "format": "HEIF"},
    "a.tif": {},
    "deflated.tif": {"compression": "tiff_adobe_deflate"},
}


@pytest.mark.parametrize("name", TURNING)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_format_is_turned_exactly_once(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SLOPE).save(tmp_path / name, exif=exif.tobytes(), **TURNING[name])
    got = opened(tmp_path / name)
    np.testing.assert_array_equal(got, _oracle(tmp_path / name))
    upright = UPRIGHT[orientation](SLOPE)
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).max() < 20  # lossy; the next turn differs by 100


PIXELS = {
    "L": NOISE[..., 0],
    "P": NOISE[..., 0],
    "RGBA": np.dstack([NOISE, np.full_like(NOISE[..., 0], 255)]),
    "CMYK": np.dstack([NOISE, NOISE[..., 1]]),
    "I;16": NOISE[..., 0].astype(np.uint16) * 257,
}


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", PIXELS)
def test_a_tiff_of_every_mode_is_turned_whatever_its_compression(
    tmp_path, mode, orientation, compression
):
    pixels = PIXELS[mode]
    if mode == "P":
        image = Image.fromarray(pixels)
        image.putpalette([255 - value // 3 for value in range(768)])  # level v -> 255 - v
        pixels = 255 - pixels
    else:
        image = Image.fromarray(pixels, mode="CMYK") if mode == "CMYK" else Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.tif", exif=exif, compression=compression)
    with Image.open(tmp_path / "a.tif") as again:
        assert again.mode == mode
    grey = np.repeat(
        pixels.reshape(48, 64, -1)[..., :1] // (257 if mode == "I;16" else 1), 3, axis=2
    )
    want = {"RGBA": NOISE, "CMYK": np.asarray(image.convert("RGB"))}.get(mode, grey)
    np.testing.assert_array_equal(opened(tmp_path / "a.tif"), UPRIGHT[orientation](want))


@pytest.mark.shared
@pytest.mark.skipif(not CASES.is_dir(), reason="the misread files are not here")
def test_files_that_were_misread_open():
    assert open_image(CASES / "phone-orientation-6.heic").size == (240, 320)
    assert open_image(CASES / "phone.avif").size == (320, 240)
    upright = open_image(CASES / "exif-description-as-float-orientation-6.jpg")
    assert upright.size == (341, 256)
    assert open_image(CASES / "photo-without-ending").size == (256, 341)


RANGES = {  # value range, values, what they become
    "12 bits": ((0, 4095), np.array([[0, 2047.5, 4095, 5000]]), [0, 128, 255, 255]),
    "thermal": ((7000, 9000), np.array([[6000, 7000, 8000, 9000]]), [0, 0, 128, 255]),
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("name", RANGES)
def test_deep_grey_is_scaled_by_the_range_given(tmp_path, name, suffix):
    value_range, values, want = RANGES[name]
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / f"a{suffix}")
    got = np.asarray(open_image(tmp_path / f"a{suffix}", value_range=value_range))[0, :, 1]
    assert np.abs(got.astype(int) - want).max() <= 1


def test_signed_and_float_values_are_scaled_by_the_range_given(tmp_path):
    values = np.array([[-1024, 0, 1023, 3071]])
    for dtype in (np.int32, np.float32):
        Image.fromarray(values.astype(dtype)).save(tmp_path / "a.tif")
        got = np.asarray(open_image(tmp_path / "a.tif", value_range=(-1024, 3071)))[0, :, 0]
        assert got.tolist() == [0, 64, 127, 255]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colours_are_scaled_by_the_range_given(tmp_path, suffix, channels):
    deep = RNG.integers(0, 4096, (20, 30, channels), dtype=np.uint16)
    deep[..., 3:] = 65535
    order = [2, 1, 0, 3][:channels]
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep[..., order])
    got = np.asarray(open_image(tmp_path / f"a{suffix}", value_range=(0, 4095)))
    np.testing.assert_array_equal(got, np.rint(deep[..., :3] / 4095 * 255))


def deep_tiff(file, deep, order, photometric=2, extra=None):
    """Writes 16-bit colours `(H, W, C)` as an uncompressed TIFF; returns it.

    `order` is > or <, `extra` the meaning of a fourth channel: 0 none, 1 premultiplied alpha.
    """
    height, width, channels = deep.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, None), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, None), (277, 3, channels), (278, 3, height), (279, 4, deep.nbytes)]
    tags += [] if extra is None else [(338, 3, extra)]
    after = 8 + 2 + 12 * len(tags) + 4
    ifd = struct.pack(f"{order}H", len(tags))
    for tag, kind, value in tags:
        count = channels if tag == 258 else 1
        value = {258: after, 273: after + 2 * channels}.get(tag, value)
        form = "HHII" if kind == 4 or count > 1 else "HHIHxx"
        ifd += struct.pack(order + form, tag, kind, count, value)
    start = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    file.write_bytes(start + ifd + bytes(4) + bits + deep.astype(f"{order}u2").tobytes())
    return file


@pytest.mark.parametrize("order", "><")
@pytest.mark.parametrize("extra", [None, 0])
def test_a_16_bit_tiff_of_either_byte_order_keeps_its_colours(tmp_path, order, extra):
    deep = RNG.integers(0, 4096, (6, 7, 3 if extra is None else 4), dtype=np.uint16)
    file = deep_tiff(tmp_path / "a.tif", deep, order, extra=extra)
    got = open_marked(file, value_range=(0, 4095))
    np.testing.assert_array_equal(np.asarray(got.image), np.rint(deep[..., :3] / 4095 * 255))
    assert not got.outside and find_range([file]).value_range == (0, 4095)


@pytest.mark.parametrize("order", "><")
@pytest.mark.parametrize(("photometric", "extra"), [(2, 1), (5, None)])
def test_16_bit_colours_that_are_not_read_in_full_are_marked(tmp_path, order, photometric, extra):
    deep = RNG.integers(0, 4096, (6, 7, 4), dtype=np.uint16)
    file = deep_tiff(tmp_path / "a.tif", deep, order, photometric, extra)
    for value_range in (None, (0, 4095), (0, 65535)):
        assert open_marked(file, value_range=value_range).outside
    assert find_range([file]).value_range is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_grey_tiff_whose_only_channel_lies_by_itself_is_read(tmp_path, dtype):
    values = RNG.integers(0, 256, (6, 7)).astype(dtype)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={284: 2})
    got = np.asarray(open_image(tmp_path / "a.tif", value_range=(0, 255)))
    np.testing.assert_array_equal(got[..., 0], values)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_16_bit_tiff_of_single_colours_is_marked_or_refused(tmp_path, compressed):
    deep = RNG.integers(0, 65536, (6, 7, 3), dtype=np.uint16)
    planes = [deep[..., c].astype("<u2").tobytes() for c in range(3)]
    planes = [zlib.compress(plane) for plane in planes] if compressed else planes
    after = 8 + 2 + 12 * 10 + 4  # there: bits, places and sizes of the planes, then these
    places = [after + 30 + sum(map(len, planes[:c])) for c in range(3)]
    tags = [
        (256, 1, 7),
        (257, 1, 6),
        (258, 3, after),
        (259, 1, 8 if compressed else 1),
        (262, 1, 2),
    ]
    tags += [(273, 3, after + 6), (277, 1, 3), (278, 1, 6), (279, 3, after + 18), (284, 1, 2)]
    longs = (273, 279)
    ifd = b"".join(struct.pack("<HHII", t, 4 if t in longs else 3, n, v) for t, n, v in tags)
    data = b"II*\0" + struct.pack("<IH", 8, 10) + ifd + bytes(4)
    data += struct.pack("<3H3I3I", 16, 16, 16, *places, *map(len, planes)) + b"".join(planes)
    (tmp_path / "a.tif").write_bytes(data)
    if not compressed:
        with pytest.raises(DataError, match="save it with the colours of a pixel together"):
            open_marked(tmp_path / "a.tif")
        return
    got = open_marked(tmp_path / "a.tif", value_range=(0, 65535))
    assert got.outside and np.abs(np.asarray(got.image) - deep / 257).max() <= 1
    assert find_range([tmp_path / "a.tif"]).value_range is None


@pytest.mark.parametrize("value_range", [None, (0, 4095)])
def test_a_16_bit_png_of_grey_with_transparency_is_read_in_full(tmp_path, value_range):
    grey = RNG.integers(0, 4096, (20, 30), dtype=np.uint16)
    alpha = np.full_like(grey, 65535)
    alpha[:5] = 0
    lines = np.dstack([grey, alpha]).astype(">u2").reshape(20, -1).view(np.uint8)
    data = np.hstack([np.zeros((20, 1), np.uint8), lines]).tobytes()
    write_png(tmp_path / "a.png", (30, 20, 16, 4), zlib.compress(data))
    got = open_marked(tmp_path / "a.png", value_range=value_range)
    want = np.rint(grey / (65535 if value_range is None else 4095) * 255)
    want[:5] = 255
    np.testing.assert_array_equal(np.asarray(got.image), want[..., None].repeat(3, axis=2))
    assert got.outside is (value_range is None)
    assert find_range([tmp_path / "a.png"]).value_range == (0, 4095)


OUTSIDE = {  # values, range -> outside
    "within": ([0, 4095], (0, 4095), False),
    "above": ([0, 65535], (0, 4095), True),
    "below": ([-1000, 9000], (7000, 9000), True),
    "in a sixteenth": ([0, 4095], (0, 65535), True),
    "in an eighth": ([0, 8191], (0, 65535), False),
    "no range": ([0, 65535], None, True),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_picture_outside_the_range_is_marked(tmp_path, name):
    ends, value_range, want = OUTSIDE[name]
    values = np.linspace(*ends, 48 * 64).reshape(48, 64).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert open_marked(tmp_path / "a.tif", value_range=value_range).outside is want


def test_a_few_hot_pixels_do_not_mark_a_picture_nor_any_range_one_of_8_bits(tmp_path):
    values = np.linspace(0, 4095, 48 * 64).reshape(48, 64).astype(np.uint16)
    values[0, :20] = 65535
    Image.fromarray(values).save(tmp_path / "a.png")
    assert not open_marked(tmp_path / "a.png", value_range=(0, 4095)).outside
    assert not open_marked(_good(tmp_path), value_range=(7000, 9000)).outside
    plain = np.asarray(open_image(tmp_path / "good.jpg"))
    ranged = np.asarray(open_image(tmp_path / "good.jpg", value_range=(7000, 9000)))
    np.testing.assert_array_equal(plain, ranged)


@pytest.mark.parametrize(("top", "want"), [(4095, True), (65535, False)])
@pytest.mark.parametrize("dead", [0, 3])
def test_dead_pixels_neither_hide_nor_cause_the_mark(tmp_path, top, want, dead):
    values = np.linspace(0, top, 48 * 64).reshape(48, 64).astype(np.uint16)
    values[20, 20 : 20 + dead] = 65535
    Image.fromarray(values).save(tmp_path / "a.png")
    assert open_marked(tmp_path / "a.png", value_range=(0, 65535)).outside is want


def test_a_pipe_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: a named pipe, not a picture file"):
        open_image(tmp_path / "a.jpg")


def test_unreadable_finds_exactly_the_bad_files(tmp_path):
    bad = {make(tmp_path): reason for make, reason in BAD.items()}
    good = [_good(tmp_path), tmp_path / "whole.jpg", tmp_path / "whole.png"]
    found = fingerprints([*good, *bad])[1]
    assert found.keys() == bad.keys()
    assert all(bad[path] in line and path.name in line for path, line in found.items())


def test_a_jpeg_that_lacks_only_its_last_rows_is_unreadable(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(NOISE.repeat(16, axis=0).repeat(16, axis=1)).save(whole)
    data = whole.read_bytes()
    (tmp_path / "torn.jpg").write_bytes(data[:-1500])
    assert list(fingerprints([whole, tmp_path / "torn.jpg"])[1]) == [tmp_path / "torn.jpg"]
