import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score

from vitlora.metrics.intervals import macro_f1, wilson
from vitlora.studies import comparison
from vitlora.studies.advice import advise, needed, tells_apart
from vitlora.studies.comparison import Run, compare, p_value

CLASSES = 3


def make(method: str, wrong: Sequence[int], seed: int = 0, count: int = 100, **other: int) -> Run:
    """Returns a run of three classes that gives a wrong answer to the pictures named."""
    labels, missed = [index % CLASSES for index in range(count)], set(wrong)
    answers = [(x + (index in missed)) % CLASSES for index, x in enumerate(labels)]
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
        "Choose lora: clearly the best, with accuracy 0.950 on 100 test pictures and 1 seed; "
        "clearly worse: linear (0.700)."
    )


def test_not_shown_to_differ_is_not_shown_to_be_equal() -> None:
    rows = compare(
        [
            make("linear", range(9), trainable=10, count=40),
            make("lora", range(5, 9), count=40),
            make("qlora", range(4), seconds=20, count=40),
        ]
    )
    assert [row.clear for row in rows] == [False, False, False]
    advice = advise(rows, "test")
    assert advice.startswith(
        "Choose lora (accuracy 0.900), the most accurate on 40 test pictures and 1 seed. It is not "
        "clearly better than linear (0.775) and qlora (0.900). No cheaper one is shown to be "
        "within 2 points of it: if both are equally good, about "
    )
    # 5 pictures differ, and 2 are added: (1.96 + 0.84)^2 * 7 / 42 / 0.02^2
    assert advice.endswith(" about 3,300 pictures would show it.")


def test_the_cheapest_shown_to_be_within_the_margin_is_advised() -> None:
    runs = [
        make("full", range(120), trainable=10**6, count=3000),
        make("lora", range(10, 135), count=3000),
        make("linear", range(900), trainable=10, count=3000),
    ]
    rows = compare(runs)
    assert [row.clear for row in rows] == [False, False, True]
    assert advise(rows, "val") == (
        "Choose lora (accuracy 0.958): with 3,000 val pictures and 1 seed, it is the cheapest "
        "shown to be within 2 points of the best, full (0.960). It is at most 0.5 points below any "
        "other, with 95% certainty; clearly worse: linear (0.700)."
    )
    assert advise(rows, "val", 0.004).startswith("Choose full (accuracy 0.960), the most accurate")
    assert "is within" not in advise(rows, "val", 0.0)


def test_a_clearly_worse_method_may_be_near_enough() -> None:
    rows = compare(
        [make("full", [], trainable=10**6, count=9000), make("lora", range(60), count=9000)]
    )
    assert rows[1].clear
    assert advise(rows, "test").startswith("Choose lora (accuracy 0.993): with ")
    assert advise(rows, "test", 0.005).startswith(
        "Choose full: clearly the best, with accuracy 1.000"
    )


def test_how_far_behind_is_bonett_and_prices_interval() -> None:
    rows = compare([make("a", range(10)), make("b", range(5, 30))])  # 5 and 20 pictures differ
    shares = 21 / 102, 6 / 102
    middle = shares[0] - shares[1]
    half = 1.959964 * math.sqrt((sum(shares) - middle**2) / 102)
    assert rows[1].behind == pytest.approx((middle - half, middle + half), abs=1e-4)
    assert rows[0].behind is None


def test_seeds_that_disagree_widen_the_interval() -> None:
    methods, seeds = (("a", 0), ("b", 5)), (0, 1)
    alike, apart = (
        [make(name, range(k, k + n[seed]), seed) for name, k in methods for seed in seeds]
        for n in ((10, 10), (2, 18))
    )
    narrow, wide = (compare(runs)[1].behind for runs in (alike, apart))
    assert narrow is not None and wide is not None
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("pictures", [40, 431, 2000])
def test_a_method_worse_by_more_than_the_margin_is_seldom_said_to_be_within_it(
    pictures: int,
) -> None:
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(200):
        worse = rng.random(pictures) < 0.12
        better = np.where(rng.random(pictures) < 0.5, worse, rng.random(pictures) < 0.07)
        runs = [
            make("linear", np.flatnonzero(worse).tolist(), trainable=10, count=pictures),
            make("lora", np.flatnonzero(better).tolist(), count=pictures),
        ]
        linear = _fast(runs)
        said += linear < 0.02
    assert said / 200 <= 0.05 + 0.03


