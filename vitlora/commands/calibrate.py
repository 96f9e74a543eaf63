"""The ``calibrate`` command: what a bundle's confidence is worth, once more."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.bundle.folder import check_there
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import DataError, UsageError
from vitlora.metrics.unsure import Unsure

if TYPE_CHECKING:
    from vitlora.metrics.confidence import Confidence


def calibrate(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    max_error: float | None = None,
    coverage: float | None = None,
    weights: str | None = None,
    device: str = "auto",
    **reading: str | Path,
) -> Calibration:
    """Calibrates a bundle's confidence on validation pictures.

    It fits the temperature, chooses below which confidence an answer is unsure, and learns where
    the training pictures lie, to know unfamiliar ones. 'vitlora fit' does so by itself; this does
    it again, for another error rate or for an adopted adapter.

    Args:
        checkpoint: Folder of the bundle, which is rewritten.
        data: Folder with train/ and val/, or class folders (default: the folder of training).
        max_error: Share of wrong answers accepted among the sure ones of new pictures, kept to with
            90% probability (default: what the bundle was calibrated for, else 0.05).
        coverage: Or: share of the pictures to be answered for sure.
        weights: File of the frozen base's weights, if no longer where training found them.
        device: auto, cpu, cuda or mps.
        reading: Options of fit that say how --data is stored: --data.layout, --data.label_column
            and the like.

    Returns:
        What the bundle holds now.

    Raises:
        UsageError: A share out of range, or both are given.
        BundleError: The bundle is damaged.
        BackboneError: The base's weights cannot be had.
        DataError: There are no pictures to learn from.

    Examples:
        $ vitlora calibrate checkpoints/waste5 --max-error 0.02
        $ vitlora calibrate checkpoints/waste5 --coverage 0.8
    """
    check_there(checkpoint)
    layout = LayoutOptions.named(reading)
    if data is not None:
        check_root(data, "--data")
    if max_error is not None and coverage is not None:
        raise UsageError("calibrate takes --max-error or --coverage, not both")
    asked = {"max_error": max_error, "coverage": coverage}
    rule = {name: share for name, share in asked.items() if share is not None}
    Unsure(**rule)  # a mistake in it needs no torch to be told
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.bundle.merging import merged_network
    from vitlora.evaluation.calibrate import calibrate as learn
    from vitlora.evaluation.pictures import find_validation
    from vitlora.hardware import pick_device

    bundle = load_bundle(checkpoint)
    folder = find_validation(bundle, data, layout).folder
    if "train" not in folder.splits:
        raise DataError(f"{folder.root} has no train split; expected pictures trained on")
    before = bundle.record.confidence
    unsure = Unsure(**(rule or ({} if before is None else before.rule)))
    network = merged_network(bundle, weights, pick_device(device))
    bundle = learn(bundle, network, folder.splits["train"], folder.splits["val"], unsure)
    return Calibration(bundle.folder, bundle.record.confidence)


@dataclass(frozen=True)
class Calibration:
    """What a bundle now says of its confidence.

    Attributes:
        checkpoint: The bundle.
        confidence: Temperature, thresholds and what they rest on; None if nothing could be learnt.
    """

    checkpoint: Path
    confidence: Confidence | None

    def to_text(self) -> str:
        """Returns temperature and threshold, in words."""
        from vitlora.evaluation.calibrate import describe

        return "" if self.confidence is None else describe(self.confidence)

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers that the bundle holds."""
        learnt = None if self.confidence is None else asdict(self.confidence)
        return {"checkpoint": str(self.checkpoint), "confidence": learnt}
