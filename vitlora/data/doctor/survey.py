"""One look at everything in an image folder, from which the folder doctor judges."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vitlora.data.bit_depth import ValueRange
from vitlora.data.duplicates import Fingerprint, fingerprint
from vitlora.data.folder import SPLITS
from vitlora.data.images import decoded, orientation, reading
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading
from vitlora.data.read import read_place
from vitlora.data.value_range import Found, find_range
from vitlora.data.waiting import in_threads
from vitlora.errors import DataError

RECORD = "fixed.json"  # beside the splits of a cleaned copy; says what was left out and why

_SIDE = 256  # pixels of the short side at which light and sharpness are measured


@dataclass(frozen=True)
class Picture:
    """One file that is taken for a picture.

    Attributes:
        path: The file.
        name: The same, relative to the folder, with forward slashes.
        split: ``train``, ``val`` or ``test``; ``all`` in a folder of class folders.
        label: Name of its class.
        group: What a split must not part; empty for a picture by itself.
        problem: Why it cannot be read, in a few words; None if it can. All below is then unset.
        format: Pillow's name of what the file holds, such as ``JPEG``.
        mode: Pillow's name of how its pixels are stored, such as ``RGB``.
        size: Width and height as stored, in pixels.
        turned: Whether EXIF says to turn it.
        light: Mean of grey, 0 (black) to 255.
        contrast: Standard deviation of grey, 0 to 128.
        sharpness: Variance of the Laplacian over that of grey.
        print: What is compared with other pictures.
    """

    path: Path
    name: str
    split: str
    label: str
    group: str = ""
    problem: str | None = None
    format: str = ""
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    light: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    print: Fingerprint | None = None


@dataclass
class Survey:
    """What lies in a folder.

    Attributes:
        root: The folder.
        splits: Those found; ``all`` for pictures that are still to be split.
        labels: Where the classes come from, in a few words.
        layout: Name of the layout it is stored in.
        notes: What a user should know of how the folder was read, a line each.
        classes: Names of all classes, sorted.
        present: Split and class of every class folder there is, or of every class of a table.
        pictures: In the order of their names.
        unused: Names of files and folders that training passes over, by kind: ``hidden``,
            ``beside`` (pictures without a class), ``folders`` (without a picture that has one),
            ``other`` (files that are not pictures), ``linked`` (links to folders that are looked
            through anyway), ``closed`` (folders that may not be read).
        depth: The scale of the training pictures deeper than 8 bits.
    """

    root: Path
    splits: list[str]
    labels: str = "class folders"
    layout: str = "folders"
    notes: tuple[str, ...] = ()
    classes: list[str] = field(default_factory=list)
    present: set[tuple[str, str]] = field(default_factory=set)
    pictures: list[Picture] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=dict)
    depth: Found = field(default_factory=lambda: Found(None, 0, 0))

    @property
    def value_range(self) -> ValueRange | None:
        """The values that become 0 and 255 in files deeper than 8 bits."""
        return self.depth.value_range

    @property
    def drawn(self) -> str:
        """The split of which ``fit`` holds out a part to validate; empty where there is a val."""
        if "val" in self.splits:
            return ""
        return next((split for split in ("all", "train") if split in self.splits), "")

    @property
    def readable(self) -> list[Picture]:
        """The pictures that can be read."""
        return [picture for picture in self.pictures if picture.problem is None]


def survey(root: Path, options: LayoutOptions | None = None) -> Survey:
    """Returns all that lies in a folder, every picture decoded.

    Args:
        root: As ``data.root``.
        options: How the folder is stored; the layout is recognised unless it is among them.

    Raises:
        DataError: There is no such folder, or its classes are unclear.
        UsageError: There is no layout of that name.
    """
    place, reading = read_place(root, options)
    empty = {(split or "all", label) for split, some in reading.empty.items() for label in some}
    filled = {(one.split or "all", one.label) for one in reading.pictures}
    splits = {split for split, _ in filled | empty}
    found = Survey(root, [part for part in ("all", *SPLITS) if part in splits], reading.source)
    found.layout, found.notes, found.present = reading.layout, reading.notes, filled | empty
    found.classes = sorted({label for _, label in found.present})
    found.unused = _unused(place, reading)
    pictures = [
        Picture(p.path, p.name, p.split or "all", p.label, p.group) for p in reading.pictures
    ]
    found.depth = find_range(p.path for p in pictures if p.split in ("train", "all"))
    see = partial(look, value_range=found.value_range)
    seen = in_threads(see, pictures, f"looking at {len(pictures):,} pictures")
    found.pictures = sorted(seen, key=lambda picture: picture.name)
    return found


def _unused(place: Place, reading: Reading) -> dict[str, list[str]]:
    """Returns the names of what training passes over, by kind."""
    unused: dict[str, list[str]] = {}
    for kind, paths in place.listing.passed_over.items():
        names = [place.name(path) + "/" * path.is_dir() for path in sorted(paths)]
        unused[kind] = [name for name in names if name not in (RECORD, *reading.read_from)]
    used = {one.path for one in reading.pictures}
    above = {parent for path in used for parent in path.parents}
    beside = {name: path for name, path in place.pictures.items() if path not in used}
    strange = {parent for path in beside.values() for parent in path.parents} - above
    outer = sorted(folder for folder in strange if folder.parent in above)
    unused["folders"] = [f"{place.name(folder)}/" for folder in outer]
    unused["beside"] = [n for n in beside if not n.startswith(tuple(unused["folders"]))]
    return {kind: names for kind, names in unused.items() if names}


def look(picture: Picture, value_range: ValueRange | None = None) -> Picture:
    """Returns a picture with all that one look at its file tells."""
    path = picture.path
    try:
        print_ = fingerprint(path, value_range)
        with reading(path) as image:
            kind, mode, size = image.format or "", image.mode, image.size
            turned = orientation(image) != 1
            grey = decoded(path, image, _SIDE, value_range).image.convert("L")
    except (DataError, OSError) as error:
        problem = str(error).removeprefix(f"{path}: ")
        if path.is_symlink() and not path.exists():
            problem = "a link to a file that is not there"
        return replace(picture, problem=problem)
    light, contrast, sharpness = _measured(grey)
    return replace(
        picture,
        format=kind,
        mode=mode,
        size=size,
        turned=turned,
        light=light,
        contrast=contrast,
        sharpness=sharpness,
        print=print_,
    )


def _measured(grey: Image.Image) -> tuple[float, float, float]:
    """Returns light, contrast and sharpness."""
    scale = _SIDE / min(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    pixels = np.asarray(grey)
    light, contrast = (float(one.item()) for one in cv2.meanStdDev(pixels))
    edges = cv2.meanStdDev(cv2.Laplacian(pixels, cv2.CV_32F))[1].item() ** 2
    return light, contrast, edges / max(contrast**2, 1e-6)
