"""``fit --from``: where a run begins that goes on from a bundle, and what it may forget."""

from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.datamodule import FolderData
from vitlora.data.usage import Usage
from vitlora.errors import DataError, a_few
from vitlora.evaluation.forgetting import OldPictures, remember
from vitlora.evaluation.seen import usage_of
from vitlora.notes import note


def follow(parent: Bundle, data: FolderData) -> str:
    """Keeps held out what a bundle held out; returns what became of the pictures."""
    before = usage_of(parent)
    if before is not None:
        return f": {data.follow(before)}"
    data.before = Usage(whole=False)
    digests = parent.record.split["digests"]
    if any(data.digest(split) != digests[split] for split in digests):
        note(
            f"{parent.folder} does not record which pictures it was trained on, and its folder "
            "is gone or has changed: some may be validated on now, so scores may be too high"
        )
    return ""


def note_absent(data: FolderData) -> None:
    """Notes classes without training pictures."""
    folder = data.folder
    if absent := folder.absent("train"):
        note(
            f"{folder.root} has no training pictures of {a_few(absent)}: they may be "
            "forgotten; old pictures among the new ones prevent that"
        )


def remembered(
    parent: Bundle, network: nn.Module, data: FolderData, old: str | None
) -> OldPictures | None:
    """Returns a bundle's answers to its old pictures, before anything is trained.

    Args:
        parent: The bundle.
        network: Its merged network.
        data: The new pictures.
        old: Where the old ones lie, if not where they were.

    Returns:
        None where the old pictures are gone.

    Raises:
        DataError: There are none in ``old``.
    """
    try:
        return remember(parent, network, data.folder.splits.get("train", []), old)
    except DataError as error:
        if old:
            raise
        note(f"{error}; pass --old-data DIR to measure what is forgotten")
        return None
