"""Starts the two processes of a run on two devices, for the tests."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what the two starters tell each process; {} is its number
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "{}",
    "LOCAL_RANK": "{}",
}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "photos",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_PROCID": "{}",
    "SLURM_LOCALID": "{}",
    "SLURM_NODEID": "0",
}


def start_ranks(
    folder: Path, script: str, *words: str, by: Mapping[str, str] = TORCHRUN, status: int | None = 0
) -> list[str]:
    """Runs a script in two processes, as torchrun or srun does; returns what each printed.

    Args:
        folder: Where they run.
        script: What they run.
        words: Its arguments.
        by: What tells them their numbers.
        status: With which both have to end; None for any but 0.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    same = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, *words],
            env=same | {name: value.format(rank) for name, value in by.items()},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=600)[0] for rank in ranks]
    ended = [rank.returncode for rank in ranks]
    wrong = 0 in ended if status is None else ended != [status, status]
    assert not wrong, "\n---\n".join([str(ended), *said])
    return said
