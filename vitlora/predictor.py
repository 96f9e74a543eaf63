"""Picture -> class and confidence, from a bundle. Imports neither PEFT nor Lightning."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from vitlora.backbones import load_backbone
from vitlora.checkpoint import Bundle, load_bundle
from vitlora.data.images import open_image
from vitlora.errors import BundleError, DataError
from vitlora.hardware import pick_device
from vitlora.quantization import dequantize

_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Prediction:
    """What one picture shows.

    Attributes:
        path: The picture's file.
        top: Classes and confidences in ``[0, 1]``, most confident first.
    """

    path: Path
    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most likely class."""
        return self.top[0][0]

    @property
    def confidence(self) -> float:
        """The softmax of the most likely class, in ``[0, 1]``."""
        return self.top[0][1]


class Predictor:
    """A plain fp32 ViT with a bundle's adapter merged into the base it was trained on.

    Args:
        checkpoint: Folder of the bundle, or a bundle that was loaded.
        weights: File of the base's weights; None looks where training found them, then in the
            hub's cache, then on the hub.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BundleError: The bundle is damaged, or belongs to other base weights.
        BackboneError: The base's weights cannot be had.
    """

    def __init__(
        self,
        checkpoint: str | Path | Bundle,
        weights: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        bundle = checkpoint if isinstance(checkpoint, Bundle) else load_bundle(checkpoint)
        self.classes = bundle.record.classes
        self.validated = bool(bundle.record.metrics)
        self.device = pick_device(device)
        self._transform = bundle.record.preprocessing.transform()
        self.network = merged_network(bundle, weights).to(self.device).eval()

    def logits(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Returns logits ``(B, classes)`` of upright RGB pictures, on the CPU."""
        return self._forward([self._transform(image) for image in images])

    @torch.inference_mode()
    def _forward(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.network(torch.stack(list(tensors)).to(self.device)).float().cpu()

    def predict(
        self, paths: Iterable[str | Path], top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        """Yields a prediction for each file in order, or the error of one that cannot be read.

        Args:
            paths: Picture files.
            top_k: How many classes to keep, at least 1.
            batch_size: Pictures in one forward pass.
        """
        group: list[tuple[Path, torch.Tensor | DataError]] = []
        for path in map(Path, paths):
            try:
                group.append((path, self._transform(open_image(path))))
            except DataError as error:
                group.append((path, error))
            if len(group) == batch_size:
                yield from self._predict_group(group, top_k)
                group = []
        yield from self._predict_group(group, top_k)

    def _predict_group(
        self, group: Sequence[tuple[Path, torch.Tensor | DataError]], top_k: int
    ) -> Iterator[Prediction | DataError]:
        tensors = [tensor for _, tensor in group if isinstance(tensor, torch.Tensor)]
        rows = iter(self._forward(tensors).softmax(1) if tensors else ())
        for path, opened in group:
            if isinstance(opened, DataError):
                yield opened
                continue
            values, indices = next(rows).topk(min(max(top_k, 1), len(self.classes)))
            names = [self.classes[index] for index in indices.tolist()]
            yield Prediction(path, tuple(zip(names, values.tolist(), strict=True)))


def merged_network(bundle: Bundle, weights: str | Path | None = None) -> nn.Module:
    """Returns timm's plain ViT in fp32 with the bundle's tensors put in or merged in.

    Raises:
        BundleError: The base's weights are not those of training, or a tensor does not fit.
        BackboneError: The base's weights cannot be had.
    """
    record = bundle.record
    # a bundle of full fine-tuning holds every weight: any start will do
    whole = record.method == "FullFineTuning"
    found = "none" if whole else weights or bundle.weights
    backbone = load_backbone(
        record.backbone, len(record.classes), found, record.preprocessing.image_size
    )
    if not whole:
        bundle.check_base(backbone.digest)
    dequantize(backbone.module, record.storage)
    with torch.no_grad():
        _merge(backbone.module, bundle)
    return backbone.module


def _merge(module: nn.Module, bundle: Bundle) -> None:
    """Adds ``scaling * B @ A`` to each adapted weight and copies the tensors trained in full."""
    targets = dict(module.named_parameters())
    touched: set[str] = set()
    for name, tensor in bundle.tensors.items():
        plain = name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".")
        if ".lora_" not in plain:
            _target(bundle, name, tensor.shape, targets.get(plain)).copy_(tensor)
            touched.add(plain)
        elif not plain.endswith((".lora_A.weight", ".lora_B.weight")):
            raise BundleError(f"{bundle.folder} has a tensor that cannot be merged: {name}")
    for name, b in bundle.tensors.items():
        if not name.endswith(".lora_B.weight"):
            continue
        layer = name.removesuffix(".lora_B.weight")
        plain = layer.removeprefix(_PEFT_PREFIX) + ".weight"
        a = bundle.tensors.get(f"{layer}.lora_A.weight")
        if a is None or a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
            raise BundleError(f"{bundle.folder} has {name} without a lora_A that fits it")
        delta, scaling = b.float() @ a.float(), _scaling(bundle, len(a))
        _target(bundle, name, delta.shape, targets.get(plain)).add_(delta, alpha=scaling)
        touched.add(plain)
    if missing := sorted(_expected(module, bundle) - touched):
        raise BundleError(f"{bundle.folder} lacks {len(missing)} tensors, first for {missing[0]}")


def _expected(module: nn.Module, bundle: Bundle) -> set[str]:
    """Returns the parameters the bundle must have something for."""
    if bundle.record.method == "FullFineTuning":
        return {name for name, _ in module.named_parameters()}
    pattern = str((bundle.peft or {}).get("target_modules", ""))
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    adapted = {f"{name}.weight" for name in linear if re.fullmatch(pattern, name)}
    return adapted | {"head.weight", "head.bias"}


def _scaling(bundle: Bundle, rank: int) -> float:
    config: dict[str, Any] = bundle.peft or {}
    plain = not (
        config.get("use_dora")
        or config.get("use_rslora")
        or config.get("rank_pattern")
        or config.get("alpha_pattern")
    )
    if config.get("peft_type") != "LORA" or config.get("r") != rank or not plain:
        raise BundleError(
            f"{bundle.folder}/adapter_config.json is not the plain LoRA of rank {rank} its tensors "
            "are; this vitlora cannot merge it"
        )
    return config["lora_alpha"] / rank


def _target(
    bundle: Bundle, name: str, shape: torch.Size, target: nn.Parameter | None
) -> nn.Parameter:
    """Returns the parameter a tensor goes to, if there is one of its shape."""
    if target is None:
        raise BundleError(f"{bundle.folder} has a tensor the backbone has no place for: {name}")
    if shape != target.shape:
        raise BundleError(
            f"{bundle.folder}: {name} makes {tuple(shape)}, the backbone has {tuple(target.shape)}"
        )
    return target
