"""What a person has said of pictures, kept on the disk after each answer.

A file of JSON lines that is only appended to: one line for each answer, each that is taken back,
and each picture that was put into its class's folder. Pictures are known by the SHA-256 of their
bytes, so that renaming or moving them changes nothing.
"""

import json
import os
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from vitlora.data.class_names import plain
from vitlora.data.layouts.label_names import is_folder_name
from vitlora.data.layouts.reading import normal, split_of
from vitlora.errors import DataError, UsageError, shown
from vitlora.files import lock
from vitlora.notes import warn

FILE = ".vitlora-sort.jsonl"  # hidden, so that no layout takes it for a table of labels


def check_class(name: str, known: Collection[str]) -> str:
    """Returns a class's name as it is stored.

    Args:
        name: As it was typed.
        known: The classes there are.

    Raises:
        DataError: No folder can have this name, ``fit`` would read it as a split, or it is another
            spelling of a known class.
    """
    name = normal(name.strip())
    if name in known:
        return name
    if not is_folder_name(name):
        raise DataError(
            f"a class cannot be called {shown(name)}; expected a name that a folder can have: a "
            'line of text without / or \\, no . at the beginning, and on Windows none of <>:"|?*'
        )
    if split := split_of(name):
        raise DataError(
            f"a class cannot be called {shown(name)}: fit reads it as the {split} split"
        )
    if other := next((one for one in known if plain(one) == plain(name)), None):
        raise DataError(f"{shown(name)} looks like the class {shown(other)}; choose that one")
    return name


class Journal:
    """The answers of a folder of labelled pictures.

    Args:
        folder: The folder; it is created with the first answer.

    Attributes:
        labels: Class by digest of the picture; None for one that was skipped.
        filed: Where pictures were put, relative to the folder, by digest.

    Raises:
        DataError: A line of the file is not what ``Journal`` writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / FILE
        self.labels: dict[str, str | None] = {}
        self.filed: dict[str, str] = {}
        self._whole, self._bytes = True, 0
        self._opened: FileIO | None = None
        self._read()
        self._folders = sorted(_class_folders(folder))

    def answer(self, digest: str, name: str, label: str | None) -> None:
        """Records a picture's class; None if it was skipped."""
        self._append({"sha256": digest, "picture": name, "class": label})
        self.labels[digest] = label

    def take_back(self, digest: str) -> None:
        """Records that there is no answer any more."""
        self._append({"sha256": digest, "undo": True})
        self.labels.pop(digest, None)

    def file_as(self, digest: str, place: str) -> None:
        """Records where a picture was put, relative to the folder."""
        self._append({"sha256": digest, "filed": place})
        self.filed[digest] = place

    @property
    def classes(self) -> list[str]:
        """The classes that have a folder already, then those of the answers, each once."""
        given = (label for label in self.labels.values() if label is not None)
        return [*dict.fromkeys([*self._folders, *given])]

    @property
    def waiting(self) -> dict[str, str]:
        """Class by digest of the pictures that were answered and not put into a folder yet."""
        pairs = self.labels.items()
        return {d: label for d, label in pairs if label is not None and d not in self.filed}

    def _append(self, line: dict[str, object]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(line, ensure_ascii=True) + "\n"
        text, self._whole = (text if self._whole else f"\n{text}"), False
        file = self._opened = self._opened or self._locked()
        left = text.encode("ascii")
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
        self._whole = True

    def _locked(self) -> FileIO:
        """Opens the file for this process alone.

        Raises:
            UsageError: Another process writes it, or has written it since it was read.
        """
        file = FileIO(self.file, "a")  # without a buffer, which would keep what a full disk refused
        if lock(file.fileno()) and self.file.stat().st_size == self._bytes:
            return file
        file.close()
        raise UsageError(
            f"another vitlora sort writes to {self.folder}; end it, then start this one again"
        )

    def _read(self) -> None:
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return
        self._bytes = len(data)
        self._whole = not data or data.endswith(b"\n")
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                self._take(json.loads(line))
            except json.JSONDecodeError:  # a write that was interrupted
                warn(f"{self.file}, line {number} is torn; its picture is asked again")
            except (AttributeError, KeyError, TypeError, ValueError, RecursionError, DataError):
                raise DataError(
                    f"{self.file}, line {number}: expected what vitlora sort writes, got "
                    f"{shown(line.decode('utf-8', 'replace'))}; repair or delete the line"
                ) from None

    def _take(self, line: Any) -> None:
        digest = line["sha256"]
        if not isinstance(digest, str):
            raise TypeError
        if "filed" in line:
            self.filed[digest] = str(line["filed"])
        elif "undo" in line:
            self.labels.pop(digest, None)
        else:
            label = line["class"]
            self.labels[digest] = label if label is None else check_class(label, ())


def _class_folders(folder: Path) -> Iterator[str]:
    """Yields the names of the folders in a folder that can be a class's."""
    if folder.is_dir():
        names = (normal(path.name) for path in folder.iterdir() if path.is_dir())
        yield from filter(is_folder_name, names)
