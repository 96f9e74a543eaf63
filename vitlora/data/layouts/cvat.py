"""CVAT's XML "for images": the tags of whole images are their classes."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar
from xml.parsers import expat

from vitlora.data.archives import open_file
from vitlora.data.layouts.entries import Entry
from vitlora.data.layouts.exports import Export, reading_of
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading, split_of
from vitlora.errors import DataError, counted, printable

_NAMES_OF_CLASSES = ["labels", "label", "name"]
_NO_SUBSET = "default"  # what CVAT writes for a task of a project that is in no subset


class Cvat(Export):
    """``<image name="1.jpg"><tag label="cat"/></image>``; boxes and tracks give no class.

    As https://docs.cvat.ai/docs/other/xml_format describes version 1.1, and as CVAT 2 writes it
    (``dump_as_cvat_annotation`` and ``_export_project`` in
    ``cvat/apps/dataset_manager/formats/cvat.py``): ``annotations.xml`` beside ``images/``, and in
    the export of a project ``images/SUBSET/``. Datumaro writes a file for each subset instead,
    ``train.xml``. CVAT's "ImageNet" is plain class folders.
    """

    name: ClassVar[str] = "cvat"
    what: ClassVar[str] = "CVAT for images 1.1, with tags"
    ending: ClassVar[str] = ".xml"
    wanted: ClassVar[str] = (
        ".xml that begins with <annotations>; in CVAT, export the task as 'CVAT for images 1.1'"
    )

    def is_one(self, ends: bytes) -> bool:
        """See ``Export``."""
        return b"<annotations" in ends[:4096]

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        files = self.found(place)
        parsed = [_Parsed(name, path) for name, path in files.items()]
        entries = [entry for one in parsed for entry in one.entries]
        if shapes := sum(one.shapes for one in parsed) * (not any(one.labels for one in entries)):
            raise DataError(
                f"{', '.join(files)}: {counted(shapes, 'shape')}, but no image has a tag; boxes, "
                "outlines and tracks give no class to an image. In CVAT, tag the images"
            )
        classes = dict.fromkeys(name for one in parsed for name in one.classes)
        return reading_of(self.name, files, entries, place, options, [*classes] or None)


class _Parsed:
    """What a file says, read from start to end without being held in memory as a whole.

    Attributes:
        entries: Of each image.
        classes: Names that the project or task has for classes, in its order.
        shapes: How many boxes, outlines and the like there are.

    Raises:
        DataError: It is not XML, or it declares entities, with which a small file can become a
            huge one or read others; CVAT writes none.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.entries: list[Entry] = []
        self.classes: dict[str, None] = {}
        self.shapes = 0
        self._file, self._folder = name, str(PurePosixPath(name).parent).removeprefix(".")
        self._split = split_of(PurePosixPath(name).stem) or ""
        self._open: list[str] = []
        self._image: Mapping[str, str] = {}
        self._tags: dict[str, None] = {}
        self._text: list[str] = []
        self._parser = parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        try:
            with open_file(path) as opened:
                parser.ParseFile(opened)
        except expat.ExpatError as error:
            raise DataError(f"{path}: not XML ({error})") from None
        except (LookupError, ValueError) as error:  # an encoding that Python does not have
            raise DataError(f"{path}: not XML ({printable(str(error))})") from None

    def _doctype(self, *_: object) -> None:
        raise DataError(
            f"{self._file}, line {self._parser.CurrentLineNumber}: a DOCTYPE, which CVAT does not "
            "write; such a file is not read. Remove it if you trust where the file comes from"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if self._open == ["annotations"] and tag == "image":
            self._image, self._tags = attributes, {}
        elif self._open == ["annotations", "image"] and tag == "tag":
            if (label := attributes.get("label", "")).strip():
                self._tags[label] = None
        elif self._open == ["annotations", "image"] or tag == "track":
            self.shapes += 1
        self._open.append(tag)
        self._text.clear()

    def _characters(self, text: str) -> None:
        if self._open[-3:] == _NAMES_OF_CLASSES:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        if self._open == ["annotations", "image"]:
            self.entries.append(self._entry())
        elif self._open[-3:] == _NAMES_OF_CLASSES and self._open[:2] == ["annotations", "meta"]:
            self.classes["".join(self._text)] = None
        self._open.pop()

    def _entry(self) -> Entry:
        name, subset = self._image.get("name", ""), self._image.get("subset", "")
        where = f"{self._file}, image {printable(self._image.get('id', '?'), 40)}"
        if not name:
            raise DataError(f"{where}: it has no name; expected the name of its file")
        places = [f"images/{subset}/{name}"] if subset else []
        places += [f"images/{self._split}/{name}"] if self._split else []
        places += [f"images/{name}", name]
        split = self._split or ("" if subset.lower() == _NO_SUBSET else subset)
        return Entry(where, tuple(places), tuple(self._tags), split, beside=self._folder)
