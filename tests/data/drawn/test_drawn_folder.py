"""Tests of the dataset that is drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vitlora.data.drawn import folder as drawn
from vitlora.data.drawn.folder import ForeignFolderError, draw_folder
from vitlora.errors import VitloraError

CLASSES = {"bottle", "can", "cardboard box", "tyre", "coffee tin"}
SMALL = {"train": 2, "val": 1, "test": 1, "size": 32}


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every picture's bytes by its path within the folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")
    }


def test_folder_has_the_asked_counts_names_and_sizes(tmp_path):
    assert draw_folder(tmp_path / "new" / "waste", **SMALL)
    pictures = contents(tmp_path / "new" / "waste")
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        wanted = {f"{split}/{name}/{i:03d}.jpg" for name in CLASSES for i in range(count)}
        assert {path for path in pictures if path.startswith(split)} == wanted
    for data in pictures.values():
        photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert photo is not None and photo.shape == (32, 32, 3)
        assert photo.std() > 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["waste"]


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        draw_folder(tmp_path / name, **SMALL, seed=seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and all(a[path] != c[path] for path in a)
    assert len(set(a.values())) == len(a)


def test_a_picture_does_not_depend_on_how_many_are_drawn(tmp_path):
    draw_folder(tmp_path / "few", **SMALL)
    draw_folder(tmp_path / "more", **{**SMALL, "train": 3})
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert few.items() < more.items()


def test_complete_folder_is_not_redrawn(tmp_path, monkeypatch):
    draw_folder(tmp_path / "waste", **SMALL)
    monkeypatch.setattr(drawn, "draw", lambda *_: pytest.fail("drew again"))
    assert not draw_folder(tmp_path / "waste", **SMALL)


def test_incomplete_or_differently_drawn_folder_is_drawn_anew(tmp_path):
    folder = tmp_path / "waste"
    draw_folder(folder, **SMALL)
    before = contents(folder)
    (folder / "train" / "can" / "001.jpg").unlink()
    assert draw_folder(folder, **SMALL)
    assert contents(folder) == before
    assert draw_folder(folder, **{**SMALL, "train": 1}, seed=9)
    assert len(contents(folder)) == 5 * 3
    assert [path.name for path in tmp_path.iterdir()] == ["waste"]


@pytest.mark.parametrize("drawn_first", [False, True])
def test_foreign_folder_is_refused_and_left_alone(tmp_path, drawn_first):
    folder = tmp_path / "mine"
    if drawn_first:
        draw_folder(folder, **SMALL)
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "holiday.jpg").write_bytes(b"mine")
    before = contents(folder)
    with pytest.raises(ForeignFolderError, match=r"1 file .*'train/holiday\.jpg'") as refused:
        draw_folder(folder, **SMALL, seed=1)
    assert isinstance(refused.value, VitloraError) and "\n" not in str(refused.value)
    assert contents(folder) == before


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ForeignFolderError, match="is a file"):
        draw_folder(tmp_path / "mine", **SMALL)
    assert (tmp_path / "mine").read_text() == "mine"


def test_interrupted_drawing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        draw_folder(tmp_path / "waste", **SMALL)
    assert list(tmp_path.iterdir()) == []
