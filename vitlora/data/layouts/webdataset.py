"""webdataset's shards: tar files in which ``000017.jpg`` has its label in ``000017.cls``."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from vitlora.data.archives import is_archive, members, read_files
from vitlora.data.layouts.label_names import named, names_in
from vitlora.data.layouts.reading import Labelled, LayoutOptions, Place, Reading, normal
from vitlora.data.layouts.shards import shard_splits
from vitlora.data.listing import SUFFIXES
from vitlora.errors import DataError, a_few, counted, printable, shown

_NAMES = ("classes.txt",)
_KEYS = ("label", "cls", "class")  # of a JSON file's label
_MOST_BYTES = 2**20  # of a file with a label


class WebDataset:
    """Pictures in tar files, each with a file of the same key for its label."""

    name: ClassVar[str] = "webdataset"
    what: ClassVar[str] = (
        "tar shards in which 000017.jpg has its label in 000017.cls, .json or .txt"
    )
    uses: ClassVar[tuple[str, ...]] = ("label_column", "label_names")

    def recognises(self, place: Place, options: LayoutOptions) -> bool:
        """See ``Layout``. Captions beside pictures in class folders are not labels."""
        tars = _tars(place)
        if not tars or (place.pictures and place.folder not in tars):
            return False
        samples = _TarShard(tars[0], place).samples
        kinds = {kind for sample in samples.values() for kind in sample.labels if sample.picture}
        folders = {key.rpartition("/")[0] for key in samples}
        return "cls" in kinds or (bool(kinds) and len(folders) == 1)

    def read(self, place: Place, options: LayoutOptions) -> Reading:
        """See ``Layout``."""
        shards = [_TarShard(path, place) for path in _tars(place)]
        if not shards:
            raise DataError(f"{place.root} holds no tar files; expected shard-000000.tar and so on")
        splits = shard_splits([shard.name for shard in shards], place)
        for shard in shards:
            shard.check_keys()
        kind = _kind(shards, options)
        labels = {name: label for shard in shards for name, label in shard.labels(kind, options)}
        names = names_in(place, options, _NAMES)
        labels = named(labels, names, options.label_names or _NAMES[0])
        pictures = [
            Labelled(shard.path / picture, name, labels[name], splits[shard.name])
            for shard in shards
            for name, picture in shard.pictures.items()
            if labels[name]
        ]
        pictures.sort(key=lambda one: one.name)
        bare = len(labels) - len(pictures)
        notes = (f"{counted(bare, 'picture')} without a label not used",) if bare else ()
        read_from = (*(shard.name for shard in shards), *_NAMES)
        return Reading(
            self.name, f".{kind} files", pictures, names or None, {}, (), notes, read_from
        )


@dataclass
class _Sample:
    """The files of one key.

    Attributes:
        pictures: Names in the shard.
        labels: Name of the file with the label, by its kind: ``cls``, ``json``, ``txt``.
    """

    pictures: list[str]
    labels: dict[str, str]

    @property
    def picture(self) -> str:
        """The first picture; empty where there is none."""
        return self.pictures[0] if self.pictures else ""


class _TarShard:
    """A tar file.

    Args:
        path: Where it lies.
        place: The place that is read.
    """

    def __init__(self, path: Path, place: Place) -> None:
        self.path = path
        self._alone = path == place.folder
        self.name = path.name if self._alone else place.name(path)
        found: dict[str, _Sample] = defaultdict(lambda: _Sample([], {}))
        for name in members(path):
            folder, slash, file = name.rpartition("/")
            stem, dot, ending = file.partition(".")  # webdataset's rule: the FIRST dot
            if not stem or not dot:
                continue
            sample = found[f"{folder}{slash}{stem}"]
            if PurePosixPath(file).suffix.lower() in SUFFIXES:
                sample.pictures.append(name)
            elif ending.lower() in ("cls", "json", "txt"):
                sample.labels[ending.lower()] = name
        self.samples: dict[str, _Sample] = {k: s for k, s in found.items() if s.pictures}

    @property
    def kinds(self) -> set[str]:
        """The kinds of files with labels that its pictures have."""
        return {kind for sample in self.samples.values() for kind in sample.labels}

    @cached_property
    def pictures(self) -> dict[str, str]:
        """Names of its pictures in it, by their names in the place."""
        before = "" if self._alone else f"{self.name}/"
        return {normal(f"{before}{one.picture}"): one.picture for one in self.samples.values()}

    def check_keys(self) -> None:
        """Refuses two pictures of one key, or of one name: whose the label is, nobody knows.

        Raises:
            DataError: There are such pictures.
        """
        if len(self.pictures) < len(self.samples):
            raise DataError(
                f"{self.path} holds two pictures of one name, their accents written in different "
                "Unicode forms; pack it anew"
            )
        shared = [(key, s.pictures) for key, s in self.samples.items() if len(s.pictures) > 1]
        if shared:
            key, pictures = shared[0]
            raise DataError(
                f"{self.path}: {a_few(map(printable, pictures), 3)} are one sample, "
                f"'{printable(key)}', as webdataset's key ends at the first dot; so are the "
                f"pictures of {len(shared) - 1:,} more keys. Rename them without further dots, or "
                "unpack them into class folders"
            )

    def has_label_in_json(self) -> bool:
        """Returns whether its first JSON file has a label."""
        file = next(s.labels["json"] for s in self.samples.values() if "json" in s.labels)
        (data,) = read_files(self.path, [file])
        try:
            return any(key in json.loads(data) for key in _KEYS)
        except (ValueError, RecursionError, TypeError):
            return False

    def labels(self, kind: str, options: LayoutOptions) -> Iterator[tuple[str, str]]:
        """Yields the name of each picture in the place and its label, empty where it has none."""
        files = [one.labels[kind] for one in self.samples.values() if kind in one.labels]
        texts = zip(files, read_files(self.path, files), strict=True)
        found = {file: _label(data, kind, f"{self.path}/{file}", options) for file, data in texts}
        for name, sample in zip(self.pictures, self.samples.values(), strict=True):
            yield name, found.get(sample.labels.get(kind, ""), "")


def _tars(place: Place) -> list[Path]:
    """Returns the tar files that a place is or holds."""
    if is_archive(place.folder):
        return [place.folder] if place.folder.suffix.lower() == ".tar" else []
    if place.file:
        return []
    tars = [path for name, path in place.others.items() if name.lower().endswith(".tar")]
    return [path for path in tars if is_archive(path)]  # not those inside a zip


def _kind(shards: list[_TarShard], options: LayoutOptions) -> str:
    """Returns the kind of files that the labels are in: ``.json`` without one counts least.

    Raises:
        DataError: There are none, or ``label_column`` is given and there is no ``.json``.
    """
    kinds = {kind: shard for shard in shards for kind in shard.kinds}
    if options.label_column is None:
        if "cls" in kinds:
            return "cls"
        if "txt" in kinds and not ("json" in kinds and kinds["json"].has_label_in_json()):
            return "txt"
    if "json" in kinds:
        return "json"
    wanted = ".json" if options.label_column else ".cls, .json or .txt"
    raise DataError(
        f"{a_few((str(s.path) for s in shards), 2)}: no picture has a {wanted} file of its key "
        f"with its label; expected 000017{wanted[:5].rstrip(',')} beside 000017.jpg"
    )


def _label(data: bytes, kind: str, where: str, options: LayoutOptions) -> str:
    """Returns the label that a file holds; empty for none.

    Raises:
        DataError: It is not UTF-8, not one label, or too large to be one.
    """
    if len(data) > _MOST_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes; expected a label")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8; expected a label as text") from None
    if kind == "json":
        return _of_json(text, where, options)
    if "\n" in text:
        raise DataError(f"{where}: {shown(text)} is several lines; expected a label in one line")
    return normal(text)


def _of_json(text: str, where: str, options: LayoutOptions) -> str:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f'{where}: not JSON; expected {{"label": ...}}') from None
    if not isinstance(content, Mapping):
        raise DataError(f'{where}: {shown(content)}; expected {{"label": ...}}')
    wanted = options.label_column
    key = next((key for key in ((wanted,) if wanted else _KEYS) if key in content), None)
    if key is None:
        raise DataError(
            f"{where} has no {shown(wanted or 'label')}; found "
            f"{a_few((printable(k, 40) for k in content), 8)}: name one with data.label_column"
        )
    label = content[key]
    if isinstance(label, list):
        raise DataError(
            f"{where}: '{key}' is a list; several labels a picture are not supported yet"
        )
    if label is None or isinstance(label, str):
        return normal((label or "").strip())
    if isinstance(label, int):
        return json.dumps(label)
    raise DataError(f"{where}: '{key}' is {shown(label)}; expected text or a whole number")
