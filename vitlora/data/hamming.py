"""Which hashes differ in few bits: all pairs of them, without comparing each with every other.

Were two hashes to differ in 3 bits or more within 13 of their 14 parts, and in 2 or more within the
last, that would be 41 bits. So hashes that are at most 40 apart differ in at most 2 within one of
those 13, or in at most 1 within the last (multi-index hashing, Norouzi et al. 2012,
arXiv:1307.2982). Each part has a table of who has which value there; only those are compared who
share a value with one of the few that lie so near. Exact, whatever the hashes: a hash for which the
tables would name many, as among frames of a film, is compared with all others.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

_BITS, _PARTS = 256, 14  # fewer parts: more values to look up; more: more hashes to compare
ROWS = 64  # compared with all others at once; the working set then fits a processor's cache
_STAGE = 8192  # rows after which the tables drop earlier hashes
_DEARER = 16  # times as long a pair takes that a table named, as one of all pairs

Hashes = NDArray[np.uint64]
Pairs = tuple[int, NDArray[np.intp], NDArray[np.intp]]


def bits_apart(a: Hashes, b: Hashes) -> NDArray[np.uint16]:
    """Returns in how many bits hashes ``(4, ...)`` differ."""
    return np.bitwise_count(a ^ b).sum(axis=0, dtype=np.uint16)


def near_pairs(hashes: Hashes, distance: int) -> Iterator[list[Pairs]]:
    """Yields the pairs that are near if one of them lies another way, 64 rows at a time.

    Each list has an entry for every way in which there are any: the way, and places ``i < j`` of
    pairs, sorted, for which ``hashes[0, :, i]`` and ``hashes[way, :, j]`` are near. Memory is a few
    hundred bytes a hash, and the pairs of a few lists.

    Args:
        hashes: ``(ways, 4, N)``: 4 x 64 bits of each of N, for each way it can lie.
        distance: Bits in which near ones may differ, 0 to 256.
    """
    count, workers = hashes.shape[-1], os.cpu_count() or 1
    others, parts = _Others(hashes, distance), _parts(distance)
    with ThreadPoolExecutor(workers) as pool:
        # where there are fewer hashes than values to look up, all are compared
        if len(hashes) * count > sum(part.values for part in parts):
            others.tables = list(pool.map(others.table, parts))
        for first in range(0, count, _STAGE):
            others.tables = list(pool.map(lambda t, n=first: t.behind(n, count), others.tables))
            last = min(first + _STAGE, count)
            blocks = [slice(row, min(row + ROWS, last)) for row in range(first, last, ROWS)]
            # a few at a time: were all alike, the pairs of all would not fit the memory
            for start in range(0, len(blocks), workers):
                yield from pool.map(others.near, blocks[start : start + workers])


@dataclass(frozen=True)
class _Part:
    """Every 14th bit, so that neighbours, which are alike in pictures, are in different parts.

    Attributes:
        number: The first bit's.
        radius: Bits in which near hashes may differ here.
    """

    number: int
    radius: int

    @property
    def width(self) -> int:
        """Bits in the part: 18 or 19."""
        return len(range(self.number, _BITS, _PARTS))

    @property
    def values(self) -> int:
        """How many values lie within the radius of one."""
        return sum(comb(self.width, flipped) for flipped in range(self.radius + 1))

    def masks(self) -> NDArray[np.int32]:
        """Returns what turns a value into each of those."""
        flipped = [c for k in range(self.radius + 1) for c in combinations(range(self.width), k)]
        return np.array([sum(1 << bit for bit in bits) for bits in flipped], np.int32)

    def of(self, hashes: Hashes) -> NDArray[np.int32]:
        """Returns the part's value ``(N,)`` in each hash ``(4, N)``."""
        values = np.zeros(hashes.shape[1], np.int32)
        for place, bit in enumerate(range(self.number, _BITS, _PARTS)):
            word, shift = hashes[bit // 64], np.uint64(bit % 64)
            values |= ((word >> shift) & np.uint64(1)).astype(np.int32) << place
        return values


def _parts(distance: int) -> list[_Part]:
    """Returns parts and radii: a hash that is farther in each differs in more than ``distance``.

    Farther in each is at least the sum of radius + 1 over the parts, which is distance + 1 here.
    """
    each, more = divmod(distance + 1, _PARTS)
    parts = [_Part(n, each - 1 + (n >= _PARTS - more)) for n in range(_PARTS)]
    return [part for part in parts if part.radius >= 0]


@dataclass(frozen=True)
class _Table:
    """Who has which value in a part.

    Attributes:
        part: The part.
        masks: What turns a value into each that lies near.
        values: Of the hashes, sorted, ``(H,)``.
        holders: Their places in ``_Others.flat``, in the same order.
        starts: Where the holders of a value begin, ``(2**width + 1,)``.
    """

    part: _Part
    masks: NDArray[np.int32]
    values: NDArray[np.int32]
    holders: NDArray[np.int32]

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        counts = np.bincount(self.values, minlength=1 << self.part.width)
        return np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))

    def behind(self, first: int, count: int) -> "_Table":
        """Returns the same of the hashes from ``first`` on alone, of ``count`` in each way."""
        kept = self.holders % np.int32(count) >= first
        return replace(self, values=self.values[kept], holders=self.holders[kept])


