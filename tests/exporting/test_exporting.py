"""Exported files against the trained network, its own softmax and timm's pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporting.kinds import CLASSES, installed
from PIL import Image
from runs import train
from timm.data.transforms_factory import create_transform

from vitlora.adapters import FullFineTuning, Lora
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.export import Export, export
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.targets import TARGETS
from vitlora.training.classifier import Classifier

if ".onnx" not in installed():
    pytest.skip("needs vitlora[export]", allow_module_level=True)

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
    if suffix not in installed():
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
