"""Files of strangers: nothing is used that was not checked, and each mistake is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import train

from vitlora.adapters import Lora
from vitlora.cli.main import main as vitlora
from vitlora.commands.export import export
from vitlora.commands.predict import predict
from vitlora.errors import BundleError, UsageError, VitloraError
from vitlora.exporting.exported import Exported
from vitlora.exporting.exported_predictor import ExportedPredictor

onnx = pytest.importorskip("onnx", reason="needs vitlora[export]")
pytest.importorskip("onnxruntime", reason="needs vitlora[export]")
pytest.importorskip("onnxscript", reason="needs vitlora[export]")


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any, make_folder: Any) -> Path:
    where = tmp_path_factory.mktemp("exported")
    train(make_folder(where / "data", count=8), where / "bundle", adapter=Lora(rank=2))
    assert vitlora(["calibrate", str(where / "bundle"), "--device", "cpu"]) == 0
    export(where / "bundle", where / "x.onnx")
    return where / "x.onnx"


@pytest.fixture
def photo(file: Path) -> Path:
    return file.parent / "data" / "val" / "a" / "0.jpg"


def said(file: Path) -> dict[str, Any]:
    (one,) = onnx.load(file).metadata_props
    return json.loads(one.value)


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "format": lambda x: x.update(format=2),
    "classes": lambda x: x.update(classes=["a", "a"]),
    "classes-one": lambda x: x.update(classes="ab"),
    "control": lambda x: x.update(classes=["a", "b\x1b[2J"]),
    "size": lambda x: x["preprocessing"].update(image_size=10**6),
    "share": lambda x: x["preprocessing"].update(crop_pct=1e-9),
    "std": lambda x: x["preprocessing"].update(std=[0, 1, 1]),
    "interpolation": lambda x: x["preprocessing"].update(interpolation="__class__"),
    "precision": lambda x: x.update(precision="4"),
    "validated": lambda x: x.update(validated=1),
    "backbone": lambda x: x.update(backbone=None),
    "threshold": lambda x: x["confidence"].update(unsure_below=float("nan")),
    "no-confidence": lambda x: x["confidence"].pop("images"),
    "missing": lambda x: x.pop("preprocessing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_metadata_is_refused_in_a_line(name: str, file: Path) -> None:
    fields = said(file)
    assert Exported.from_text(json.dumps(fields), file).classes == ("a", "b")
    CHANGES[name](fields)
    with pytest.raises(BundleError, match=r"x\.onnx has metadata that vitlora cannot read") as got:
        Exported.from_text(json.dumps(fields), file)
    assert "\n" not in str(got.value) and len(str(got.value)) < 700


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", "[" * 10**5, '{"format": ' + "9" * 5000 + "}"]
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        Exported.from_text(text, "x.onnx")


def changed(file: Path, target: Path, change: Callable[[Any], object]) -> Path:
    model = onnx.load(file)
    change(model)
    target.write_bytes(model.SerializeToString())
    return target


def describe_otherwise(model: Any, **fields: Any) -> None:
    (one,) = model.metadata_props
    one.value = json.dumps({**json.loads(one.value), **fields})


def of_other_size(model: Any) -> None:
    (one,) = model.metadata_props
    fields = json.loads(one.value)
    fields["preprocessing"]["image_size"] = 64
    one.value = json.dumps(fields)


def rename_input(model: Any) -> None:
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        node.input[:] = ["x" if name == "pictures" else name for name in node.input]


def fix_the_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def read_elsewhere(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name.endswith("pos_embed"))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")


def end_in(model: Any, *nodes: Any, **constants: Any) -> None:
    """Adds operators that make ``probabilities`` of what the network had called so."""
    for node in model.graph.node:
        node.output[:] = ["inside" if one == "probabilities" else one for one in node.output]
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    model.graph.node.extend(onnx.helper.make_node(*parts, **fields) for *parts, fields in nodes)


def take_rows_that_are_not_there(model: Any) -> None:
    best = ("ArgMax", ["inside"], ["best"], {"axis": 1, "keepdims": 0})
    rows = ("Add", ["best", "many"], ["rows"], {})
    end_in(model, best, rows, ("Gather", ["inside", "rows"], ["probabilities"], {}), many=99)


def answer_the_first_alone(model: Any) -> None:
    end_in(model, ("Compress", ["inside", "first"], ["probabilities"], {"axis": 0}), first=[True])


GRAPHS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no-metadata": (lambda m: m.ClearField("metadata_props"), "not written by vitlora"),
    "three-classes": (lambda m: describe_otherwise(m, classes=["a", "b", "c"]), "'probabilities'"),
    "another-size": (of_other_size, "'pictures' is"),
    "no-distances": (lambda m: m.graph.output.pop(), "'distances' is None"),
    "one-picture": (fix_the_batch, "expected ('uint8', (None, 32, 32, 3))"),
    "another-input": (rename_input, "'pictures' is None"),
    "failing": (take_rows_that_are_not_there, "'s network fails"),
    "one-answer": (answer_the_first_alone, "'probabilities' for 2 pictures is (1, 2)"),
    "other-files": (read_elsewhere, "torn, or no .onnx file"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_not_as_described_is_refused(
    name: str, file: Path, photo: Path, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    change, message = GRAPHS[name]
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(10**6))
    bad = changed(file, tmp_path / "bad.onnx", change)
    capfd.readouterr()
    other = photo.with_name("1.jpg")
    assert vitlora(["predict", str(photo), str(other), "--checkpoint", str(bad)]) == 1
    error = capfd.readouterr().err
    *notes, last = error.splitlines()
    assert message in last and all(line.startswith("note: ") for line in notes)


def test_torn_and_missing_files_are_one_line(file: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(file.read_bytes()[:-1000])
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("torn", "text", "empty"):
        with pytest.raises(BundleError, match=rf"{name}\.onnx is torn, or no .onnx file") as caught:
            list(predict(photo, checkpoint=tmp_path / f"{name}.onnx"))
        assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=r"none\.onnx': no such file"):
        list(predict(photo, checkpoint=tmp_path / "none.onnx"))


def test_options_of_bundles_are_refused(file: Path, photo: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "holds its weights": {"weights": "base.safetensors"},
        "runs on the CPU": {"device": "cuda"},
        "precision of its export": {"precision": "bf16"},
    }
    for message, options in cases.items():
        with pytest.raises(UsageError, match=message):
            list(predict(photo, checkpoint=file, **options))
    assert list(predict(photo, checkpoint=file, device="cpu", precision="auto"))


def test_other_commands_want_a_bundle(file: Path) -> None:
    with pytest.raises(VitloraError, match="is a file; expected the bundle's folder"):
        export(file, file.with_name("y.onnx"))


@pytest.fixture(scope="module")
def ir(file: Path) -> Path:
    """The bundle as OpenVINO's two files."""
    pytest.importorskip("openvino", reason="needs vitlora[openvino]")
    export(file.parent / "bundle", file.with_name("ir.xml"))
    return file.with_name("ir.xml")


