"""Class folders: ``cat/1.jpg``, ``train/cat/1.jpg``, ``cat/train/1.jpg``, ``pets/cat/1.jpg``."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import ClassVar

from vitlora.data.layouts.lookup import split_in
from vitlora.data.layouts.reading import Labelled, LayoutOptions, Place, Reading, split_of
from vitlora.data.layouts.tree import Tree
from vitlora.errors import DataError, a_few, counted, printable

_COMPARED = 100  # sibling folders, each with each other


# of each picture by its name: its split, and its class or nothing where it is not used
_Found = dict[str, tuple[str, tuple[str, ...]]]


class Folders:
    """Split folders under any of their usual names; else each folder is a class."""

    name: ClassVar[str] = "folders"
    what: ClassVar[str] = "a folder for each class, inside train, val and test folders or not"
    uses: ClassVar[tuple[str, ...]] = ()

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """Returns whether the folders give pictures at least two classes.

        Those called ``train_images`` and ``test_images`` do not, nor does an ``images`` beside a
        table.
        """
        if place.file is not None or not any("/" in name for name in place.pictures):
            return False
        try:
            found, _ = self._found(Tree(place), options)
        except DataError:
            return False
        classes = {parts[0] for _, parts in found.values() if parts}
        return sum(not split_in(name) for name in classes) > 1

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        tree = Tree(place)
        return _reading(self.name, tree, *self._found(tree, options))

    def _found(self, tree: Tree, options: LayoutOptions) -> tuple[_Found, dict[str, str]]:
        """Returns what pictures are, and which folders are splits.

        Raises:
            DataError: The folders can mean two things.
        """
        if inside := _splits_inside(tree):
            found = {name: (split_of(parts[1]) or "", parts[:1]) for name, parts in inside.items()}
            return found, {}
        splits = _splits(tree)
        if options.layout is None:
            _check_one_meaning(tree, splits)
        return {name: (split, parts[:1]) for name, split, parts in _below(tree, splits)}, splits


class NestedFolders(Folders):
    """As ``Folders``, but the innermost folders are the classes."""

    name: ClassVar[str] = "nested"
    what: ClassVar[str] = "a folder for each class, inside folders for groups of classes"

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """Never: ``Folders`` reads such a place, and refuses what it cannot tell apart."""
        return False

    def _found(self, tree: Tree, options: LayoutOptions) -> tuple[_Found, dict[str, str]]:
        splits = _splits(tree)
        below = list(_below(tree, splits))
        leaves = _leaf_names({parts for _, _, parts in below if parts})
        found = {name: (split, (leaves[parts],) if parts else ()) for name, split, parts in below}
        return found, splits


class ClassFolders(NestedFolders):
    """Each folder is a class, whatever it is called."""

    name: ClassVar[str] = "class_folders"
    what: ClassVar[str] = "a folder for each class, even one called train or test"

    def _found(self, tree: Tree, options: LayoutOptions) -> tuple[_Found, dict[str, str]]:
        return {name: (split, parts[:1]) for name, split, parts in _below(tree, {})}, {}


def _splits(tree: Tree) -> dict[str, str]:
    """Returns the folders that are splits, by name, and which.

    Raises:
        DataError: Two are the same split, or a folder may be a split or a class.
    """
    named = {name: split for name in tree.top.folders if (split := split_of(name))}
    for split, count in Counter(named.values()).items():
        if count > 1:
            both = _listed(name for name in named if named[name] == split)
            raise DataError(
                f"{tree.path} has {both}, which both mean {split}; move the pictures of one into "
                "the other"
            )
    with_classes = {name for name in named if tree.top.folders[name].folders}
    beside = [name for name in tree.top.filled if name not in named]
    if not named or "train" in {named[name] for name in with_classes}:
        return named
    if not beside and with_classes:
        return named
    if not beside:
        raise DataError(
            f"{tree.path} has {_listed(named)}, but no class folders in them; expected "
            f"{next(iter(named))}/CLASS/PICTURE, or a table that gives each picture its class"
        )
    if with_classes:
        raise DataError(
            f"{tree.path} has {_listed(with_classes)} with class folders inside, and beside them "
            f"{_listed(beside)}; if those hold the training pictures, move them into train/"
        )
    raise DataError(
        f"{tree.path} has {_listed(named)} beside {_listed(beside)}, which can mean two things: "
        f"classes of those names, then add --data.layout {ClassFolders.name}; or pictures without "
        "a class, then move them elsewhere"
    )


def _splits_inside(tree: Tree) -> dict[str, tuple[str, ...]]:
    """Returns the pictures if each class folder holds split folders: ``cat/train/1.jpg``."""
    filled = tree.top.filled.values()
    parts = [name for node in filled for name in node.filled]
    if not parts or not all(map(split_of, parts)) or any(map(split_of, tree.top.folders)):
        return {}
    if tree.top.own or any(node.own for node in filled):
        return {}
    return dict(tree.inside(tree.place.pictures))


def _check_one_meaning(tree: Tree, splits: Mapping[str, str]) -> None:
    """Refuses folders that could be splits or groups of classes as well as classes.

    Raises:
        DataError: They could.
    """
    name = next(
        (name for name, split in splits.items() if split == "train"), next(iter(splits), "")
    )
    above = tree.top.folders[name] if name else tree.top
    groups = {name: set(node.filled) for name, node in above.filled.items() if node.is_group}
    if not groups:
        return
    for one, other in combinations(sorted(groups)[:_COMPARED], 2):
        shared = groups[one] & groups[other]
        if len(shared) > 1 and 2 * len(shared) >= min(len(groups[one]), len(groups[other])):
            raise DataError(
                f"{tree.path / name} can be read in two ways, as {one}/ and {other}/ hold folders "
                f"of the same names ({a_few(sorted(shared), 3)}): if they are splits, rename them "
                f"train, val and test; if they are classes, add --data.layout {Folders.name}"
            )
    inner = {leaf for node in above.filled.values() for leaf in node.filled}
    raise DataError(
        f"{tree.path / name} can be read in two ways: its folders are classes "
        f"({a_few(sorted(above.filled), 3)}), then add --data.layout {Folders.name}; or the "
        f"folders inside those are ({a_few(sorted(inner), 3)}), then add --data.layout "
        f"{NestedFolders.name}"
    )


def _below(tree: Tree, splits: Mapping[str, str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yields each picture, its split and the folders it lies in below that; none where astray."""
    for name, parts in tree.inside(tree.place.pictures):
        if splits:
            split = splits.get(parts[0], "") if parts else ""
            yield name, split, parts[1:] if split else ()
        else:
            yield name, "", parts


