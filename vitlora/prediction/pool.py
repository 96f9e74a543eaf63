"""Many adapters on one frozen ViT in memory, chosen picture by picture. Imports no PEFT."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.bundle.merging import bundle_backbone
from vitlora.bundle.record import Record
from vitlora.bundle.updates import Update, read_changes
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError, DataError, UsageError, a_few, nearest
from vitlora.hardware import pick_device
from vitlora.metrics.judge import Judge, Prediction
from vitlora.quantization import dequantize

_MOST_THREADS = 16  # that open pictures


class AdapterPool:
    """One plain fp32 ViT, rounded as in training, and adapters on it with classes of their own.

    A mixed batch goes through the base once: in each adapted layer every picture gets what its own
    adapter changes. An adapter takes the memory of its own tensors in fp32 (of a head trained as
    LoRA, that of the plain head); the base is there once.

    Threads may call any method at any time. A call works to its end with the adapters it found at
    its start, also when one of them is removed meanwhile.

    Args:
        checkpoints: Name -> folder of a bundle, or a bundle that was loaded; at least one. The
            first decides on the base, which all must share.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BundleError: A bundle is damaged, belongs to another base, or holds a whole network.
        BackboneError: The base's weights cannot be had.
        UsageError: There is no bundle, or no such device.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str | Path | Bundle],
        weights: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        if not checkpoints or not isinstance(checkpoints, Mapping):
            raise UsageError(
                "there is no adapter to load; expected a dict of names and bundles, as in "
                "{'waste': 'checkpoints/waste5'}"
            )
        self.device = pick_device(device)
        bundles = {name: _opened(checkpoint) for name, checkpoint in checkpoints.items()}
        first = next(iter(bundles.values()))
        backbone = bundle_backbone(first, weights)
        first.check_base(backbone.digest)
        network: Any = backbone.module
        dequantize(network, first.record.storage)
        self._base = _base_of(first.record)
        self._shape = (3, *2 * (first.record.preprocessing.image_size,))
        self._width: int = network.head.in_features
        network.head = nn.Identity()
        self._network: nn.Module = network.to(self.device).eval().requires_grad_(False)
        self._parts = {path: m for path, m in network.named_modules() if _sees_pictures(m)}
        self._batch = _Batch()
        for path, part in self._parts.items():  # once for all: no call meets a change of hooks
            part.register_forward_hook(partial(_adapt, self._batch, path))
        self._adapters: dict[str, _Adapter] = {}
        self._changing = threading.Lock()
        for name, bundle in bundles.items():
            self.load(name, bundle)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, in the order they were loaded."""
        return tuple(self._adapters)

    def classes(self, name: str) -> tuple[str, ...]:
        """Returns an adapter's classes in the order of its logits.

        Raises:
            UsageError: No adapter has this name.
        """
        return self._find(name).judge.classes

    def load(self, name: str, checkpoint: str | Path | Bundle) -> None:
        """Adds an adapter.

        Args:
            name: What calls will name it by.
            checkpoint: Folder of its bundle, or a bundle that was loaded.

        Raises:
            BundleError: The bundle is damaged, belongs to another base, or holds a whole network.
            UsageError: The name is taken.
        """
        with self._changing:
            if name in self._adapters:
                raise UsageError(
                    f"an adapter named '{name}' is loaded already; remove it first, or take "
                    "another name"
                )
            bundle = _opened(checkpoint)
            for what, got in _base_of(bundle.record).items():
                if got != self._base[what]:
                    raise BundleError(
                        f"{bundle.folder} was trained on another base than the one in memory: "
                        f"{what} {got}, not {self._base[what]}; load it by itself"
                    )
            self._adapters[name] = self._read(bundle)

    def remove(self, name: str) -> None:
        """Drops an adapter; its memory is free once no call works with it any more.

        Raises:
            UsageError: No adapter has this name.
        """
        with self._changing:
            self._find(name)
            del self._adapters[name]

    def predict(
        self, pictures: Sequence[str | Path | Image.Image], names: Sequence[str], top_k: int = 3
    ) -> list[Prediction | DataError]:
        """Returns what each picture shows by its adapter, as its own ``Predictor`` would say it.

        All go through the base in one pass.

        Args:
            pictures: Files, or upright RGB pictures; each is preprocessed as its adapter's bundle
                says.
            names: The adapter of each picture.
            top_k: How many classes to keep, at least 1.

        Returns:
            In their order; the error of a file that cannot be read stands in its place.

        Raises:
            UsageError: A name is unknown, or there are not as many names as pictures.
        """
        adapters = self._find_all(names, len(pictures))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS)) as threads:
            opened = list(threads.map(_Adapter.open, adapters, pictures))
        kept = [n for n, (tensor, _) in enumerate(opened) if isinstance(tensor, torch.Tensor)]
        tensors = [tensor for tensor, _ in opened if isinstance(tensor, torch.Tensor)]
        answers = self._answers(tensors, [adapters[n] for n in kept])
        made: dict[int, Prediction] = {}
        for number, (features, logits) in zip(kept, answers, strict=True):
            picture = pictures[number]
            path = Path() if isinstance(picture, Image.Image) else Path(picture)
            judge = adapters[number].judge
            [said] = judge.predictions([path], features[None], logits[None], top_k)
            made[number] = replace(said, outside=opened[number][1])
        return [x if isinstance(x, DataError) else made[n] for n, (x, _) in enumerate(opened)]

    def logits(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[torch.Tensor]:
        """Returns the logits ``(classes,)`` of each picture by its adapter, on the CPU.

        Args:
            images: Upright RGB pictures; each is preprocessed as its adapter's bundle says.
            names: The adapter of each picture.

        Raises:
            UsageError: A name is unknown, or there are not as many names as pictures.
        """
        adapters = self._find_all(names, len(images))
        tensors = [a.transform(image) for a, image in zip(adapters, images, strict=True)]
        return [logits for _, logits in self._answers(tensors, adapters)]

    def forward(self, images: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        """Returns the logits ``(classes,)`` of each picture by its adapter, on the CPU.

        Args:
            images: ``(B, 3, H, W)``, each normalised as its adapter's bundle says.
            names: The adapter of each picture.

        Raises:
            UsageError: A name is unknown, there are not as many names as pictures, or the pictures
                have another shape or type.
        """
        if images.shape[1:] != self._shape or not images.is_floating_point():
            raise UsageError(
                f"the batch is {tuple(images.shape)} of {images.dtype}; expected "
                f"(B, {', '.join(map(str, self._shape))}) of torch.float32, normalised"
            )
        adapters = self._find_all(names, len(images))
        return [logits for _, logits in self._answers(list(images), adapters)]

    @torch.inference_mode()
    def _answers(
        self, tensors: Sequence[torch.Tensor], adapters: "Sequence[_Adapter]"
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns features ``(D,)`` and logits ``(classes,)`` of each, fp32, on the CPU."""
        if not tensors:
            return []
        numbers: dict[_Adapter, list[int]] = {}
        for number, adapter in enumerate(adapters):
            numbers.setdefault(adapter, []).append(number)
        # pictures of one adapter side by side: its share of any tensor is a view, not a copy
        order = [number for group in numbers.values() for number in group]
        groups, start = list[tuple[_Adapter, slice]](), 0
        for adapter, group in numbers.items():
            groups.append((adapter, slice(start, start + len(group))))
            start += len(group)
        batch = torch.stack([tensors[number] for number in order])
        self._batch.groups = groups
        try:
            features = self._network(batch.to(self.device, torch.float32))
        finally:
            self._batch.groups = ()
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for adapter, rows in groups:
            logits = F.linear(features[rows], adapter.head_weight, adapter.head_bias)
            pairs = zip(features[rows].cpu(), logits.cpu(), strict=True)
            found |= zip(order[rows], pairs, strict=True)
        return [found[number] for number in range(len(adapters))]

    def _find(self, name: str) -> "_Adapter":
        adapter = self._adapters.get(name)
        if adapter is None:
            names = self.names
            raise UsageError(
                f"no adapter is named '{name}'{nearest(name, names)}; loaded: {a_few(names)}"
            )
        return adapter

    def _find_all(self, names: Sequence[str], count: int) -> "list[_Adapter]":
        if isinstance(names, str) or len(names) != count:
            got = f"the text '{names}'" if isinstance(names, str) else f"{len(names)} names"
            raise UsageError(f"{got} for {count} pictures; expected a list of a name for each")
        found = {name: self._find(name) for name in dict.fromkeys(names)}
        return [found[name] for name in names]

    def _read(self, bundle: Bundle) -> "_Adapter":
        """Returns a bundle's adapter on the device."""
        head = nn.Linear(self._width, len(bundle.record.classes), device="meta")
        plain = copy(self._network)  # the base as the bundle's own: with a head of its classes
        plain._modules = {**plain._modules, "head": head}
        changes = read_changes(bundle, plain)
        own: dict[str, dict[str, torch.Tensor]] = {path: {} for path in changes.updates}
        own["head"] = {"weight": torch.zeros(head.weight.shape, device=self.device)}
        for name, tensor in changes.tensors.items():
            path, _, leaf = name.rpartition(".")
            if path not in self._parts and path != "head":
                raise BundleError(
                    f"{bundle.folder} changes {name}, which all pictures of a batch have in "
                    "common; load it by itself"
                )
            own.setdefault(path, {})[leaf] = tensor.to(self.device)
        changed: dict[str, _LinearChange | nn.Module] = {}
        for path, tensors in own.items():
            update = _moved(changes.updates.get(path), self.device)
            if (
                update is not None and "weight" in tensors
            ):  # the zeros a head trained as LoRA starts from
                tensors["weight"], update = update.merged(tensors["weight"]), None
            if path != "head":
                changed[path] = _change(self._parts[path], update, tensors)
        return _Adapter(
            judge=bundle.judge,
            preprocessing=bundle.record.preprocessing,
            transform=bundle.record.preprocessing.transform(),
            changed=changed,
            head_weight=own["head"]["weight"],
            head_bias=own["head"]["bias"],
        )


