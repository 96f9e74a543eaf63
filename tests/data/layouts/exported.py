"""What the tests of labelling tools' exports share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vitlora.data.layouts.reading import LayoutOptions, Reading
from vitlora.data.read import read_place


def touch(root: Path, names: Iterable[str]) -> Path:
    """Makes empty pictures."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(file: Path, value: Any) -> Path:
    """Writes JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def read(root: Path, **options: str) -> Reading:
    """Returns what is found, whatever layout is recognised."""
    return read_place(root, LayoutOptions(**options))[1]


def labels(reading: Reading) -> dict[str, str]:
    """Returns the class of each picture by its name, with its split in front if it has one."""
    return {one.name: f"{one.split} {one.label}".strip() for one in reading.pictures}


def zipped(root: Path) -> Path:
    """Returns a zip file of a folder."""
    return Path(shutil.make_archive(str(root), "zip", root))
