"""The blocks that training leaves as they are, cut off so that they need to run only once."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_AFTER = ("norm.", "fc_norm.", "attn_pool.", "head.")  # what follows the blocks


class Prefix:
    """A network in two halves: what comes before the first trained parameter, and the rest.

    timm's own code runs the first half, with fewer blocks; it also tells what else each block of
    the second half is given (rotary angles, a shared bias), so that no family is known here.

    Args:
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit``, adapted, on its device.

    Attributes:
        blocks: How many blocks are frozen, from the input on.
        total: How many there are.
        pooled: Whether everything but the head is frozen: then what the head is given is kept.
        obstacle: Why no block can be left out, and ``blocks`` is 0; None if some can.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self._blocks: list[Any] = list(self.module.blocks)
        self.total = len(self._blocks)
        trained = [name for name, p in module.named_parameters() if p.requires_grad]
        self.blocks = min(map(self._stage, trained), default=self.total)
        self.pooled = self.blocks == self.total and all(n.startswith("head.") for n in trained)
        self.obstacle: str | None = None
        if not self.blocks:
            first = min(trained, key=self._stage)
            self.obstacle = f"{first} is trained, and no block comes before it"
        elif chance := [n for n, part in module.named_modules() if self._is_random(n, part)]:
            self.obstacle, self.blocks = f"{chance[0]} is random in training", 0
        self._dtype = torch.float32
        self._contexts: list[dict[str, Any]] = []

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> torch.Tensor:
        """Learns what the blocks are given besides tokens; to be called once, before ``after``.

        Args:
            images: ``(B, 3, H, W)``, any values, on the module's device.

        Returns:
            What ``before`` makes of them.
        """
        ears = [_Ear() for _ in self._blocks]
        with _swapped(self.module, blocks=nn.Sequential(*ears), norm=nn.Identity()):
            self.module.forward_features(images)
        self._contexts = [ear.context for ear in ears]
        kept = self.before(images)
        self._dtype = kept.dtype
        return kept

    @torch.no_grad()
    def before(self, images: torch.Tensor) -> torch.Tensor:
        """Returns tokens ``(B, N, D)``, or ``(B, D)`` if pooled, of images ``(B, 3, H, W)``."""
        vit = self.module
        if self.pooled:
            return vit.forward_head(vit.forward_features(images), pre_logits=True)
        with _swapped(vit, blocks=vit.blocks[: self.blocks], norm=nn.Identity()):
            return vit.forward_features(images)

    def after(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns logits ``(B, classes)`` of what ``before`` returned, in whatever dtype."""
        vit, x = self.module, kept.to(self._dtype)
        if self.pooled:
            return vit.head(x)
        # timm's own loop over the blocks does this, and starts at the first
        recompute = vit.grad_checkpointing and torch.is_grad_enabled()
        for index in range(self.blocks, self.total):
            block, context = self._blocks[index], self._contexts[index]
            if recompute:
                x = checkpoint(block, x, use_reentrant=False, **context)
            else:
                x = block(x, **context)
        return vit.forward_head(vit.norm(x))

    def digest(self) -> str:
        """Returns the SHA-256 of the first half's tensors as they are kept, 4-bit codes or not."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            if self._comes_first(name):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _comes_first(self, name: str) -> bool:
        """Returns whether a tensor or a layer belongs to the first half."""
        if self.pooled:
            return name.partition(".")[0] != "head"
        return self._stage(name) < self.blocks

    def _is_random(self, name: str, part: Any) -> bool:
        """Returns whether a layer of the first half, or rotary angles, change from step to step."""
        chances = [part.p] if isinstance(part, nn.Dropout) else []
        chances += [getattr(part, kind, 0) for kind in ("drop_prob", "prob")]  # timm's own
        return getattr(part, "aug_active", False) or (self._comes_first(name) and any(chances))

    def _stage(self, name: str) -> int:
        """Returns the number of blocks that a tensor's layer comes after."""
        if name.startswith("blocks."):
            return int(name.split(".")[1])
        return self.total if name.startswith(_AFTER) else 0


class _Ear(nn.Module):
    """Stands where a block does, and hears what it is given besides tokens."""

    def forward(self, x: torch.Tensor, **context: Any) -> torch.Tensor:
        self.context = context
        return x


@contextmanager
def _swapped(module: nn.Module, **parts: nn.Module) -> Iterator[None]:
    """Gives a module other parts for a while."""
    own = {name: getattr(module, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(module, name, part)
        yield
    finally:
        for name, part in own.items():
            setattr(module, name, part)