def _leaf_names(folders: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Returns the class of each innermost folder: its name, or where that repeats, its path."""
    alike: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for parts in folders:
        alike[parts[-1]].append(parts)
    short = {
        parts: leaf if len(same) == 1 else "/".join(parts[-2:])
        for leaf, same in alike.items()
        for parts in same
    }
    count = Counter(short.values())
    return {parts: name if count[name] == 1 else "/".join(parts) for parts, name in short.items()}


def _reading(
    layout: str,
    tree: Tree,
    paths: Mapping[str, tuple[str, tuple[str, ...]]],
    splits: Mapping[str, str],
) -> Reading:
    """Returns what was found.

    Args:
        layout: Name of the layout.
        tree: The folders.
        paths: Split and class of each picture; no class for one that is not used.
        splits: The split folders.
    """
    place = tree.place
    pictures = [
        Labelled(place.pictures[name], name, _checked(parts[0], place), split)
        for name, (split, parts) in paths.items()
        if parts
    ]
    astray = Counter(name.rpartition("/")[0] for name, (_, parts) in paths.items() if not parts)
    notes = [
        f"{counted(count, 'picture')} in {place.folder / folder} not used: no class folder of "
        f"{'a split' if splits else 'the set'} holds them"
        for folder, count in sorted(astray.items())
    ]
    classes_in = {split: tree.top.folders[name] for name, split in splits.items()}
    empty = {
        split: [name for name, node in above.folders.items() if not node.has_pictures]
        for split, above in (classes_in or {"": tree.top}).items()
    }
    passed_over = tuple(
        place.others[name]
        for name, parts in tree.inside(place.others)
        if len(parts) > (1 if splits else 0) and (not splits or parts[0] in splits)
    )
    return Reading(layout, "class folders", pictures, None, empty, passed_over, tuple(notes))


def _checked(label: str, place: Place) -> str:
    """Returns a class folder's name.

    Raises:
        DataError: It is not UTF-8, and a class's name is written into bundles.
    """
    if label.isascii():
        return label
    try:
        label.encode()
    except UnicodeEncodeError:
        shown = ascii(os.fsencode(label))[2:-1]
        raise DataError(
            f"the class folder '{shown}' in {place.folder} has a name that is not UTF-8; rename "
            f"it: mv $'{shown}' NEW_NAME, or convmv -f latin1 -t utf8 -r --notest for all"
        ) from None
    return label


def _listed(names: Iterable[str]) -> str:
    """Returns ``a/``, ``a/ and b/``, ``a/, b/ and c/``."""
    *others, last = [f"{printable(name)}/" for name in names]
    return " and ".join(filter(None, (", ".join(others), last)))
