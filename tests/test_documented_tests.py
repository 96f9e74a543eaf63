"""Tests that a document names are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_fault_in_the_docs_has_its_test() -> None:
    text = (TESTS.parent / "docs/reliability.md").read_text("utf-8")
    found = {path.name: path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    files = set(re.findall(r"test_\w+\.py", text))
    assert files and files <= found.keys()
    for name in re.findall(r"::(test_\w+)", text):
        assert any(f"def {name}(" in source for source in found.values()), name
