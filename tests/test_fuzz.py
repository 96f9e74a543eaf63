"""A short run of benchmarks/fuzz.py: damaged files of strangers are read, or refused in a line."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(sys.platform == "win32", reason="limits the time of a case by a signal")
@pytest.mark.parametrize(
    ("kind", "cases"), [("bundle", 200), ("config", 40), ("table", 300), ("picture", 300)]
)
def test_damaged_files_are_read_or_refused(
    kind: str, cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    play = import_module("fuzz").play
    seen = play(kind, range(cases), tmp_path)
    assert seen["read"] + seen["refused"] == cases
    assert seen["read"] and seen["refused"]
