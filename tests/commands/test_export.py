"""The export command's own complaints; they need none of its packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitlora.bundle.folder import RECORD
from vitlora.commands.export import Example, export
from vitlora.errors import BundleError, UsageError
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.targets import TARGETS, target, target_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / RECORD).write_text("{}")
    return tmp_path


def test_mistakes_come_first(folder: Path) -> None:
    (folder / "a.onnx").write_text("mine")
    (folder / "b.json").write_text("mine")
    (folder / "c.bin").write_text("mine")
    cases = {
        "a.onnx": r"a\.onnx already exists",
        "b.onnx": r"b\.json, where the proof goes, already exists",
        "c.xml": r"c\.bin already exists",
        "c.pth": r"expected a name that ends in \.onnx, \.xml or \.pt2",
        "none/c.onnx": "its folder does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(UsageError, match=message):
            export(folder / "bundle", folder / name)
    with pytest.raises(UsageError, match=r"is int8; expected 32 for \.pt2 files"):
        export(folder / "bundle", folder / "c.pt2", precision="int8")
    with pytest.raises(UsageError, match="export needs CHECKPOINT and OUTPUT"):
        export(folder / "bundle")
    with pytest.raises(BundleError, match="no such folder"):
        export(folder / "other", folder / "x.onnx")


@pytest.mark.parametrize(("suffix", "extra"), [(".onnx", "export"), (".xml", "openvino")])
def test_missing_packages_are_named(
    suffix: str, extra: str, folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(target, "find_spec", lambda name: None if "script" in name else object())
    message = rf"\{suffix} files needs onnxscript, not installed: .*'vitlora\[{extra}\]'"
    with pytest.raises(UsageError, match=message):
        export(folder / "bundle", folder / f"x{suffix}")


@pytest.mark.parametrize(("suffix", "reader"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_without_its_reader_a_file_names_it(
    suffix: str, reader: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    for ending in (suffix, *TARGETS[suffix].beside):
        (tmp_path / f"x{ending}").write_bytes(b"x")
    with pytest.raises(UsageError, match=rf"x\{suffix} needs {reader}, not installed: pip install"):
        ExportedPredictor(tmp_path / f"x{suffix}")


def test_the_example_needs_nothing() -> None:
    example = export(example=True)
    assert isinstance(example, Example) and "onnxruntime.InferenceSession" in example.to_text()
    compile(example.to_text(), "device.py", "exec")


def test_a_folder_with_the_ending_is_a_bundle(folder: Path) -> None:
    (folder / "x.onnx").mkdir()
    assert target_of(folder / "x.onnx") is None and target_of(folder / "y.ONNX") is not None
