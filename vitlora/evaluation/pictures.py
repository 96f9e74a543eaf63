"""Finds the labelled pictures on which a bundle is scored.

Every command uses the same guard: ``settle`` restores the split that training held out, or refuses
to score; ``seen.seen`` counts the pictures that training used.
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

SAME_FOLDER = 0.5  # share of known pictures from which a folder is a copy of training's


@dataclass(frozen=True)
class Pictures:
    """The pictures to score a bundle on.

    Attributes:
        root: The folder.
        split: ``train``, ``val``, ``test``, or ``all`` for a folder without splits.
        samples: Files and labels, unreadable ones included.
        notes: Caveats about the scores, a sentence each.
        seen: Which of them training used.
    """

    root: Path
    split: str
    samples: list[Sample]
    notes: tuple[str, ...]
    seen: Seen


def settle(bundle: Bundle, data: FolderData, split: str) -> str | None:
    """Makes a split hold the pictures that training held out, or refuses to score it.

    If pictures were added, removed, renamed or relabelled since, those that were held out are found
    by their content, and the others are left out.

    Args:
        bundle: The bundle to score.
        data: The folder; its splits may be changed to those of training.
        split: The split to score.

    Returns:
        A note if the pictures are not those of training.

    Raises:
        BundleError: Training pictures could be among them, and cannot be told apart.
    """
    record, root = bundle.record.split, data.folder.root
    digests, drawn = record["digests"], record.get("drawn")
    home = at_home(bundle, data)
    if home and drawn is not None and not data.drawn:
        raise BundleError(
            f"training split {root} at random, but now its own split folders are used, so training "
            "pictures could be scored; leave data.resplit out, or score on new pictures"
        )
    if same_split(data, digests, split):
        return None
    if home and drawn is None and data.drawn and split not in data.division.found.splits:
        raise BundleError(
            f"{root} no longer has the {split} split of training, and a new random one would hold "
            "training pictures; score on a folder of new pictures"
        )
    if not data.drawn:
        out = 0
        if home and bundle.usage is not None and split in digests:
            out = data.division.leave_out(bundle.usage, split)
        if not out or same_split(data, digests, split):  # so did training
            return None
        return (
            f"{counted(out, 'picture')} in {split}/ left out: training used them in another split"
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
                f"the folder has changed since training: {there:,} of {then:,} {split} pictures "
                f"are still there and are scored; {counted(new, 'new picture')} left out"
            )
    if home and (split in data.folder.splits or split in digests):
        changed = "the folder" if as_asked else "the folder or the options of the split"
        raise BundleError(
            f"the {split} split of {root} is not the one of training, because {changed} changed, "
            "so training pictures could be scored; score on a folder of new pictures"
        )
    return None


def guard(bundle: Bundle, data: FolderData, split: str) -> Seen:
    """Makes a split hold what training held out; logs caveats; returns what training used of it.

    Raises:
        BundleError: Training pictures could be among them, and cannot be told apart.
    """
    if line := unknown_classes(bundle, data):
        warn(line)
    if line := settle(bundle, data, split):
        note(line)
    if split == "test" and data.drawn and not (data.recalled or at_home(bundle, data)):
        data.division.test_all()
        total = counted(len(data.folder.splits["test"]), "picture")
        note(f"{data.folder.root} is not the folder of training: scoring all {total} in it")
    known = seen(bundle, data.folder.splits.get(split, ()))
    for line in known.notes(split):
        warn(line)
    if known.trained is None and data.drawn and not at_home(bundle, data):
        note(
            f"{data.folder.root} is not the folder of training; if it is a copy of it, training "
            "pictures may be scored"
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
        root: Folder of pictures; None for training's.
        split: ``train``, ``val``, ``test`` or ``all``; None for ``test`` if there is one, else
            ``val``, else all. Class folders are split only if training split them.
        reading: How ``root`` is stored; None detects it.

    Raises:
        DataError: There are no such pictures, or a class has nearly the name of another.
        BundleError: The split is no longer the one that training held out.
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
        raise DataError(
            f"{data.folder.root} has no {chosen} split; choose --split {' or '.join(parts)}"
        )
    known = seen(bundle, parts[chosen])
    as_then = data.recalled or same_split(data, digests, chosen)
    lines = (unknown_classes(bundle, data), settled)
    notes = [f"{line[0].upper()}{line[1:]}." for line in lines if line]
    notes += _unmeasured(bundle, parts[chosen])
    calibrated = bundle.record.confidence is not None
    notes += _warnings(chosen, as_then, not ours and known.trained is None, calibrated)
    return Pictures(data.folder.root, chosen, parts[chosen], tuple(notes), known)


def find_validation(
    bundle: Bundle, root: str | Path | None = None, reading: LayoutOptions | None = None
) -> FolderData:
    """Returns a folder with validation pictures that a bundle was not trained on; logs caveats.

    Args:
        bundle: The bundle.
        root: Folder of pictures; None for training's.
        reading: How it is stored; None detects it.

    Raises:
        DataError: There are no such pictures, or training pictures could be among them.
        BundleError: The split is no longer the one that training held out.
    """
    data = folder_of(bundle, root, reading)
    where = data.folder.root
    if "val" not in data.folder.splits:
        raise DataError(
            f"{where} has no val split; name a folder with val/, pictures that the bundle was not "
            "trained on, with --data"
        )
    known = guard(bundle, data, "val").trained is not None
    if data.recalled or same_split(data, bundle.record.split["digests"], "val"):
        return data
    if not known and (data.drawn or root is None):
        raise DataError(
            f"the validation pictures of {where} are not those of training, so training pictures "
            "could be among them; name a folder with train/ and val/ with --data"
        )
    trust = "" if known else f"; it is assumed that {where} has no training pictures in val/"
    note(f"these are not the validation pictures of training{trust}")
    return data


def _warnings(chosen: str, same: bool, perhaps_a_copy: bool, calibrated: bool) -> list[str]:
    if chosen == "train":
        which = "were" if same else "may have been"
        return [
            f"The bundle {which} trained on these pictures: scores are too high, and the ranges do "
            "not hold."
        ]
    if chosen == "val" and same:
        if not calibrated:
            return [
                "Training compared its epochs on these pictures: new ones may score a little lower."
            ]
        return [
            "Training compared its epochs on these pictures, and confidence was calibrated on "
            "them: new pictures may score a little lower and be a little less calibrated."
        ]
    if perhaps_a_copy:
        return [
            "This is not the folder of training. If it is a copy of it, training pictures are "
            "scored."
        ]
    return []


def unknown_classes(bundle: Bundle, data: FolderData) -> str | None:
    """Returns a note about classes that the bundle lacks, whose pictures are left out.

    Raises:
        DataError: Such a class is nearly named like one of the bundle's that has no pictures.
    """
    classes, found = bundle.record.classes, data.folder.source.classes
    absent = [name for name in classes if name not in found]
    strangers = [name for name in found if name not in classes]
    for name in strangers:
        if close := nearest(name, absent):
            raise DataError(
                f"{data.folder.root} has pictures of '{name}', but {bundle.folder} has no such "
                f"class{close}; it has {a_few(classes)}. Rename the class, or move it elsewhere"
            )
    if not strangers:
        return None
    return f"left out classes that the bundle does not have: {a_few(strangers)}"


def _unmeasured(bundle: Bundle, samples: Sequence[Sample]) -> list[str]:
    classes, there = bundle.record.classes, {sample.label for sample in samples}
    absent = [name for label, name in enumerate(classes) if label not in there]
    if not absent:
        return []
    return [
        f"{len(absent):,} of {counted(len(classes), 'class')} not scored, without pictures here: "
        f"{a_few(absent)}."
    ]
