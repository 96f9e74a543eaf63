"""Everything that lies in an image folder, looked at once: what the folder doctor judges."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vitlora.data.bit_depth import ValueRange
from vitlora.data.class_folders import class_name
from vitlora.data.duplicates import Fingerprint, fingerprint
from vitlora.data.folder import SPLITS
from vitlora.data.images import open_image, orientation, reading
from vitlora.data.listing import is_picture, list_pictures
from vitlora.data.value_range import Found, find_range
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
        splits: Those found, ``all`` alone in a folder of class folders.
        classes: Names of all class folders, sorted.
        present: Split and class of every class folder there is.
        pictures: In the order of their names.
        unused: Names of files and folders that training passes over, by kind: ``hidden``,
            ``beside`` (pictures beside class folders), ``folders`` (beside the splits), ``other``
            (files that are no pictures), ``linked`` (links to folders that are looked through
            anyway), ``closed`` (folders that may not be read).
        depth: The scale of the training pictures deeper than 8 bits.
    """

    root: Path
    splits: list[str]
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
    def readable(self) -> list[Picture]:
        """The pictures that can be read."""
        return [picture for picture in self.pictures if picture.problem is None]

    def name(self, path: Path) -> str:
        """Returns a path relative to the folder, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def note(self, kind: str, path: Path) -> None:
        """Puts a file or folder down as unused."""
        self.unused.setdefault(kind, []).append(self.name(path) + "/" * path.is_dir())


def survey(root: Path, report: Callable[[int, int], None] | None = None) -> Survey:
    """Returns all that lies in a folder, every picture decoded.

    Args:
        root: Holds ``train/``, ``val/``, ``test/`` as far as there are, or class folders.
        report: Called with the number of pictures done and of all, now and then.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"--data '{root}': no such folder; expected one with class folders")
    splits = [split for split in SPLITS if (root / split).is_dir()]
    found = Survey(root, splits or ["all"])
    for child in _folders(found, root) if splits else []:
        if child.name not in splits:
            found.note("folders", child)
    for split in found.splits:
        for child in _folders(found, root if split == "all" else root / split):
            found.present.add((split, class_name(child)))
            found.pictures += _pictures(found, child, split)
    found.classes = sorted({label for _, label in found.present})
    found.depth = find_range(p.path for p in found.pictures if p.split in ("train", "all"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked = []
        for picture in pool.map(partial(look, value_range=found.value_range), found.pictures):
            looked.append(picture)
            if report:
                report(len(looked), len(found.pictures))
    found.pictures = sorted(looked, key=lambda picture: picture.name)
    return found


def look(picture: Picture, value_range: ValueRange | None = None) -> Picture:
    """Returns a picture with all that one look at its file tells."""
    path, name, split, label = picture.path, picture.name, picture.split, picture.label
    try:
        print_ = fingerprint(path, value_range)
        with reading(path) as image:
            kind, mode, size = image.format or "", image.mode, image.size
            turned = orientation(image) != 1
        grey = open_image(path, _SIDE, value_range).convert("L")
    except (DataError, OSError) as error:
        problem = str(error).removeprefix(f"{path}: ")
        if path.is_symlink() and not path.exists():
            problem = "a link to a file that is not there"
        return Picture(path, name, split, label, problem)
    light, contrast, sharpness = _measured(grey)
    return Picture(
        path, name, split, label, None, kind, mode, size, turned, light, contrast, sharpness, print_
    )


def _measured(grey: Image.Image) -> tuple[float, float, float]:
    """Returns light, contrast and sharpness."""
    scale = _SIDE / min(grey.size)
    if scale < 1:
        size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    pixels = np.asarray(grey)
    edges = float(cv2.Laplacian(pixels, cv2.CV_32F).var())
    contrast = float(pixels.std())
    return float(pixels.mean()), contrast, edges / max(contrast**2, 1e-6)


def _folders(found: Survey, parent: Path) -> list[Path]:
    """Returns the folders in a folder, as training sees them; notes what lies beside them."""
    folders: list[Path] = []
    for child in sorted(_listed(found, parent)):
        if child.name.startswith((".", "__")):
            found.note("hidden", child)
        elif child.is_dir():
            folders.append(child)
        elif child.name != RECORD:
            found.note("beside" if is_picture(child) else "other", child)
    return folders


def _pictures(found: Survey, folder: Path, split: str) -> Iterator[Picture]:
    """Yields the files below a class folder that training takes for pictures; notes the others."""
    label = class_name(folder)
    listing = list_pictures(folder)
    for kind, paths in listing.passed_over.items():
        for path in paths:
            found.note(kind, path)
    for path in listing.pictures:
        yield Picture(path, found.name(path), split, label)


def _listed(found: Survey, folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        found.note("closed", folder)
        return []
