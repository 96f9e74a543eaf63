"""What an exported file costs and changes, beside torch; ways take turns in one run.

    python benchmarks/exporting.py [--turns 5] [--name vit_base_patch16_224]
        [--checkpoint BUNDLE --data PHOTOS]

``start``: a fresh process, from nothing to one answer, in CPU seconds and the clock's. ``.onnx``
and ``.xml`` are predict.py with an exported file, ``bundle`` predict.py with the bundle, ``plain``
imports torch and timm, reads the base's weights, opens the picture and makes one forward pass.
``forward``: the network alone, CPU milliseconds a picture. ``agreement``, with --checkpoint:
answers to the validation pictures of each file; of onnxruntime's dynamic int8, which rounds
activations, too; and of weights in 4 bits, simulated. OpenVINO is measured if it is installed.

A random network (ViT-Tiny) of six classes with LoRA r=8 in all blocks. Ratios are of pairs that
took turns: median, least, most. On one thread. Rows are printed and appended to
benchmarks/results/exporting.jsonl. (Not onnx.py: that name would hide the package.)
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from predicting import _ANSWER, _PLAIN, _Made, _turns, ratios, seconds_of

from vitlora.bundle.checkpoint import load_bundle
from vitlora.evaluation.pictures import find_validation
from vitlora.exporting.exported_predictor import ExportedPredictor
from vitlora.exporting.exports import expected_answers
from vitlora.exporting.program import described, exported_program, merged_vit
from vitlora.exporting.proof import prove
from vitlora.exporting.targets import TARGETS
from vitlora.prediction.predictor import Predictor

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "exporting.jsonl"
KINDS = [name for name, one in TARGETS.items() if all(map(find_spec, one.writes_with))]
PRECISIONS: Any = ("32", "int8", "fp16")  # the last changes the network


def main() -> None:
    """Measures on one thread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--name", default="vit_tiny_patch16_224", help="timm's of the base")
    parser.add_argument("--checkpoint", type=Path, help="a trained bundle")
    parser.add_argument("--data", type=Path, help="its pictures, if they have moved")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, RESULTS.open("a", encoding="utf-8") as file:
        made = _Made(Path(folder), options.name)
        files = _exported(made.bundle, Path(folder))
        rows = [_start(made, files, options.turns), _forward(made, files, options.turns)]
        if options.checkpoint:
            rows.append(_agreement(options, Path(folder)))
        for row in (row for part in rows for row in part):
            versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
            row |= {"base": options.name, **versions, "load_average": round(os.getloadavg()[0], 1)}
            print(json.dumps(row), flush=True)
            print(json.dumps(row), file=file, flush=True)


def _exported(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """Returns the file of each kind and precision, by ending and precision."""
    bundle = load_bundle(checkpoint)
    vit, files = merged_vit(bundle, TARGETS[".onnx"]), {}
    for precision in PRECISIONS:
        program = exported_program(vit, bundle, precision)
        for kind in (kind for kind in KINDS if precision in TARGETS[kind].precisions):
            file = files[f"{kind} {precision}"] = folder / f"{precision}{kind}"
            TARGETS[kind].write(program, described(bundle, precision), file)
    return files


def _start(made: _Made, exported: dict[str, Path], turns: int) -> Iterator[dict[str, Any]]:
    picture, files = str(made.photos[0]), [str(made.weights), str(made.bundle)]
    read = [kind for kind in KINDS if not TARGETS[kind].runs_code]
    checkpoints = {kind: str(exported[f"{kind} 32"]) for kind in read} | {"bundle": files[1]}
    words = {
        way: ["predict.py", picture, "--checkpoint", checkpoint]
        for way, checkpoint in checkpoints.items()
    }
    words["plain"] = ["-c", _PLAIN + _ANSWER, made.name, *files, picture]
    seconds = _turns({way: partial(_process, w) for way, w in words.items()}, turns)
    for unit, index in (("cpu", 0), ("clock", 1)):
        each = {way: [pair[index] for pair in taken] for way, taken in seconds.items()}
        yield {
            "part": "start",
            "seconds": unit,
            **{way: round(statistics.median(taken), 2) for way, taken in each.items()},
            **{f"{way} over plain": ratios(each[way], each["plain"]) for way in read},
            **{f"{way} over bundle": ratios(each[way], each["bundle"]) for way in read},
        }


def _process(words: list[str]) -> tuple[float, float]:
    """Returns the CPU and clock seconds of a fresh Python."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        capture_output=True,
    )
    after, taken = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, taken


def _forward(made: _Made, files: dict[str, Path], turns: int) -> Iterator[dict[str, Any]]:
    network = Predictor(made.bundle, device="cpu").network
    predictors = {name: ExportedPredictor(file, ours=True) for name, file in files.items()}
    for batch in (1, 16):
        images = torch.randn(batch, 3, 224, 224)
        squares = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
        runs = max(1, 8 // batch)
        ways: dict[str, Any] = {"torch": lambda x=images, n=runs: seconds_of(lambda: network(x), n)}
        for name, one in predictors.items():
            ways[name] = partial(seconds_of, partial(one.run, squares), runs)
        seconds = _turns(ways, turns)
        yield {
            "part": "forward",
            "batch": batch,
            "ms_per_picture": {
                way: round(1e3 * statistics.median(taken) / batch, 1)
                for way, taken in seconds.items()
            },
            "bytes": {name: _bytes(file) for name, file in files.items()},
            **{
                f"{way} over torch": ratios(taken, seconds["torch"])
                for way, taken in seconds.items()
                if way != "torch"
            },
        }


def _bytes(file: Path) -> int:
    return sum(path.stat().st_size for path in TARGETS[file.suffix].files(file))


def _agreement(options: Any, folder: Path) -> Iterator[dict[str, Any]]:
    bundle = load_bundle(options.checkpoint)
    data = find_validation(bundle, options.data)
    data.setup("validate")
    vit = merged_vit(bundle, TARGETS[".onnx"])
    expected, paths = expected_answers(bundle, vit, data.folder.splits["val"])
    data_name = data.folder.root.name
    (folder / "real").mkdir()
    files = _exported(options.checkpoint, folder / "real")
    files["dynamic int8"] = _dynamic(files[".onnx 32"])
    for bits, group in ((4, 32), (4, 64), (8, 64)):
        file = files[f"{bits} bits in groups of {group}"] = folder / f"{bits}-{group}.onnx"
        rounded = _rounded(merged_vit(bundle, TARGETS[".onnx"]), bits, group)
        TARGETS[".onnx"].write(exported_program(rounded, bundle), described(bundle, "32"), file)
    for name, file in files.items():
        proof = vars(prove(file, expected, paths))
        yield {"part": "agreement", "data": data_name, "file": name, **proof}


def _dynamic(file: Path) -> Path:
    """Returns onnxruntime's own 8 bits of a file."""
    ready, dynamic = file.with_name("ready.onnx"), file.with_name("dynamic.onnx")
    quant_pre_process(file, ready, skip_symbolic_shape=True)
    quantize_dynamic(ready, dynamic)
    return dynamic


@torch.no_grad()
def _rounded(vit: torch.nn.Module, bits: int, group: int) -> torch.nn.Module:
    """Rounds the blocks' weights to steps, symmetric, of which each group of inputs has its own."""
    most = 2 ** (bits - 1) - 1
    for name, layer in vit.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks."):
            parts = layer.weight.unflatten(1, (-1, group))
            step = parts.abs().amax(2, keepdim=True).clamp(min=1e-12) / most
            layer.weight.copy_((parts / step).round().mul(step).flatten(1))
    return vit


if __name__ == "__main__":
    main()
