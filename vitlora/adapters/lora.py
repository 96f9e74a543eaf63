"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) and its variants, by PEFT."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from vitlora.adapters.adapter import Adapter, HeadMode, Tensors
from vitlora.adapters.targets import Targets, Variant, peft_ranks
from vitlora.adapters.variants import (
    at_twice_the_rank,
    factors,
    init_eva,
    init_loftq,
    keep_start,
    without_start,
)
from vitlora.backbones import BLOCK_ROLES, Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.errors import AdapterError, UsageError
from vitlora.quantization import Storage, is_quantized, plain_weight


class Lora(Adapter):
    """Low-rank updates of the linear layers in the blocks: ``W + alpha / rank * B @ A``.

    Args:
        rank: Inner dimension of the update, at least 1. Higher: more capacity, larger file.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Share of an adapted layer's inputs dropped in training, ``0 <= p < 1``.
        targets: Roles that get an update: attention.qkv, attention.proj, mlp.fc1, mlp.fc2; null
            for all four. attention.q, attention.k and attention.v are the parts of attention.qkv,
            each with an update of its own. An empty list adapts no block; ``model.head: lora``
            then adapts the head alone.
        last_blocks: Adapt only this many blocks, counted from the head; null for all.
        ranks: Other ranks for some layers, as role: rank, blocks.N: rank, or blocks.N.role: rank;
            where several fit, the last of these three counts.
        variant: What differs from lora. rslora: scaled by alpha / sqrt(rank). dora: direction and
            length of each weight row learn apart. pissa, olora: start at the weight's largest
            singular vectors, or its QR factors. eva: A starts at the principal directions of your
            pictures' activations. loftq: starts by undoing the rounding of 4-bit weights.
        lr_ratio: Learning rate of B over that of A; LoRA+ takes 2 to 16.
        norms: Also train the layer norms.
        biases: Also train the biases.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: list[str] | None = None,
        last_blocks: int | None = None,
        ranks: dict[str, int] | None = None,
        variant: Variant = "lora",
        lr_ratio: float = 1.0,
        norms: bool = False,
        biases: bool = False,
    ) -> None:
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.targets = list(BLOCK_ROLES) if targets is None else list(targets)
        self.last_blocks = last_blocks
        self.ranks = dict(ranks or {})
        self.variant: Variant = variant
        self.lr_ratio = lr_ratio
        self.norms = norms
        self.biases = biases
        self._check_options()
        self._layers = Targets(
            tuple(self.targets), last_blocks, rank, alpha, self.ranks, self.variant
        )

    def _check_options(self) -> None:
        last = self.last_blocks
        checks = {
            "rank": (self.rank, self.rank >= 1, "at least 1"),
            "alpha": (self.alpha, self.alpha > 0, "more than 0"),
            "dropout": (self.dropout, 0 <= self.dropout < 1, "0 <= dropout < 1"),
            "last_blocks": (last, last is None or last >= 1, "at least 1, or null for all"),
            "lr_ratio": (self.lr_ratio, self.lr_ratio > 0, "more than 0"),
            "variant": (
                self.variant,
                self.variant in get_args(Variant),
                f"one of {', '.join(get_args(Variant))}",
            ),
        }
        for name, (value, fits, expected) in checks.items():
            if not fits:
                raise UsageError(f"model.adapter {name} is {value}; expected {expected}")

    @property
    def moves_base(self) -> bool:
        """Whether a part of the frozen weights moves into the adapter."""
        return self.variant in ("pissa", "olora")

    @property
    def needs_base(self) -> bool:
        """Whether the start depends on the weights as they were before rounding."""
        return self.variant == "loftq"

    def layers(self, backbone: Backbone, head: HeadMode) -> list[str]:
        """Returns the module paths that get an update, the first of them nearest the input.

        Raises:
            AdapterError: The backbone has fewer blocks than asked for.
            UsageError: There is nothing to adapt.
        """
        return list(self._layers.plan(backbone, head))

    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses what does not fit the backbone, and pairs that would not train what they say."""
        plan = self._layers.plan(backbone, head)
        modules = dict(backbone.module.named_modules())
        for path, (rank, _) in plan.items():
            layer: Any = modules[path]
            width = (
                layer.in_features if path == "head" else min(layer.in_features, layer.out_features)
            )
            count = len(self._layers.parts(path)) or 1
            if rank > width:
                raise AdapterError(
                    f"model.adapter rank is {rank // count} for {path}, which is {width} wide"
                    f"{f' and has {count} adapted parts' if count > 1 else ''}; take a rank of "
                    f"{width // count} or less"
                )
        four_bit = storage.quantization != "none"
        if head == "lora" and self.variant not in ("lora", "rslora"):
            raise UsageError(
                f"model.adapter variant {self.variant} starts from trained weights, and the head "
                "has none yet; set model.head to full"
            )
        if four_bit and (self.moves_base or self.biases):
            what = "biases are trained" if self.biases else f"variant is {self.variant}"
            raise UsageError(
                f"model.adapter {what}, which changes the frozen layers; that does not go with "
                f"model.quantization {storage.quantization}. Set it to none"
            )
        if self.variant == "loftq" and not four_bit:
            raise UsageError(
                "model.adapter variant is loftq, which undoes the rounding of 4-bit weights; set "
                "model.quantization to nf4, or take variant lora"
            )
        odd = [path for path in plan if modules[path].in_features % storage.block_size]  # pyright: ignore
        if four_bit and self.variant == "dora" and odd:
            raise UsageError(
                f"model.adapter variant is dora, but {odd[0]} is not a multiple of "
                f"{storage.block_size} wide, which PEFT reads wrongly from 4 bits; set "
                "model.quantization to none, or take variant lora"
            )

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone wrapped by PEFT, its adapters (and full head) trainable."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

        plan = self._layers.plan(backbone, head)
        module: Any = backbone.module
        module.name_or_path = backbone.id  # PEFT saves it as base_model_name_or_path
        # PEFT looks for this flag before it takes its 4-bit LoRA layer
        module.is_loaded_in_4bit = any(map(is_quantized, module.modules()))
        config = LoraConfig(
            **peft_ranks(plan),
            lora_dropout=self.dropout,
            target_modules=anchored_pattern(plan),
            modules_to_save=self._whole_modules(module, head) or None,
            bias="all" if self.biases else "none",
            use_rslora=self.variant == "rslora",
            use_dora=self.variant == "dora",
            init_lora_weights=self.variant if self.moves_base else True,  # pyright: ignore
        )
        if self.variant != "dora" and self.dropout == 0:
            from vitlora.adapters.fused import FusedLinear

            config._register_custom_module({nn.Linear: FusedLinear})
        network = get_peft_model(module, config)
        adapted: dict[str, Any] = {
            n: m for n, m in module.named_modules() if isinstance(m, LoraLayer)
        }
        if adapted.keys() != set(plan):
            raise AdapterError(f"PEFT adapted {sorted(adapted)}, expected {list(plan)}")
        for path, layer in adapted.items():
            # Activations are fp32, or under autocast, which casts by itself; PEFT would first cast
            # bf16 ones up to the adapter's fp32 (see peft.helpers.disable_input_dtype_casting)
            layer.cast_input_dtype_enabled = False
            if parts := self._layers.parts(path):
                _keep_to_parts(layer, parts)
            if self.moves_base:
                keep_start(layer)
            if self.variant == "dora":  # PEFT rounds it with the base; B is zero yet
                lengths = plain_weight(layer.base_layer).norm(dim=1)
                layer.lora_magnitude_vector["default"].weight.data.copy_(lengths)
        for name, parameter in network.named_parameters():
            if self.biases and name.endswith("bias"):
                parameter.data = parameter.data.float()
            if "original_module" in name:  # the untrained twin of a module trained in full
                parameter.requires_grad_(False)
        return network

    def init_loftq(self, network: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
        """LoftQ: see ``vitlora.adapters.variants.init_loftq``."""
        init_loftq(network, base)

    def init_from_data(self, network: nn.Module, loader: Callable[[], Iterable[Any]]) -> None:
        """EVA: see ``vitlora.adapters.variants.init_eva``."""
        if self.variant == "eva":
            init_eva(network, loader)

    def rate(self, name: str) -> float:
        """Returns what the learning rate of a trainable tensor is multiplied with."""
        return self.lr_ratio if ".lora_B." in name else 1.0

    def config(self, network: nn.Module) -> dict[str, Any]:
        """Returns PEFT's own ``adapter_config.json``, as of plain LoRA where that is what it is."""
        with tempfile.TemporaryDirectory() as folder:
            config: Any = network.peft_config["default"]  # pyright: ignore
            training, config.inference_mode = config.inference_mode, True
            config.save_pretrained(folder)
            config.inference_mode = training
            fields = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
        fields["init_lora_weights"] = True  # the start is history
        return at_twice_the_rank(fields) if self.moves_base else fields

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns PEFT's own tensors; a LoRA head's frozen zeros are among them, a byte each.

        PEFT loads them into the base layer it wraps, which in a plain timm model is random.
        PiSSA and OLoRA took their start out of the base: see ``without_start``.
        """
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(network, save_embedding_layers=False)  # pyright: ignore
        # with biases, PEFT lists those of modules trained in full twice, and their twins'
        twice = (".modules_to_save.", ".original_module.")
        tensors = {n: t for n, t in tensors.items() if not any(part in n for part in twice)}
        for name, parameter in network.named_parameters():
            if ".head.base_layer." in name and not parameter.requires_grad:
                tensors[name] = torch.zeros_like(parameter, dtype=torch.int8)
        return {**tensors, **without_start(network)}

    def load(self, network: nn.Module, tensors: Tensors) -> None:
        """Copies tensors into the network, by the names that PEFT's file gives them."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, tensors)

    def _whole_modules(self, module: nn.Module, head: HeadMode) -> list[str]:
        """Returns the names of modules trained in full, as PEFT finds them: by their end."""
        whole = {"head"} if head == "full" else set[str]()
        if self.norms:
            for name, part in module.named_modules():
                if "Norm" in type(part).__name__ and hasattr(part, "weight"):
                    whole.add(name.rpartition(".")[2])
        return sorted(whole)


def _keep_to_parts(layer: Any, parts: list[int]) -> None:
    """Gives each part of a fused layer its own share of the rank; all else of B stays zero.

    Equal to separate LoRA layers on separate projections: a zero of B that gets no gradient stays.
    """
    b: Any = factors(layer)[1]
    mask = torch.zeros_like(b)
    rows, columns = len(b) // 3, b.shape[1] // len(parts)
    for index, part in enumerate(parts):
        mask[part * rows : (part + 1) * rows, index * columns : (index + 1) * columns] = 1

    def keep(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal mask
        mask = mask.to(gradient.device)  # once
        return gradient * mask

    b.register_hook(keep)
    b.always_zero = b.numel() - len(parts) * rows * columns


def peft_defaults() -> dict[str, Any]:
    """Returns the options of PEFT's LoRA with the values they have where nobody sets them."""
    from peft import LoraConfig

    return LoraConfig().to_dict()
