"""Which pictures of a folder are copies of one another: bytes first, then a perceptual hash.

The hash is the field's pHash: the signs of the lowest frequencies of a small grey picture, here
16 x 16 of 64 x 64 (bit for bit ``imagehash.phash(picture, 16)``). Written out because the DCT of a
mirrored or turned picture is the same numbers with other signs: one transform serves all eight
ways a picture can lie, where hashing each anew would take eight times as long.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.data.archives import open_file
from vitlora.data.bit_depth import ValueRange
from vitlora.data.hamming import ROWS, bits_apart, near_pairs
from vitlora.data.images import MemoryShortError, open_marked
from vitlora.data.value_range import find_range
from vitlora.data.waiting import in_threads, shown
from vitlora.errors import DataError

# On TrashNet every pair within 46 bits shows one scene twice, and the first that does not is 48
# apart; unrelated pictures are 128 apart. A new size or quality of the same file: about 10.
DISTANCE = 40

_SIDE, _KEPT = 64, 16  # pixels transformed, frequencies kept, along each axis
_CORRELATION = 0.8  # of the small grey pictures: 0.85 and more where TrashNet shows a scene twice
_COLOUR = 30.0  # of 255, in the worst of 16 patches: 11 and less there
_FLAT = 2.0  # standard deviation of grey, of 255: with less there is nothing to compare but bytes
_AT_ONCE = 8192  # pictures hashed at once; each takes 3 kB
_WAYS = tuple(product((False, True), repeat=3))  # transposed, mirrored, upside down
# the first waves of the cosine transform (DCT-II, orthonormal): (_KEPT, _SIDE)
_COSINES = np.cos(np.pi / _SIDE * np.outer(np.arange(_KEPT), np.arange(_SIDE) + 0.5))
_COSINES *= np.where(np.arange(_KEPT) == 0, np.sqrt(1 / _SIDE), np.sqrt(2 / _SIDE))[:, None]
_ODD = np.where(np.arange(_KEPT) % 2, -1, 1).astype(np.float32)  # mirroring turns odd waves over


@dataclass(frozen=True)
class Fingerprint:
    """The parts of a picture that are compared.

    Attributes:
        digest: SHA-256 of the file.
        frequencies: ``(16, 16)``, the lowest of the orthonormal 64 x 64 DCT of grey in [0, 255].
        colour: ``(4, 4, 2)``, red and blue less luminance of 16 patches, in [-255, 255].
        outside: Whether its values do not fit the range it was read with.
    """

    digest: bytes
    frequencies: NDArray[np.float32]
    colour: NDArray[np.float32]
    outside: bool = False

    @property
    def detail(self) -> float:
        """Standard deviation of the grey that is compared, 0 to 128."""
        return float(np.linalg.norm(self.frequencies.ravel()[1:])) / _SIDE


def near_duplicates(paths: Sequence[Path], distance: int = DISTANCE) -> list[int]:
    """Returns for each file the number of the group of copies it belongs to.

    Groups count 0, 1, 2 … by first appearance; a picture without a copy has one of its own. Copies
    are files of the same bytes, and pictures of the same look whatever their size, quality,
    lighting or format, mirrored or turned by quarters too. A file that cannot be read is a copy of
    its own bytes only. Who is grouped with whom does not depend on the order of the files.

    Args:
        paths: The files.
        distance: Bits of 256 in which the hashes of copies may differ.

    Raises:
        DataError: A file is missing or may not be read.
        MemoryShortError: There is too little memory for a picture, which may be good.
    """
    read = partial(fingerprint_or_bytes, value_range=find_range(paths).value_range)
    return group(list(in_threads(read, paths, f"reading {len(paths):,} pictures")), distance)


def fingerprints(
    paths: Iterable[Path], value_range: ValueRange | None = None
) -> tuple[dict[Path, Fingerprint], dict[Path, str]]:
    """Returns the fingerprints of pictures, and why the others cannot be decoded.

    JPEGs are decoded at a small scale, which still reads the whole file.

    Raises:
        MemoryShortError: There is too little memory for a picture, which may be good.
    """

    def read(path: Path) -> Fingerprint | str:
        try:
            return fingerprint(path, value_range)
        except MemoryShortError:
            raise
        except DataError as error:
            return str(error)

    paths = list(paths)
    prints = in_threads(read, paths, f"reading {len(paths):,} pictures")
    found = dict(zip(paths, prints, strict=True))
    return (
        {path: one for path, one in found.items() if isinstance(one, Fingerprint)},
        {path: line for path, line in found.items() if isinstance(line, str)},
    )


def fingerprint(path: Path, value_range: ValueRange | None = None) -> Fingerprint:
    """Returns the fingerprint of a picture file, which is decoded to its end.

    Args:
        path: The file.
        value_range: The values that become 0 and 255 in files deeper than 8 bits.

    Raises:
        DataError: The picture cannot be read.
    """
    opened = open_marked(path, _SIDE, value_range)
    return fingerprint_of(opened.image, _digest(path), opened.outside)


def fingerprint_of(image: Image.Image, digest: bytes, outside: bool = False) -> Fingerprint:
    """Returns the fingerprint of an upright RGB picture.

    Args:
        image: The picture.
        digest: SHA-256 of its file.
        outside: Whether its values lie outside the range it was read with.
    """
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    patches = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.float32)
    luminance = patches @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return Fingerprint(
        digest,
        (_COSINES @ np.asarray(grey, np.float64) @ _COSINES.T).astype(np.float32),
        np.array(patches[..., ::2] - luminance[..., None], np.float32),
        outside,
    )


def fingerprint_or_bytes(path: Path, value_range: ValueRange | None = None) -> Fingerprint:
    """Returns a picture's fingerprint; for a file that cannot be read, that of a flat picture.

    Raises:
        DataError: The file is missing or may not be read.
        MemoryShortError: There is too little memory for the picture, which may be good.
    """
    try:
        return fingerprint(path, value_range)
    except MemoryShortError:
        raise
    except DataError:
        nothing = np.zeros((_KEPT, _KEPT), np.float32)
        return Fingerprint(_digest(path), nothing, np.zeros((4, 4, 2), np.float32))


def group(prints: Sequence[Fingerprint], distance: int = DISTANCE) -> list[int]:
    """Returns the number of each fingerprint's group of copies, as :func:`near_duplicates`.

    A copy of a copy is in the same group, unless the groups' first pictures are themselves more
    than twice the distance apart: a film of a thing turning does not swallow the folder.
    """
    unique = {p.digest: p for p in sorted(prints, key=lambda p: (p.detail < _FLAT, p.digest))}
    place = {digest: index for index, digest in enumerate(unique)}
    different = list(unique.values())
    hashes = _hashes([p for p in different if p.detail >= _FLAT])  # those that come first
    first = np.arange(len(different))  # of each picture's group
    apart: set[tuple[int, int]] = set()  # first pictures that are never to be in one group
    blocks, count = near_pairs(hashes, distance), hashes.shape[-1]
    shown_blocks = shown(blocks, -(-count // ROWS), f"comparing {count:,} pictures")
    for way, i, j in chain.from_iterable(shown_blocks):
        for a, b in np.stack([i, j], axis=1)[first[i] != first[j]].tolist():
            low, high = sorted((int(first[a]), int(first[b])))
            if low == high or (low, high) in apart:
                continue
            if bits_apart(hashes[0, :, low, None], hashes[:, :, high].T).min() > 2 * distance:
                apart.add((low, high))
            elif _same_look(different[a], different[b], way):
                first[first == high] = low
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(first[place[p.digest]]), len(numbers)) for p in prints]


def _same_look(one: Fingerprint, other: Fingerprint, way: int) -> bool:
    """Returns whether contrast and colour, which the hash leaves out, agree too."""
    a, b = one.frequencies.copy(), _lain(other.frequencies, way)
    a[0, 0] = b[0, 0] = 0  # the mean: light is no difference
    transposed, mirrored, flipped = _WAYS[way]
    colour = other.colour.swapaxes(0, 1) if transposed else other.colour
    colour = colour[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    return bool(
        (a * b).sum() >= _CORRELATION * np.linalg.norm(a) * np.linalg.norm(b)
        and np.abs(one.colour - colour).max() <= _COLOUR
    )


def _lain(frequencies: NDArray[np.float32], way: int) -> NDArray[np.float32]:
    """Returns the frequencies ``(..., 16, 16)`` of pictures transposed, mirrored, upside down."""
    transposed, mirrored, flipped = _WAYS[way]
    turned = frequencies.swapaxes(-1, -2) if transposed else frequencies
    turned = turned * _ODD if mirrored else turned.copy()
    return turned * _ODD[:, None] if flipped else turned


def _hashes(prints: Sequence[Fingerprint]) -> NDArray[np.uint64]:
    """Returns ``(8, 4, N)``: the 4 x 64 bits of each picture's hash, for each way it can lie."""
    hashes = np.empty((len(_WAYS), 4, len(prints)), np.uint64)
    for start in range(0, len(prints), _AT_ONCE):
        some = np.stack([print_.frequencies for print_ in prints[start : start + _AT_ONCE]])
        for way in range(len(_WAYS)):
            lain = _lain(some, way).reshape(len(some), _KEPT**2)
            bits = lain > np.median(lain, axis=1, keepdims=True)
            packed = np.packbits(bits, axis=1).view(np.uint64)
            hashes[way, :, start : start + _AT_ONCE] = packed.T
    return hashes


def _digest(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
