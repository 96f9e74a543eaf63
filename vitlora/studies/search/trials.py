"""Trials as people count them: a point and all attempts at it. Pure functions."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from vitlora.studies.search.space import Point

MOST = 5  # attempts at a point whose processes are killed
# What an attempt's attributes in the storage say.
FIRST, VOID, ERROR, WORKER, BEAT, MEASURED = (
    *("first", "void", "error", "worker", "beat", "measured"),
)
State: TypeAlias = Literal["waiting", "running", "complete", "pruned", "failed"]
SETTLED = ("complete", "pruned", "failed")


@dataclass(frozen=True)
class Trial:
    """A point of the space and what became of it.

    Attributes:
        number: Number of its first attempt.
        point: The values of the options.
        state: A trial is running as long as an attempt is, and waiting if it has to be tried again.
        attempt: Number of the attempt that settled it, else of the last one.
        attempts: How many there were.
        values: Value of each goal; None unless it is complete.
        measured: All numbers of the finished training, by the goals' names.
        curve: Epoch, from 1 -> the validation score after it.
        error: Why it failed.
        worker: The mark of the worker's hold.
    """

    number: int
    point: Point
    state: State
    attempt: int
    attempts: int
    values: tuple[float, ...] | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)
    error: str | None = None
    worker: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in SETTLED


def first_of(attempt: Any) -> int:
    """Returns the number of a trial by one of its attempts, as Optuna records it."""
    return attempt.user_attrs.get(FIRST, attempt.number)


def is_void(attempt: Any, names: Collection[str]) -> bool:
    """Returns whether an attempt does not count: it was one too many, or ended without a point.

    Args:
        attempt: As Optuna records it.
        names: The options that a point needs.
    """
    if VOID in attempt.user_attrs:
        return True
    return attempt.state.name == "FAIL" and not is_drawn(attempt, names)


def is_drawn(attempt: Any, names: Collection[str]) -> bool:
    """Returns whether an attempt has its whole point."""
    return {*names} <= attempt.params.keys()


def is_lost(attempt: Any, names: Collection[str]) -> bool:
    """Returns whether an attempt's processes ended before it did."""
    state, attributes = attempt.state.name, attempt.user_attrs
    return state == "FAIL" and ERROR not in attributes and not is_void(attempt, names)


def trials_of(attempts: Iterable[Any], names: Collection[str]) -> list[Trial]:
    """Returns the trials of all attempts that have a point, by number."""
    found: dict[int, list[Any]] = {}
    for attempt in attempts:
        if is_drawn(attempt, names) and not is_void(attempt, names):
            found.setdefault(first_of(attempt), []).append(attempt)
    return [_trial(number, found[number], names) for number in sorted(found)]


def _trial(number: int, attempts: list[Any], names: Collection[str]) -> Trial:
    lost = [attempt for attempt in attempts if is_lost(attempt, names)]
    ends = [a for a in attempts if a.state.is_finished() and not is_lost(a, names)]
    going = [a for a in attempts if a.state.name == "RUNNING"]
    chosen = next(iter(ends or going or attempts[::-1]))
    error = chosen.user_attrs.get(ERROR)
    if ends:
        states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        state = states[chosen.state.name]
    elif going:
        state = "running"
    elif len(lost) >= MOST:
        state, error = "failed", f"its processes were killed {len(lost)} times; out of memory?"
    else:
        state = "waiting"
    return Trial(
        number,
        {name: chosen.params[name] for name in names},
        state,
        chosen.number,
        len(lost) + len(ends) + len(going),
        tuple(chosen.values) if state == "complete" else None,
        chosen.user_attrs.get(MEASURED, {}),
        dict(chosen.intermediate_values),
        error,
        chosen.user_attrs.get(WORKER),
    )
