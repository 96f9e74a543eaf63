"""The merge command: timm's own loading of the file against PEFT's forward pass."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from peft import PeftModel
from PIL import Image
from runs import BACKBONE, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.backbones import Backbone, load_backbone
from vitlora.backbones.backbone import find_source
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.merged_file import timm_arguments
from vitlora.bundle.updates import Update
from vitlora.cli.main import main as vitlora
from vitlora.commands.merge import merge as command
from vitlora.errors import BackboneError, BundleError, DataError, UsageError, VitloraError
from vitlora.quantization import dequantize

CLASSES = ("a", "b", "c")
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": Lora(rank=4, alpha=6)},
    "bf16": {"adapter": Lora(rank=4), "precision": "bf16-mixed"},
    "qlora": {"adapter": Lora(rank=4), "quantization": "nf4"},
    "dora-norms": {"adapter": Lora(rank=4, variant="dora", norms=True)},
    "head-lora": {"adapter": Lora(rank=4, targets=["mlp.fc1"]), "head": "lora"},
    "biases": {"adapter": Lora(rank=2, variant="rslora", biases=True)},
    "nf4-probe": {"adapter": LinearProbe(), "quantization": "nf4"},
    "full": {"adapter": FullFineTuning()},
}


@pytest.fixture(scope="module", params=METHODS)
def trained(request: Any, tmp_path_factory: Any, make_folder: Any) -> tuple[str, Bundle]:
    where = tmp_path_factory.mktemp(request.param)
    root = make_folder(where / "data", CLASSES)
    train(root, where / "bundle", seed=4, **METHODS[request.param])
    return request.param, load_bundle(where / "bundle")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: Any, make_folder: Any) -> Bundle:
    where = tmp_path_factory.mktemp("lora")
    root = make_folder(where / "data", CLASSES)
    train(root, where / "bundle", adapter=Lora(rank=4), quantization="nf4")
    return load_bundle(where / "bundle")


def plain(bundle: Bundle, rounded: bool = True) -> nn.Module:
    """Returns the base with a random head, as plain PEFT wants it."""
    module = load_backbone(BACKBONE, 3, "none", 32).module
    nn.init.normal_(module.head.weight)  # pyright: ignore
    if rounded:
        dequantize(module, bundle.record.storage)
    return module


def unmerged(bundle: Bundle) -> nn.Module:
    """Returns the trained network without vitlora's arithmetic: by PEFT, or by names alone."""
    if bundle.peft is not None:
        return PeftModel.from_pretrained(plain(bundle), str(bundle.folder)).eval()
    module = plain(bundle)
    odd = module.load_state_dict(dict(bundle.tensors), strict=False)
    assert not odd.unexpected_keys
    return module.eval()


def opened(out: Path) -> nn.Module:
    """Returns what timm opens with the arguments the proof names."""
    arguments = json.loads(out.with_suffix(".json").read_text())["timm"]
    return timm.create_model(arguments.pop("name"), **arguments, checkpoint_path=out).eval()


def validation(bundle: Bundle) -> tuple[torch.Tensor, torch.Tensor]:
    root, transform = Path(bundle.record.split["root"]), bundle.record.preprocessing.transform()
    pairs = [
        (transform(Image.open(path)), label)
        for label, name in enumerate(CLASSES)
        for path in sorted((root / "val" / name).iterdir())
    ]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def merge(bundle: Bundle, out: Path, *more: str) -> dict[str, Any]:
    assert vitlora(["merge", str(bundle.folder), str(out), *more]) == 0
    return json.loads(out.with_suffix(".json").read_text())


@torch.no_grad()
def test_timm_opens_what_peft_says_and_the_proof_is_true(
    trained: tuple[str, Bundle], tmp_path: Path
) -> None:
    name, bundle = trained
    outs = {base: tmp_path / f"{base}.safetensors" for base in ("trained", "full")}
    proofs = {base: merge(bundle, out, "--base", base)["proof"] for base, out in outs.items()}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{base}.{end}" for base in outs for end in ("json", "safetensors")
    }
    images, labels = validation(bundle)
    expected = unmerged(bundle)(images)
    assert proofs["trained"] == proofs["full"]
    for base, out in outs.items():
        got, proof = opened(out)(images), proofs[base][base]
        gap = float((got - expected).abs().max())
        assert proof["largest_gap"] == pytest.approx(gap, rel=1e-3, abs=1e-4)
        assert proof["relative_gap"] == pytest.approx(gap / float(expected.std()), abs=1e-4)
        accuracies = [float((x.argmax(1) == labels).float().mean()) for x in (expected, got)]
        assert [proof["accuracy_before"], proof["accuracy_after"]] == pytest.approx(accuracies)
        if base == "trained":
            assert gap <= 1e-4 * float(expected.std())
    rounded = name in ("bf16", "qlora", "nf4-probe")
    assert (proofs["full"]["full"]["relative_gap"] > 1e-3) == rounded


