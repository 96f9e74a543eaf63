"""A bundle and its base -> a program of torch.export, from which all files are made."""

from pathlib import Path

import psutil
import torch
from torch import nn
from torch.export import ExportedProgram

from vitlora.backbones import Backbone, answer_from_class_token
from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.merging import merge_into, opened_backbone
from vitlora.errors import UsageError
from vitlora.exporting.exported import Exported, ExportPrecision
from vitlora.exporting.network import AnsweringNetwork
from vitlora.exporting.quiet import quietly
from vitlora.exporting.targets import Target

_IN_MEMORY = 3  # times that the weights are there: the network, the file, the file read again


def merged_vit(bundle: Bundle, target: Target, weights: str | Path | None = None) -> nn.Module:
    """Returns the trained ViT in fp32, the adapter merged, a 4-bit base unpacked layer by layer.

    Raises:
        UsageError: It is too large for the file, or for the memory.
        BundleError: The base's weights are not those of training, or a tensor does not fit.
        BackboneError: The base's weights are not available.
    """
    backbone = opened_backbone(bundle, weights)
    check_size(backbone, target)
    module = merge_into(backbone, bundle)
    answer_from_class_token(module)
    return module.eval()


def exported_program(
    vit: nn.Module, bundle: Bundle, precision: ExportPrecision = "32"
) -> ExportedProgram:
    """Returns a trained ViT as a program for any number of pictures.

    Args:
        vit: Of ``merged_vit``; it is changed.
        bundle: Its bundle.
        precision: With fp16, the ViT computes in it; int8 comes later, when a file is written.
    """
    dtype = torch.float16 if precision == "fp16" else torch.float32
    network = AnsweringNetwork(vit, bundle.record.preprocessing, bundle.judge, dtype)
    return program_of(network, bundle.record.preprocessing.image_size)


def program_of(network: AnsweringNetwork, side: int) -> ExportedProgram:
    """Returns a network as a program for squares of ``side`` pixels."""
    examples = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # of one, torch would fix the batch
    with quietly(), torch.no_grad():
        batch = torch.export.Dim("batch")
        return torch.export.export(network, (examples,), dynamic_shapes=({0: batch},))


def described(bundle: Bundle, precision: ExportPrecision) -> Exported:
    """Returns what the file of a bundle says about itself."""
    record = bundle.record
    return Exported(
        backbone=record.backbone,
        bundle_digest=bundle.digest,
        precision=precision,
        classes=record.classes,
        preprocessing=record.preprocessing,
        validated=bool(record.metrics),
        confidence=record.confidence,
    )


def check_size(backbone: Backbone, target: Target) -> None:
    """Refuses a base that is too large.

    Raises:
        UsageError: Its weights in fp32 do not fit into the file, or several times into the memory.
    """
    size = 4 * sum(parameter.numel() for parameter in backbone.module.parameters())
    would = f"{backbone.id} would take {size / 1e9:.1f} GB in a {target.suffix} file"
    if target.most_bytes is not None and size > target.most_bytes:
        raise UsageError(f"{would}, which holds 2 GB at most; export a bundle of a smaller base")
    free = psutil.virtual_memory().available
    if _IN_MEMORY * size > free:
        raise UsageError(
            f"{would}, and exporting it {_IN_MEMORY * size / 1e9:.1f} GB of memory, but "
            f"{free / 1e9:.1f} GB are free; export a bundle of a smaller base"
        )
