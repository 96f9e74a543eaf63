"""Which files look whole by their two ends."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlora.data.picture_file import looks_whole


def saved(path: Path, mode: str = "RGB") -> Path:
    values = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) if mode == "I;16" else values)
    (image if mode == "I;16" else image.convert(mode)).save(path)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_whole_png_of_up_to_8_bits_looks_whole(tmp_path, mode):
    assert looks_whole(saved(tmp_path / "a.png", mode))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_was_cut_off_does_not(tmp_path, name, inside):
    whole = saved(tmp_path / name).read_bytes()

    def looks(content: bytes) -> bool:
        file = tmp_path / f"copy-{name}"
        file.write_bytes(content)
        if not inside:
            return looks_whole(file)
        with zipfile.ZipFile(tmp_path / f"{len(content)}.zip", "w") as archive:
            archive.write(file, name)
        return looks_whole(tmp_path / f"{len(content)}.zip" / name)

    assert looks(whole)
    for kept in (0, 1, 2, 12, 25, 26, len(whole) // 2, len(whole) - 1):
        assert not looks(whole[:kept])
    assert not looks(whole + b"\0")  # may be whole: it has to be decoded


@pytest.mark.parametrize(("name", "mode"), [("a.webp", "RGB"), ("a.tif", "RGB"), ("a.png", "I;16")])
def test_other_formats_and_depths_have_to_be_decoded(tmp_path, name, mode):
    assert not looks_whole(saved(tmp_path / name, mode))


def test_what_is_no_file_does_not_look_whole(tmp_path):
    assert not looks_whole(tmp_path)
    assert not looks_whole(tmp_path / "none.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert not looks_whole(tmp_path / "pipe.jpg")
