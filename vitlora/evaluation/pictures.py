"""The labelled pictures a bundle is judged on, found as training found them.

One guard for every command: ``settle`` sees to it that a split that training drew is scored as it
was held out, or not at all, and ``seen.seen`` says how many of the pictures training knew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import Sample
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.errors import BundleError, DataError, a_few, counted, nearest
from vitlora.evaluation.seen import Seen, seen
from vitlora.evaluation.training_folder import at_home, folder_of, same_split
from vitlora.notes import note, warn

SAME_FOLDER = 0.5  # of the pictures known: it is a copy of training's folder


@dataclass(frozen=True)
class Pictures:
    """What a bundle is scored on.

    Attributes:
        root: The folder.
        split: ``train``, ``val``, ``test``, or ``all`` of a folder without splits.
        samples: Files and labels, unreadable ones included.
        notes: What a reader of the scores must know, a sentence each.
        seen: Which of them training knew.
    """

    root: Path
    split: str
    samples: list[Sample]
    notes: tuple[str, ...]
    seen: Seen


def settle(bundle: Bundle, data: FolderData, split: str) -> str | None:
    """Sees to it that a split that training drew holds what was held out then, or is refused.

    Where pictures were added, removed, renamed or given another class since, those that were held
    out are found by their content, and the others are left out of the folder's splits.

    Args:
        bundle: The bundle to be scored.
        data: The folder, as its options draw it; its splits may be put back to training's.
        split: What is to be scored.

    Returns:
        A note if pictures came or went.

    Raises:
        BundleError: Training pictures could be in it, and nothing tells which.
    """
    record, root = bundle.record.split, data.folder.root
    digests, drawn = record["digests"], record.get("drawn")
    home = at_home(bundle, data)
    if home and drawn is not None and not data.drawn:
        raise BundleError(
            f"training drew its splits from {root} by a seed, and now they are found as folders, "
            "so training pictures could be among those scored: leave out data.resplit, or score "
            "on a folder of new pictures"
        )
    if same_split(data, digests, split):
        return None
    if home and drawn is None and data.drawn and split not in data.division.found.splits:
        raise BundleError(
            f"{root} no longer has the {split} split of training, and another one drawn now would "
            "hold training pictures; score on a folder of new pictures"
        )
    if not data.drawn:
        out = 0
        if home and bundle.usage is not None and split in digests:
            out = data.division.leave_out(bundle.usage, split)
        if not out or same_split(data, digests, split):  # so did training
            return None
        return (
            f"{counted(out, 'picture')} in {split}/ left out: a training had them on another side"
        )
    if drawn is None:
        return None
    options, now = ("val", "test", "seed"), data.record()["drawn"]
    options += ("folds", "fold", "resplit") if home else ()
    as_asked = all(now.get(key) == drawn.get(key) for key in options)
    if as_asked and bundle.usage is not None:
        new = data.division.recall(bundle.usage, split, least=0 if home else SAME_FOLDER)
        if new is not None:
            if same_split(data, digests, split):
                return None
            there, then = len(data.folder.splits[split]), sum(record["counts"].get(split, ()))
            if there == then and not new:
                return f"the {split} pictures of training were found by their content"
            return (
                f"the folder is not as it was in training: of {then:,} {split} pictures held out "
                f"then, {there:,} are there and count; {new:,} new ones are left out"
            )
    if home and (split in data.folder.splits or split in digests):
        changed = "the folder" if as_asked else "the folder or the split's options"
        raise BundleError(
            f"the {split} split drawn from {root} is not the one held out in training, so training "
            f"pictures could be in it: {changed} changed. Score on a folder of new pictures"
        )
    return None


def guard(bundle: Bundle, data: FolderData, split: str) -> Seen:
    """Sees to it that a split is scored as it was held out; returns what training knew of it.

    Raises:
        BundleError: Training pictures could be in it, and nothing tells which.
    """
    if line := unknown_classes(bundle, data):
        warn(line)
    if line := settle(bundle, data, split):
        note(line)
    if split == "test" and data.drawn and not (data.recalled or at_home(bundle, data)):
        data.division.test_all()
        total = len(data.folder.splits["test"])
        note(f"{data.folder.root} is not the folder of training: all {total:,} pictures are scored")
    known = seen(bundle, data.folder.splits.get(split, ()))
    for line in known.notes(split):
        warn(line)
    if known.trained is None and data.drawn and not at_home(bundle, data):
        note(
            f"{data.folder.root} is not the folder of training; if it is a copy of it, "
            "training pictures may be among those scored"
        )
    return known


def find_pictures(
    bundle: Bundle,
    root: str | Path | None = None,
    split: str | None = None,
    reading: LayoutOptions | None = None,
) -> Pictures:
    """Returns the pictures to score a bundle on.

    Args:
        bundle: The bundle.
        root: Folder of pictures; None for that of training.
        split: ``train``, ``val``, ``test`` or ``all``; None takes ``test`` where there is one,
            else ``val``, else all. Class folders that training did not draw from are not split.
        reading: How ``root`` is stored; None recognises it.

    Raises:
        DataError: There are no such pictures, or a class of the bundle is missing.
        BundleError: The split drawn from training's folder is no longer the one held out.
    """
    data = folder_of(bundle, root, reading)
    digests, parts = bundle.record.split["digests"], data.folder.splits
    wanted = split or next(part for part in ("test", "val", "train") if part in parts)
    settled = settle(bundle, data, wanted)
    parts = data.folder.splits
    ours = at_home(bundle, data) or data.recalled or same_split(data, digests, "val")
    if data.drawn and not ours:
        found = data.division.found.splits
        parts = {**found, "all": found["all"]}
    chosen = split or next(part for part in ("test", "val", "all", "train") if part in parts)
    if chosen not in parts:
        has = ", ".join(parts)
        raise DataError(f"{data.folder.root} has no split '{chosen}'; it has {has}: see --split")
    known = seen(bundle, parts[chosen])
    as_then = data.recalled or same_split(data, digests, chosen)
    lines = (unknown_classes(bundle, data), settled)
    notes = [f"{line[0].upper()}{line[1:]}." for line in lines if line]
    notes += _unmeasured(bundle, parts[chosen])
    notes += _warnings(chosen, as_then, not ours and known.trained is None)
    return Pictures(data.folder.root, chosen, parts[chosen], tuple(notes), known)


def find_validation(
    bundle: Bundle, root: str | Path | None = None, reading: LayoutOptions | None = None
) -> FolderData:
    """Returns a folder whose validation pictures a bundle was not trained on, as far as is known.

    What a reader of the numbers must know of them is logged.

    Args:
        bundle: The bundle.
        root: Folder of pictures; None for that of training.
        reading: How it is stored; None recognises it.

    Raises:
        DataError: There are no such pictures, or training pictures could be among them.
        BundleError: The split drawn from training's folder is no longer the one held out.
    """
    data = folder_of(bundle, root, reading)
    where = data.folder.root
    if "val" not in data.folder.splits:
        raise DataError(
            f"{where} has no val split; expected pictures that the network was not trained on"
        )
    told = guard(bundle, data, "val").trained is not None
    if data.recalled or same_split(data, bundle.record.split["digests"], "val"):
        return data
    if not told and (data.drawn or root is None):
        raise DataError(
            f"the validation pictures of {where} are not those held out in training, so training "
            "pictures could be among them; expected those, or --data DIR with train/ and val/ of "
            "your own choice"
        )
    at_its_word = "" if told else f"; {where} is taken at its word that val/ was not trained on"
    note(f"these are not the validation pictures of training{at_its_word}")
    return data


def _warnings(chosen: str, same: bool, perhaps_a_copy: bool) -> list[str]:
    if chosen == "train":
        which = "were" if same else "may have been"
        return [
            f"These pictures {which} trained on: new ones will score lower, and no range holds."
        ]
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


def unknown_classes(bundle: Bundle, data: FolderData) -> str | None:
    """Returns a note on pictures of classes that a bundle does not know: they are left out.

    Raises:
        DataError: Such a class has nearly the name of one of the bundle's without pictures.
    """
    classes, found = bundle.record.classes, data.folder.source.classes
    absent = [name for name in classes if name not in found]
    strangers = [name for name in found if name not in classes]
    for name in strangers:
        if close := nearest(name, absent):
            raise DataError(
                f"{data.folder.root} has pictures of '{name}', a class that {bundle.folder} does "
                f"not know{close}; it knows {a_few(classes)}. Rename it, or move it elsewhere"
            )
    if not strangers:
        return None
    return f"left out, because the bundle does not know these classes: {a_few(strangers)}"


def _unmeasured(bundle: Bundle, samples: Sequence[Sample]) -> list[str]:
    classes, there = bundle.record.classes, {sample.label for sample in samples}
    absent = [name for label, name in enumerate(classes) if label not in there]
    if not absent:
        return []
    return [
        f"{len(absent):,} of {len(classes):,} classes have no picture here, so nothing is measured "
        f"of them: {a_few(absent)}."
    ]
