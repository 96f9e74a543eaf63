"""What predicting costs, beside the plain way and PEFT's; ways take turns in one run.

    python benchmarks/predicting.py --parts start,latency,precision,folder [--turns 3] [--threads 1]

``start``: a fresh process, from nothing to one answer, CPU time and the clock's. ``ours`` is
predict.py; ``plain`` imports torch and timm, reads the base's weights, opens the picture, makes one
forward pass; ``peft`` is the same through PeftModel.from_pretrained on our bundle. ``latency``: the
merged network against timm's own, one picture. ``precision``: bf16 and torch's dynamic int8 against
fp32, 1 and 16 pictures, attention fused or not. ``folder``: predicting 64 files of 512 x 384 pixels
(or the first of --data), decoding included, against the bare network on tensors in memory.

Random networks of six classes with LoRA r=8 in all blocks. Ratios are of pairs that took turns:
median, least, most. On one thread times are CPU times. Rows are printed and appended to
benchmarks/results/predicting.jsonl.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import load_backbone
from vitlora.bundle.checkpoint import save_bundle
from vitlora.bundle.record import Record
from vitlora.prediction.predictor import Predictor
from vitlora.quantization import Storage

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "predicting.jsonl"
NAMES = ("vit_tiny_patch16_224", "vit_base_patch16_224")

_PLAIN = """
import sys, torch, timm
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
name, weights, bundle, picture = sys.argv[1:]
network = timm.create_model(name, num_classes=6).eval()
state = load_file(weights)
network.load_state_dict(state)
config = resolve_model_data_config(network)
"""
_PEFT = """
from peft import PeftModel
network = PeftModel.from_pretrained(network, bundle).eval()
"""
_ANSWER = """
transform = create_transform(**config, is_training=False)
with torch.inference_mode():
    print(network(transform(Image.open(picture).convert("RGB"))[None]).softmax(1).max())
"""


def main() -> None:
    """Measures the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="start,latency,precision,folder")
    parser.add_argument("--backbones", default=",".join(NAMES))
    parser.add_argument("--data", type=Path, help="a folder of photos")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = {"start": _start, "latency": _latency, "precision": _precision, "folder": _folder}
    for part in options.parts.split(","):
        for name in options.backbones.split(","):
            with tempfile.TemporaryDirectory() as folder:
                rows = parts[part](_Made(Path(folder), name), options)
                record(({"part": part, "backbone": name, **row} for row in rows), options)


