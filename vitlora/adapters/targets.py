"""Which layers LoRA adapts, with what rank, and how to tell PEFT."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from vitlora.adapters.adapter import HeadMode
from vitlora.backbones import ROLES, Backbone
from vitlora.backbones.pattern import anchored_pattern
from vitlora.errors import AdapterError, UsageError, nearest

Variant = Literal["lora", "rslora", "dora", "pissa", "olora", "eva", "loftq"]

_TARGETS = tuple(role for role in ROLES if role != "head")
_PARTS = ("attention.q", "attention.k", "attention.v")  # thirds of a fused attention.qkv


@dataclass(frozen=True)
class Targets:
    """The layers to adapt, by their roles; ``Lora`` documents the options of the same names.

    Attributes:
        roles: ``Lora.targets``.
        last_blocks: Number of adapted blocks, counted from the head; None for all.
        rank: Rank of all layers that ``ranks`` does not name.
        alpha: Alpha of all layers.
        ranks: Other ranks, by role, block, or both.
        variant: The variant; rslora scales by the root of the rank.
    """

    roles: tuple[str, ...]
    last_blocks: int | None
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    variant: Variant

    def __post_init__(self) -> None:
        """Checks the options that do not depend on the backbone.

        Raises:
            UsageError: A role is unknown, or does not go with another one or with the variant.
        """
        for target in self.roles:
            if target not in _TARGETS:
                raise UsageError(
                    f"model.adapter targets has '{target}'; expected some of "
                    f"{', '.join(_TARGETS)}{nearest(target, _TARGETS)}"
                )
        parts = [target for target in self.roles if target in _PARTS]
        if parts and "attention.qkv" in self.roles:
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

    def plan(self, backbone: Backbone, head: HeadMode) -> dict[str, tuple[int, float]]:
        """Returns the path of each adapted layer -> its rank and alpha.

        Raises:
            AdapterError: The backbone has fewer blocks than asked for.
            UsageError: There is nothing to adapt, or ``ranks`` names no adapted layer.
        """
        if self.last_blocks is not None and self.last_blocks > backbone.num_blocks:
            raise AdapterError(
                f"model.adapter last_blocks is {self.last_blocks}; {backbone.id} has "
                f"{backbone.num_blocks} blocks"
            )
        plan: dict[str, tuple[int, float]] = {}
        used: set[str] = set()
        for role in self.roles:
            for path in backbone.layers(role, self.last_blocks):
                # q, k and v of a fused layer share one wide A; each uses its own part of it
                count = len(self.parts(path)) or 1
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

    def parts(self, path: str) -> list[int]:
        """Returns which thirds of a layer are adapted, 0 to 2; empty for the whole layer."""
        if not path.endswith(".qkv"):
            return []
        return [index for index, part in enumerate(_PARTS) if part in self.roles]


class PeftRanks(TypedDict):
    """Options of PEFT's ``LoraConfig``: one rank and alpha, and patterns for other layers."""

    r: int
    lora_alpha: float
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]


def peft_ranks(plan: Mapping[str, tuple[int, float]]) -> PeftRanks:
    """Returns the ranks and alphas of layers as PEFT's options."""
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
