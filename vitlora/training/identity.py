"""What a run must still have in order to go on: its pictures, its base, its device."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vitlora.data.archives import size_and_time
from vitlora.data.datamodule import FolderData
from vitlora.data.folder import as_bytes
from vitlora.errors import UsageError
from vitlora.training import ranks
from vitlora.training.classifier import Classifier
from vitlora.training.state_file import StateError

# what differs -> what to say about it
_SAID = {
    "classes": "the run has other classes",
    "pictures": "the run has other pictures, or they lie in other splits",
    "base": "the run has another base",
    "storage": "the run keeps its base in another way",
    "start": "the adapter starts otherwise on this machine",
    "parent": "the bundle that the run continues from has changed",
    "device": "the run is on another device",
    "precision": "the run computes in another precision",
    "batch_size": "the run has other batches",
    "accumulate": "the run accumulates other batches",
    "processes": "the run is on another number of devices",
    "options": "it has other options",
}


def identity_of(trainer: Any, module: Classifier, parent: str | None) -> dict[str, Any]:
    """Returns what a run depends on besides its options, as JSON values.

    Args:
        trainer: Lightning's trainer, with everything set up.
        module: Its module, built.
        parent: Start of the digest of the bundle that training continues from, if any.
    """
    data: FolderData = trainer.datamodule
    return {
        "classes": list(data.folder.classes),
        "pictures": _digest_of_pictures(data),
        "base": module.backbone.digest,
        "storage": asdict(module.storage),
        "start": _digest_of_frozen(module) if module.adapter.moves_base else None,
        "parent": parent,
        "device": module.device.type,
        "precision": str(trainer.precision),
        "batch_size": data.batch_size,
        "accumulate": trainer.accumulate_grad_batches,
        "processes": ranks.count(),
    }


def check_same_data(data: FolderData, options: Any = None) -> None:
    """Refuses processes with other pictures, classes or options than the first one.

    Args:
        data: This process's pictures, as they were found.
        options: JSON values.

    Raises:
        UsageError: They differ; the first process says so.
    """
    if ranks.several():
        pictures = _digest_of_pictures(data, sorted(data.folder.splits))
        found = {"classes": list(data.folder.classes), "pictures": pictures, "options": options}
        check_alike(found)


def check_alike(own: dict[str, Any]) -> None:
    """Refuses processes that do not have the same run.

    Args:
        own: What this process has, by the names of ``_SAID``.

    Raises:
        UsageError: They differ, as on two machines with other pictures; the first process says so.
    """
    for rank, other in enumerate(ranks.at_first(own) or ()):
        for name, said in _SAID.items():
            if other.get(name) != own.get(name):
                raise UsageError(
                    f"process {rank} differs from process 0: {said}. All machines need the same "
                    "pictures, weights and options"
                )


def check_identity(file: Path, found: Any, own: dict[str, Any]) -> None:
    """Refuses the state of a run with other pictures, another base, or another device.

    Args:
        file: The state's file, for the message.
        found: What it says.
        own: What this run has.

    Raises:
        StateError: They differ.
    """
    for name, said in _SAID.items():
        there = found.get(name) if isinstance(found, dict) else None
        if there != own.get(name):
            short = isinstance(own[name], str | int) and name not in ("pictures", "base")
            now = f": {there!r:.40}, not {own[name]!r:.40}" if short else ""
            raise StateError(
                f"{file} cannot be resumed here: {said}{now}. Start the run anew without "
                "--resume, or another one from its bundle with --from"
            )


def _digest_of_pictures(data: FolderData, splits: Iterable[str] = ("train", "val")) -> str:
    """Returns a SHA-256 over the pictures of some splits: names, labels, sizes.

    Pictures of other content and the same size go unnoticed: reading all of them would take long.
    """
    digest = hashlib.sha256()
    for split in splits:
        for sample in data.folder.splits.get(split, ()):
            size, _ = size_and_time(sample.path)
            line = f"{split}\n{data.folder.name(sample)}\n{sample.label}\n{size}\n"
            digest.update(as_bytes(line))
    return digest.hexdigest()


def _digest_of_frozen(module: Classifier) -> str:
    """Returns a SHA-256 over the frozen parameters."""
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            flat = ranks.whole(parameter).detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
