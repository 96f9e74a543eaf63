"""The pictures that a table or an export names, found where they lie."""

from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

from vitlora.data.layouts.reading import LayoutOptions, Place, normal
from vitlora.errors import DataError, UsageError, a_few, printable


class Lookup:
    """Finds pictures by the names that others gave them.

    A name may be relative to the folder of the pictures or to the file that holds it, absolute,
    written on another machine or in Windows' way, and lack its ending. What a name's last parts
    have in common with exactly one picture is that picture.

    Args:
        place: Where the table or export lies.
        options: ``images`` says where the pictures lie, if elsewhere.

    Raises:
        UsageError: ``images`` is not there.
    """

    def __init__(self, place: Place, options: LayoutOptions) -> None:
        self.place = place
        if options.images is not None:
            root = Path(options.images).expanduser()
            if not root.exists():
                raise UsageError(f"data.images '{root}': no such folder")
            self.place = Place(root)

    def find(self, name: str, beside: str = "", where: str = "") -> tuple[Path, str] | None:
        """Returns a picture's path and its name in the place; None if it is not there.

        Args:
            name: As it is written.
            beside: Folder of the file that holds the name, relative to the place.
            where: File and row for an error, as in ``labels.csv, line 3``.

        Raises:
            DataError: The name fits several pictures.
        """
        plain = self._plain(name)
        for full in (f"{beside}/{plain}" if beside else plain, plain):
            if full in self.place.pictures:
                return self.place.pictures[full], full
        return self._by_tail(plain, self._names, lambda n: n, where) or self._by_tail(
            plain, self._stems, lambda n: n.rpartition(".")[0], where
        )

    def _plain(self, name: str) -> str:
        """Returns a name with forward slashes, relative to the place if it lies there."""
        text = normal(name.strip())
        if "\\" in text or PureWindowsPath(text).drive:
            text = PureWindowsPath(text).as_posix()
        folder = normal(self.place.folder.absolute().as_posix())
        return PurePosixPath(text.removeprefix(f"{folder}/")).as_posix().lstrip("/")

    def _by_tail(
        self, plain: str, known: dict[str, list[str]], cut: Callable[[str], str], where: str
    ) -> tuple[Path, str] | None:
        """Returns the one picture that shares the most last parts with a name."""
        found = known.get(plain.rpartition("/")[2], [])
        parts = plain.split("/")
        for length in range(len(parts), 0, -1):
            tail = "/".join(parts[-length:])
            fitting = [name for name in found if f"/{cut(name)}".endswith(f"/{tail}")]
            if len(fitting) == 1:
                return self.place.pictures[fitting[0]], fitting[0]
            if fitting:
                raise DataError(
                    f"{where or self.place.root}: '{printable(plain)}' could be any of "
                    f"{a_few(fitting, 3)}; write the path from {self.place.folder} on"
                )
        return None

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.place.pictures:
            found[name.rpartition("/")[2]].append(name)
        return found

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.place.pictures:
            found[PurePosixPath(name).stem].append(name)
        return found
