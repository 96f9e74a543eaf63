"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) and its variants, built by PEFT."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import torch
from torch import nn

from vitlora.adapters.adapter import Adapter, HeadMode, Loader, PeftConfig, Tensors
from vitlora.adapters.targets import Targets, Variant, peft_ranks
from vitlora.adapters.variants import (
    doubled_config,
    doubled_factors,
    factors,
    init_eva,
    init_loftq,
    keep_start,
)
from vitlora.backbones import BLOCK_ROLES, Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.errors import AdapterError, UsageError
from vitlora.light_imports import light_imports
from vitlora.quantization import Storage, is_quantized, plain_weight

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import Linear as LoraLinear


class Lora(Adapter):
    """Low-rank updates of the linear layers in the blocks: ``W + alpha / rank * B @ A``.

    Args:
        rank: Inner dimension of the update, at least 1. Higher: more capacity, larger file.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Share of an adapted layer's inputs that is dropped in training, ``0 <= p < 1``.
        targets: Roles that get an update: attention.qkv, attention.proj, mlp.fc1, mlp.fc2; null
            for all four. attention.q, attention.k and attention.v are the parts of attention.qkv,
            each with an update of its own. An empty list adapts no block; ``model.head: lora``
            then adapts the head alone.
        last_blocks: Adapt only this many blocks, counted from the head; null for all.
        ranks: Other ranks for some layers, as role: rank, blocks.N: rank, or blocks.N.role: rank;
            if several match, the last of these three forms counts.
        variant: What differs from lora. rslora: scales by alpha / sqrt(rank). dora: learns the
            direction and the length of each weight row separately. pissa, olora: start from the
            weight's largest singular vectors, or its QR factors. eva: A starts from the principal
            directions of your pictures' activations. loftq: starts by undoing the rounding of 4-bit
            weights.
        lr_ratio: Learning rate of B divided by that of A; LoRA+ uses 2 to 16.
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
        last, known = self.last_blocks, get_args(Variant)
        checks = {
            "rank": (self.rank, self.rank >= 1, "at least 1"),
            "alpha": (self.alpha, self.alpha > 0, "more than 0"),
            "dropout": (self.dropout, 0 <= self.dropout < 1, "0 <= dropout < 1"),
            "last_blocks": (last, last is None or last >= 1, "at least 1, or null for all"),
            "lr_ratio": (self.lr_ratio, self.lr_ratio > 0, "more than 0"),
            "variant": (self.variant, self.variant in known, f"one of {', '.join(known)}"),
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
        """Whether the start depends on the weights before rounding."""
        return self.variant == "loftq"

    def layers(self, backbone: Backbone, head: HeadMode) -> list[str]:
        """Returns the paths of the adapted modules, those nearest the input first.

        Raises:
            AdapterError: The backbone has fewer blocks than asked for.
            UsageError: There is nothing to adapt.
        """
        return list(self._layers.plan(backbone, head))

    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses options that do not fit the backbone, the head or the storage."""
        plan = self._layers.plan(backbone, head)
        widths: dict[str, int] = {}
        for path, (rank, _) in plan.items():
            layer = cast(nn.Linear, backbone.module.get_submodule(path))
            widths[path] = layer.in_features
            most = layer.in_features if path == "head" else min(layer.weight.shape)
            count = len(self._layers.parts(path)) or 1
            if rank > most:
                raise AdapterError(
                    f"model.adapter rank is {rank // count} for {path}, which is {most} wide"
                    f"{f' and has {count} adapted parts' if count > 1 else ''}; take a rank of "
                    f"{most // count} or less"
                )
        self._check_storage(head, storage, widths)

    def _check_storage(self, head: HeadMode, storage: Storage, widths: Mapping[str, int]) -> None:
        """Refuses variants that do not go with the head or the storage.

        Args:
            head: How the head is trained.
            storage: How the base is kept.
            widths: Path of an adapted layer -> its number of inputs.
        """
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
        odd = [path for path, width in widths.items() if width % storage.block_size]
        if four_bit and self.variant == "dora" and odd:
            raise UsageError(
                f"model.adapter variant is dora, but {odd[0]} is not a multiple of "
                f"{storage.block_size} wide, which PEFT reads wrongly from 4 bits; set "
                "model.quantization to none, or take variant lora"
            )

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone wrapped by PEFT, with its adapters (and a full head) trainable."""
        with light_imports():
            from peft import LoraConfig, get_peft_model
            from peft.tuners.lora import LoraLayer

        plan = self._layers.plan(backbone, head)
        module = backbone.module
        # PEFT saves the name as base_model_name_or_path, and its 4-bit LoRA layer needs the flag
        vars(module).update(
            name_or_path=backbone.id, is_loaded_in_4bit=any(map(is_quantized, module.modules()))
        )
        config = LoraConfig(
            **peft_ranks(plan),  # pyright: ignore[reportArgumentType] - alpha may be a float
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
        network = get_peft_model(module, config)  # pyright: ignore[reportArgumentType]
        adapted = {n: m for n, m in module.named_modules() if isinstance(m, LoraLayer)}
        if adapted.keys() != set(plan):
            raise AdapterError(f"PEFT adapted {sorted(adapted)}, expected {list(plan)}")
        for path, layer in adapted.items():
            self._prepare(cast("LoraLinear", layer), self._layers.parts(path))
        for name, parameter in network.named_parameters():
            if self.biases and name.endswith("bias"):
                parameter.data = parameter.data.float()
            if "original_module" in name:  # PEFT's untrained copy of a module trained in full
                parameter.requires_grad_(False)
        return network

    def _prepare(self, layer: "LoraLinear", parts: list[int]) -> None:
        """Adjusts a fresh LoRA layer of PEFT's; ``parts`` are the adapted thirds of a fused qkv."""
        # Activations are fp32, or autocast casts them; PEFT would first cast bf16 ones up to
        # the adapter's fp32 (see peft.helpers.disable_input_dtype_casting)
        layer.cast_input_dtype_enabled = False
        if parts:
            _limit_to_parts(layer, parts)
        if self.moves_base:
            keep_start(layer)
        if self.variant == "dora":  # PEFT rounds the lengths with the base; B is still zero
            lengths = plain_weight(layer.get_base_layer()).norm(dim=1)
            magnitude = layer.get_parameter("lora_magnitude_vector.default.weight")
            magnitude.data.copy_(lengths)

    def init_loftq(self, network: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
        """LoftQ: see ``vitlora.adapters.variants.init_loftq``."""
        init_loftq(network, base)

    def init_from_data(self, network: nn.Module, loader: Loader) -> None:
        """EVA: see ``vitlora.adapters.variants.init_eva``."""
        if self.variant == "eva":
            init_eva(network, loader)

    def rate(self, name: str) -> float:
        """Returns the factor on the learning rate of a trainable tensor."""
        return self.lr_ratio if ".lora_B." in name else 1.0

    def config(self, network: nn.Module) -> PeftConfig:
        """Returns PEFT's own ``adapter_config.json``; PiSSA and OLoRA are saved as plain LoRA."""
        with tempfile.TemporaryDirectory() as folder:
            config = cast("PeftModel", network).peft_config["default"]
            training, config.inference_mode = config.inference_mode, True
            config.save_pretrained(folder)
            config.inference_mode = training
            fields = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
        fields["init_lora_weights"] = True  # how training started no longer matters
        return doubled_config(fields) if self.moves_base else fields

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns PEFT's own tensors, and the frozen zeros of a LoRA head, one byte each.

        PEFT loads the zeros into the layer it wraps, which is random in a plain timm model. PiSSA
        and OLoRA subtract their start from the base: see ``doubled_factors``.
        """
        from peft import get_peft_model_state_dict

        tensors: Tensors = get_peft_model_state_dict(
            cast("PeftModel", network), save_embedding_layers=False
        )
        # with biases, PEFT lists those of modules trained in full twice, and their copies'
        twice = (".modules_to_save.", ".original_module.")
        tensors = {n: t for n, t in tensors.items() if not any(part in n for part in twice)}
        for name, parameter in network.named_parameters():
            if ".head.base_layer." in name and not parameter.requires_grad:
                tensors[name] = torch.zeros_like(parameter, dtype=torch.int8)
        return {**tensors, **doubled_factors(network)}

    def load(self, network: nn.Module, tensors: Tensors) -> None:
        """Copies tensors into the network; their names are those of PEFT's file."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, tensors)

    def _whole_modules(self, module: nn.Module, head: HeadMode) -> list[str]:
        """Returns the names of the modules trained in full; PEFT matches the end of a path."""
        whole = {"head"} if head == "full" else set[str]()
        if self.norms:
            for name, part in module.named_modules():
                if "Norm" in type(part).__name__ and hasattr(part, "weight"):
                    whole.add(name.rpartition(".")[2])
        return sorted(whole)


def _limit_to_parts(layer: nn.Module, parts: list[int]) -> None:
    """Gives each adapted part of a fused layer its own share of the rank; the rest of B stays zero.

    This equals separate LoRA layers on separate projections: a zero of B without a gradient stays
    zero.
    """
    b = factors(layer)[1]
    mask = torch.zeros_like(b)
    rows, columns = len(b) // 3, b.shape[1] // len(parts)
    for index, part in enumerate(parts):
        mask[part * rows : (part + 1) * rows, index * columns : (index + 1) * columns] = 1

    def keep(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal mask
        mask = mask.to(gradient.device)  # once
        return gradient * mask

    b.register_hook(keep)
    always_zero = b.numel() - len(parts) * rows * columns
    b.always_zero = always_zero  # pyright: ignore[reportAttributeAccessIssue]
