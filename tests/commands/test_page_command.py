"""The page command's own complaints; they need neither its packages nor onnxruntime-web."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitlora.bundle.folder import RECORD
from vitlora.commands.page import MARK, Page, page
from vitlora.errors import BundleError, UsageError
from vitlora.exporting.targets import target as module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / RECORD).write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")  # no npm
    return tmp_path


def test_mistakes_come_before_anything_is_fetched(folder: Path) -> None:
    (folder / "mine.html").write_text("mine")
    (folder / "ours.html").write_bytes(b"<meta " + MARK + b">")
    (folder / "torn.onnx").write_text("torn")
    cases: dict[tuple[str, str], tuple[type[Exception], str]] = {
        ("bundle", "mine.html"): (UsageError, "was not written by vitlora"),
        ("bundle", "x.txt"): (UsageError, r"expected a file name that ends in \.html"),
        ("bundle", "none/x.html"): (UsageError, "its folder does not exist"),
        ("none", "ours.html"): (BundleError, "no such folder"),
        ("none.onnx", "x.html"): (BundleError, "no such file"),
        ("torn.onnx", "x.html"): (BundleError, r"torn, or no \.onnx file"),
    }
    for (checkpoint, output), (kind, message) in cases.items():
        with pytest.raises(kind, match=message):
            page(folder / checkpoint, folder / output)
    assert not (folder / "x.html").exists() and not (folder / "cache/vitlora").exists()


def test_options_of_bundles_are_refused_for_exported_files(folder: Path) -> None:
    (folder / "x.onnx").write_text("x")
    options: dict[str, Any] = {"weights": "base.safetensors", "precision": "int8", "data": folder}
    for name, value in options.items():
        with pytest.raises(UsageError, match=rf"^--{name}: .*x\.onnx was exported and proven"):
            page(folder / "x.onnx", folder / "x.html", **{name: value})


def test_missing_packages_are_named(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if "script" in name else object())
    with pytest.raises(UsageError, match=r"needs onnxscript, not installed: .*'vitlora\[export\]'"):
        page(folder / "bundle", folder / "x.html")


def test_the_result_says_where_the_page_is() -> None:
    made = Page(Path("b"), Path("x.html"), 31_000_000, None)
    assert made.to_text().splitlines()[0] == "page   x.html  (31,000,000 bytes)"
    assert made.to_json() == {
        "file": "x.html",
        "checkpoint": "b",
        "bytes": 31_000_000,
        "proof": None,
    }
