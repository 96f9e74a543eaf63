"""What merging tokens would save in prediction, and how many answers it would change.

    python benchmarks/token_merging.py BUNDLE=FOLDER ...

ToMe (Bolya et al. 2023, https://arxiv.org/abs/2210.09461): after each block's attention the pairs
of tokens with the most similar keys become their mean, up to ``--merged`` of them, and attention
counts a token as often as it has patches. Each bundle, of a plain ViT that answers from its class
token, answers the pictures of FOLDER/test with and without. The time is CPU time, in turns. Prints
JSON lines.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize, scaled_dot_product_attention

from vitlora import Predictor
from vitlora.data.images import open_image

Network = Callable[[torch.Tensor], torch.Tensor]
TURNS, BATCH = 7, 8


def main() -> None:
    """Compares the network with its merging copies, on each bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundles", nargs="+", help="BUNDLE=FOLDER")
    parser.add_argument("--merged", type=int, nargs="+", default=[4, 8, 13], help="in each block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for words in options.bundles:
        bundle, _, folder = words.partition("=")
        predictor = Predictor(bundle)
        files = sorted(Path(folder, "test").rglob("*.jpg"))
        tensors = [predictor.preprocessing.transform()(open_image(file)) for file in files]
        images = torch.stack(tensors)
        truth = torch.tensor([predictor.classes.index(file.parent.name) for file in files])
        network: Any = predictor.network
        ways: dict[int, Network] = {0: network}
        ways |= {count: partial(merging, network, count) for count in options.merged}
        with torch.inference_mode():
            plain = answers(network, images)
            for count in options.merged:
                merged = answers(ways[count], images)
                row = {"data": Path(folder).name, "merged": count, "pictures": len(files)}
                row["same_class"] = share(merged == plain)
                row["accuracy"], row["plain"] = share(merged == truth), share(plain == truth)
                for precision in ("fp32", "bf16"):
                    row[precision] = speeds(ways, images[:BATCH], precision)[count]
                print(json.dumps(row), flush=True)


def answers(network: Network, images: torch.Tensor) -> torch.Tensor:
    """Returns the class of each picture."""
    return torch.cat([network(some).argmax(1) for some in images.split(BATCH)])


def share(right: torch.Tensor) -> float:
    """Returns the share of what is true, to four places."""
    return round(right.float().mean().item(), 4)


def speeds(ways: dict[int, Network], images: torch.Tensor, precision: str) -> dict[int, float]:
    """Returns how many times as fast as way 0 each way is."""
    taken: dict[int, list[float]] = {count: [] for count in ways}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(TURNS):
            for count, network in ways.items():
                start = time.process_time()
                network(images)
                taken[count].append(time.process_time() - start)
    medians = {count: statistics.median(found) for count, found in taken.items()}
    return {count: round(medians[0] / median, 2) for count, median in medians.items()}


def merging(vit: Any, count: int, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a ViT that merges tokens after the attention of each block."""
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    sizes = torch.ones_like(tokens[..., :1])
    for block in vit.blocks:
        update, keys = attention(block.attn, block.norm1(tokens), sizes)
        tokens = tokens + update
        if block is not vit.blocks[-1]:
            tokens, sizes = merge(tokens, sizes, keys, count)
        tokens = tokens + block.mlp(block.norm2(tokens))
    return vit.forward_head(vit.norm(tokens))


def attention(
    layer: Any, tokens: torch.Tensor, sizes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the output ``(B, N, D)``, and the keys' mean over the heads."""
    batch, length, width = tokens.shape
    packed = layer.qkv(tokens).reshape(batch, length, 3, layer.num_heads, layer.head_dim)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    often = sizes.log().to(q.dtype).transpose(1, 2)[:, None].expand(-1, 1, length, -1)
    found = scaled_dot_product_attention(q, k, v, attn_mask=often)
    return layer.proj(found.transpose(1, 2).reshape(batch, length, width)), k.mean(1)


def merge(
    tokens: torch.Tensor, sizes: torch.Tensor, keys: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the tokens, of which ``count`` became one with another, and their sizes.

    Every second token looks for the most similar one of the others; the class token stays.
    """
    keys = normalize(keys.float(), dim=-1)
    similar = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
    similar[:, 0] = -torch.inf  # the class token
    best, partner = similar.max(-1)
    order = best.argsort(-1, descending=True)
    gone, stay = order[:, :count], order[:, count:].sort(-1).values
    into = partner.gather(1, gone)

    def summed(values: torch.Tensor) -> torch.Tensor:
        looking, others = values[:, ::2], values[:, 1::2].clone()
        take = partial(_take, width=values.shape[-1])
        others.scatter_add_(1, take(into), looking.gather(1, take(gone)))
        return torch.cat([looking.gather(1, take(stay)), others], 1)

    total = summed(sizes)
    return summed(tokens * sizes) / total, total


def _take(indices: torch.Tensor, width: int) -> torch.Tensor:
    return indices[..., None].expand(-1, -1, width)


if __name__ == "__main__":
    main()