class _Made:
    """A random base in a file, a bundle of random LoRA on it, and photos."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.weights, self.bundle = name, folder / "base.safetensors", folder / "bundle"
        torch.manual_seed(0)
        module = load_backbone(f"timm/{name}", 6, "none").module
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, self.weights)
        backbone, adapter = load_backbone(f"timm/{name}", 6, self.weights), Lora(rank=8)
        record = Record(
            backbone=backbone.id,
            base_digest=backbone.digest,
            weights=str(self.weights),
            storage=Storage(),
            method="Lora",
            head="full",
            classes=tuple("uvwxyz"),
            preprocessing=backbone.preprocessing,
            split={"root": "", "counts": {}, "digests": {}},
            metrics={},
        )
        backbone.module.requires_grad_(False)
        network = adapter.inject(backbone, "full")
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = 0.02 * torch.randn_like(parameter)
        save_bundle(self.bundle, record, adapter.tensors(network), adapter.config(network), "")
        rng = np.random.default_rng(0)
        self.photos = [folder / f"{i:03}.jpg" for i in range(64)]
        for photo in self.photos:  # smooth, as photos are: 25 kB or so
            small = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            small.resize((512, 384), Image.Resampling.BICUBIC).save(photo)


def _start(made: _Made, options: Any) -> Iterator[dict[str, Any]]:
    picture, files = str(made.photos[0]), [str(made.weights), str(made.bundle)]
    words = {
        "ours": ["predict.py", picture, "--checkpoint", files[1]],
        "plain": ["-c", _PLAIN + _ANSWER, made.name, *files, picture],
        "peft": ["-c", _PLAIN + _PEFT + _ANSWER, made.name, *files, picture],
    }
    ways = {way: partial(_process, options.threads, w) for way, w in words.items()}
    seconds = _turns(ways, options.turns, warm_up=False)
    for kind, index in (("cpu", 0), ("clock", 1)):
        each = {way: [pair[index] for pair in taken] for way, taken in seconds.items()}
        yield {
            "seconds": kind,
            **{way: round(statistics.median(taken), 2) for way, taken in each.items()},
            "ours_over_plain": ratios(each["ours"], each["plain"]),
            "peft_over_ours": ratios(each["peft"], each["ours"]),
        }


def _latency(made: _Made, options: Any) -> Iterator[dict[str, Any]]:
    import timm

    merged = Predictor(made.bundle, device="cpu").network
    base = timm.create_model(made.name, num_classes=6).eval()
    base.load_state_dict(merged.state_dict())
    image = torch.randn(1, 3, 224, 224)
    runs = 10 if "tiny" in made.name else 2
    seconds = _turns(
        {
            "merged": lambda: seconds_of(lambda: merged(image), runs),
            "base": lambda: seconds_of(lambda: base(image), runs),
        },
        3 * options.turns,
    )
    yield _milliseconds(seconds, 1) | {"ratio": ratios(seconds["merged"], seconds["base"])}


def _precision(made: _Made, options: Any) -> Iterator[dict[str, Any]]:
    networks = {
        "fp32": Predictor(made.bundle, device="cpu").network,
        "bf16": Predictor(made.bundle, device="cpu", precision="bf16").network,
    }
    networks["int8"] = int8(networks["fp32"])
    for batch in (1, 16):
        ways = {
            f"{name}{'' if fused else ', attention not fused'}": partial(
                _forward, network, torch.randn(batch, 3, 224, 224), fused
            )
            for fused in (True, False)
            for name, network in networks.items()
        }
        seconds = _turns(ways, options.turns)
        yield {"batch": batch, **_milliseconds(seconds, batch)} | {
            f"speed-up of {way}": ratios(seconds["fp32"], taken)
            for way, taken in seconds.items()
            if way != "fp32"
        }


def int8(network: nn.Module) -> nn.Module:
    """Returns a copy whose linear layers, but for the head, multiply 8-bit integers."""
    from torch.ao.quantization import quantize_dynamic

    lower = quantize_dynamic(copy.deepcopy(network), {nn.Linear}, dtype=torch.qint8)
    lower.head = network.head
    return lower


def _forward(network: nn.Module, images: torch.Tensor, fused: bool) -> float:
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # pyright: ignore
    images = images.to(network.norm.weight.dtype)  # pyright: ignore
    return seconds_of(lambda: network(images), max(1, 4 // len(images)))


def _folder(made: _Made, options: Any) -> Iterator[dict[str, Any]]:
    photos = sorted(options.data.rglob("*.jpg"))[:64] if options.data else made.photos
    photos = photos if "tiny" in made.name else photos[:16]
    for precision in ("32", "bf16"):
        predictor = Predictor(made.bundle, device="cpu", precision=precision)  # pyright: ignore
        tensors: Any = [predictor._open(photo)[1] for photo in photos]
        ways = {
            "network": partial(seconds_of, partial(_bare, predictor, tensors)),
            "files": partial(seconds_of, partial(answers, predictor, photos)),
        }
        seconds = _turns(ways, options.turns)
        yield {
            "precision": precision,
            "photos": Image.open(photos[0]).size,
            "images_per_second": {
                way: round(len(photos) / statistics.median(taken), 1)
                for way, taken in seconds.items()
            },
            "share_of_the_network": ratios(seconds["network"], seconds["files"]),
        }


def _bare(predictor: Predictor, tensors: list[torch.Tensor]) -> None:
    for i in range(0, len(tensors), 32):
        predictor._forward(tensors[i : i + 32])


def answers(predictor: Predictor, photos: list[Path]) -> list[Any]:
    """Returns the predictions of files, with the confidence of every class."""
    return list(predictor.predict(photos, top_k=99))


def _turns(
    ways: Mapping[str, Callable[[], Any]], turns: int, warm_up: bool = True
) -> dict[str, list[Any]]:
    """Lets all ways take turns, forwards and backwards; a first turn warms up."""
    seconds: dict[str, list[Any]] = {way: [] for way in ways}
    for turn in range(turns + warm_up):
        for way in ways if turn % 2 else reversed(list(ways)):
            taken = ways[way]()
            if turn >= warm_up:
                seconds[way].append(taken)
    return seconds


def _process(threads: int, words: list[str]) -> tuple[float, float]:
    """Returns the CPU and clock seconds of a fresh Python."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, check=True, capture_output=True
    )
    after, taken = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, taken


def _clock() -> float:
    """CPU time on one thread, which other processes disturb less; else the clock's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.monotonic()


def seconds_of(work: Callable[[], Any], runs: int = 1) -> float:
    """Returns what one of several runs takes."""
    with torch.inference_mode():
        start = _clock()
        for _ in range(runs):
            work()
        return (_clock() - start) / runs


def _milliseconds(seconds: dict[str, list[float]], count: int) -> dict[str, Any]:
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    return {"ms_per_image": {way: round(1e3 * s / count, 2) for way, s in medians.items()}}


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Returns median, least and most of the pairs' ratios."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return [round(x, 3) for x in (statistics.median(ratios), min(ratios), max(ratios))]


def record(rows: Iterator[dict[str, Any]], options: Any) -> None:
    """Prints rows, each as it comes, and appends them to the results."""
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in rows:
            row |= {
                "threads": options.threads,
                "torch": torch.__version__,
                "load_average": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(row), flush=True)
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
