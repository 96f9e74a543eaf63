"""The ``report`` command: how good a bundle is, as one offline HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitlora.bundle.folder import check_there, is_bundle
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import UsageError, counted
from vitlora.files import check_target, write_whole
from vitlora.notes import note, tell, warn
from vitlora.shell import typed

if TYPE_CHECKING:
    from vitlora.evaluation.seen import Seen
    from vitlora.metrics.scores import Scores

MARK = b'<meta name="generator" content="vitlora report">'  # as the template of the page has it


def report(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    output: str | Path | None = None,
    weights: str | None = None,
    device: str = "auto",
    **reading: str | Path,
) -> Report:
    """Scores a bundle on labelled pictures, on one HTML page.

    The page needs no network. It shows numbers with intervals, a confusion matrix with the pictures
    behind it, confidence, learning curves, the worst mistakes and where the network looked.

    Args:
        checkpoint: Folder of the bundle.
        data: Folder of pictures, with test/, val/ or train/, or class folders alone (default: the
            folder of training).
        split: Which part of it (default: test, else val, else all).
        output: Page to write; an earlier report is replaced (default: NAME-report.html here).
        weights: File of the frozen base's weights, if no longer where training found them.
        device: auto, cpu, cuda or mps.
        reading: Options of fit that say how --data is stored: --data.layout, --data.label_column
            and the like.

    Returns:
        Where the page is, and the scores.

    Raises:
        UsageError: The page cannot be written there, or would replace something else.
        BundleError: The bundle is damaged, belongs to other base weights, or the split changed.
        BackboneError: The base's weights cannot be had.
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
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.bundle.merging import merged_network
    from vitlora.evaluation.answers import answer
    from vitlora.evaluation.pictures import find_pictures
    from vitlora.evaluation.report_page import ReportPage
    from vitlora.hardware import pick_device

    where, bundle = pick_device(device), load_bundle(folder)
    pictures = find_pictures(bundle, data, split, layout)
    tell(f"scoring {len(pictures.samples)} pictures of {pictures.root}, split {pictures.split} …")
    network = merged_network(bundle, weights, where)
    answers = answer(network, pictures.samples, bundle.record.preprocessing)
    content = ReportPage(bundle, pictures, answers)
    write_whole(page, content.html(network, where, typed("vitlora", "report", folder, *given)))
    if answers.unreadable:
        note(f"left out {counted(len(answers.unreadable), 'unreadable picture')}; see the page")
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
    """A page that was written, and the numbers on it.

    Attributes:
        checkpoint: The bundle.
        output: The page.
        size: Of the page, bytes.
        data: The folder of pictures.
        split: train, val, test, or all of a folder without splits.
        scores: After the temperature, of the pictures that could be read.
        unreadable: Pictures that could not, and why.
        seen: Which of them training knew.
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
        """Returns the headline numbers, and where the page is."""
        scores, (low, high) = self.scores, self.scores.accuracy_interval
        return (
            f"accuracy {scores.accuracy:.4f}  (95% interval {low:.4f} to {high:.4f})   "
            f"macro-F1 {scores.macro_f1:.4f}   {scores.images} images\n"
            f"report   {self.output}  ({self.size:,} bytes)"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns every number of the scores, as ``test`` does, and where the page is."""
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
    """Returns where the page goes.

    Raises:
        UsageError: It cannot be written there, or something else is there.
    """
    page = Path(output or f"{checkpoint.resolve().name}-report.html")
    check_target("--output", page, (".html", ".htm"), MARK)
    if is_bundle(page.parent):
        raise UsageError(f"--output is '{page}', inside a bundle, which keeps to its own files")
    return page
