"""Every kind of file and precision; what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backbones.families import FAMILIES, small
from exporting.kinds import CLASSES, installed
from runs import train

from vitlora.adapters import Lora
from vitlora.backbones import answer_from_class_token, micro, outline
from vitlora.backbones.attention import LeanAttention
from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.export import export
from vitlora.errors import UsageError, VitloraError
from vitlora.exporting import eight_bits, program
from vitlora.exporting.exported import Exported
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.network import AnsweringNetwork
from vitlora.exporting.proof import ExportProof
from vitlora.exporting.targets import TARGETS
from vitlora.exporting.targets.onnx_file import onnx_bytes
from vitlora.metrics.judge import Judge

if ".onnx" not in installed():
    pytest.skip("needs vitlora[export]", allow_module_level=True)
import onnx

SHARED = Path(__file__).parents[2] / ".." / "shared"
# a family for each kind of attention, position, pooling or feed-forward layer
KINDS = ("augreg", "dinov2-registers", "dinov3", "eva02-split", "beit", "siglip", "rope-mixed")
KINDS += ("sapiens2",)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: Any, make_folder: Any) -> Iterator[Path]:
    """A calibrated bundle of LoRA, on two of the micro-ViT's six blocks: time grows with them."""
    where, whole = tmp_path_factory.mktemp("plain"), micro.build

    def short(num_classes: int) -> Any:
        module: Any = whole(num_classes)
        module.blocks = module.blocks[:2]
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro, "build", short)
        train(make_folder(where / "data", CLASSES, count=8), where / "bundle", adapter=Lora(rank=4))
        assert vitlora(["calibrate", str(where / "bundle"), "--device", "cpu"]) == 0
        yield where / "bundle"


@pytest.fixture
def converted_once(monkeypatch: Any) -> None:
    """Converts a program to ONNX once, for the two kinds of files that are made of it."""
    made: dict[int, tuple[Any, bytes]] = {}

    def once(program: Any, exported: Exported) -> bytes:
        if id(program) not in made:
            made[id(program)] = program, onnx_bytes(program, exported)
        return made[id(program)][1]

    for target in ("onnx_file", "openvino_file"):
        monkeypatch.setattr(f"vitlora.exporting.targets.{target}.onnx_bytes", once)


@pytest.mark.parametrize("gap", [0.02, float("nan")])
def test_answers_that_depend_on_the_batch_are_refused(gap: float) -> None:
    good = ExportProof(100, 1e-6, 0, 0, 0, {"1": 0.0, "2": 0.0, "7": 0.0}, 1, 1.0)
    good.check("32")
    with pytest.raises(VitloraError, match="depend on the number of pictures in a batch"):
        replace(good, batches={"1": 0.0, "2": gap, "7": 0.0}).check("32")


