"""What very many pictures cost: speed, memory, and being killed.

    vitlora fetch waste5-drawn
    vitlora fit --config demo.yaml
    vitlora fit --config demo.yaml --model.image_size 32 --output checkpoints/small
    python benchmarks/predicting_many.py speed --checkpoint checkpoints/demo
    python benchmarks/predicting_many.py killed --checkpoint checkpoints/small [--pictures 100000]

Pictures are copies of the drawn ones (160 x 160 pixels), each with other bytes at its end.

``speed``: files to a file of answers, against the bare network on the same pictures as tensors in
memory, one thread, in turns; the ratios are of turns that follow each other. ``killed``: a process
``vitlora predict --output`` is killed (kill -9) again and again and started anew. Afterwards the
file must have one answer for each picture, in order, the same as a run without a break over a part
of the pictures. Its memory is that of each process (resident, MB), at the first answers and at the
end. Rows are printed and appended to benchmarks/results/predicting_many.jsonl.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from vitlora.data.unlabelled import find
from vitlora.prediction.many import predict_many
from vitlora.prediction.predictor import Predictor
from vitlora.prediction.shard import Shard

RESULTS = Path(__file__).parent / "results" / "predicting_many.jsonl"
_A_FOLDER = 1000  # pictures
_BATCH = 32


def main() -> None:
    """Measures the part asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--photos", type=Path, default=Path("datasets/waste5-drawn"))
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    options.pictures = options.pictures or (100_000 if options.part == "killed" else 1_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        _copy(sorted(options.photos.rglob("*.jpg")), folder, options.pictures)
        for row in PARTS[options.part](folder, options):
            row = {
                "part": options.part,
                "checkpoint": options.checkpoint,
                "pictures": options.pictures,
                **row,
                "torch": torch.__version__,
                "load_average": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(row), flush=True)
            with RESULTS.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")


def _copy(photos: list[Path], folder: Path, count: int) -> None:
    contents = [photo.read_bytes() for photo in photos]
    for index in range(count):
        below = folder / f"{index // _A_FOLDER:04}"
        below.mkdir(parents=True, exist_ok=True)
        content = contents[index % len(contents)] + index.to_bytes(4, "big")
        (below / f"{index:07}.jpg").write_bytes(content)


def _speed(folder: Path, options: Any) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    predictor = Predictor(options.checkpoint, options.weights, device="cpu")
    (found,) = find(folder)
    tensors: Any = [predictor._open(Path(file))[1] for file in found.files]
    seconds: dict[str, list[tuple[float, float]]] = {"network": [], "files": []}
    for turn in range(options.turns + 1):  # the first warms up
        for way in ("network", "files") if turn % 2 else ("files", "network"):
            clock, cpu = time.perf_counter(), time.process_time()
            if way == "network":
                for start in range(0, len(tensors), _BATCH):
                    predictor._forward(tensors[start : start + _BATCH])
            else:
                target = folder.parent / f"{turn}.parquet"
                predict_many(predictor, Path(options.checkpoint), [found], target, Shard())
            taken = (time.perf_counter() - clock, time.process_time() - cpu)
            if turn:
                seconds[way].append(taken)
    for kind, name in enumerate(("clock", "cpu")):
        pairs = [(a[kind], b[kind]) for a, b in zip(*seconds.values(), strict=True)]
        shares = [network / files for network, files in pairs]
        yield {
            "seconds_of": name,
            "ms_per_image": {
                way: round(1e3 * median(one[kind] for one in taken) / len(tensors), 3)
                for way, taken in seconds.items()
            },
            "share_of_the_network": [round(f(shares), 3) for f in (median, min, max)],
        }


def _killed(folder: Path, options: Any) -> Iterator[dict[str, Any]]:
    target = folder.parent / "answers.parquet"
    part, rng = target.with_name(f"{target.name}.part"), random.Random(0)
    stops = sorted(rng.randrange(options.pictures) for _ in range(options.kills))
    runs = []
    for stop in (*stops, None):
        runs.append(_run(folder, target, part, stop, options))
        yield {"killed_near": stop, **runs[-1]}
    import pyarrow.parquet as pq

    table = pq.read_table(target)
    names = [str(file) for one in find(folder) for file in one.files]
    whole = folder.parent / "whole.jsonl"  # of every hundredth picture, without a break
    predictor = Predictor(options.checkpoint, options.weights, device="cpu")
    (found,) = find(folder)
    some = replace(found, files=found.files[::100])
    predict_many(predictor, Path(options.checkpoint), [some], whole, Shard())
    rows = [json.loads(line) for line in whole.open()]
    there = table.take(list(range(0, len(names), 100)))
    gaps = [
        abs(row["confidence"] - value)
        for row, value in zip(rows, there["confidence"].to_pylist(), strict=True)
    ]
    yield {
        "each_picture_once_in_order": table["path"].to_pylist() == names,
        "same_classes_as_without_a_break": [r["class"] for r in rows] == there["class"].to_pylist(),
        "largest_gap_of_a_confidence": max(gaps),
        "left": sorted(path.name for path in folder.parent.glob("answers*")),
        "megabytes": round(target.stat().st_size / 1e6, 2),
    }


def _run(folder: Path, target: Path, part: Path, stop: int | None, options: Any) -> dict[str, Any]:
    """Runs until so many answers are there, then kills; returns speed and memory."""
    words = [sys.executable, "-m", "vitlora", "predict", str(folder), "--output", str(target)]
    words += ["--checkpoint", options.checkpoint, "--device", "cpu"]
    words += ["--weights", options.weights] if options.weights else []
    before, memory = _answers(part), [(0, 0.0)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    start, watched = time.monotonic(), psutil.Process(process.pid)
    while process.poll() is None:
        done = _answers(part)
        if done > before:
            if len(memory) == 1:
                start, before = time.monotonic(), done
            memory.append((done, watched.memory_info().rss / 1e6))
        if stop is not None and done >= stop:
            process.kill()
            process.wait()
        time.sleep(1)
    assert stop is not None or process.returncode == 0
    taken, measured = time.monotonic() - start, [size for _, size in memory[1:] if size]
    places = [round(place * (len(measured) - 1)) for place in (0, 0.25, 0.5, 0.75, 1)]
    return {
        "answers": [before, memory[-1][0]],
        "images_per_second": round((memory[-1][0] - before) / taken, 1),
        "resident_mb": [round(measured[place]) for place in places] if measured else [],
    }


def _answers(part: Path) -> int:
    """Returns how many lines there are, by the mean length of the first ones: near enough."""
    if not part.exists() or not (size := part.stat().st_size):
        return 0
    with part.open("rb") as file:
        start = file.read(2**20)
    return round(size * start.count(b"\n") / len(start))


PARTS = {"speed": _speed, "killed": _killed}

if __name__ == "__main__":
    main()
