"""The ``predict`` command, which is also ``predict.py``."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path

from vitlora.data.images import is_image_file
from vitlora.errors import DataError, UsageError

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
    if options.csv and not Path(options.csv).parent.is_dir():
        raise UsageError(f"--csv '{options.csv}': its folder does not exist")
    paths, bad = find_images(options.images)
    for error in bad:
        print(f"predict: {error}", file=sys.stderr)
    if not paths:
        return 1
    # torch and timm take seconds to import: only now, when the words typed make sense
    from vitlora.checkpoint import newest_bundle
    from vitlora.predictor import Predictor

    folder = options.checkpoint or newest_bundle()
    predictor = Predictor(folder, options.weights, options.device)
    if options.checkpoint is None:
        print(f"using {folder}", file=sys.stderr)
    if not predictor.validated:
        print(f"note: {folder} was never validated: how good it is, is not known", file=sys.stderr)
    rows: list[tuple[Path, Sequence[tuple[str, float]]]] = []
    failed = len(bad)
    for result in predictor.predict(paths, options.top_k, options.batch_size):
        if isinstance(result, DataError):
            failed += 1
            print(f"predict: {result}", file=sys.stderr)
            continue
        rows.append((result.path, result.top))
        print(
            _json(result.path, result.top)
            if options.json
            else _text(result.path, result.top, len(paths))
        )
        if options.show:
            _show(result.path, result.top, alone=len(paths) == 1)
    if options.csv:
        _write_csv(Path(options.csv), rows)
    return 1 if failed else 0


def find_images(words: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Returns the picture files that files, folders and globs name, and what named nothing."""
    paths: dict[Path, None] = {}
    bad: list[str] = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if is_image_file(p))
        elif path.exists():
            found = [path]
        else:  # Windows shells hand globs over as they were typed
            found = sorted(p for p in map(Path, glob(word, recursive=True)) if p.is_file())  # noqa: PTH207
        if not found:
            bad.append(
                f"{word}: {'no pictures in this folder' if path.is_dir() else 'no such file'}"
            )
        paths |= dict.fromkeys(found)
    return list(paths), bad


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="predict.py",
        description="Says what pictures show, with a confidence, using a trained adapter.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    return parser


def _text(path: Path, top: Sequence[tuple[str, float]], pictures: int) -> str:
    best, *others = [f"{name} {confidence:.2%}" for name, confidence in top]
    runners_up = f"   ({', '.join(others)})" if others else ""
    return f"{path}: {best}{runners_up}" if pictures > 1 else f"{best}{runners_up}"


def _json(path: Path, top: Sequence[tuple[str, float]]) -> str:
    """Returns one line; in ASCII, so that it survives every console and pipe."""
    ranked = [{"class": name, "confidence": round(value, 6)} for name, value in top]
    return json.dumps({"path": str(path), **ranked[0], "top_k": ranked})


def _write_csv(target: Path, rows: Sequence[tuple[Path, Sequence[tuple[str, float]]]]) -> None:
    """Writes path, class, confidence and runners-up, with the byte-order mark Excel wants."""
    most = max((len(top) for _, top in rows), default=1)
    numbers = ["", *(f"_{n}" for n in range(2, most + 1))]
    new = target.with_name(f".{target.name}.new")
    with new.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["path", *(f"{name}{n}" for n in numbers for name in ("class", "confidence"))]
        )
        for picture, top in rows:
            writer.writerow(
                [picture, *(cell for name, value in top for cell in (name, f"{value:.6f}"))]
            )
    new.replace(target)


def _show(path: Path, top: Sequence[tuple[str, float]], alone: bool) -> None:
    from vitlora.picture import captioned

    picture = captioned(path, top)
    display = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY")
    if alone and display:
        picture.show(title=path.name)
        return
    folder = Path("predictions")
    folder.mkdir(exist_ok=True)
    target = folder / f"{'_'.join(path.resolve().parts[-3:]).strip('/')}.png"
    picture.save(target)
    print(f"saved {target}", file=sys.stderr)
