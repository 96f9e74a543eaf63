"""Tests of the draw: whole groups, near the shares asked, today's split where there are none."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter, defaultdict

import pytest

from vitlora.data.folder import Folder, Sample
from vitlora.data.read import read_folder
from vitlora.data.splits import deal
from vitlora.errors import DataError


def pool(tmp_path, counts):
    """Returns class folders that exist in name only: the draw opens nothing."""
    samples = [
        Sample(tmp_path / name / f"{index:03d}.jpg", label)
        for label, (name, count) in enumerate(counts.items())
        for index in range(count)
    ]
    return Folder(tmp_path, tuple(counts), {"all": samples})


def by_hash(folder, val, test, seed):
    """Returns the split as it was drawn before there were groups, computed from names alone."""
    sides = defaultdict(set)
    for label, name in enumerate(folder.classes):
        paths = [s.path.relative_to(folder.root).as_posix() for s in folder.splits["all"]
                 if s.label == label]  # fmt: skip
        paths.sort(key=lambda path: hashlib.sha256(f"{seed}/{path}".encode()).digest())
        a = max(1, round(val * len(paths)))
        b = a + (max(1, round(test * len(paths))) if test else 0)
        for side, some in (("val", paths[:a]), ("test", paths[a:b]), ("train", paths[b:])):
            sides[side] |= {f"{name}/{path.split('/')[1]}" for path in some}
    return {side: some for side, some in sides.items() if some}


def sides_of(folder):
    return {
        part: {s.path.relative_to(folder.root).as_posix() for s in samples}
        for part, samples in folder.splits.items()
    }


def random_groups(rng, folder, largest, spanning):
    """Returns group numbers: runs of 1 to `largest` pictures, some joined across classes."""
    numbers, number, left, label = [], -1, 0, None
    for sample in folder.splits["all"]:
        if left == 0 or sample.label != label:
            number, left, label = number + 1, rng.randint(1, largest), sample.label
        numbers.append(number)
        left -= 1
    joined = {n: rng.randrange(number + 1) for n in range(number + 1) if rng.random() < spanning}
    return [joined.get(n, n) for n in numbers]


def parted(folder, groups, split):
    """Returns the groups that stand on more than one side."""
    side = {s.path: part for part, samples in split.splits.items() for s in samples}
    found = defaultdict(set)
    for sample, group in zip(folder.splits["all"], groups, strict=True):
        found[group].add(side[sample.path])
    return [group for group, sides in found.items() if len(sides) > 1]


@pytest.mark.parametrize("seed", range(12))
def test_groups_of_one_give_the_split_there_always_was(tmp_path, seed):
    rng = random.Random(seed)
    folder = pool(tmp_path, {f"c{k}": rng.randint(3, 60) for k in range(rng.randint(2, 6))})
    val, test = rng.choice([(0.2, 0.0), (0.2, 0.1), (0.35, 0.3), (0.13, 0.17)])
    expected = by_hash(folder, val, test, seed)
    ones = [7 * n for n in range(len(folder.splits["all"]))]
    for groups in (None, ones):
        split = folder.split(val, test, seed, groups)
        assert sides_of(split) == expected
        for samples in split.splits.values():
            assert samples == sorted(samples, key=lambda s: s.path.relative_to(tmp_path).as_posix())


@pytest.mark.parametrize("seed", range(25))
def test_groups_stay_whole_and_shares_near(tmp_path, seed):
    rng = random.Random(100 + seed)
    largest = rng.choice([2, 5, 9])
    folder = pool(tmp_path, {f"c{k}": rng.randint(80, 150) for k in range(rng.randint(2, 4))})
    groups = random_groups(rng, folder, largest, spanning=0.1)
    largest = max(Counter(groups).values())
    split = folder.split(0.2, 0.15, seed, groups)
    assert not parted(folder, groups, split)
    sides = sides_of(split)
    assert set.union(*sides.values()) == sides_of(folder)["all"]
    assert sum(map(len, sides.values())) == len(folder.splits["all"])
    for part, share in (("val", 0.2), ("test", 0.15), ("train", 0.65)):
        for got, count in zip(split.counts(part), folder.counts("all"), strict=True):
            assert abs(got - share * count) <= max(3, largest / 2)


@pytest.mark.parametrize("seed", range(8))
def test_folds_are_disjoint_and_cover_all_but_the_test_share(tmp_path, seed):
    rng = random.Random(200 + seed)
    folder = pool(tmp_path, {f"c{k}": rng.randint(60, 100) for k in range(3)})
    groups = random_groups(rng, folder, 4, 0.05) if seed % 2 else None
    k, test = rng.choice([2, 5, 7]), rng.choice([0.0, 0.15])
    runs = [folder.split(0.2, test, seed, groups, k, fold) for fold in range(k)]
    held = [sides_of(run).get("test", set()) for run in runs]
    assert all(some == held[0] for some in held) and bool(held[0]) == bool(test)
    everything = sides_of(folder)["all"]
    seen = Counter(name for run in runs for name in sides_of(run)["val"])
    assert set(seen) == everything - held[0] and set(seen.values()) == {1}
    for run in runs:
        sides = sides_of(run)
        assert sides["train"] == everything - sides["val"] - held[0]
        assert groups is None or not parted(folder, groups, run)
    per_class = [[run.counts("val")[label] for run in runs] for label in range(3)]
    slack = 1 if groups is None else 4
    assert all(max(counts) - min(counts) <= slack for counts in per_class)
    if groups is None:
        totals = [len(run.splits["val"]) for run in runs]
        assert max(totals) - min(totals) <= 1


def test_order_of_listing_and_numbers_of_groups_do_not_matter(tmp_path):
    rng = random.Random(5)
    folder = pool(tmp_path, {"a": 60, "b": 50})
    groups = random_groups(rng, folder, 6, 0.1)
    pairs = list(zip(folder.splits["all"], groups, strict=True))
    rng.shuffle(pairs)
    shuffled = Folder(tmp_path, folder.classes, {"all": [sample for sample, _ in pairs]})
    renamed = [1000 - group for _, group in pairs]
    for arguments in ((None, 0), (5, 3)):
        one = folder.split(0.2, 0.1, 3, groups, *arguments)
        two = shuffled.split(0.2, 0.1, 3, renamed, *arguments)
        assert sides_of(one) == sides_of(two)
    assert sides_of(folder.split(0.2, 0.1, 4, groups)) != sides_of(
        folder.split(0.2, 0.1, 3, groups)
    )


def test_large_groups_are_not_drawn_into_one_side(tmp_path):
    folder = pool(tmp_path, {"a": 200, "b": 200})
    groups = [n // 8 if n % 200 < 80 else 1000 + n for n in range(400)]  # ten of 8 in each class
    members = Counter()
    for seed in range(40):
        split = folder.split(0.2, 0.0, seed, groups)
        members["val"] += sum(int(s.path.stem) < 80 for s in split.splits["val"])
        assert split.counts("val") == [40, 40]
    assert members["val"] / (40 * 80) == pytest.approx(0.4, abs=0.08)  # their share of all pictures


def test_a_small_draw_is_the_best_there_is():
    # 5 + 3 | 4 | 8 is off by nothing; first come, first served would leave a gap
    groups = [{0: 3}, {0: 4}, {0: 5}, {0: 8}]
    sides = deal(groups, [[8], [4], [8]])
    sums = Counter()
    for side, group in zip(sides, groups, strict=True):
        sums[side] += group[0]
    assert dict(sums) == {0: 8, 1: 4, 2: 8}


def test_a_picture_for_each_side_comes_before_near_shares(tmp_path):
    folder = pool(tmp_path, {"a": 20, "b": 20})
    groups = [0] * 14 + [1] * 3 + [2] * 3 + list(range(100, 120))
    for seed in range(10):
        split = folder.split(0.2, 0.2, seed, groups)
        assert all(min(split.counts(part)) >= 1 for part in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("groups", "folds", "message"),
    [
        ([0, 1, 2, 3, 3, 3], 4, r"into 4 folds and test: 'a' has 4 groups; expected at least 5"),
        (
            [0, 1, 2, 3, 4, 5],
            6,
            r"1 class .* into 6 folds.*: 'a' has 6 pictures of at least 7",
        ),
    ],
)
def test_class_that_cannot_be_in_each_fold_is_named(tmp_path, groups, folds, message):
    folder = pool(tmp_path, {"a": 6, "b": 30})
    with pytest.raises(DataError, match=message) as raised:
        folder.split(0.2, 0.2, 0, [*groups, *range(100, 130)], folds)
    assert "\n" not in str(raised.value)


def test_groups_tangled_over_classes_are_explained(tmp_path):
    folder = pool(tmp_path, {"a": 3, "b": 3, "c": 3})
    # a and b put group 3 on the side of group 2; for c they would have to be apart
    groups = [0, 1, 2, 0, 1, 3, 2, 3, 4]
    with pytest.raises(DataError, match="found no place in each part"):
        folder.split(0.3, 0.3, 0, groups)


def test_splits_found_as_folders_are_pooled_under_distinct_names(tmp_path):
    for part in ("train", "val", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                (tmp_path / part / name / f"{index}.jpg").touch()
    split = read_folder(tmp_path).pooled().split(0.25, 0.25, 1)
    sides = sides_of(split)
    assert {part: len(some) for part, some in sides.items()} == {"train": 12, "val": 6, "test": 6}
    assert len(set.union(*sides.values())) == 24
    assert {name.split("/")[0] for name in sides["train"]} == {"train", "val", "test"}


def test_many_groups_are_drawn_in_seconds(tmp_path):
    rng = random.Random(0)
    folder = pool(tmp_path, {f"c{k}": 500 for k in range(10)})
    groups = [rng.randrange(1500) for _ in range(5000)]  # each its own mix of classes
    start = time.monotonic()
    split = folder.split(0.2, 0.1, 0, groups, 5, 2)
    assert time.monotonic() - start < 15
    assert not parted(folder, groups, split)
    assert all(abs(count - 90) <= 5 for count in split.counts("val"))
