"""The class folders on the disk -> a Folder: which classes there are, and which pictures."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vitlora.data.folder import SPLITS, Folder, Sample
from vitlora.data.listing import describe, list_pictures
from vitlora.errors import DataError, UsageError, a_few, counted, nearest


def class_name(folder: Path) -> str:
    """Returns the class of a class folder (NFC).

    Raises:
        DataError: Its name is not UTF-8, and a class's name is written into bundles.
    """
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        shown = ascii(os.fsencode(folder.name))[2:-1]
        raise DataError(
            f"the class folder '{shown}' in {folder.parent} has a name that is not UTF-8; rename "
            f"it: mv $'{shown}' NEW_NAME, or convmv -f latin1 -t utf8 -r --notest for all"
        ) from None
    return unicodedata.normalize("NFC", folder.name)


def check_root(root: str | Path) -> Path:
    """Returns the path of a folder.

    Raises:
        DataError: There is none.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data.root '{root}': no such folder; expected train/ and val/ with a folder for each "
            "class, or class folders"
        )
    return root


def read_folder(
    root: str | Path, classes: Sequence[str] | None = None, known: Sequence[str] = ()
) -> Folder:
    """Returns what lies in an image folder.

    Args:
        root: Holds ``train/`` and ``val/`` (and ``test/``) with a folder for each class, or the
            class folders themselves.
        classes: The classes to use, in label order; None for all, sorted by name.
        known: Classes that come first, in this order, and need no folder.

    Raises:
        DataError: The folder is missing, a class is missing, empty or unknown, or a folder of it is
            closed to the reader.
        UsageError: ``classes`` does not begin with those known, or names a class that is not there.
    """
    root = check_root(root)
    parts = {name: root / name for name in SPLITS if (root / name).is_dir()}
    parts = parts or {"all": root}
    names = _class_names(root, parts, classes, known)
    passed_over: list[Path] = []
    splits = {part: _samples(folder, names, passed_over) for part, folder in parts.items()}
    return Folder(root, names, splits, tuple(passed_over))


def _class_names(
    root: Path, parts: dict[str, Path], wanted: Sequence[str] | None, known: Sequence[str]
) -> tuple[str, ...]:
    present = {part: set(_class_folders(folder)) for part, folder in parts.items()}
    everywhere = sorted(set().union(*present.values()))
    if wanted is not None:
        names = [unicodedata.normalize("NFC", name) for name in wanted]
        if len(set(names)) != len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise UsageError(f"data.classes names a class twice: {a_few(twice)}")
        if names[: len(known)] != list(known):
            raise UsageError(
                f"data.classes is {a_few(names)}; expected it to begin with the classes known "
                f"already, in their order: {a_few(known)}. Add new ones behind, or leave it out"
            )
        for name in names[len(known) :]:
            if name not in everywhere:
                raise UsageError(
                    f"data.classes has '{name}', which is not a folder under {root}"
                    f"{nearest(name, everywhere)}; found: {a_few(everywhere)}"
                )
    else:
        names = [*known, *(name for name in everywhere if name not in known)]
    for part, found in present.items():
        where = root if part == "all" else root / part
        if known and not found & set(names):
            raise DataError(f"{where} has no class folders; expected some of {a_few(names)}")
        if absent := [f"'{name}'" for name in names[len(known) :] if name not in found]:
            raise DataError(f"{where} has no class folder {a_few(absent)}, but other splits do")
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names)} class folders ({a_few(names)}); expected at "
            "least 2, each holding the pictures of one class"
        )
    return tuple(names)


def _class_folders(folder: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for child in sorted(folder.iterdir()):
        if not child.is_dir() or child.name.startswith((".", "__")):
            continue
        name = class_name(child)
        if name in folders:
            raise DataError(
                f"{folder} has two folders named '{name}', their accents written in different "
                "Unicode forms; move the pictures of one into the other"
            )
        folders[name] = child
    return folders


def _samples(folder: Path, classes: Sequence[str], passed_over: list[Path]) -> list[Sample]:
    """Returns the pictures of a split's class folders; adds the others to those passed over."""
    folders = _class_folders(folder)
    samples: list[Sample] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        found = list_pictures(folders[name])
        found.check_open()
        passed_over += (others := found.passed_over.get("other", []))
        samples += [Sample(path, label) for path in found.pictures]
        only = f" (passed over {describe(others)})" if others else ""
        empty += [] if found.pictures else [f"'{name}'{only}"]
    if empty:
        raise DataError(
            f"{counted(len(empty), 'class folder')} in {folder} without pictures: {a_few(empty)}; "
            "add some, or leave such a class out with data.classes"
        )
    return samples
