"""The calibrate command on a small bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import train

from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.cli.main import main


@pytest.fixture
def bundle(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    train(make_folder(tmp_path / "photos", count=8), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_it_learns_again_for_another_error_rate(bundle: Path, capsys: Any) -> None:
    assert load_bundle(bundle).record.confidence is None
    assert main(["calibrate", str(bundle), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "temperature" in out and "on 16 validation pictures" in out
    first = load_bundle(bundle).record.confidence
    assert first is not None and first.chosen_for == {"max_error": 0.05, "certainty": 0.9}
    assert "16 validation pictures cannot show that at most 5.0% of the answers" in out
    assert main(["calibrate", str(bundle), "--coverage", "0.5", "--device", "cpu"]) == 0
    again = load_bundle(bundle).record.confidence
    assert again is not None and again.chosen_for == {"coverage": 0.5}
    assert again.temperature == first.temperature
    assert main(["calibrate", str(bundle), "--device", "cpu"]) == 0  # by the bundle's own rule
    assert load_bundle(bundle).record.confidence == again
    assert main(["calibrate", str(bundle), "--max-error", "0.4", "--device", "cpu"]) == 0
    other = load_bundle(bundle).record.confidence
    assert other is not None and other.chosen_for == {"max_error": 0.4, "certainty": 0.9}


def test_mistakes_are_one_line(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    def complaint(*words: str) -> str:
        capsys.readouterr()
        assert main(["calibrate", str(bundle), *words, "--device", "cpu"]) in (1, 2)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "max_error is 2.0; expected" in complaint("--max-error", "2")
    assert "coverage is 0.0; expected" in complaint("--coverage", "0")
    shutil.rmtree(tmp_path / "photos" / "val")
    assert "no longer has the val split of training" in complaint()
    shutil.rmtree(tmp_path / "photos")
    assert "name a folder with the same classes with --data" in complaint()
    assert load_bundle(bundle).record.confidence is None


def test_other_validation_pictures_are_told_by_content(
    bundle: Path, tmp_path: Path, capsys: Any
) -> None:
    next((tmp_path / "photos").glob("val/a/*.jpg")).unlink()
    words = ["calibrate", str(bundle), "--device", "cpu"]
    assert main(words) == 0  # none of those left was trained on
    assert "these are not the validation pictures of training\n" in capsys.readouterr().err
    record = load_bundle(bundle).record
    assert record.confidence is not None and record.confidence.images == 15

    old = shutil.copytree(bundle, tmp_path / "old")
    record = replace(record, confidence=None)
    loaded = load_bundle(old)
    save_bundle(old, record, loaded.tensors, loaded.peft, "model: {}\n")
    words = ["calibrate", str(old), "--device", "cpu"]
    assert main(words) == 1
    assert "are not those of training" in capsys.readouterr().err
    assert main([*words, "--data", str(tmp_path / "photos")]) == 0
    assert "it is assumed that" in capsys.readouterr().err


def test_a_copy_drawn_otherwise_than_in_training(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    photos = make_folder(tmp_path / "photos", splits=(), count=8)
    train(photos, tmp_path / "bundle")
    loaded = load_bundle(tmp_path / "bundle")
    save_bundle(tmp_path / "old", loaded.record, loaded.tensors, loaded.peft, "model: {}\n")
    copy = shutil.copytree(photos, tmp_path / "copy")
    for path in sorted((copy / "a").iterdir()):
        path.rename(path.with_name(f"new-{path.name}"))
        (photos / "a" / path.name).unlink()
    words = ["--data", str(copy), "--device", "cpu"]
    capsys.readouterr()
    assert main(["calibrate", str(tmp_path / "bundle"), *words]) == 0  # its pictures are known
    assert "the val pictures of training were found by their content" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path / "old"), *words]) == 1
    assert "are not those of training" in capsys.readouterr().err


def test_few_pictures_do_not_replace_a_calibration_on_more(
    bundle: Path, tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    words = ["calibrate", str(bundle), "--device", "cpu"]
    assert main(words) == 0
    before = load_bundle(bundle).record.confidence
    few = make_folder(tmp_path / "few", count=1)
    assert main([*words, "--data", str(few)]) == 1
    assert (
        "has 2 validation pictures, and the bundle is already calibrated on 16; expected at "
        "least 20, or as many as before" in capsys.readouterr().err
    )
    assert load_bundle(bundle).record.confidence == before
