"""Predicted against measured peak memory of a training step; needs no weights.

python benchmarks/plan.py --device cpu >> benchmarks/results/plan.jsonl

The plan counts a step on shapes alone. Here the same step runs in full, twice, in Lightning's
order, so that the optimiser's state is there. Measured is what torch's allocator says: on CUDA
``max_memory_allocated``, on the CPU every allocation it reports to the profiler, on top of the
tensors that were alive before.
"""

import argparse
import gc
import json
import platform
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.memory import footprint
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import make_optimizer

TINY, SMALL, BASE = (f"timm/vit_{size}_patch16_224" for size in ("tiny", "small", "base"))
METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "linear": lambda: {"adapter": LinearProbe()},
    "lora": lambda: {"adapter": Lora(16)},
    "qlora": lambda: {"adapter": Lora(16), "quantization": "nf4"},
    "full": lambda: {"adapter": FullFineTuning()},
}
# backbone, method, checkpointing, pictures, precision
RUNS = [
    (TINY, "linear", False, 16, "32-true"),
    (TINY, "lora", False, 4, "32-true"),
    (TINY, "lora", False, 16, "bf16-mixed"),
    (TINY, "lora", True, 16, "32-true"),
    (TINY, "qlora", False, 16, "bf16-mixed"),
    (TINY, "qlora", True, 4, "32-true"),
    (TINY, "full", False, 16, "32-true"),
    (TINY, "full", True, 16, "bf16-mixed"),
    (SMALL, "linear", False, 4, "bf16-mixed"),
    (SMALL, "lora", False, 16, "bf16-mixed"),
    (SMALL, "lora", True, 16, "bf16-mixed"),
    (SMALL, "qlora", False, 4, "bf16-mixed"),
    (SMALL, "full", False, 4, "bf16-mixed"),
    (BASE, "linear", False, 16, "bf16-mixed"),
    (BASE, "lora", False, 4, "32-true"),
    (BASE, "lora", False, 4, "bf16-mixed"),
    (BASE, "lora", True, 16, "bf16-mixed"),
    (BASE, "qlora", False, 4, "bf16-mixed"),
    (BASE, "qlora", True, 4, "bf16-mixed"),
    (BASE, "full", False, 4, "32-true"),
    (BASE, "full", True, 4, "bf16-mixed"),
]


def main() -> None:
    """Prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", default="", help="part of the backbone's name")
    options = parser.parse_args()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    for backbone, method, checkpointing, batch, precision in RUNS:
        if options.only not in backbone:
            continue
        model = {"backbone": backbone, "checkpointing": checkpointing}
        run = (device, precision)
        predicted = footprint({**model, **METHODS[method]()}, 5, device.type, precision)
        measured = measure({**model, **METHODS[method]()}, *run, batch)
        row = {
            "backbone": backbone,
            "method": method,
            "checkpointing": checkpointing,
            "batch": batch,
            "precision": precision,
            "device": where,
            "torch": torch.__version__,
            "predicted_bytes": predicted.total(batch),
            "measured_bytes": measured,
            "ratio": round(predicted.total(batch) / measured, 4),
        }
        print(json.dumps(row), flush=True)


def measure(
    model: dict[str, Any], device: torch.device, precision: str, batch: int, batches: int = 1
) -> int:
    """Returns the peak bytes of a training step of some batches, with random weights."""
    gc.collect()
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else live_bytes()
    module = Classifier(5, weights="none", **model)
    module.build(device, precision)
    module.train().to(device)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer("adamw", [{"params": trained, "lr": 0.0}], device)
    size = module.backbone.preprocessing.image_size

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(batches):
            images = torch.zeros(batch, 3, size, size, device=device)
            labels = torch.zeros(batch, dtype=torch.long, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss, _ = module.differentiated(images, labels)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    alive = live_bytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
        step()
    return alive - before + highest(seen)


def live_bytes() -> int:
    """Returns the bytes of all tensors that Python knows, each storage once."""
    tensors = [
        o
        for o in gc.get_objects()
        if issubclass(type(o), torch.Tensor)
        and not issubclass(type(o), FakeTensor)
        and not o.is_meta
    ]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def highest(seen: profile) -> int:
    """Returns the peak of the allocations less releases that a profiler saw, in bytes."""
    results: Any = seen.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


if __name__ == "__main__":
    main()
