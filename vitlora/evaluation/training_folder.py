"""Reads the folder that a bundle was trained on, as training did."""

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
    """Returns training's folder or another one, with the classes and the split of training.

    Args:
        bundle: Records the folder, the classes and the split.
        root: Another folder; None for training's.
        reading: How it is stored; None or empty to detect it, or to read it as in training.

    Raises:
        DataError: Training's folder is unknown or gone.
        UsageError: The options of training's split no longer fit the folder.
    """
    record = bundle.record
    known = record.split["root"]
    found = record.split.get("drawn", {})
    if root is None:
        check_home(bundle)
    shared = _is_shared(bundle)
    keys, layout = list(DRAW), LayoutOptions.recorded(record.split)
    if root is not None and (shared or address(root) != known):
        keys, layout = ["val", "test", "seed"], LayoutOptions()  # the rest fits training's only
    options = {DRAW[key]: found[key] for key in keys if key in found}
    options |= ((reading and reading.given()) or layout.given()).items()
    classes = list(record.classes)  # also those without pictures, which are not scored
    data = FolderData(
        str(root or known), classes, known_classes=classes, skip_unreadable=True, **options
    )
    data.preprocessing = record.preprocessing
    return data


def check_home(bundle: Bundle) -> None:
    """Checks that the folder of training can be read again.

    Raises:
        DataError: It is unknown, gone, or on another machine.
    """
    known = bundle.record.split["root"]
    away = _is_shared(bundle) or is_network_path(known)
    if not known or away or not Path(known).exists():
        gone = "on another machine, at" if away else "no longer at"
        where = f"{gone} {known}" if known else "in an unknown place"
        raise DataError(
            f"the pictures that {bundle.folder} was trained on are {where}; name a folder with "
            "the same classes with --data"
        )


def _is_shared(bundle: Bundle) -> bool:
    """Returns whether training read pictures or groups over a network."""
    split = bundle.record.split
    places = (split.get("drawn", {}).get("groups", ""), *split.get("reading", {}).values())
    return any(is_network_path(str(place)) for place in places)


def same_split(data: FolderData, digests: Mapping[str, str], split: str) -> bool:
    """Returns whether a split has the same picture names as in training."""
    return data.digest(split) == digests.get(split)
