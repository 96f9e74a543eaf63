"""The ``predict`` command, which is also ``predict.py``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from csv import writer
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.bundle.folder import check_there, newest_bundle
from vitlora.data.archives import is_archive
from vitlora.data.listing import describe, list_pictures
from vitlora.errors import DataError, UsageError, counted
from vitlora.exporting.targets import target_of
from vitlora.files import check_target, write_whole
from vitlora.light_imports import without_compiler
from vitlora.notes import note

if TYPE_CHECKING:
    from vitlora.data.bit_depth import ValueRange
    from vitlora.exporting.exported_predictor import ExportedPredictor
    from vitlora.metrics.prediction import Prediction
    from vitlora.prediction.predictor import Predictor


def predict(
    images: Sequence[str | Path] | str | Path,
    *,
    checkpoint: str | Path | None = None,
    top_k: int = 3,
    batch_size: int = 32,
    csv: str | Path | None = None,
    show: bool = False,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Literal["32", "bf16", "auto"] = "32",
) -> Iterator[Prediction | DataError]:
    """Predicts the class of pictures, with its confidence.

    The exit status is 1 if any picture could not be read. --json without a file prints each answer
    at once, as an object on its own line.

    Args:
        images: Files, folders or globs.
        checkpoint: Folder of the bundle (default: the newest in checkpoints/), or a file that
            export wrote, which starts faster.
        top_k: Number of classes to list for each picture.
        batch_size: Pictures in one forward pass.
        csv: Also write the answers to this CSV file, at the end.
        show: Show each picture with its classes; without a display, or for several pictures, save
            them to predictions/.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.
        precision: 32 is what the bundle was scored in; bf16 is faster; auto is bf16 if the chip
            computes in it, else 32.

    Returns:
        An iterator over the answers, in order: a prediction for each picture, and an error for
        each that cannot be read.

    Raises:
        UsageError: A number is out of range, or the CSV file cannot be written.
        BundleError: The bundle is damaged, or there is none.
        BackboneError: The base's weights cannot be found.

    Examples:
        $ vitlora predict photo.jpg
        $ vitlora predict holiday/ "more/*.png" --top-k 5 --csv answers.csv
        $ vitlora predict photo.jpg --checkpoint checkpoints/waste5 --show
    """
    for name, value in (("--top-k", top_k), ("--batch-size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1")
    check_target("--csv", csv, (".csv",), b"path,class,confidence")
    found, others = find_images([images] if isinstance(images, str | Path) else images)
    if others:
        note(f"ignored {describe(others)}")
    if not any(isinstance(one, Path) for one in found):
        return (one for one in found if isinstance(one, DataError))
    if checkpoint is not None and target_of(checkpoint) is not None:
        place, predictor = Path(checkpoint), _exported(Path(checkpoint), weights, device, precision)
    else:
        place = newest_bundle() if checkpoint is None else check_there(checkpoint)
        # importing torch and timm takes seconds, so the arguments are checked first
        with without_compiler():
            from vitlora.prediction.predictor import Predictor

        predictor = Predictor(place, weights, device, precision)
    if checkpoint is None:
        note(f"using {place}")
    _note_doubts(place, predictor)
    answers = _answers(predictor, found, top_k, batch_size, show)
    return answers if csv is None else _kept(answers, Path(csv))


def _exported(
    file: Path, weights: str | Path | None, device: str, precision: str
) -> ExportedPredictor:
    """Returns the predictor of an exported file; torch is not imported.

    Raises:
        UsageError: An option is only for bundles.
        BundleError: The file is missing or damaged.
    """
    from vitlora.exporting.exported_predictor import ExportedPredictor

    if weights is not None:
        raise UsageError(f"--weights is for bundles; {file} holds its weights, so leave it out")
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device is {device}, but {file} runs on the CPU; predict with a bundle")
    if precision == "bf16":
        raise UsageError(
            f"--precision is bf16, but {file} has the precision of its export; leave it out"
        )
    return ExportedPredictor(file)


def _answers(
    predictor: Predictor | ExportedPredictor,
    found: Sequence[Path | DataError],
    top_k: int,
    batch_size: int,
    show: bool,
) -> Iterator[Prediction | DataError]:
    """Yields the answer to each file, or its error, in order."""
    from vitlora.metrics.prediction import OnlyPrediction

    paths = [one for one in found if isinstance(one, Path)]
    alone = len(found) == 1
    answers = predictor.predict(paths, top_k, batch_size)
    for answer in (next(answers) if isinstance(one, Path) else one for one in found):
        if isinstance(answer, DataError):
            yield answer
            continue
        yield OnlyPrediction(**vars(answer)) if alone else answer
        if show:
            _show(answer, predictor.preprocessing.value_range, alone)


def _kept(
    answers: Iterator[Prediction | DataError], target: Path
) -> Iterator[Prediction | DataError]:
    """Yields the answers, and writes them to a CSV file at the end."""
    rows: list[Prediction] = []
    for answer in answers:
        yield answer
        if not isinstance(answer, DataError):
            rows.append(answer)
    _write_csv(target, rows)


def _note_doubts(folder: Path, predictor: Predictor | ExportedPredictor) -> None:
    """Notes why a bundle's confidence may mislead."""
    if not predictor.validated:
        note(f"{folder} was never validated, so its accuracy is unknown")
    elif predictor.confidence is None:
        note(f"{folder} is not calibrated, so its confidence may mislead; see 'vitlora calibrate'")
    elif predictor.confidence.unsure_below > 1:
        pictures = counted(predictor.confidence.images, "validation picture")
        note(
            f"every answer of {folder} is unsure, because {pictures} cannot show a low error rate; "
            "'vitlora calibrate' accepts a larger --max-error"
        )


