"""Whose labels ``doctor --check-labels`` doubts: nobody's whom no other picture can speak for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitlora.cli.main import main
from vitlora.evaluation import labels
from vitlora.metrics.label_noise import judged

MICRO = ["--check-labels", "--backbone", "vitlora/vit_micro_patch8_96", "--device", "cpu"]
TINTS = {"red": (220, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 220)}
TINTS["rose"] = TINTS["red"]  # looks the same


def scene(seed: int, tint: str) -> Image.Image:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 120, (6, 8), dtype=np.uint8)).resize((120, 90))
    return ImageOps.colorize(smooth, "black", TINTS[tint])


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Returns what writes 12 red, 12 green, and some pictures of a third class and their groups."""

    def write(third: str, pictures: Sequence[tuple[str, int]] = ()) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        rows = [("red" if n < 12 else "green", "", n) for n in range(24)]
        rows += [(third, group, 100 + seed) for group, seed in pictures]
        lines = ["file,label,patient"]
        for number, (label, group, seed) in enumerate(rows):
            scene(seed, label).save(folder / f"{number:02}.png")
            lines.append(f"{number:02}.png,{label},{group}")
        (folder / "labels.csv").write_text("\n".join([*lines, ""]), "utf-8")
        return folder

    return write


def doubted(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    main(["doctor", str(folder), *MICRO, "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    return [name for one in findings if one["kind"] == "label_noise" for name in one["files"]]


@pytest.mark.parametrize(
    "pictures",
    [
        [("one patient", n) for n in range(8)],
        [("", 0)] * 8,  # one scene
        [(f"p{n // 2}", n) for n in range(8)],  # four patients
        [("", min(n, 3)) for n in range(8)],  # four scenes
    ],
)
def test_a_class_of_fewer_than_five_groups_is_not_judged(pictures, table, capsys):
    assert doubted(table("rose", pictures), capsys) == []


def test_a_wrong_label_is_found_and_its_group_has_no_say(table, capsys, monkeypatch):
    folder = table("blue", [(f"p{n // 2}", n) for n in range(12)])
    text = (folder / "labels.csv").read_text("utf-8").replace("24.png,blue", "24.png,green")
    (folder / "labels.csv").write_text(text, "utf-8")
    seen: list[Sequence[int]] = []

    def watched(features, given, groups):
        seen.append(groups)
        return judged(features, given, groups)

    monkeypatch.setattr(labels, "judged", watched)
    assert doubted(folder, capsys) == ["24.png"]
    assert len(set(seen[0][:24])) == 24 and len(set(seen[0])) == 24 + 6
    assert seen[0][24::2] == seen[0][25::2]


def test_two_classes_of_five_groups_are_needed(table, capsys):
    folder = table("blue")
    text = (folder / "labels.csv").read_text("utf-8").replace(",green,", ",green,one patient")
    (folder / "labels.csv").write_text(text, "utf-8")
    assert main(["doctor", str(folder), *MICRO]) == 2
    assert capsys.readouterr().err == (
        "vitlora: --check-labels needs two classes of 5 pictures each, where copies and pictures "
        f"of one group count once; {folder} has 1\n"
    )
