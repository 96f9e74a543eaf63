"""Tests of the one scale for the pictures of a folder that are deeper than 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFile

from vitlora.data.images import MemoryShortError
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.value_range import find_range, range_text, read_range


def scene(seed=0):
    """Returns a picture of shares, 0 to 1, both of which occur: ``(48, 64)``."""
    values = np.random.default_rng(seed).random((48, 64))
    values[:8], values[-8:] = 0, 1
    return values


def write(folder, values, name="a.tif"):
    Image.fromarray(values).save(folder / name)
    return folder / name


def found(folder, makers):
    """Returns the range of pictures, each made of a scene of its own."""
    paths = [write(folder, make(scene(n)), f"{n}.tif") for n, make in enumerate(makers)]
    return find_range(paths).value_range


def ints(low, high, dtype=np.uint16):
    return lambda shares: np.rint(low + shares * (high - low)).astype(dtype)


def floats(low, high):
    return lambda shares: (low + shares * (high - low)).astype(np.float32)


FOLDERS = {
    "16 bits": ([ints(0, 65535)] * 5, (0, 65535)),
    "14 bits": ([ints(10, 16300)] * 5, (0, 16383)),
    "12 bits": ([ints(0, 4095)] * 5, (0, 4095)),
    "12 bits, none of them bright": ([ints(3, 1100)] * 5, (0, 4095)),
    "10 bits": ([ints(0, 1000)] * 5, (0, 1023)),
    "8 bits in 32": ([ints(0, 255, np.int32)] * 5, (0, 255)),
    "12 bits, bright and dark": ([ints(0, 4095), *[ints(0, 300)] * 4], (0, 4095)),
    "thermal": ([ints(7000, 8000), ints(7500, 9000)], (7000, 9000)),
    "CT": ([ints(-1024, 3071, np.int32)] * 3, (-1024, 3071)),
    "floats to 1": ([floats(0, 1), floats(0, 0.9)], (0, 1)),
    "small floats": ([floats(0, 0.02)] * 2, (0, 0.02)),
    "floats to 255": ([floats(0, 250)] * 2, (0, 255)),
    "degrees": ([floats(-10, 35)] * 2, (-10, 35)),
    "one of 16 bits among 100": ([*[ints(0, 4095)] * 99, ints(0, 65535)], (0, 4095)),
    "one of 16 bits among 3": ([*[ints(0, 4095)] * 2, ints(0, 65535)], (0, 65535)),
    "one value only": ([ints(7000, 7000)], (7000, 7001)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_range_is_that_of_the_folder(tmp_path, name):
    makers, want = FOLDERS[name]
    got = found(tmp_path, makers)
    assert got is not None and got == pytest.approx(want, abs=1e-6)


def test_dead_and_hot_pixels_do_not_widen_a_thermal_range(tmp_path):
    values = ints(7000, 9000)(scene())
    values[20, 20], values[20, 21] = 0, 65535
    assert find_range([write(tmp_path, values)]).value_range == (7000, 9000)


@pytest.mark.parametrize("dead", [1, 3, 30])
@pytest.mark.parametrize("value", [65535, 2**30])
def test_dead_pixels_far_above_the_rest_do_not_widen_a_12_bit_range(tmp_path, dead, value):
    paths = []
    for n in range(30):
        values = ints(0, 4095, np.int32 if value > 65535 else np.uint16)(scene(n))
        values[20, 20:23] = value if n < dead else 7
        paths.append(write(tmp_path, values, f"{n}.{'png' if value == 65535 else 'tif'}"))
    assert find_range(paths).value_range == (0, 4095)


def test_the_bright_spots_of_dark_pictures_count(tmp_path):
    values = np.zeros((48, 64), np.uint16)
    values[20, 20:23] = 4000
    assert find_range([write(tmp_path, values)]).value_range == (0, 4095)


def test_too_little_memory_is_not_passed_over(tmp_path, monkeypatch):
    path = write(tmp_path, ints(0, 4095)(scene()))

    def full(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(MemoryShortError):
        find_range([path])


def test_pixels_without_a_value_do_not_count(tmp_path):
    values = floats(-10, 35)(scene())
    values[30, :3] = np.nan, np.inf, -np.inf
    write(tmp_path, np.full((4, 4), np.nan, np.float32), "none.tif")
    paths = [write(tmp_path, values), tmp_path / "none.tif"]
    assert find_range(paths).value_range == pytest.approx((-10, 35))


def test_the_range_does_not_depend_on_the_order(tmp_path):
    paths = [write(tmp_path, ints(50 * n, 700 * n + 9)(scene(n)), f"{n}.png") for n in range(1, 60)]
    assert find_range(paths) == find_range(paths[::-1])


def test_8_bit_pictures_need_no_range_and_torn_files_do_not_count(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("torn")
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.png", "gone.png")]
    assert find_range(paths).value_range is None
    mixed = find_range([*paths, write(tmp_path, ints(0, 4095)(scene()), "d.png")])
    assert (mixed.value_range, mixed.deep, mixed.pictures) == ((0, 4095), 1, 5)
    assert mixed.to_text() == (
        "1 of 5 pictures are deeper than 8 bits: values 0 to 4095 become 0 to 255"
    )


def test_16_bit_colours_have_a_range_too(tmp_path):
    import cv2

    deep = ints(0, 4095)(np.stack([scene(n) for n in range(3)], axis=-1))
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    assert find_range([tmp_path / "a.png"]).value_range == (0, 4095)


def test_a_range_is_written_in_short():
    assert range_text((0.0, 4095.0)) == "0 to 4095"
    assert range_text((-10.5, 35.25)) == "-10.5 to 35.25"


@pytest.mark.parametrize(
    "given", [[1], [1, 2, 3], [2, 1], [1, 1], "01", [0, "1"], [0, float("nan")], [True, 2], {0: 1}]
)
def test_what_is_no_range_is_refused(given):
    with pytest.raises(ValueError, match="expected two numbers, the lower first"):
        read_range(given)


def test_a_range_survives_the_bundle_and_older_bundles_have_none():
    plain = {"image_size": 32, "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert Preprocessing.from_json(plain).value_range is None
    assert Preprocessing.from_json({**plain, "value_range": [0, 4095]}).value_range == (0, 4095)
    with pytest.raises(ValueError, match="no range"):
        Preprocessing.from_json({**plain, "value_range": "x"})
