"""Many adapters on one frozen ViT in memory, chosen picture by picture. Imports no PEFT."""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from vitlora.backbones import as_vit
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.bundle.merging import bundle_backbone
from vitlora.bundle.record import Record
from vitlora.errors import BundleError, DataError, UsageError, a_few, counted, nearest, shown
from vitlora.hardware import pick_device
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.ahead import MOST_THREADS
from vitlora.prediction.pooled_adapter import (
    PooledAdapter,
    RunningBatch,
    adapt_rows,
    read_adapter,
    sees_pictures,
)
from vitlora.quantization import dequantize


class AdapterPool:
    """One fp32 ViT, rounded as in training, shared by adapters that each have their own classes.

    A mixed batch goes through the base once; in each adapted layer, every picture gets the change
    of its own adapter. The base is in memory once. An adapter adds its own tensors in fp32; a head
    trained as LoRA is kept merged.

    All methods are thread-safe. A call uses the adapters that were loaded when it started, even if
    one is removed meanwhile.

    Args:
        checkpoints: Name -> bundle or its folder; at least one. All must share the base of the
            first.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BundleError: A bundle is damaged, belongs to another base, or holds a whole network.
        BackboneError: The base's weights cannot be found.
        UsageError: There is no bundle, or no such device.

    Examples:
        >>> pool = AdapterPool({"a": "checkpoints/waste5", "b": "checkpoints/waste5"})
        >>> answers = pool.predict(["photos/test/can/0.jpg", "photos/test/can/1.jpg"], ["a", "b"])
        >>> [answer.label in ("can", "glass") for answer in answers]
        [True, True]
    """

    def __init__(
        self,
        checkpoints: Mapping[str, str | Path | Bundle],
        weights: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        if not checkpoints or not isinstance(checkpoints, Mapping):
            raise UsageError(
                f"checkpoints is {shown(checkpoints)}; expected a dict of at least one name and "
                "bundle, such as {'waste': 'checkpoints/waste5'}"
            )
        self.device = pick_device(device)
        bundles = {name: _opened(checkpoint) for name, checkpoint in checkpoints.items()}
        first = next(iter(bundles.values()))
        backbone = bundle_backbone(first, weights)
        first.check_base(backbone.digest)
        network = as_vit(backbone.module)
        dequantize(network, first.record.storage)
        self._base = _base_of(first.record)
        self._shape = (3, *2 * (first.record.preprocessing.image_size,))
        self._width = cast(nn.Linear, network.head).in_features
        network.head = nn.Identity()
        self._network: nn.Module = network.to(self.device).eval().requires_grad_(False)
        self._parts = {path: m for path, m in network.named_modules() if sees_pictures(m)}
        self._batch = RunningBatch()
        for path, part in self._parts.items():  # only here, so no call sees the hooks change
            part.register_forward_hook(partial(adapt_rows, self._batch, path))
        self._adapters: dict[str, PooledAdapter] = {}
        self._changing = threading.Lock()
        for name, bundle in bundles.items():
            self.load(name, bundle)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, in the order they were loaded."""
        return tuple(self._adapters)

    def adapter(self, name: str) -> PooledAdapter:
        """Returns the adapter of a name; it stays usable after it is removed.

        Raises:
            UsageError: No adapter has this name.
        """
        adapter = self._adapters.get(name)
        if adapter is None:
            names = self.names
            raise UsageError(
                f"no adapter is named '{name}'{nearest(name, names)}; loaded: {a_few(names)}"
            )
        return adapter

    def classes(self, name: str) -> tuple[str, ...]:
        """Returns an adapter's classes in the order of its logits; an error as ``adapter``."""
        return self.adapter(name).judge.classes

    def load(self, name: str, checkpoint: str | Path | Bundle) -> None:
        """Adds an adapter.

        Args:
            name: Its name in later calls.
            checkpoint: A bundle or its folder.

        Raises:
            BundleError: The bundle is damaged, belongs to another base, or holds a whole network.
            UsageError: The name is taken.
        """
        with self._changing:
            if name in self._adapters:
                raise UsageError(
                    f"an adapter named '{name}' is already loaded; remove it first, or choose "
                    "another name"
                )
            bundle = _opened(checkpoint)
            for what, got in _base_of(bundle.record).items():
                if got != self._base[what]:
                    raise BundleError(
                        f"{bundle.folder} was trained on another base than the one in memory: "
                        f"{what} {got}, not {self._base[what]}; start another server "
                        "(in Python, another pool) for it"
                    )
            self._adapters[name] = read_adapter(
                bundle, self._network, self._parts, self._width, self.device
            )

    def remove(self, name: str) -> None:
        """Removes an adapter; its memory is freed when the last call that uses it returns.

        Raises:
            UsageError: No adapter has this name.
        """
        with self._changing:
            self.adapter(name)
            del self._adapters[name]

    def predict(
        self, pictures: Sequence[str | Path | Image.Image], names: Sequence[str], top_k: int = 3
    ) -> list[Prediction | DataError]:
        """Returns the prediction of each picture's adapter, as its ``Predictor`` would give it.

        All pictures go through the base in one pass.

        Args:
            pictures: Files, or upright RGB pictures; each is preprocessed as its adapter's bundle
                says.
            names: The adapter of each picture.
            top_k: How many classes to keep, at least 1.

        Returns:
            One result for each picture, in order; an error for a file that cannot be read.

        Raises:
            UsageError: A name is unknown, or there are not as many names as pictures.
        """
        adapters = self._find_all(names, len(pictures))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as threads:
            opened = list(threads.map(PooledAdapter.open, adapters, pictures))
        pairs = zip(opened, adapters, strict=True)
        good = [(x, adapter) for (x, _), adapter in pairs if isinstance(x, torch.Tensor)]
        said = iter(self.judge([x for x, _ in good], [a for _, a in good], [top_k] * len(good)))
        paths = (Path() if isinstance(one, Image.Image) else Path(one) for one in pictures)
        return [
            x if isinstance(x, DataError) else replace(next(said), path=path, outside=outside)
            for path, (x, outside) in zip(paths, opened, strict=True)
        ]

    @property
    def uncalibrated(self) -> list[str]:
        """Names of the adapters whose answers have no marks."""
        return [name for name in self.names if self.adapter(name).judge.confidence is None]

    def judge(
        self,
        tensors: Sequence[torch.Tensor],
        adapters: Sequence[PooledAdapter],
        top_k: Sequence[int],
    ) -> list[Prediction]:
        """Returns the prediction of each picture by its adapter, in one pass.

        Args:
            tensors: ``(3, H, W)`` each, as ``PooledAdapter.open`` gives them.
            adapters: The adapter of each picture.
            top_k: How many classes to keep of each, at least 1.
        """
        answers = self._answers(tensors, adapters)
        return [
            adapter.judge.predictions([Path()], features[None], logits[None], most)[0]
            for adapter, most, (features, logits) in zip(adapters, top_k, answers, strict=True)
        ]

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

    def plain(self, adapter: PooledAdapter) -> nn.Module:
        """Returns a plain ViT that answers as one adapter alone, as images -> logits.

        It shares parameters and buffers with the pool, and nothing that hooks or settings change.
        """
        shared = [*self._network.parameters(), *self._network.buffers()]
        memo: dict[int, object] = {id(tensor): tensor for tensor in shared}
        # its hooks take every row for this adapter's, in any thread
        memo[id(self._batch)] = SimpleNamespace(groups=[(adapter, slice(None))])
        network = deepcopy(self._network, memo)
        network.head = head = nn.Linear(1, 1, device="meta")
        head.weight = nn.Parameter(adapter.head_weight, requires_grad=False)
        head.bias = nn.Parameter(adapter.head_bias, requires_grad=False)
        return network

    @torch.inference_mode()
    def _answers(
        self, tensors: Sequence[torch.Tensor], adapters: Sequence[PooledAdapter]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns features ``(D,)`` and logits ``(classes,)`` of each, fp32, on the CPU."""
        if not tensors:
            return []
        numbers: dict[PooledAdapter, list[int]] = {}
        for number, adapter in enumerate(adapters):
            numbers.setdefault(adapter, []).append(number)
        # pictures of one adapter are adjacent, so its rows of any tensor are a view, not a copy
        order = [number for group in numbers.values() for number in group]
        groups, start = list[tuple[PooledAdapter, slice]](), 0
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

    def _find_all(self, names: Sequence[str], count: int) -> list[PooledAdapter]:
        if isinstance(names, str) or len(names) != count:
            got = f"the text '{names}'" if isinstance(names, str) else counted(len(names), "name")
            raise UsageError(
                f"names is {got}, for {counted(count, 'picture')}; expected a list with the name "
                "of an adapter for each"
            )
        found = {name: self.adapter(name) for name in dict.fromkeys(names)}
        return [found[name] for name in names]


def _opened(checkpoint: str | Path | Bundle) -> Bundle:
    bundle = checkpoint if isinstance(checkpoint, Bundle) else load_bundle(checkpoint)
    if bundle.record.method == "FullFineTuning":
        raise BundleError(
            f"{bundle.folder} was fine-tuned in full, so it shares no base; load it with Predictor"
        )
    return bundle


def _base_of(record: Record) -> dict[str, str]:
    """Returns what identifies a base in memory."""
    kept, storage = record.storage.dtype, record.storage
    if storage.quantization != "none":
        kept += f" and {storage.quantization} in blocks of {storage.block_size}"
    return {
        "backbone": record.backbone,
        "weights' digest": record.base_digest,
        "image size": str(record.preprocessing.image_size),
        "frozen weights in": kept,
    }
