"""Trains on a random part of each picture's patches, which costs a part of the time."""

from typing import Any

import torch
from torch import nn

from vitlora.backbones.source import as_vit


class PatchDrop:
    """Leaves out patches of each picture in training, from one block on.

    Each picture keeps a random subset, drawn anew in each step; class and register tokens stay. The
    blocks' other arguments shrink with it: rotary angles, and relative position biases. In
    evaluation, all patches are there. (PatchDropout, Liu et al., https://arxiv.org/abs/2208.07220)

    timm has ``patch_drop_rate`` for two of its three families. This serves all, and starts at any
    block, so that blocks which ran before (the cache) may keep their patches.

    Args:
        module: timm's ``VisionTransformer``, ``Eva`` or ``Beit``.
        share: Of the patches left out, ``0 < share < 1``; rounded so that one patch stays at least.

    Attributes:
        first: Index of the block before which patches are left out.
    """

    def __init__(self, module: nn.Module, share: float) -> None:
        vit = as_vit(module)
        self.share, self.first = share, 0
        self._prefix = vit.num_prefix_tokens
        self._kept = torch.empty(0)
        for index, block in enumerate(vit.blocks):
            block.register_forward_pre_hook(_Before(self, index), with_kwargs=True)
            attention: Any = block.get_submodule("attn")
            if getattr(attention, "relative_position_bias_table", None) is not None:
                attention._get_rel_pos_bias = _KeptBias(self, index, attention)

    def kept(self, tokens: int) -> int:
        """Returns how many of a picture's tokens stay."""
        return self._prefix + max(1, int((tokens - self._prefix) * (1 - self.share)))

    def draw(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns those of the tokens ``(B, N, D)`` that stay, ``(B, K, D)``."""
        batch, total, width = tokens.shape
        patches = total - self._prefix
        count = self.kept(total) - self._prefix
        chance = torch.rand(batch, patches, device=tokens.device)
        kept = chance.topk(count, dim=1, sorted=False).indices + self._prefix
        first = torch.arange(self._prefix, device=tokens.device).expand(batch, -1)
        self._kept = torch.cat([first, kept], 1)
        return tokens.gather(1, self._kept[..., None].expand(-1, -1, width))

    def angles(self, rope: torch.Tensor) -> torch.Tensor:
        """Returns the kept patches' rotary angles, to be broadcast over heads or for each.

        Args:
            rope: ``(N, D)``, or ``(heads, N, D)`` for each head; without the prefix.

        Returns:
            ``(B, 1 or heads, K, D)``.
        """
        kept = self._kept[:, self._prefix :] - self._prefix
        return rope[kept].unsqueeze(1) if rope.ndim == 2 else rope[:, kept].transpose(0, 1)

    def biases(self, bias: torch.Tensor) -> torch.Tensor:
        """Returns the biases ``(B, heads, K, K)`` of the kept, of all ``([1,] heads, N, N)``."""
        rows, columns = self._kept[:, :, None], self._kept[:, None, :]
        return bias.flatten(0, -3)[:, rows, columns].transpose(0, 1)


class _Before:
    """What happens before a block."""

    def __init__(self, drop: PatchDrop, index: int) -> None:
        self.drop, self.index = drop, index

    def __call__(
        self, block: nn.Module, inputs: tuple[Any, ...], context: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not block.training or self.index < self.drop.first:
            return None
        if self.index == self.drop.first:
            inputs = (self.drop.draw(inputs[0]), *inputs[1:])
        for name, shrink in (("rope", self.drop.angles), ("shared_rel_pos_bias", self.drop.biases)):
            if context.get(name) is not None:
                context = {**context, name: shrink(context[name])}
        return inputs, context


class _KeptBias:
    """Takes the place of BEiT's ``_get_rel_pos_bias``."""

    def __init__(self, drop: PatchDrop, index: int, attention: Any) -> None:
        self.drop, self.index, self.attention = drop, index, attention
        self.all = attention._get_rel_pos_bias

    def __call__(self) -> torch.Tensor:
        bias = self.all()
        if not self.attention.training or self.index < self.drop.first:
            return bias
        return self.drop.biases(bias)
