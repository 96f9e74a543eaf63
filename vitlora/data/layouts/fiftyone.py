"""FiftyOne's ``labels.json`` beside a folder ``data/``."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from vitlora.data.layouts.entries import Entry
from vitlora.data.layouts.exports import Export, Files, checked, json_of, reading_of
from vitlora.data.layouts.label_names import checked_names
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, split_of
from vitlora.errors import DataError, printable, shown


class FiftyOne(Export):
    """``{"classes": [...], "labels": {"name of a picture without its ending": a class}}``.

    What FiftyOne calls a FiftyOneImageClassificationDataset, as version 1.22.1 writes it
    (``FiftyOneImageClassificationDatasetExporter`` in ``fiftyone/utils/data/exporters.py``). A
    class is the number of its name in ``classes``, or the name itself; with confidences it is an
    object, and for a picture of several classes a list. Each folder that holds a ``labels.json``
    may be a split by its name.
    """

    name: ClassVar[str] = "fiftyone"
    what: ClassVar[str] = "FiftyOne's labels.json for classification"
    wanted: ClassVar[str] = (
        "labels.json with the keys classes and labels, which FiftyOneImageClassificationDataset "
        "writes"
    )

    def is_one(self, ends: bytes) -> bool:
        """Returns whether a file begins with classes and labels: no boxes, no lists of images."""
        if not re.match(rb'\{\s*"classes"\s*:\s*(null\s*,|\[)', ends):
            return False
        return b'"bounding_box"' not in ends and b'"images"' not in ends

    def files(self, place: Place) -> Files:
        """Returns the exports in a place, which are called ``labels.json`` unless one is named."""
        files = super().files(place)
        usual = {name: path for name, path in files.items() if name.endswith("labels.json")}
        return files if place.file else usual

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        files = self.found(place)
        known: list[str] = []
        entries: list[Entry] = []
        for file, path in files.items():
            whole = checked(json_of(place, path), dict, file)
            names = checked(whole.get("classes") or [], list, f"{file}, classes")
            classes = checked_names(names, f"{file}, classes")
            known += [name for name in classes if name not in known]
            folder = str(PurePosixPath(file).parent).removeprefix(".")
            split = folder.rpartition("/")[2]
            split = split if len(files) > 1 or split_of(split) else ""
            for key, value in checked(whole.get("labels"), dict, f"{file}, labels").items():
                where = f"{file}, {printable(key, 80)}"
                labels = _labels(value, classes, where)
                entries.append(Entry(where, (f"data/{key}", key), labels, split, beside=folder))
        return reading_of(self.name, files, entries, place, options, known or None)


def _labels(value: object, classes: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the classes of a picture: none for null.

    Raises:
        DataError: It is none of the kinds that FiftyOne writes, or a number without a name.
    """
    values = value if isinstance(value, list) else [value]
    names = (_name(one, classes, where) for one in values)
    return tuple(dict.fromkeys(name for name in names if name.strip()))


def _name(value: object, classes: Sequence[str], where: str) -> str:
    if isinstance(value, dict):
        value = value.get("label")
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: the label is {shown(value)}; expected text or a whole number")
    if not classes:
        return str(value)
    if not 0 <= value < len(classes):
        raise DataError(
            f"{where}: the label is {shown(value, 30)}; expected a number from 0 to "
            f"{len(classes) - 1}, since the file names {len(classes)} classes"
        )
    return classes[value]
