"""A folder that takes nothing: each command that writes says so in one line, before its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mounts import disk
from runs import MICRO, train

from vitlora.cli.main import main

FIT = [word for name, value in MICRO.items() for word in (f"--{name}", value)]
COMMANDS = {
    "fit": ["fit", "--data", "photos", *FIT, "--output", "ro/x"],
    "sweep": ["sweep", "--sweep", "s.yaml", "--data", "photos", *FIT, "--output", "ro/x"],
    "compare": ["compare", "--data", "photos", *FIT, "--output", "ro/x"],
    "export": ["export", "bundle", "ro/x.onnx"],
    "merge": ["merge", "bundle", "ro/x.safetensors"],
    "page": ["page", "bundle", "ro/x.html"],
    "report": ["report", "bundle", "--output", "ro/x.html"],
    "predict": ["predict", "photos", "--checkpoint", "bundle", "--output", "ro/x.csv"],
    "json": ["predict", "photos", "--checkpoint", "bundle", "--json", "ro/x.json"],
    "sort": ["sort", "bundle", "--data", "inbox", "--output", "ro/x"],
    "tasks": ["sort", "bundle", "--data", "inbox", "--label-studio", "ro/x.json"],
    "demo": ["demo", "bundle", "--corrections", "ro/x", "--port", "0"],
    "doctor": ["doctor", "photos", "--html", "ro/x.html"],
    "plan": ["plan", "--data", "photos", *FIT, "--png", "ro/x.png"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("place")
    make_folder(folder / "photos")
    make_folder(folder / "inbox", ("c",), ())
    train(folder / "photos", folder / "bundle")
    (folder / "s.yaml").write_text("model.adapter.rank: [2, 4]\n")
    with disk(folder / "ro", "ro"):
        yield folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_told_before_the_work(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(place)
    assert main(COMMANDS[name]) in (1, 2)
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("vitlora: ") and "Traceback" not in err
    assert "cannot be written to; choose another folder" in last or (
        name == "fit" and "Read-only file system" in last
    )
    assert "ro" in last and "scoring" not in out and "epoch" not in out


def test_a_bundle_that_cannot_be_written_to_is_not_calibrated(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    import shutil

    from mounts import make_read_only

    with disk(tmp_path / "disk") as folder:
        shutil.copytree(place / "bundle", folder / "bundle")
        make_read_only(folder)
        assert main(["calibrate", str(folder / "bundle")]) == 2
    assert "bundle' cannot be written to" in capsys.readouterr().err