def _fast(runs: list[Run]) -> float:
    rows = [comparison._row(run.method, (run,)) for run in runs]
    return comparison._below(rows[0], rows[1], (0.0, 0), 0.95)[1]


def test_what_the_pictures_can_tell_is_known_before() -> None:
    assert tells_apart(40, 2) == pytest.approx(6 / 40)  # 2 / 2^6 < 0.05 < 2 / 2^5
    assert tells_apart(40, 4) == pytest.approx(8 / 40)
    assert tells_apart(2000, 2) == pytest.approx(1.96 * math.sqrt(0.1 / 2000), rel=1e-3)
    assert tells_apart(3, 4) == 1.0
    assert needed(0.02, 2) == 1500  # (1.645 + 0.842)^2 * 0.1 / 0.02^2 = 1546


def test_no_pictures_shrink_what_the_seeds_add() -> None:
    most = (0.02 / (1.644854 + 0.841621)) ** 2  # variance that the margin allows
    assert needed(0.02, 2, 0.1, most / 2) == 3100  # 1546 * 2
    assert needed(0.02, 2, 0.1, most * 1.001) is None
    wrong = {"linear": (10_000, 14_000, 18_000), "lora": (9_900, 13_900, 17_900)}
    runs = [
        make(name, range(count), seed, count=200_000, trainable=10 if name == "linear" else 1000)
        for name, counts in wrong.items()
        for seed, count in enumerate(counts)
    ]
    assert advise(compare(runs), "test").endswith(
        "within 2 points of it: if both are equally good, showing it takes more seeds, not more "
        "pictures."
    )


def test_no_number_below_those_scored_is_named() -> None:
    linear = make("linear", range(46), trainable=10, count=2400)
    rows = compare([linear, make("lora", range(46, 76), count=2400)])
    assert advise(rows, "test", 0.012).endswith(
        "of it, although 2,400 pictures usually show it if both are equally good."
    )


def test_the_method_taken_is_not_called_clearly_worse() -> None:
    runs = [
        make("full", [], trainable=10**6, count=9000),
        make("lora", range(60), count=9000),
        make("linear", range(90), trainable=10, count=9000),
        make("bad", range(900), trainable=20, count=9000),
    ]
    rows = compare(runs)
    assert [row.clear for row in rows] == [False, True, True, True]
    advice = advise(rows, "test")
    assert advice.startswith("Choose linear (accuracy 0.990): with ")
    assert advice.endswith("clearly worse: bad (0.900).")


def test_four_pictures_do_not_make_a_method_clearly_better() -> None:
    rows = compare([make("linear", range(4), trainable=10), make("lora", [])])
    assert not rows[0].clear  # a bootstrap of four would say so
    assert advise(rows, "test").startswith("Choose lora (accuracy 1.000), the most accurate")


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
    assert advise([], "test") == "No run finished, so there is no recommendation."
    assert advise(compare([make("lora", range(10))]), "test").startswith(
        "Only lora finished (accuracy 0.900 on 100 test pictures and 1 seed)"
    )


def test_json_has_no_pictures_but_all_numbers() -> None:
    rows = compare([make("lora", range(10)), make("linear", range(30))])
    fields = rows[1].to_json()
    assert fields["accuracy"] == pytest.approx(0.7) and fields["clear"] is True
    assert fields["runs"][0]["trainable"] == 1000 and "labels" not in fields["runs"][0]
