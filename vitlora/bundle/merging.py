"""A bundle merged into its frozen base, or kept beside it: the network that predicts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from vitlora.backbones import Backbone, answer_from_class_token, open_backbone
from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.updates import Changes, read_changes
from vitlora.hardware import give_memory_back
from vitlora.quantization import (
    Storage,
    add_beside,
    dequantize_layer,
    is_quantized,
    pack_layer,
    plain_weight,
)

_CPU = torch.device("cpu")
_MOST_MERGED = 2**28  # weights of a 4-bit base that are unpacked


@torch.no_grad()
def merge_into(backbone: Backbone, bundle: Bundle) -> nn.Module:
    """Turns a plain backbone, loaded in fp32 or only opened, into the trained network, in fp32.

    The base is rounded as in training first.

    Raises:
        BundleError: The backbone's weights are not those of training, or a tensor does not fit.
        BackboneError: The weights cannot be read.
    """
    changes = _loaded(backbone, bundle, dequantize_layer)
    _put_in(backbone.module, changes)
    return backbone.module


@torch.no_grad()
def trained_network(backbone: Backbone, bundle: Bundle, device: torch.device) -> nn.Module:
    """Turns a plain backbone that was only opened into the trained network, on the CPU.

    Products run in fp32.

    The update is merged, as ``merge_into`` does, unless the base was in 4 bits and has more than
    2**28 weights, a GiB in fp32: it then stays in 4 bits, and the update is added beside. Both
    compute with the same numbers. Apple's GPU has no 4-bit kernels: there, all are merged.

    Args:
        backbone: Opened, not loaded.
        bundle: What was trained.
        device: Where the network is going to run.

    Raises:
        BundleError: The backbone's weights are not those of training, or a tensor does not fit.
        BackboneError: The weights cannot be read.
    """
    module, storage = backbone.module, bundle.record.storage
    weights = sum(parameter.numel() for parameter in module.parameters())
    if storage.quantization == "none" or weights <= _MOST_MERGED or device.type == "mps":
        merge_into(backbone, bundle)
    else:
        _stay_packed(backbone, bundle)
    answer_from_class_token(module)
    return module


def _stay_packed(backbone: Backbone, bundle: Bundle) -> None:
    module = backbone.module
    give_memory_back()
    changes = _loaded(backbone, bundle, pack_layer)
    for path in [path for path in changes.updates if is_quantized(module.get_submodule(path))]:
        update, layer = changes.updates.pop(path), module.get_submodule(path)
        gain = None if update.magnitude is None else update.gain(plain_weight(layer))
        add_beside(module, path, update.a, update.scaling * update.b, gain)
    _put_in(module, changes)


def merged_network(
    bundle: Bundle, weights: str | Path | None = None, device: torch.device = _CPU
) -> nn.Module:
    """Returns the network that predicts, on its device, not training: see ``trained_network``.

    Raises:
        BundleError: The base's weights are not those of training, or a tensor does not fit.
        BackboneError: The base's weights cannot be had.
    """
    return trained_network(_opened(bundle, weights), bundle, device).to(device).eval()


def bundle_backbone(bundle: Bundle, weights: str | Path | None = None) -> Backbone:
    """Returns the plain fp32 backbone a bundle belongs to, with a head of zeros.

    Args:
        bundle: A bundle.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub. A bundle of full fine-tuning holds every weight itself.

    Raises:
        BackboneError: The base's weights cannot be had.
    """
    backbone = _opened(bundle, weights)
    backbone.load()
    return backbone


def _opened(bundle: Bundle, weights: str | Path | None) -> Backbone:
    record = bundle.record
    found = "none" if record.method == "FullFineTuning" else weights or bundle.weights
    return open_backbone(
        record.backbone, len(record.classes), found, record.preprocessing.image_size
    )


def _loaded(
    backbone: Backbone, bundle: Bundle, keep: Callable[[nn.Module, Storage, str], None]
) -> Changes:
    """Fills a backbone, each layer kept by ``keep``; returns the changes, which fit it."""
    backbone.load(partial(keep, backbone.module, bundle.record.storage))
    if bundle.record.method != "FullFineTuning":
        bundle.check_base(backbone.digest)
    return read_changes(bundle, backbone.module)


def _put_in(module: nn.Module, changes: Changes) -> None:
    """Copies whole tensors into a module, and merges the updates into its fp32 layers."""
    parameters = dict(module.named_parameters())
    for name, tensor in changes.tensors.items():
        parameters[name].copy_(tensor)
    for path, update in changes.updates.items():
        weight = parameters[f"{path}.weight"]
        weight.copy_(update.merged(weight))
