"""What predict.py saves by importing torchvision and timm without torch's compiler.

    python benchmarks/imports.py

Fresh processes in turns: seconds of CPU time of ``import torch, timm`` as they come, and inside
``without_compiler``. Printed and appended to benchmarks/results/imports.jsonl.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "imports.jsonl"
TURNS = 5
PLAIN = "import torch, timm"
OURS = """
from vitlora.light_imports import without_compiler
with without_compiler():
    import torch, timm
"""
TIME = "\nimport time\nprint(time.process_time())"


def main() -> None:
    """Prints one JSON line."""
    pairs = [(_seconds(PLAIN), _seconds(OURS)) for _ in range(TURNS)]
    plain, ours = (round(statistics.median(side), 2) for side in zip(*pairs, strict=True))
    line = json.dumps({"import torch, timm": plain, "without the compiler": ours, "turns": TURNS})
    print(line)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _seconds(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code + TIME], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
