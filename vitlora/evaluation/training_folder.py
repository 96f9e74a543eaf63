"""The folder a bundle was trained on, read as training read it."""

from collections.abc import Mapping
from pathlib import Path

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.record import is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import DRAW
from vitlora.errors import DataError


def at_home(bundle: Bundle, data: FolderData) -> bool:
    """Returns whether a folder is the one a bundle was trained on."""
    return str(data.folder.root.resolve()) == bundle.record.split["root"]


def folder_of(bundle: Bundle, root: str | Path | None = None) -> FolderData:
    """Returns the folder of training or another one, its classes and draw as in training.

    Args:
        bundle: Says where the pictures lay, their classes and how they were split.
        root: Another folder; None for that of training.

    Raises:
        DataError: Training's folder is not known, or is gone.
        UsageError: A class of the bundle has no folder.
    """
    record = bundle.record
    known = record.split["root"]
    found = record.split.get("drawn", {})
    shared = any(map(is_network_path, (known, str(found.get("groups", "")))))
    if root is None and (not known or shared or not Path(known).is_dir()):
        where = f"no longer at {known}" if known else "not known"
        raise DataError(
            f"the pictures {bundle.folder} was trained on are {where}; pass --data DIR, a folder "
            "with pictures of the same classes"
        )
    keys = list(DRAW)
    if root is not None and (shared or str(Path(root).expanduser().resolve()) != known):
        keys = ["val", "test", "seed"]  # the others were asked for of the folder of training alone
    drawn = {DRAW[key]: found[key] for key in keys if key in found}
    classes = list(record.classes)
    if record.parent is not None:  # it may know classes of which training had no pictures
        drawn["known_classes"] = classes
    data = FolderData(str(root or known), classes, skip_unreadable=True, **drawn)
    data.preprocessing = record.preprocessing
    return data


def same_split(data: FolderData, digests: Mapping[str, str], split: str) -> bool:
    """Returns whether a split has the pictures that it had in training, by their names."""
    return data.digest(split) == digests.get(split)
