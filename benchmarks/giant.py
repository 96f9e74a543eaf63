"""Does a ViT of any size fine-tune and predict in little memory on the CPU?

    python benchmarks/giant.py timm/vit_large_patch16_224 --limit 1
    python benchmarks/giant.py timm/vit_giant_patch14_dinov2 --limit 2
    python benchmarks/giant.py timm/vit_7b_patch16_dinov3 --limit 6

Weights of the model's shapes are drawn at random and written as bf16 shards (13.4 GB for the last);
`vitlora fit` loads them, trains a few QLoRA steps on a handful of drawn pictures and writes its
bundle; `predict.py` answers from it. Both run as processes of their own, which are killed when
their peak resident memory, libraries included (VmHWM), passes the limit. One JSON line is printed
and added to benchmarks/results/giant.jsonl.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# This process imports no torch: on Linux the peak of a parent counts into that of its children.

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "giant.jsonl"
SHARD = 2**30  # bytes, about
CLASSES = {"red": (200, 60, 40), "blue": (40, 60, 200)}


def main() -> None:
    """Writes weights and pictures, fits, predicts, and removes what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backbone", help="a timm model, as timm/NAME")
    parser.add_argument("--limit", type=float, required=True, help="GiB of resident memory")
    parser.add_argument("--steps", type=int, default=6, help="training steps")
    parser.add_argument("--batch", type=int, default=2, help="pictures in a step")
    parser.add_argument("--rank", type=int, default=4, help="of LoRA on attention.qkv")
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--scratch", metavar="DIR", help="folder with room for the weights")
    parser.add_argument("--weights", metavar="DIR", help="weights that were written before")
    parser.add_argument("--write-weights", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write_weights:
        _write_weights(options.backbone, Path(options.write_weights))
        return
    with tempfile.TemporaryDirectory(prefix="giant-", dir=options.scratch) as folder:
        fields = _measure(options, Path(folder))
    line = json.dumps(fields)
    print(line)
    with RESULTS.open("a") as file:
        file.write(line + "\n")


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    weights, photos, bundle = folder / "weights", folder / "photos", folder / "bundle"
    if options.weights:
        weights = Path(options.weights).resolve()
    else:
        write = [options.backbone, "--limit", "0", "--write-weights", str(weights)]
        subprocess.run([sys.executable, __file__, *write], check=True)
    _draw(photos / "train", options.steps * options.batch // len(CLASSES))
    _draw(photos / "val", 2)
    times = folder / "times.jsonl"
    words = {
        "data.root": photos,
        "data.batch_size": options.batch,
        "data.num_workers": 0,
        "model.backbone": options.backbone,
        "model.weights": weights,
        "model.image_size": options.size,
        "model.quantization": "nf4",
        "model.checkpointing": "true",
        "model.adapter.rank": options.rank,
        "model.adapter.targets": "[attention.qkv]",
        "trainer.max_epochs": 1,
        "trainer.precision": "bf16-mixed",
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks": json.dumps(
            [{"class_path": "step_times.StepTimes", "init_args": {"file": str(times)}}]
        ),
        "output": bundle,
    }
    fit = ["-m", "vitlora", "fit", *(f"--{key}={value}" for key, value in words.items())]
    trained = _limited(fit, options.limit)
    noted = [json.loads(line) for line in times.read_text().splitlines()]
    picture = next((photos / "val").rglob("*.jpg"))
    predict = ["predict.py", str(picture), f"--checkpoint={bundle}", "--device=cpu"]
    predicted = _limited(predict, options.limit)
    steps = [line for line in noted if line["what"] == "step"]
    size = sum(path.stat().st_size for path in weights.iterdir())
    return {
        "backbone": options.backbone,
        "image_size": options.size,
        "weights_bytes": size,
        "limit_gib": options.limit,
        "enforced_by": "killed when VmHWM passes the limit",
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "batch": options.batch,
        "rank": options.rank,
        "fit": trained,
        "hwm_mib": {line["what"]: line["hwm_mib"] for line in noted},
        "load_seconds": next(line["seconds"] for line in noted if line["what"] == "loaded"),
        "step_seconds": [line["seconds"] for line in steps],
        "losses": [line["loss"] for line in steps],
        "bundle_bytes": sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
        "predict": predicted,
    }


def _limited(words: Sequence[str], limit: float) -> dict[str, float]:
    """Runs python and returns its seconds and peak memory.

    Raises:
        SystemExit: It needed more than ``limit`` GiB, or failed.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}
    )
    peak = 0.0
    while child.poll() is None:
        peak = max(peak, _peak_mib(child.pid))
        if peak > 1024 * limit:
            child.kill()
            child.wait()
            raise SystemExit(f"{words[:3]} passed {limit} GiB: {peak:.0f} MiB")
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"{words[:3]} failed with {child.returncode}")
    return {"seconds": round(time.monotonic() - started, 1), "peak_mib": round(peak, 1)}


def _peak_mib(pid: int) -> float:
    """Returns the most memory a process ever had, as the kernel remembers it; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = (line.split() for line in status.splitlines())
    return next((int(words[1]) / 1024 for words in lines if words[0] == "VmHWM:"), 0.0)


def _draw(folder: Path, count: int) -> None:
    """Draws pictures of coloured noise, a folder for each class."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(len(folder.name))
    for name, colour in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(colour) + rng.normal(0, 40, (256, 256, 3))
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / name / f"{number}.jpg")


def _write_weights(backbone: str, folder: Path) -> None:
    """Writes random bf16 tensors of a model's shapes, shard by shard, and their index."""
    import torch
    from safetensors.torch import save_file
    from timm.models import create_model

    folder.mkdir(parents=True)
    with torch.device("meta"):
        state = create_model(backbone.partition("/")[2]).state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    size = 2 * sum(shape.numel() for shape in shapes.values())
    if shutil.disk_usage(folder).free < 1.2 * size:
        raise SystemExit(f"{size / 1e9:.1f} GB of weights do not fit the disk; pass --scratch DIR")
    torch.manual_seed(0)
    shards: list[dict[str, Any]] = [{}]
    for name in shapes:
        if sum(shapes[key].numel() for key in shards[-1]) > SHARD // 2:
            shards.append({})
        shards[-1][name] = None
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _drawn(name, shapes[name]) for name in shard}, folder / file)
        index |= dict.fromkeys(shard, file)
    whole = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))


def _drawn(name: str, shape: Any) -> Any:
    """Returns a tensor as training might leave it: no layer silent, no activation out of hand."""
    import torch

    if "gamma" in name:  # LayerScale; a trained network's are far above the 1e-5 it starts from
        return torch.full(shape, 0.1, dtype=torch.bfloat16)
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


if __name__ == "__main__":
    main()