def test_damaged_files_of_openvino_are_one_line(ir: Path, photo: Path, tmp_path: Path) -> None:
    graph, weights = ir.read_text("utf-8"), ir.with_suffix(".bin").read_bytes()
    cases = {
        "torn": (graph[: len(graph) // 2], weights, "is torn, or no .xml file"),
        "short": (graph, weights[:-1000], "its .bin is another file's, or damaged"),
        "text": ("hello", weights, "is torn, or no .xml file"),
        "html": ("<html><body/></html>", weights, "was not written by vitlora"),
        "other": (
            graph.replace("<vitlora value", "<other value"),
            weights,
            "was not written by vitlora",
        ),
        "size": (
            graph.replace("image_size&quot;: 32", "image_size&quot;: 64"),
            weights,
            "is not a network of vitlora's",
        ),
    }
    for name, (text, data, message) in cases.items():
        (tmp_path / f"{name}.xml").write_text(text, "utf-8")
        (tmp_path / f"{name}.bin").write_bytes(data)
        with pytest.raises(BundleError, match=message) as caught:
            list(predict(photo, checkpoint=tmp_path / f"{name}.xml"))
        assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=r"none\.bin': no such file"):
        (tmp_path / "none.xml").write_text(graph)
        list(predict(photo, checkpoint=tmp_path / "none.xml"))


def test_weights_of_another_file_or_with_a_wrong_byte_are_refused(
    ir: Path, photo: Path, tmp_path: Path
) -> None:
    weights = ir.with_suffix(".bin").read_bytes()
    middle = len(weights) // 2
    for name, data in (
        ("other", weights[:middle] + bytes(999) + weights[middle + 999 :]),
        ("wrong", weights[:middle] + bytes([weights[middle] ^ 1]) + weights[middle + 1 :]),
    ):
        (tmp_path / f"{name}.xml").write_bytes(ir.read_bytes())
        (tmp_path / f"{name}.bin").write_bytes(data)
        with pytest.raises(BundleError, match=r"its \.bin is another file's, or damaged"):
            list(predict(photo, checkpoint=tmp_path / f"{name}.xml"))
    without = re.sub("<bin value=[^>]*>", "", ir.read_text("utf-8"))
    (tmp_path / "without.xml").write_text(without, "utf-8")
    (tmp_path / "without.bin").write_bytes(weights)
    with pytest.raises(BundleError, match=r"it has no checksum of its \.bin"):
        list(predict(photo, checkpoint=tmp_path / "without.xml"))
    (tmp_path / "empty.xml").write_bytes(ir.read_bytes())
    (tmp_path / "empty.bin").touch()
    with pytest.raises(BundleError, match=r"its \.bin is another file's, or damaged"):
        list(predict(photo, checkpoint=tmp_path / "empty.xml"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks where the runtimes write on Linux")
def test_no_runtime_tells_its_maker(ir: Path, file: Path, photo: Path, tmp_path: Path) -> None:
    """Each writes a device's id into the home folder before it sends anything."""
    device = tmp_path / "device.py"
    device.write_text(export(example=True).to_text())  # pyright: ignore
    predicting = [sys.executable, "-m", "vitlora", "predict", str(photo), "--checkpoint"]
    home = tmp_path / "home"
    home.mkdir()
    hidden = ("XDG_", "ORT_", "CI", "TF_BUILD", "JENKINS_URL")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {"HOME": str(home)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    for words in (
        [*predicting, str(file)],
        [*predicting, str(ir)],
        [sys.executable, str(device), str(file), str(photo)],
    ):
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert list(home.rglob("*")) == []


def test_files_that_can_run_code_are_not_read(file: Path, photo: Path) -> None:
    program = file.with_name("x.pt2")
    program.write_bytes(b"x")
    with pytest.raises(UsageError, match="can run code that is in it, so vitlora only writes them"):
        list(predict(photo, checkpoint=program))


def test_other_endings_are_refused(file: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a file that ends in \.onnx, \.xml, \.pt2"):
        ExportedPredictor(file.with_suffix(".json"))
