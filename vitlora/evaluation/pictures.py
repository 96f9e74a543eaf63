"""The labelled pictures a bundle is judged on, found as training found them.

One guard for every command: ``settle`` sees to it that a split that training drew is scored as it
was held out, or not at all, and ``seen`` says how many of the pictures training knew.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.record import is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import DRAW, SPLITS, Sample, class_name
from vitlora.data.usage import Usage, contents, used
from vitlora.errors import BundleError, DataError, UsageError, a_few, counted, nearest

_MEANINGLESS = 0.5  # of the pictures trained on: a score then says nothing of new ones
SAME_FOLDER = 0.5  # of the pictures known: it is a copy of training's folder


@dataclass(frozen=True)
class Seen:
    """Which of the pictures to be scored training knew, byte for byte.

    Attributes:
        pictures: How many are scored.
        trained: Those that were trained on; None where training's pictures are not known.
        validated: Those by which training chose its epoch, as far as is known.
        whole: Whether that is known of all trainings, not of the last one alone.
    """

    pictures: int
    trained: tuple[Path, ...] | None = None
    validated: tuple[Path, ...] = ()
    whole: bool = True

    def notes(self, split: str) -> list[str]:
        """Returns what a reader of the score must know, a line each.

        Args:
            split: What is scored: of ``train`` and ``val`` it is expected.
        """
        lines = []
        if self.trained and split != "train":
            share = len(self.trained) / self.pictures
            means = "flatters" if share < _MEANINGLESS else "says nothing about new pictures"
            lines.append(
                f"{self._counted(self.trained)}, byte for byte, training pictures: what is "
                f"measured on them {means}"
            )
        if self.validated and split not in ("train", "val"):
            lines.append(
                f"{self._counted(self.validated)}, byte for byte, pictures by which training chose "
                "its epoch: what is measured on them flatters a little"
            )
        if not self.whole:
            lines.append(
                "the bundle that training went on from did not record its pictures: whether they "
                "are among those scored is not known"
            )
        return lines

    def to_json(self) -> dict[str, int | None]:
        """Returns how many there are, as a program reads it; null where it is not known."""
        if self.trained is None:
            return {"seen_in_training": None, "seen_in_validation": None}
        seen = {"seen_in_training": self.trained, "seen_in_validation": self.validated}
        return {key: len(paths) for key, paths in seen.items()}

    def _counted(self, paths: Sequence[Path]) -> str:
        are = "is" if len(paths) == 1 else "are"
        share = f" ({len(paths) / self.pictures:.0%})" if len(paths) > 1 else ""
        return f"{len(paths):,} of {self.pictures:,} pictures{share} {are}"


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
    if _same(data, digests, split):
        return None
    if not data.drawn:
        out = 0
        if home and bundle.usage is not None and split in digests:
            out = data.leave_out(bundle.usage, split)
        if not out or _same(data, digests, split):  # so did training
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
        new = data.recall(bundle.usage, split, least=0 if home else SAME_FOLDER)
        if new is not None:
            if _same(data, digests, split):
                return None
            there, then = len(data.folder.splits[split]), sum(record["counts"].get(split, ()))
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


def seen(bundle: Bundle, samples: Iterable[Sample]) -> Seen:
    """Returns which pictures a bundle's training knew, by their content.

    An older bundle does not record it: there they are compared with training's folder, if that is
    as it was.
    """
    samples = list(samples)
    if bundle.usage is None:
        try:
            data = folder_of(bundle)
        except (DataError, UsageError):
            return Seen(len(samples))
        parts, digests = data.folder.splits, bundle.record.split["digests"]
        if not all(_same(data, digests, part) for part in digests if part != "test"):
            return Seen(len(samples))
        trained, validated = (copies(samples, parts.get(part, [])) for part in ("train", "val"))
        return Seen(len(samples), tuple(trained), tuple(validated), bundle.record.parent is None)
    known = contents(sample.path for sample in samples)
    found: dict[str | None, list[Path]] = {}
    for sample in samples:
        found.setdefault(bundle.usage.side(known.get(sample.path)), []).append(sample.path)
    trained, validated = (tuple(found.get(part, ())) for part in ("train", "val"))
    return Seen(len(samples), trained, validated, bundle.usage.whole)


def usage_of(bundle: Bundle) -> Usage | None:
    """Returns what a bundle's training used pictures for; of an older one, as its folder says.

    None where that folder is gone or was changed.
    """
    if bundle.usage is not None:
        return bundle.usage
    try:
        data = folder_of(bundle)
    except (DataError, UsageError):
        return None
    digests = bundle.record.split["digests"]
    if not all(_same(data, digests, part) for part in digests):
        return None
    parts = data.folder.splits.items()
    found = used({part: contents(s.path for s in some).values() for part, some in parts})
    return found.joined(Usage(whole=bundle.record.parent is None))


def at_home(bundle: Bundle, data: FolderData) -> bool:
    """Returns whether a folder is the one a bundle was trained on."""
    return str(data.folder.root.resolve()) == bundle.record.split["root"]


def folder_of(bundle: Bundle, root: str | None = None) -> FolderData:
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
        BundleError: The split drawn from training's folder is no longer the one held out.
    """
    notes = _check_classes(bundle, Path(root).expanduser()) if root is not None else []
    data = folder_of(bundle, root)
    digests, parts = bundle.record.split["digests"], data.folder.splits
    wanted = split or next(part for part in ("test", "val", "train") if part in parts)
    note = settle(bundle, data, wanted)
    parts = data.folder.splits
    ours = at_home(bundle, data) or data.recalled or _same(data, digests, "val")
    if data.drawn and not ours:
        parts = {"all": [sample for samples in parts.values() for sample in samples]}
    chosen = split or next(part for part in ("test", "val", "all", "train") if part in parts)
    if chosen not in parts:
        has = ", ".join(parts)
        raise DataError(f"{data.folder.root} has no split '{chosen}'; it has {has}: see --split")
    known = seen(bundle, parts[chosen])
    as_then = data.recalled or _same(data, digests, chosen)
    notes += [f"{line[0].upper()}{line[1:]}." for line in ([note] if note else [])]
    notes += _warnings(chosen, as_then, not ours and known.trained is None)
    return Pictures(data.folder.root, chosen, parts[chosen], tuple(notes), known)


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


def _same(data: FolderData, digests: Mapping[str, str], split: str) -> bool:
    """Returns whether a split has the pictures that it had in training, by their names."""
    return data.digest(split) == digests.get(split)


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
