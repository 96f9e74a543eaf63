"""``fit --from``: continues from a bundle, and measures what is forgotten."""

from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.usage import Usage
from vitlora.errors import DataError, a_few
from vitlora.evaluation.forgetting import OldPictures, remember
from vitlora.evaluation.seen import usage_of
from vitlora.notes import note


def follow(parent: Bundle, data: FolderData) -> str:
    """Keeps the parent's held-out pictures held out; returns what happened to the pictures."""
    before = usage_of(parent)
    if before is not None:
        return f": {data.follow(before)}"
    data.division.before = Usage(whole=False)
    digests = parent.record.split["digests"]
    if any(data.digest(split) != digests[split] for split in digests):
        note(
            f"{parent.folder} does not record its training pictures, and their folder is gone or "
            "has changed: some may be validated on now, so scores may be too high"
        )
    return ""


def note_absent(data: FolderData) -> None:
    """Notes the classes that have no training pictures."""
    folder = data.folder
    if absent := folder.absent("train"):
        note(
            f"{folder.root} has no training pictures of {a_few(absent)}, so the network may forget "
            "these classes; add old pictures to prevent that"
        )


def remembered(
    parent: Bundle, network: nn.Module, data: FolderData, old: str | None
) -> OldPictures | None:
    """Returns the parent's answers to its old pictures, before training; None if they are gone.

    Args:
        parent: The bundle.
        network: Its merged network.
        data: The new pictures.
        old: Folder of the old pictures, if they were moved.

    Raises:
        DataError: ``old`` has no old pictures.
    """
    try:
        return remember(parent, network, data.folder.splits.get("train", []), old)
    except DataError as error:
        if old:
            raise
        note(f"{error}; pass --old-data DIR to measure forgetting")
        return None
