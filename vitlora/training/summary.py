"""A table of what is about to be trained, printed before the first step."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.adapters import count_trainable
from vitlora.data.folder import Folder
from vitlora.notes import tell
from vitlora.quantization import frozen_bytes
from vitlora.training import ranks
from vitlora.training.classifier import Classifier

_MOST_CLASSES, _SMALLEST = 25, 10  # classes to list in full; of more, only the smallest


class Summary(Callback):
    """Prints parameters, bytes, image size and the classes with their counts."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table."""
        module = cast(Classifier, pl_module)
        folder: Folder = trainer.datamodule.folder  # pyright: ignore[reportAttributeAccessIssue]
        tell(run_table(module, folder, module.base_parameters, str(trainer.precision)))


def _shared() -> str:
    return f", {ranks.count()} processes that share each batch" if ranks.several() else ""


def run_table(module: Classifier, folder: Folder, base: int, precision: str) -> str:
    """Returns the table.

    Args:
        module: A configured ``Classifier``.
        folder: Its data.
        base: Parameters of the backbone with its head, before quantisation and adapters.
        precision: Lightning's name of the precision.
    """
    network = module.built_network()
    trainable = count_trainable(network)
    added = sum(
        p.numel()
        for name, p in network.named_parameters()
        if "lora_" in name or "modules_to_save" in name
    )
    total = base + added
    kept = f"{module.storage.quantization}, " if module.storage.quantization != "none" else ""
    rows = [
        ("backbone", module.backbone.id),
        ("method", f"{type(module.adapter).__name__}, head {module.head_mode}"),
        ("parameters", f"{total:,} total, {trainable:,} trainable ({trainable / total:.2%})"),
        ("frozen base", f"{frozen_bytes(network):,} bytes ({kept}{module.storage.dtype})"),
        ("image size", f"{module.backbone.preprocessing.image_size} px"),
        ("runs on", f"{module.device.type}, {precision}{_shared()}"),
        ("data", str(folder.root)),
    ]
    lines = [f"{name:<12} {value}" for name, value in rows]
    counts = [folder.counts(split) for split in folder.splits]
    table = list(zip(folder.classes, *counts, strict=True))
    heading, left_out = "class", len(table) - _SMALLEST
    if len(table) > _MOST_CLASSES:
        heading = f"{_SMALLEST} smallest classes"
        table = sorted(table, key=lambda row: row[1])[:_SMALLEST]
    width = max(len(name) for name in (*(row[0] for row in table), heading))
    lines += ["", f"{heading:<{width}}  " + "  ".join(f"{split:>6}" for split in folder.splits)]
    for name, *numbers in table:
        lines.append(f"{name:<{width}}  " + "  ".join(f"{number:>6}" for number in numbers))
    if len(folder.classes) > _MOST_CLASSES:
        lines.append(f"and {left_out:,} more classes")
    totals = "  ".join(f"{sum(numbers):>6}" for numbers in counts)
    return "\n".join([*lines, f"{'total':<{width}}  {totals}", ""])
