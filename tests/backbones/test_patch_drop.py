"""Blocks that see a part of the patches compute what masked attention computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from backbones.families import FAMILIES, small
from torch.utils.flop_counter import FlopCounterMode

from vitlora.backbones.patch_drop import PatchDrop

CASES = [case[1:] for case in FAMILIES]
attention = F.scaled_dot_product_attention


class Last(torch.nn.Module):
    """Keeps the tokens after the blocks."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        module.norm = self
        self.tokens = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.tokens = x
        return x


def built(name: str, kwargs: dict[str, Any]) -> Any:
    module: Any = small(name, kwargs, 3).module
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    for part in module.modules():
        if hasattr(part, "aug_active"):  # rope jitters in training
            part.aug_active = False
    return module.train()


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=lambda v: str(v))
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_is_attention_to_the_kept_patches(
    name: str,
    kwargs: dict[str, Any],
    first: int,
    checkpointing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = built(name, kwargs)
    images = torch.randn(3, 3, kwargs["img_size"], kwargs["img_size"])
    plain = Last(module)
    masks: list[torch.Tensor] = []  # for the blocks from `first` on, once what is kept is known
    calls = 0

    def masked(q: Any, k: Any, v: Any, attn_mask: Any = None, **rest: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if masks and calls > first:
            attn_mask = masks[0] if attn_mask is None else attn_mask + masks[0]
        return attention(q, k, v, attn_mask=attn_mask, **rest)

    drop = PatchDrop(module, 0.5)
    drop.first = first
    module.set_grad_checkpointing(checkpointing)
    module(images)
    found, kept = plain.tokens, drop._kept
    found.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()

    drop.first = len(module.blocks)  # never
    module.set_grad_checkpointing(False)
    total = kwargs["img_size"] ** 2 // module.patch_embed.patch_size[0] ** 2
    total += module.num_prefix_tokens
    there = torch.zeros(3, total).scatter(1, kept, 1.0)
    masks.append(torch.where(there > 0, 0.0, -torch.inf)[:, None, None])
    monkeypatch.setattr(F, "scaled_dot_product_attention", masked)
    module(images)
    wanted = plain.tokens.gather(1, kept[..., None].expand(-1, -1, found.shape[2]))
    assert 0 < found.shape[1] < total
    assert float((found - wanted).norm()) <= 1e-5 * float(wanted.norm())
    wanted.square().sum().backward()
    for parameter, tensor in module.named_parameters():
        if tensor.grad is not None:
            close = float((gradients[parameter] - tensor.grad).norm())
            assert close <= 1e-4 * float(tensor.grad.norm()) + 1e-9, parameter


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=lambda v: str(v))
def test_all_patches_are_evaluated(name: str, kwargs: dict[str, Any]) -> None:
    module = built(name, kwargs).eval()
    images = torch.randn(2, 3, kwargs["img_size"], kwargs["img_size"])
    before = module(images)
    PatchDrop(module, 0.75)
    assert torch.equal(module(images), before)


def test_each_picture_and_step_draws_its_own_patches() -> None:
    module = built(*CASES[0])
    drop = PatchDrop(module, 0.5)
    tokens = torch.arange(101.0).expand(64, 101)[..., None] * torch.ones(1, 1, 2)
    torch.manual_seed(1)
    drop._prefix = 1
    first, second = drop.draw(tokens), drop.draw(tokens)
    assert first.shape == (64, 51, 2)
    assert (first[:, 0] == 0).all()  # the class token
    assert not torch.equal(first, second)
    assert not torch.equal(first[0].sort(0).values, first[1].sort(0).values)
    for row in first[:, :, 0]:
        assert len(row.unique()) == 51
    share = torch.stack([(first == i).any(1).float().mean() for i in range(1, 101)])
    assert float(share.min()) > 0.2 and float(share.max()) < 0.8  # 8 standard errors around a half


def test_half_the_patches_take_less_than_half_the_work_of_the_blocks() -> None:
    name, kwargs = CASES[0]
    images = torch.randn(1, 3, kwargs["img_size"], kwargs["img_size"])
    counts = []
    for share in (0.0, 0.5, 0.75):
        module = built(name, kwargs)
        if share:
            PatchDrop(module, share)
        with FlopCounterMode(module, display=False) as counter:
            module(images)
        kind = type(module).__name__
        counts.append(sum(counter.get_flop_counts()[f"{kind}.blocks"].values()))
    patches = kwargs["img_size"] ** 2 // module.patch_embed.patch_size[0] ** 2
    tokens = [patches + 1, patches // 2 + 1, patches // 4 + 1]
    width, depth = module.embed_dim, len(module.blocks)
    for count, n in zip(counts, tokens, strict=True):
        linear = 2 * n * width * width * (3 + 1 + 8)
        assert count == pytest.approx(depth * (linear + 4 * n * n * width), rel=1e-6) or (
            count == depth * linear  # torch that does not count fused attention on the CPU
        )
