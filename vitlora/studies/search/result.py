"""The result of a sweep: its trials, the best, and what training again says."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitlora.errors import counted
from vitlora.shell import typed
from vitlora.studies.search.again import OWN, Again
from vitlora.studies.search.goals import GOALS
from vitlora.studies.search.space import Space, said
from vitlora.studies.search.trials import Trial
from vitlora.studies.table import in_columns, to_markdown

_SHOWN = 10  # trials in the table of the command line


@dataclass(frozen=True)
class Swept:
    """The trials of a sweep.

    Attributes:
        folder: Folder with the best bundle, the logs and the pages.
        setup: What all trials share: the resolved configuration, the objectives and so on.
        space: The options that vary.
        trials: All trials, by number.
        front: Numbers of the complete trials that no other beats, best in the first objective
            first.
        again: What training again says; None if nothing was trained again.
        bundle: The best trial's bundle; None if it lies on another machine, or there is none.
    """

    folder: Path
    setup: dict[str, Any]
    space: Space
    trials: Sequence[Trial]
    front: Sequence[int]
    again: Again | None
    bundle: Path | None

    @property
    def status(self) -> int:
        """1 if no trial is complete, or a run of the best failed."""
        return int(not self.front or bool(self.again and self.again.failures))

    @property
    def best(self) -> Trial | None:
        """The best trial in the first objective; None if none is complete."""
        return next((t for t in self.trials if self.front and t.number == self.front[0]), None)

    @property
    def title(self) -> str:
        """Name of the data folder, and the base."""
        config = self.setup["config"]
        return f"{Path(config['data']['root']).name}, {config['model']['backbone']}"

    def ordered(self) -> list[Trial]:
        """Returns the trials: the front, other complete ones, pruned ones, failed ones."""
        goal = GOALS[self.setup["objectives"][0]]
        sign = -1 if goal.larger else 1
        states = ("complete", "pruned", "failed", "running", "waiting")

        def place(trial: Trial) -> tuple[Any, ...]:
            score = sign * trial.values[0] if trial.values else 0.0
            return (
                trial.number not in self.front,
                states.index(trial.state),
                score,
                trial.number,
            )

        return sorted(self.trials, key=place)

    def cells(self, trial: Trial) -> dict[str, str]:
        """Returns a trial's row of the table."""
        labels, goals = self.space.labels(), self.setup["objectives"]
        shown = dict.fromkeys([*goals, "seconds", "size"])
        numbers = {name: trial.measured.get(name) for name in shown}
        return {
            "trial": str(trial.number),
            **{labels[name]: said(trial.point[name]) for name in labels},
            **{GOALS[n].label: "" if v is None else GOALS[n].say(v) for n, v in numbers.items()},
            "outcome": self._outcome(trial),
        }

    def notes(self) -> list[str]:
        """Returns what to know about the table, a sentence or two each."""
        states = [trial.state for trial in self.trials]
        tried = {name: states.count(name) for name in ("complete", "pruned", "failed")}
        again = sum(trial.attempts - 1 for trial in self.trials)
        lines = [
            f"{counted(len(self.trials), 'trial')}: "
            + ", ".join(f"{count} {name}" for name, count in tried.items() if count)
            + (f"; {counted(again, 'attempt')} of killed processes tried again" if again else "")
            + ". Scores are those of the validation pictures."
        ]
        if len(self.setup["objectives"]) > 1:
            lines.append(
                "unbeaten: no other trial is better in one objective and as good in the others. "
                "best: of these, the one with the best score."
            )
        errors: dict[str, list[str]] = {}
        for trial in self.trials:
            if trial.error:
                errors.setdefault(trial.error, []).append(str(trial.number))
        lines += [f"failed: {', '.join(numbers)}: {error}" for error, numbers in errors.items()]
        return lines

    def verdict(self) -> list[str]:
        """Returns what training again says, in sentences."""
        again, best = self.again, self.best
        if best is None:
            return ["No trial is complete; the logs are in the folder."]
        name = f"Trial {best.number} ({self.space.say(best.point)})"
        if again is None or again.optimism is None:
            return [f"{name} is the best. Its score is that of the best of many: it is too high."]
        score, label = GOALS[again.goal].say, GOALS[again.goal].label
        mean, ends = statistics.fmean(again.scores), (min(again.scores), max(again.scores))
        seeds = counted(len(again.scores), "new seed")
        several = len(again.scores) > 1
        between = f" ({score(ends[0])} to {score(ends[1])})" if several else ""
        lines = [
            f"{name} is the best. {label} on the validation pictures: {score(again.found)} in the "
            f"search, {score(mean)} with {seeds}{between}. "
            + (
                f"The search made it look {again.optimism:.3f} better than it is."
                if again.optimism > 0
                else "New seeds confirm it."
            )
        ]
        lines += _against_own(again)
        if again.split == "val":
            lines.append(
                "There is no test split: the scores of the second table are on the validation "
                "pictures, on which the trial was chosen, so they are too high."
            )
        return lines

    def to_text(self) -> str:
        """Returns the tables and what they mean."""
        rows = [self.cells(trial) for trial in self.ordered()]
        kept = rows[: max(_SHOWN, len(self.front))]
        parts = [f"\n{in_columns(kept)}"]
        if len(kept) < len(rows):
            parts[0] += f"\n... and {len(rows) - len(kept)} more in sweep.html and sweep.json"
        parts.append("\n".join(f"- {line}" for line in self.notes()))
        if self.again and self.again.rows:
            parts.append(to_markdown(self.again.rows, self.again.failures))
        parts.append("\n".join(self.verdict()))
        return "\n\n".join([*parts, self._last()])

    def to_json(self) -> dict[str, object]:
        """Returns every number."""
        return {
            **self.setup,
            "trials": [asdict(trial) for trial in self.trials],
            "front": list(self.front),
            "again": None if self.again is None else self.again.to_json(),
            "bundle": None if self.bundle is None else str(self.bundle),
        }

    def _last(self) -> str:
        lines = [f"written to {self.folder}: sweep.html, sweep.json"]
        if self.best is None:
            return lines[0]
        lines[0] += ", best.yaml"
        if self.bundle is not None:
            lines.append(f"bundle   {self.bundle}")
            lines.append(
                f"predict  {typed('vitlora', 'predict', 'IMAGE.jpg', '--checkpoint', self.bundle)}"
            )
        else:
            machine = (self.best.worker or "").rpartition("/")[0]
            lines.append(f"the bundle of trial {self.best.number} is on {machine}")
        return "\n".join(lines)

    def _outcome(self, trial: Trial) -> str:
        if trial.number in self.front:
            return "best" if trial.number == self.front[0] else "unbeaten"
        if trial.state == "pruned":
            return f"pruned after epoch {max(trial.curve, default=0)}"
        return trial.state


def _against_own(again: Again) -> list[str]:
    """Returns how the best trial compares with the configuration on the scored pictures."""
    if len(again.rows) < 2:
        return []
    own = next(row for row in again.rows if row.method == OWN)
    best = next(row for row in again.rows if row.method != OWN)
    by = 100 * (best.accuracy - own.accuracy)
    behind = own.behind or best.behind or (0.0, 0.0)  # how far the worse of the two may be behind
    low, high = sorted(100 * end * (1 if own.behind else -1) for end in behind)
    clear = own.clear or best.clear
    better = "better" if by > 0 else "worse"
    shown = f"It is clearly {better}." if clear else "That may be chance: neither is shown better."
    return [
        f"Accuracy on {len(own.runs[0].labels):,} {again.split} pictures: {best.accuracy:.3f}, and "
        f"{own.accuracy:.3f} of the configuration without changes, which is {by:+.1f} points "
        f"({low:.1f} to {high:.1f}). {shown}"
    ]
