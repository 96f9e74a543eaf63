"""A cleaned copy of an image folder: nothing torn, nothing twice, no copy on both sides."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlora.data.archives import open_file
from vitlora.data.doctor.leaks import copy_groups, file_of, together
from vitlora.data.doctor.single import endings
from vitlora.data.doctor.survey import RECORD, Picture, Survey
from vitlora.data.folder import SPLITS, VAL_FRACTION, Folder, Sample
from vitlora.data.layouts.label_names import is_folder_name
from vitlora.errors import DataError, UsageError, a_few, counted
from vitlora.files import draft


@dataclass(frozen=True)
class Shares:
    """How a folder is split anew.

    Attributes:
        val: Share for validation, ``0 < val``; None for that of the folder's own splits, else 0.2.
        test: Share for testing; None for that of the folder's own splits, else 0.
        seed: Of the draw.
    """

    val: float | None = None
    test: float | None = None
    seed: int = 0

    def of(self, survey: Survey) -> tuple[float, float]:
        """Returns the shares of validation and test for a folder.

        Raises:
            UsageError: They leave nothing to train on.
        """
        total = max(1, len(survey.pictures))
        own = {
            split: sum(picture.split == split for picture in survey.pictures) / total
            for split in SPLITS
        }
        val = self.val if self.val is not None else own["val"] or VAL_FRACTION
        test = self.test if self.test is not None else own["test"]
        if not (0 < val < 1 and 0 <= test < 1 - val):
            raise UsageError(
                f"shares {val:g} for validation and {test:g} for testing; expected 0 < val, "
                "0 <= test and val + test < 1: set --val-fraction and --test-fraction"
            )
        return val, test


def write_cleaned(survey: Survey, out: Path, shares: Shares) -> dict[str, int]:
    """Writes a cleaned, newly split copy of a folder; returns the number of pictures of each split.

    Left out are unreadable pictures, all but one of the same file, and copies, by bytes or looks,
    of which not all carry the same label. What is left of a group, of copies or of the folder's
    own, is kept in one split. Files are linked where the file system can, else copied.

    Raises:
        UsageError: ``out`` exists already, or the shares leave nothing to train on.
        DataError: A class has too few pictures left for every split, or a name that no folder can
            have.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"--fix '{out}' exists already; name a folder that does not")
    val, test = shares.of(survey)
    copies = copy_groups(survey.readable)
    left_out = _left_out(survey, copies)
    kept = [picture for picture in survey.readable if picture.name not in left_out]
    folder = _split(survey, kept, together(survey.readable, copies), val, test, shares.seed)
    counts = {split: len(samples) for split, samples in folder.splits.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with draft(out) as new:
        new.mkdir()
        written = _fill(new, folder, {picture.path: picture for picture in kept})
        record = {
            "seed": shares.seed,
            "shares": {"val": val, "test": test},
            "pictures": counts,
            "left_out": left_out,
            "from": written,
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (new / RECORD).write_text(text + "\n", "utf-8", errors="backslashreplace")
        new.rename(out)
    return counts


def _left_out(survey: Survey, copies: Sequence[Sequence[Picture]]) -> dict[str, str]:
    """Returns the names of the pictures not to keep, with the reason."""
    reasons = {p.name: p.problem for p in survey.pictures if p.problem is not None}
    for pictures in copies:
        labels = sorted({picture.label for picture in pictures})
        if len(labels) > 1:
            reason = f"copies of it carry other labels ({', '.join(labels)})"
            reasons |= {picture.name: reason for picture in pictures}
            continue
        kept: dict[bytes, str] = {}
        for picture in pictures:
            first = kept.setdefault(file_of(picture), picture.name)
            if first != picture.name:
                reasons[picture.name] = f"the same file as {first}"
    return dict(sorted(reasons.items()))


def _split(
    survey: Survey,
    kept: Sequence[Picture],
    groups: Mapping[str, int],
    val: float,
    test: float,
    seed: int,
) -> Folder:
    labels = {picture.label for picture in kept}
    classes = tuple(name for name in survey.classes if name in labels)
    if len(classes) < 2:
        raise DataError(
            f"{survey.root} has usable pictures of {counted(len(classes), 'class')}; expected at "
            "least 2"
        )
    strange = [repr(name) for name in classes if not is_folder_name(name)]
    if strange:
        raise DataError(
            f"--fix makes a folder for each class, which cannot be called {a_few(strange)}; rename "
            "the class: no / or \\, and no . at the beginning"
        )
    label = {name: index for index, name in enumerate(classes)}
    samples = [Sample(p.path, label[p.label], p.name) for p in kept]
    pool = Folder(survey.root, classes, {"all": samples})
    return pool.split(val, test, seed, groups=[groups[p.name] for p in kept])


def _fill(new: Path, folder: Folder, pictures: dict[Path, Picture]) -> dict[str, str]:
    """Links or copies every picture into its split; returns old names by new ones."""
    written: dict[str, str] = {}
    taken: set[str] = set()
    for split, samples in folder.splits.items():
        for sample in samples:
            picture = pictures[sample.path]
            name = _free_name(f"{split}/{picture.label}", picture, taken)
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(sample.path, target)
            written[name] = picture.name
    return written


def _free_name(folder: str, picture: Picture, taken: set[str]) -> str:
    """Returns a name with the right ending that no other picture has, also where case is one."""
    stem, ending = picture.path.stem, picture.path.suffix
    right = endings(picture.format)
    if right and ending.lower() not in right:
        ending = right[0]
    tries = (f"{folder}/{stem}{'-' * bool(n)}{n or ''}{ending}" for n in range(len(taken) + 2))
    name = next(name for name in tries if name.casefold() not in taken)
    taken.add(name.casefold())
    return name


def _link(source: Path, target: Path) -> None:
    if not source.exists():  # in an archive
        with open_file(source) as file:
            target.write_bytes(file.read())
        return
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(source, target)
