"""12-bit pictures in 16-bit files, from training to prediction: one scale, the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import train

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.report import report
from vitlora.data.datamodule import FolderData
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor

HALF = (0.5, 0.5, 0.5)


def grey(index: int, label: int) -> np.ndarray:
    """Returns a picture of shares, 0 to 1, both of which occur; each class has its own stripes."""
    rng = np.random.default_rng(100 * label + index)
    values = np.clip(
        rng.random((40, 40)) * 0.3 + (np.arange(40) // (4 + 6 * label) % 2) * 0.7, 0, 1
    )
    values[0, :20], values[-1, :20] = 0, 1
    return values


def write(root: Path, white: int, dtype: type = np.uint16) -> Path:
    """Fills a folder with the same pictures whatever their white is."""
    for split, first in (("train", 0), ("val", 8)):
        for label, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for index in range(first, first + 8):
                values = np.rint(grey(index, label) * white).astype(dtype)
                Image.fromarray(values).save(root / split / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("deep")
    train(write(where / "photos", 4095), where / "bundle")
    train(write(where / "plain", 255, np.uint8), where / "plain-bundle")
    return where


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def logits(predictor: Predictor, paths: list[Path]) -> torch.Tensor:
    return predictor.logits([predictor.preprocessing.open(path).image for path in paths])


def test_the_bundle_keeps_the_scale_and_one_of_8_bits_has_none(where: Path) -> None:
    assert load_bundle(where / "bundle").record.preprocessing.value_range == (0, 4095)
    fields = json.loads((where / "bundle" / "vitlora.json").read_text())
    assert fields["preprocessing"]["value_range"] == [0, 4095]
    assert load_bundle(where / "plain-bundle").record.preprocessing.value_range is None
    fields = json.loads((where / "plain-bundle" / "vitlora.json").read_text())
    assert "value_range" not in fields["preprocessing"]  # an older vitlora still reads it
    assert "0 to 4095 of files deeper than 8 bits" in (where / "bundle" / "README.md").read_text()


def test_a_12_bit_picture_is_answered_as_the_same_picture_of_8_bits(where: Path) -> None:
    predictor = Predictor(where / "bundle", device="cpu")
    deep = logits(predictor, pictures(where / "photos" / "val"))
    plain = logits(predictor, pictures(where / "plain" / "val"))
    assert (deep - plain).abs().max() < 0.02 * deep.std()  # 12 bits are rounded to 8 once more


def test_predict_report_and_pool_read_alike(where: Path, tmp_path: Path) -> None:
    paths = pictures(where / "photos" / "val")
    predictor = Predictor(where / "bundle", device="cpu")
    expected = logits(predictor, paths).softmax(1).max(1).values
    answers = list(predictor.predict(paths))
    assert torch.allclose(torch.tensor([a.confidence for a in answers]), expected, atol=1e-5)  # pyright: ignore
    assert not any(a.outside for a in answers)  # pyright: ignore
    pool = AdapterPool({"x": where / "bundle"}, device="cpu")
    for one, other in zip(pool.predict(paths, ["x"] * len(paths)), answers, strict=True):
        assert isinstance(one, Prediction) and isinstance(other, Prediction)
        assert (one.label, one.outside) == (other.label, other.outside)
        assert abs(one.confidence - other.confidence) < 1e-5
    report(where / "bundle", output=tmp_path / "page.html")
    assert "outside the range of training" not in (tmp_path / "page.html").read_text()


def test_pictures_outside_the_scale_are_marked(
    where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    brighter = pictures(write(tmp_path / "new", 65535) / "val")
    words = ["--checkpoint", str(where / "bundle"), "--device", "cpu"]
    assert vitlora(["predict", *map(str, brighter[:2]), *words]) == 0
    assert capsys.readouterr().out.count("values outside the range of training") == 2
    assert vitlora(["predict", str(brighter[0]), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outside"] is True
    page = tmp_path / "page.html"
    report(where / "bundle", data=tmp_path / "new", output=page)
    assert "16 pictures with values outside the range of training" in page.read_text()


def test_a_deep_picture_is_marked_where_training_had_none(where: Path) -> None:
    predictor = Predictor(where / "plain-bundle", device="cpu")
    deep, plain = (pictures(where / name / "val")[0] for name in ("photos", "plain"))
    assert [answer.outside for answer in predictor.predict([deep, plain])] == [True, False]  # pyright: ignore


def ready(root: Path, **options: object) -> FolderData:
    data = FolderData(str(root), num_workers=0, **options)  # pyright: ignore
    data.preprocessing = Preprocessing(32, 1.0, HALF, HALF, value_range=(0, 4095))
    return data


def test_pictures_outside_are_counted_before_training_and_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "photos", 4095)
    values = np.rint(grey(0, 0) * 65535).astype(np.uint16)
    Image.fromarray(values).save(root / "val" / "a" / "other.png")
    for stage in ("fit", "validate"):
        data = ready(root)
        data.setup(stage)
        said = capsys.readouterr().err
        assert "warning: 1 of 17 val pictures have values outside 0 to 4095" in said
        assert "such as val/a/other.png" in said and "train pictures" not in said


def test_what_is_passed_over_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "photos", 4095)
    for name in ("train/a/1.txt", "val/b/2.txt", "val/b/3.dng"):
        (root / name).touch()
    data = ready(root)
    data.setup("fit")
    data.setup("validate")
    assert capsys.readouterr().err.count("note: passed over 3 files: 2 .txt, 1 .dng (camera") == 1


@pytest.mark.parametrize("given", [[1.0], [2.0, 1.0], [0.0, float("inf")]])
def test_an_impossible_range_is_refused(tmp_path: Path, given: list[float]) -> None:
    with pytest.raises(UsageError, match=r"data\.value_range .* expected two numbers"):
        FolderData(str(write(tmp_path / "photos", 255, np.uint8)), value_range=given)


def test_going_on_with_another_range_is_refused(tmp_path: Path) -> None:
    data = ready(write(tmp_path / "photos", 4095), value_range=[0.0, 9.0])
    assert data.preprocessing is not None
    with pytest.raises(UsageError, match=r"0 to 9, but the bundle .* reads values 0 to 4095"):
        data._inspection.scaled(data.preprocessing, data.value_range)


CONFIG = """
data: {root: ROOT, num_workers: 0, batch_size: 4}
model: {backbone: vitlora/vit_micro_patch8_96, weights: none, image_size: 32}
trainer: {max_epochs: 1, accelerator: cpu}
"""


def test_fit_says_the_scale_and_validate_and_fit_from_keep_it(
    where: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.replace("ROOT", str(where / "photos")))
    assert vitlora(["fit", "--config", "run.yaml", "--output", "one"]) == 0
    said = capsys.readouterr().err
    assert "note: training: 16 of 16 pictures are deeper than 8 bits: values 0 to 4095" in said
    assert vitlora(["validate", "--config", "run.yaml", "--checkpoint", "one"]) == 0
    assert vitlora(["validate", "--checkpoint", "one"]) == 0
    assert "warning" not in capsys.readouterr().err
    words = ["--data.root", str(where / "photos"), "--trainer.max_epochs", "1"]
    assert vitlora(["fit", "--from", "one", "--output", "two", *words]) == 0
    assert load_bundle("two").record.preprocessing.value_range == (0, 4095)
    words = ["--data.value_range", "[0, 8190]"]
    assert vitlora(["fit", "--config", "run.yaml", "--output", "three", *words]) == 0
    assert load_bundle("three").record.preprocessing.value_range == (0, 8190)
    assert vitlora(["test", "--checkpoint", "three", "--data.root", str(where / "photos")]) == 1
    assert vitlora(["validate", "--checkpoint", "three"]) == 0
