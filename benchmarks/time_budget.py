"""How well a run keeps to the time it was given: ``fit --time``, whole processes by the clock.

    python benchmarks/time_budget.py --data SETS/a --weights VIT_TINY.safetensors --times 90s 3m

What else the machine does is part of the test: the plan is corrected while training goes on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vitlora.units import seconds_of


def main() -> None:
    """Runs each set with each time; prints a JSON line for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--times", nargs="+", default=["90s", "3m"])
    parser.add_argument("--options", default="", help="further options of fit")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/time_budget.jsonl"))
    options = parser.parse_args()
    for data in options.data:
        for asked in options.times:
            row = run(options, data, asked)
            with options.output.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def run(options: argparse.Namespace, data: Path, asked: str) -> dict[str, object]:
    """Returns the time asked for and taken, by the clock outside, the plan and the last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "vitlora",
            "fit",
            "--data",
            data,
            "--output",
            f"{folder}/b",
        ]
        command += ["--model.backbone", options.backbone, "--weights", options.weights]
        command += ["--time", asked, *options.options.split()]
        load, start = os.getloadavg()[0], time.monotonic()
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True
        )
        took = time.monotonic() - start
    planned = re.search(r"run: (.*)", done.stdout)
    epochs = re.findall(r"epoch +(\d+)/", done.stdout)
    return {
        "data": data.name,
        "asked": asked,
        "seconds": round(took, 1),
        "share": round(took / seconds_of(asked, "--times"), 3),
        "planned": planned.group(1) if planned else None,
        "epochs_begun": int(epochs[-1]),
        "options": options.options,
        "load": round(load, 1),
    }


if __name__ == "__main__":
    main()
