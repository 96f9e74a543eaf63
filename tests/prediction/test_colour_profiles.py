"""Photos in Display P3, from training to prediction: one reading, the same everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from profiles import PROFILES, stored_in
from runs import MICRO, train

from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.cli.main import main as vitlora
from vitlora.data.images import open_image
from vitlora.data.preprocessing import Preprocessing
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor

P3 = PROFILES["Display P3"]


def write(root: Path) -> Path:
    """Fills a folder with pictures in Display P3, whose classes differ in colour."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("a", "b")):
            (root / split / name).mkdir(parents=True)
            for index in range(8):
                seen = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                seen[..., label] += 20
                image = Image.fromarray(stored_in("Display P3", seen))
                image.save(root / split / name / f"{index}.png", icc_profile=P3)
    return root


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("colours")
    train(write(where / "photos"), where / "bundle", seed=6)
    # one from before there was a choice
    shutil.copytree(where / "bundle", where / "older")
    older = load_bundle(where / "older")
    record = replace(older.record, preprocessing=replace(older.record.preprocessing, srgb=False))
    shutil.rmtree(where / "older")
    save_bundle(where / "older", record, older.tensors, older.peft, "model: {}\n")
    return where


def pictures(where: Path) -> list[Path]:
    return sorted((where / "photos" / "val").rglob("*.png"))


def as_stored(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def logits(predictor: Predictor, images: list[Image.Image]) -> torch.Tensor:
    return predictor.logits(images)


def test_a_new_bundle_says_so_and_one_without_a_word_was_trained_without(where: Path) -> None:
    fields = json.loads((where / "bundle" / "vitlora.json").read_text())
    assert fields["preprocessing"]["srgb"] is True
    assert load_bundle(where / "bundle").record.preprocessing.srgb
    fields = json.loads((where / "older" / "vitlora.json").read_text())
    assert "srgb" not in fields["preprocessing"]  # an older vitlora still reads it
    assert not load_bundle(where / "older").record.preprocessing.srgb
    assert "profiles are turned into sRGB" in (where / "bundle" / "README.md").read_text()


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_a_strange_word_is_refused(wrong: object) -> None:
    fields = asdict(Preprocessing(32, 1.0, (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(ValueError, match="srgb is"):
        Preprocessing.from_json({**fields, "srgb": wrong})


def test_each_bundle_reads_files_as_its_training_did(where: Path) -> None:
    paths = pictures(where)
    new, old = (Predictor(where / name, device="cpu") for name in ("bundle", "older"))
    turned = logits(new, [open_image(path) for path in paths])
    stored = logits(new, [as_stored(path) for path in paths])
    assert (turned - stored).abs().max() > 0.01 * stored.std()
    for predictor, want in ((new, turned), (old, stored)):
        sure = want.softmax(1).max(1).values
        for given in (paths, [path.read_bytes() for path in paths], [*map(Image.open, paths)]):
            answers = [one.confidence for one in predictor(given)]  # pyright: ignore
            assert torch.allclose(torch.tensor(answers), sure, atol=1e-5)


def test_a_pool_reads_each_file_as_its_adapter_wants(where: Path) -> None:
    pool = AdapterPool({"new": where / "bundle", "old": where / "older"}, device="cpu")
    path = pictures(where)[0]
    for name, folder in (("new", "bundle"), ("old", "older")):
        [alone] = Predictor(where / folder, device="cpu").predict([path])
        [pooled] = pool.predict([path], [name])
        assert isinstance(alone, Prediction) and isinstance(pooled, Prediction)
        assert abs(alone.confidence - pooled.confidence) < 1e-5


def loss(predictor: Predictor, paths: list[Path]) -> float:
    """Returns the cross-entropy of what is predicted for pictures of two classes."""
    shares = []
    for path, answer in zip(paths, predictor.predict(paths), strict=True):
        assert isinstance(answer, Prediction)
        right = answer.label == path.parent.name
        shares.append(answer.confidence if right else 1 - answer.confidence)
    return -float(np.log(shares).mean())


def fit(where: Path, output: Path, *more: str) -> int:
    words = [word for key, value in MICRO.items() for word in (f"--{key}", value)]
    words += ["--data", str(where / "photos"), "--data.batch_size", "4", "--output", str(output)]
    return vitlora(["fit", *words, *more])


def srgb(folder: Path) -> bool:
    return load_bundle(folder).record.preprocessing.srgb


def test_fit_has_a_choice_and_scoring_and_going_on_keep_it(
    where: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(where, tmp_path / "on") == 0 and srgb(tmp_path / "on")
    assert fit(where, tmp_path / "off", "--data.srgb", "false") == 0 and not srgb(tmp_path / "off")
    for name in ("on", "off"):
        capsys.readouterr()
        assert vitlora(["validate", "--checkpoint", str(tmp_path / name), "--json"]) == 0
        scored = json.loads(capsys.readouterr().out)["loss"]
        predictor = Predictor(tmp_path / name, device="cpu")
        assert abs(scored - loss(predictor, pictures(where))) < 1e-5
        predictor.preprocessing = replace(predictor.preprocessing, srgb=name == "off")
        assert abs(scored - loss(predictor, pictures(where))) > 1e-4
        more = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
        words = ["--from", str(tmp_path / name), "--data", str(where / "photos"), *more]
        assert vitlora(["fit", *words, "--output", str(tmp_path / f"{name}2")]) == 0
        assert srgb(tmp_path / f"{name}2") is (name == "on")
    words = ["fit", "--from", str(tmp_path / "off"), "--data", str(where / "photos")]
    capsys.readouterr()
    assert vitlora([*words, "--data.srgb", "true"]) == 2
    assert "--data.srgb cannot be combined with --from" in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text("data: {srgb: true}\n")
    assert vitlora([*words, "--config", str(tmp_path / "run.yaml")]) == 2
    assert "the config sets data.srgb to true, but" in capsys.readouterr().err
