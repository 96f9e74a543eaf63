"""The drift command on a small calibrated bundle: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import train

from vitlora.bundle.checkpoint import load_bundle
from vitlora.bundle.merging import merged_network
from vitlora.cli.main import main as vitlora
from vitlora.commands.drift import drift
from vitlora.data.read import read_folder
from vitlora.errors import BundleError, DataError
from vitlora.evaluation.calibrate import calibrate
from vitlora.metrics.prediction import Prediction
from vitlora.metrics.unsure import Unsure
from vitlora.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    where = tmp_path_factory.mktemp("drift")
    photos = make_folder(where / "photos", splits=("train", "val", "test"), count=20)
    train(photos, where / "bundle", lr=0.005)
    trained, splits = load_bundle(where / "bundle"), read_folder(photos).splits
    shutil.copytree(where / "bundle", where / "uncalibrated")
    network = merged_network(trained)
    calibrate(trained, network, splits["train"], splits["val"], Unsure())
    return where / "bundle"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Returns a folder of pictures unlike the training pictures, some deep, two unreadable."""
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "folder.jpg").mkdir()
    for index in range(35):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, :: 2 + index % 5] = (255, 7 * index, 0)
        Image.fromarray(pixels).save(tmp_path / "new" / "deep" / f"ü{index}.png")
    (tmp_path / "new" / "empty.jpg").touch()
    (tmp_path / "new" / "words.jpg").write_text("no picture")
    return tmp_path / "new"


def test_photos_of_the_same_source_look_alike(bundle: Path) -> None:
    said = drift(bundle, data=bundle.parent / "photos" / "test").to_text()
    assert said.startswith("These 40 photos look like the training data.\n")
    assert "what to do" not in said and "40 photos, 40 validation pictures; 0 could" in said


def test_other_photos_are_changed_and_named(bundle: Path, other: Path, capsys: Any) -> None:
    out = other.parent / "drift.json"
    words = ["drift", str(bundle), "--data", str(other), "--json", str(out)]
    assert vitlora(words) == 0
    said = capsys.readouterr()
    first, second = said.out.splitlines()[:2]
    assert first.startswith("Changed: ") and "less like the training data" in first
    assert second.endswith(f"vitlora fit --from {bundle}")
    assert "35 photos, 40 validation pictures; 2 could not be read" in said.out
    left_out = [line for line in said.err.splitlines() if line.startswith("note: left out: ")]
    assert sorted(line.split(": ")[2] for line in left_out) == [
        str(other / "empty.jpg"),
        str(other / "words.jpg"),
    ]
    found = json.loads(out.read_text("utf-8"))
    assert found["drift"] is True and found["verdict"] == first and found["photos"] == 35
    assert len(found["unreadable"]) == 2
    farthest = Path(found["pictures"][0]["path"])
    assert said.out.split("in all):\n  ")[1].startswith(farthest.relative_to(other).as_posix())
    predicted = {
        p.path: p
        for p in Predictor(bundle, device="cpu").predict(sorted(other.glob("deep/*")))
        if isinstance(p, Prediction)
    }
    for picture in found["pictures"]:
        expected = predicted[Path(picture["path"])]
        assert picture["label"] == expected.label
        assert picture["confidence"] == pytest.approx(expected.confidence, rel=1e-4)
        assert (picture["unsure"], picture["unfamiliar"]) == (expected.unsure, expected.unfamiliar)
    assert vitlora(words) == 0  # its own file it replaces
    assert not list(other.parent.glob(".*.new"))


def test_json_alone_on_standard_output(bundle: Path, capsys: Any) -> None:
    photos = bundle.parent / "photos" / "test"
    assert vitlora(["drift", str(bundle), "--data", str(photos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drift"] is False and not found["unreadable"]
    compared = [c["name"] for c in found["compared"]]
    assert {*compared, *found["not_compared"]} == {"class mix", "confidence", "distance"}
    assert {"class mix", "distance"} <= {*compared}
    assert all(c["size"] == "none" and sum(c["observed"]) > 0.999 for c in found["compared"])


def test_of_few_photos_little_can_be_told(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(bundle.parent / "photos" / "test" / name, tmp_path / name)
        for path in sorted((tmp_path / name).iterdir())[3:]:
            path.unlink()
    said = drift(bundle, data=tmp_path).to_text()
    assert "with 6 photos only a very large one would show" in said and "shares are rough" in said


def test_an_uncalibrated_bundle_is_sent_to_calibrate(bundle: Path) -> None:
    folder = bundle.parent / "uncalibrated"
    with pytest.raises(BundleError, match=f"run 'vitlora calibrate {folder}'") as error:
        drift(folder, data=bundle.parent / "photos")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "no such file"),
        ("file.jpg", "no picture can be read, of 1"),
        ("hollow", "no pictures in this folder"),
        ("torn", "no picture can be read, of 1"),
    ],
)
def test_nothing_to_compare_is_one_line(
    bundle: Path, tmp_path: Path, data: str, message: str
) -> None:
    (tmp_path / "file.jpg").touch()
    (tmp_path / "hollow" / "x.jpg").mkdir(parents=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "x.jpg").touch()
    with pytest.raises(DataError, match=message) as error:
        drift(bundle, data=tmp_path / data)
    assert "\n" not in str(error.value)
