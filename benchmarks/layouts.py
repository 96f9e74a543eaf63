"""Which shapes of data are read as they are meant, or refused: one line for each that is tested.

    python benchmarks/layouts.py [--out FILE.jsonl]

Runs the tests in tests/data/layouts, each of which writes its files as their tool does, and keeps
what became of each.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import pytest


class Kept:
    """A plugin of pytest that keeps the outcome of each test.

    Attributes:
        rows: File, test and outcome.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes an outcome; what was skipped is known after the setup."""
        if report.when == "call" or report.skipped:
            file, _, name = report.nodeid.partition("::")
            self.rows.append({"file": Path(file).stem, "test": name, "outcome": report.outcome})


def main() -> None:
    """Prints how many there are of each kind, and keeps one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/layouts.jsonl"))
    options = parser.parse_args()
    kept = Kept()
    pytest.main(["-q", "tests/data/layouts", "tests/data/test_archives.py"], plugins=[kept])
    options.out.write_text("".join(json.dumps(row) + "\n" for row in kept.rows))
    for (file, outcome), count in sorted(
        Counter((r["file"], r["outcome"]) for r in kept.rows).items()
    ):
        print(f"{file:<24} {outcome:<8} {count:>4}")


if __name__ == "__main__":
    main()
