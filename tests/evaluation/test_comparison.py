import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score

from vitlora.evaluation.comparison import Run, advise, compare, p_value
from vitlora.intervals import macro_f1, wilson

CLASSES = 3


def make(method: str, wrong: Sequence[int], seed: int = 0, count: int = 100, **other: int) -> Run:
    """Returns a run of three classes that gives a wrong answer to the pictures named."""
    labels = [index % CLASSES for index in range(count)]
    answers = [(x + (index in set(wrong))) % CLASSES for index, x in enumerate(labels)]
    fields = {"trainable": 1000, "seconds": 10.0, **other}
    return Run(
        method=method,
        seed=seed,
        labels=tuple(labels),
        answers=tuple(answers),
        lr=1e-3,
        base="bfloat16",
        host_bytes=10**9,
        device_bytes=None,
        milliseconds=3.0,
        bundle_bytes=5000,
        device="cpu",
        precision="bf16-mixed",
        **fields,  # pyright: ignore
    )


def drawn(seeds: int, count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, count)
    wrong = rng.random((seeds, count)) < 0.3
    return labels, np.where(wrong, rng.integers(0, CLASSES, (seeds, count)), labels)


def f1(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(
        multiclass_f1_score(
            torch.tensor(answers), torch.tensor(labels), num_classes=CLASSES, average="macro"
        )
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_macro_f1_is_torchmetrics_mean_over_the_seeds(seeds: int) -> None:
    labels, answers = drawn(seeds)
    expected = np.mean([f1(labels, row) for row in answers])
    assert macro_f1(labels, answers) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("share", "count"), [(0.8, 10), (0.5, 60), (1.0, 8), (0.0, 431)])
def test_wilson_ends_where_the_share_is_1_96_deviations_off(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            off = abs(share - end) / math.sqrt(end * (1 - end) / count)
            assert off == pytest.approx(1.96, abs=1e-6)
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # the textbooks' example


@pytest.mark.parametrize(("better", "worse"), [(4, 0), (6, 0), (9, 3), (5, 5), (20, 8), (0, 1)])
def test_p_of_one_seed_is_mcnemars_exact(better: int, worse: int) -> None:
    differences = np.array([1.0] * better + [-1.0] * worse + [0.0] * 30)
    total, least = better + worse, min(better, worse)
    tail = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    assert p_value(differences) == pytest.approx(min(2 * tail, 1.0), abs=0.006)


def test_p_of_several_seeds_is_that_of_all_flips() -> None:
    differences = np.array([1, 1 / 3, 2 / 3, -1 / 3, 1 / 3, 0, 1, -2 / 3, 1 / 3])
    far = abs(differences.sum()) - 1e-9
    flips = [abs(np.dot(signs, differences)) >= far for signs in product((1, -1), repeat=9)]
    assert p_value(differences) == pytest.approx(np.mean(flips), abs=0.006)


def test_p_of_equal_answers_is_one() -> None:
    assert p_value(np.zeros(50)) == 1.0


def test_row_means_over_the_seeds() -> None:
    (row,) = compare([make("lora", range(10)), make("lora", range(20), seed=1)])
    assert row.accuracy == pytest.approx(0.85)
    assert row.by_seed == pytest.approx([0.9, 0.8])
    assert row.accuracy_interval == wilson(row.accuracy, 100)
    assert row.p is None


def test_all_right_is_not_taken_for_certain() -> None:
    (row,) = compare([make("lora", [], count=20)])
    assert row.macro_f1 == 1.0
    assert row.accuracy_interval == wilson(1.0, 20)
    assert row.macro_f1_interval[0] < 0.9 and row.macro_f1_interval[1] == 1


def test_a_clear_best_is_advised_although_it_is_dearer() -> None:
    rows = compare([make("linear", range(30), trainable=10), make("lora", range(5))])
    assert rows[0].clear
    assert advise(rows, "test") == (
        "Take lora: accuracy 0.950 on 100 test pictures and 1 seed is clearly the best; "
        "clearly worse: linear (0.700)."
    )


def test_the_cheapest_of_those_not_told_apart_is_advised() -> None:
    rows = compare(
        [
            make("full", range(8), trainable=10**6),
            make("lora", range(10)),
            make("qlora", range(11), seconds=20),
            make("linear", range(50), trainable=10),
        ]
    )
    assert [row.clear for row in rows] == [False, False, False, True]
    assert advise(rows, "val") == (
        "Take lora (accuracy 0.900): it is the cheapest of those that 100 val pictures and 1 seed "
        "do not tell apart, which are it and full (0.920) and qlora (0.890); clearly worse: linear "
        "(0.500)."
    )


def test_four_pictures_do_not_make_a_method_clearly_better() -> None:
    rows = compare([make("linear", range(4), trainable=10), make("lora", [])])
    assert not rows[0].clear  # a bootstrap of four would say so
    assert advise(rows, "test").startswith("Take linear (accuracy 0.960): it is the cheapest")


def test_seeds_that_overlap_are_not_clear() -> None:
    apart = [make("a", range(5), 0), make("a", range(10), 1)]
    apart += [make("b", range(40), 0), make("b", range(50), 1)]
    assert compare(apart)[1].clear
    mixed = [make("a", range(5), 0), make("a", range(45), 1)]
    mixed += [make("b", range(40), 0), make("b", range(50), 1)]
    rows = compare(mixed)
    assert rows[1].p is not None and rows[1].p < 0.01 and not rows[1].clear


def test_the_level_is_shared_by_the_methods_compared() -> None:
    two = [make("a", range(0)), make("b", range(7))]  # p = 2 / 2 ** 7
    assert compare(two)[1].clear
    more = [make(name, range(7)) for name in "cdef"]
    assert not compare([*two, *more])[1].clear


def test_equals_are_seldom_called_clearly_worse() -> None:
    rng = np.random.default_rng(0)
    alarms = uncorrected = 0
    for _ in range(15):
        wrong = rng.random((6, 100)) < 0.15
        runs = [
            make(name, np.flatnonzero(one).tolist(), count=100)
            for name, one in zip("abcdef", wrong, strict=True)
        ]
        rows = compare(runs)
        alarms += any(row.clear for row in rows)
        uncorrected += any(row.p is not None and row.p < 0.05 for row in rows)
    assert alarms <= 2  # a 5% level allows three or more in one of twenty-eight such tests
    assert uncorrected >= 3  # the best of six equals looks better than some: chance is at work


def test_nothing_to_compare_is_said() -> None:
    assert advise([], "test") == "No run finished, so there is nothing to advise."
    assert advise(compare([make("lora", range(10))]), "test").startswith(
        "Only lora finished (accuracy 0.900 on 100 test pictures and 1 seed)"
    )


def test_json_has_no_pictures_but_all_numbers() -> None:
    rows = compare([make("lora", range(10)), make("linear", range(30))])
    fields = rows[1].to_json()
    assert fields["accuracy"] == pytest.approx(0.7) and fields["clear"] is True
    assert fields["runs"][0]["trainable"] == 1000 and "labels" not in fields["runs"][0]
