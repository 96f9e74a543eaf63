"""The ``drift`` command: compares new, unlabelled photos with the training data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.data.folder import Sample
from vitlora.data.unlabelled import names_of
from vitlora.errors import BundleError, counted
from vitlora.files import expanded
from vitlora.light_imports import light_imports
from vitlora.notes import note, warn
from vitlora.shell import typed

if TYPE_CHECKING:
    from vitlora.evaluation.drift import Drift, Shift
    from vitlora.evaluation.seen import Seen

_SHOWN = 10  # pictures, and classes of the mix
_SIZES = {"none": "no", "little": "a little", "some": "some", "much": "much"}


@checked
def drift(
    checkpoint: str | Path,
    *,
    data: str | Path,
    weights: str | Path | None = None,
    device: str = "auto",
) -> DriftResult:
    """Checks whether new photos are like the training data.

    The photos need no labels. It compares the mix of classes, the confidence of the answers, and
    the distance of the photos from the training pictures. The exit status is 0 even if something
    changed.

    Args:
        checkpoint: Folder of the bundle.
        data: New photos: all that predict takes, such as a folder, glob, archive or table.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.

    Returns:
        The comparisons and what changed.

    Raises:
        BundleError: The bundle is damaged, not calibrated, or belongs to other base weights.
        BackboneError: The base's weights cannot be found.
        DataError: There are no pictures to compare.

    Examples:
        $ vitlora drift checkpoints/waste5 --data photos-of-june
        $ vitlora drift checkpoints/waste5 --data inbox --json | grep '"drift": true'
    """
    check_there(checkpoint)
    names = names_of(data)
    samples = [Sample(path, -1) for path in names]  # -1: unknown class
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.bundle.merging import merged_network
        from vitlora.evaluation.answers import answer
        from vitlora.evaluation.drift import compare
        from vitlora.evaluation.seen import seen
    from vitlora.hardware import pick_device

    bundle = load_bundle(checkpoint)
    known, reference = bundle.record.confidence, bundle.reference
    if known is None or reference is None:
        raise BundleError(
            f"{bundle.folder} is not calibrated, so there is nothing to compare with; first run "
            f"'{typed('vitlora', 'calibrate', bundle.folder)}'"
        )
    network = merged_network(bundle, weights, pick_device(device))
    answers = answer(network, samples, bundle.record.preprocessing)
    for line in answers.unreadable.values():
        note(f"left out: {line}")
    if answers.outside:
        photos = counted(len(answers.outside), "photo")
        warn(f"{photos} with values outside the range of training, such as {answers.outside[0]}")
    trained = seen(bundle, samples)
    for line in trained.notes("all"):
        warn(line)
    found = compare(answers, bundle.record, known, reference)
    unreadable = {str(path): why for path, why in answers.unreadable.items()}
    return DriftResult(bundle.folder, expanded(data), found, unreadable, trained, names)


@dataclass(frozen=True)
class DriftResult:
    """The comparisons and what changed.

    Attributes:
        checkpoint: The bundle.
        data: Where the new photos are.
        drift: The comparisons.
        unreadable: Path -> reason, for photos that could not be read.
        seen: Which of them training used.
        names: What each file is called in ``data``.
    """

    checkpoint: Path
    data: Path
    drift: Drift
    unreadable: dict[str, str]
    seen: Seen
    names: dict[Path, str]

    def to_text(self) -> str:
        """Returns the verdict, what to do, and the numbers."""
        from vitlora.evaluation.drift import FEW

        drift = self.drift
        lines = [verdict(drift), *([_to_do(drift, self.checkpoint)] if drift.changed else []), ""]
        lines += _table(drift)
        if min(len(drift.photos), drift.validation) < FEW:
            lines.append(f"the shares are rough: they are of fewer than {FEW} pictures")
        lines += [f"not compared: {name} ({why})" for name, why in drift.left_out.items()]
        lines.append(
            f"{counted(len(drift.photos), 'photo')}, "
            f"{counted(drift.validation, 'validation picture')}; "
            f"{len(self.unreadable):,} could not be read"
        )
        far = [photo for photo in drift.photos if photo.unfamiliar]
        if far:
            lines += ["", f"least like the training pictures ({len(far):,} in all):"]
        for photo in far[:_SHOWN]:
            predicted = f"predicted {photo.label}, {photo.confidence:.0%}"
            lines.append(f"  {self.names[photo.path]}   distance {photo.distance:.1f}, {predicted}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Returns every number and photo."""
        drift = self.drift
        return {
            "checkpoint": str(self.checkpoint),
            "data": str(self.data),
            "drift": bool(drift.changed),
            "verdict": verdict(drift),
            "photos": len(drift.photos),
            "validation": drift.validation,
            "compared": [
                {**asdict(shift), "size": shift.size, "rose": shift.rose} for shift in drift.shifts
            ],
            "not_compared": drift.left_out,
            "unsure": dict(zip(("before", "here"), drift.unsure, strict=True)),
            "unfamiliar": dict(zip(("before", "here"), drift.unfamiliar, strict=True)),
            "unreadable": self.unreadable,
            "pictures": [
                {**asdict(photo), "path": str(photo.path), "name": self.names[photo.path]}
                for photo in drift.photos
            ],
            **self.seen.to_json(),
        }


