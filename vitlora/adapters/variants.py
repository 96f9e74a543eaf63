"""How the variants of LoRA start, and what the start of some means for what is saved.

Two starts are vitlora's own: EVA's, for which PEFT may never stop looking, and LoftQ's, which PEFT
computes for transformers' checkpoints alone.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from vitlora.errors import UsageError
from vitlora.quantization import plain_weight

_EVA_BATCHES = 16  # that EVA looks at


def factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns A ``(rank, in)`` and B ``(out, rank)`` of PEFT's LoRA layer."""
    return layer.lora_A["default"].weight, layer.lora_B["default"].weight


def init_loftq(network: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
    """LoftQ (Li et al. 2023), one round: A and B start as the best fit of what was lost."""
    for name, module in network.named_modules():
        if hasattr(module, "lora_A"):
            layer: Any = module
            a, b = factors(layer)
            weight = base[f"{name.removeprefix('base_model.model.')}.weight"]
            error = weight.float() - plain_weight(layer.base_layer)
            u, s, vh = torch.linalg.svd(error / layer.scaling["default"], full_matrices=False)
            root = s[: len(a)].sqrt()
            a.data.copy_(root[:, None] * vh[: len(a)])
            b.data.copy_(u[:, : len(a)] * root)


def init_eva(network: nn.Module, loader: Callable[[], Iterable[Any]]) -> None:
    """EVA (Paischer et al. 2024): A starts at the principal directions of layers' inputs.

    PEFT's own start goes on over the data until all directions settle, which at high ranks
    they do not; here a fixed number of batches decides, and ranks stay as asked for.
    """
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
        _start_at_directions(factors(layer)[0], torch.cat(tokens))


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


def keep_start(layer: Any) -> None:
    """Remembers what PiSSA or OLoRA took out of the base of a layer."""
    layer.start = tuple(factor.detach().clone() for factor in factors(layer))


def without_start(network: nn.Module) -> dict[str, torch.Tensor]:
    """Returns A and B of layers that took their start out of the base, it subtracted again.

    At twice the rank they are plain LoRA on the plain base (as in PEFT's own conversion).
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in network.named_modules():
        if hasattr(layer, "start"):
            (a, b), (a0, b0) = factors(layer), layer.start  # pyright: ignore
            tensors[f"{name}.lora_A.weight"] = torch.cat([a.detach(), a0.to(a.device)])
            tensors[f"{name}.lora_B.weight"] = torch.cat([b.detach(), -b0.to(b.device)], 1)
    return tensors


def at_twice_the_rank(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``adapter_config.json`` for the tensors of ``without_start``."""
    patterns = {
        key: {path: 2 * value for path, value in fields[key].items()}
        for key in ("rank_pattern", "alpha_pattern")
    }
    return {**fields, "r": 2 * fields["r"], "lora_alpha": 2 * fields["lora_alpha"], **patterns}
