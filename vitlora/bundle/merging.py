"""Builds the network that predicts: a bundle merged into its frozen base, or beside it."""

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
_MOST_MERGED = 2**28  # largest number of weights of a 4-bit base that is unpacked


@torch.no_grad()
def merge_into(backbone: Backbone, bundle: Bundle) -> nn.Module:
    """Turns a plain backbone, loaded in fp32 or only opened, into the trained network, in fp32.

    The base is first rounded as in training.

    Raises:
        BundleError: The backbone's weights are not those of training, or a tensor does not fit.
        BackboneError: The weights cannot be read.
    """
    changes = _loaded(backbone, bundle, dequantize_layer)
    _put_in(backbone.module, changes)
    return backbone.module


@torch.no_grad()
def trained_network(backbone: Backbone, bundle: Bundle, device: torch.device) -> nn.Module:
    """Turns an opened plain backbone into the trained network, on the CPU; products run in fp32.

    The update is merged, as in ``merge_into``. Only a 4-bit base with more than 2**28 weights, a
    GiB in fp32, stays in 4 bits, and the update is added beside it; the values are the same. On
    Apple's GPU, which has no 4-bit kernels, every base is merged.

    Args:
        backbone: An opened backbone that is not loaded.
        bundle: The trained bundle.
        device: The device that the network will run on.

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
    """Returns the network of ``trained_network``, on its device, in evaluation mode.

    Raises:
        BundleError: The base's weights are not those of training, or a tensor does not fit.
        BackboneError: The base's weights are not available.
    """
    return trained_network(opened_backbone(bundle, weights), bundle, device).to(device).eval()


def bundle_backbone(bundle: Bundle, weights: str | Path | None = None) -> Backbone:
    """Returns the plain fp32 backbone of a bundle, with a head of zeros.

    Args:
        bundle: A bundle.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub. A bundle of full fine-tuning needs none.

    Raises:
        BackboneError: The base's weights are not available.
    """
    backbone = opened_backbone(bundle, weights)
    backbone.load()
    return backbone


def opened_backbone(bundle: Bundle, weights: str | Path | None = None) -> Backbone:
    """Returns the plain backbone of a bundle, not loaded; arguments as for ``bundle_backbone``."""
    record = bundle.record
    found = "none" if record.method == "FullFineTuning" else weights or bundle.weights
    return open_backbone(
        record.backbone, len(record.classes), found, record.preprocessing.image_size
    )


def _loaded(
    backbone: Backbone, bundle: Bundle, keep: Callable[[nn.Module, Storage, str], None]
) -> Changes:
    """Loads a backbone, stores each layer by ``keep``, and returns the checked changes."""
    backbone.load(partial(keep, backbone.module, bundle.record.storage))
    if bundle.record.method != "FullFineTuning":
        bundle.check_base(backbone.digest)
    return read_changes(bundle, backbone.module)


def _put_in(module: nn.Module, changes: Changes) -> None:
    """Copies the fully trained tensors into a module, and merges the updates into its layers."""
    parameters = dict(module.named_parameters())
    for name, tensor in changes.tensors.items():
        parameters[name].copy_(tensor)
    for path, update in changes.updates.items():
        weight = parameters[f"{path}.weight"]
        weight.copy_(update.merged(weight))
