"""A place that holds labelled pictures -> a Folder: which classes there are, and which pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitlora.data.archives import check_sealed
from vitlora.data.class_names import doubts
from vitlora.data.folder import SPLITS, Folder, Origin, Sample
from vitlora.data.hub import hub_name
from vitlora.data.layouts import layout_named, recognised
from vitlora.data.layouts.folders import ClassFolders, Folders, NestedFolders
from vitlora.data.layouts.label_names import in_order, is_class_name
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, normal
from vitlora.data.listing import describe
from vitlora.errors import DataError, UsageError, a_few, counted, nearest, shown
from vitlora.files import expanded


def check_root(root: str | Path, option: str = "data.root") -> Path:
    """Returns the path of a folder, archive or file that lists pictures, or a dataset's on the hub.

    Raises:
        DataError: There is no such place, or it is an archive that cannot be read in place.
    """
    if hub_name(root):
        return Path(root)
    root = expanded(root)
    if not root.exists():
        raise DataError(
            f"{option} '{root}': no such folder; expected train/ and val/ with a folder for each "
            "class, or class folders, or a table, or a .zip or .tar of them"
        )
    check_sealed(root)
    return root


def read_place(root: str | Path, options: LayoutOptions | None = None) -> tuple[Place, Reading]:
    """Returns a place and what its layout finds in it.

    Args:
        root: A folder, an archive, or a file that lists pictures.
        options: How it is stored; the layout is recognised unless it is among them.

    Raises:
        DataError: The place is missing, no layout fits, or several do; or the layout finds
            something wrong.
        UsageError: There is no layout of that name.
    """
    options = options or LayoutOptions()
    place = Place(check_root(root))
    layout = layout_named(options.layout) if options.layout else recognised(place, options)
    options.check_used(layout)
    return place, _stripped(place, layout.read(place, options))


def _stripped(place: Place, reading: Reading) -> Reading:
    """Returns a reading whose classes have no spaces around their names.

    Folders keep theirs: on a disk, ``dog`` and ``dog `` are two folders.

    Raises:
        DataError: A class's name is not one line of text.
    """
    first = {one.label: one.name for one in reversed(reading.pictures)}
    every = dict.fromkeys([*(reading.classes or ()), *first])
    if wrong := [name for name in every if not is_class_name(name)]:
        names = (
            f"{shown(name)} ({first[name]})" if name in first else shown(name) for name in wrong
        )
        raise DataError(
            f"{place.root}: a class is a line of at most 300 characters that print, not blank and "
            f"without '..'; found {a_few(names, 5)} in {reading.source}"
        )
    folders = (Folders.name, NestedFolders.name, ClassFolders.name)
    if reading.layout in folders or all(name == name.strip() for name in every):
        return reading
    pictures = [replace(one, label=one.label.strip()) for one in reading.pictures]
    classes = reading.classes and tuple(dict.fromkeys(name.strip() for name in reading.classes))
    return replace(reading, pictures=pictures, classes=classes)


def read_folder(
    root: str | Path,
    classes: Sequence[str] | None = None,
    known: Sequence[str] = (),
    options: LayoutOptions | None = None,
) -> Folder:
    """Returns the classes and pictures of a place.

    Args:
        root: A folder, an archive, or a file that lists pictures.
        classes: The classes to use, in label order; None for all, in the order the place gives
            them, else sorted by name.
        known: Classes that come first, in this order, and need no picture.
        options: How the place is stored.

    Raises:
        DataError: As ``read_place``; or a class has no picture to train on.
        UsageError: ``classes`` does not begin with those known, or names a class that is not there.
    """
    place, reading = read_place(root, options)
    place.listing.check_open()
    root = place.root
    names = _class_names(root, reading, classes, known)
    labels = {name: label for label, name in enumerate(names)}
    splits: dict[str, list[Sample]] = {}
    groups: dict[str, str] = {}
    for one in reading.pictures:
        if (label := labels.get(one.label)) is None:
            continue
        splits.setdefault(one.split or "all", []).append(Sample(one.path, label, one.name))
        if one.group:
            groups[one.name] = one.group
    notes = list(reading.notes)
    if never := [name for name in reading.classes or () if name not in labels and classes is None]:
        notes.append(
            f"{len(never):,} of {counted(len(reading.classes or ()), 'class')} that "
            f"{reading.source} names have no picture and are left out: {a_few(never, 5)}"
        )
    counts = Counter(one.label for one in reading.pictures if one.label in labels)
    notes += [f"{doubt.what}; {doubt.advice}" for doubt in doubts(counts)]
    if reading.passed_over:
        notes.append(f"passed over {describe(reading.passed_over)}")
    if "train" in splits and "val" not in splits and "all" not in splits:
        splits["all"] = splits.pop("train")  # validation is drawn from it
    parts = ("all", *SPLITS)
    # in the order of the labels, in which samplers with a seed count
    splits = {
        part: sorted(splits[part], key=lambda one: one.label) for part in parts if part in splits
    }
    every = tuple(sorted({one.label for one in reading.pictures}))
    source = Origin(reading.layout, reading.source, every, tuple(notes))
    return Folder(root, names, splits, groups, source)


def _class_names(
    root: Path, reading: Reading, wanted: Sequence[str] | None, known: Sequence[str]
) -> tuple[str, ...]:
    counts = Counter(one.label for one in reading.pictures)
    everywhere = [*dict.fromkeys([*(reading.classes or ()), *in_order(counts)])]
    every = {*everywhere, *(name for names in reading.empty.values() for name in names)}
    if wanted is None:
        names = [*known, *(name for name in everywhere if name not in known and counts[name])]
    else:
        names = [normal(name) for name in wanted]
        _check_wanted(root, names, known, sorted(every))
    if known and not counts.keys() & set(names):
        raise DataError(f"{root} has no pictures of {a_few(known)}; found {a_few(sorted(counts))}")
    new = names[len(known) :] if wanted is None else [n for n in names if n not in known]
    _check_trained(root, reading, [*new, *_empty_to_train(reading, wanted, known)])
    if len(names) < 2:
        raise DataError(
            f"{root} has pictures of {counted(len(names), 'class')} ({a_few(names)}, labels from "
            f"{reading.source}); expected at least 2"
        )
    return tuple(names)


def _empty_to_train(
    reading: Reading, wanted: Sequence[str] | None, known: Sequence[str]
) -> list[str]:
    """Returns the classes whose folder of training pictures is empty."""
    empty = [*reading.empty.get("", []), *reading.empty.get("train", [])]
    left_out = set(known) | ({*empty} - set(map(normal, wanted)) if wanted is not None else set())
    return [name for name in empty if name not in left_out]


def _check_wanted(
    root: Path, names: Sequence[str], known: Sequence[str], everywhere: Sequence[str]
) -> None:
    """Refuses unknown classes in ``data.classes``.

    Raises:
        UsageError: They name a class twice, or one that is not there, or not those known first.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"data.classes names a class twice: {a_few(twice)}")
    if list(names[: len(known)]) != list(known):
        raise UsageError(
            f"data.classes is {a_few(names)}; expected it to begin with the classes known "
            f"already, in their order: {a_few(known)}. Add new ones behind, or leave it out"
        )
    for name in names[len(known) :]:
        if name not in everywhere:
            raise UsageError(
                f"data.classes has '{name}', which is not a class of {root}"
                f"{nearest(name, everywhere)}; found: {a_few(everywhere)}"
            )


def _check_trained(root: Path, reading: Reading, names: Sequence[str]) -> None:
    """Refuses classes without training pictures, if other classes have some.

    Raises:
        DataError: There are such classes.
    """
    if not any(one.split in ("", "train") for one in reading.pictures):
        return
    trained = {one.label for one in reading.pictures if one.split in ("", "train")}
    if lacking := [name for name in dict.fromkeys(names) if name not in trained]:
        others = Counter(path.parent.name for path in reading.passed_over)
        shown = [f"'{name}'{_passed_over(others[name])}" for name in lacking]
        raise DataError(
            f"{counted(len(lacking), 'class')} without a picture to train on in {root}: "
            f"{a_few(shown)}; add some, or leave such a class out with data.classes"
        )


def _passed_over(files: int) -> str:
    return f" (passed over {counted(files, 'file')})" if files else ""