class _Others:
    """All hashes in all ways, for rows to be compared with.

    Args:
        hashes: ``(ways, 4, N)``.
        distance: Bits in which near ones may differ.
    """

    def __init__(self, hashes: Hashes, distance: int) -> None:
        self.hashes, self.distance = hashes, distance
        # (4, ways * N): a table has one number for a hash and its way
        self.flat = hashes.transpose(1, 0, 2).reshape(hashes.shape[1], -1)
        self.tables: list[_Table] = []

    def table(self, part: _Part) -> _Table:
        """Returns the table of a part."""
        values = part.of(self.flat)
        holders = np.argsort(values).astype(np.int32)
        return _Table(part, part.masks(), values[holders], holders)

    def near(self, block: slice) -> list[Pairs]:
        """Returns the near pairs of a block of rows."""
        rows = np.arange(block.start, block.stop)
        found, many = self._by_table(rows) if self.tables else (None, rows)
        pairs: list[Pairs] = []
        for way in range(len(self.hashes)):
            i, j = self._by_comparing(many, way)
            if found is not None:
                here = found[0] == way
                i, j = np.append(i, found[1][here]), np.append(j, found[2][here])
                order = np.lexsort((j, i))
                i, j = i[order], j[order]
            if len(i):
                pairs.append((way, i, j))
        return pairs

    def _by_table(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns ways and places ``(3, pairs)``, each pair once, and rows still to be compared."""
        own = self.hashes[0][:, rows]
        looked_up = [self._look_up(table, own) for table in self.tables]
        named = np.sum([counts.sum(axis=1) for _, counts in looked_up], axis=0)
        few = named * _DEARER <= len(self.tables[0].holders)
        found = [np.empty(0, np.int64)]
        for table, (starts, counts) in zip(self.tables, looked_up, strict=True):
            row = np.repeat(np.flatnonzero(few).astype(np.int32), counts[few].sum(axis=1))
            lengths = counts[few].ravel()
            ends = np.cumsum(lengths, dtype=np.int32)
            # a run of holders for each value: the place in all runs, moved to where its own begins
            place = np.arange(len(row), dtype=np.int32)
            place += np.repeat(starts[few].ravel() - (ends - lengths), lengths)
            other = table.holders.take(place)
            # half of the bits first: few pairs are left that need the others
            half = np.bitwise_count(own[0].take(row) ^ self.flat[0].take(other))
            half += np.bitwise_count(own[1].take(row) ^ self.flat[1].take(other))
            kept = np.flatnonzero(half <= self.distance)
            row, other = row[kept].astype(np.int64), other[kept]
            near = bits_apart(own[:, row], self.flat[:, other]) <= self.distance
            found.append(row[near] * self.flat.shape[1] + other[near])
        row, other = np.divmod(np.unique(np.concatenate(found)), self.flat.shape[1])
        way, j = np.divmod(other, self.hashes.shape[-1])
        pairs = np.stack([way, rows[row], j])
        return pairs[:, pairs[1] < pairs[2]], rows[~few]

    def _look_up(self, table: _Table, own: Hashes) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Returns where the holders of each value near a row's begin and how many there are."""
        values = table.part.of(own)[:, None] ^ table.masks
        starts = table.starts.take(values)
        return starts, table.starts.take(values + 1) - starts

    def _by_comparing(
        self, rows: NDArray[np.intp], way: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Returns the places of the near pairs of some rows, one way, each compared with all."""
        if not len(rows):
            return rows, rows
        own, others = self.hashes[0][:, rows], self.hashes[way]
        start = int(rows[0])
        half = np.bitwise_count(own[0, :, None] ^ others[0, start:])
        half += np.bitwise_count(own[1, :, None] ^ others[1, start:])
        row, j = np.nonzero(half <= self.distance)
        i, j = rows[row], j + start
        near = (i < j) & (bits_apart(self.hashes[0][:, i], others[:, j]) <= self.distance)
        return i[near], j[near]
