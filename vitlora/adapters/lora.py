"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) and its variants, by PEFT.

Two starts are vitlora's own: EVA's, for which PEFT may never stop looking, and LoftQ's, which PEFT
computes for transformers' checkpoints alone.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from vitlora.adapters.adapter import Adapter, HeadMode, Tensors
from vitlora.backbones import BLOCK_ROLES, ROLES, Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.errors import AdapterError, UsageError, nearest
from vitlora.quantization import Storage, is_quantized, plain_weight

Variant = Literal["lora", "rslora", "dora", "pissa", "olora", "eva", "loftq"]

_TARGETS = tuple(role for role in ROLES if role != "head")
_EVA_BATCHES = 16  # that EVA looks at
_PARTS = ("attention.q", "attention.k", "attention.v")  # thirds of a fused attention.qkv


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
        for target in self.targets:
            if target not in _TARGETS:
                raise UsageError(
                    f"model.adapter targets has '{target}'; expected some of "
                    f"{', '.join(_TARGETS)}{nearest(target, _TARGETS)}"
                )
        parts = [target for target in self.targets if target in _PARTS]
        if parts and "attention.qkv" in self.targets:
            raise UsageError(
                f"model.adapter targets has attention.qkv and its part {parts[0]}; take one or the "
                "other"
            )
        if parts and self.variant not in ("lora", "rslora"):
            raise UsageError(
                f"model.adapter variant {self.variant} starts from whole layers, but targets has "
                f"{parts[0]}, a part of one; take attention.qkv, or variant lora or rslora"
            )
        for name, rank in self.ranks.items():
            if rank < 1:
                raise UsageError(f"model.adapter ranks has {name}: {rank}; expected at least 1")

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
        return list(self._plan(backbone, head))

    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses what does not fit the backbone, and pairs that would not train what they say."""
        plan = self._plan(backbone, head)
        modules = dict(backbone.module.named_modules())
        for path, (rank, _) in plan.items():
            layer: Any = modules[path]
            width = (
                layer.in_features if path == "head" else min(layer.in_features, layer.out_features)
            )
            count = len(self._parts(path)) or 1
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

        plan = self._plan(backbone, head)
        module: Any = backbone.module
        module.name_or_path = backbone.id  # PEFT saves it as base_model_name_or_path
        # PEFT looks for this flag before it takes its 4-bit LoRA layer
        module.is_loaded_in_4bit = any(map(is_quantized, module.modules()))
        config = LoraConfig(
            **self._peft_options(plan),
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
            if parts := self._parts(path):
                _keep_to_parts(layer, parts)
            if self.moves_base:
                layer.start = tuple(factor.detach().clone() for factor in _factors(layer))
            if self.variant == "dora":  # PEFT rounds it with the base; B is zero yet
                lengths = plain_weight(layer.base_layer).norm(dim=1)
                layer.lora_magnitude_vector["default"].weight.data.copy_(lengths)
        for name, parameter in network.named_parameters():
            if self.biases and name.endswith("bias"):
                parameter.data = parameter.data.float()
            if "original_module" in name:  # the untrained twin of a module trained in full
                parameter.requires_grad_(False)
        return network

    def undo_rounding(self, network: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
        """LoftQ (Li et al. 2023), one round: A and B start as the best fit of what was lost."""
        for name, module in network.named_modules():
            if hasattr(module, "lora_A"):
                layer: Any = module
                a, b = _factors(layer)
                weight = base[f"{name.removeprefix('base_model.model.')}.weight"]
                error = weight.float() - plain_weight(layer.base_layer)
                u, s, vh = torch.linalg.svd(error / layer.scaling["default"], full_matrices=False)
                root = s[: len(a)].sqrt()
                a.data.copy_(root[:, None] * vh[: len(a)])
                b.data.copy_(u[:, : len(a)] * root)

    def look_at(self, network: nn.Module, loader: Callable[[], Iterable[Any]]) -> None:
        """EVA (Paischer et al. 2024): A starts at the principal directions of layers' inputs.

        PEFT's own start goes on over the data until all directions settle, which at high ranks
        they do not; here a fixed number of batches decides, and ranks stay as asked for.
        """
        if self.variant != "eva":
            return
        layers: list[Any] = [m for m in network.modules() if hasattr(m, "lora_A")]
        seen: list[list[torch.Tensor]] = [[] for _ in layers]
        hooks = [
            layer.register_forward_pre_hook(partial(_keep_some_tokens, tokens))
            for layer, tokens in zip(layers, seen, strict=True)
        ]
        training, device = network.training, next(network.parameters()).device
        network.eval()
        with torch.no_grad():
            for images, _ in islice(loader(), _EVA_BATCHES):
                network(images.to(device))
        for hook in hooks:
            hook.remove()
        network.train(training)
        for layer, tokens in zip(layers, seen, strict=True):
            _start_at_directions(_factors(layer)[0], torch.cat(tokens))

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
        if self.moves_base:
            fields["r"] *= 2
            fields["lora_alpha"] *= 2
            for key in ("rank_pattern", "alpha_pattern"):
                fields[key] = {path: 2 * value for path, value in fields[key].items()}
        return fields

    def tensors(self, network: nn.Module) -> Tensors:
        """Returns PEFT's own tensors; a LoRA head's frozen zeros are among them, a byte each.

        PEFT loads them into the base layer it wraps, which in a plain timm model is random.
        PiSSA and OLoRA took their start out of the base: subtracted here, at twice the rank, they
        are plain LoRA on the plain base (as in PEFT's own conversion).
        """
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(network, save_embedding_layers=False)  # pyright: ignore
        # with biases, PEFT lists those of modules trained in full twice, and their twins'
        twice = (".modules_to_save.", ".original_module.")
        tensors = {n: t for n, t in tensors.items() if not any(part in n for part in twice)}
        for name, parameter in network.named_parameters():
            if ".head.base_layer." in name and not parameter.requires_grad:
                tensors[name] = torch.zeros_like(parameter, dtype=torch.int8)
        for name, layer in network.named_modules():
            if hasattr(layer, "start"):
                (a, b), (a0, b0) = _factors(layer), layer.start  # pyright: ignore
                tensors[f"{name}.lora_A.weight"] = torch.cat([a.detach(), a0.to(a.device)])
                tensors[f"{name}.lora_B.weight"] = torch.cat([b.detach(), -b0.to(b.device)], 1)
        return tensors

    def load(self, network: nn.Module, tensors: Tensors) -> None:
        """Copies tensors into the network, by the names that PEFT's file gives them."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(network, tensors)

    def _plan(self, backbone: Backbone, head: HeadMode) -> dict[str, tuple[int, float]]:
        """Returns rank and alpha of each adapted layer by its path."""
        if self.last_blocks is not None and self.last_blocks > backbone.num_blocks:
            raise AdapterError(
                f"model.adapter last_blocks is {self.last_blocks}; {backbone.id} has "
                f"{backbone.num_blocks} blocks"
            )
        plan: dict[str, tuple[int, float]] = {}
        used: set[str] = set()
        for role in self.targets:
            for path in backbone.layers(role, self.last_blocks):
                # q, k and v of a fused layer share one wide A, each its own part of it
                count = len(self._parts(path)) or 1
                rank = self._rank(path, role, used)
                if path in plan and plan[path][0] != count * rank:
                    raise UsageError(
                        f"model.adapter ranks gives parts of {path} different ranks, but they are "
                        "one layer in this backbone; give all its parts one rank"
                    )
                scale = math.sqrt(count) if self.variant == "rslora" else count
                plan[path] = (count * rank, self.alpha * scale)
        if head == "lora":
            plan |= dict.fromkeys(backbone.layers("head"), (self.rank, self.alpha))
        if not plan:
            raise UsageError(
                "model.adapter targets is empty and model.head is full, so LoRA has nothing to "
                "adapt; use the LinearProbe adapter, or set model.head to lora"
            )
        for name in self.ranks:
            if name not in used:
                raise UsageError(
                    f"model.adapter ranks has '{name}', which names no adapted layer; expected a "
                    "role of targets, blocks.N, or blocks.N.role"
                )
        return plan

    def _rank(self, path: str, role: str, used: set[str]) -> int:
        block = ".".join(path.split(".")[:2])
        names = [name for name in (role, block, f"{block}.{role}") if name in self.ranks]
        used.update(names)
        return self.ranks[names[-1]] if names else self.rank

    def _parts(self, path: str) -> list[int]:
        """Returns which thirds of a layer are adapted, 0 to 2; none means the whole layer."""
        if not path.endswith(".qkv"):
            return []
        return [index for index, part in enumerate(_PARTS) if part in self.targets]

    def _peft_options(self, plan: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
        """Returns rank and alpha as PEFT wants them: one for most layers, patterns for others."""
        rank, alpha = next(iter(plan.values()))
        others: dict[tuple[int, float], list[str]] = {}
        for path, values in plan.items():
            if values != (rank, alpha):
                others.setdefault(values, []).append(path)
        patterns = {anchored_pattern(paths): values for values, paths in others.items()}
        return {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {pattern: values[0] for pattern, values in patterns.items()},
            "alpha_pattern": {pattern: values[1] for pattern, values in patterns.items()},
        }

    def _whole_modules(self, module: nn.Module, head: HeadMode) -> list[str]:
        """Returns the names of modules trained in full, as PEFT finds them: by their end."""
        whole = {"head"} if head == "full" else set[str]()
        if self.norms:
            for name, part in module.named_modules():
                if "Norm" in type(part).__name__ and hasattr(part, "weight"):
                    whole.add(name.rpartition(".")[2])
        return sorted(whole)


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns A ``(rank, in)`` and B ``(out, rank)`` of PEFT's LoRA layer."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def _keep_to_parts(layer: Any, parts: list[int]) -> None:
    """Gives each part of a fused layer its own share of the rank; all else of B stays zero.

    Equal to separate LoRA layers on separate projections: a zero of B that gets no gradient stays.
    """
    b: Any = _factors(layer)[1]
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


def _start_at_directions(a: torch.Tensor, x: torch.Tensor) -> None:
    """Puts the principal directions of tokens ``(N, in)`` into A ``(rank, in)``."""
    if len(x) <= len(a):
        raise UsageError(
            f"model.adapter variant is eva, which saw {len(x)} tokens, too few for rank "
            f"{len(a)}; lower the rank, raise data.batch_size, or take variant lora"
        )
    with torch.autocast(x.device.type, enabled=False):  # which has no QR decomposition on CUDA
        directions = torch.svd_lowrank(x - x.mean(0), min(len(a) + 8, *x.shape), niter=8)[2]
    a.data.copy_(directions[:, : len(a)].T)


def _keep_some_tokens(tokens: list[torch.Tensor], layer: nn.Module, inputs: Any) -> None:
    """Adds about 64 of the tokens a layer is given to ``tokens``, ``(N, width)`` in fp32."""
    x = inputs[0].reshape(-1, inputs[0].shape[-1])
    tokens.append(x[:: max(len(x) // 64, 1)].float())


def peft_defaults() -> dict[str, Any]:
    """Returns the options of PEFT's LoRA with the values they have where nobody sets them."""
    from peft import LoraConfig

    return LoraConfig().to_dict()
