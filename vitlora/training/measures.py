"""Callbacks that record the cost, the answers and the scores of a run."""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.adapters import count_trainable
from vitlora.files import write_whole
from vitlora.training.classifier import Classifier
from vitlora.training.run_folder import RunFolder

COST = Path("logs") / "cost.json"  # in the folder of a run

_WARM_UP, _REPEATS = 3, 20  # forward passes


class Cost(Callback):
    """Writes ``logs/cost.json`` when a training ends: seconds, peak memory, parameters."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts the clock."""
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, float]:
        """Returns the time that is spent, for a run that goes on."""
        return {"seconds": time.monotonic() - self._started}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Adds the time that was spent before."""
        self._started -= state_dict["seconds"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        if not trainer.is_global_zero:
            return
        module = cast(Classifier, pl_module)
        callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        folder = next(c.folder for c in callbacks if isinstance(c, RunFolder))
        quantization, dtype = module.storage.quantization, module.storage.dtype
        kept = dtype if quantization == "none" else quantization
        device = trainer.strategy.root_device
        cuda = device.type == "cuda"
        network = module.built_network()
        trainable, frozen = count_trainable(network), module.adapter.freezes_base
        every = sum(one.numel() for one in network.parameters())
        fields = {
            "trainable": trainable,
            # what is packed in 4 bits cannot be counted so
            "parameters": every - trainable * frozen if quantization == "none" else None,
            "base": kept if frozen else "trained",
            "lr": module.lr,
            "seconds": time.monotonic() - self._started,
            "host_bytes": peak_host_bytes(),
            "device_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
            "device": torch.cuda.get_device_name(device) if cuda else device.type,
            "precision": str(trainer.precision),
        }
        write_whole(folder / COST, json.dumps(fields))


class RecordAnswers(Callback):
    """Writes the prediction of ``validate`` or ``test`` for each picture, and the time of one.

    Args:
        file: JSON file to write.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        if not trainer.is_global_zero:
            return
        module = cast(Classifier, pl_module)
        side = module.backbone.preprocessing.image_size
        picture = torch.zeros(1, 3, side, side, device=module.device)
        took = milliseconds(module.built_network(), picture)
        logits, labels = module.answers
        answers = logits.argmax(1).tolist()
        fields = {"labels": labels.tolist(), "answers": answers, "milliseconds": took}
        write_whole(self.file, json.dumps(fields))

    on_validation_end = on_test_end


class EpochScores(Callback):
    """Appends the validation scores after each epoch to a file, one JSON object on each line.

    A run that goes on may validate an epoch again; an equal line is not written twice.

    Args:
        file: The file.
        parent: Process that started this one; if it ends, this one ends, too. None for no such
            process.
    """

    def __init__(self, file: str, parent: int | None = None) -> None:
        self.file, self.parent = Path(file), parent

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Ends the process if nobody waits for it any more; files are written whole anyway."""
        # Windows keeps the number of a parent that has ended
        if self.parent is not None and os.getppid() != self.parent:
            os._exit(1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a line: the epoch from 1, the number of epochs if it is known, the scores."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        names = {"val/macro_f1": "macro_f1", "val/acc": "accuracy", "val/loss": "loss"}
        metrics = trainer.callback_metrics
        scores = {name: float(metrics[key]) for key, name in names.items() if key in metrics}
        line = {"epoch": trainer.current_epoch + 1, "of": trainer.max_epochs, **scores}
        text = json.dumps(line) + "\n"
        with self.file.open("a+", encoding="utf-8") as file:
            file.seek(0)
            if text not in file.readlines():
                file.write(text)


@torch.inference_mode()
def milliseconds(network: torch.nn.Module, picture: torch.Tensor) -> float:
    """Returns the median time of a forward pass.

    Args:
        network: In evaluation mode.
        picture: ``(1, 3, H, W)`` on the network's device.
    """
    device = getattr(torch, picture.device.type)
    times: list[float] = []
    for _ in range(_WARM_UP + _REPEATS):
        device.synchronize()
        start = time.perf_counter()
        network(picture)
        device.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[_WARM_UP:])


def peak_host_bytes() -> int | None:
    """Returns the peak resident memory of this process in bytes; None on Windows.

    On Linux a process inherits the peak of its parent, so the parent should be small.
    """
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
