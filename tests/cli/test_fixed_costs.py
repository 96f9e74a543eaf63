"""Tests that commands do not import what they do not use: seconds of CPU time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from runs import MICRO

# modules that a library imports on the way, and whose import takes a tenth of a second or more
UNUSED = {
    "torch._dynamo": "torch's compiler",
    "torch._inductor": "torch's compiler",
    "scipy.signal": "torchmetrics",
    "matplotlib": "torchmetrics",
    "torchmetrics.text": "torchmetrics",
    "scipy.optimize._optimize": "transformers, which PEFT imports",
}


def imported(*words: object) -> set[str]:
    """Returns the modules that a fresh process has after a command."""
    code = (
        "import atexit, json, sys; from vitlora.cli.main import main; "
        "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)))); "
        f"sys.exit(main({[str(word) for word in words]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def fitted(root: Path, bundle: Path) -> set[str]:
    """Returns the modules of a process that trained a bundle."""
    options = [word for key, value in MICRO.items() for word in (f"--{key}", value)]
    return imported("fit", "--data", root, "--output", bundle, *options)


def test_fit_imports_nothing_that_it_does_not_use(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    found = fitted(make_folder(tmp_path / "data"), tmp_path / "bundle")
    assert {"peft", "lightning", "albumentations"} <= found
    assert found & UNUSED.keys() == set()


def test_scoring_imports_neither_peft_nor_albumentations(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    root = make_folder(tmp_path / "data", splits=("train", "val", "test"))
    fitted(root, tmp_path / "bundle")
    known = ["--checkpoint", tmp_path / "bundle", "--data", root]
    page = ["--output", tmp_path / "report.html"]
    for words in (["test", *known], ["report", *known, *page], ["calibrate", *known]):
        found = imported(*words)
        assert found & {*UNUSED, "peft", "transformers", "albumentations", "scipy"} == set(), words


def test_help_of_fit_imports_neither_peft_nor_torchs_compiler() -> None:
    found = imported("fit", "--help")
    assert found & {*UNUSED, "peft", "transformers", "albumentations", "scipy"} == set()
