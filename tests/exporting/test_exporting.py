"""Exported files against the trained network, its own softmax and timm's pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backbones.families import FAMILIES, small
from PIL import Image
from runs import train
from timm.data.transforms_factory import create_transform

from vitlora.adapters import FullFineTuning, Lora
from vitlora.backbones import answer_from_class_token, outline
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.export import Export, export
from vitlora.errors import UsageError, VitloraError
from vitlora.metrics.judge import Judge
from vitlora.training.classifier import Classifier

onnx = pytest.importorskip("onnx", reason="needs vitlora[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs vitlora[export]")
pytest.importorskip("onnxscript", reason="needs vitlora[export]")

from vitlora.exporting import eight_bits, program  # noqa: E402
from vitlora.exporting.exported import Exported  # noqa: E402
from vitlora.exporting.exported_predictor import ExportedPredictor  # noqa: E402
from vitlora.exporting.network import AnsweringNetwork  # noqa: E402
from vitlora.exporting.targets import TARGETS  # noqa: E402
from vitlora.exporting.targets.onnx_file import onnx_bytes  # noqa: E402

SHARED = Path(__file__).parents[2] / ".." / "shared"
CLASSES = ("a", "b", "c")
# a family for each kind of attention, position, pooling or feed-forward layer
KINDS = (
    "augreg",
    "dinov2-registers",
    "dinov3",
    "eva02-split",
    "beit",
    "siglip",
    "rope-mixed",
    "sapiens2",
)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"adapter": Lora(rank=4, alpha=6), "crop_mode": "center"},
    "qlora": {"adapter": Lora(rank=4), "quantization": "nf4", "crop_mode": "border"},
    "full": {"adapter": FullFineTuning(), "crop_mode": "squash"},
}


@pytest.fixture(scope="module", params=METHODS)
def made(request: Any, tmp_path_factory: Any, make_folder: Any) -> tuple[Classifier, Bundle, Path]:
    """The trained network, its calibrated bundle, and the exported file."""
    where = tmp_path_factory.mktemp(request.param)
    root = make_folder(where / "data", CLASSES, count=8)
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):  # of many shapes
        picture = Image.open(path).convert("RGB")
        picture.resize((40 + 7 * (number % 5), 36 + 5 * (number % 3))).save(path, quality=95)
    module = train(root, where / "bundle", **METHODS[request.param])
    assert vitlora(["calibrate", str(where / "bundle"), "--coverage", "0.5"]) == 0
    (where / "out").mkdir()
    export(where / "bundle", where / "out" / "x.onnx")
    return module, load_bundle(where / "bundle"), where / "out" / "x.onnx"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: Any, make_folder: Any) -> Path:
    """A calibrated bundle of LoRA."""
    where = tmp_path_factory.mktemp("plain")
    train(make_folder(where / "data", CLASSES, count=8), where / "bundle", adapter=Lora(rank=4))
    assert vitlora(["calibrate", str(where / "bundle"), "--device", "cpu"]) == 0
    return where / "bundle"


def suffixes() -> list[str]:
    """Returns the kinds of files whose packages are installed."""
    return [name for name, one in TARGETS.items() if all(map(find_spec, one.writes_with))]


def pictures(bundle: Bundle) -> list[Path]:
    return sorted((Path(bundle.record.split["root"]) / "val").rglob("*.jpg"))


def timms(bundle: Bundle) -> Callable[[Path], torch.Tensor]:
    """Returns timm's own transform of a file."""
    view = bundle.record.preprocessing
    transform: Any = create_transform(
        (3, view.image_size, view.image_size), crop_mode=view.crop_mode, crop_pct=view.crop_pct,
        mean=view.mean, std=view.std, interpolation=view.interpolation,
    )  # fmt: skip
    return lambda path: transform(Image.open(path).convert("RGB"))


