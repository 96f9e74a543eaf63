"""What training and predicting cost on a GPU, each against its aim; raw JSON lines.

    scripts/gpu-check                                   # the gpu tests, then this
    python benchmarks/gpu_check.py [--parts step,peer] [--seconds 330]
    python benchmarks/gpu_check.py --device cpu --tiny  # whether the script itself works

Random weights and pictures: time and memory do not depend on them. A part that would start after
``--seconds`` is left out, and says so. Parts that take turns compare within a turn.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.errors import VitloraError
from vitlora.hardware import compile_blocks
from vitlora.memory import footprint
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import make_optimizer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gpu.jsonl"
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, of the data sheets

Row = dict[str, Any]
WAYS: dict[str, Callable[[], Row]] = {
    "lora": lambda: {"adapter": Lora(16)},
    "lora, half the patches": lambda: {"adapter": Lora(16), "patch_drop": 0.5},
    "qlora": lambda: {"adapter": Lora(16), "quantization": "nf4"},
    "lora, checkpointing": lambda: {"adapter": Lora(16), "checkpointing": True},
    "linear": lambda: {"adapter": LinearProbe()},
    "full": lambda: {"adapter": FullFineTuning()},
    "lora, adamw8bit": lambda: {"adapter": Lora(16), "optimizer": "adamw8bit"},
    "full, paged_adamw8bit": lambda: {
        "adapter": FullFineTuning(),
        "optimizer": "paged_adamw8bit",
    },
}


class Check:
    """The sizes of a run, and where its rows go.

    Args:
        options: The words typed.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.tiny: bool = options.tiny
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.model = "vit_tiny_patch16_224" if self.tiny else "vit_base_patch16_224"
        self.batch = 2 if self.tiny else 128
        self.steps, self.turns = (1, 1) if self.tiny else (10, 3)
        self.size = 32 if self.tiny else None
        self.name = torch.cuda.get_device_name() if self.cuda else "cpu"

    def build(self, way: str, precision: str = "bf16-mixed") -> Classifier:
        """Returns a classifier on the device, ready to train."""
        made = Classifier(10, f"timm/{self.model}", "none", self.size, **WAYS[way]())
        made.build(self.device, precision)
        return made.to(self.device).train()

    def trainer(self, model: Classifier) -> Callable[[], None]:
        """Returns a step: forward, backward, clip, optimiser."""
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(model.optimizer, [{"params": trained, "lr": 1e-4}], self.device)
        side = model.backbone.preprocessing.image_size
        images = torch.randn(self.batch, 3, side, side, device=self.device)
        labels = torch.arange(self.batch, device=self.device) % 10

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(images).float(), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

        return step

    def seconds(self, work: Callable[[], object]) -> float:
        """Returns the time of one call, over several."""
        self.wait()
        start = time.perf_counter()
        for _ in range(self.steps):
            work()
        self.wait()
        return (time.perf_counter() - start) / self.steps

    def wait(self) -> None:
        """Waits until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def empty(self) -> None:
        """Frees what earlier parts left."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def ways(check: Check) -> Iterator[Row]:
    """Yields each way's images per second, MFU and peak memory, beside what the plan predicts."""
    base = None
    for way in WAYS:
        check.empty()
        before = torch.cuda.memory_allocated() if check.cuda else 0
        try:
            model = check.build(way)
            step = check.trainer(model)
            with FlopCounterMode(display=False) as counter:
                step()
            step()
            taken = statistics.median(check.seconds(step) for _ in range(check.turns))
        except (VitloraError, ImportError) as error:  # bitsandbytes is not there
            yield {"part": "ways", "way": way, "left_out": str(error)}
            continue
        peak = torch.cuda.max_memory_allocated() - before if check.cuda else None
        options = {"backbone": f"timm/{check.model}", "image_size": check.size, **WAYS[way]()}
        planned = footprint(options, 10, check.device.type, "bf16-mixed").total(check.batch)
        base = taken if base is None else base
        flops = counter.get_total_flops() / taken
        limit = next((peak for name, peak in PEAK_FLOPS.items() if name in check.name), None)
        yield {
            "part": "ways",
            "way": way,
            "batch": check.batch,
            "images_per_second": round(check.batch / taken, 1),
            "speed_of_lora": round(base / taken, 3),
            "mfu": round(flops / limit, 3) if limit else None,
            "peak_bytes": peak,
            "planned_bytes": planned,
            "planned_over_peak": round(planned / peak, 3) if peak else None,
        }
        del model, step


