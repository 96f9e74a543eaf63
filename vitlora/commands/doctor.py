"""The ``doctor`` command: what is wrong with an image folder, and a cleaned copy of it."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitlora.command_line import CommandParser
from vitlora.data.bit_depth import ValueRange
from vitlora.data.doctor import examine
from vitlora.data.doctor.cleaned import Shares, write_cleaned
from vitlora.data.doctor.finding import SEVERITIES, Finding
from vitlora.data.doctor.survey import RECORD, Picture, Survey, survey
from vitlora.data.images import open_image
from vitlora.errors import DataError, UsageError
from vitlora.files import write_json, write_whole
from vitlora.pages.page import data_uri, render

_EPILOG = """It changes nothing. The exit status is 1 if it finds an error: something that stops
training, or makes its score wrong.

examples:
  vitlora doctor --data photos
  vitlora doctor --data photos --html doctor.html --json doctor.json
  vitlora doctor --data photos --fix photos-clean --test-fraction 0.15"""
_SHOWN = 3  # names, or groups, of each finding on the console
_TILES, _MEMBERS = 24, 6  # pictures, or groups, of each finding on the page; of each group
_BAR = 20  # characters
_OURS = (b'"findings": [', b"<title>The folder doctor")  # what --json and --html write holds


def main(args: Sequence[str] | None = None) -> int:
    """Prints what is wrong with a folder; returns 1 if any of it is an error.

    Raises:
        UsageError: An option out of range, or a file that cannot be written.
        DataError: There is no such folder, or what is left of it cannot be split.
    """
    options = _parser().parse_args(args)
    root = Path(options.data).expanduser()
    out = Path(options.fix).expanduser() if options.fix else None
    _check(options, root, out)
    shares = Shares(options.val_fraction, options.test_fraction, options.seed)
    found = survey(root, _progress if sys.stderr.isatty() else None)
    if not found.pictures:
        raise DataError(f"--data '{root}' has no pictures in class folders")
    findings = examine(found)
    if options.json:
        write_json(_as_json(found, findings), options.json)
    if options.json != "-":
        print(_text(found, findings))
    if options.html:
        _write_page(Path(options.html), found, findings)
    if out:
        counts = write_cleaned(found, out, shares)
        left = len(found.pictures) - sum(counts.values())
        shown = ", ".join(f"{split} {count}" for split, count in counts.items())
        print(f"\nwrote {out}: {shown}; {left} left out, see {out / RECORD}", file=sys.stderr)
    return int(any(finding.severity == "error" for finding in findings))


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="vitlora doctor",
        description="Says what is wrong with an image folder before it costs a training run.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="train/, val/ and test/ with a folder for each class, or class folders",
    )
    parser.add_argument("--html", metavar="FILE", help="also write an offline page with pictures")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="also write everything as JSON; without FILE, print that instead of text",
    )
    parser.add_argument(
        "--fix",
        metavar="OUT",
        help="write a cleaned copy, split anew, with hard links where possible: no unreadable "
        "picture, no file twice, no copies with different labels, copies in one split",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="SHARE",
        help="of --fix for validation (default: that of the folder's val/, else 0.2)",
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        metavar="SHARE",
        help="of --fix for testing (default: that of the folder's test/, else 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split of --fix (default: 0)")
    return parser


def _check(options: argparse.Namespace, root: Path, out: Path | None) -> None:
    """Refuses before the work what could not be written after it."""
    if not root.is_dir():
        raise DataError(f"--data '{root}': no such folder; expected one with class folders")
    for name, word in (("--html", options.html), ("--json", options.json)):
        if not word or word == "-":
            continue
        path = Path(word)
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"{name} '{word}': expected a file in a folder that exists")
        if root.resolve() in path.resolve().parents:
            raise UsageError(f"{name} '{word}' lies in --data '{root}'; name a file outside")
        if path.exists() and not any(mark in path.read_bytes() for mark in _OURS):
            raise UsageError(f"{name} '{word}' exists and is none of doctor's; name another file")
    if out and (out.exists() or out.is_symlink()):
        raise UsageError(f"--fix '{out}' exists already; name a folder that does not")
    if out and root.resolve() in out.resolve().parents:
        raise UsageError(f"--fix '{out}' lies in --data '{root}'; name a folder outside")
    Shares(options.val_fraction, options.test_fraction).of(Survey(root, ["all"]))
    if not out and (options.val_fraction is not None or options.test_fraction is not None):
        raise UsageError("--val-fraction and --test-fraction are for --fix; add --fix OUT")


def _progress(done: int, total: int) -> None:
    if done % max(1, total // 100) == 0 or done == total:
        filled = done * _BAR // total
        end = "\r" + " " * 60 + "\r" if done == total else ""
        line = f"\rlooking [{'#' * filled}{'.' * (_BAR - filled)}] {done:,} of {total:,} pictures"
        print(line, end=end, file=sys.stderr, flush=True)


def _summary(found: Survey) -> str:
    counts = Counter(picture.split for picture in found.pictures)
    splits = ", ".join(f"{split} {counts[split]:,}" for split in found.splits if split != "all")
    classes = f"{len(found.pictures):,} pictures in {len(found.classes)} classes"
    return f"{classes}: {splits}" if splits else classes


def _tally(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    said = [f"{n} {word}{'s' * (n != 1)}" for word in SEVERITIES if (n := counts[word])]
    return ", ".join(said) or "nothing wrong"


def _text(found: Survey, findings: Sequence[Finding]) -> str:
    lines = [f"{found.root}: {_summary(found)}", _tally(findings)]
    for finding in findings:
        items = finding.groups or finding.files
        lines += ["", f"{finding.severity:<8} {finding.title}"]
        lines += [f"         {_item(finding, item)}" for item in items[:_SHOWN]]
        lines += [f"         ... and {len(items) - _SHOWN:,} more"] * (len(items) > _SHOWN)
        lines += [f"         -> {finding.advice}"]
    # a name may hold a line feed
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _item(finding: Finding, item: str | list[str]) -> str:
    if isinstance(item, list):
        more = f"  and {len(item) - _MEMBERS} more" * (len(item) > _MEMBERS)
        return "  =  ".join(item[:_MEMBERS]) + more
    return f"{item}  ({finding.why[item]})" if item in finding.why else item


def _as_json(found: Survey, findings: Sequence[Finding]) -> dict[str, Any]:
    counts = Counter((picture.split, picture.label) for picture in found.pictures)
    return {
        "root": str(found.root),
        "pictures": {
            split: {label: counts[split, label] for label in found.classes}
            for split in found.splits
        },
        "findings": [{**asdict(finding), "count": finding.count} for finding in findings],
    }


def _write_page(target: Path, found: Survey, findings: Sequence[Finding]) -> None:
    pictures = {picture.name: picture for picture in found.pictures}
    counts = Counter((picture.split, picture.label) for picture in found.pictures)
    scale = found.value_range
    shown = [
        {
            "finding": finding,
            "groups": [_tiles(g[:_MEMBERS], pictures, scale) for g in finding.groups[:_TILES]],
            "tiles": [] if finding.groups else _tiles(finding.files[:_TILES], pictures, scale),
            "more": max(0, len(finding.groups or finding.files) - _TILES),
        }
        for finding in findings
    ]
    rows = [(label, [counts[split, label] for split in found.splits]) for label in found.classes]
    page = render(
        "doctor.html",
        root=str(found.root),
        summary=_summary(found),
        tally=_tally(findings),
        splits=["pictures"] if found.splits == ["all"] else found.splits,
        rows=rows,
        findings=shown,
    )
    write_whole(target, page)


def _tiles(
    names: Sequence[str], pictures: dict[str, Picture], value_range: ValueRange | None
) -> list[dict[str, str]]:
    """Returns name, place and thumbnail of each file; without a thumbnail if it is no picture."""
    tiles: list[dict[str, str]] = []
    for name in names:
        picture = pictures.get(name)
        tile = {"name": name, "place": "", "image": ""}
        if picture is not None:
            split = "" if picture.split == "all" else f" in {picture.split}"
            tile["place"] = f"{picture.label}{split}"
            if picture.problem is None:
                tile["image"] = data_uri(open_image(picture.path, 160, value_range))
        tiles.append(tile)
    return tiles
