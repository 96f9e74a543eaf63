"""The labelled pictures a bundle is judged on, found as training found them."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from vitlora.checkpoint import Bundle, is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import SPLITS, Sample, class_name
from vitlora.errors import BundleError, DataError, a_few, nearest


@dataclass(frozen=True)
class Pictures:
    """What a bundle is scored on.

    Attributes:
        root: The folder.
        split: ``train``, ``val``, ``test``, or ``all`` of a folder without splits.
        samples: Files and labels, unreadable ones included.
        notes: What a reader of the scores must know, a sentence each.
    """

    root: Path
    split: str
    samples: list[Sample]
    notes: tuple[str, ...]


def folder_of(bundle: Bundle, root: str | None = None) -> FolderData:
    """Returns the folder of training or another one, its classes and draw as in training.

    Args:
        bundle: Says where the pictures lay, their classes and how they were split.
        root: Another folder; None for that of training.

    Raises:
        DataError: Training's folder is not known or no more there.
        UsageError: A class of the bundle has no folder.
    """
    record = bundle.record
    known = record.split["root"]
    found = record.split.get("drawn", {})
    shared = any(map(is_network_path, (known, str(found.get("groups", "")))))
    if root is None and (not known or shared or not Path(known).is_dir()):
        where = f"no more at {known}" if known else "not known"
        raise DataError(
            f"the pictures {bundle.folder} was trained on are {where}; pass --data DIR, a folder "
            "with pictures of the same classes"
        )
    keys = {"val": "val_fraction", "test": "test_fraction", "seed": "split_seed"}
    if root is None or (not shared and str(Path(root).expanduser().resolve()) == known):
        # these were asked for of the folder of training alone
        keys |= {key: key for key in ("groups", "resplit", "folds", "fold")}
    drawn = {option: found[key] for key, option in keys.items() if key in found}
    classes = list(record.classes)
    if record.parent is not None:  # it may know classes of which training had no pictures
        drawn["known_classes"] = classes
    data = FolderData(root or known, classes, skip_unreadable=True, **drawn)
    data.preprocessing = record.preprocessing
    return data


def find_pictures(bundle: Bundle, root: str | None = None, split: str | None = None) -> Pictures:
    """Returns the pictures to score a bundle on.

    Args:
        bundle: The bundle.
        root: Folder of pictures; None for that of training.
        split: ``train``, ``val``, ``test`` or ``all``; None takes ``test`` where there is one,
            else ``val``, else all. Class folders that training did not draw from are not split.

    Raises:
        DataError: There are no such pictures, or a class of the bundle is missing.
        BundleError: The split drawn from training's folder is no more the one held out.
    """
    notes = _check_classes(bundle, Path(root).expanduser()) if root is not None else []
    data = folder_of(bundle, root)
    digests, parts = bundle.record.split["digests"], data.folder.splits
    at_home = str(data.folder.root.resolve()) == bundle.record.split["root"]
    ours = at_home or ("drawn" in bundle.record.split and data.digest("val") == digests.get("val"))
    if at_home and "drawn" in bundle.record.split and not data.drawn:
        raise BundleError(
            f"training drew its splits from {data.folder.root} by a seed, and now they are folders "
            "there, so training pictures could be among those scored. Pass --data DIR, a folder "
            "of new pictures"
        )
    if data.drawn and not ours:
        parts = {"all": [sample for samples in parts.values() for sample in samples]}
    chosen = split or next(part for part in ("test", "val", "all", "train") if part in parts)
    if chosen not in parts:
        has = ", ".join(parts)
        raise DataError(f"{data.folder.root} has no split '{chosen}'; it has {has}: see --split")
    same = data.digest(chosen) == digests.get(chosen)
    if data.drawn and ours and not same:
        raise BundleError(
            f"the {chosen} split drawn from {data.folder.root} is not the one held out in "
            "training, so training pictures could be in it: pictures were added, removed or "
            "renamed. Pass --data DIR, a folder of new pictures"
        )
    notes += _warnings(chosen, same, not ours and "drawn" in bundle.record.split)
    return Pictures(data.folder.root, chosen, parts[chosen], tuple(notes))


def copies(samples: Iterable[Sample], among: Iterable[Sample]) -> list[Path]:
    """Returns the files whose bytes are those of one of the other files.

    Only files of one size are read; files that are gone are no copies.
    """
    sizes: dict[int, list[Path]] = {}
    for sample in among:
        if sample.path.is_file():
            sizes.setdefault(sample.path.stat().st_size, []).append(sample.path)
    known: dict[int, set[bytes]] = {}
    found = []
    for path in (sample.path for sample in samples if sample.path.is_file()):
        size = path.stat().st_size
        if size in sizes and size not in known:
            known[size] = {sha256(one.read_bytes()).digest() for one in sizes[size]}
        if size in known and sha256(path.read_bytes()).digest() in known[size]:
            found.append(path)
    return found


def _warnings(chosen: str, same: bool, perhaps_a_copy: bool) -> list[str]:
    if chosen == "train":
        return ["These may be the pictures the network was trained on: new ones will score lower."]
    if chosen == "val" and same:
        return [
            "Training chose its best epoch on these pictures, and its confidence was calibrated on "
            "them: new ones may score a little lower, and answers be a little less calibrated."
        ]
    if perhaps_a_copy:
        return [
            "This is not the folder of training. If it is a copy of it, training pictures are "
            "among those scored."
        ]
    return []


def _check_classes(bundle: Bundle, root: Path) -> list[str]:
    """Refuses a folder that lacks a class; returns a note on those the bundle does not know."""
    if not root.is_dir():
        raise DataError(f"--data '{root}': no such folder")
    parts = [root / name for name in SPLITS if (root / name).is_dir()] or [root]
    found = {
        class_name(child)
        for part in parts
        for child in part.iterdir()
        if child.is_dir() and not child.name.startswith((".", "__"))
    }
    strangers = sorted(found - set(bundle.record.classes))
    for name in bundle.record.classes:
        if name not in found:
            raise DataError(
                f"{root} has no class folder '{name}'{nearest(name, strangers)}; {bundle.folder} "
                f"knows {a_few(bundle.record.classes)}, and needs pictures of each"
            )
    if not strangers:
        return []
    names = a_few(strangers)
    return [f"Left out, because the bundle does not know these classes: {names}."]
