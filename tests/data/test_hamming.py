"""The near pairs that tables find, against comparing every hash with every other."""

from __future__ import annotations

import numpy as np
import pytest

from vitlora.data import hamming
from vitlora.data.hamming import near_pairs

WAYS = 8


def unpacked(hashes):
    """Returns ``(ways, N, 256)`` of 0 and 1."""
    packed = np.ascontiguousarray(hashes.transpose(0, 2, 1)).view(np.uint8)
    return np.unpackbits(packed, axis=2)


def packed(bits):
    return np.packbits(bits, axis=2).view(np.uint64).transpose(0, 2, 1).copy()


def by_brute_force(hashes, distance) -> list[tuple[int, int, int, int]]:
    """Returns block of 64 rows, way, i, j of every near pair, sorted: the order of the search."""
    bits = unpacked(hashes).astype(np.int64)
    found = []
    for way in range(len(hashes)):
        ones = bits[0] @ bits[way].T
        apart = bits[0].sum(1)[:, None] + bits[way].sum(1)[None] - 2 * ones
        i, j = np.nonzero(apart <= distance)
        found += [
            (a // 64, way, a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True) if a < b
        ]
    return sorted(found)


def searched(hashes, distance) -> list[tuple[int, int, int, int]]:
    return [
        (int(a) // 64, way, int(a), int(b))
        for pairs in near_pairs(hashes, distance)
        for way, i, j in pairs
        for a, b in zip(i, j, strict=True)
    ]


def random_hashes(count, seed=0, chance=0.5):
    rng = np.random.default_rng(seed)
    return (rng.random((WAYS, count, 256)) < chance).astype(np.uint8)


def planted(count=1500):
    """Returns hashes of which each way has pairs at every distance from 0 to 60."""
    bits, rng = random_hashes(count), np.random.default_rng(1)
    places = iter(rng.permutation(count)[: 2 * 61 * WAYS].reshape(-1, 2))
    for apart in range(61):
        for way in range(WAYS):
            i, j = sorted(next(places))
            bits[way, j] = bits[0, i]
            bits[way, j, rng.choice(256, apart, replace=False)] ^= 1
    return packed(bits)


@pytest.mark.parametrize("distance", [0, 3, 13, 30, 40, 41, 55])
def test_pairs_at_every_distance_lying_every_way_are_found(distance):
    hashes = planted()
    expected = by_brute_force(hashes, distance)
    assert len(expected) >= (distance + 1) * WAYS
    assert searched(hashes, distance) == expected


def test_a_difference_in_one_place_or_spread_evenly_is_found():
    """The worst a pair can do to tables: as far in every part as it may be."""
    bits = random_hashes(800)
    for start in range(256):  # 40 neighbours, 40 bits 6 apart, 40 bits of as few parts as can be
        bits[start % WAYS, 500 + start] = bits[0, start]
        changed = [np.arange(40), np.arange(40) * 6, np.arange(40) * 14][start % 3]
        bits[start % WAYS, 500 + start, (start + changed) % 256] ^= 1
    hashes = packed(bits)
    expected = by_brute_force(hashes, 40)
    assert len(expected) >= 256
    assert searched(hashes, 40) == expected


SETS = {
    "all equal": lambda: np.repeat(random_hashes(1), 700, axis=1),
    "all ways equal": lambda: np.repeat(random_hashes(700)[:1], WAYS, axis=0),
    "a crowd of near ones": lambda: (
        random_hashes(700) & np.r_[np.zeros(500), np.ones(200)].astype(np.uint8)[None, :, None]
    ),
    "few bits set": lambda: random_hashes(900, chance=0.06),
    "bits that hang together": lambda: np.repeat(random_hashes(900)[..., :32], 8, axis=2),
    "a film": lambda: np.cumsum(random_hashes(900, chance=0.02), axis=1, dtype=np.uint8) & 1,
    "none": lambda: random_hashes(0),
    "one": lambda: random_hashes(1),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_that_crowd_the_tables_are_searched_exactly(name):
    hashes = packed(SETS[name]())
    assert searched(hashes, 40) == by_brute_force(hashes, 40)


@pytest.mark.parametrize("dearer", [0, 16, 10**6])
def test_tables_and_plain_comparison_agree_over_several_stages(monkeypatch, dearer):
    monkeypatch.setattr(hamming, "_STAGE", 256)
    monkeypatch.setattr(hamming, "_DEARER", dearer)
    crowded = random_hashes(1000)
    crowded[:, 300:600:3] &= random_hashes(100, seed=5, chance=0.1)
    for bits in (crowded, random_hashes(1000, chance=0.08)):
        hashes = packed(bits)
        assert searched(hashes, 40) == by_brute_force(hashes, 40)
