"""One adapter of a pool: how it changes the base's outputs for its own pictures."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.updates import Update, read_changes
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError, DataError
from vitlora.metrics.judge import Judge


@dataclass(frozen=True)
class LinearChange:
    """Turns a linear layer's output into ``gain * (W x + scaling B A x) + bias``.

    Attributes:
        a: ``(rank, in)``; None if only the bias is trained.
        b: ``(out, rank)``, or None.
        scaling: Factor on their product.
        gain: DoRA's factors, ``(out,)``; None for ones.
        bias: The new bias, ``(out,)``; None to keep the layer's.
    """

    a: torch.Tensor | None
    b: torch.Tensor | None
    scaling: float
    gain: torch.Tensor | None
    bias: torch.Tensor | None

    def apply(self, layer: nn.Linear, x: torch.Tensor, out: torch.Tensor) -> None:
        """Changes the layer's output for the input ``x``, ``(pictures, ..., in)``, in place."""
        if self.a is not None and self.b is not None:
            low = F.linear(x, self.a).flatten(0, -2)  # (pictures * tokens, rank)
            out.view(-1, out.shape[-1]).addmm_(low, self.b.T, alpha=self.scaling)
        if self.gain is not None:
            out.mul_(self.gain)
        if self.bias is not None:
            out.add_(self.bias - (layer.bias if self.gain is None else self.gain * layer.bias))


@dataclass(frozen=True, eq=False)
class PooledAdapter:
    """An adapter in memory, on the device.

    Attributes:
        judge: Turns features and logits into predictions.
        preprocessing: The bundle's.
        transform: Upright RGB picture -> ``(3, H, W)``, normalised.
        changed: Path of a layer of the base -> its change, or a copy with trained tensors.
        head_weight: ``(classes, width)``.
        head_bias: ``(classes,)``.
    """

    judge: Judge
    preprocessing: Preprocessing
    transform: Callable[[Image.Image], torch.Tensor]
    changed: dict[str, LinearChange | nn.Module]
    head_weight: torch.Tensor
    head_bias: torch.Tensor

    def open(self, picture: str | Path | Image.Image) -> tuple[torch.Tensor | DataError, bool]:
        """Returns a normalised picture ``(3, H, W)`` or an error; whether values are outside."""
        if isinstance(picture, Image.Image):
            return self.transform(picture), False
        try:
            opened = self.preprocessing.open(Path(picture))
            return self.transform(opened.image), opened.outside
        except DataError as error:
            return error, False


class RunningBatch(threading.local):
    """The batch that this thread is computing: the rows of each adapter."""

    groups: Sequence[tuple[PooledAdapter, slice]] = ()


def adapt_rows(
    batch: RunningBatch,
    path: str,
    part: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> None:
    """Changes the output of a layer of the base in place, each adapter's rows by its own change."""
    for adapter, rows in batch.groups:
        change = adapter.changed.get(path)
        if isinstance(change, LinearChange):
            change.apply(cast(nn.Linear, part), inputs[0][rows], output[rows])
        elif change is not None:
            output[rows] = change(inputs[0][rows])


def sees_pictures(part: nn.Module) -> bool:
    """Returns whether a layer gets one row for each picture, so that adapters can change it.

    Other parameters, such as position embeddings, apply to the whole batch.
    """
    return isinstance(part, nn.Linear | nn.Conv2d) or "Norm" in type(part).__name__


def read_adapter(
    bundle: Bundle,
    network: nn.Module,
    parts: Mapping[str, nn.Module],
    width: int,
    device: torch.device,
) -> PooledAdapter:
    """Returns a bundle's adapter on the device.

    Args:
        bundle: A bundle of that base.
        network: The base, without a head.
        parts: Path -> layer, for the layers that ``sees_pictures``.
        width: Number of features that the head reads.
        device: The base's device.

    Raises:
        BundleError: A tensor does not fit, or changes a parameter that all pictures share.
    """
    head = nn.Linear(width, len(bundle.record.classes), device="meta")
    plain = copy(network)  # gets a head for the bundle's classes; the tensors are shared
    plain._modules = {**plain._modules, "head": head}
    changes = read_changes(bundle, plain)
    own: dict[str, dict[str, torch.Tensor]] = {path: {} for path in changes.updates}
    own["head"] = {"weight": torch.zeros(head.weight.shape, device=device)}
    for name, tensor in changes.tensors.items():
        path, _, leaf = name.rpartition(".")
        if path not in parts and path != "head":
            raise BundleError(
                f"{bundle.folder} changes {name}, which all pictures of a batch share; load it "
                "with Predictor"
            )
        own.setdefault(path, {})[leaf] = tensor.to(device)
    changed: dict[str, LinearChange | nn.Module] = {}
    for path, tensors in own.items():
        update = changes.updates[path].to(device) if path in changes.updates else None
        # a head trained as LoRA updates a weight of zeros
        if update is not None and "weight" in tensors:
            tensors["weight"], update = update.merged(tensors["weight"]), None
        if path != "head":
            changed[path] = _change_of(parts[path], update, tensors)
    return PooledAdapter(
        judge=bundle.judge,
        preprocessing=bundle.record.preprocessing,
        transform=bundle.record.preprocessing.transform(),
        changed=changed,
        head_weight=own["head"]["weight"],
        head_bias=own["head"]["bias"],
    )


def _change_of(
    part: nn.Module, update: Update | None, own: Mapping[str, torch.Tensor]
) -> LinearChange | nn.Module:
    """Returns the change of one layer.

    Args:
        part: The layer of the base.
        update: Its low-rank update.
        own: Its parameters that were trained in full, by name.
    """
    if not isinstance(part, nn.Linear) or "weight" in own:
        twin = copy(part)  # shares all other tensors with the base
        trained = {leaf: nn.Parameter(t, requires_grad=False) for leaf, t in own.items()}
        twin._parameters = {**part._parameters, **trained}
        twin._forward_hooks = OrderedDict()
        return twin
    if update is None:
        return LinearChange(None, None, 0.0, None, own["bias"])
    dora = update.magnitude is not None
    return LinearChange(
        update.a,
        update.b,
        update.scaling,
        gain=update.gain(part.weight),
        bias=own.get("bias", part.bias if dora else None),
    )
