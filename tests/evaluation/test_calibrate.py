"""What calibration writes into a bundle, and what prediction makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import train

from vitlora.bundle.checkpoint import Bundle, bundle_bytes, load_bundle
from vitlora.bundle.folder import REFERENCE
from vitlora.bundle.merging import merged_network
from vitlora.data.folder import Sample
from vitlora.data.images import open_image
from vitlora.data.read import read_folder
from vitlora.errors import BundleError, UsageError
from vitlora.evaluation.calibrate import _some, calibrate
from vitlora.metrics.unsure import Unsure
from vitlora.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> tuple[Path, Bundle]:
    """Returns a folder of two colours of noise, and the calibrated bundle of a small run on it."""
    root = tmp_path_factory.mktemp("run")
    photos = make_folder(root / "photos", count=12)
    train(photos, root / "bundle")
    bundle = load_bundle(root / "bundle")
    assert bundle.record.confidence is None and bundle.reference is None
    splits = read_folder(photos).splits
    network = merged_network(bundle)
    return photos, calibrate(bundle, network, splits["train"], splits["val"], Unsure())


def test_everything_else_stays_as_it_was(calibrated: tuple[Path, Bundle]) -> None:
    bundle = calibrated[1]
    assert bundle.record.confidence is not None and bundle.reference is not None
    assert bundle.record.metrics["images"] == bundle.record.confidence.images == 24
    for name, tensor in load_bundle(bundle.folder).tensors.items():
        assert torch.equal(tensor, bundle.tensors[name])
    assert (bundle.folder / "README.md").exists()
    trained = sum(4 * t.numel() for t in bundle.tensors.values())
    assert bundle_bytes(bundle.folder) <= 1.05 * trained + 8 * 1024


def test_prediction_divides_by_the_temperature(calibrated: tuple[Path, Bundle]) -> None:
    photos, bundle = calibrated
    learnt = bundle.record.confidence
    assert learnt is not None
    paths = sorted(photos.glob("val/*/*.jpg"))
    predictor = Predictor(bundle, device="cpu")
    expected = (predictor.logits([open_image(p) for p in paths]) / learnt.temperature).softmax(1)
    got = [p for p in predictor.predict(paths) if not isinstance(p, Exception)]
    assert [p.confidence for p in got] == pytest.approx(expected.amax(1).tolist(), rel=1e-5)
    assert [p.unsure for p in got] == (expected.amax(1) < learnt.unsure_below).tolist()
    assert sum(not p.unsure for p in got) / len(got) == pytest.approx(learnt.coverage, abs=1e-3)


def test_a_picture_unlike_the_training_pictures_is_flagged(
    calibrated: tuple[Path, Bundle], tmp_path: Path
) -> None:
    photos, bundle = calibrated
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, ::7], pixels[32:, :] = (255, 0, 0), (0, 255, 30)
    Image.fromarray(pixels).save(tmp_path / "other.png")
    predictor = Predictor(bundle, device="cpu")
    known = list(predictor.predict(sorted(photos.glob("val/*/*.jpg"))))
    assert sum(p.unfamiliar for p in known) <= 1  # pyright: ignore
    (other,) = predictor.predict([tmp_path / "other.png"])
    assert other.unfamiliar  # pyright: ignore


def test_a_coverage_can_be_asked_for_instead(calibrated: tuple[Path, Bundle]) -> None:
    photos, bundle = calibrated
    splits = read_folder(photos).splits
    network = merged_network(bundle)
    bundle = calibrate(bundle, network, splits["train"], splits["val"], Unsure(coverage=0.5))
    learnt = bundle.record.confidence
    assert learnt is not None
    assert learnt.chosen_for == {"coverage": 0.5}
    assert learnt.coverage == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error": 1.0}, "max_error is 1.0"),
        ({"max_error": -0.1}, "max_error is -0.1"),
        ({"max_error": 0.0}, "no number of pictures can promise"),
        ({"coverage": 0.0}, "coverage is 0.0"),
    ],
)
def test_shares_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Unsure(**options)


def test_a_damaged_reference_is_refused(calibrated: tuple[Path, Bundle], tmp_path: Path) -> None:
    folder = calibrated[1].folder
    content = (folder / REFERENCE).read_bytes()
    try:
        (folder / REFERENCE).write_bytes(content[:-2])
        with pytest.raises(BundleError, match="was truncated or changed"):
            load_bundle(folder)
        (folder / REFERENCE).unlink()
        with pytest.raises(BundleError):
            load_bundle(folder)
    finally:
        (folder / REFERENCE).write_bytes(content)


def test_an_uncalibrated_bundle_predicts_plainly(calibrated: tuple[Path, Bundle]) -> None:
    photos, bundle = calibrated
    plain = replace(bundle, record=replace(bundle.record, confidence=None), reference=None)
    (path, *_) = photos.glob("val/*/*.jpg")
    predictor = Predictor(plain, device="cpu")
    (got,) = predictor.predict([path])
    expected = predictor.logits([open_image(path)]).softmax(1).amax()
    assert got.confidence == pytest.approx(float(expected))  # pyright: ignore
    assert not got.unsure and not got.unfamiliar  # pyright: ignore


def test_many_training_pictures_are_thinned_evenly() -> None:
    samples = [Sample(Path(f"{i}.jpg"), int(i >= 9000)) for i in range(10000)]
    kept = _some(samples, 500)
    counts = [sum(s.label == label for s in kept) for label in (0, 1)]
    assert counts == [250, 250]
    assert _some(samples[:50], 500) == samples[:50]
