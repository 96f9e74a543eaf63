"""Pictures whose class a person corrected, kept as they were sent. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vitlora.data.layouts.label_names import is_folder_name
from vitlora.data.layouts.reading import normal
from vitlora.data.listing import SUFFIXES
from vitlora.errors import DataError, UsageError, a_few
from vitlora.labelling.filing import check_labelled, file_content
from vitlora.labelling.inbox import digest_of
from vitlora.labelling.journal import check_class
from vitlora.serving.limits import Refusal

if TYPE_CHECKING:
    from vitlora.serving.service import Upload  # imports torch


class Corrected(NamedTuple):
    """A picture that was kept.

    Attributes:
        place: Its file.
        label: Its class.
        new: Whether the adapter does not know the class.
    """

    place: Path
    label: str
    new: bool


class Corrections:
    """Folders of corrected pictures, one folder for each class.

    With several adapters each has a folder of its own in the one that is named. Not thread-safe:
    ``Service.open`` lets one thread keep pictures.

    Args:
        folder: Where they are kept; it is created with the first.
        adapters: Names of the adapters.

    Attributes:
        folders: Folder of the classes by the adapter's name.

    Raises:
        UsageError: The folder cannot be used, or an adapter's name cannot be a folder's.
    """

    def __init__(self, folder: Path, adapters: Sequence[str]) -> None:
        self.folders = {name: folder / name if len(adapters) > 1 else folder for name in adapters}
        if len(adapters) > 1 and (odd := [name for name in adapters if not is_folder_name(name)]):
            raise UsageError(f"no folder can be called {a_few(odd)}; write NAME=DIR")
        for one in self.folders.values():
            check_labelled(one, "--corrections")
        self._kept: dict[tuple[str, str], Path] = {}

    @property
    def counts(self) -> Counter[str]:
        """Pictures that were kept, by adapter."""
        return Counter(adapter for adapter, _ in self._kept)

    def keep(self, upload: Upload, adapter: str, label: str, classes: Collection[str]) -> Corrected:
        """Writes a picture into the folder of its class, and never over another.

        The same picture again, with another class, is taken out of the class that it had.

        Args:
            upload: The picture.
            adapter: Name of the adapter that was wrong.
            label: The right class.
            classes: Those of the adapter.

        Raises:
            Refusal: The class's name cannot be a folder's, or the picture cannot be written.
        """
        folder = self.folders[adapter]
        try:
            check_class(label, ())  # a bundle may have learnt any name
            label = check_class(label, [*classes, *_folders(folder)])
            place = file_content(upload.content, _file_name(upload.name), label, folder)
            self._forget(adapter, upload.content, place)
        except DataError as error:
            raise Refusal(422, str(error)) from None
        except OSError as error:
            raise Refusal(507, str(error.strerror or error)) from None
        return Corrected(place, label, label not in classes)

    def _forget(self, adapter: str, content: bytes, place: Path) -> None:
        key = adapter, hashlib.sha256(content).hexdigest()
        before, self._kept[key] = self._kept.get(key), place
        if before and before != place and before.is_file() and digest_of(before) == key[1]:
            before.unlink()
            with suppress(OSError):  # fit would take an empty folder for a class without pictures
                before.parent.rmdir()


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [normal(one.name) for one in folder.iterdir() if one.is_dir()]


def _file_name(sent: str) -> str:
    """Returns a name for a picture's file that fit takes for a picture's.

    Any other ending, such as a table's or an archive's, is made a part of the name.
    """
    name = re.split(r"[\\/]", sent)[-1].strip().lstrip(".")
    name = re.sub(r'[<>:"|?*]', "_", name)  # for Windows
    if Path(name).suffix.lower() not in SUFFIXES:
        name = name.replace(".", "_")
    return name or "picture"
