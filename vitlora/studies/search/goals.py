"""What a sweep looks for: scores on the validation pictures, and costs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlora.errors import UsageError, nearest
from vitlora.studies.study import bundle_size
from vitlora.units import clock, size


@dataclass(frozen=True)
class Goal:
    """A number of a trial that should be large or small.

    Attributes:
        label: Its name in tables.
        larger: Whether larger is better.
        score: Whether it is measured on the validation pictures, after each epoch.
        say: Returns the number as text.
    """

    label: str
    larger: bool
    score: bool
    say: Callable[[float], str]


def _three(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


GOALS = {
    "macro_f1": Goal("macro-F1", True, True, _three),
    "accuracy": Goal("accuracy", True, True, _three),
    "loss": Goal("loss", False, True, _three),
    "seconds": Goal("training", False, False, clock),
    "size": Goal("bundle", False, False, size),
    "memory": Goal("memory", False, False, size),
    "trainable": Goal("trained", False, False, _whole),
}


def check_goals(names: Sequence[str]) -> list[str]:
    """Returns the names of goals as a list, after checking them.

    Raises:
        UsageError: A name is unknown or appears twice, or the first is not a score.
    """
    for name in names:
        if name not in GOALS:
            raise UsageError(
                f"--objectives has '{name}'; expected some of {', '.join(GOALS)}"
                f"{nearest(name, GOALS)}"
            )
        if list(names).count(name) > 1:
            raise UsageError(f"--objectives has '{name}' twice; give it once")
    if not names or not GOALS[names[0]].score:
        scores = [name for name, goal in GOALS.items() if goal.score]
        raise UsageError(
            f"--objectives starts with {names[0] if names else 'nothing'}; expected a score first: "
            f"{', '.join(scores)}"
        )
    return list(names)


def measured(bundle: Path) -> dict[str, float]:
    """Returns every goal's number of a finished training; those that are unknown are left out."""
    record = json.loads((bundle / "vitlora.json").read_text("utf-8"))
    cost = json.loads((bundle / "logs" / "cost.json").read_text("utf-8"))
    found = {name: record["metrics"].get(name) for name in GOALS if GOALS[name].score}
    found |= {name: cost[name] for name in ("seconds", "trainable")}
    found["size"] = bundle_size(bundle)
    found["memory"] = cost["device_bytes"] or cost["host_bytes"]
    return {name: float(value) for name, value in found.items() if value is not None}


def front(names: Sequence[str], values: Mapping[int, Sequence[float]]) -> list[int]:
    """Returns the trials that no other trial beats, best in the first goal first.

    A trial beats another if it is better in one goal and as good in the others. Of equals the one
    with the lowest number counts.

    Args:
        names: The goals.
        values: Each trial's number -> the value of each goal.
    """
    signs = [-1 if GOALS[name].larger else 1 for name in names]
    costs = {n: tuple(s * v for s, v in zip(signs, vs, strict=True)) for n, vs in values.items()}
    best = [
        number
        for number, cost in costs.items()
        if not any(_beats((c, n), (cost, number)) for n, c in costs.items())
    ]
    return sorted(best, key=lambda number: (costs[number], number))


def _beats(one: tuple[tuple[float, ...], int], other: tuple[tuple[float, ...], int]) -> bool:
    (cost, number), (other_cost, other_number) = one, other
    as_good = all(a <= b for a, b in zip(cost, other_cost, strict=True))
    return as_good and (cost != other_cost or number < other_number)
