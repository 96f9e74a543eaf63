"""A bundle that sees whole pictures between borders gives one answer everywhere."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import train
from timm import create_model
from timm.data.transforms_factory import create_transform

from vitlora import merge
from vitlora.adapters import Lora
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.evaluation.answers import answer
from vitlora.evaluation.figures import looked_at
from vitlora.evaluation.training_folder import folder_of
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor
from vitlora.training.classifier import Classifier

SHAPES = [
    (90, 30),
    (40, 100),
    (64, 64),
    (2800, 1300),
]  # the last is decoded at a quarter of its size


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> tuple[Classifier, Bundle]:
    """Returns the trained network and its bundle; of pictures whose ends tell the class."""
    where = tmp_path_factory.mktemp("border")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate("ab"):
            (where / "data" / split / name).mkdir(parents=True)
            for index, (width, height) in enumerate(SHAPES):
                pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
                pixels[: height // 8, : width // 8] += np.uint8(190 * label)
                picture = Image.fromarray(pixels)
                picture.save(where / "data" / split / name / f"{index}.jpg", quality=95)
    module = train(
        where / "data", where / "bundle", adapter=Lora(rank=2), lr=0.01, crop_mode="border"
    )
    return module, load_bundle(where / "bundle")


@pytest.fixture(scope="module")
def theirs(trained: tuple[Classifier, Bundle]) -> torch.Tensor:
    """Returns the trained network's logits of what timm's own transform makes of the pictures."""
    module, bundle = trained
    transform: Any = create_transform(
        (3, 32, 32), crop_mode="border", crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3,
        interpolation="bicubic",
    )  # fmt: skip
    pictures = [_opened(path) for path in _files(bundle)]
    with torch.inference_mode():
        return module(torch.stack([transform(picture) for picture in pictures]))


def _files(bundle: Bundle) -> list[Path]:
    return [sample.path for sample in folder_of(bundle).folder.splits["val"]]


def _opened(path: Path) -> Image.Image:
    picture = Image.open(path)
    if picture.width > 2000:
        picture.draft("RGB", (700, 325))
        picture.load()
        assert picture.size == (700, 325)
    return picture


def test_report_shows_the_borders_and_lays_its_map_on_the_picture_between_them(
    trained: tuple[Classifier, Bundle],
) -> None:
    _, bundle = trained
    predictor = Predictor(bundle, device="cpu")
    wide = [_files(bundle)[0]]
    drawn = looked_at(predictor.network, wide, [1], predictor.preprocessing, torch.device("cpu"))
    shown, heat = (Image.open(io.BytesIO(base64.b64decode(u.split(",")[1]))) for u in drawn[0])
    assert shown.size == (32, 32)
    pixels = np.asarray(shown).astype(int)
    assert np.abs(pixels[:9] - 128).max() < 12  # JPEG
    assert np.abs(pixels[23:] - 128).max() < 12
    assert pixels[12:20].max() < 110
    assert heat.size == (4, 4)  # a value for each patch of 8 pixels, stretched over the same square


def alike(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares logits; the merged network adds in another order."""
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_bundle_remembers_border(trained: tuple[Classifier, Bundle]) -> None:
    seen = trained[1].record.preprocessing
    assert (seen.crop_mode, seen.crop_pct) == ("border", 1.0)


def test_training_validates_predictor_pool_and_scoring_see_what_timm_sees(
    trained: tuple[Classifier, Bundle], theirs: torch.Tensor
) -> None:
    module, bundle = trained
    data = folder_of(bundle)
    data.preprocessing = module.backbone.preprocessing
    data.setup("validate")
    with torch.inference_mode():
        alike(torch.cat([module(images) for images, _ in data.val_dataloader()]), theirs)

    predictor = Predictor(bundle, device="cpu")
    files = _files(bundle)
    pictures = [predictor.preprocessing.open(file).image for file in files]
    alike(predictor.logits(pictures), theirs)
    pool = AdapterPool({"one": bundle}, device="cpu")
    alike(torch.stack(pool.logits(pictures, ["one"] * len(files))), theirs)
    samples = folder_of(bundle).folder.splits["val"]
    alike(answer(predictor.network, samples, bundle.record.preprocessing).logits, theirs)


def test_merged_file_with_the_preprocessing_that_it_names_gives_the_same_logits(
    trained: tuple[Classifier, Bundle], theirs: torch.Tensor, tmp_path: Path
) -> None:
    _, bundle = trained
    merged = merge(bundle.folder, tmp_path / "m.safetensors")
    assert 'crop_mode="border"' in merged.to_text()
    said = json.loads((tmp_path / "m.json").read_text())
    assert said["proof"]["trained"]["relative_gap"] < 1e-4
    view = said["preprocessing"]
    view.pop("value_range"), view.pop("srgb")
    transform: Any = create_transform(input_size=view.pop("image_size"), **view)
    name = said["timm"].pop("name")
    network = create_model(name, **said["timm"], checkpoint_path=tmp_path / "m.safetensors").eval()
    with torch.inference_mode():
        alike(network(torch.stack([transform(_opened(f)) for f in _files(bundle)])), theirs)