@torch.no_grad()
def test_full_precision_base_is_not_rounded(lora: Bundle, tmp_path: Path) -> None:
    merge(lora, tmp_path / "x.safetensors", "--base", "full")
    network = PeftModel.from_pretrained(plain(lora, rounded=False), str(lora.folder)).eval()
    images, _ = validation(lora)
    assert torch.allclose(opened(tmp_path / "x.safetensors")(images), network(images), atol=1e-4)


def test_what_is_printed_opens_the_file(lora: Bundle, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "x.safetensors"
    merge(lora, out)
    printed = capsys.readouterr().out
    assert f"merged    {out}  ({out.stat().st_size:,} bytes), the base as the adapter" in printed
    lines = {
        line.split()[0]: line.partition(" ")[2].strip() for line in printed.splitlines() if line
    }
    network = eval(lines["network"], {"timm": timm})
    assert torch.equal(network.head.weight, load_file(out)["head.weight"])
    transform = eval(lines["pictures"], {"timm": timm})
    picture = Image.effect_noise((50, 70), 90).convert("RGB")
    assert torch.equal(transform(picture), lora.record.preprocessing.transform()(picture))
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["vitlora"] == "merged"
    assert metadata["base_digest"] == lora.record.base_digest
    assert json.loads(metadata["classes"]) == list(CLASSES)


def test_drawn_split_is_found_again(tmp_path: Path, make_folder: Any, capsys: Any) -> None:
    root = make_folder(tmp_path / "data", CLASSES, splits=(), count=10)
    train(root, tmp_path / "bundle", adapter=Lora(rank=2))
    bundle = load_bundle(tmp_path / "bundle")
    assert merge(bundle, tmp_path / "1.safetensors")["pictures"]["count"] == 6
    moved = shutil.copytree(root, tmp_path / "moved")
    assert "note" not in capsys.readouterr().err
    merge(bundle, tmp_path / "2.safetensors", "--data", str(moved))
    assert "note" not in capsys.readouterr().err
    next((root / "a").iterdir()).unlink()
    held = merge(bundle, tmp_path / "4.safetensors")["pictures"]["count"]
    assert held in (5, 6)  # those that were held out are known by their content
    assert "note: the folder has changed since training" in capsys.readouterr().err or held == 6
    save_bundle(bundle.folder, bundle.record, bundle.tensors, bundle.peft, "model: {}\n")
    with pytest.raises(BundleError, match=r"is not the one of training.*new pictures"):
        command(bundle.folder, tmp_path / "3.safetensors")
    shutil.rmtree(root)
    with pytest.raises(DataError, match=r"no longer at .*.*with --data"):
        command(bundle.folder, tmp_path / "3.safetensors")
    assert not list(tmp_path.glob("*3*"))


def test_other_pictures_are_taken_with_a_note(
    lora: Bundle, tmp_path: Path, make_folder: Any, capsys: Any
) -> None:
    other = make_folder(tmp_path / "other", CLASSES, splits=("val",), count=3)
    proof = merge(lora, tmp_path / "x.safetensors", "--data", str(other))
    assert proof["pictures"] == {"root": str(other), "count": 9}
    assert "note: these are not the validation pictures of training" in capsys.readouterr().err


def test_json_says_what_the_proof_says(lora: Bundle, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "x.safetensors"
    proof = merge(lora, out, "--json")
    said = capsys.readouterr()
    found = json.loads(said.out)  # nothing else is printed there
    assert (found.pop("command"), bool(found.pop("vitlora"))) == ("merge", True)
    assert found == proof and "comparing on the validation pictures" in said.err
    assert vitlora(["merge", str(lora.folder), "--output", str(tmp_path / "y.safetensors")]) == 0


def test_an_unreadable_picture_is_left_out_and_json_stays_json(
    lora: Bundle, tmp_path: Path, capsys: Any
) -> None:
    photos = shutil.copytree(lora.record.split["root"], tmp_path / "photos")
    next((photos / "val" / "a").iterdir()).write_bytes(b"torn")
    merge(lora, tmp_path / "x.safetensors", "--data", str(photos), "--json")
    said = capsys.readouterr()
    count = sum(len(list(folder.iterdir())) for folder in (photos / "val").iterdir()) - 1
    assert json.loads(said.out)["pictures"] == {"root": str(photos), "count": count}
    assert "skipping 1 unreadable val picture" in said.err


def test_a_file_never_stands_without_its_proof(
    lora: Bundle, tmp_path: Path, monkeypatch: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "x.json")

    monkeypatch.setattr("vitlora.commands.merge.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        command(lora.folder, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_merging_into_a_merged_file_is_refused(lora: Bundle, tmp_path: Path) -> None:
    merge(lora, tmp_path / "once.safetensors")
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    with pytest.raises(BundleError, match="'vitlora merge' wrote it, and an adapter is in it"):
        command(lora.folder, twice, weights=str(once))
    assert not list(tmp_path.glob("*twice*"))


@torch.no_grad()
def test_an_adapter_trained_on_a_merged_file_is_merged_into_it(
    tmp_path: Path, make_folder: Any
) -> None:
    root = make_folder(tmp_path / "data", CLASSES, size=100)
    options: dict[str, Any] = {"image_size": None, "adapter": Lora(rank=2)}
    train(root, tmp_path / "1", **options)
    first = tmp_path / "1.safetensors"
    merge(load_bundle(tmp_path / "1"), first)
    train(root, tmp_path / "2", **{**options, "weights": str(first)})
    bundle = load_bundle(tmp_path / "2")
    merge(bundle, tmp_path / "2.safetensors")
    network = PeftModel.from_pretrained(opened(first), str(bundle.folder)).eval()
    images, _ = validation(bundle)
    assert torch.allclose(opened(tmp_path / "2.safetensors")(images), network(images), atol=1e-4)


def _bad(bundle: Bundle, folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Writes a copy of a bundle with other tensors, its sums right."""
    state: dict[str, Any] = {**bundle.tensors, **tensors}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_bundle(folder, bundle.record, kept, bundle.peft, "")
    return folder


def test_bad_bundles_and_bases_write_nothing(lora: Bundle, tmp_path: Path) -> None:
    a = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
    state = load_backbone(BACKBONE, 3, "none").module.state_dict()
    state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"] + 0.01
    save_file(state, tmp_path / "other.safetensors")
    content = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(content[:-100])
    torn = shutil.copytree(lora.folder, tmp_path / "torn")
    (torn / "adapter_model.safetensors").write_bytes(b"\x80\x04pickle")
    good, infinite = lora.folder, torch.full((4, 160), torch.inf)
    (tmp_path / "out").mkdir()
    cases: list[tuple[Path, dict[str, str], type[VitloraError], str]] = [
        (good, {"weights": "other.safetensors"}, BundleError, "other weights"),
        (good, {"weights": "torn.safetensors"}, BackboneError, "cannot be read"),
        (good, {"weights": "no.safetensors"}, BackboneError, "no such file"),
        (torn, {}, BundleError, "truncated or changed"),
        (tmp_path / "none", {}, BundleError, "no such folder"),
        (_bad(lora, tmp_path / "1", **{a: None}), {}, BundleError, r"blocks\.0\.attn\.qkv"),
        (_bad(lora, tmp_path / "2", x=torch.ones(1)), {}, BundleError, "no place for: x"),
        (_bad(lora, tmp_path / "3", **{a: torch.ones(4, 7)}), {}, BundleError, "backbone has"),
        (_bad(lora, tmp_path / "4", **{a: infinite}), {}, BundleError, "not finite"),
        (good, {"data": "none"}, DataError, "--data '.*none': no such folder"),
    ]
    for folder, options, kind, message in cases:
        options = {key: str(tmp_path / name) for key, name in options.items()}
        with pytest.raises(kind, match=message) as caught:
            command(folder, tmp_path / "out" / "x.safetensors", **options)  # pyright: ignore
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "out").iterdir()), message


def test_output_is_never_overwritten(lora: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("mine")
    (tmp_path / "b.json").write_text("mine")
    cases = {
        "a.safetensors": "a.safetensors already exists",
        "b.safetensors": "b.json, where the proof goes, already exists",
        "c.pth": r"expected a name that ends in \.safetensors",
        "none/c.safetensors": "its folder does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(UsageError, match=message):
            command(lora.folder, tmp_path / name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.safetensors": "mine",
        "b.json": "mine",
    }


def test_a_wrong_merge_convicts_itself(lora: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    right = Update.merged
    monkeypatch.setattr(
        Update,
        "merged",
        lambda self, weight: right(replace(self, scaling=2 * self.scaling), weight),
    )
    with pytest.raises(VitloraError, match="the merged file is wrong"):
        command(lora.folder, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [224, 384])
def test_torchvision_weights_fit_the_timm_model_named(size: int) -> None:
    source = find_source("torchvision/vit_b_16")
    with torch.device("meta"):
        module = source.build(7)
        if size != 224:
            module.set_input_size(img_size=(size, size))  # pyright: ignore
        backbone = Backbone(source.id, module, source.preprocessing.at(size), "", None)
        name, arguments = timm_arguments(backbone, 7)
        made = timm.create_model(name, **arguments)
        theirs = torchvision.models.vit_b_16()
    assert name == "vit_base_patch16_224"
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (made, module)]
    assert shapes[0] == shapes[1]
    eps = [{m.eps for m in x.modules() if isinstance(m, nn.LayerNorm)} for x in (made, theirs)]
    assert eps[0] == eps[1]
