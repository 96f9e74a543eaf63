"""What 8 pictures by 4 adapters on one base cost, against merged networks; on one CPU thread.

    python benchmarks/pool.py [--turns 20]

Three ways take turns: ``mixed``, one batch of 8 through an AdapterPool, 2 pictures for each of 4
adapters; ``merged``, the 8 through one merged network, which knows one adapter; ``separate``, 4
merged networks one after the other, 2 pictures each. ``pool, one adapter`` is the 8 through the
pool by one name. LoRA of rank 8 on all linear layers, random weights and pictures.

CPU time, which other processes disturb less than the clock; the load average tells how busy the
machine was. Bytes are of the tensors kept in memory. Prints a row for each backbone and writes them
to benchmarks/results/pool.jsonl.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.merging import merged_network
from vitlora.bundle.record import Record
from vitlora.prediction.pool import AdapterPool
from vitlora.quantization import Storage

RESULTS = Path(__file__).parent / "results" / "pool.jsonl"
BACKBONES = ("vitlora/vit_micro_patch8_96", "timm/vit_tiny_patch16_224")
NAMES = ("a", "b", "c", "d")


def main() -> None:
    """Times all ways on both backbones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for backbone in BACKBONES:
        load = round(os.getloadavg()[0], 1)
        row = {"backbone": backbone, "turns": options.turns, "load_average": load}
        rows.append(row | _measure(backbone, options.turns))
        print(json.dumps(rows[-1]), flush=True)
    new = RESULTS.with_name(f".{RESULTS.name}.new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    new.replace(RESULTS)


@torch.inference_mode()
def _measure(backbone: str, turns: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        bundles = {name: random_bundle(Path(folder) / name, backbone) for name in NAMES}
    pool = AdapterPool(bundles, device="cpu")
    networks = [merged_network(bundle) for bundle in bundles.values()]
    size = bundles["a"].record.preprocessing.image_size
    images = torch.randn(8, 3, size, size)
    pairs = list(zip(networks, images.split(2), strict=True))
    names = [name for name in NAMES for _ in range(2)]
    ways: dict[str, Callable[[], object]] = {
        "mixed": lambda: pool.forward(images, names),
        "pool, one adapter": lambda: pool.forward(images, ["a"] * 8),
        "merged": lambda: networks[0](images),
        "separate": lambda: [network(two) for network, two in pairs],
    }
    expected = torch.cat([network(two) for network, two in pairs])
    torch.testing.assert_close(torch.stack(pool.forward(images, names)), expected)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns + 2):
        for way, answer in ways.items():
            start = time.process_time()
            answer()
            if turn >= 2:  # the first turns warm up
                seconds[way].append(time.process_time() - start)
    adapters = sum(_bytes(*bundle.tensors.values()) for bundle in bundles.values())
    return {
        "cpu_milliseconds": {
            way: {
                "median": round(1e3 * statistics.median(taken), 2),
                "min": round(1e3 * min(taken), 2),
                "max": round(1e3 * max(taken), 2),
            }
            for way, taken in seconds.items()
        },
        "bytes_separate": sum(_bytes(*network.parameters()) for network in networks),
        "bytes_pool": _bytes(*_without_head(networks[0])) + adapters,
    }


def random_bundle(folder: Path, name: str) -> Bundle:
    """Returns a bundle of random LoRA factors and a random head for five classes."""
    backbone, adapter = load_backbone(name, 5, "none"), Lora(rank=8)
    record = Record(
        backbone=backbone.id,
        base_digest=backbone.digest,
        weights="none",
        storage=Storage(),
        method="Lora",
        head="full",
        classes=tuple("vwxyz"),
        preprocessing=backbone.preprocessing,
        split={"root": "", "counts": {}, "digests": {}},
        metrics={},
    )
    backbone.module.requires_grad_(False)
    network = adapter.inject(backbone, "full")
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = 0.02 * torch.randn_like(parameter)
    save_bundle(folder, record, adapter.tensors(network), adapter.config(network), "")
    return load_bundle(folder)


def _without_head(network: nn.Module) -> list[torch.Tensor]:
    return [p for name, p in network.named_parameters() if not name.startswith("head.")]


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    main()
