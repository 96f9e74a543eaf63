"""COCO's JSON, of pictures whose annotations all have one category."""

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from vitlora.data.layouts.entries import Entry
from vitlora.data.layouts.exports import Export, checked, json_of, reading_of
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, split_of_file
from vitlora.errors import DataError, a_few, printable, shown


class Coco(Export):
    """Objects ``images``, ``annotations`` and ``categories``; boxes and outlines are not looked at.

    As https://cocodataset.org/#format-data describes them. Each file may be a split, by its own
    name (``instances_val2017.json``) or else by its folder's (``valid/_annotations.coco.json``).
    """

    name: ClassVar[str] = "coco"
    what: ClassVar[str] = "COCO's JSON with one category for each picture"
    wanted: ClassVar[str] = (
        "COCO file; expected a .json with the lists images, annotations and categories"
    )

    def is_one(self, ends: bytes) -> bool:
        """Returns whether a file is COCO's: captions have no categories."""
        pictures = re.search(rb'"images"\s*:\s*\[|"file_name"', ends)
        classes = re.search(rb'"categories"\s*:\s*\[|"category_id"', ends)
        return ends.startswith(b"{") and bool(pictures and classes)

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        files = self.found(place).items()
        wholes = {name: checked(json_of(place, path), dict, name) for name, path in files}
        # some list pictures alone: image_info_test2017.json
        wholes = {name: one for name, one in wholes.items() if one.get("annotations")} or wholes
        splits = {name: split_of_file(name) for name in wholes}
        _check_splits(place, splits)
        known: dict[str, None] = {}  # classes in the order of their ids, the first file's first
        entries: list[Entry] = []
        for name, whole in wholes.items():
            names = _categories(whole, name)
            known |= dict.fromkeys(names.values())
            entries += _entries(whole, name, names, splits[name])
        return reading_of(self.name, wholes, entries, place, options, [*known])


def _check_splits(place: Place, splits: Mapping[str, str]) -> None:
    """Refuses several files for one split, or for none.

    Raises:
        DataError: There are some.
    """
    for split, count in Counter(splits.values()).items():
        if count > 1:
            files = [name for name in splits if splits[name] == split]
            raise DataError(
                f"{place.root} has several COCO files for {split or 'no split'}: "
                f"{a_few(files, 5)}; name the one to read as data.root, or move the others "
                "elsewhere"
            )


def _categories(whole: Mapping[str, Any], file: str) -> dict[object, str]:
    """Returns the names of the categories by their ids, in the order of the ids.

    Raises:
        DataError: One has no name, or no number of its own.
    """
    found: dict[int, str] = {}
    for number, one in enumerate(checked(whole.get("categories"), list, f"{file}, categories")):
        where = f"{file}, category {number}"
        category = checked(one, dict, where)
        key = checked(category.get("id"), int, f"{where}, id")
        name = checked(category.get("name"), str, f"{where}, name")
        if key in found or not name.strip():
            raise DataError(
                f"{where}: id {key}, name {shown(name)}; expected an id of its own and a name"
            )
        found[key] = name
    return dict(sorted(found.items()))


def _entries(
    whole: Mapping[str, Any], file: str, names: Mapping[object, str], split: str
) -> Iterator[Entry]:
    """Yields what a file says of each of its images."""
    images = _images(whole, file)
    categories = _annotated(whole, file, images, names)
    folder = str(PurePosixPath(file).parent).removeprefix(".")
    part = PurePosixPath(file).stem.rpartition("_")[2]  # instances_val2017 -> val2017
    for image, name in images.items():
        places = (f"images/{part}/{name}", f"{part}/{name}", f"images/{name}", f"data/{name}", name)
        where = f"{file}, image {printable(str(image), 40)}"
        labels = tuple(names[category] for category in categories.get(image, ()))
        yield Entry(where, places, labels, split, beside=folder)


def _images(whole: Mapping[str, Any], file: str) -> dict[object, str]:
    """Returns the names of the pictures by their ids.

    Raises:
        DataError: One has no name, or no id of its own.
    """
    found: dict[object, str] = {}
    for number, one in enumerate(checked(whole.get("images"), list, f"{file}, images")):
        where = f"{file}, image {number}"
        image = checked(one, dict, where)
        key = _key(image.get("id"))
        if key is None or key in found:
            raise DataError(f"{where}: id is {shown(image.get('id'))}; expected one of its own")
        found[key] = checked(image.get("file_name"), str, f"{where}, file_name")
    return found


def _annotated(
    whole: Mapping[str, Any], file: str, images: Container[object], names: Mapping[object, str]
) -> dict[object, list[object]]:
    """Returns the ids of the categories that each image has.

    Raises:
        DataError: An annotation is of an image or category that the file does not list, or two
            categories of one name are used.
    """
    found: dict[object, dict[object, None]] = defaultdict(dict)
    wrong: list[str] = []
    for number, one in enumerate(checked(whole.get("annotations"), list, f"{file}, annotations")):
        given = checked(one, dict, f"{file}, annotation {number}")
        image, category = _key(given.get("image_id")), _key(given.get("category_id"))
        if image in images and category in names:
            found[image][category] = None
        else:
            wrong.append(f"{number} (image_id {shown(image)}, category_id {shown(category)})")
    if wrong:
        raise DataError(
            f"{file}: annotations of images or categories that the file does not list: "
            f"{a_few(wrong, 5)}"
        )
    used = Counter(names[key] for key in {key for keys in found.values() for key in keys})
    if twice := [printable(name) for name, count in used.items() if count > 1]:
        raise DataError(
            f"{file}: several categories have one name: {a_few(twice, 5)}; give each its own"
        )
    return {image: list(keys) for image, keys in found.items()}


def _key(value: object) -> object:
    """Returns an id that can be looked up; None for what cannot be one."""
    return value if isinstance(value, int | str) else None
