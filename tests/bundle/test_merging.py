"""Tests that a large 4-bit base answers the same packed as merged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from runs import BACKBONE, train
from safetensors.torch import load_file, save_file
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones.backbone import find_source
from vitlora.bundle import merging
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.merging import merged_network
from vitlora.errors import BundleError, UsageError
from vitlora.prediction.predictor import Predictor
from vitlora.quantization import frozen_bytes, is_quantized

METHODS = {
    "lora": {},
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "parts": {"targets": ["attention.q", "attention.v"]},
    "norms": {"norms": True},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any, make_folder: Any) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos"), count=2)


def bundle_of(photos: Path, folder: Path, head: str = "full", block: int = 32, **lora: Any):
    train(
        photos,
        folder,
        precision="bf16-mixed",
        adapter=Lora(rank=2, **lora),
        head=head,
        quantization="nf4",
        block_size=block,
    )
    return load_bundle(folder)


def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def both(bundle: Bundle, monkeypatch: Any) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Returns the packed network, its logits and the merged one's."""
    merged = merged_network(bundle)
    assert not any(is_quantized(layer) for layer in merged.modules())
    monkeypatch.setattr(merging, "_MOST_MERGED", 0)
    packed = merged_network(bundle)
    with torch.inference_mode():
        return packed, packed(images()), merged(images())


@pytest.mark.parametrize(("method", "head"), [*((m, "full") for m in METHODS), ("lora", "lora")])
def test_packed_logits_are_the_merged_ones(
    photos: Path, tmp_path: Path, monkeypatch: Any, method: str, head: str
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle", head, **METHODS[method])
    packed, got, expected = both(bundle, monkeypatch)
    assert expected.std() > 0.1
    assert (got - expected).norm() <= 1e-5 * expected.norm()
    layers = [layer for layer in packed.modules() if is_quantized(layer)]
    assert len(layers) == 4 * 6
    assert all(layer.compute_dtype == torch.float32 for layer in layers)


def test_packed_layers_keep_four_bits_a_weight(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle")
    packed = both(bundle, monkeypatch)[0].requires_grad_(False)
    merged = merged_plain(bundle)
    linear = sum(
        layer.weight.numel()
        for name, layer in merged.named_modules()
        if isinstance(layer, nn.Linear) and name != "head"
    )
    saved = sum(4 * p.numel() for p in merged.parameters()) - frozen_bytes(packed)
    # fp32 takes 4 bytes; 4 bits, a byte a block of 32 and LoRA's rows take far less than one
    assert 3.2 * linear < saved < 3.5 * linear


def merged_plain(bundle: Bundle) -> nn.Module:
    return merging.merge_into(merging.bundle_backbone(bundle), bundle)


def test_gradients_reach_the_pictures_through_packed_layers(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle", variant="dora")
    packed = both(bundle, monkeypatch)[0]
    got = images().requires_grad_()
    expected = images().requires_grad_()
    packed(got).square().sum().backward()
    merged_plain(bundle).eval()(expected).square().sum().backward()
    assert got.grad is not None and expected.grad is not None
    assert (got.grad - expected.grad).norm() <= 1e-4 * expected.grad.norm()


def test_a_packed_base_of_other_weights_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle")
    state = load_file(find_source(BACKBONE).fetch())
    save_file(state, tmp_path / "other.safetensors")
    monkeypatch.setattr(merging, "_MOST_MERGED", 0)
    with pytest.raises(BundleError, match="was trained on other weights"):
        merged_network(bundle, tmp_path / "other.safetensors")


def test_a_packed_base_answers_in_fp32(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle")
    picture = Image.effect_noise((40, 40), 80).convert("RGB")
    expected = Predictor(bundle, device="cpu").logits([picture])
    monkeypatch.setattr(merging, "_MOST_MERGED", 0)
    with pytest.raises(UsageError, match="precision is bf16, but this base stays in 4 bits"):
        Predictor(bundle, device="cpu", precision="bf16")
    got = Predictor(bundle, device="cpu", precision="auto").logits([picture])
    assert float((got - expected).norm()) <= 1e-5 * float(expected.norm())


def test_a_tensor_that_does_not_fit_a_packed_base_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle")
    name = next(name for name in bundle.tensors if name.endswith("fc1.lora_B.weight"))
    tensors = {**bundle.tensors, name: bundle.tensors[name][:-1]}
    save_bundle(tmp_path / "bad", bundle.record, tensors, bundle.peft, "")
    monkeypatch.setattr(merging, "_MOST_MERGED", 0)
    with pytest.raises(BundleError, match=r"lora_B @ lora_A makes \(639, 160\), the backbone has"):
        merged_network(load_bundle(tmp_path / "bad"))


def test_the_bound_is_a_gibibyte_of_fp32() -> None:
    assert 4 * merging._MOST_MERGED == 2**30


_PREDICT = """
import sys
from vitlora.bundle import merging
from vitlora.commands.predict import predict
merging._MOST_MERGED = 0
for answer in predict(sys.argv[1], checkpoint=sys.argv[2], device="cpu"):
    print(answer.to_text())
assert not {"peft", "lightning"} & set(sys.modules)
"""


def test_predicting_from_a_packed_base_imports_no_peft(photos: Path, tmp_path: Path) -> None:
    bundle_of(photos, tmp_path / "bundle")
    picture = next(photos.rglob("*.jpg"))
    words = [str(picture), str(tmp_path / "bundle")]
    root = str(Path(merging.__file__).parents[2])
    said = subprocess.run(
        [sys.executable, "-c", _PREDICT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "%" in said.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_packed_logits_on_cuda_are_the_merged_ones(
    photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundle = bundle_of(photos, tmp_path / "bundle")
    packed, _, expected = both(bundle, monkeypatch)
    with torch.inference_mode():
        got = packed.cuda()(images().cuda()).cpu()
    assert (got - expected).norm() <= 1e-4 * expected.norm()
