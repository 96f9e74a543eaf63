"""Checks before a bundle is scored, and of the scores."""

import math
from collections.abc import Sequence
from dataclasses import replace

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError, a_few
from vitlora.metrics.scores import Scores
from vitlora.training.classifier import Classifier

_FEW = 10  # classes to list
_NOTHING = 0.03  # how far the loss is from that of guessing if nothing was learnt, as a share
_MISTAKES = 5  # the fewest that say something about the network


def check_fits(bundle: Bundle, model: Classifier, data: FolderData) -> None:
    """Refuses to score a bundle with another preprocessing or other classes than its own.

    Raises:
        BundleError: They differ.
    """
    record, folder = bundle.record, data.folder
    trained = record.preprocessing  # values are always scaled as in training
    model.backbone.preprocessing = replace(
        model.backbone.preprocessing, value_range=trained.value_range, srgb=trained.srgb
    )
    if model.backbone.preprocessing != record.preprocessing:
        raise BundleError(
            f"{bundle.folder} was trained with {_view(record.preprocessing)}, but the options set "
            f"{_view(model.backbone.preprocessing)}; leave out --model.image_size and "
            "--model.crop_mode"
        )
    if folder.classes != record.classes:
        raise BundleError(
            f"{bundle.folder} has the classes {_unlike(record.classes, folder.classes)}; "
            f"{folder.root} has {_unlike(folder.classes, record.classes)}"
        )


def failed(scores: Scores) -> str | None:
    """Returns a note if the network is no better than one that guesses, or gives one class."""
    guessing = math.log(len(scores.classes))
    if not scores.loss <= 2 * guessing:
        return (
            f"the loss is {scores.loss:.3g}, far above that of guessing ({guessing:.2f}): training "
            "diverged; lower --model.lr"
        )
    answers = scores.logits.argmax(1)
    if len(answers.unique()) == 1 and (answers != scores.labels).sum() >= _MISTAKES:
        always = scores.classes[int(answers[0])]
        return (
            f"all {scores.images} validation pictures get the class '{always}': the network does "
            "not tell the classes apart; try a lower --model.lr, or more epochs"
        )
    if abs(scores.loss - guessing) < _NOTHING * guessing:
        return (
            f"the loss is {scores.loss:.3g}, as that of guessing ({guessing:.2f}): the network "
            "learnt next to nothing; try more epochs, or a higher --model.lr"
        )
    return None


def _unlike(classes: Sequence[str], others: Sequence[str]) -> str:
    """Returns a list of classes; if there are many, those missing in the others come first."""
    known = set(others)
    return a_few(
        classes if len(classes) <= _FEW else sorted(classes, key=lambda c: c in known), _FEW
    )


def _view(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.image_size} px, {preprocessing.crop_mode}"
