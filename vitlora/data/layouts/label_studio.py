"""Label Studio's exports JSON and JSON-MIN, of pictures with choices."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import ClassVar
from urllib.parse import parse_qs, unquote

from vitlora.data.layouts.entries import Entry
from vitlora.data.layouts.exports import Export, checked, json_of, reading_of
from vitlora.data.layouts.label_studio_tasks import Task, agreed, tasks_in
from vitlora.data.layouts.lookup import Lookup
from vitlora.data.layouts.reading import COLUMNS, LayoutOptions, Place, Reading
from vitlora.data.listing import SUFFIXES
from vitlora.errors import DataError, a_few, counted, printable

_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # what it puts before the name of an uploaded file
_SPLIT = "split"  # the field that names splits, unless data.split_column is another


class LabelStudio(Export):
    """A list of tasks with annotations (JSON), or of entries with a choice each (JSON-MIN).

    As https://labelstud.io/guide/export and https://labelstud.io/guide/task_format describe them,
    and as label-studio-sdk 2.1.2 writes JSON-MIN (``label_studio_sdk/converter/converter.py``).

    - Predictions, drafts, cancelled annotations and choices that belong to a region are not
      labels.
    - Of one annotator the newest annotation counts. Several annotators must agree, unless an
      annotation is the ground truth: then it counts alone. JSON-MIN does not say which is.
    - A picture is known by the end of its path or address, with or without the eight digits that
      Label Studio puts before the name of an uploaded file.
    """

    name: ClassVar[str] = "label_studio"
    what: ClassVar[str] = "Label Studio's export as JSON or JSON-MIN, with choices"
    uses: ClassVar[tuple[str, ...]] = ("images", *COLUMNS)
    wanted: ClassVar[str] = "export of Label Studio, as JSON or JSON-MIN"

    def is_one(self, ends: bytes) -> bool:
        """See ``Export``."""
        full = b'"annotations"' in ends or b'"completions"' in ends
        return bool(re.match(rb"\[\s*\{", ends)) and (full or b'"annotation_id"' in ends)

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        files = self.found(place)
        if len(files) > 1:
            raise DataError(
                f"{place.root} has several exports of Label Studio ({a_few(files, 5)}); name the "
                "one to read as data.root"
            )
        ((file, path),) = files.items()
        tasks = tasks_in(checked(json_of(place, path), list, file), file)
        lookup = Lookup(place, options)
        entries = list(_entries(tasks, file, lookup, options))
        return reading_of(self.name, files, entries, place, options)


def _entries(
    tasks: Sequence[Task], file: str, lookup: Lookup, options: LayoutOptions
) -> Iterator[Entry]:
    """Yields what an export says of each picture.

    Raises:
        DataError: Annotators disagree, or it is not clear which fields to read.
    """
    fields = dict.fromkeys(key for task in tasks for key in task.data)
    picture = _picture_field(tasks, fields, file, options)
    split = options.column("split", fields, file) or _SPLIT
    group = options.column("group", fields, file)
    question = _question(tasks, {picture, split, group}, file, options)
    names = _Names(lookup)
    disagreed: list[str] = []
    for task in tasks:
        said = agreed(task.answers, question)
        if len(said) > 1:
            parts = " or ".join(printable(" + ".join(one), 40) for one in sorted(said))
            disagreed.append(f"{task.where.rpartition(', ')[2]} ({parts})")
        labels = next(iter(said), ())
        called = task.data.get(picture)
        yield Entry(
            task.where,
            names.of(called if isinstance(called, str) else ""),
            labels,
            _text(task.data.get(split)),
            _text(task.data.get(group)) if group else "",
        )
    if disagreed:
        raise DataError(
            f"{file}: annotators disagree on {len(disagreed):,} of {counted(len(tasks), 'picture')}"
            f": {a_few(disagreed, 5)}; in Label Studio, make one annotation of each the ground "
            "truth and export JSON, or delete the others"
        )


def _picture_field(
    tasks: Sequence[Task], fields: Mapping[str, None], file: str, options: LayoutOptions
) -> str:
    """Returns the field that names the pictures.

    Raises:
        UsageError: There is none of the name given.
        DataError: None or several look like it.
    """
    if given := options.column("file", fields, file):
        return given
    found = {k: None for task in tasks for k, value in task.data.items() if _is_picture(value)}
    if len(found) != 1:
        raise DataError(
            f"{file}: {_listed(found or fields)} may name the pictures; expected one field with "
            "names of pictures, choose with data.file_column"
        )
    return next(iter(found))


def _question(
    tasks: Sequence[Task], others: Iterable[str], file: str, options: LayoutOptions
) -> str:
    """Returns the question whose choices are the classes.

    Raises:
        UsageError: There is none of the name given.
        DataError: There are none or several.
    """
    asked = {key: None for task in tasks for one in task.answers for key in one.choices}
    found = {key: None for key in asked if key not in {*others}}
    if given := options.column("label", asked, file):
        return given
    if not found:
        raise DataError(
            f"{file}: no annotation has choices; boxes, texts and predictions give no class to an "
            "image. If a field of the same name was imported, export JSON instead of JSON-MIN"
        )
    if len(found) > 1:
        raise DataError(
            f"{file}: {_listed(found)} may hold the classes; choose with data.label_column"
        )
    return next(iter(found))


def _listed(fields: Iterable[str]) -> str:
    return a_few((f"'{printable(field, 40)}'" for field in fields), 8)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _is_picture(value: object) -> bool:
    return isinstance(value, str) and PurePosixPath(_path(value)).suffix.lower() in SUFFIXES


def _path(address: str) -> str:
    """Returns the path of a file, whose address may be one of Label Studio's or of a server."""
    if address.startswith("/data/local-files/"):
        return parse_qs(address.partition("?")[2]).get("d", [""])[0]
    if "://" in address:
        path = address.partition("://")[2].partition("/")[2]
        return unquote(re.split("[?#]", path)[0])
    return unquote(address) if address.startswith("/data/") else address


class _Names:
    """How pictures may be called where they lie, by what Label Studio calls them."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    def of(self, address: str) -> tuple[str, ...]:
        """Returns the names that a picture may have, the likeliest first."""
        path = _path(address)
        # Label Studio's document root lies above the folder that it reads pictures from
        above = f"{self._lookup.place.folder.absolute().name}/"
        inside = (path.removeprefix(above),) if path.startswith(above) else ()
        folder, slash, last = path.rpartition("/")
        if not (prefix := _PREFIX.match(last)):
            return (path, *inside)
        plain = last[prefix.end() :]
        stored = self._stored.get(plain, [])
        return (path, *inside, *(stored if len(stored) == 1 else ()), f"{folder}{slash}{plain}")

    @cached_property
    def _stored(self) -> dict[str, list[str]]:
        """Names in the place by what becomes of their last part on uploading: ``a_b.jpg``."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self._lookup.place.pictures:
            last = name.rpartition("/")[2]
            found[re.sub(r"[^-\w.]", "", last.strip().replace(" ", "_"))].append(name)
        return found
