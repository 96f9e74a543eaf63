"""The dataset ``waste5-drawn``: an image folder of five kinds of waste, made by code, offline.

Every picture is a small ray-traced scene of its own: one thing on a littered ground, under its own
sun, sky, camera and lens. The same seed draws the same pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2

from vitlora.data.drawn.photo import draw
from vitlora.data.drawn.things import THINGS
from vitlora.errors import UsageError, counted
from vitlora.files import draft

SPLITS = {"train": 48, "val": 12, "test": 8}  # pictures per class, unless told otherwise
SIZE = 160  # width and height in pixels, unless told otherwise
RECORD = ".drawn.json"  # what was drawn; its presence marks a folder as drawn by this module
REVISION = 1  # counts changes to the drawing, so that older folders are drawn anew
QUALITY = 90  # of the JPEG files, 0..100


class ForeignFolderError(UsageError):
    """The folder to draw into holds something that was not drawn."""


def draw_folder(
    folder: Path,
    *,
    train: int = SPLITS["train"],
    val: int = SPLITS["val"],
    test: int = SPLITS["test"],
    size: int = SIZE,
    seed: int = 0,
) -> bool:
    """Draws the folder unless it is complete already, and returns whether it drew.

    Args:
        folder: Where `train/<class>/NNN.jpg`, `val/...` and `test/...` go.
        train: Pictures per class in train.
        val: Pictures per class in val.
        test: Pictures per class in test.
        size: Width and height of each picture, in pixels.
        seed: What the pictures depend on, besides split, class and number.

    Raises:
        ForeignFolderError: The folder holds something that was not drawn.
    """
    counts = {"train": train, "val": val, "test": test}
    record = {"revision": REVISION, **counts, "size": size, "seed": seed}
    place = folder.resolve()
    if _complete(folder, record):
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    with draft(place) as fresh, draft(place) as old:
        _fill(fresh, record)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
    return True


def _complete(folder: Path, record: dict[str, int]) -> bool:
    """Returns whether the folder holds all that the record asks for; raises on foreign files."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ForeignFolderError(f"'{folder}' is a file; name a new or an empty folder")
    before, files = _found(folder)
    if before == record and _wanted(record) <= files:
        return True
    foreign = sorted(files - (_wanted(before) if before else set()))
    if foreign:
        raise ForeignFolderError(
            f"'{folder}' holds {counted(len(foreign), 'file')} that vitlora did not draw, such as "
            f"'{foreign[0]}'; name a new or an empty folder"
        )
    return False


def _found(folder: Path) -> tuple[dict[str, int] | None, set[str]]:
    """Returns the folder's record, if it has a sound one, and the paths of its other files."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = {key: int(record[key]) for key in ("revision", *SPLITS, "size", "seed")}
    except (OSError, ValueError, KeyError, TypeError):
        return None, files
    return record, files - {RECORD}


def _wanted(record: dict[str, int]) -> set[str]:
    """Returns every file's path, with forward slashes, in a folder that this record describes."""
    return {path for path, _ in _pictures(record)}


def _pictures(record: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields each picture's path and seed, which do not depend on how many there are."""
    for stage, split in enumerate(SPLITS):
        for kind, name in enumerate(THINGS):
            for index in range(record[split]):
                yield f"{split}/{name}/{index:03d}.jpg", (record["seed"], stage, kind, index)


def _fill(folder: Path, record: dict[str, int]) -> None:
    """Draws all pictures that the record asks for, and writes the record last."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the arrays are too small to share out
    try:
        for path, seed in _pictures(record):
            photo = draw(path.split("/")[1], seed, record["size"])
            bgr, quality = photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
            _, data = cv2.imencode(".jpg", bgr, quality)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data.tobytes())
    finally:
        cv2.setNumThreads(threads)
    (folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
