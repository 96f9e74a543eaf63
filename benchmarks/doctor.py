"""Times the folder doctor, names TrashNet's mislabelled twins and the scenes in two splits.

python benchmarks/doctor.py DIR > benchmarks/results/doctor.jsonl

The first lines are times, the best of two, on as many threads as the machine has cores: on the
clock, and of all cores together, which says what an idle machine would take. Then comes one line
for each finding, with file names relative to DIR. What ``fit`` pays is the difference between
decoding with and without a fingerprint, and comparing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vitlora.data.doctor import examine
from vitlora.data.doctor.survey import survey
from vitlora.data.duplicates import Fingerprint, fingerprint, group
from vitlora.data.images import open_image

CORES = os.cpu_count() or 1


def best(run: Callable[[], object]) -> dict[str, float]:
    """Returns the least seconds of two runs, on the clock and of all cores together."""
    clock, cores = [], []
    for _ in range(2):
        started, worked = time.perf_counter(), time.process_time()
        run()
        clock.append(time.perf_counter() - started)
        cores.append(time.process_time() - worked)
    return {"seconds": round(min(clock), 2), "core_seconds": round(min(cores), 2)}


def in_threads(read: Callable[[Path], object], paths: list[Path]) -> Callable[[], object]:
    """Returns a run over all files."""

    def run() -> object:
        with ThreadPoolExecutor(CORES) as pool:
            return list(pool.map(read, paths))

    return run


def say(**row: object) -> None:
    """Prints a line of JSON."""
    print(json.dumps(row), flush=True)


root = Path(sys.argv[1])
paths = sorted(root.rglob("*.jpg"))
thousands = len(paths) / 1000
found = survey(root)
say(pictures=len(paths), cores=CORES, load=round(os.getloadavg()[0], 1))
for what, run in {
    "decode only": in_threads(lambda path: open_image(path, at_least=1), paths),
    "decode, fingerprint": in_threads(fingerprint, paths),
    "doctor": lambda: examine(survey(root)),
}.items():
    took = best(run)
    per_1000 = {name: round(value / thousands, 3) for name, value in took.items()}
    say(what=what, per_1000=per_1000)

rng = np.random.default_rng(0)
noise, no_colour = rng.normal(0, 500, (10_000, 16, 16)), np.zeros((4, 4, 2), np.float32)
prints = [Fingerprint(rng.bytes(32), one.astype(np.float32), no_colour) for one in noise]
say(what="compare", pictures=len(prints), **best(lambda: group(prints)))

for finding in examine(found):
    say(
        finding=finding.kind,
        severity=finding.severity,
        count=finding.count,
        files=finding.groups or finding.files,
    )
