"""The ``doctor`` command: finds problems in an image folder, and writes a cleaned copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.arguments import checked
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import DataError, UsageError, VitloraError
from vitlora.files import check_target, expanded, write_whole
from vitlora.light_imports import light_imports
from vitlora.notes import tell

if TYPE_CHECKING:
    from vitlora.data.bit_depth import ValueRange
    from vitlora.data.doctor.finding import Finding
    from vitlora.data.doctor.survey import Picture, Survey

_TILES, _MEMBERS = 24, 6  # pictures, or groups, of each finding on the page; of each group
_BASE = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"  # as fit takes
_OURS = b"<title>The folder doctor"  # as its page has it


@checked
def doctor(
    data: str | Path,
    *,
    html: str | Path | None = None,
    fix: str | Path | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    check_labels: bool = False,
    backbone: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    **reading: str | Path,
) -> Examination:
    """Finds problems in a folder of pictures before training.

    The folder is not changed. The exit status is 1 if there is an error: a problem that stops
    training or makes its scores wrong.

    Args:
        data: Folder with train/, val/ and test/, each with a folder for each class; or class
            folders, a table, an export or an archive, as for fit.
        html: Also write an offline page that shows the pictures.
        fix: New folder for a cleaned copy with a new split, made of hard links where possible. It
            leaves out unreadable pictures, repeated files and copies with different labels, and
            keeps near-copies of a picture in one split.
        val_fraction: Share of --fix for validation (default: that of the folder's val/, else 0.2).
        test_fraction: Share of --fix for testing (default: that of the folder's test/, else 0).
        seed: Seed of the split of --fix.
        check_labels: Also find pictures that are probably mislabelled, with the features of a
            frozen base.
        backbone: The base for --check-labels (default: that of fit).
        weights: File of the base's weights, for --check-labels (default: from the hub).
        device: Device for --check-labels: auto, cpu, cuda or mps.
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        The findings.

    Raises:
        UsageError: A share is out of range, or a file or folder cannot be written.
        DataError: There is no such folder, or too few pictures are left to split.
        BackboneError: The base for --check-labels cannot be found.

    Examples:
        $ vitlora doctor photos
        $ vitlora doctor photos --html doctor.html --json doctor.json
        $ vitlora doctor photos --check-labels
        $ vitlora doctor photos --fix photos-clean --test-fraction 0.15
    """
    root, layout = check_root(data, "--data"), LayoutOptions.named(reading)
    page = expanded(html) if html else None
    out = expanded(fix) if fix else None
    if page:
        _check_page(page, root)
    if out:
        _check_copy(out, root)
    elif val_fraction is not None or test_fraction is not None:
        raise UsageError("--val-fraction and --test-fraction are for --fix; add --fix OUT")
    for option, value in (("--backbone", backbone), ("--weights", weights)):
        if value is not None and not check_labels:
            raise UsageError(f"{option} is for --check-labels; add --check-labels")
    from vitlora.data.doctor import Survey, by_severity, examine, survey
    from vitlora.data.doctor.cleaned import Shares, write_cleaned

    shares = Shares(val_fraction, test_fraction, seed)
    shares.of(Survey(root, ["all"]))  # reports a mistake before the work
    found = survey(root, layout)
    if not found.pictures:
        raise DataError(f"--data '{root}' has no labelled pictures")
    findings = examine(found)
    if check_labels:
        with light_imports():
            from vitlora.evaluation.labels import contradicted

        doubts = contradicted(found, backbone or _BASE, weights, device)
        findings = sorted([*findings, *filter(None, [doubts])], key=by_severity)
    if page:
        _write_page(page, found, findings)
    told = Examination(found, findings)
    if not out:
        return told
    try:
        return replace(told, copy=Copy(out, write_cleaned(found, out, shares)))
    except (VitloraError, OSError):
        tell(told.to_text())  # the findings took long, and hold without the copy
        raise


@dataclass(frozen=True)
class Copy:
    """A cleaned copy of a folder.

    Attributes:
        folder: Its path.
        counts: Split -> number of pictures.
    """

    folder: Path
    counts: dict[str, int]


@dataclass(frozen=True)
class Examination:
    """The problems of a folder.

    Attributes:
        survey: All files in it.
        findings: The problems, the worst first.
        copy: The cleaned copy, if one was requested.
    """

    survey: Survey
    findings: Sequence[Finding]
    copy: Copy | None = None

    @property
    def status(self) -> int:
        """1 if any finding is an error."""
        return int(any(finding.severity == "error" for finding in self.findings))

    @property
    def left_out(self) -> int:
        """Number of pictures that the copy leaves out; 0 without a copy."""
        return len(self.survey.pictures) - sum(self.copy.counts.values()) if self.copy else 0

    def to_text(self) -> str:
        """Returns each finding with some of its files and what to do."""
        from vitlora.data.doctor.text import text_of

        text = text_of(self.survey, self.findings)
        if self.copy is None:
            return text
        from vitlora.data.doctor.survey import RECORD

        out = self.copy.folder
        counts = ", ".join(f"{split} {count:,}" for split, count in self.copy.counts.items())
        return f"{text}\n\nwrote {out}: {counts}; {self.left_out:,} left out, see {out / RECORD}"

    def to_json(self) -> dict[str, Any]:
        """Returns every finding with all of its files."""
        counts = Counter((picture.split, picture.label) for picture in self.survey.pictures)
        copy = self.copy and {
            "folder": str(self.copy.folder),
            "pictures": self.copy.counts,
            "left_out": self.left_out,
        }
        return {
            "data": str(self.survey.root),
            "layout": self.survey.layout,
            "labels": self.survey.labels,
            "notes": list(self.survey.notes),
            "pictures": {
                split: {label: counts[split, label] for label in self.survey.classes}
                for split in self.survey.splits
            },
            "findings": [{**asdict(one), "count": one.count} for one in self.findings],
            "copy": copy,
        }


def _check_page(page: Path, root: Path) -> None:
    """Refuses a page that could not be written later."""
    check_target("--html", page, (".html", ".htm"), _OURS)
    if root.resolve() in page.resolve().parents:
        raise UsageError(f"--html '{page}' is inside --data '{root}'; choose a file outside")


def _check_copy(out: Path, root: Path) -> None:
    if out.exists() or out.is_symlink():
        raise UsageError(f"--fix '{out}' already exists; choose a new folder")
    if root.resolve() in out.resolve().parents:
        raise UsageError(f"--fix '{out}' is inside --data '{root}'; choose a folder outside")


def _write_page(target: Path, found: Survey, findings: Sequence[Finding]) -> None:
    from vitlora.data.doctor.text import summary, tally, understood
    from vitlora.pages.page import render

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
        summary=summary(found),
        understood=understood(found),
        tally=tally(findings),
        splits=["pictures"] if found.splits == ["all"] else found.splits,
        rows=rows,
        findings=shown,
    )
    write_whole(target, page)


def _tiles(
    names: Sequence[str], pictures: dict[str, Picture], value_range: ValueRange | None
) -> list[dict[str, str]]:
    """Returns name, place and thumbnail of each file; no thumbnail if it is not a picture."""
    from vitlora.data.images import open_image
    from vitlora.pages.page import data_uri

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