def find_images(words: Iterable[str | Path]) -> tuple[list[Path | DataError], list[Path]]:
    """Returns the pictures of files, folders and globs, in order, and the folders' other files.

    A named file counts as a picture, whatever its content. An argument without pictures and a
    folder that may not be read each give an error in their place.
    """
    paths: dict[Path | DataError, None] = {}
    others: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir() or is_archive(path):
            listing = list_pictures(path)
            closed = listing.passed_over.get("closed", [])
            paths |= {DataError(f"{one}: permission denied"): None for one in closed}
            found = listing.pictures
            others += listing.passed_over.get("other", [])
        elif path.exists():
            found = [path]
        else:  # Windows shells do not expand globs
            found = sorted(p for p in map(Path, glob(str(word), recursive=True)) if p.is_file())  # noqa: PTH207
        if not found:
            folder = path.is_dir() or is_archive(path)
            what = "no pictures in this folder" if folder else "no such file"
            paths[DataError(f"{word}: {what}")] = None
        paths |= dict.fromkeys(found)
    return list(paths), others


def _write_csv(target: Path, rows: Sequence[Prediction]) -> None:
    """Writes a line for each answer, with the byte-order mark Excel wants."""
    most = max((len(row.top) for row in rows), default=1)
    names = [f"{name}_{n}" for n in range(2, most + 1) for name in ("class", "confidence")]
    text = io.StringIO(newline="")
    lines = writer(text)
    lines.writerow(["path", "class", "confidence", "unsure", "unfamiliar", "outside", *names])
    for row in rows:
        first, *others = [(name, f"{value:.6f}") for name, value in row.top]
        marks = (row.unsure, row.unfamiliar, row.outside)
        doubts = ["yes" if doubt else "no" for doubt in marks]
        runners_up = [cell for pair in others for cell in pair]
        lines.writerow([row.path, *first, *doubts, *runners_up])
    write_whole(target, "\ufeff" + text.getvalue())


def _show(result: Prediction, value_range: ValueRange | None, alone: bool) -> None:
    from vitlora.prediction.picture import captioned

    path = result.path
    picture = captioned(path, result.top, value_range)
    display = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY")
    if alone and display:
        picture.show(title=path.name)
        return
    folder = Path("predictions")
    folder.mkdir(exist_ok=True)
    parts = path.resolve().relative_to(path.resolve().anchor).parts  # no drive, which would win
    target = folder / f"{'_'.join(parts[-3:])}.png"
    picture.save(target)
    note(f"saved {target}")
