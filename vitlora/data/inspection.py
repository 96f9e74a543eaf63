"""What vitlora tells a user about pictures before it uses them: unreadable ones, and copies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitlora.data.bit_depth import ValueRange
from vitlora.data.division import Division
from vitlora.data.doctor.leaks import leak_notes
from vitlora.data.duplicates import Fingerprint, fingerprints
from vitlora.data.folder import Folder, Sample
from vitlora.data.picture_file import looks_whole
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.usage import content_of
from vitlora.data.value_range import Found, find_range, range_text
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError, UsageError, a_few, a_few_lines, counted
from vitlora.notes import note, warn
from vitlora.shell import typed

MANY = 50_000  # pictures; to decode more takes minutes in which nothing is trained


class Inspection:
    """Looks at each picture once, before anything is computed from it.

    It decodes every picture of a usual folder. Of more than 50,000 it decodes those that do not
    begin and end as a JPEG or PNG does, unless an option needs all of them.

    Args:
        division: Whose pictures; unreadable ones are taken out of its folder's splits.
        skip_unreadable: Go on without them, instead of stopping.
        check_copies: Compare the pictures; None compares up to 50,000.
    """

    def __init__(
        self, division: Division, skip_unreadable: bool, check_copies: bool | None
    ) -> None:
        self.division = division
        self.skip_unreadable = skip_unreadable
        self.check_copies = check_copies
        total = sum(map(len, division.folder.splits.values()))
        self._brief = total > MANY and not skip_unreadable and not check_copies
        self._to_decode: dict[str, tuple[Sequence[Sample], list[Path]]] = {}
        self._checked: dict[str, Folder] = {}  # splits as they were; a new division has a new one
        self._prints: dict[Path, Fingerprint] = {}
        self._compared = False

    def check(self, split: str, value_range: ValueRange | None, name_all: bool = False) -> None:
        """Checks that a split is there and its pictures can be read; once for each division.

        Args:
            split: ``train``, ``val`` or ``test``.
            value_range: The scale of pictures deeper than 8 bits, if they have one.
            name_all: If pictures are unreadable, also name those of all other splits.

        Raises:
            DataError: The split is missing, or pictures are unreadable; each is named.
        """
        folder = self.division.folder
        if split not in folder.splits:
            slash = "" if self.division.drawn else "/"
            found = " and ".join(f"{part}{slash}" for part in folder.splits)
            added = f"add a {split}/ folder with pictures of each class"
            later = (
                "train with data.test_fraction above 0, or test on all of another folder with "
                "--data.root DIR --data.test_fraction 1"
            )
            drawn = later if split == "test" else f"set data.{split}_fraction above 0"
            mend = drawn if self.division.drawn else added
            raise DataError(f"{folder.root} has no {split} split, only {found}; {mend}")
        if self._checked.get(split) is folder:
            return
        samples = folder.splits[split]
        prints, problems = fingerprints(self._paths_to_decode(split), value_range)
        self._prints |= prints
        outside = [path for path, one in prints.items() if one.outside]
        self._note_outside(split, outside, value_range)
        self.division.contents |= {path: content_of(one.digest) for path, one in prints.items()}
        if problems and not self.skip_unreadable:
            total = counted(len(samples), f"{split} picture")
            if name_all:
                for part in folder.splits.keys() - {split}:
                    problems |= fingerprints(self._paths_to_decode(part), value_range)[1]
                total = counted(sum(map(len, folder.splits.values())), "picture")
            lines = a_few_lines(list(problems.values()))
            raise DataError(
                f"{len(problems):,} of {total} cannot be read:\n  {lines}\n"
                "Replace or delete them, or set data.skip_unreadable to true"
            )
        if problems:
            lines = a_few_lines(list(problems.values()))
            note(f"skipping {counted(len(problems), f'unreadable {split} picture')}:\n  {lines}")
            before = folder.absent(split)
            folder.splits[split] = [s for s in samples if s.path not in problems]
            lost = [f"'{name}'" for name in folder.absent(split) if name not in before]
            if lost and (split == "train" or not folder.splits[split]):
                raise DataError(
                    f"{counted(len(lost), 'class')} without a readable picture in {split}: "
                    f"{a_few(lost)}; add some, or leave such a class out of data.classes"
                )
        if split != "train" and (absent := [f"'{name}'" for name in folder.absent(split)]):
            note(
                f"{split} has no picture of {len(absent):,} of {len(folder.classes):,} classes "
                f"({a_few(absent, 5)}): what is measured on it says nothing about them"
            )
        self._checked[split] = folder

    def scaled(self, preprocessing: Preprocessing, asked: ValueRange | None) -> Preprocessing:
        """Returns the preprocessing with the scale of the training pictures, if they need one.

        Args:
            preprocessing: That of the base, or of the bundle to continue from, with its scale.
            asked: ``data.value_range``.

        Raises:
            UsageError: The bundle has another scale.
        """
        known = preprocessing.value_range
        if known is not None and asked not in (None, known):
            raise UsageError(
                f"data.value_range is {range_text(asked)}, but the bundle of --from reads values "
                f"{range_text(known)}; leave it out"
            )
        if known is not None or "train" not in self.division.folder.splits:
            return preprocessing
        if asked is not None:
            return replace(preprocessing, value_range=asked)
        found = self.find_range("train")
        if found.value_range is not None:
            note(f"training: {found.to_text()}")
        return replace(preprocessing, value_range=found.value_range)

    def find_range(self, split: str) -> Found:
        """Returns the scale that suits the pictures of a split."""
        found = find_range(self._paths_to_decode(split))
        return replace(found, pictures=len(self.division.folder.splits[split]))

    def _paths_to_decode(self, split: str) -> list[Path]:
        """Returns the files of a split that are decoded before it is used."""
        samples = self.division.folder.splits[split]
        paths = [sample.path for sample in samples]
        if not self._brief:
            return paths
        before, chosen = self._to_decode.get(split, (None, []))
        if before is not samples:
            whole = in_threads(looks_whole, paths, f"checking {len(paths):,} files")
            chosen = [path for path, yes in zip(paths, whole, strict=True) if not yes]
            self._to_decode[split] = samples, chosen
        return chosen

    def compare(self, value_range: ValueRange | None) -> None:
        """Warns of copies in two splits or classes, once, after training's splits were checked.

        Args:
            value_range: The scale of pictures deeper than 8 bits, if they have one.
        """
        if self._compared:
            return
        folder, self._compared = self.division.folder, True
        if self._brief:
            total = sum(map(len, folder.splits.values()))
            note(
                f"checked only the beginning and end of each of {total:,} files, and did not look "
                "for copies; data.check_copies true decodes and compares all"
            )
            return
        if self.check_copies is False:
            note(
                "vitlora does not look for copies in two splits or classes, because "
                "data.check_copies is false"
            )
            self._prints = {}
            return
        others = [s.path for s in folder.splits.get("test", ()) if s.path not in self._prints]
        notes = list(leak_notes(folder, {**self._prints, **fingerprints(others, value_range)[0]}))
        for line in notes:
            warn(line)
        if notes:
            given = self.division.found.splits.keys() - {"all"}  # a draw moves nothing of these
            anew = "data.resplit true with " if given else ""
            warn(
                f"scores will mislead; {anew}data.groups duplicates keeps copies in one split, "
                f"{typed('vitlora', 'doctor', '--data', folder.root)} shows them"
            )
        self._prints = {}

    def _note_outside(self, split: str, paths: list[Path], value_range: ValueRange | None) -> None:
        if not paths:
            return
        samples = self.division.folder.splits[split]
        names = (self.division.folder.name(s) for s in samples if s.path == paths[0])
        such = f"such as {next(names)}"
        if value_range is None:
            said = f"are deeper than 8 bits, unlike those of training, {such}: no scale is known"
        else:
            said = (
                f"have values outside {range_text(value_range)}, or in a sixteenth of "
                f"it, {such}: check their depth and camera, or set "
                "data.value_range in training"
            )
        total = len(self.division.folder.splits[split])
        warn(f"{len(paths):,} of {total:,} {split} pictures {said}")
