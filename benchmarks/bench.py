"""Runs the benchmarks that this machine can run, then writes docs/performance.md.

    make bench [DATA=TRASHNET WEIGHTS=VIT_TINY.safetensors]
    python benchmarks/bench.py [--data TRASHNET --weights VIT_TINY.safetensors] [--only step plan]

Each prints JSON lines, which are kept in benchmarks/results/. What needs photos, real weights or
the peer's libraries (``pip install transformers accelerate``) is left out without them, with a
line. The machine should have nothing else to do: hours on two cores.
"""

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
STEP = ["step_peer.py", "--precision"]
VIT_B = ["--model", "vit_base_patch16_224", "--batch", "4", "--steps", "3"]
PHOTOS = ["--data", "{data}"]
CHIPS = ["--threads", "1", "--patch-drop", "0", "0.5", "--turns", "3", "--chips", "own", "plain"]
FAST = ["--ours", "4", "3 --model.adapter.lr_ratio 4 --model.lr 1e-3"]
REAL = [*PHOTOS, "--weights", "{weights}"]

# file in results/ -> commands; those of CAPTURED print what belongs there, the others write it
JOBS: dict[str, list[list[str]]] = {
    "step_peer": [
        [*STEP, precision, *more] for more in ([], VIT_B) for precision in ("bf16", "fp32")
    ],
    "step_chips": [
        ["step_peer.py", *more, *CHIPS]
        for more in (["--targets", "qkv", "proj"], [], [*VIT_B, "--targets", "qkv", "proj"])
    ],
    "method_step": [["method_step.py"]],
    "step_profile": [["step_profile.py"]],
    "imports": [["imports.py"]],
    "plan": [["plan.py", "--device", "cpu"]],
    "prefix_cache": [["prefix_cache.py", "steps"], ["prefix_cache.py", "epochs", *PHOTOS]],
    "loading": [["loading.py", *PHOTOS]],
    "predicting": [["predicting.py", "--parts", "start,latency,precision,folder"]],
    "serving": [["serving.py", *PHOTOS]],
    "serving_fuzz": [["serving_fuzz.py"]],
    "trainer_peer": [
        ["trainer_peer.py", *REAL, *FAST, "--peer", "6", "4", "--seeds", "0", "1", "2"]
    ],
    "giant": [
        ["giant.py", "timm/vit_large_patch16_224", "--batch", "1", "--limit", "1.4"],
        ["giant.py", "timm/vit_giant_patch14_dinov2", "--batch", "1", "--limit", "2"],
        ["giant.py", "timm/vit_7b_patch16_dinov3", "--batch", "1", "--limit", "6"],
    ],
}
CAPTURED = {"step_peer", "step_chips", "method_step", "plan", "trainer_peer"}
PEER = {"step_peer", "step_chips", "trainer_peer"}


def main() -> None:
    """Runs each in turn; one that fails is said, and the others still run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="", help="TrashNet's train/, val/ and test/")
    parser.add_argument("--weights", default="", help="of ViT-Tiny, .safetensors")
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    for name in options.only:
        for words in JOBS[name]:
            command = [w.format(data=options.data, weights=options.weights) for w in words]
            if "" in command:
                print(f"{name}: left out, needs {' '.join(w for w in words if '{' in w)}")
            elif name in PEER and not find_spec("transformers"):
                print(f"{name}: left out, needs: pip install transformers accelerate")
            else:
                _run(name, command)
    subprocess.run([sys.executable, HERE / "performance.py"], check=True)


def _run(name: str, command: list[str]) -> None:
    print(f"{name}: {' '.join(command)}", flush=True)
    words = [sys.executable, str(HERE / command[0]), *command[1:]]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(f"{name}: failed with status {done.returncode}", flush=True)
    elif name in CAPTURED:
        with (HERE / "results" / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(f"{x}\n" for x in done.stdout.splitlines() if x.startswith('{"'))


if __name__ == "__main__":
    main()
