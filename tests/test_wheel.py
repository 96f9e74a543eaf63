"""Tests that a wheel is whole: built, unpacked and used far from the checkout.

This file is in the sdist, so it needs nothing of the other tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
BUILDS = ("build_wheel", "build_sdist")
SOURCE = ("vitlora", "docs", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md")
SOURCE += ("LICENSE", "predict.py", "tests/test_wheel.py")
PICTURE = "datasets/waste5-drawn/test/tyre/000.jpg"


def build(source: Path, kind: str, out: Path) -> Path:
    """Returns the wheel or sdist that the project's own build backend makes; needs no network."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"from setuptools.build_meta import {kind}; {kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder outside the checkout, with the wheel and the sdist in `dist/`."""
    home = tmp_path_factory.mktemp("wheel")
    for name in SOURCE:  # building leaves files behind
        place = home / "source" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    for kind in BUILDS:
        build(home / "source", kind, home / "dist" / kind)
    return home


@pytest.fixture(scope="module")
def wheel(home: Path) -> Path:
    (wheel,) = (home / "dist/build_wheel").iterdir()
    return wheel


@pytest.fixture(scope="module")
def sdist(home: Path) -> Path:
    (sdist,) = (home / "dist/build_sdist").iterdir()
    return sdist


def files_of(folder: Path) -> set[str]:
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def contents(wheel: Path) -> dict[str, int]:
    """Returns the checksum of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert names == {f"vitlora/{name}" for name in files_of(ROOT / "vitlora")}
    endings = {PurePosixPath(name).suffix for name in names}
    assert endings == {".py", ".yaml", ".html", ".js", ".safetensors"}


def test_a_wheel_built_from_the_sdist_is_the_same(home: Path, wheel: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(home / "sdist", filter="data")
    (folder,) = (home / "sdist").iterdir()
    again = build(folder, "build_wheel", home / "again")
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_the_sdist_holds_what_it_is_built_and_checked_with(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        paths = [entry.name.partition("/")[2] for entry in archive if entry.isfile()]
    names = {path for path in paths if not path.startswith("vitlora.egg-info/")}
    docs = {f"docs/{name}" for name in files_of(ROOT / "docs")}
    package = {f"vitlora/{name}" for name in files_of(ROOT / "vitlora")}
    single = {name for name in SOURCE if (ROOT / name).is_file()}
    assert names == package | docs | single | {"PKG-INFO", "setup.cfg"}


@pytest.mark.slow
def test_an_installation_trains_and_predicts_in_an_empty_folder(home: Path, wheel: Path) -> None:
    installed, folder = home / "installed", home / "empty"
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(installed), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def vitlora(*words: str) -> str:
        return python("-m", "vitlora", *words)

    there = Path(python("-c", "import vitlora; print(vitlora.__file__)").strip())
    assert there == installed / "vitlora/__init__.py"
    assert "demo.yaml" in vitlora("configs")
    assert "vitlora fit --config demo.yaml" in vitlora("fetch", "waste5-drawn")
    short = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4")
    fitted = vitlora("fit", "--config", "demo.yaml", *short, "--trainer.accelerator", "cpu")
    assert f"vitlora predict IMAGE.jpg --checkpoint {Path('checkpoints/demo')}" in fitted
    assert "%" in vitlora("predict", PICTURE, "--device", "cpu")
