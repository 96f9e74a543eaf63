"""Training on what labelling tools export, recognised without a word, as folder and as archive."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data.layouts.exported import zipped
from data.layouts.test_coco import coco
from data.layouts.test_cvat import cvat
from data.layouts.test_label_studio import annotation, choice, full
from runs import MICRO

from vitlora.cli.main import main

LABELS = {f"{number}.jpg": ("cat", "dog")[number % 2] for number in range(16)}
NUMBERS = {"cat": 3, "dog": 7}
# each by its file and the folder of the pictures
EXPORTS: dict[str, tuple[str, str, Any]] = {
    "label_studio": (
        "project-1-at-2026-11-01.json",
        "upload/1/",
        full(
            [
                ({"image": f"/data/upload/1/{name}"}, [annotation(choice(label))])
                for name, label in LABELS.items()
            ]
        ),
    ),
    "cvat": ("annotations.xml", "images/", cvat({name: [one] for name, one in LABELS.items()})),
    "fiftyone": (
        "labels.json",
        "data/",
        {"classes": ["cat", "dog"], "labels": {name[:-4]: one for name, one in LABELS.items()}},
    ),
    "coco": (
        "annotations/instances_default.json",
        "images/",
        coco({name: NUMBERS[label] for name, label in LABELS.items()}),
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_fit_trains_on_an_export(
    name: str,
    tmp_path: Path,
    make_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, folder, content = EXPORTS[name]
    root, output = tmp_path / "place", tmp_path / "run"
    made = make_folder(tmp_path / "made", ("cat", "dog"), (), 8)
    pictures = {label: iter(sorted((made / label).iterdir())) for label in NUMBERS}
    (root / folder).mkdir(parents=True)
    for picture, label in LABELS.items():
        shutil.copy(next(pictures[label]), root / folder / picture)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(content if isinstance(content, str) else json.dumps(content))
    options = [f"--{key}={value}" for key, value in MICRO.items()]
    main(["fit", "--data", str(root), "--output", str(output), *options])
    said = "".join(capsys.readouterr())
    assert f"16 pictures in 2 classes, labels from {file}" in said
    order = ["dog", "cat"] if name == "cvat" else ["cat", "dog"]  # as the project orders them
    assert json.loads((output / "vitlora.json").read_text())["classes"] == order
    main(["validate", str(output), "--data", str(zipped(root))])
    assert "accuracy" in "".join(capsys.readouterr())
