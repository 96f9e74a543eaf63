"""A run on two devices beside the same run on one: its losses, its speed, the bytes that it sends.

    python benchmarks/devices.py --data SET --weights VIT_TINY.safetensors [--repeats 3]

Trains LoRA on a ViT-Tiny with fp32, batches of 32:

- ``losses``: two epochs on one process and on two (gloo); the largest difference of any number in
  ``metrics.csv``.
- ``images``: pictures per second of the same step on one process with two threads and on two with
  one thread each, in turns.
- ``network``: two ``torchrun`` agents in network namespaces of their own stand in for two machines.
  The counters of the cable between them say how many bytes a step sends: the difference of two runs
  divided by that of their steps. For LoRA, NF4 and the head alone. Needs root and ``ip``.

Appends a row for each to benchmarks/results/devices.jsonl.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "devices.jsonl"
BASE = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
NETS = ("vitlora0", "vitlora1")  # namespaces; the cable's ends have the same names
ADDRESS = "10.211.7."
METHODS = {
    "lora": [],
    "lora of the last 2 blocks": ["--model.adapter.last_blocks", "2"],
    "qlora": ["--model.quantization", "nf4"],
    "head": ["--model.adapter", "LinearProbe", "--trainer.cache", "off"],
}


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["losses", "images", "network"])
    options = parser.parse_args()
    fit = [
        "fit",
        "--data",
        str(options.data.resolve()),
        "--weights",
        str(options.weights.resolve()),
    ]
    fit += ["--model.backbone", BASE, "--trainer.accelerator", "cpu", "--data.batch_size", "32"]
    fit += ["--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in options.only:
            found = {"losses": losses, "images": images, "network": network}[name]
            for row in found(fit, options.repeats):
                about = {"what": name, "cores": os.cpu_count(), "torch": version("torch")}
                with RESULTS.open("a") as file:
                    file.write(json.dumps(about | row) + "\n")
                print(json.dumps(row), flush=True)


def losses(fit: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Yields how far the numbers of two processes are from those of one."""
    words = [*fit, "--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1"]
    for devices in ("1", "2"):
        vitlora([*words, "--devices", devices, "--output", devices])
    read = [Path(devices, "logs/metrics.csv").read_text() for devices in ("1", "2")]
    one, two = ([*csv.DictReader(io.StringIO(text))] for text in read)
    gaps = [
        abs(float(value) - float(other[name]))
        for row, other in zip(one, two, strict=True)
        for name, value in row.items()
        if value
    ]
    yield {"numbers": len(gaps), "largest_difference": max(gaps)}


def images(fit: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Yields pictures per second on one process and on two, in turns.

    The time of a step is the difference of two runs divided by that of their steps.
    """
    few, many = 4, 20
    for number in range(repeats):
        took: dict[str, float] = {}
        for devices in ("1", "2"):
            seconds = [
                timed([*fit, *_steps(steps), "--devices", devices, "--output", "timed"])
                for steps in (few, many)
            ]
            took[devices] = 32 * (many - few) / (seconds[1] - seconds[0])
        yield {
            "repeat": number,
            "one": round(took["1"], 2),
            "two": round(took["2"], 2),
            "ratio": round(took["2"] / took["1"], 3),
        }


def network(fit: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    """Yields the bytes that a step sends between two machines, beside those of what is trained."""
    with machines():
        for method, more in METHODS.items():
            sent = [
                on_both([*fit, *more, *_steps(steps), "--output", f"{method} {steps}"])
                for steps in (4, 12)
            ]
            bundle = Path(f"{method} 12", "vitlora.json")
            cost = json.loads(Path(f"{method} 12", "logs", "cost.json").read_text())
            yield {
                "method": method,
                "trained_bytes": 4 * cost["trainable"],
                "base_parameters": cost["parameters"],
                "sent_per_step_each": round((sent[1] - sent[0]) / 8),
                "bundle_bytes": sum(f.stat().st_size for f in bundle.parent.glob("*.*")),
            }


def _steps(count: int) -> list[str]:
    return [
        *("--trainer.max_epochs", "null", "--trainer.max_steps", str(count)),
        *("--trainer.callbacks+=vitlora.training.Cost", "--data.check_copies", "false"),
    ]


def vitlora(words: list[str]) -> None:
    """Runs a command."""
    with Path("said.txt").open("w") as said:
        command = [sys.executable, "-m", "vitlora", *words]
        done = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(Path("said.txt").read_text())


def timed(words: list[str]) -> float:
    """Returns the seconds that a command takes."""
    began = time.monotonic()
    vitlora(words)
    return time.monotonic() - began


@contextmanager
def machines() -> Iterator[None]:
    """Makes two network namespaces with a cable between them."""
    try:
        for net in NETS:
            _ip("netns", "add", net)
        _ip("link", "add", NETS[0], "type", "veth", "peer", "name", NETS[1])
        for number, net in enumerate(NETS):
            _ip("link", "set", net, "netns", net)
            _ip("-n", net, "addr", "add", f"{ADDRESS}{number + 1}/24", "dev", net)
            for device in ("lo", net):
                _ip("-n", net, "link", "set", device, "up")
        yield
    finally:
        for net in NETS:
            _ip("netns", "del", net)


def on_both(words: list[str]) -> int:
    """Runs a command on both machines, a process on each; returns the bytes that one has sent."""
    before = _sent()
    agents = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", net, sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number)),
                *("--master-addr", f"{ADDRESS}1", "--master-port", "29511"),
                *("-m", "vitlora", *words),
            ],
            env={**os.environ, "GLOO_SOCKET_IFNAME": net, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, net in enumerate(NETS)
    ]
    said = [agent.communicate()[0] for agent in agents]
    if any(agent.returncode for agent in agents):
        raise SystemExit("\n---\n".join(said))
    return _sent() - before


def _sent() -> int:
    read = f"/sys/class/net/{NETS[1]}/statistics/tx_bytes"
    command = ["ip", "netns", "exec", NETS[1], "cat", read]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


if __name__ == "__main__":
    main()
