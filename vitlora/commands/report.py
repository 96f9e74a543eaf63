"""The ``report`` command: scores a bundle on one offline HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there, is_bundle
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import UsageError, counted
from vitlora.files import check_target, write_whole
from vitlora.light_imports import light_imports
from vitlora.notes import note, tell, warn
from vitlora.shell import typed

if TYPE_CHECKING:
    from vitlora.evaluation.seen import Seen
    from vitlora.metrics.scores import Scores

MARK = b'<meta name="generator" content="vitlora report">'  # as in the page's template


@checked
def report(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    output: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    **reading: str | Path,
) -> Report:
    """Scores a bundle and writes the result as an HTML page.

    The page works offline. It shows scores with intervals, a confusion matrix with its pictures,
    calibration, learning curves, the worst mistakes and where the network looked.

    Args:
        checkpoint: Folder of the bundle.
        data: Folder with test/, val/ or train/, or class folders (default: the folder of
            training).
        split: The split to score (default: test, else val, else all).
        output: The page, which replaces an earlier report (default: NAME-report.html, where NAME is
            the bundle's folder).
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        Where the page is, and the scores.

    Raises:
        UsageError: The page cannot be written, or would replace something else.
        BundleError: The bundle is damaged, belongs to other base weights, or the split changed.
        BackboneError: The base's weights cannot be found.
        DataError: There are no pictures to score.

    Examples:
        $ vitlora report checkpoints/waste5
        $ vitlora report checkpoints/waste5 --data photos --split val --output r.html
    """
    folder = check_there(checkpoint)
    page, layout = _page(folder, output), LayoutOptions.named(reading)
    if data is not None:
        check_root(data, "--data")
    options = {"data": data, "split": split, "output": output, "weights": weights}
    options["device"] = None if device == "auto" else device
    options |= {f"data.{name}": value for name, value in layout.given().items()}
    given = [word for name, x in options.items() if x is not None for word in (f"--{name}", x)]
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.bundle.merging import merged_network
        from vitlora.evaluation.answers import answer
        from vitlora.evaluation.pictures import find_pictures
        from vitlora.evaluation.report_page import ReportPage
    from vitlora.hardware import pick_device

    where, bundle = pick_device(device), load_bundle(folder)
    pictures = find_pictures(bundle, data, split, layout)
    count = counted(len(pictures.samples), "picture")
    tell(f"scoring {count} of {pictures.root}, split {pictures.split} …")
    network = merged_network(bundle, weights, where)
    answers = answer(network, pictures.samples, bundle.record.preprocessing)
    content = ReportPage(bundle, pictures, answers)
    write_whole(page, content.html(network, where, typed("vitlora", "report", folder, *given)))
    if answers.unreadable:
        note(f"left out {counted(len(answers.unreadable), 'unreadable picture')}; see the page")
    for line in pictures.notes:
        note(line.removesuffix("."))
    for line in pictures.seen.notes(pictures.split):
        warn(line)
    return Report(
        checkpoint=folder,
        output=page,
        size=page.stat().st_size,
        data=pictures.root,
        split=pictures.split,
        scores=content.scores,
        unreadable={str(path): why for path, why in answers.unreadable.items()},
        seen=pictures.seen,
    )


@dataclass(frozen=True)
class Report:
    """A page and its scores.

    Attributes:
        checkpoint: The bundle.
        output: The page.
        size: Size of the page, bytes.
        data: The folder of pictures.
        split: train, val, test, or all for a folder without splits.
        scores: Calibrated scores on the pictures that could be read.
        unreadable: Path -> reason, for pictures that could not be read.
        seen: Which of them training used.
    """

    checkpoint: Path
    output: Path
    size: int
    data: Path
    split: str
    scores: Scores
    unreadable: dict[str, str]
    seen: Seen

    def to_text(self) -> str:
        """Returns the main scores and where the page is."""
        scores, (low, high) = self.scores, self.scores.accuracy_interval
        return (
            f"accuracy {scores.accuracy:.4f}  (95% interval {low:.4f} to {high:.4f})   "
            f"macro-F1 {scores.macro_f1:.4f}   {counted(scores.images, 'picture')}\n"
            f"report   {self.output}  ({self.size:,} bytes)"
        )

    def to_json(self) -> dict[str, object]:
        """Returns all scores, as ``test`` does, and where the page is."""
        return {
            "checkpoint": str(self.checkpoint),
            "output": str(self.output),
            "data": str(self.data),
            "split": self.split,
            **self.scores.to_json(),
            "unreadable": self.unreadable,
            **self.seen.to_json(),
        }


def _page(checkpoint: Path, output: str | Path | None) -> Path:
    """Returns the path of the page.

    Raises:
        UsageError: It cannot be written, or would replace something else.
    """
    page = Path(output or f"{checkpoint.resolve().name}-report.html")
    check_target("--output", page, (".html", ".htm"), MARK)
    if is_bundle(page.parent):
        raise UsageError(f"--output is '{page}', inside a bundle; choose a file outside")
    return page
