"""A sweep as one offline HTML page: what was tried, and what it says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vitlora import yaml_text
from vitlora.pages.axis import Axis, axis
from vitlora.pages.page import render
from vitlora.studies.search.goals import GOALS
from vitlora.studies.search.result import Swept
from vitlora.studies.search.space import Choices, Range, Value, said
from vitlora.studies.search.trials import Trial
from vitlora.studies.table import cells_of

_LONGEST = 56  # characters of all choices under their chart


@dataclass(frozen=True)
class Plot:
    """Dots over an axis.

    Attributes:
        name: What is along the axis.
        ticks: Position in ``[0, 1]`` and label of each.
        y: The vertical axis.
        dots: Position in ``[0, 1]``, value, whether the trial is on the front, and a title.
        line: Positions and values of a line.
    """

    name: str
    ticks: Sequence[tuple[float, str]]
    y: Axis
    dots: Sequence[tuple[float, float, bool, str]]
    line: Sequence[tuple[float, float]] = ()


def page(swept: Swept) -> str:
    """Returns the page of a sweep."""
    done = [trial for trial in swept.trials if trial.values is not None]
    rows = [swept.cells(trial) for trial in swept.ordered()]
    again = [cells_of(row) for row in swept.again.rows] if swept.again else []
    return render(
        "sweep.html",
        swept=swept,
        goal=GOALS[swept.setup["objectives"][0]].label,
        rows=rows,
        columns=_columns(rows),
        again=again,
        again_columns=_columns(again),
        history=_history(swept, done) if done else None,
        costs=_costs(swept, done) if done else [],
        options=_options(swept, done) if done else [],
        config=yaml_text.write(swept.setup["config"]),
        space=yaml_text.write(swept.setup["space"]),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def _columns(rows: Sequence[dict[str, str]]) -> list[str]:
    """Returns the names of the columns that are not empty."""
    return [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]


def _title(swept: Swept, trial: Trial) -> str:
    goals = [GOALS[name] for name in swept.setup["objectives"]]
    values = zip(goals, trial.values or (), strict=True)
    scores = ", ".join(f"{goal.label} {goal.say(value)}" for goal, value in values)
    return f"trial {trial.number}: {swept.space.say(trial.point)}: {scores}"


def _dot(swept: Swept, trial: Trial, at: float) -> tuple[float, float, bool, str]:
    assert trial.values is not None  # only complete trials are drawn
    return at, trial.values[0], trial.number in swept.front, _title(swept, trial)


def _scores(done: Sequence[Trial]) -> Axis:
    return axis([trial.values[0] for trial in done if trial.values])


def _history(swept: Swept, done: Sequence[Trial]) -> Plot:
    """Returns the score of each trial, and the best until then."""
    x = axis([0, max(trial.number for trial in done)], 1)
    larger = GOALS[swept.setup["objectives"][0]].larger
    line: list[tuple[float, float]] = []
    for trial in done:
        score = (trial.values or (0.0,))[0]
        best = line[-1][1] if line else score
        line.append((x.at(trial.number), best))  # a step
        line.append((x.at(trial.number), max(best, score) if larger else min(best, score)))
    dots = [_dot(swept, trial, x.at(trial.number)) for trial in done]
    return Plot("trial", _ticks(x), _scores(done), dots, line)


def _costs(swept: Swept, done: Sequence[Trial]) -> list[Plot]:
    """Returns the score over each other objective; a line joins the front."""
    plots = []
    for index, name in enumerate(swept.setup["objectives"][1:], 1):
        values = {trial.number: trial.values[index] for trial in done if trial.values}
        x = axis(list(values.values()), 0.0 if GOALS[name].score else 1)
        dots = [_dot(swept, trial, x.at(values[trial.number])) for trial in done]
        line = sorted((at, score) for at, score, front, _ in dots if front)
        ticks = [(at, GOALS[name].say(float(label))) for at, label in _ticks(x)]
        plots.append(Plot(GOALS[name].label, ticks, _scores(done), dots, line))
    return plots


def _options(swept: Swept, done: Sequence[Trial]) -> list[Plot]:
    """Returns the score over each option."""
    plots = []
    for name, part in swept.space.parts.items():
        at, ticks = _along(part, [trial.point[name] for trial in done])
        dots = [_dot(swept, trial, at(trial.point[name])) for trial in done]
        plots.append(Plot(name, ticks, _scores(done), dots))
    return plots


def _along(part: Choices | Range, values: Sequence[Value]) -> tuple[Any, list[tuple[float, str]]]:
    """Returns where values stand along an axis, and its ticks."""
    if isinstance(part, Choices):
        places = {word: (n + 0.5) / len(part.words) for n, word in enumerate(part.words)}
        return places.__getitem__, [
            (at, _cut(said(word), len(places))) for word, at in places.items()
        ]
    if part.log:
        low, high = math.log(part.low), math.log(part.high)
        count = 4
        marks = [math.exp(low + (high - low) * n / count) for n in range(count + 1)]
        ticks = [(n / count, f"{mark:.2g}") for n, mark in enumerate(marks)]
        return lambda value: (math.log(value) - low) / (high - low), ticks
    x = axis([part.low, part.high], 1 if part.whole else 0.0)
    return x.at, _ticks(x)


def _ticks(x: Axis) -> list[tuple[float, str]]:
    return [(x.at(tick), f"{tick:g}") for tick in x.ticks]


def _cut(text: str, count: int) -> str:
    """Returns the start of a text that shares a line with others."""
    most = max(_LONGEST // count, 3)
    return text if len(text) <= most else f"{text[: most - 1]}…"