@torch.no_grad()
def test_probabilities_are_those_of_the_trained_network_in_batches_of_any_size(
    made: tuple[Classifier, Bundle, Path],
) -> None:
    module, bundle, file = made
    paths, known = pictures(bundle), bundle.record.confidence
    assert known is not None and known.temperature != 1
    logits = module(torch.stack([timms(bundle)(path) for path in paths]))
    expected = (logits / known.temperature).softmax(1).numpy()
    assert np.ptp(expected, axis=0).min() > 0.01
    predictor = ExportedPredictor(file)
    for count in (1, 2, 7, 24):
        squares = np.stack([predictor.square(path)[0] for path in paths[:count]])
        said = predictor.run(squares)
        np.testing.assert_allclose(said["probabilities"], expected[:count], atol=2e-5)
        assert said["distances"].shape == (count,) and said["features"].shape[0] == count


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".xml", ".pt2"])
def test_other_kinds_of_files_answer_the_same(
    suffix: str, made: tuple[Classifier, Bundle, Path], tmp_path: Path
) -> None:
    if suffix not in suffixes():
        pytest.skip("needs vitlora[openvino]")
    _, bundle, file = made
    result = export(bundle.folder, tmp_path / f"x{suffix}")
    assert isinstance(result, Export)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {f"x{ending}" for ending in (suffix, *TARGETS[suffix].beside, ".json")}
    proof = result.proofs["32"]
    assert proof.changed_classes == 0 and proof.largest_gap < 1e-5
    assert proof.bytes == sum(path.stat().st_size for path in tmp_path.glob("x.[bxp]*"))
    one, other = ExportedPredictor(file), ExportedPredictor(result.output, ours=True)
    assert one.exported == other.exported
    squares = np.stack([one.square(path)[0] for path in pictures(bundle)])
    for count in (1, 2, 7, 24):
        said, theirs = one.run(squares[:count]), other.run(squares[:count])
        assert list(said) == list(theirs) == ["probabilities", "features", "distances"]
        for name, values in said.items():
            np.testing.assert_allclose(values, theirs[name], rtol=1e-3, atol=2e-5)


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


def test_predict_says_the_same_and_sets_the_same_marks(
    made: tuple[Classifier, Bundle, Path], tmp_path: Path, capsys: Any
) -> None:
    _, bundle, file = made
    odd = tmp_path / "odd.png"
    Image.effect_noise((80, 33), 90).save(odd)
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(b"\xff\xd8torn")
    # of training, whose confidences no threshold was set at
    paths = [str(path).replace("/val/", "/train/") for path in pictures(bundle)]
    words = [*paths, str(odd), str(torn), "--top-k", "2", "--json"]
    said = []
    for checkpoint in (bundle.folder, file):
        assert vitlora(["predict", *words, "--checkpoint", str(checkpoint)]) == 1
        said.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert len(said[0]) == len(said[1]) == 25
    for ours, theirs in zip(*said, strict=True):
        for name in ("path", "class", "unsure", "unfamiliar", "outside"):
            assert ours[name] == theirs[name]
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=2e-5)
    assert {one["unsure"] for one in said[0]} == {True, False}
    assert said[0][-1]["unfamiliar"]


def test_the_file_stands_alone_with_its_proof(made: tuple[Classifier, Bundle, Path]) -> None:
    _, bundle, file = made
    assert {path.name for path in file.parent.iterdir()} == {"x.onnx", "x.json"}
    proof = json.loads(file.with_suffix(".json").read_text())["proof"]["32"]
    assert proof["pictures"] == len(pictures(bundle)) == 24
    assert proof["changed_classes"] == 0 and 0 <= proof["largest_gap"] < 1e-4
    assert proof["batches"].keys() == {"1", "2", "7"} and proof["bytes"] == file.stat().st_size
    exported = ExportedPredictor(file).exported
    assert exported.confidence == bundle.record.confidence
    assert exported.preprocessing == bundle.record.preprocessing
    assert exported.classes == CLASSES and exported.bundle_digest == bundle.digest


