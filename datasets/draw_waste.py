"""Draws an image folder of five kinds of waste, offline: the demo's data, made by code.

    python datasets/draw_waste.py datasets/waste5-drawn

Every picture is a small ray-traced scene of its own (`waste_drawing/`): one thing on a littered
ground, under its own sun, sky, camera and lens. The same seed draws the same pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
from waste_drawing.photo import draw
from waste_drawing.things import THINGS

SPLITS = {"train": 48, "val": 12, "test": 8}  # pictures per class, unless told otherwise
RECORD = ".drawn.json"  # what was drawn; its presence marks a folder as this script's own
REVISION = 1  # counts changes to the drawing, so that older folders are drawn anew
QUALITY = 90  # of the JPEG files, 0..100


class ForeignFolderError(Exception):
    """The folder to draw into holds something that this script did not draw."""


def draw_folder(folder: Path, *, train: int, val: int, test: int, size: int, seed: int) -> bool:
    """Draws the folder unless it is complete already, and returns whether it drew.

    Args:
        folder: where `train/<class>/NNN.jpg`, `val/...` and `test/...` go.
        train: pictures per class in train.
        val: pictures per class in val.
        test: pictures per class in test.
        size: width and height of each picture, in pixels.
        seed: what the pictures depend on, besides split, class and number.

    Raises:
        ForeignFolderError: the folder holds something that this script did not draw.
    """
    counts = {"train": train, "val": val, "test": test}
    record = {"revision": REVISION, **counts, "size": size, "seed": seed}
    folder = folder.resolve()
    if _complete(folder, record):
        return False
    fresh, old = (
        folder.with_name(f".{folder.name}.{word}-{os.getpid()}") for word in ("new", "old")
    )
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)  # the pieces are too small to share out
        fresh.mkdir(parents=True)
        _fill(fresh, record)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        cv2.setNumThreads(threads)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return True


def _complete(folder: Path, record: dict[str, int]) -> bool:
    """Returns whether the folder holds all that the record asks for; raises on foreign files."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ForeignFolderError(f"{folder} is a file; name a new or an empty folder")
    before, files = _found(folder)
    if before == record and _wanted(record) <= files:
        return True
    foreign = sorted(files - (_wanted(before) if before else set()))
    if foreign:
        raise ForeignFolderError(
            f"{folder} holds {len(foreign)} file(s) that this script did not draw, such as "
            f"{foreign[0]!r}; name a new or an empty folder"
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
    return {f"{split}/{name}/{index:03d}.jpg"
            for split in SPLITS for name in THINGS for index in range(record[split])}  # fmt: skip


def _fill(folder: Path, record: dict[str, int]) -> None:
    """Draws all pictures that the record asks for, and the record last."""
    for stage, split in enumerate(SPLITS):
        for kind, name in enumerate(THINGS):
            shelf = folder / split / name
            shelf.mkdir(parents=True)
            for index in range(record[split]):
                photo = draw(name, (record["seed"], stage, kind, index), record["size"])
                bgr, quality = photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
                _, data = cv2.imencode(".jpg", bgr, quality)
                (shelf / f"{index:03d}.jpg").write_bytes(data.tobytes())
    (folder / RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")


def _option(
    parser: argparse.ArgumentParser, name: str, limits: tuple[int, int], default: int, about: str
) -> None:
    """Adds an option that takes a whole number within limits, both of them allowed."""
    least, most = limits

    def whole(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{number} is not within {least} .. {most}")
        return number

    about += " (default: %(default)s)"
    parser.add_argument(f"--{name}", type=whole, default=default, help=about)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the folder that the command line names; returns 0, or 2 where it must not write."""
    parser = argparse.ArgumentParser(description="Draws an image folder of five kinds of waste.")
    parser.add_argument("folder", type=Path, help="where to; new, empty, or drawn by this script")
    for split, count in SPLITS.items():
        _option(parser, split, (1, 1000), count, f"pictures per class in {split}")
    _option(parser, "size", (32, 1024), 160, "width and height in pixels")
    _option(parser, "seed", (0, 2**31), 0, "another seed draws other pictures")
    options = vars(parser.parse_args(arguments))
    folder, start = options.pop("folder"), time.perf_counter()
    try:
        drew = draw_folder(folder, **options)
    except (ForeignFolderError, OSError) as error:
        print(f"draw_waste: {error}", file=sys.stderr)
        return 2
    counts = " + ".join(f"{options[split]} {split}" for split in SPLITS)
    what = f"{len(THINGS)} classes x ({counts}) pictures of {options['size']} px in {folder}"
    seconds = time.perf_counter() - start
    print(f"drew {what} in {seconds:.1f} s" if drew else f"already drawn: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
