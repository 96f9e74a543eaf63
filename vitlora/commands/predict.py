"""The ``predict`` command, which is also ``predict.py``."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.bundle.folder import check_there, newest_bundle
from vitlora.command_line import CommandParser, check_target
from vitlora.data.listing import describe, list_pictures
from vitlora.errors import DataError, UsageError
from vitlora.files import write_whole
from vitlora.prediction.light_imports import without_compiler

if TYPE_CHECKING:
    from vitlora.data.bit_depth import ValueRange
    from vitlora.prediction.predictor import Prediction

_EPILOG = """examples:
  python predict.py photo.jpg
  python predict.py holiday/ "more/*.png" --top-k 5 --csv answers.csv
  python predict.py photo.jpg --checkpoint checkpoints/waste5 --show"""


def main(args: Sequence[str] | None = None) -> int:
    """Predicts the pictures named on the command line; returns 1 if any could not be read.

    Raises:
        UsageError: No picture, or an option out of range.
        BundleError: The bundle is damaged or there is none.
        BackboneError: The base's weights cannot be had.
    """
    options = _parser().parse_args(args)
    if options.top_k < 1 or options.batch_size < 1:
        raise UsageError("--top-k and --batch-size must be at least 1")
    check_target("--csv", options.csv, ".csv")
    paths, bad, others = find_images(options.images)
    for error in bad:
        print(f"predict: {error}", file=sys.stderr)
    if others:
        print(f"predict: passed over {describe(others)}", file=sys.stderr)
    if not paths:
        return 1
    named = options.checkpoint is not None
    folder = check_there(options.checkpoint) if named else newest_bundle()
    # torch and timm take seconds to import: only now, when the words typed make sense
    with without_compiler():
        from vitlora.prediction.predictor import Predictor

    predictor = Predictor(folder, options.weights, options.device, options.precision)
    if not named:
        print(f"using {folder}", file=sys.stderr)
    if not predictor.validated:
        print(f"note: {folder} was never validated: how good it is, is not known", file=sys.stderr)
    elif predictor.confidence is None:
        print(f"note: {folder} was never calibrated: its confidence may mislead", file=sys.stderr)
    elif predictor.confidence.unsure_below > 1:
        print(
            f"note: {folder} calls every answer unsure: its {predictor.confidence.images} "
            "validation pictures promise nothing better; 'vitlora calibrate' takes a larger "
            "--max-error",
            file=sys.stderr,
        )
    rows: list[Prediction] = []
    failed = len(bad)
    for result in predictor.predict(paths, options.top_k, options.batch_size):
        if isinstance(result, DataError):
            failed += 1
            print(f"predict: {result}", file=sys.stderr)
            continue
        rows.append(result)
        print(_json(result) if options.json else _text(result, alone=len(paths) == 1))
        if options.show:
            _show(result, predictor.preprocessing.value_range, alone=len(paths) == 1)
    if options.csv:
        _write_csv(Path(options.csv), rows)
    return 1 if failed else 0


def find_images(words: Iterable[str]) -> tuple[list[Path], list[str], list[Path]]:
    """Returns the pictures that files, folders and globs name; the words that named none; others.

    A file that is named is taken for a picture, whatever it is; the others are those of folders.
    """
    paths: dict[Path, None] = {}
    bad: list[str] = []
    others: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            listing = list_pictures(path)
            bad += [f"{one}: may not be read" for one in listing.passed_over.get("closed", [])]
            found = listing.pictures
            others += listing.passed_over.get("other", [])
        elif path.exists():
            found = [path]
        else:  # Windows shells hand globs over as they were typed
            found = sorted(p for p in map(Path, glob(word, recursive=True)) if p.is_file())  # noqa: PTH207
        if not found:
            bad.append(
                f"{word}: {'no pictures in this folder' if path.is_dir() else 'no such file'}"
            )
        paths |= dict.fromkeys(found)
    return list(paths), bad, others


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="predict.py",
        description="Says what pictures show, with a confidence, using a trained adapter.",
        epilog=_EPILOG,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="bundle to use (default: the newest in checkpoints/)"
    )
    parser.add_argument("--weights", metavar="FILE", help="the frozen base's weights")
    parser.add_argument("--top-k", type=int, default=3, metavar="K", help="classes to list")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--csv", metavar="FILE", help="also write the answers to a CSV file")
    parser.add_argument(
        "--show",
        action="store_true",
        help="show the picture with its class; saved to predictions/ where there is no display",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--precision",
        default="32",
        choices=("32", "bf16", "auto"),
        help="32 answers as it was scored; bf16 is faster; auto takes it where the chip has it",
    )
    return parser


def _text(result: Prediction, alone: bool) -> str:
    best, *others = [f"{name} {confidence:.2%}" for name, confidence in result.top]
    said = f"{best}   ({', '.join(others)})" if others else best
    doubts = [
        *(["unsure"] if result.unsure else []),
        *(["unlike the training pictures"] if result.unfamiliar else []),
        *(["values outside the range of training"] if result.outside else []),
    ]
    said += f"   [{', '.join(doubts)}]" if doubts else ""
    return said if alone else f"{result.path}: {said}"


def _json(result: Prediction) -> str:
    """Returns one line; in ASCII, so that it survives every console and pipe."""
    ranked = [{"class": name, "confidence": round(value, 6)} for name, value in result.top]
    doubts = {
        "unsure": result.unsure,
        "unfamiliar": result.unfamiliar,
        "outside": result.outside,
    }
    return json.dumps({"path": str(result.path), **ranked[0], **doubts, "top_k": ranked})


def _write_csv(target: Path, rows: Sequence[Prediction]) -> None:
    """Writes a line for each answer, with the byte-order mark Excel wants."""
    most = max((len(row.top) for row in rows), default=1)
    names = [f"{name}_{n}" for n in range(2, most + 1) for name in ("class", "confidence")]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "class", "confidence", "unsure", "unfamiliar", "outside", *names])
    for row in rows:
        first, *others = [(name, f"{value:.6f}") for name, value in row.top]
        marks = (row.unsure, row.unfamiliar, row.outside)
        doubts = ["yes" if doubt else "no" for doubt in marks]
        runners_up = [cell for pair in others for cell in pair]
        writer.writerow([row.path, *first, *doubts, *runners_up])
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
    print(f"saved {target}", file=sys.stderr)
