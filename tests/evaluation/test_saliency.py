"""The map against the paper's matrices, and against networks and pictures whose place is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlora.evaluation.saliency import saliency

SHAPE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 3,
}
NETWORKS = {
    "token": lambda: VisionTransformer(**SHAPE),
    "average": lambda: VisionTransformer(
        **SHAPE, global_pool="avg", class_token=False, fc_norm=True
    ),
    "registers": lambda: VisionTransformer(**SHAPE, reg_tokens=3),
    "attention-pool": lambda: VisionTransformer(**SHAPE, global_pool="map", class_token=False),
    "eva": lambda: Eva(**SHAPE, use_rot_pos_emb=True, qkv_fused=False),
    "eva-registers": lambda: Eva(**SHAPE, global_pool="token", num_reg_tokens=4),
    "beit": lambda: Beit(**SHAPE, use_rel_pos_bias=True, use_abs_pos_emb=False),
}


def randomised(network: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network.eval()


def by_matrices(network: Any, images: torch.Tensor, classes: list[int]) -> list[torch.Tensor]:
    """Returns the paper's relevance of each token, (N,) a picture: all matrices, first block first.

    R = I; R += mean(max(A * dA, 0)) R for each block. Then the tokens' own share times R.
    """
    expected = []
    kept: list[torch.Tensor] = []

    def keep(*parts: Any) -> None:
        kept.append(parts[2])

    layers = [*(block.attn.attn_drop for block in network.blocks), network.norm]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    for block in network.blocks:
        block.attn.fused_attn = False
    for image, label in zip(images, classes, strict=True):
        kept.clear()
        logit = network(image[None])[0, label]
        *attentions, tokens = zip(kept, torch.autograd.grad(logit, kept), strict=True)
        relevance = torch.eye(tokens[0].shape[1], dtype=images.dtype)
        for attention, gradient in attentions:
            weights = torch.relu(attention[0] * gradient[0]).mean(0)
            relevance = relevance + weights @ relevance
        own = torch.relu((tokens[0][0] * tokens[1][0]).sum(1))
        if network.global_pool == "token":
            own = torch.eye(len(own), dtype=own.dtype)[0]
        expected.append((own @ relevance).detach())
    for handle in handles:
        handle.remove()
    return expected


@pytest.mark.parametrize("name", NETWORKS)
def test_map_is_the_papers(name: str) -> None:
    network = randomised(NETWORKS[name]()).double()
    images, classes = torch.randn(3, 3, 32, 32, dtype=torch.float64), [0, 2, 1]
    got = saliency(network, images, torch.tensor(classes))
    assert got.shape == (3, 4, 4)
    assert got.dtype == torch.float32
    for relevance, values in zip(by_matrices(network, images, classes), got, strict=True):
        patches = relevance[-16:]  # prefix tokens come first
        assert patches.std() > 0.01 * patches.mean() > 0  # else the comparison says nothing
        expected = (patches / patches.max()).tolist()
        assert values.flatten().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("patch", [0, 6, 15])
def test_only_the_patch_that_decides_is_lit(patch: int) -> None:
    network = randomised(NETWORKS["token"]())
    with torch.no_grad():
        for block in network.blocks:  # no token sees another
            block.attn.proj.weight.zero_()
            block.attn.proj.bias.zero_()
        network.head.weight[1] = -network.head.weight[0]
    network.global_pool = "other"
    network.pool = lambda x, pool_type=None: x[:, 1 + patch]
    images = torch.randn(2, 3, 32, 32)
    maps = [saliency(network, images, torch.full((2,), label)).flatten(1) for label in (0, 1)]
    for for_it, against in zip(*maps, strict=True):
        lit = for_it if for_it.any() else against
        assert lit.tolist() == [float(place == patch) for place in range(16)]
        assert for_it.any() != against.any()  # what speaks for one class speaks against the other


def _planted(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns noise with one patch of colour, the colour's label, and the patch."""
    images, labels = 0.3 * torch.randn(count, 3, 32, 32), torch.randint(3, (count,))
    places = torch.randint(16, (count,))
    for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
        row, column = divmod(place, 4)
        image[label, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1.5
    return images, labels, places


@pytest.mark.parametrize("name", ["token", "average"])
def test_a_trained_network_looks_at_what_was_planted(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(80):
        images, labels, _ = _planted(64)
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels, places = _planted(200)
    network.eval()
    right = network(images).argmax(1) == labels
    assert right.float().mean() > 0.95
    maps = saliency(network, images, labels).flatten(1)
    found = (maps.argmax(1) == places)[right].float().mean()
    assert found > 0.8  # by chance 1 in 16


def test_the_network_is_left_as_it_was() -> None:
    network = randomised(NETWORKS["token"]())
    images = torch.randn(2, 3, 32, 32)
    before, copy = network(images), images.clone()
    saliency(network, images, torch.tensor([0, 1]))
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in network.parameters())
    for layer in network.modules():
        assert not layer._forward_hooks
    assert torch.equal(images, copy)
    assert torch.equal(network(images), before)
    assert all(block.attn.fused_attn for block in network.blocks)


def test_a_class_nothing_speaks_for_gets_an_empty_map() -> None:
    network = randomised(NETWORKS["token"]())
    with torch.no_grad():
        network.head.weight.zero_()
    assert not saliency(network, torch.randn(1, 3, 32, 32), torch.tensor([0])).any()
