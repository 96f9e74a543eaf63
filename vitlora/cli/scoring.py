"""``validate`` and ``test``: what must hold before a bundle is scored."""

from collections.abc import Sequence
from dataclasses import replace

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError, a_few
from vitlora.training.classifier import Classifier

_FEW = 10  # names that a line lists


def check_fits(bundle: Bundle, model: Classifier, data: FolderData) -> None:
    """Refuses to score a bundle on other views of pictures, or on other classes, than its own.

    Raises:
        BundleError: They differ.
    """
    record, folder = bundle.record, data.folder
    trained = record.preprocessing  # what is read of a file is as in training, whatever is asked
    model.backbone.preprocessing = replace(
        model.backbone.preprocessing, value_range=trained.value_range, srgb=trained.srgb
    )
    if model.backbone.preprocessing != record.preprocessing:
        raise BundleError(
            f"{bundle.folder} sees pictures as {_view(record.preprocessing)}, as training's "
            f"validation did; the options ask for {_view(model.backbone.preprocessing)}. Leave out "
            "model.image_size and model.crop_mode"
        )
    if folder.classes != record.classes:
        raise BundleError(
            f"{bundle.folder} knows the classes {_unlike(record.classes, folder.classes)}"
            f"; {folder.root} has {_unlike(folder.classes, record.classes)}"
        )


def _unlike(classes: Sequence[str], others: Sequence[str]) -> str:
    """Returns classes as a list; of many those first that the others lack."""
    known = set(others)
    return a_few(
        classes if len(classes) <= _FEW else sorted(classes, key=lambda c: c in known), _FEW
    )


def _view(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.image_size} px, {preprocessing.crop_mode}"