def verdict(drift: Drift) -> str:
    """Returns the result in one sentence."""
    from vitlora.evaluation.drift import FEW

    count = counted(len(drift.photos), "photo")
    if drift.changed:
        said = "; ".join(_said(drift, shift) for shift in drift.changed)
        return f"Changed: {said}."
    if len(drift.photos) < FEW:
        return f"No change found, but with {count} only a very large one would show."
    if drift.validation < FEW:
        return (
            f"No change found, but with {counted(drift.validation, 'validation picture')} only a "
            "very large one would show."
        )
    return f"These {count} look like the training data."


def _said(drift: Drift, shift: Shift) -> str:
    rows = _details(drift, shift)[: 1 if shift.medians is None else 2]
    shares = ", ".join(f"{name} {before} -> {here}" for name, before, here in rows)
    if shift.name == "class mix":
        return f"the class mix changed ({shares})"
    if shift.name == "confidence":
        return f"the answers are {'more' if shift.rose else 'less'} confident ({shares})"
    return f"the photos are {'less' if shift.rose else 'more'} like the training data ({shares})"


def _to_do(drift: Drift, checkpoint: Path) -> str:
    found = {(shift.name, shift.rose) for shift in drift.changed}
    if found & {("confidence", False), ("distance", True)}:
        return (
            "what to do: look at the photos below, label some like them, and continue training: "
            + typed("vitlora", "fit", "--from", checkpoint)
        )
    if any(shift.name == "class mix" for shift in drift.changed):
        return (
            "what to do: if you expected the same mix, label some of them and score them: "
            + typed("vitlora", "report", checkpoint, "--data", "LABELLED")
        )
    return "what to do: check for training pictures or many photos of one object among them"


def _table(drift: Drift) -> list[str]:
    """Returns a row for each comparison, followed by its most important numbers."""
    rows = [("", "before", "here", "changed", "moved", "PSI", "p")]
    for shift in drift.shifts:
        p = f"{shift.p:.3f}" if shift.p >= 0.001 else "<0.001"
        numbers = (_percent(shift.moved), f"{shift.psi:.2f}", p)
        rows.append((shift.name, "", "", _SIZES[shift.size], *numbers))
        for name, before, here in _details(drift, shift)[:_SHOWN]:
            rows.append((f"  {name}", before, here, "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def _details(drift: Drift, shift: Shift) -> list[tuple[str, str, str]]:
    """Returns names with their values before and here; classes with the largest change first."""
    if shift.medians is None:
        shares = zip(shift.parts, shift.expected, shift.observed, strict=True)
        rows = sorted(shares, key=lambda row: -abs(row[2] - row[1]))
        return [(name, _percent(before), _percent(here)) for name, before, here in rows]
    confident = shift.name == "confidence"
    name, shares = ("unsure", drift.unsure) if confident else ("unfamiliar", drift.unfamiliar)
    before, here = (_percent(m) if confident else f"{m:.1f}" for m in shift.medians)
    return [("median", before, here), (name, _percent(shares[0]), _percent(shares[1]))]


def _percent(share: float) -> str:
    return f"{share:.1%}"
