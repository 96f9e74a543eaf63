"""A bundle and its base -> one ONNX file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitlora.backbones import Backbone, answer_from_class_token
from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.merging import merge_into, opened_backbone
from vitlora.errors import UsageError
from vitlora.exporting.eight_bits import with_weights_in_8_bits
from vitlora.exporting.network import AnsweringNetwork
from vitlora.prediction.exported import KEY, Exported, ExportPrecision
from vitlora.prediction.exported_predictor import INPUT, OUTPUTS

_MOST_BYTES = 2**31 - 2**24  # protobuf allows 2 GiB; the graph needs some of it


def merged_vit(bundle: Bundle, weights: str | Path | None = None) -> nn.Module:
    """Returns the trained ViT in fp32, the adapter merged, a 4-bit base unpacked layer by layer.

    Raises:
        UsageError: It is too large for an ONNX file.
        BundleError: The base's weights are not those of training, or a tensor does not fit.
        BackboneError: The base's weights are not available.
    """
    backbone = opened_backbone(bundle, weights)
    _check_size(backbone)
    module = merge_into(backbone, bundle)
    answer_from_class_token(module)
    return module.eval()


def onnx_bytes(vit: nn.Module, bundle: Bundle, precision: ExportPrecision = "32") -> bytes:
    """Returns a trained ViT as one ONNX file for any number of pictures.

    Args:
        vit: Of ``merged_vit``; it is changed.
        bundle: Its bundle.
        precision: How to keep the weights.
    """
    dtype = torch.float16 if precision == "fp16" else torch.float32
    network = AnsweringNetwork(vit, bundle.record.preprocessing, bundle.judge, dtype)
    data = to_onnx(network, described(bundle, precision))
    return with_weights_in_8_bits(data) if precision == "int8" else data


def to_onnx(network: AnsweringNetwork, exported: Exported) -> bytes:
    """Returns a network as an ONNX file with what it says about itself."""
    side = exported.preprocessing.image_size
    examples = torch.zeros(2, side, side, 3, dtype=torch.uint8)  # of one, torch would fix the batch
    outputs = OUTPUTS if exported.confidence is not None else OUTPUTS[:-1]
    with _quietly(), torch.no_grad():
        program: Any = torch.onnx.export(
            network,
            (examples,),
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    program.model.metadata_props[KEY] = exported.to_text()
    return program.model_proto.SerializeToString()


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


def _check_size(backbone: Backbone) -> None:
    size = 4 * sum(parameter.numel() for parameter in backbone.module.parameters())  # fp32
    if size > _MOST_BYTES:
        raise UsageError(
            f"{backbone.id} would take {size / 1e9:.1f} GB in one ONNX file, which holds 2 GB at "
            "most; export a bundle of a smaller base"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps back what torch and onnxscript say about their own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
