"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685): W + alpha / rank * B @ A, by PEFT."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitlora.adapters.adapter import Adapter, HeadMode, Tensors
from vitlora.backbones import ROLES, Backbone
from vitlora.errors import AdapterError, UsageError, nearest

BLOCK_ROLES = tuple(role for role in ROLES if role != "head")


class Lora(Adapter):
    """Low-rank updates of the linear layers in the blocks.

    Args:
        rank: Inner dimension of the update, at least 1. Higher: more capacity, larger file.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Share of an adapted layer's inputs dropped in training, ``0 <= p < 1``.
        targets: Roles that get an update: attention.qkv, attention.proj, mlp.fc1, mlp.fc2; null
            for all four. An empty list adapts no block; ``model.head: lora`` then adapts the head
            alone.
        last_blocks: Adapt only this many blocks, counted from the head; null for all.
    """

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: list[str] | None = None,
        last_blocks: int | None = None,
    ) -> None:
        if rank < 1:
            raise UsageError(f"model.adapter rank is {rank}; expected at least 1")
        if alpha <= 0:
            raise UsageError(f"model.adapter alpha is {alpha}; expected more than 0")
        if not 0 <= dropout < 1:
            raise UsageError(f"model.adapter dropout is {dropout}; expected 0 <= dropout < 1")
        if last_blocks is not None and last_blocks < 1:
            raise UsageError(
                f"model.adapter last_blocks is {last_blocks}; expected at least 1, or null for all"
            )
        self.targets = list(BLOCK_ROLES) if targets is None else list(targets)
        for target in self.targets:
            if target not in BLOCK_ROLES:
                raise UsageError(
                    f"model.adapter targets has '{target}'; expected some of "
                    f"{', '.join(BLOCK_ROLES)}{nearest(target, BLOCK_ROLES)}"
                )
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.last_blocks = last_blocks

    def layers(self, backbone: Backbone, head: HeadMode) -> list[str]:
        """Returns the module paths that get an update, the first of them nearest the input.

        Raises:
            AdapterError: The backbone has fewer blocks than asked for.
            UsageError: There is nothing to adapt.
        """
        if self.last_blocks is not None and self.last_blocks > backbone.num_blocks:
            raise AdapterError(
                f"model.adapter last_blocks is {self.last_blocks}; {backbone.id} has "
                f"{backbone.num_blocks} blocks"
            )
        layers = [name for role in self.targets for name in backbone.layers(role, self.last_blocks)]
        if head == "lora":
            layers += backbone.layers("head")
        if not layers:
            raise UsageError(
                "model.adapter targets is empty and model.head is full, so LoRA has nothing to "
                "adapt; use the LinearProbe adapter, or set model.head to lora"
            )
        return layers

    def check(self, backbone: Backbone, head: HeadMode) -> None:
        """Refuses what ``layers`` refuses."""
        self.layers(backbone, head)

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone wrapped by PEFT, its adapters (and full head) trainable."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

        layers = self.layers(backbone, head)
        module: Any = backbone.module
        module.name_or_path = backbone.id  # PEFT saves it as base_model_name_or_path
        # PEFT looks for this flag before it takes its 4-bit LoRA layer
        module.is_loaded_in_4bit = any(hasattr(p, "quant_state") for p in module.parameters())
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType]
            lora_dropout=self.dropout,
            target_modules=_pattern(layers),
            modules_to_save=["head"] if head == "full" else None,
        )
        network = get_peft_model(module, config)
        adapted = {n: m for n, m in module.named_modules() if isinstance(m, LoraLayer)}
        if adapted.keys() != set(layers):
            raise AdapterError(f"PEFT adapted {sorted(adapted)}, expected {layers}")
        for layer in adapted.values():
            # Activations are fp32, or under autocast, which casts by itself; PEFT would first cast
            # bf16 ones up to the adapter's fp32 (see peft.helpers.disable_input_dtype_casting)
            layer.cast_input_dtype_enabled = False
        return network

    def config(self, network: nn.Module) -> dict[str, Any]:
        """Returns PEFT's own ``adapter_config.json``."""
        with tempfile.TemporaryDirectory() as folder:
            config: Any = network.peft_config["default"]  # pyright: ignore
            training, config.inference_mode = config.inference_mode, True
            config.save_pretrained(folder)
            config.inference_mode = training
            return json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns PEFT's own tensors; a LoRA head's frozen zeros are among them, a byte each.

        PEFT loads them into the base layer it wraps, which in a plain timm model is random.
        """
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(network, save_embedding_layers=False)  # pyright: ignore
        for name, parameter in network.named_parameters():
            if ".head.base_layer." in name:
                tensors[name] = torch.zeros_like(parameter, dtype=torch.int8)
        return tensors


def _pattern(layers: list[str]) -> str:
    """Returns a short regular expression that fully matches the given module paths, no others.

    PEFT takes a list for suffixes, so that ``proj`` would hit ``patch_embed.proj`` too.
    """
    blocks: dict[str, list[str]] = {}
    for layer in layers:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
        number, rest = (match[1], match[2]) if match else ("", layer)
        blocks.setdefault(rest, []).append(number)
    parts = [
        re.escape(rest) if numbers == [""] else rf"blocks\.({'|'.join(numbers)})\.{re.escape(rest)}"
        for rest, numbers in blocks.items()
    ]
    return "|".join(parts)
