"""How the variants of LoRA start, and how PiSSA and OLoRA are saved.

vitlora computes two starts itself: EVA's, because PEFT's may never end, and LoftQ's, because PEFT
computes it only for checkpoints of transformers.
"""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import cast

import torch
from torch import nn

from vitlora.adapters.adapter import Loader, PeftConfig, Tensors
from vitlora.backbones import tokens_of
from vitlora.errors import UsageError
from vitlora.pieces import pieces
from vitlora.quantization import plain_weight

_EVA_BATCHES = 16  # batches that EVA looks at


def factors(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns A ``(rank, in)`` and B ``(out, rank)`` of PEFT's LoRA layer."""
    a, b = (layer.get_parameter(f"lora_{name}.default.weight") for name in "AB")
    return a, b


def init_loftq(network: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
    """LoftQ (Li et al. 2023), one round: A and B start as the best fit to the rounding error."""
    for name, layer in network.named_modules():
        if hasattr(layer, "lora_A"):
            a, b = factors(layer)
            weight = base[f"{name.removeprefix('base_model.model.')}.weight"]
            error = weight.float() - plain_weight(layer.get_submodule("base_layer"))
            scaling = cast(dict[str, float], layer.scaling)["default"]
            u, s, vh = torch.linalg.svd(error / scaling, full_matrices=False)
            root = s[: len(a)].sqrt()
            a.data.copy_(root[:, None] * vh[: len(a)])
            b.data.copy_(u[:, : len(a)] * root)


def init_eva(network: nn.Module, loader: Loader) -> None:
    """EVA (Paischer et al. 2024): A starts from the principal directions of the layers' inputs.

    PEFT's own version reads data until all directions are stable, which never happens at high
    ranks. Here a fixed number of batches decides, and the ranks stay as asked for.
    """
    layers = [m for m in network.modules() if hasattr(m, "lora_A")]
    vit = next(m for m in network.modules() if hasattr(m, "patch_embed"))
    parts: tuple[torch.Tensor, ...] = ()
    seen: list[list[torch.Tensor]] = [[] for _ in layers]

    def keep(
        tokens: list[torch.Tensor], layer: nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> None:
        """Appends some of the input's tokens, ``(N, width)`` in fp32; about 64 of a batch."""
        x = inputs[0].reshape(-1, inputs[0].shape[-1])
        tokens.append(x[:: max(len(parts) * len(x) // 64, 1)].float())

    hooks = [
        layer.register_forward_pre_hook(partial(keep, tokens))
        for layer, tokens in zip(layers, seen, strict=True)
    ]
    training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        for images, _ in islice(loader(), _EVA_BATCHES):
            parts = pieces(images.to(device), tokens_of(vit))
            for some in parts:
                network(some)
    for hook in hooks:
        hook.remove()
    network.train(training)
    for layer, tokens in zip(layers, seen, strict=True):
        _fill_with_directions(factors(layer)[0], torch.cat(tokens))


def _fill_with_directions(a: torch.Tensor, x: torch.Tensor) -> None:
    """Sets A ``(rank, in)`` to the principal directions of tokens ``(N, in)``."""
    if len(x) <= len(a):
        raise UsageError(
            f"model.adapter variant is eva, which saw {len(x)} tokens, too few for rank "
            f"{len(a)}; lower the rank, raise data.batch_size, or take variant lora"
        )
    with torch.autocast(x.device.type, enabled=False):  # there is no QR in 16 bits on CUDA
        directions = torch.svd_lowrank(x - x.mean(0), min(len(a) + 8, *x.shape), niter=8)[2]
    a.data.copy_(directions[:, : len(a)].T)


def keep_start(layer: nn.Module) -> None:
    """Stores the start of PiSSA or OLoRA, which was subtracted from the layer's base."""
    start = tuple(factor.detach().clone() for factor in factors(layer))
    layer.start = start  # pyright: ignore[reportArgumentType]


def doubled_factors(network: nn.Module) -> Tensors:
    """Returns A and B of PiSSA's and OLoRA's layers as plain LoRA of twice the rank.

    The added half subtracts the start again, so the factors fit the unchanged base (PEFT converts
    them in the same way).
    """
    tensors: Tensors = {}
    for name, layer in network.named_modules():
        if hasattr(layer, "start"):
            (a, b), (a0, b0) = factors(layer), cast(tuple[torch.Tensor, ...], layer.start)
            tensors[f"{name}.lora_A.weight"] = torch.cat([a.detach(), a0.to(a.device)])
            tensors[f"{name}.lora_B.weight"] = torch.cat([b.detach(), -b0.to(b.device)], 1)
    return tensors


def doubled_config(fields: PeftConfig) -> PeftConfig:
    """Returns ``adapter_config.json`` for the tensors of ``doubled_factors``."""
    patterns = {
        key: {path: 2 * value for path, value in fields[key].items()}
        for key in ("rank_pattern", "alpha_pattern")
    }
    return {**fields, "r": 2 * fields["r"], "lora_alpha": 2 * fields["lora_alpha"], **patterns}
