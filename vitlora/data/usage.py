"""How trainings used pictures, known by their content: renaming or moving them changes nothing."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from vitlora.data.archives import open_file
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError

# Of a file's SHA-256. One of 10,000 other pictures agrees with one of 100,000 in 1 of 1,100 cases.
_BYTES = 5
_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Usage:
    """How a network's training, and the ones it continued, used their pictures.

    Attributes:
        train: First 5 bytes of the SHA-256 of each file that was trained on.
        val: The same for validation.
        test: The same for testing.
        whole: Whether all trainings are included; False if one continued a bundle without a record.
    """

    train: frozenset[bytes] = frozenset()
    val: frozenset[bytes] = frozenset()
    test: frozenset[bytes] = frozenset()
    whole: bool = True

    def side(self, content: bytes | None) -> str | None:
        """Returns ``train``, ``val`` or ``test``; None for a picture that is new.

        The first of these counts for a picture that was used for several.
        """
        return next((part for part in _PARTS if content in getattr(self, part)), None)

    def joined(self, other: "Usage") -> "Usage":
        """Returns the pictures of both."""
        both = {part: getattr(self, part) | getattr(other, part) for part in _PARTS}
        return Usage(**both, whole=self.whole and other.whole)

    def to_bytes(self) -> bytes:
        """Returns a safetensors file: a sorted ``(N, 5)`` uint8 for each part."""
        tensors = {part: _rows(getattr(self, part)) for part in _PARTS}
        return save(tensors if self.whole else {**tensors, "partial": np.ones(1, np.uint8)})

    @classmethod
    def from_bytes(cls, content: bytes) -> "Usage":
        """Reads what ``to_bytes`` wrote.

        Raises:
            ValueError: Its tensors are not those of a ``Usage``.
            SafetensorError: It is not a safetensors file.
        """
        tensors = load(content)
        whole = tensors.pop("partial", None) is None
        if tensors.keys() != set(_PARTS):
            raise ValueError(f"expected the parts {', '.join(_PARTS)}, got {', '.join(tensors)}")
        for rows in tensors.values():
            if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _BYTES:
                raise ValueError(f"expected uint8 (N, {_BYTES}), got {rows.dtype} {rows.shape}")
        return cls(**{part: _set(rows) for part, rows in tensors.items()}, whole=whole)


def contents(paths: Iterable[Path]) -> dict[Path, bytes]:
    """Returns the first bytes of each file's SHA-256; a file that cannot be opened is left out."""

    def read(path: Path) -> bytes | None:
        try:
            with open_file(path) as file:
                return content_of(hashlib.file_digest(file, "sha256").digest())
        except (OSError, DataError):
            return None

    paths = list(paths)
    found = zip(paths, in_threads(read, paths, f"hashing {len(paths):,} files"), strict=True)
    return {path: content for path, content in found if content is not None}


def content_of(digest: bytes) -> bytes:
    """Returns the part of a SHA-256 that ``Usage`` keeps."""
    return digest[:_BYTES]


def used(parts: Mapping[str, Iterable[bytes]]) -> Usage:
    """Returns the usage of one training from the contents of its splits."""
    train, val, test = (frozenset(parts.get(part, ())) for part in _PARTS)
    return Usage(train, val, test)


def _rows(contents: Iterable[bytes]) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    return np.frombuffer(b"".join(sorted(contents)), np.uint8).reshape(-1, _BYTES)


def _set(rows: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> frozenset[bytes]:
    raw = rows.tobytes()
    return frozenset(raw[start : start + _BYTES] for start in range(0, len(raw), _BYTES))
