"""The export command's own complaints; they need none of its packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitlora.bundle.folder import RECORD, is_exported
from vitlora.commands import export as module
from vitlora.commands.export import Example, export
from vitlora.errors import BundleError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / RECORD).write_text("{}")
    return tmp_path


def test_mistakes_come_first(folder: Path) -> None:
    (folder / "a.onnx").write_text("mine")
    (folder / "b.json").write_text("mine")
    cases = {
        "a.onnx": r"a\.onnx already exists",
        "b.onnx": r"b\.json already exists",
        "c.pth": r"expected a name that ends in \.onnx",
        "none/c.onnx": "its folder does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(UsageError, match=message):
            export(folder / "bundle", folder / name)
    with pytest.raises(UsageError, match="export needs CHECKPOINT and OUTPUT"):
        export(folder / "bundle")
    with pytest.raises(BundleError, match="no such folder"):
        export(folder / "other", folder / "x.onnx")


def test_missing_packages_are_named(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if "script" in name else object())
    with pytest.raises(UsageError, match=r"needs onnxscript, not installed: .*'vitlora\[export\]'"):
        export(folder / "bundle", folder / "x.onnx")


def test_without_onnxruntime_predict_names_it(tmp_path: Path, monkeypatch: Any) -> None:
    from vitlora.prediction.exported_predictor import ExportedPredictor

    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"needs the package onnxruntime.*'vitlora\[export\]'"):
        ExportedPredictor(tmp_path / "x.onnx")


def test_the_example_needs_nothing() -> None:
    example = export(example=True)
    assert isinstance(example, Example) and "onnxruntime.InferenceSession" in example.to_text()
    compile(example.to_text(), "device.py", "exec")


def test_a_folder_with_the_ending_is_a_bundle(folder: Path) -> None:
    (folder / "x.onnx").mkdir()
    assert not is_exported(folder / "x.onnx") and is_exported(folder / "y.ONNX")
