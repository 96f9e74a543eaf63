"""Runs the methods of a comparison, and says how each ended."""

import textwrap
from collections.abc import Sequence
from itertools import product

from vitlora.errors import counted
from vitlora.notes import tell
from vitlora.studies.comparison import Failure, Run
from vitlora.studies.study import Study
from vitlora.units import clock

_TAIL = 8  # last lines of a failed run's log


class Runs:
    """The runs of a comparison, one after another; says what each is and how it ended.

    Args:
        study: Their folder and configuration.
        seeds: Each method is run with each of them.
        total: How many runs there will be.

    Attributes:
        finished: Those that finished, method by method.
        failed: Those that failed.
    """

    def __init__(self, study: Study, seeds: Sequence[int], total: int) -> None:
        self.finished: list[Run] = []
        self.failed: list[Failure] = []
        self._study, self._seeds, self._total = study, seeds, total

    def add(self, methods: Sequence[str]) -> None:
        """Runs methods with each seed, all of them with the first seed first."""
        before = len(self.finished)
        try:
            for seed, method in product(self._seeds, methods):
                number = f"{len(self.finished) + len(self.failed) + 1}/{self._total}"
                result = _run(self._study, method, seed, number)
                if isinstance(result, Run):
                    self.finished.append(result)
                else:
                    self.failed.append(result)
        except KeyboardInterrupt:
            kept = len(self.finished) + len(self.failed)
            tell(f"\n{kept} of {counted(self._total, 'run')} kept; the same command continues")
            raise
        new = self.finished[before:]
        self.finished[before:] = sorted(new, key=lambda run: methods.index(run.method))

    def add_earlier(self, methods: Sequence[str]) -> list[str]:
        """Adds methods that were run with every seed, and returns them; runs nothing."""
        earlier = {m: [self._study.finished(m, seed) for seed in self._seeds] for m in methods}
        whole = [method for method, runs in earlier.items() if None not in runs]
        self.finished += [run for method in whole for run in earlier[method] if run is not None]
        return whole


def _run(study: Study, method: str, seed: int, number: str) -> Run | Failure:
    """Runs a method with a seed unless an earlier result exists; logs its start and its end."""
    label = f"{number}  {method}, seed {seed}:"
    if known := study.finished(method, seed):
        tell(f"{label} {_accuracy(known)}, from an earlier run")
        return known
    tell(f"{label} training ...")
    result = study.run(method, seed)
    if isinstance(result, Run):
        tell(f"{label} {_accuracy(result)}, trained in {clock(result.seconds)}")
        return result
    log = study.path(method, seed, ".log")
    tail = log.read_text("utf-8", "replace").strip().splitlines()[-_TAIL:]
    tell(f"{label} failed: {result.error}\n{textwrap.indent(chr(10).join(tail), '    ')}")
    tell(f"    the whole log: {log}")
    return result


def _accuracy(run: Run) -> str:
    right = sum(a == b for a, b in zip(run.labels, run.answers, strict=True))
    return f"accuracy {right / len(run.labels):.4f}"
