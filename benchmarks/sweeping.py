"""A sweep of short trials with workers that are killed: each trial counts once, none is lost.

    python benchmarks/sweeping.py [--trials 20] [--workers 2]

Runs ``vitlora sweep`` on the drawn pictures and kills (SIGKILL) a worker in the middle of a trial,
then a training. Checks that all trials were completed, that no two have the same point, that both
killed ones were tried again with the same point, and that only the best bundle is left. Appends
the row to benchmarks/results/sweeping.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results" / "sweeping.jsonl"
SPACE = """
model.lr: {low: 0.0005, high: 0.02, log: true}
model.adapter.rank: [2, 4, 8, 16]
model.adapter.targets: [[attention.qkv], [attention.qkv, attention.proj]]
"""
VITLORA = (sys.executable, "-m", "vitlora")
PATIENCE = 600  # seconds until the next thing to kill has to show up


def main() -> None:
    """Runs the sweep and checks what it left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        row = sweep(options.trials, options.workers)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


def sweep(trials: int, workers: int) -> dict[str, Any]:
    """Returns what was killed and what was left."""
    Path("space.yaml").write_text(SPACE)
    subprocess.run([*VITLORA, "fetch", "waste5-drawn"], check=True, stdout=subprocess.DEVNULL)
    words = ["sweep", "demo.yaml", "--sweep", "space.yaml", "--trials", str(trials)]
    words += ["--workers", str(workers), "--again", "0", "--trainer.max_epochs", "1"]
    began = time.monotonic()
    with subprocess.Popen([*VITLORA, *words]) as command:
        killed = [kill(command.pid, "search.worker", {}), 0]
        killed[1] = kill(command.pid, "--seed_everything", {killed[0]: 1})
        status = command.wait()
    seconds = time.monotonic() - began
    left = json.loads(Path("sweeps/demo/sweep.json").read_text())
    found = left["trials"]
    points = {json.dumps(trial["point"]) for trial in found}
    bundles = [path.parent.name for path in Path("sweeps/demo").glob("trial-*/vitlora.json")]
    best = max(found, key=lambda trial: (trial["values"][0], -trial["number"]))
    row = {
        "trials": len(found),
        "workers": workers,
        "complete": sum(trial["state"] == "complete" for trial in found),
        "points": len(points),
        "tried_again": sorted(trial["number"] for trial in found if trial["attempts"] > 1),
        "killed": killed,
        "bundles": bundles,
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(trial["measured"]["seconds"] for trial in found), 1),
        "optuna": version("optuna"),
    }
    assert status == 0 and len(found) == row["complete"] == row["points"] == trials, row
    assert row["tried_again"] == sorted(killed), row
    again = "" if best["attempt"] == best["number"] else f"-{best['attempt']}"
    assert bundles == [f"trial-{best['number']:04}{again}"], row
    return row


def kill(command: int, kind: str, before: dict[int, int]) -> int:
    """Kills a process of a kind while it runs a trial; returns the trial's number.

    Args:
        command: The sweep's process.
        kind: A word of the process's command line.
        before: Trials that were killed before, which are left alone.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(0.5)
        every = psutil.Process(command).children(recursive=True)
        for training in every:
            number = trial_of(training)
            if number is None or number in before:
                continue
            if not Path(f"sweeps/demo/trial-{number:04}").is_dir():
                continue  # it has not begun to train
            victim = training if kind in words_of(training) else training.parent()
            if victim is not None and kind in words_of(victim):
                victim.kill()
                return number
    raise TimeoutError(f"nothing to kill for {PATIENCE} s")


def words_of(process: psutil.Process) -> str:
    """Returns a command line; nothing if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def trial_of(process: psutil.Process) -> int | None:
    """Returns the number of the trial that a process trains; None if it trains none."""
    words = words_of(process).split()
    if "--seed_everything" not in words or process.ppid() == 1:
        return None
    return int(Path(words[words.index("--output") + 1]).name.split("-")[1])


if __name__ == "__main__":
    main()
