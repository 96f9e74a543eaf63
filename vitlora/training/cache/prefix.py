"""Splits off the blocks that training does not change, so that they run once."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vitlora.backbones import as_vit, tokens_of
from vitlora.pieces import joined, pieces

_AFTER = ("norm.", "fc_norm.", "attn_pool.", "head.")  # what follows the blocks


class Prefix:
    """A network in two parts: everything before the first trained parameter, and the rest.

    timm's own code runs the first part, with fewer blocks. It also shows which other arguments the
    blocks get (rotary angles, a shared bias), so no model family needs special code here.

    Args:
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit``, adapted, on its device.

    Attributes:
        blocks: Number of frozen blocks, counted from the input.
        total: Number of all blocks.
        pooled: Whether only the head is trained; then the head's input is kept.
        obstacle: Why no block can be skipped (``blocks`` is then 0); None if some can.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = as_vit(module)
        self._blocks = list(self.module.blocks)
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
        """Records the blocks' arguments besides tokens; call it once, before ``after``.

        Args:
            images: ``(B, 3, H, W)``, any values, on the module's device.

        Returns:
            What ``before`` returns for them.
        """
        recorders = [_Recorder() for _ in self._blocks]
        with _swapped(self.module, blocks=nn.Sequential(*recorders), norm=nn.Identity()):
            self.module.forward_features(images)
        self._contexts = [recorder.context for recorder in recorders]
        kept = self.before(images)
        self._dtype = kept.dtype
        return kept

    @torch.no_grad()
    def before(self, images: torch.Tensor) -> torch.Tensor:
        """Returns tokens ``(B, N, D)``, or ``(B, D)`` if pooled, of images ``(B, 3, H, W)``."""
        return joined([self._before(some) for some in pieces(images, tokens_of(self.module))])

    def _before(self, images: torch.Tensor) -> torch.Tensor:
        vit = self.module
        if self.pooled:
            return vit.forward_head(vit.forward_features(images), pre_logits=True)
        with _swapped(vit, blocks=vit.blocks[: self.blocks], norm=nn.Identity()):
            return vit.forward_features(images)

    def after(self, kept: torch.Tensor) -> torch.Tensor:
        """Returns the logits ``(B, classes)`` for an output of ``before``, in any dtype."""
        vit, x = self.module, kept.to(self._dtype)
        if self.pooled:
            return vit.head(x)
        # timm's own loop does the same, but always starts at the first block
        recompute = vit.grad_checkpointing and torch.is_grad_enabled()
        for index in range(self.blocks, self.total):
            block, context = self._blocks[index], self._contexts[index]
            if recompute:
                x = cast(torch.Tensor, checkpoint(block, x, use_reentrant=False, **context))
            else:
                x = block(x, **context)
        return vit.forward_head(vit.norm(x))

    def digest(self) -> str:
        """Returns the SHA-256 of the first part's stored tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            if self._comes_first(name):
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _comes_first(self, name: str) -> bool:
        """Returns whether a tensor or a layer belongs to the first part."""
        if self.pooled:
            return name.partition(".")[0] != "head"
        return self._stage(name) < self.blocks

    def _is_random(self, name: str, part: nn.Module) -> bool:
        """Returns whether a layer of the first part, or rotary angles, are random in training."""
        chances = [part.p] if isinstance(part, nn.Dropout) else []
        chances += [getattr(part, kind, 0) for kind in ("drop_prob", "prob")]  # timm's own
        return getattr(part, "aug_active", False) or (self._comes_first(name) and any(chances))

    def _stage(self, name: str) -> int:
        """Returns how many blocks come before a tensor's layer."""
        if name.startswith("blocks."):
            return int(name.split(".")[1])
        return self.total if name.startswith(_AFTER) else 0


class _Recorder(nn.Module):
    """Replaces a block, and records its arguments besides tokens."""

    def forward(self, x: torch.Tensor, **context: Any) -> torch.Tensor:
        self.context = context
        return x


@contextmanager
def _swapped(module: nn.Module, **parts: nn.Module) -> Iterator[None]:
    """Replaces parts of a module inside a ``with``."""
    own = {name: getattr(module, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(module, name, part)
        yield
    finally:
        for name, part in own.items():
            setattr(module, name, part)
