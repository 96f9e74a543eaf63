"""Tests of the scores against torchmetrics and matrices done by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from vitlora.scores import Scores

NAMES = ("bottle", "can", "box", "tyre")


def scores(counts, loss=0.5) -> Scores:
    """Returns the scores of a matrix, its classes named a, b, c and so on."""
    return Scores(tuple("abcdefgh"[: len(counts)]), torch.tensor(counts), loss)


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
    ours = Scores(NAMES, multiclass_confusion_matrix(predicted, true, 4), 0.0)
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


def test_no_images_give_zeros_not_a_crash():
    nothing = scores([[0, 0], [0, 0]])
    assert (nothing.images, nothing.accuracy, nothing.macro_f1) == (0, 0.0, 0.0)


def test_summary_is_rounded_and_plain():
    summary = scores([[2, 1], [0, 0]], loss=1 / 3).summary()
    assert summary == {"accuracy": 0.666667, "macro_f1": 0.4, "loss": 0.333333, "images": 3}


def test_json_holds_every_class_and_the_matrix():
    record = json.loads(json.dumps(scores([[8, 2], [0, 10]]).to_json()))
    assert record["accuracy"] == 0.9 and record["images"] == 20
    first, second = record["per_class"]
    assert (first["class"], first["images"]) == ("a", 10)
    assert first["precision"] == 1.0 and first["recall"] == pytest.approx(0.8)
    assert second["class"] == "b" and second["precision"] == pytest.approx(10 / 12)
    assert record["confusion"]["counts"] == [[8, 2], [0, 10]]


def test_text_shows_each_class_the_matrix_and_the_headline():
    confusion = torch.tensor([[118, 2, 0], [7, 0, 1], [0, 0, 9]])
    lines = Scores(("glass", "a rather long name", "tin"), confusion, 0.25).to_text().splitlines()
    rows = {line[:18].strip(): line[18:].split() for line in lines[1:4]}
    assert rows["glass"] == ["0.9440", "0.9833", "0.9633", "120"]
    assert rows["a rather long name"] == ["0.0000", "0.0000", "0.0000", "8"]
    assert rows["tin"] == ["0.9000", "1.0000", "0.9474", "9"]
    matrix = [line.split()[-3:] for line in lines[7:10]]
    assert matrix == [["118", "2", "0"], ["7", "0", "1"], ["0", "0", "9"]]
    assert "accuracy 0.9270" in lines[-1] and "137 images" in lines[-1]
    assert "macro-F1 0.6369" in lines[-1] and "loss 0.2500" in lines[-1]


def test_columns_of_the_matrix_stand_in_line():
    text = scores([[12345, 1], [22, 333]]).to_text().splitlines()
    header, *rows = text[-5:-2]
    assert len({len(line) for line in (header, *rows)}) == 1