def peer(check: Check) -> Iterator[Row]:
    """Yields fit's speed over Trainer + PEFT's: plain, QLoRA, half the patches."""
    for more in ([], ["--quantization", "nf4"], ["--patch-drop", "0.5"]):
        command = [sys.executable, str(HERE / "step_peer.py"), "--model", check.model]
        command += ["--batch", str(check.batch), "--steps", str(2 * check.steps)]
        command += ["--turns", str(check.turns), "--rank", "16", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield {"part": "peer", "options": more, "left_out": done.stderr.strip()[-300:]}
        else:
            yield {"part": "peer", **json.loads(done.stdout.splitlines()[-1])}


def compiled(check: Check) -> Iterator[Row]:
    """Yields the speed of compiled blocks over plain ones, and how long compiling takes."""
    check.empty()
    model = check.build("lora")
    step = check.trainer(model)
    step()
    plain = check.seconds(step)
    start = time.perf_counter()
    compile_blocks(model.backbone.module)
    step()
    check.wait()
    waited = time.perf_counter() - start
    step()
    row = {"ratio": round(plain / check.seconds(step), 3), "compiling_seconds": round(waited, 1)}
    yield {"part": "compile", **row}


def predicting(check: Check) -> Iterator[Row]:
    """Yields the images per second of a plain network, one that LoRA was merged into."""
    check.empty()
    network = check.build("linear", "32-true").built_network().eval()
    side = check.size or 224
    for batch in (1, check.batch):
        images = torch.randn(batch, 3, side, side, device=check.device)
        for dtype in (torch.float32, torch.bfloat16):

            @torch.inference_mode()
            def work(images: torch.Tensor = images, dtype: torch.dtype = dtype) -> torch.Tensor:
                with torch.autocast(check.device.type, dtype, enabled=dtype != torch.float32):
                    return network(images)

            work()
            taken = statistics.median(check.seconds(work) for _ in range(check.turns))
            name = str(dtype).removeprefix("torch.")
            speed = round(batch / taken, 1)
            yield {"part": "predict", "batch": batch, "dtype": name, "images_per_second": speed}


def giant(check: Check) -> Iterator[Row]:
    """Yields the peak of a QLoRA step of DINOv3's 7B ViT in a process held to 5 GB of the GPU."""
    name, depth = ("vit_small_patch16_dinov3", 2) if check.tiny else ("vit_7b_patch16_dinov3", 40)
    check.empty()
    if check.cuda:
        total = torch.cuda.get_device_properties(check.device).total_memory
        torch.cuda.set_per_process_memory_fraction(5e9 / total, check.device)
    try:
        with torch.device("cpu"):
            model = Classifier(
                10,
                f"timm/{name}",
                "none",
                adapter=Lora(4, targets=["attention.qkv"], last_blocks=depth),
                quantization="nf4",
                checkpointing=True,
            )
            model.build(check.device, "bf16-mixed")
        check.batch, before = 1, check.batch
        step = check.trainer(model.to(check.device).train())
        step()
        taken = check.seconds(step)
        check.batch = before
        peak = torch.cuda.max_memory_allocated() if check.cuda else None
        yield {"part": "giant", "base": name, "seconds": round(taken, 3), "peak_bytes": peak}
    finally:
        if check.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, check.device)


PARTS: dict[str, Callable[[Check], Iterator[Row]]] = {
    "ways": ways,
    "peer": peer,
    "predict": predicting,
    "compile": compiled,
    "giant": giant,
}


def main() -> None:
    """Runs the parts there is time for; writes and prints a line for each result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=330, help="no part starts after these")
    parser.add_argument("--tiny", action="store_true", help="shapes that take seconds on a CPU")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --tiny tries the script itself")
    check, start = Check(options), time.monotonic()
    about = {"device": check.name, "torch": torch.__version__, "model": check.model}
    failed = 0
    with options.output.open("a") as file:
        for part in options.parts.split(","):
            rows: Iterator[Row] = iter([{"part": part, "left_out": "no time was left"}])
            if time.monotonic() - start < options.seconds:
                rows = PARTS[part](check)
            try:
                for row in rows:
                    line = json.dumps({**about, **row})
                    print(line, flush=True)
                    file.write(line + "\n")
                    file.flush()
            except Exception as error:  # the other parts are worth their time all the same
                failed = 1
                print(f"{part} failed: {type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
