"""The pictures on which the runs of a study are trained and scored."""

import hashlib
import json
from typing import Any

from vitlora.data.archives import size_and_time
from vitlora.data.folder import DRAW, Folder
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import read_folder
from vitlora.errors import DataError

_DRAWN = ("val", "test", "seed", "folds", "fold")  # what a draw takes beside groups


def pictures_of(data: dict[str, Any], command: str) -> tuple[str, int, str]:
    """Returns the split to score, its number of pictures, and a digest of all pictures.

    Args:
        data: The group ``data`` of a resolved configuration.
        command: Who asks, for the message.

    Raises:
        DataError: There are no training pictures, or no validation pictures.
    """
    from vitlora.data.division import Division  # brings safetensors

    found = read_folder(data["root"], data["classes"], options=LayoutOptions.of(data))
    draw = {key: data[DRAW[key]] for key in _DRAWN if data.get(DRAW[key]) is not None}
    found = Division(found, draw, data.get("groups"), bool(data.get("resplit"))).folder
    for split in ("train", "val"):
        if split not in found.splits:
            raise DataError(
                f"{found.root} has no {split} split, which {command} needs for training"
            )
    split = "test" if "test" in found.splits else "val"
    return split, len(found.splits[split]), _digest(found)


def _digest(folder: Folder) -> str:
    """Returns the SHA-256 of each split's pictures: their names, classes and sizes."""
    known = sorted(
        (
            part,
            folder.name(sample),
            folder.classes[sample.label],
            size_and_time(sample.path)[0],
        )
        for part, samples in folder.splits.items()
        for sample in samples
    )
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
