"""Reads and checks the changes that a bundle makes to its frozen base. Imports no PEFT."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.lora_options import LoraOptions
from vitlora.errors import BundleError

_PREFIX = "base_model.model."
# int8: the base of a head trained as LoRA is zeros, one byte each
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8)
_MOST_CHANGE = 1e30  # far from overflow in fp32
_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_magnitude_vector": "magnitude",
}


@dataclass(frozen=True)
class Update:
    """The low-rank update of one linear layer, in fp32.

    Attributes:
        a: ``(rank, in)``.
        b: ``(out, rank)``.
        scaling: Factor on the product ``B A``.
        magnitude: DoRA's lengths of the new weight's rows, ``(out,)``; None for LoRA.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    magnitude: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Update":
        """Returns the update on another device."""
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return Update(self.a.to(device), self.b.to(device), self.scaling, magnitude)

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the new weight ``(out, in)`` for a frozen weight."""
        new = weight + self.scaling * (self.b @ self.a)
        return new if self.magnitude is None else new * (self.magnitude / new.norm(dim=1))[:, None]

    def gain(self, weight: torch.Tensor) -> torch.Tensor | None:
        """Returns DoRA's factor on each output, ``(out,)``; None for LoRA.

        It is the magnitude divided by the length of each row of ``W + scaling * B A`` (Liu et al.
        2024, equation 5).
        """
        if self.magnitude is None:
            return None
        return self.magnitude / (weight + self.scaling * (self.b @ self.a)).norm(dim=1)


@dataclass(frozen=True)
class Changes:
    """All changes that a bundle makes to a plain ViT.

    Attributes:
        updates: Path of a linear layer -> its low-rank update.
        tensors: Name of a parameter trained in full, such as the head's -> its new value.
    """

    updates: dict[str, Update]
    tensors: dict[str, torch.Tensor]


def read_changes(bundle: Bundle, module: nn.Module) -> Changes:
    """Returns a bundle's changes after checking that each of them fits.

    Args:
        bundle: A bundle.
        module: timm's plain ViT, perhaps in 4 bits, with a head for the bundle's classes.

    Raises:
        BundleError: A tensor is missing, is not expected, is not finite, or has another shape.
    """
    targets = {name: p.shape for name, p in module.named_parameters()}
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear):  # a 4-bit weight has another shape
            targets[f"{path}.weight"] = torch.Size((layer.out_features, layer.in_features))
    factors: dict[str, dict[str, torch.Tensor]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in bundle.tensors.items():
        if tensor.dtype not in _NUMBERS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BundleError(f"{bundle.folder}: {name} holds {kind}; expected fp16, bf16 or fp32")
        numbers = tensor.float()
        if not torch.isfinite(numbers).all():
            raise BundleError(f"{bundle.folder}: {name} holds numbers that are not finite")
        plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        end = next((end for end in _PARTS if plain.endswith(end)), None)
        if end is not None:
            factors.setdefault(plain.removesuffix(end), {})[_PARTS[end]] = numbers
            continue
        if ".lora_" in plain:
            raise BundleError(f"{bundle.folder} has a tensor that cannot be merged: {name}")
        _check_place(bundle, name, tensor.shape, targets.get(plain))
        tensors[plain] = numbers
    options = bundle.lora()
    if factors and options is None:
        raise BundleError(f"{bundle.folder} has {min(factors)}.lora_A, but no adapter_config.json")
    updates = {
        path: _update(bundle, path, parts, options)
        for path, parts in factors.items()
        if options is not None
    }
    for path, update in updates.items():
        shape = torch.Size((len(update.b), update.a.shape[1]))
        _check_place(bundle, f"{path}.lora_B @ lora_A", shape, targets.get(f"{path}.weight"))
    got = tensors.keys() | {f"{path}.weight" for path in updates}
    if missing := sorted(_expected(module, bundle, options) - got):
        raise BundleError(f"{bundle.folder} lacks {len(missing)} tensors, first for {missing[0]}")
    return Changes(updates, tensors)


def _update(
    bundle: Bundle, path: str, parts: Mapping[str, torch.Tensor], options: LoraOptions
) -> Update:
    a, b = parts.get("a"), parts.get("b")
    if b is None:
        raise BundleError(f"{bundle.folder} has {path}.lora_A, but its lora_B is missing")
    if a is None or a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
        raise BundleError(f"{bundle.folder} has {path}.lora_B without a lora_A that fits it")
    if (rank := options.rank_of(path)) != len(a):
        raise BundleError(
            f"{bundle.folder}: {path} has rank {len(a)}, but adapter_config.json says rank {rank}"
        )
    magnitude = parts.get("magnitude")
    if options.dora != (magnitude is not None):
        raise BundleError(
            f"{bundle.folder}: use_dora is {options.dora} in adapter_config.json, but "
            f"{path} comes {'with' if magnitude is not None else 'without'} a magnitude"
        )
    if magnitude is not None and magnitude.shape != (len(b),):
        raise BundleError(
            f"{bundle.folder}: the magnitude of {path} is {tuple(magnitude.shape)}, expected "
            f"{(len(b),)}"
        )
    scaling = options.scaling_of(path, rank)
    # an upper bound on the entries of the product
    if not abs(scaling) * float(a.norm()) * float(b.norm()) < _MOST_CHANGE:
        raise BundleError(f"{bundle.folder}: {path} changes its weights by numbers too large")
    return Update(a, b, scaling, magnitude)


def _expected(module: nn.Module, bundle: Bundle, options: LoraOptions | None) -> set[str]:
    """Returns the names of the parameters that the bundle must change."""
    if bundle.record.method == "FullFineTuning":
        return {name for name, _ in module.named_parameters()}
    if options is None:
        return {"head.weight", "head.bias"}
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    adapted = set(filter(options.adapts, linear))
    # PEFT matches both by the ends of their names
    ends, bias = options.whole, options.bias
    whole = [name for name, _ in module.named_modules() if ends and name.endswith(ends)]
    beside = {
        name
        for name, _ in module.named_parameters()
        if any(name.startswith(f"{path}.") for path in whole)
        or (bias == "all" and name.endswith(".bias"))
        or (bias == "lora_only" and name.removesuffix(".bias") in adapted)
    }
    return {f"{name}.weight" for name in adapted} | beside | {"head.weight", "head.bias"}


def _check_place(bundle: Bundle, name: str, got: torch.Size, expected: torch.Size | None) -> None:
    if name.endswith("head.weight") and expected is not None and got[:1] != expected[:1]:
        outputs = got[0] if got else "no"
        raise BundleError(
            f"{bundle.folder}: the head has {outputs} outputs, but there are {expected[0]} classes"
        )
    if expected is None:
        raise BundleError(f"{bundle.folder} has a tensor the backbone has no place for: {name}")
    if got != expected:
        raise BundleError(
            f"{bundle.folder}: {name} makes {tuple(got)}, the backbone has {tuple(expected)}"
        )
