"""Tests of finding copies and near copies of pictures."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitlora.data.duplicates import Fingerprint, fingerprint, group, near_duplicates
from vitlora.errors import DataError


def scene(seed: int, size=(320, 240)) -> Image.Image:
    """Returns a picture as smooth as a photo, unlike that of any other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


CHANGES = {
    "smaller": lambda p: p.resize((150, 112)),
    "larger": lambda p: p.resize((640, 480)),
    "squeezed": lambda p: p.resize((256, 256)),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "paler": lambda p: ImageEnhance.Contrast(p).enhance(0.8),
    "blurred": lambda p: p.filter(ImageFilter.GaussianBlur(2)),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned left": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "turned right": lambda p: p.transpose(Image.Transpose.ROTATE_270),
    "turned over": lambda p: p.transpose(Image.Transpose.ROTATE_180),
    "transposed": lambda p: p.transpose(Image.Transpose.TRANSPOSE),
    "transversed": lambda p: p.transpose(Image.Transpose.TRANSVERSE),
    "a pixel cropped": lambda p: p.crop((2, 2, 318, 238)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copy_is_found_among_others(tmp_path, change):
    files = [tmp_path / f"{seed}.png" for seed in range(6)]
    for seed, file in enumerate(files):
        scene(seed).save(file)
    copy = tmp_path / "copy.jpg"
    CHANGES[change](scene(3)).save(copy, quality=60)
    assert near_duplicates([*files, copy]) == [0, 1, 2, 3, 4, 5, 3]


def test_hash_is_phash_of_the_field(tmp_path):
    scene(0).save(tmp_path / "a.png")
    want = imagehash.phash(Image.open(tmp_path / "a.png"), 16).hash
    low = fingerprint(tmp_path / "a.png").frequencies
    np.testing.assert_array_equal(low > np.median(low), want)


def test_same_bytes_are_one_group_whatever_they_are(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"no picture" if name < "c" else b"none either")
    for name, level in (("d.png", 0), ("e.png", 0), ("f.png", 255), ("g.png", 1)):
        Image.new("L", (50, 50), level).save(tmp_path / name)
    # flat pictures hold nothing to compare: only equal bytes make them copies
    assert near_duplicates(sorted(tmp_path.iterdir())) == [0, 0, 1, 2, 2, 3, 4]


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: No such file"):
        near_duplicates([tmp_path / "gone.jpg"])


def test_same_shape_in_another_colour_is_no_copy(tmp_path):
    grey = np.asarray(scene(0).convert("L"), dtype=float) / 255
    for name, colour in (("red", (255, 60, 60)), ("blue", (60, 84, 255)), ("copy", (250, 65, 60))):
        pixels = (grey[..., None] * colour).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    names = ("red", "blue", "copy")
    assert near_duplicates([tmp_path / f"{name}.png" for name in names]) == [0, 1, 0]


def test_white_sheets_of_paper_are_no_copies(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        shade = np.linspace(200 + 3 * index, 235, 160)[None, :].repeat(120, axis=0)
        Image.fromarray((shade + rng.normal(0, 6, shade.shape)).clip(0, 255).astype(np.uint8)).save(
            tmp_path / f"{index:02}.png"
        )
    groups = near_duplicates(sorted(tmp_path.iterdir()))
    assert len(set(groups)) == 12


def test_groups_do_not_depend_on_the_order_of_files(tmp_path):
    for seed in range(8):
        scene(seed).save(tmp_path / f"{seed}.png")
        scene(seed % 3).save(tmp_path / f"again{seed}.jpg", quality=40 + 5 * seed)
    files = sorted(tmp_path.iterdir())

    def sets(order):
        found: dict[int, set[str]] = {}
        for path, number in zip(order, near_duplicates(order), strict=True):
            found.setdefault(number, set()).add(path.name)
        assert list(found) == sorted(found) == list(range(len(found)))
        return sorted(map(sorted, found.values()))

    assert sets(files) == sets(files[::-1]) == sets(files[5:] + files[:5])
    assert len(sets(files)) == 8


def prints(frequencies) -> list[Fingerprint]:
    return [
        Fingerprint(bytes([n]), f.astype(np.float32), np.zeros((4, 4, 2), np.float32))
        for n, f in enumerate(frequencies)
    ]


def film(steps: int) -> list[Fingerprint]:
    """Returns a scene that becomes another one: neighbours are copies, the ends are not."""
    start, end = np.random.default_rng(0).normal(0, 500, (2, 16, 16))
    turn = np.linspace(0, np.pi / 2, steps)[:, None, None]
    return prints(np.cos(turn) * start + np.sin(turn) * end)


def test_copies_of_copies_are_one_group():
    # 128 bits apart at the ends: 4 of 13 steps are about 40, the first and the last of 5 farther
    assert group(film(13)[:5], distance=40) == [0] * 5
    ends = film(13)[:5:4]
    assert group(ends, distance=30) == [0, 1]


def test_film_does_not_become_one_group():
    groups = group(film(60))
    assert 2 <= len(set(groups)) <= 8


def test_no_files_no_groups():
    assert near_duplicates([]) == []
