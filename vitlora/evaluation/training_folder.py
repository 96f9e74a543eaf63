"""The folder a bundle was trained on, read as training read it."""

from collections.abc import Mapping
from pathlib import Path

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.record import is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import DRAW
from vitlora.data.hub import address
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.errors import DataError


def at_home(bundle: Bundle, data: FolderData) -> bool:
    """Returns whether a folder is the one a bundle was trained on."""
    return address(data.folder.root) == bundle.record.split["root"]


def folder_of(
    bundle: Bundle, root: str | Path | None = None, reading: LayoutOptions | None = None
) -> FolderData:
    """Returns the folder of training or another one, its classes and draw as in training.

    Args:
        bundle: Says where the pictures lay, their classes and how they were split.
        root: Another folder; None for that of training.
        reading: How it is stored; None or empty recognises it, and knows it of training's.

    Raises:
        DataError: Training's folder is not known, or is gone.
        UsageError: The options of training's draw no longer fit the folder.
    """
    record = bundle.record
    known = record.split["root"]
    found = record.split.get("drawn", {})
    places = (found.get("groups", ""), *record.split.get("reading", {}).values())
    shared = any(is_network_path(str(place)) for place in places)
    away = shared or is_network_path(known)
    if root is None and (not known or away or not Path(known).exists()):
        gone = "on another machine, at" if away else "no longer at"
        where = f"{gone} {known}" if known else "not known"
        raise DataError(
            f"the pictures {bundle.folder} was trained on are {where}; pass --data DIR, a folder "
            "with pictures of the same classes"
        )
    keys, layout = list(DRAW), LayoutOptions.recorded(record.split)
    if root is not None and (shared or address(root) != known):
        keys, layout = ["val", "test", "seed"], LayoutOptions()  # the rest is of training's folder
    options = {DRAW[key]: found[key] for key in keys if key in found}
    options |= ((reading and reading.given()) or layout.given()).items()
    classes = list(record.classes)  # a class without pictures is not measured
    data = FolderData(
        str(root or known), classes, known_classes=classes, skip_unreadable=True, **options
    )
    data.preprocessing = record.preprocessing
    return data


def same_split(data: FolderData, digests: Mapping[str, str], split: str) -> bool:
    """Returns whether a split has the pictures that it had in training, by their names."""
    return data.digest(split) == digests.get(split)
