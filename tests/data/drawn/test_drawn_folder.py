"""Tests of the script that draws the demo's image folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "datasets" / "draw_waste.py"
CLASSES = {"bottle", "can", "cardboard box", "tyre", "coffee tin"}
SMALL = ("--train", "2", "--val", "1", "--test", "1", "--size", "32")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Returns the script as a module, loaded by path as `datasets/` is no package."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("draw_waste", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every picture's bytes by its path within the folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")
    }


def test_folder_has_the_asked_counts_names_and_sizes(script, tmp_path, capsys):
    assert script.main([str(tmp_path / "waste"), *SMALL]) == 0
    pictures = contents(tmp_path / "waste")
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        wanted = {f"{split}/{name}/{i:03d}.jpg" for name in CLASSES for i in range(count)}
        assert {path for path in pictures if path.startswith(split)} == wanted
    for data in pictures.values():
        photo = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert photo is not None and photo.shape == (32, 32, 3)
        assert photo.std() > 4
    assert capsys.readouterr().out.startswith("drew 5 classes")
    assert [path.name for path in tmp_path.iterdir()] == ["waste"]


def test_same_seed_same_bytes_other_seed_other_bytes(script, tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert script.main([str(tmp_path / name), *SMALL, "--seed", seed]) == 0
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and all(a[path] != c[path] for path in a)
    assert len(set(a.values())) == len(a)


def test_a_picture_does_not_depend_on_how_many_are_drawn(script, tmp_path):
    script.main([str(tmp_path / "few"), *SMALL])
    script.main([str(tmp_path / "more"), *SMALL, "--train", "3"])
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    assert few.items() < more.items()


def test_complete_folder_is_not_redrawn(script, tmp_path, capsys, monkeypatch):
    script.main([str(tmp_path / "waste"), *SMALL])
    capsys.readouterr()
    monkeypatch.setattr(script, "draw", lambda *_: pytest.fail("drew again"))
    assert script.main([str(tmp_path / "waste"), *SMALL]) == 0
    assert capsys.readouterr().out.startswith("already drawn: ")


def test_incomplete_or_differently_drawn_folder_is_drawn_anew(script, tmp_path):
    folder = tmp_path / "waste"
    script.main([str(folder), *SMALL])
    before = contents(folder)
    (folder / "train" / "can" / "001.jpg").unlink()
    assert script.main([str(folder), *SMALL]) == 0
    assert contents(folder) == before
    assert script.main([str(folder), *SMALL, "--seed", "9", "--train", "1"]) == 0
    assert len(contents(folder)) == 5 * 3
    assert [path.name for path in tmp_path.iterdir()] == ["waste"]


@pytest.mark.parametrize("drawn_first", [False, True])
def test_foreign_folder_is_refused_and_left_alone(script, tmp_path, capsys, drawn_first):
    folder = tmp_path / "mine"
    if drawn_first:
        script.main([str(folder), *SMALL])
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "holiday.jpg").write_bytes(b"mine")
    before = contents(folder)
    capsys.readouterr()
    assert script.main([str(folder), *SMALL, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert "train/holiday.jpg" in error and error.count("\n") == 1
    assert contents(folder) == before


def test_interrupted_drawing_leaves_nothing_behind(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        script.main([str(tmp_path / "waste"), *SMALL])
    assert list(tmp_path.iterdir()) == []
