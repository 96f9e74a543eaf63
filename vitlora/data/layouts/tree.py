"""The folders of a place, and in which of them classes or splits begin."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitlora.data.layouts.reading import Place, split_of
from vitlora.errors import DataError


@dataclass
class Node:
    """A folder.

    Attributes:
        folders: Those in it, by name.
        own: How many pictures lie directly in it.
    """

    folders: "dict[str, Node]" = field(default_factory=dict)
    own: int = 0

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures in it or below."""
        return bool(self.own) or any(node.has_pictures for node in self.folders.values())

    @property
    def filled(self) -> "dict[str, Node]":
        """Its folders that hold pictures."""
        return {name: node for name, node in self.folders.items() if node.has_pictures}

    @property
    def is_group(self) -> bool:
        """Whether it holds no pictures of its own, but several folders of them."""
        return not self.own and len(self.filled) > 1


class Tree:
    """The folders of a place, and in which of them classes or splits begin.

    Attributes:
        place: The place.
        base: Name of the folder they begin in, with a slash behind, below folders that hold but
            one other; empty for the place itself.
        top: That folder.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.base, self.top = place, "", Node()
        for name in place.folders:
            self._node(name.split("/"))
        for name in place.pictures:
            self._node(name.split("/")[:-1]).own += 1
        while not self.top.own and len(self.top.folders) == 1:
            ((name, only),) = self.top.folders.items()
            if split_of(name) or only.own or not only.folders:
                break
            self.base, self.top = f"{self.base}{name}/", only
        for name, count in Counter(place.folders).items():
            if count > 1:
                raise DataError(
                    f"{place.folder} has two folders named '{name}', their accents written in "
                    "different Unicode forms; move the pictures of one into the other"
                )

    @property
    def path(self) -> Path:
        """The folder that classes or splits begin in."""
        return self.place.folder / self.base

    def _node(self, parts: Sequence[str]) -> Node:
        node = self.top
        for part in parts:
            node = node.folders.setdefault(part, Node())
        return node

    def inside(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yields files below the base, each with the folders it lies in."""
        for name in names:
            if name.startswith(self.base):
                yield name, tuple(name.removeprefix(self.base).split("/")[:-1])
