"""Tests that imports point one way, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vitlora"

# From the ground up. A room may import the rooms below its floor and itself; the rooms of one
# floor do not see each other.
FLOORS: list[set[str]] = [
    {"errors", "light_imports"},
    {"arguments", "files", "notes", "processes", "shell", "units", "yaml_text"},
    {"hardware", "pages", "config_files", "pieces"},
    {"data", "metrics", "quantization"},
    {"backbones"},
    {"adapters", "bundle"},
    {"training", "evaluation", "prediction", "studies", "labelling"},
    {"memory", "exporting"},
    {"serving", "browser"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What a room does without, although it lies below: these stay light, or independent.
ALONE: dict[str, set[str]] = {
    "hardware": {"errors"},
    "pages": set(),
    "pieces": set(),
    "config_files": {"errors"},
    "data": {"errors", "files", "light_imports", "notes", "shell"},
    "metrics": {"errors"},
    "quantization": {"errors"},
    "labelling": {"data", "errors", "files", "notes", "metrics", "pages"},
    "studies": {
        *("data", "errors", "files", "metrics", "notes", "pages", "shell", "units", "yaml_text"),
    },
}
# Libraries that few modules, or one folder, know, so that they can be replaced there.
DOORS = {
    "albumentations": {"data/augmentation.py"},
    "bitsandbytes": {"quantization/four_bit.py", "training/optimizers.py"},
    # not in threads: one that ends while a loader forks leaves OpenCV's lock held in the worker
    "cv2": {"data/augmentation.py", "data/dataset.py", "data/doctor/survey.py", "data/drawn"},
    "jinja2": {"pages/page.py"},
    "matplotlib": {"studies/chart.py", "memory/chart.py"},
    "pyarrow": {
        "data/rows.py",
        "data/layouts/columns.py",
        "data/layouts/row_shards.py",
        "data/layouts/table_file.py",
        "prediction/answer_file.py",
        "prediction/ray.py",
    },
    "datasets": {"data/hub.py"},
    "onnx": {"exporting/eight_bits.py"},
    "onnxruntime": {"exporting/device.py", "exporting/targets/onnx_file.py"},
    "openvino": {"exporting/targets/openvino_file.py"},
    "optuna": {"studies/search"},
    "ray": {"prediction/ray.py"},
    "peft": {"adapters/fused.py", "adapters/lora.py"},
    "fastapi": {"serving/app.py", "serving/demo.py"},
    "uvicorn": {"serving/running.py"},
    "huggingface_hub": {"backbones/timm.py", "commands/push.py", "data/download.py"},
}


def imports_of(source: str, package: str) -> Iterator[str]:
    """Yields the full name of everything a module of `package` imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    """Returns the room of vitlora an imported name lies in; None if it lies in none."""
    first, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return room if first == "vitlora" and room and not room.startswith("__version") else None


def forbidden(room: str, imported: set[str]) -> set[str]:
    """Returns those imports that a room must not have."""
    allowed = ALONE.get(room, {other for other in FLOOR if FLOOR[other] < FLOOR[room]})
    return imported - allowed - {room}


def rooms() -> dict[str, set[str]]:
    """Returns the rooms that exist, each with the rooms it imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        package = ".".join(("vitlora", *place.parent.parts))
        imported = {room_of(name) for name in imports_of(path.read_text("utf-8"), package)}
        room = "" if place.name == "__init__.py" and len(place.parts) == 1 else place.parts[0]
        found.setdefault(room.removesuffix(".py"), set()).update(imported - {None})
    return found


def test_every_room_stands_on_a_floor():
    assert rooms().keys() - {""} <= FLOOR.keys()
    assert len(rooms()) >= 10


def test_importing_the_package_imports_nothing_of_it_but_its_public_names_are_there():
    code = (
        "import sys, vitlora; before = set(sys.modules); "
        "assert 'torch' not in before and not any(m.startswith('vitlora.') for m in before); "
        "assert set(vitlora.__all__) <= set(dir(vitlora)); "
        "assert all(getattr(vitlora, name) for name in vitlora.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", sorted(FLOOR.keys() & rooms().keys()))
def test_room_imports_only_the_floors_below(room):
    assert forbidden(room, rooms()[room]) == set()


def test_commands_do_not_import_each_other():
    for path in (PACKAGE / "commands").glob("*.py"):
        for name in imports_of(path.read_text("utf-8"), "vitlora.commands"):
            assert not name.startswith("vitlora.commands"), path.name


def test_nobody_imports_the_command_line_but_main():
    for room, imported in rooms().items():
        assert room in ("cli", "__main__", "") or "cli" not in imported, room


def door_of(path: Path, doors: set[str]) -> str:
    """Returns a module's path in the package, or that of its folder if it is one of the doors."""
    place = path.relative_to(PACKAGE)
    folder = place.parent.as_posix()
    return folder if folder in doors else place.as_posix()


@pytest.mark.parametrize(("library", "doors"), DOORS.items())
def test_library_comes_in_by_its_doors(library, doors):
    users = {
        door_of(path, doors)
        for path in PACKAGE.rglob("*.py")
        for name in imports_of(path.read_text("utf-8"), "vitlora")
        if name.split(".")[0] == library
    }
    assert users == doors


def test_the_imports_are_really_read():
    found = rooms()
    assert found["adapters"] >= {"backbones", "errors"}
    assert found["cli"] >= {"data", "errors"}  # inside functions
    assert found["data"] >= {"errors", "data"}


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("import vitlora.cli.lightning", "cli"),
        ("import torch, vitlora.training.trainer as t", "training"),
        ("from vitlora.cli import lightning", "cli"),
        ("from vitlora.cli.lightning import main", "cli"),
        ("def f():\n    from ..cli import main", "cli"),
        ("from .. import cli", "cli"),
        ("from . import folder", "data"),
        ("from .folder import read_folder", "data"),
    ],
)
def test_every_way_of_importing_is_seen(line, room):
    assert {room_of(name) for name in imports_of(line, "vitlora.data")} - {None} == {room}
    assert forbidden("data", {room}) == ({room} - {"data"})


def test_siblings_and_upper_floors_are_forbidden():
    assert forbidden("training", {"evaluation", "adapters", "training"}) == {"evaluation"}
    assert forbidden("backbones", {"adapters", "data"}) == {"adapters"}
    assert forbidden("commands", {"cli", "prediction", "training"}) == {"cli"}
    assert forbidden("cli", {"__main__", "commands", "errors"}) == {"__main__"}
    assert forbidden("errors", {"hardware"}) == {"hardware"}