@dataclass(frozen=True)
class _LinearChange:
    """Makes ``gain * (W x + scaling B A x) + bias`` of a linear layer's ``W x + its bias``.

    Attributes:
        a: ``(rank, in)``; None where only the bias is trained.
        b: ``(out, rank)``, or None.
        scaling: What their product is multiplied with.
        gain: DoRA's, ``(out,)``; None for ones.
        bias: The bias to end with, ``(out,)``; None where the layer's is right as it is.
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
class _Adapter:
    """An adapter in memory, on the device.

    Attributes:
        judge: Makes answers of its features and logits.
        preprocessing: What a picture goes through.
        transform: Upright RGB picture -> ``(3, H, W)``, normalised.
        changed: Path of a part of the base -> its change, or its twin with tensors of its own.
        head_weight: ``(classes, width)``.
        head_bias: ``(classes,)``.
    """

    judge: Judge
    preprocessing: Preprocessing
    transform: Callable[[Image.Image], torch.Tensor]
    changed: dict[str, _LinearChange | nn.Module]
    head_weight: torch.Tensor
    head_bias: torch.Tensor

    def open(self, picture: str | Path | Image.Image) -> tuple[torch.Tensor | DataError, bool]:
        """Returns a picture ``(3, H, W)``, normalised, or why it cannot be read.

        And whether its values lie outside the range of training.
        """
        if isinstance(picture, Image.Image):
            return self.transform(picture), False
        try:
            opened = self.preprocessing.open(Path(picture))
            return self.transform(opened.image), opened.outside
        except DataError as error:
            return error, False


class _Batch(threading.local):
    """The batch this thread has under way: whose pictures lie in which rows."""

    groups: Sequence[tuple[_Adapter, slice]] = ()


def _adapt(batch: _Batch, path: str, part: Any, inputs: Any, output: torch.Tensor) -> None:
    """Changes what a part of the base puts out, in place: to each adapter its rows."""
    for adapter, rows in batch.groups:
        change = adapter.changed.get(path)
        if isinstance(change, _LinearChange):
            change.apply(part, inputs[0][rows], output[rows])
        elif change is not None:
            output[rows] = change(inputs[0][rows])


def _sees_pictures(part: nn.Module) -> bool:
    """Returns whether a part is one that adapters change, and called with a row for each picture.

    Other parameters, such as position embeddings, are read once for the whole batch.
    """
    return isinstance(part, nn.Linear | nn.Conv2d) or "Norm" in type(part).__name__


def _change(
    part: nn.Module, update: Update | None, own: Mapping[str, torch.Tensor]
) -> _LinearChange | nn.Module:
    """Returns the change of one part.

    Args:
        part: The part of the base.
        update: Its low-rank update.
        own: The parameters of it that were trained in full, by name.
    """
    if not isinstance(part, nn.Linear) or "weight" in own:
        twin = copy(part)  # has nothing of its own but these
        trained = {leaf: nn.Parameter(t, requires_grad=False) for leaf, t in own.items()}
        twin._parameters = {**part._parameters, **trained}
        twin._forward_hooks = OrderedDict()
        return twin
    if update is None:
        return _LinearChange(None, None, 0.0, None, own["bias"])
    dora = update.magnitude is not None
    return _LinearChange(
        update.a,
        update.b,
        update.scaling,
        gain=update.gain(part.weight),
        bias=own.get("bias", part.bias if dora else None),
    )


def _moved(update: Update | None, device: torch.device) -> Update | None:
    if update is None:
        return None
    magnitude = None if update.magnitude is None else update.magnitude.to(device)
    return replace(update, a=update.a.to(device), b=update.b.to(device), magnitude=magnitude)


def _opened(checkpoint: str | Path | Bundle) -> Bundle:
    bundle = checkpoint if isinstance(checkpoint, Bundle) else load_bundle(checkpoint)
    if bundle.record.method == "FullFineTuning":
        raise BundleError(
            f"{bundle.folder} was fine-tuned in full: it is a whole network and shares no base; "
            "load it by itself"
        )
    return bundle


def _base_of(record: Record) -> dict[str, str]:
    """Returns all that makes one base in memory different from another."""
    kept, storage = record.storage.dtype, record.storage
    if storage.quantization != "none":
        kept += f" and {storage.quantization} in blocks of {storage.block_size}"
    return {
        "backbone": record.backbone,
        "weights' digest": record.base_digest,
        "image size": str(record.preprocessing.image_size),
        "frozen weights in": kept,
    }
