"""Picture -> class and confidence, from a bundle. Imports neither PEFT nor Lightning."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from PIL import Image

from vitlora.backbones import features_and_logits
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.bundle.merging import merged_network
from vitlora.data.images import File
from vitlora.errors import DataError, UsageError
from vitlora.hardware import PredictionPrecision, pick_device, prediction_dtype
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.ahead import ahead
from vitlora.quantization import is_quantized

Picture = str | os.PathLike[str] | Image.Image | np.ndarray | bytes
_Seen = tuple[Path, torch.Tensor | DataError, bool]  # tensor, whether its values are outside


class Predictor:
    """A plain ViT: a bundle's adapter merged, in fp32, into the base it was trained on.

    Args:
        checkpoint: A bundle or its folder.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``32``, ``bf16``, or ``auto`` for bf16 if the chip computes in it.

    Raises:
        BundleError: The bundle is damaged, or belongs to other base weights.
        BackboneError: The base's weights cannot be found.
        UsageError: The device or the precision is unknown.
    """

    def __init__(
        self,
        checkpoint: str | Path | Bundle,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: PredictionPrecision = "32",
    ) -> None:
        self.device = pick_device(device)
        self._dtype = prediction_dtype(self.device, str(precision))
        bundle = checkpoint if isinstance(checkpoint, Bundle) else load_bundle(checkpoint)
        self.classes, self.digest = bundle.record.classes, bundle.digest
        self.validated = bool(bundle.record.metrics)
        self.confidence = bundle.record.confidence
        self.preprocessing = bundle.record.preprocessing
        self._judge = bundle.judge
        self._transform = self.preprocessing.transform()
        self.network = merged_network(bundle, weights, self.device)
        if any(map(is_quantized, self.network.modules())):  # the base was too large to unpack
            if precision == "bf16":
                raise UsageError(
                    "precision is bf16, but this base stays in 4 bits and computes in fp32; choose "
                    "32 or auto"
                )
            self._dtype = torch.float32
        if self._dtype != torch.float32:
            self.network.to(self._dtype)
        self.precision = "32" if self._dtype == torch.float32 else "bf16"

    @overload
    def __call__(self, picture: Picture, top_k: int = 3) -> Prediction: ...

    @overload
    def __call__(self, picture: Sequence[Picture], top_k: int = 3) -> list[Prediction]: ...

    def __call__(
        self, picture: Picture | Sequence[Picture], top_k: int = 3
    ) -> Prediction | list[Prediction]:
        """Returns the prediction for a picture, or a list for a list; see ``predict`` for many.

        Args:
            picture: A path; a Pillow image; the bytes of a file; an array ``(H, W)``,
                ``(H, W, 3)`` or ``(H, W, 4)`` of uint8, floats in ``[0, 1]``, or deeper values; or
                a list of these.
            top_k: How many classes to keep, at least 1.

        Raises:
            DataError: One of them is not a picture, or cannot be read.

        Examples:
            >>> predictor = Predictor("checkpoints/waste5")
            >>> predictor("photos/test/can/0.jpg").label in predictor.classes
            True
            >>> image = Image.open("photos/test/can/1.jpg")
            >>> [0 < answer.confidence <= 1 for answer in predictor([image, np.asarray(image)])]
            [True, True]
        """
        if not isinstance(picture, list | tuple):
            return self([cast(Picture, picture)], top_k)[0]
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}; expected at least 1")
        group = []
        for one in picture:
            if isinstance(one, str | os.PathLike):
                path, opened = Path(one), self.preprocessing.open(one)
            else:
                path, opened = Path(), self.preprocessing.see(one)
            group.append((path, self._transform(opened.image), opened.outside))
        return cast(list[Prediction], list(self._predict_group(group, top_k)))

    def logits(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Returns uncalibrated logits ``(B, classes)`` of upright RGB pictures, on the CPU.

        ``predictor.preprocessing.open(path).image`` opens a file as such a picture.
        """
        return self._forward([self._transform(image) for image in images])[1]

    @torch.inference_mode()
    def _forward(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns features ``(B, D)`` and logits ``(B, classes)``, fp32, on the CPU."""
        images = torch.stack(list(tensors))
        if self.device.type == "cuda":
            images = images.pin_memory()
        images = images.to(self.device, self._dtype, non_blocking=True)
        features, logits = features_and_logits(self.network, images)
        return features.cpu(), logits.cpu()

    def predict(
        self, paths: Iterable[File] | str | Path, top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        """Yields a prediction for each file, in order; an error for one that cannot be read.

        Threads read the next two batches while one is predicted; no more pictures are in memory,
        however many paths there are.

        Args:
            paths: Picture files; ``InMemory`` for those whose bytes are at hand.
            top_k: How many classes to keep, at least 1.
            batch_size: Pictures in one forward pass.
        """
        paths = [paths] if isinstance(paths, str | os.PathLike) else paths
        opened = ahead(self._open, paths, 2 * batch_size)
        while group := list(islice(opened, batch_size)):
            yield from self._predict_group(group, top_k)

    def _open(self, file: File) -> _Seen:
        path = Path(str(file))
        try:
            opened = self.preprocessing.open(file)
            return path, self._transform(opened.image), opened.outside
        except DataError as error:
            return path, error, False

    def _predict_group(
        self, group: Sequence[_Seen], top_k: int
    ) -> Iterator[Prediction | DataError]:
        opened = [(path, x) for path, x, _ in group if isinstance(x, torch.Tensor)]
        made: list[Prediction] = []
        if opened:
            features, logits = self._forward([tensor for _, tensor in opened])
            made = self._judge.predictions([path for path, _ in opened], features, logits, top_k)
        predictions = iter(made)
        for _, tensor, outside in group:
            if isinstance(tensor, DataError):
                yield tensor
            else:
                yield replace(next(predictions), outside=outside)
