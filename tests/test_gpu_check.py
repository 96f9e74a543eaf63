"""The GPU's benchmarks, tried with tiny shapes where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_part_but_the_compiler_and_the_peer_runs(tmp_path: Path) -> None:
    output = tmp_path / "gpu.jsonl"
    words = ["--device", "cpu", "--tiny", "--parts", "ways,predict,giant", "--output", str(output)]
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["part"] for row in rows} == {"ways", "predict", "giant"}
    left_out = [row["way"] for row in rows if "left_out" in row]
    assert left_out == ["full, paged_adamw8bit"]  # it pages to a GPU's host
    planned = {row["way"]: row.get("planned_bytes") for row in rows if row["part"] == "ways"}
    # of two small pictures, the optimiser takes more than the activations
    assert planned["lora, half the patches"] <= planned["lora"] < planned["full"]


def test_without_a_gpu_it_says_how_to_try_it(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--device cpu --tiny" in done.stderr


@pytest.mark.slow
def test_a_step_is_compared_with_the_peers() -> None:
    words = ["--batch", "2", "--steps", "1", "--turns", "1", "--threads", "1"]
    script = str(ROOT / "benchmarks" / "step_peer.py")
    command = [sys.executable, script, *words, "--quantization", "nf4", "--patch-drop", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ratio"] > 0
