"""The calibration of the bundle that a ``fit`` made."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.data.datamodule import FolderData
from vitlora.errors import VitloraError
from vitlora.evaluation.calibrate import calibrate, describe
from vitlora.hardware import is_out_of_memory
from vitlora.metrics.unsure import Unsure
from vitlora.notes import note, tell
from vitlora.shell import typed


def calibrate_run(
    folder: Path, data: FolderData, merged: Callable[[Bundle], nn.Module], unsure: Unsure
) -> None:
    """Calibrates a bundle with the network that will predict; an error is only noted.

    Args:
        folder: Folder of the bundle.
        data: The pictures of its training.
        merged: Returns a bundle's merged network.
        unsure: When an answer is unsure.
    """
    try:
        bundle, splits = load_bundle(folder), data.folder.splits
        pictures = splits["train"], splits["val"]
        bundle = calibrate(bundle, merged(bundle), *pictures, unsure, data.batch_size)
    except (VitloraError, RuntimeError, MemoryError) as error:
        if not isinstance(error, VitloraError) and not is_out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, VitloraError) else "the device is full"
        note(
            f"the bundle is saved, but not calibrated ({reason}); run "
            f"'{typed('vitlora', 'calibrate', folder, '--device', 'cpu')}'"
        )
    else:
        if bundle.record.confidence is not None:
            tell(describe(bundle.record.confidence))
