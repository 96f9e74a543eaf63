"""Tests of how the classifier gets its base and lets go of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import Strategy
from runs import BACKBONE, train
from torch.utils.data import DataLoader, TensorDataset

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.errors import BackboneError, UsageError
from vitlora.quantization import plain_weight
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any, make_folder: Any) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos"), count=2)


def test_a_model_takes_no_memory_before_training_begins() -> None:
    classifier = Classifier(2, BACKBONE)
    assert all(p.is_meta for p in classifier.backbone.module.parameters())
    assert classifier.backbone.digest == ""


def test_weights_that_do_not_fit_are_refused_before_training_begins(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match="cannot be read as weights"):
        Classifier(2, BACKBONE, weights=str(tmp_path / "a.safetensors"))


def test_training_loads_what_loading_in_full_does(photos: Path, tmp_path: Path) -> None:
    classifier = train(photos, tmp_path / "bundle", weights=None, image_size=None)
    plain = load_backbone(BACKBONE, 2)
    assert classifier.backbone.digest == plain.digest
    own = dict(classifier.backbone.module.named_modules())
    for name in plain.layers("mlp.fc2"):
        layer: Any = own[name]
        expected: Any = plain.module.get_submodule(name)
        assert torch.equal(layer.base_layer.weight, expected.weight)
        assert torch.equal(layer.base_layer.bias, expected.bias)


@pytest.mark.parametrize("variant", ["lora", "loftq"])
def test_a_gpus_run_builds_the_same_network(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: Any
) -> None:
    """Lightning makes a GPU the default device while it builds; so does meta, without a GPU."""
    options: dict[str, Any] = {"adapter": Lora(rank=2, variant=variant), "lr": 1e-12}
    options |= {"weights": None, "image_size": None}
    options |= {"quantization": "nf4"} if variant == "loftq" else {}
    expected = train(photos, tmp_path / "here", **options).network

    @contextmanager
    def elsewhere(self: Strategy, empty_init: bool | None = None) -> Iterator[None]:
        with torch.device("meta"):
            yield

    monkeypatch.setattr(Strategy, "tensor_init_context", elsewhere)
    got = train(photos, tmp_path / "there", **options).network
    assert expected is not None and got is not None
    theirs = dict(expected.named_parameters())
    for name, parameter in got.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


def test_loftq_still_sees_the_weights_before_rounding(photos: Path, tmp_path: Path) -> None:
    adapter = Lora(rank=16, targets=["mlp.fc1"], variant="loftq")
    classifier = train(
        photos,
        tmp_path / "bundle",
        weights=None,
        image_size=None,
        adapter=adapter,
        quantization="nf4",
        lr=1e-12,
    )
    plain: Any = load_backbone(BACKBONE, 2).module
    for name, module in classifier.backbone.module.named_modules():
        layer: Any = module
        if hasattr(layer, "lora_A"):
            weight = plain.get_submodule(name).weight
            error = weight - plain_weight(layer.base_layer)
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            left = error - layer.scaling["default"] * b @ a
            values = torch.linalg.svdvals(error.double())
            # nothing of rank 16 leaves less
            assert left.norm().item() == pytest.approx(values[16:].norm().item(), rel=1e-3)


def test_a_released_network_is_freed(photos: Path, tmp_path: Path) -> None:
    classifier = train(photos, tmp_path / "bundle", quantization="nf4")
    network: Any = classifier.network
    kept: list[Any] = [weakref.ref(p) for p in network.parameters() if not p.requires_grad]
    kept += [weakref.ref(layer) for layer in network.modules()]
    del network
    classifier.release()
    assert not [ref for ref in kept if ref() is not None]


@pytest.mark.parametrize("variant", ["lora", "eva"])
def test_pictures_may_come_from_any_data_module(variant: Any, tmp_path: Path) -> None:
    pictures = TensorDataset(torch.randn(12, 3, 32, 32), torch.arange(12) % 2)
    data = LightningDataModule.from_datasets(pictures, pictures, batch_size=4)
    adapter = Lora(rank=2, variant=variant)
    classifier = Classifier(2, BACKBONE, weights="none", image_size=32, adapter=adapter)
    classifier.lr = 1e-12
    trainer = Trainer(max_epochs=1, enable_progress_bar=False, default_root_dir=tmp_path)
    trainer.fit(classifier, data)
    assert trainer.global_step == 3 and classifier.answers[0].shape == (12, 2)
    first = next(p for n, p in classifier.named_parameters() if "lora_A" in n)
    # EVA's rows are directions, at right angles
    assert torch.allclose(first @ first.T, torch.eye(2), atol=1e-3) == (variant == "eva")


def test_what_needs_the_pictures_says_so_without_a_data_module(tmp_path: Path) -> None:
    pictures = TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2)
    loaders = [DataLoader(pictures, batch_size=4)] * 2
    for options, message in (
        ({"adapter": Lora(rank=2)}, None),
        ({"adapter": Lora(rank=2, variant="eva")}, "starts from the training pictures"),
        ({"class_weights": True}, "model.class_weights counts the pictures of a FolderData"),
    ):
        classifier = Classifier(2, BACKBONE, weights="none", image_size=32, **options)
        trainer = Trainer(max_epochs=1, enable_progress_bar=False, default_root_dir=tmp_path)
        with pytest.raises(UsageError, match=message) if message else nullcontext():
            trainer.fit(classifier, *loaders)
