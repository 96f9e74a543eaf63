"""Tests of the scores against torchmetrics and matrices done by hand."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from scipy.stats import binomtest
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from vitlora.metrics.scores import Scores, reliability

NAMES = ("bottle", "can", "box", "tyre")


def scores(counts, names="abcdefgh") -> Scores:
    """Returns the scores of answers with this confusion matrix."""
    matrix = torch.tensor(counts)
    cells = matrix.nonzero().repeat_interleave(matrix[matrix > 0], 0)
    logits = 3.0 * torch.eye(len(matrix))[cells[:, 1]]
    return Scores(tuple(names[: len(matrix)]), logits, cells[:, 0])


def guesses(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 200 true and 200 predicted labels of four classes."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(4, (200,), generator=generator)
    wrong = torch.rand(200, generator=generator) < 0.4
    predicted = torch.where(wrong, torch.randint(4, (200,), generator=generator), true)
    if kind == "never predicted":
        predicted[predicted == 2] = 1
    if kind == "no images":
        true[true == 3] = 0
    if kind == "rare":
        true[:190] = predicted[:190] = 0
    return true, predicted


@pytest.mark.parametrize("kind", ["plain", "never predicted", "no images", "rare"])
def test_every_number_is_torchmetrics_own(kind):
    true, predicted = guesses(kind)
    ours = Scores(NAMES, torch.eye(4)[predicted], true)
    assert torch.equal(ours.confusion, multiclass_confusion_matrix(predicted, true, 4))
    precision, recall, f1, support = ours.per_class()
    for got, metric in (
        (precision, multiclass_precision),
        (recall, multiclass_recall),
        (f1, multiclass_f1_score),
    ):
        want = metric(predicted, true, 4, average="none")
        torch.testing.assert_close(got.float(), want)
    assert ours.accuracy == pytest.approx(
        float(multiclass_accuracy(predicted, true, 4, average="micro"))
    )
    assert ours.macro_f1 == pytest.approx(
        float(multiclass_f1_score(predicted, true, 4, average="macro"))
    )
    assert support.tolist() == true.bincount(minlength=4).tolist()
    assert ours.images == 200
    if kind == "never predicted":
        assert precision[2] == 0 and recall[2] == 0 and f1[2] == 0
    if kind == "no images":
        assert recall[3] == 0 and support[3] == 0


def test_rows_are_true_classes_and_columns_predicted_ones():
    precision, recall, f1, support = scores([[8, 2], [0, 10]]).per_class()
    assert precision.tolist() == pytest.approx([1.0, 10 / 12])
    assert recall.tolist() == pytest.approx([0.8, 1.0])
    assert f1.tolist() == pytest.approx([2 * 0.8 / 1.8, 2 * (10 / 12) / (10 / 12 + 1)])
    assert support.tolist() == [10, 10]


def test_perfect_and_hopeless():
    assert scores([[5, 0], [0, 5]]).accuracy == scores([[5, 0], [0, 5]]).macro_f1 == 1
    assert scores([[0, 5], [5, 0]]).accuracy == scores([[0, 5], [5, 0]]).macro_f1 == 0


def test_guessing_the_large_class_is_accurate_but_has_a_low_macro_f1():
    lazy = scores([[90, 0], [10, 0]])
    assert lazy.accuracy == 0.9
    assert lazy.macro_f1 == pytest.approx((2 * 0.9 / 1.9) / 2)


def test_a_class_that_never_occurs_does_not_count():
    assert scores([[5, 0, 0], [0, 5, 0], [0, 0, 0]]).macro_f1 == 1


def test_loss_is_the_mean_cross_entropy():
    got = Scores(("a", "b"), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert got.loss == pytest.approx(expected)


@pytest.mark.parametrize("counts", [[[60, 0], [0, 5]], [[0, 3], [4, 0]], [[90, 10], [7, 324]]])
def test_accuracys_interval_is_wilsons(counts):
    got = scores(counts)
    right = int(got.confusion.diag().sum())
    expected = binomtest(right, got.images).proportion_ci(method="wilson")
    assert got.accuracy_interval == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert got.accuracy_interval[0] < got.accuracy_interval[1]


def test_no_mistake_in_a_few_images_is_not_certainty():
    low, high = scores([[6, 0], [0, 4]]).macro_f1_interval
    assert high == 1 and low < 0.75


def test_top_k_auroc_and_calibration_error():
    logits = torch.log(
        torch.tensor([[0.6, 0.3, 0.06, 0.04], [0.3, 0.6, 0.06, 0.04], [0.4, 0.3, 0.2, 0.1]])
    )
    got = Scores(NAMES, logits, torch.tensor([0, 0, 2]))
    assert [got.top_k(k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    # class 0: both of its images against the third: 0.6 > 0.4 > 0.3; class 2: 0.2 above both
    assert got.auroc == pytest.approx((0.5 + 1) / 2)
    # 0.6 twice, right once: |0.5 - 0.6|; 0.4 once, wrong: 0.4
    assert got.calibration_error == pytest.approx(2 / 3 * 0.1 + 1 / 3 * 0.4)


def test_bins_hold_every_answer_once():
    confidence = torch.tensor([0.2, 0.20001, 0.55, 0.6, 0.95, 1.0, 0.97])
    right = torch.tensor([False, True, True, False, True, True, False])
    bins = reliability(confidence, right)
    assert [(b.low, b.high) for b in bins] == [
        (pytest.approx(i / 15), pytest.approx((i + 1) / 15)) for i in range(15)
    ]
    # 0.2 and 0.6 end their bins
    assert [b.count for b in bins] == [0, 0, 1, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 3]
    assert bins[14].accuracy == pytest.approx(2 / 3)
    assert bins[14].confidence == pytest.approx((0.95 + 1.0 + 0.97) / 3)
    assert (bins[8].accuracy, bins[2].accuracy, bins[0].accuracy) == (0.5, 0.0, 0.0)


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 40.0])
def test_the_calibration_error_is_that_of_counting_by_hand(sharpness):
    generator = torch.Generator().manual_seed(3)
    logits = sharpness * torch.randn(400, 4, generator=generator)
    labels = torch.randint(4, (400,), generator=generator)
    bins = [[] for _ in range(15)]
    for row, label in zip(logits.softmax(1).tolist(), labels.tolist(), strict=True):
        place = next(i for i in range(15) if max(row) <= (i + 1) / 15)
        bins[place].append((row.index(max(row)) == label, max(row)))
    expected = sum(abs(sum(hit - sure for hit, sure in each)) for each in bins) / 400
    assert Scores(NAMES, logits, labels).calibration_error == pytest.approx(expected, abs=1e-6)


def test_a_confidence_of_exactly_one_has_no_bin_of_its_own():
    # ten answers at 1, five of them right, and ten at 0.95, all right: one bin, 15 / 20 right at a
    # mean of 0.975; torchmetrics makes two bins of it: (0.5 + 0.05) / 2
    margins = torch.tensor([40.0] * 10 + [math.log(0.95 / 0.05)] * 10)
    logits = torch.stack([margins, torch.zeros(20)], 1)
    labels = torch.tensor([1] * 5 + [0] * 15)
    assert float(logits[0].softmax(0)[0]) == 1.0
    got = Scores(("a", "b"), logits, labels)
    assert got.calibration_error == pytest.approx(0.225, abs=1e-6)
    assert float(multiclass_calibration_error(logits.softmax(1), labels, 2)) == pytest.approx(0.275)


def test_answered_counts_the_sure_and_the_wrong_among_them():
    confident = torch.tensor([4.0, 3.0, 2.0, 1.0])
    logits = torch.stack([confident, torch.zeros(4)], 1)
    got = Scores(("a", "b"), logits, torch.tensor([0, 1, 0, 1]))
    third = float(torch.tensor([2.0, 0.0]).softmax(0)[0])
    assert got.answered(0.0) == (1.0, 0.5)
    assert got.answered(third - 1e-6) == (0.75, pytest.approx(1 / 3))
    assert got.answered(1.0) == (0.0, 0.0)


def test_summary_is_rounded_and_plain():
    summary = scores([[2, 1], [0, 0]]).summary()
    loss = round(math.log(1 + math.exp(-3)) + 1, 6)  # two logits of 3 and 0; one of three is wrong
    assert summary == {"accuracy": 0.666667, "macro_f1": 0.4, "loss": loss, "images": 3}


def test_json_holds_the_intervals():
    record = scores([[2, 1], [0, 0]]).to_json()
    assert record["accuracy_interval"] == pytest.approx([0.2077, 0.9385], abs=1e-4)
    assert record["macro_f1_interval"][0] < 0.4 < record["macro_f1_interval"][1]


def test_json_holds_every_class_and_the_matrix():
    record = json.loads(json.dumps(scores([[8, 2], [0, 10]]).to_json()))
    assert record["accuracy"] == 0.9 and record["images"] == 20
    first, second = record["per_class"]
    assert (first["class"], first["images"]) == ("a", 10)
    assert first["precision"] == 1.0 and first["recall"] == pytest.approx(0.8)
    assert second["class"] == "b" and second["precision"] == pytest.approx(10 / 12)
    assert record["confusion"]["counts"] == [[8, 2], [0, 10]]


def test_text_shows_each_class_the_matrix_and_the_headline():
    counts = [[118, 2, 0], [7, 0, 1], [0, 0, 9]]
    lines = scores(counts, ("glass", "a rather long name", "tin")).to_text().splitlines()
    rows = {line[:18].strip(): line[18:].split() for line in lines[1:4]}
    assert rows["glass"] == ["0.944", "0.983", "0.963", "120"]
    assert rows["a rather long name"] == ["0.000", "0.000", "0.000", "8"]
    assert rows["tin"] == ["0.900", "1.000", "0.947", "9"]
    matrix = [line.split()[-3:] for line in lines[7:10]]
    assert matrix == [["118", "2", "0"], ["7", "0", "1"], ["0", "0", "9"]]
    assert "accuracy 0.927  95% interval 0.871 to 0.960" in lines[-2]
    assert "macro-F1 0.637" in lines[-2]
    assert "137 images" in lines[-1] and "top-3" not in lines[-1]
    assert "top-3 1.000" in scores(torch.eye(4).long().tolist()).to_text()


def test_columns_of_the_matrix_stand_in_line():
    text = scores([[12345, 1], [22, 333]]).to_text().splitlines()
    header, *rows = text[-6:-3]
    assert len({len(line) for line in (header, *rows)}) == 1


def test_confusions_are_the_largest_off_the_diagonal() -> None:
    some = scores([[9, 0, 3], [5, 7, 0], [1, 0, 8]])
    assert some.confusions(10) == [(1, 0, 5), (0, 2, 3), (2, 0, 1)]
    assert some.confusions(1) == [(1, 0, 5)]
    assert scores([[3, 0], [0, 4]]).confusions(5) == []


def test_of_many_classes_the_worst_and_the_commonest_mistakes_are_shown() -> None:
    names = tuple(f"class {index}" for index in range(1200))
    true = torch.arange(1199).repeat(2)  # the last class has no pictures
    predicted = true.clone()
    predicted[7] = predicted[7 + 1199] = 500  # class 7 twice for 500: F1 0, and 500's 2/3
    predicted[9] = 10
    answers = torch.zeros(len(true), 1200)
    answers[torch.arange(len(true)), predicted] = 5.0
    text = Scores(names, answers, true).to_text()
    lines = text.splitlines()
    assert len(lines) < 45
    assert max(map(len, lines)) < 100
    assert (
        "15 classes with the lowest F1; 1,185 more are in --json and 'vitlora report'" in lines[0]
    )
    assert lines[2].split() == ["class", "7", "0.000", "0.000", "0.000", "2"]
    assert "    2  class 7 taken for class 500" in lines
    assert "    1  class 9 taken for class 10" in lines
    assert "the most frequent mistakes; 0 of 3 are others" in lines
    assert not any("class 1199" in line for line in lines if not line.startswith("measured on"))
    assert len(Scores(names, answers, true).to_json()["per_class"]) == 1200


@pytest.mark.parametrize("count", [25, 26])
def test_up_to_25_classes_are_all_shown(count: int) -> None:
    names = tuple(f"class{index}." for index in range(count))
    text = Scores(names, torch.eye(count), torch.arange(count)).to_text()
    assert all(name in text for name in names) == (count == 25)


def test_json_of_a_thousand_classes_holds_the_cells_that_are_not_empty():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 1000, generator=rng)
    labels = torch.randint(1000, (500,), generator=rng)
    record = Scores(tuple(map(str, range(1000))), logits, labels).to_json()
    assert len(json.dumps(record)) < 200_000
    expected = Counter(zip(labels.tolist(), logits.argmax(1).tolist(), strict=True))
    cells = record["confusion"]["counts"]
    assert {(true, guess): count for true, guess, count in cells} == expected
    assert record["confusion"]["cells"] == ["true", "predicted", "count"]
