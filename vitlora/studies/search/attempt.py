"""One attempt at a point: what its worker tells the others."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from vitlora.studies.search import trials as known
from vitlora.studies.search.space import Point

BEAT = 20.0  # seconds between signs of life
Tell: TypeAlias = Callable[..., bool]


class LostError(Exception):
    """Another worker took this one for dead, and its point is tried again."""


class Attempt:
    """One attempt at a point, which this worker runs.

    Args:
        made: Optuna's trial.
        goals: Names of the goals.
        tell: Ends an attempt, as ``Search.tell`` does.

    Attributes:
        number: Its number, which names its files.
        first: Number of the first attempt at the point.
        point: The values of the options.
    """

    def __init__(self, made: Any, goals: Sequence[str], tell: Tell) -> None:
        self.number: int = made.number
        self.first: int = made.user_attrs.get(known.FIRST, made.number)
        self.point: Point = dict(made.params)
        self._made, self._goals, self._tell = made, goals, tell
        self._beaten = time.monotonic()

    def beat(self) -> None:
        """Gives a sign of life every 20 seconds.

        Raises:
            LostError: The attempt was given up.
        """
        if time.monotonic() - self._beaten >= BEAT:
            self._beaten = time.monotonic()
            self._set(known.BEAT, self._beaten)  # only that it changes counts

    def report(self, epoch: int, score: float) -> None:
        """Records the validation score after an epoch; only with a single goal.

        Raises:
            LostError: The attempt was given up.
        """
        if len(self._goals) == 1:
            self._unless_lost(lambda: self._made.report(score, epoch))

    def is_hopeless(self) -> bool:
        """Returns whether the last score is below the median of the others after that epoch."""
        return len(self._goals) == 1 and self._made.should_prune()

    def done(self, measured: Mapping[str, float]) -> bool:
        """Completes the trial; returns False if it was given up before.

        Args:
            measured: The goals' values, and perhaps others.
        """
        values = [measured[name] for name in self._goals]
        try:
            self._set(known.MEASURED, dict(measured))
        except LostError:
            return False
        return self._tell(self.number, "COMPLETE", values)

    def pruned(self) -> bool:
        """Ends the trial early; returns False if it was given up before."""
        return self._tell(self.number, "PRUNED")

    def failed(self, error: str) -> bool:
        """Ends the trial with an error that would come again."""
        try:
            self._set(known.ERROR, error)
        except LostError:
            return False
        return self._tell(self.number, "FAIL")

    def lost(self) -> bool:
        """Gives the attempt up, so that the point is tried again."""
        return self._tell(self.number, "FAIL")

    def leave_out(self) -> None:
        """Ends an attempt that is one too many."""
        self._set(known.VOID, True)
        self._tell(self.number, "FAIL")

    def _set(self, name: str, value: object) -> None:
        self._unless_lost(lambda: self._made.set_user_attr(name, value))

    def _unless_lost(self, write: Callable[[], None]) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            write()
        except UpdateFinishedTrialError:
            raise LostError from None
