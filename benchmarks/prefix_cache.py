"""How much faster training is behind cached blocks, and how near to what the FLOPs allow.

    python benchmarks/prefix_cache.py steps [--precision bf16-mixed] [--batch 32] [--turns 15]
    python benchmarks/prefix_cache.py epochs --data TRASHNET [--pictures 192] [--turns 3]

``steps``: a training step (forward and backward) of a ViT-Tiny with random weights, through the
whole network and from the cache on, fetching the batch included; the two take turns. The bound is
the ratio of their FLOPs, as torch counts them. ``epochs``: whole epochs of ``fit`` with validation,
loading and everything, from the second on; runs with and without the cache take turns. Printed are
medians and ranges of the ratios as JSON lines, which are appended to ``--output``.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch.utils.flop_counter import FlopCounterMode

from vitlora.adapters import Adapter, LinearProbe, Lora
from vitlora.backbones import load_backbone
from vitlora.data.datamodule import FolderData
from vitlora.quantization import Storage, freeze
from vitlora.training import RunFolder, Trainer
from vitlora.training.cache.prefix import Prefix
from vitlora.training.cache.prefix_cache import Kept
from vitlora.training.classifier import Classifier

VIT_TINY = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
CASES: dict[str, Adapter] = {"head": LinearProbe(), "last 4 of 12": Lora(last_blocks=4)}


def main() -> None:
    """Prints and keeps one JSON line for each case."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    measure = _steps if options.what == "steps" else _epochs
    for case, adapter in CASES.items():
        line = {"what": options.what, "case": case, "precision": options.precision}
        line |= {"threads": options.threads, "batch": options.batch, **measure(adapter, options)}
        print(json.dumps(line), flush=True)
        with options.output.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _steps(adapter: Adapter, options: argparse.Namespace) -> dict[str, Any]:
    bf16 = options.precision == "bf16-mixed"
    dtype = torch.bfloat16 if bf16 else torch.float32
    backbone = load_backbone(VIT_TINY, 6, "none")
    module: Any = backbone.module
    freeze(module, Storage("none", str(dtype).removeprefix("torch.")))
    if bf16:  # as vitlora trains on a CPU
        for block in module.blocks:
            block.attn.fused_attn = False
    network, prefix = adapter.inject(backbone, "full").train(), Prefix(module)
    images = torch.randn(options.batch, 3, 224, 224)
    labels = torch.zeros(options.batch, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        prefix.look(images[:1])
        rows = prefix.before(images).to(dtype)
    kept = Kept([rows.repeat(8, *[1] * (rows.ndim - 1))], labels.repeat(8))

    def step(whole: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if whole:
                logits = network(images)
            else:
                logits = prefix.after(
                    kept.__getitems__(torch.randperm(len(kept))[: len(images)].tolist())[0]
                )
            loss = F.cross_entropy(logits.float(), labels)
        loss.backward()

    flops = {whole: _flops(lambda whole=whole: step(whole)) for whole in (True, False)}
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(options.turns + 1):
        for whole, taken in seconds.items():
            repeats = (
                1 if whole or not prefix.pooled else 20
            )  # a head takes less than a millisecond
            start = time.perf_counter()
            for _ in range(repeats):
                step(whole)
            if turn:  # the first turn warms up
                taken.append((time.perf_counter() - start) / repeats)
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    bound = flops[True] / flops[False]
    return {
        **_spread(ratios),
        "gflop_uncached": round(flops[True] / 1e9, 3),
        "gflop_cached": round(flops[False] / 1e9, 6),
        "bound": round(bound, 3),
        "share_of_bound": round(statistics.median(ratios) / bound, 3),
        "ms_uncached": round(1000 * statistics.median(seconds[True]), 2),
        "ms_cached": round(1000 * statistics.median(seconds[False]), 3),
    }


def _epochs(adapter: Adapter, options: argparse.Namespace) -> dict[str, Any]:
    ratios, seconds = [], {True: [], False: []}
    for _ in range(options.turns):
        for cached, taken in seconds.items():
            taken.append(_epoch_seconds(adapter, cached, options))
        ratios.append(seconds[False][-1] / seconds[True][-1])
    return {
        **_spread(ratios),
        "pictures": options.pictures,
        "workers": options.workers,
        "seconds_uncached": round(statistics.median(seconds[False]), 3),
        "seconds_cached": round(statistics.median(seconds[True]), 3),
    }


class _Clock(Callback):
    """Keeps the times at which epochs end, validation included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.ends.append(time.monotonic())


def _epoch_seconds(adapter: Adapter, cached: bool, options: argparse.Namespace) -> float:
    torch.manual_seed(0)
    data = FolderData(str(options.data), batch_size=options.batch, num_workers=options.workers)
    for split, count in (("train", options.pictures), ("val", options.pictures // 5)):
        samples = data.folder.splits[split]
        data.folder.splits[split] = samples[:: -(-len(samples) // count)]
    model = Classifier(data.num_classes, VIT_TINY, "none", adapter=adapter)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            max_epochs=6 if cached else 2,
            precision=options.precision,
            accelerator="cpu",
            cache="memory" if cached else "off",
            cache_views=1,
            callbacks=[clock, RunFolder(Path(folder) / "bundle", lambda: "model: {}\n", logs=True)],
        ).fit(model, datamodule=data)
    gaps = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    return statistics.median(gaps)


def _flops(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _spread(ratios: list[float]) -> dict[str, Any]:
    return {
        "times_faster": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "turns": len(ratios),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("steps", "epochs"))
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--data", type=Path, help="folder of pictures, for epochs")
    parser.add_argument("--pictures", type=int, default=192, help="training pictures to take")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/prefix_cache.jsonl")
    )
    return parser


if __name__ == "__main__":
    main()
