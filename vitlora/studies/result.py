"""The result of a comparison: its table, its notes and its advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora.errors import counted
from vitlora.shell import typed
from vitlora.studies.advice import advise
from vitlora.studies.bases import FROZEN, file_name, parted
from vitlora.studies.comparison import Failure, Row
from vitlora.studies.table import to_markdown


@dataclass(frozen=True)
class Comparison:
    """The compared methods.

    Attributes:
        folder: Folder with the table, the chart, the bundles and the logs.
        split: The split that was scored.
        config: The configuration that all runs share.
        rows: One row for each method.
        failures: Runs that failed.
        margin: Accuracy that a cheaper method may lose and still be advised.
    """

    folder: Path
    split: str
    config: dict[str, Any]
    rows: Sequence[Row]
    failures: Sequence[Failure]
    margin: float

    @property
    def status(self) -> int:
        """1 if any run failed."""
        return int(bool(self.failures))

    @property
    def advice(self) -> str:
        """Which method to take, and why."""
        return advise(self.rows, self.split, self.margin)

    @property
    def title(self) -> str:
        """Name of the data folder, and the base."""
        return f"{Path(self.config['data']['root']).name}, {_bases(self)}"

    def to_text(self) -> str:
        """Returns the table, its notes and the advice."""
        parts = [f"\n{to_markdown(self.rows, self.failures)}", _notes(self), self.advice]
        names = ["comparison.md", "comparison.json", *["comparison.png"] * bool(self.rows)]
        last = f"written to {self.folder}: {', '.join(names)}"
        if self.rows:
            run = next(row for row in self.rows if row.p is None).runs[0]
            bundle = self.folder / f"{file_name(run.method)}-{run.seed}"
            predict = typed("vitlora", "predict", "IMAGE.jpg", "--checkpoint", bundle)
            last += f"\npredict  {predict}"
        return "\n\n".join([*parts, last])

    def to_markdown(self) -> str:
        """Returns the same as a Markdown page, with the chart."""
        parts = [f"# {self.title}", to_markdown(self.rows, self.failures), _notes(self)]
        chart = ["![accuracy against cost](comparison.png)"] if self.rows else []
        return "\n\n".join([*parts, f"**{self.advice}**", *chart]) + "\n"

    def to_json(self) -> dict[str, object]:
        """Returns every number."""
        return {
            "split": self.split,
            "rows": [row.to_json() for row in self.rows],
            "failures": [vars(failure) for failure in self.failures],
            "margin": self.margin,
            "advice": self.advice,
            "config": self.config,
        }


def _bases(found: Comparison) -> str:
    """Returns the base, or how many there are."""
    names = [row.method for row in found.rows] + [one.method for one in found.failures]
    several = {parted(name)[1] for name in names} - {""}
    return counted(len(several), "base") if several else found.config["model"]["backbone"]


def _were_chosen(rows: Sequence[Row]) -> bool:
    """Returns whether only some of the bases were fine-tuned."""
    frozen, tuned = set[str](), set[str]()
    for method, base in (parted(row.method) for row in rows):
        (frozen if method == FROZEN else tuned).add(base)
    return bool(tuned) and tuned < frozen


def _length(trainer: Mapping[str, Any]) -> str:
    """Returns how long each run trained, as the configuration says it."""
    if trainer.get("time") is not None:
        return f"time {trainer['time']} for each run"
    epochs = trainer["max_epochs"]
    return f"{trainer['max_steps']} steps" if epochs is None else counted(epochs, "epoch")


def _notes(found: Comparison) -> str:
    model, trainer = found.config["model"], found.config["trainer"]
    runs = [run for row in found.rows for run in row.runs]
    where = " / ".join(sorted({f"{run.device}, {run.precision}" for run in runs}))
    lines = [
        f"{_bases(found)}, {_length(trainer)}, batch size "
        f"{found.config['data']['batch_size']}, checkpointing {str(model['checkpointing']).lower()}"
        f"{f', on {where}' if runs else ''}.",
        "p: chance of such a difference from the best, on the same pictures, if both were "
        "equally good. behind best: on other such pictures.",
    ]
    if all(len(row.runs) == 1 for row in found.rows):
        lines.append(
            "One seed: the intervals hold for these trained networks. Another seed can move a "
            "method by a point or two; try --seeds 0,1,2."
        )
    if _were_chosen(found.rows):
        lines.append(
            "The bases to fine-tune were chosen by the macro-F1 of their frozen features on the "
            f"validation pictures{', which flatters them' if found.split == 'val' else ''}."
        )
    if found.split == "val":
        lines.append(
            "There is no test split: the scores are on the validation pictures, on which each run "
            "chose its epoch, so they are too high."
        )
    if known := max((run.seen_in_training or 0 for run in runs), default=0):
        lines.append(
            f"{known:,} of the {len(runs[0].labels):,} scored pictures are copies of "
            "training pictures, so scores are too high; 'vitlora doctor' shows them."
        )
    lines += [f"{f.method}, seed {f.seed} failed: {f.error}" for f in found.failures]
    return "\n".join(f"- {line}" for line in lines)
