"""The ``calibrate`` command: calibrates a bundle's confidence again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import DataError, UsageError, counted
from vitlora.files import check_writable
from vitlora.light_imports import light_imports
from vitlora.metrics.unsure import Unsure

if TYPE_CHECKING:
    from vitlora.metrics.confidence import Confidence

_ENOUGH = 20  # validation pictures that may replace a calibration on more


@checked
def calibrate(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    max_error: float | None = None,
    coverage: float | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    **reading: str | Path,
) -> Calibration:
    """Calibrates a bundle's confidence on validation pictures.

    It fits the temperature, chooses the confidence below which an answer is unsure, and learns to
    recognise unfamiliar pictures. 'vitlora fit' does this at its end; use calibrate for another
    error rate or for an adopted adapter.

    Args:
        checkpoint: Folder of the bundle, which is rewritten.
        data: Folder with train/ and val/, or class folders (default: the folder of training).
        max_error: Largest share of wrong answers among the sure answers to new pictures, guaranteed
            with 90% certainty (default: as the bundle was calibrated, else 0.05).
        coverage: Instead of --max-error: share of the pictures that get a sure answer.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        The new calibration.

    Raises:
        UsageError: A share is out of range, or both are given.
        BundleError: The bundle is damaged.
        BackboneError: The base's weights cannot be found.
        DataError: There are no training or validation pictures.

    Examples:
        $ vitlora calibrate checkpoints/waste5 --max-error 0.02
        $ vitlora calibrate checkpoints/waste5 --coverage 0.8
    """
    check_writable("CHECKPOINT", check_there(checkpoint))
    layout = LayoutOptions.named(reading)
    if data is not None:
        check_root(data, "--data")
    if max_error is not None and coverage is not None:
        raise UsageError("--max-error and --coverage exclude each other; leave one out")
    asked = {"max_error": max_error, "coverage": coverage}
    rule = {name: share for name, share in asked.items() if share is not None}
    Unsure(**rule)  # reports a mistake before torch is imported
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.bundle.merging import merged_network
        from vitlora.evaluation.calibrate import calibrate as learn
        from vitlora.evaluation.pictures import find_validation
    from vitlora.hardware import pick_device

    bundle = load_bundle(checkpoint)
    folder = find_validation(bundle, data, layout).folder
    if "train" not in folder.splits:
        raise DataError(
            f"{folder.root} has no train split; name a folder with train/ and val/ with --data"
        )
    before, count = bundle.record.confidence, len(folder.splits["val"])
    if before is not None and count < min(before.images, _ENOUGH):
        raise DataError(
            f"{folder.root} has {counted(count, 'validation picture')}, and the bundle is already "
            f"calibrated on {before.images:,}; expected at least {_ENOUGH}, or as many as before"
        )
    unsure = Unsure(**(rule or ({} if before is None else before.rule)))
    network = merged_network(bundle, weights, pick_device(device))
    bundle = learn(bundle, network, folder.splits["train"], folder.splits["val"], unsure)
    return Calibration(bundle.folder, bundle.record.confidence)


@dataclass(frozen=True)
class Calibration:
    """A bundle's new calibration.

    Attributes:
        checkpoint: The bundle.
        confidence: Temperature and thresholds; None if nothing could be learnt.
    """

    checkpoint: Path
    confidence: Confidence | None

    def to_text(self) -> str:
        """Returns temperature and threshold as text."""
        from vitlora.evaluation.calibrate import describe

        return "" if self.confidence is None else describe(self.confidence)

    def to_json(self) -> dict[str, object]:
        """Returns the numbers of the calibration."""
        learnt = None if self.confidence is None else asdict(self.confidence)
        return {"checkpoint": str(self.checkpoint), "confidence": learnt}