def test_a_program_needs_torch_alone(plain: Path, tmp_path: Path) -> None:
    export(plain, tmp_path / "x.pt2")
    code = (
        "import sys; sys.modules |= dict.fromkeys(('timm', 'vitlora', 'torchvision', 'onnx'))\n"
        "import json, torch\n"
        "metadata = {'vitlora': ''}\n"
        "network = torch.export.load(sys.argv[1], extra_files=metadata).module()\n"
        "said = network(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))\n"
        "print(json.loads(metadata['vitlora'])['classes'], *said)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "x.pt2")]
    done = subprocess.run(words, capture_output=True, text=True)
    names = "probabilities features distances"
    assert done.stdout == f"{[*CLASSES]} {names}\n", done.stderr


@torch.no_grad()
@pytest.mark.usefixtures("converted_once")
@pytest.mark.parametrize("family", KINDS)
def test_families_answer_the_same(family: str, tmp_path: Path) -> None:
    name, arguments = next((name, more) for kind, name, more in FAMILIES if kind == family)
    backbone = small(name, arguments, 3)
    torch.nn.init.normal_(backbone.module.head.weight)  # pyright: ignore
    answer_from_class_token(backbone.module)
    view = backbone.preprocessing
    lean = any(isinstance(layer, LeanAttention) for layer in backbone.module.modules())
    assert lean == (family in ("augreg", "dinov2-registers"))
    network = AnsweringNetwork(backbone.module, view, Judge(CLASSES, None, None))
    exported = Exported(backbone.id, "", "32", CLASSES, view, True, None)
    made = program.program_of(network, view.image_size)
    for suffix in installed():
        TARGETS[suffix].write(made, exported, tmp_path / f"x{suffix}")
        predictor = ExportedPredictor(tmp_path / f"x{suffix}", ours=True)
        for count in (1, 2, 7):
            squares = torch.randint(0, 256, (count, view.image_size, view.image_size, 3)).byte()
            expected = network(squares)
            said = predictor.run(squares.numpy())
            np.testing.assert_allclose(said["probabilities"], expected["probabilities"], atol=2e-5)
            features = expected["features"].numpy()
            assert np.abs(said["features"] - features).max() < 1e-4 * features.std()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_lower_precision_stands_beside_fp32(
    suffix: str, precision: Any, plain: Path, tmp_path: Path
) -> None:
    if suffix not in installed():
        pytest.skip("needs vitlora[openvino]")
    result = export(plain, tmp_path / f"x{suffix}", precision=precision)
    proofs = result.to_json()["proof"]
    assert isinstance(proofs, dict) and list(proofs) == ["32", precision]
    assert proofs[precision]["bytes"] < 0.7 * proofs["32"]["bytes"]
    assert 0 < proofs[precision]["largest_gap"] < 0.1
    assert f"\n{precision:<9}" in result.to_text()
    assert ExportedPredictor(tmp_path / f"x{suffix}").exported.precision == precision


def test_8_bits_round_each_weight_by_half_a_step(plain: Path) -> None:
    bundle = load_bundle(plain)
    vit = program.merged_vit(bundle, TARGETS[".onnx"])
    data = onnx_bytes(program.exported_program(vit, bundle), program.described(bundle, "32"))
    before, after = (
        onnx.load_from_string(x) for x in (data, eight_bits.with_weights_in_8_bits(data))
    )
    whole, parts = (
        {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        for model in (before, after)
    )
    unpacked = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    assert len(unpacked) == 4 * len(vit.blocks)  # pyright: ignore
    for node in unpacked:
        packed, scale = (parts[name] for name in node.input)
        weight = whole[node.output[0]]
        assert packed.dtype == np.int8 and node.output[0] not in parts
        assert len(scale) == weight.shape[1]  # (inputs, outputs)
        assert (np.abs(packed * scale - weight) <= 0.501 * scale).all()
        assert np.abs(packed).max(0).min() == 127


def test_a_precision_that_changes_classes_is_refused(
    plain: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    right = eight_bits._packed
    monkeypatch.setattr(eight_bits, "_packed", lambda weight, axis: right(-weight, axis))
    with pytest.raises(VitloraError, match=r"precision int8 .* of 24, expected at most 0.*--prec"):
        export(plain, tmp_path / "x.onnx", precision="int8")
    assert not list(tmp_path.iterdir())


def test_a_wrong_export_convicts_itself(plain: Path, tmp_path: Path, monkeypatch: Any) -> None:
    right = AnsweringNetwork.__init__

    def wrong(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        self.colour_mean += 0.1

    monkeypatch.setattr(AnsweringNetwork, "__init__", wrong)
    with pytest.raises(VitloraError, match=r"answers differently.*nothing was written"):
        export(plain, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_giant_is_refused_with_its_size(monkeypatch: Any) -> None:
    giant = outline("timm/vit_7b_patch16_dinov3.lvd1689m", 5)
    for suffix in (".onnx", ".xml"):
        message = rf"would take 26\.9 GB in a \{suffix} file, which holds 2 GB"
        with pytest.raises(UsageError, match=message):
            program.check_size(giant, TARGETS[suffix])
    memory: Any = SimpleNamespace(available=64e9)
    monkeypatch.setattr(program.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UsageError, match=r"26\.9 GB .* 80\.6 GB of memory, but 64\.0 GB are free"):
        program.check_size(giant, TARGETS[".pt2"])
    memory.available = 128e9
    program.check_size(giant, TARGETS[".pt2"])


@pytest.mark.shared
@pytest.mark.slow
def test_a_real_vit_answers_the_same_on_photos(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    photos = SHARED / "data" / "bloodcells"
    weights = SHARED / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    if not weights.is_file():
        pytest.skip("needs the photos and weights beside the project")
    train(
        photos, tmp_path / "bundle", adapter=Lora(rank=4, last_blocks=1), lr=1e-3, image_size=None,
        seed=1, backbone="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights=str(weights),
    )  # fmt: skip
    words = ["calibrate", str(tmp_path / "bundle"), "--coverage", "0.8", "--device", "cpu"]
    assert vitlora(words) == 0
    target = TARGETS[".onnx"]
    write = target.write

    def written(made: Any, exported: Exported, file: Path) -> None:
        write(made, exported, file)
        if exported.precision == "32":  # a draft, with which int8 is compared
            shutil.copy(file, tmp_path / "y.onnx")

    monkeypatch.setattr(target, "write", written)
    proofs = export(tmp_path / "bundle", tmp_path / "x.onnx", precision="int8").proofs  # pyright: ignore
    assert proofs["32"].pictures == 52 and proofs["32"].largest_gap < 1e-4
    assert proofs["32"].changed_unfamiliar == 0
    assert proofs["int8"].bytes < proofs["32"].bytes / 3
    assert 0 < proofs["int8"].largest_gap < 0.1
    test = [str(path) for path in sorted((photos / "test").rglob("*.jpg"))[::7]]
    said = []
    for checkpoint in ("bundle", "y.onnx"):
        capsys.readouterr()
        assert (
            vitlora(["predict", *test, "--json", "--checkpoint", str(tmp_path / checkpoint)]) == 0
        )
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for ours, theirs in zip(*said, strict=True):
        for name in ("path", "class", "unsure", "unfamiliar", "outside"):
            assert ours[name] == theirs[name]
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-4)