def test_predict_imports_no_torch(made: tuple[Classifier, Bundle, Path]) -> None:
    _, bundle, file = made
    code = (
        "import sys\n"
        "from vitlora.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "print(status, [m for m in ('torch', 'timm', 'torchvision', 'onnx') if m in sys.modules])"
    )
    words = ["predict", str(pictures(bundle)[0]), "--checkpoint", str(file)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_the_script_for_devices_says_what_predict_says(
    made: tuple[Classifier, Bundle, Path], tmp_path: Path, capsys: Any
) -> None:
    _, bundle, file = made
    capsys.readouterr()
    assert vitlora(["export", "--example"]) == 0
    script = tmp_path / "device.py"
    script.write_text(capsys.readouterr().out)
    assert "import torch" not in script.read_text() and "import vitlora" not in script.read_text()
    paths = [str(path) for path in pictures(bundle)]
    words = [sys.executable, str(script), str(file), *paths]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert vitlora(["predict", *paths, "--checkpoint", str(file), "--top-k", "1"]) == 0
    marks = str.maketrans("", "", "[],")
    told = [" ".join(line.translate(marks).split()) for line in capsys.readouterr().out.split("\n")]
    assert [" ".join(line.split()) for line in said.split("\n")] == told


def test_a_bundle_that_is_not_calibrated_has_no_marks(
    tmp_path: Path, make_folder: Any, capsys: Any
) -> None:
    root = make_folder(tmp_path / "data", CLASSES)
    train(root, tmp_path / "bundle", adapter=Lora(rank=2))
    assert vitlora(["export", str(tmp_path / "bundle"), str(tmp_path / "x.onnx")]) == 0
    assert "is not calibrated, so the file has no marks" in capsys.readouterr().err
    assert vitlora(["predict", str(root / "val"), "--checkpoint", str(tmp_path / "x.onnx")]) == 0
    said = capsys.readouterr()
    assert "[" not in said.out and "x.onnx is not calibrated" in said.err


@torch.no_grad()
@pytest.mark.parametrize("family", KINDS)
def test_families_answer_the_same(family: str, tmp_path: Path) -> None:
    name, arguments = next((name, more) for kind, name, more in FAMILIES if kind == family)
    backbone = small(name, arguments, 3)
    torch.nn.init.normal_(backbone.module.head.weight)  # pyright: ignore
    answer_from_class_token(backbone.module)
    view = backbone.preprocessing
    network = AnsweringNetwork(backbone.module, view, Judge(CLASSES, None, None))
    exported = Exported(backbone.id, "", "32", CLASSES, view, True, None)
    made = program.program_of(network, view.image_size)
    for suffix in suffixes():
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
    if suffix not in suffixes():
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
    with pytest.raises(VitloraError, match=r"precision int8 .* of 24, expected 0 at most.*--prec"):
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
def test_a_real_vit_answers_the_same_on_photos(tmp_path: Path, capsys: Any) -> None:
    photos = SHARED / "data" / "bloodcells"
    weights = SHARED / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    if not weights.is_file():
        pytest.skip("needs the photos and weights beside the project")
    train(
        photos, tmp_path / "bundle", adapter=Lora(rank=4, last_blocks=1), lr=1e-3, image_size=None,
        backbone="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights=str(weights),
    )  # fmt: skip
    words = ["calibrate", str(tmp_path / "bundle"), "--coverage", "0.8", "--device", "cpu"]
    assert vitlora(words) == 0
    proofs = export(tmp_path / "bundle", tmp_path / "x.onnx", precision="int8").proofs  # pyright: ignore
    assert proofs["32"].pictures == 52 and proofs["32"].largest_gap < 1e-4
    assert proofs["32"].changed_unfamiliar == 0
    assert proofs["int8"].bytes < proofs["32"].bytes / 3
    assert 0 < proofs["int8"].largest_gap < 0.1
    test = [str(path) for path in sorted((photos / "test").rglob("*.jpg"))[::7]]
    export(tmp_path / "bundle", tmp_path / "y.onnx")
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
