"""Tests of colour profiles: what becomes sRGB, what stays as it is."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms
from profiles import CURVE, PROFILES, SRGB_LIKE, in_srgb, values

from vitlora.data import colour
from vitlora.data.archives import InMemory
from vitlora.data.colour import profile_of, to_srgb
from vitlora.data.icc import matrix_profile
from vitlora.data.images import open_image, open_marked
from vitlora.data.in_memory import seen_as

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
P3 = PROFILES["Display P3"]
WRITTEN = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def opened(path, **how) -> np.ndarray:
    return np.asarray(open_image(path, **how)).astype(int)


def grey_profile(gamma: float) -> bytes:
    """Returns an RGB profile made one of grey: its colour space is named so, with one curve."""
    profile = bytearray(matrix_profile("grey", ((0.3, 0.3, 0.2),) * 3, gamma))
    profile[16:20] = b"GRAY"
    return bytes(profile.replace(b"rTRC", b"kTRC", 1))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_colours_are_those_that_the_primaries_say(tmp_path, name, suffix):
    lossless = {"lossless": True} if suffix == ".webp" else {}
    file = tmp_path / f"a{suffix}"
    Image.fromarray(COLOURS).save(file, icc_profile=PROFILES[name], **lossless)
    off = np.abs(opened(file) - in_srgb(name, COLOURS))
    assert off.max() <= 2 and off.mean() < 0.4  # 0.25 is rounding
    np.testing.assert_array_equal(opened(file, srgb=False), COLOURS)
    assert np.abs(opened(file) - COLOURS).max() > 20


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".heic", ".jp2"])
def test_profiles_of_lossy_formats_count(tmp_path, suffix):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    flat = Image.new("RGB", (64, 64), (60, 180, 90))
    how = {"quality": 95} if suffix != ".jp2" else {}
    flat.save(tmp_path / f"a{suffix}", icc_profile=P3, **how)
    if suffix == ".jp2":
        assert "icc_profile" not in Image.open(tmp_path / "a.jp2").info  # Pillow writes none
        return
    want = in_srgb("Display P3", np.array([60, 180, 90]))
    assert np.abs(opened(tmp_path / f"a{suffix}")[32, 32] - want).max() <= 4
    got = opened(tmp_path / f"a{suffix}", srgb=False)[32, 32]
    assert np.abs(got - (60, 180, 90)).max() <= 3


@pytest.mark.parametrize("profile", [SRGB_LIKE, WRITTEN], ids=["of a matrix", "of littlecms"])
def test_an_srgb_profile_changes_nothing_and_costs_nothing(tmp_path, profile, monkeypatch):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(opened(tmp_path / "a.png"), COLOURS)

    def never(*_):
        raise AssertionError("looked at twice")

    monkeypatch.setattr(ImageCms, "buildTransform", never)
    monkeypatch.setattr(ImageCms.ImageCmsTransform, "apply", never)
    np.testing.assert_array_equal(opened(tmp_path / "a.png"), COLOURS)


BROKEN = {
    "no profile at all": b"not a profile",
    "torn in the header": P3[:100],
    "torn in the table": P3[:150],
    "torn in a curve": P3[:1000],
    "of unknown colours": P3[:16] + b"XXXX" + P3[20:],
    "of Lab": P3[:16] + b"Lab " + P3[20:],
    "with red beyond its end": P3[:172] + struct.pack(">I", 2**31) + P3[176:],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_is_ignored(tmp_path, name, capfd):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=BROKEN[name])
    np.testing.assert_array_equal(opened(tmp_path / "a.png"), COLOURS)
    assert capfd.readouterr() == ("", "")


def test_random_bytes_in_a_profile_never_stop_a_picture():
    rng = np.random.default_rng(0)
    for _ in range(300):
        profile = np.frombuffer(P3, np.uint8).copy()
        places = rng.integers(0, 400, 6)
        profile[places] = rng.integers(0, 256, 6)
        assert to_srgb(Image.fromarray(COLOURS), profile.tobytes()).size == (50, 40)


def test_a_profile_of_other_colours_than_the_pictures_is_ignored(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=grey_profile(1.0))
    np.testing.assert_array_equal(opened(tmp_path / "a.png"), COLOURS)
    inks = Image.new("CMYK", (8, 8), (0, 128, 255, 0))
    inks.save(tmp_path / "a.tif", icc_profile=P3)
    assert opened(tmp_path / "a.tif")[0, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("deep", [False, True])
def test_a_grey_profile_lightens_a_grey_picture(tmp_path, deep):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    stored = grey * 257 if deep else grey.astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=grey_profile(461 / 256))
    want = values((np.arange(256) / 255) ** (461 / 256)) * 255  # a gamma of 1.8, as old Macs have
    got = opened(tmp_path / "a.png", value_range=(0, 65535) if deep else None)
    assert np.abs(got[..., 0].ravel() - want).max() <= 2
    assert (got[..., 0] == got[..., 1]).all() and (got[..., 0] == got[..., 2]).all()


def test_a_grey_picture_takes_the_curve_of_an_rgb_profile(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=PROFILES["Adobe RGB"])
    want = in_srgb("Adobe RGB", grey[..., None].repeat(3, axis=2))
    assert np.abs(opened(tmp_path / "a.png") - want).max() <= 2
    Image.fromarray(grey).save(tmp_path / "b.png", icc_profile=WRITTEN)
    np.testing.assert_array_equal(opened(tmp_path / "b.png")[..., 0], grey)


def inks_profile() -> bytes:
    """Returns a profile of a press, in which full cyan halves the lightness and black takes all.

    ICC.1:2001-04, section 6.5.7: an 8-bit table of 2 x 2 x 2 x 2 mixtures, in Lab.
    """
    neutral, lightness = 128, (255, 128)
    # the last ink, black, changes fastest
    table = b"".join(
        bytes([lightness[mix // 8] * (1 - mix % 2), neutral, neutral]) for mix in range(16)
    )
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    lut += struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    lut += ramp * 4 + table + ramp * 3
    tags = {b"A2B0": lut, b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)}
    place, listed, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for signature, tag in tags.items():
        listed += struct.pack(">4sII", signature, place + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(
        ">I4xI4s4s4s", 128 + len(listed + data), 0x02400000, b"prtr", b"CMYK", b"Lab "
    )
    head = head + bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + listed + data


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_inks_are_read_by_their_profile(tmp_path, suffix):
    how = {"quality": 95} if suffix == ".jpg" else {}
    for name, ink in {"paper": (0, 0, 0, 0), "cyan": (255, 0, 0, 0)}.items():
        Image.new("CMYK", (16, 16), ink).save(
            tmp_path / f"{name}{suffix}", icc_profile=inks_profile(), **how
        )
    assert np.abs(opened(tmp_path / f"paper{suffix}")[8, 8] - 255).max() <= 3
    # of half the lightness, and without colour, as the table says: L 50 is 119 in sRGB
    assert np.abs(opened(tmp_path / f"cyan{suffix}")[8, 8] - 119).max() <= 4
    plain = opened(tmp_path / f"cyan{suffix}", srgb=False)[8, 8]
    assert np.abs(plain - (0, 255, 255)).max() <= 3


def adobe_exif(index: str = "R03") -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Camera R03"
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    return exif


def test_adobe_rgb_that_only_exif_names_is_known(tmp_path):
    flat = Image.new("RGB", (32, 32), (60, 180, 90))
    flat.save(tmp_path / "a.jpg", exif=adobe_exif(), quality=95)
    flat.save(tmp_path / "b.jpg", exif=adobe_exif("R98"), quality=95)
    flat.save(tmp_path / "c.jpg", exif=adobe_exif(), icc_profile=WRITTEN, quality=95)
    want = in_srgb("Adobe RGB", np.array([60, 180, 90]))
    assert np.abs(opened(tmp_path / "a.jpg")[16, 16] - want).max() <= 4
    for name in ("b.jpg", "c.jpg"):  # R98 is sRGB, and a profile counts more than EXIF
        assert np.abs(opened(tmp_path / name)[16, 16] - (60, 180, 90)).max() <= 3
    with Image.open(tmp_path / "b.jpg") as image:
        assert profile_of(image) is None


def test_transparency_and_palettes_are_converted_like_any_colour(tmp_path):
    alpha = np.full((40, 50, 1), 255, np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "a.png", icc_profile=P3)
    want = in_srgb("Display P3", COLOURS)
    want[:10] = 255
    assert np.abs(opened(tmp_path / "a.png") - want).max() <= 2
    few = Image.fromarray(COLOURS).quantize(16)
    few.save(tmp_path / "b.png", icc_profile=P3)
    want = in_srgb("Display P3", np.asarray(few.convert("RGB")))
    assert np.abs(opened(tmp_path / "b.png") - want).max() <= 2


def test_pictures_in_memory_are_read_as_files_are_and_only_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=P3, exif=exif)
    want = opened(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(seen_as(image).image), want)
        assert image.info["icc_profile"] == P3  # theirs is left alone
        unturned = np.asarray(seen_as(image, srgb=False).image)
        np.testing.assert_array_equal(unturned, np.rot90(COLOURS, -1))
    read = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(open_marked(InMemory(read, "a")).image), want)
    once = open_marked(tmp_path / "a.png").image
    np.testing.assert_array_equal(np.asarray(seen_as(once).image), want)


def test_a_large_picture_is_averaged_before_it_is_turned_but_not_too_small(tmp_path):
    wide = COLOURS.repeat(16, axis=0).repeat(16, axis=1)  # 640 x 800
    Image.fromarray(wide).save(tmp_path / "a.png", icc_profile=P3)
    sizes = {n: open_image(tmp_path / "a.png", n).size for n in (None, 80, 81, 320, 321)}
    assert sizes == {
        None: (800, 640),
        80: (100, 80),
        81: (200, 160),
        320: (400, 320),
        321: (800, 640),
    }
    want = in_srgb("Display P3", COLOURS).repeat(2, axis=0).repeat(2, axis=1)
    assert np.abs(opened(tmp_path / "a.png", at_least=80) - want).max() <= 2
    assert open_image(tmp_path / "a.png", 80, srgb=False).size == (800, 640)


def test_threads_share_a_transform():
    pictures = [Image.fromarray(np.roll(COLOURS, n, axis=0).repeat(8, axis=0)) for n in range(40)]
    want = [np.asarray(to_srgb(one, P3)) for one in pictures]
    with ThreadPoolExecutor(4) as pool:
        for got, expected in zip(
            pool.map(lambda one: to_srgb(one, P3), pictures), want, strict=True
        ):
            np.testing.assert_array_equal(np.asarray(got), expected)


def test_a_written_profile_is_one_that_others_read():
    profile = ImageCms.ImageCmsProfile(io.BytesIO(matrix_profile("A name", P3_LIKE, CURVE)))
    assert ImageCms.getProfileDescription(profile).strip() == "A name"
    x, y, z = profile.profile.red_colorant[0]
    assert np.allclose((x, y, z), P3_LIKE[0], atol=1e-4)


P3_LIKE = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def test_few_profiles_are_kept():
    assert colour._transform.cache_info().maxsize == 8
