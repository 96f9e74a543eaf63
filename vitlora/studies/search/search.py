"""A search in a storage that several workers share, of which any may be killed at any time.

Optuna alone leaves the trial of a killed worker running for ever in a journal, and gives two
workers with one seed the same points. Here the number of an attempt is a ticket: a point is drawn
when all earlier attempts have theirs, so none is drawn twice. A worker keeps a file locked while it
lives. If it is free, or nothing was heard of the worker for two minutes, the attempt is lost and
the same point is queued again.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from vitlora.errors import UsageError
from vitlora.studies.search import trials as known
from vitlora.studies.search.attempt import Attempt
from vitlora.studies.search.drawing import Sampler, distribution, draw
from vitlora.studies.search.goals import GOALS, front
from vitlora.studies.search.holds import Hold, Holds
from vitlora.studies.search.space import Choices, Point, Space
from vitlora.studies.search.trials import Trial
from vitlora.studies.study import difference

SILENCE = 120.0  # seconds without a sign of life after which an attempt is lost
_WAIT = 0.2  # seconds
_START = 5  # finished trials before the first is pruned
_FIRST = 2  # epoch after which one may be pruned
_SETUP, _TARGET = "setup", "trials"  # attributes of the study


class Search:
    """The trials of a sweep.

    Args:
        storage: Optuna's.
        name: Of the sweep, in the storage.
        space: The options to vary.
        goals: Names of the goals.
        holds: The workers' locked files.
        seed: Of the points.
        sampler: How points are drawn.
    """

    def __init__(
        self,
        storage: Any,
        name: str,
        space: Space,
        goals: Sequence[str],
        holds: Holds,
        seed: int = 0,
        sampler: Sampler = "tpe",
    ) -> None:
        import optuna

        self.space, self.goals, self.holds = space, list(goals), holds
        self.seed = seed
        self.sampler: Sampler = sampler
        self._given = _given_sampler()
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize" if GOALS[goal].larger else "minimize" for goal in goals],
            sampler=self._given,
            pruner=optuna.pruners.MedianPruner(_START, n_warmup_steps=_FIRST),
            load_if_exists=True,
        )
        self._heard: dict[int, tuple[object, float]] = {}  # attempt -> its last sign, and when

    def take_setup(self, setup: Mapping[str, Any], target: int) -> None:
        """Records the setup of all trials and their number, or checks the setup.

        Args:
            setup: JSON values.
            target: How many trials there shall be; it may change.

        Raises:
            UsageError: The storage has a sweep of this name with another setup.
        """
        before = self.study.user_attrs.get(_SETUP)
        if before is None:
            self.study.set_user_attr(_SETUP, dict(setup))
        elif change := difference(before, dict(setup)):
            raise UsageError(
                f"the storage has a sweep '{self.study.study_name}' with another configuration "
                f"({change}); choose another --output"
            )
        if self.study.user_attrs.get(_TARGET) != target:
            self.study.set_user_attr(_TARGET, target)

    @property
    def target(self) -> int:
        """How many trials there shall be."""
        return self.study.user_attrs[_TARGET]

    def trials(self) -> list[Trial]:
        """Returns the trials that have a point, as many as there shall be at most."""
        return known.trials_of(self._attempts(), self.space.parts)[: self.target]

    def front(self) -> list[Trial]:
        """Returns the complete trials that no other beats, best in the first goal first."""
        done = {trial.number: trial for trial in self.trials() if trial.values is not None}
        values = {number: trial.values or () for number, trial in done.items()}
        return [done[number] for number in front(self.goals, values)]

    def kept_and_finished(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Returns the attempts whose bundles are kept, and the ended ones of settled trials.

        Each is the number of its trial and its own.
        """
        every = self._attempts()
        ended = [(known.first_of(a), a.number) for a in every if a.state.is_finished()]
        trials = known.trials_of(every, self.space.parts)
        settled = {trial.number for trial in trials if trial.settled}
        kept = {(trial.number, trial.attempt) for trial in self.front()}
        return kept, {attempt for attempt in ended if attempt[0] in settled}

    def finished(self) -> bool:
        """Returns whether all trials are settled."""
        every = self.trials()
        return len(every) >= self.target and all(trial.settled for trial in every)

    def take(self, hold: Hold) -> Attempt | None:
        """Returns the next attempt to run; None if there is none now."""
        queued = any(attempt.state.name == "WAITING" for attempt in self._attempts())
        if not queued and len(self.trials()) >= self.target:
            return None
        made = self.study.ask()
        made.set_user_attr(known.WORKER, hold.mark)
        attempt = Attempt(made, self.goals, self.tell)
        if known.FIRST in made.user_attrs:
            return attempt if self._is_needed(made) else attempt.leave_out()
        earlier = self._wait_for_earlier(attempt)
        if len(earlier) >= self.target:
            return attempt.leave_out()
        taken = {self.space.key(trial.point) for trial in earlier}
        frozen = next(a for a in self._attempts() if a.number == made.number)
        try:
            self._given.point = draw(self.study, frozen, self.space, taken, self.seed, self.sampler)
        except ValueError:  # fewer points than trials
            return attempt.leave_out()
        for name, part in self.space.parts.items():
            _suggest(made, name, part)
        attempt.point = self._given.point
        return attempt

    def reclaim(self) -> None:
        """Gives up the attempts whose workers died, and queues their points again."""
        names = self.space.parts
        for attempt in self._attempts():
            if attempt.state.name == "RUNNING" and self._is_dead(attempt):
                self.tell(attempt.number, "FAIL")
        attempts = self._attempts()
        for trial in known.trials_of(attempts, names):
            own = [a for a in attempts if known.first_of(a) == trial.number]
            own = [a for a in own if not known.is_void(a, names)]
            if trial.state == "waiting" and all(known.is_lost(a, names) for a in own):
                self._queue(trial, own[-1])

    def tell(self, number: int, state: str, values: Sequence[float] | None = None) -> bool:
        """Ends an attempt; returns False if it had ended before."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            self.study.tell(number, values, TrialState[state])
        except (UpdateFinishedTrialError, ValueError):
            if self.study.get_trials(deepcopy=False)[number].state.is_finished():
                return False
            raise
        return True

    def _attempts(self) -> list[Any]:
        return self.study.get_trials(deepcopy=False)

    def _queue(self, trial: Trial, last: Any) -> None:
        import optuna

        self.study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.WAITING,
                params=last.params,
                distributions=last.distributions,
                user_attrs={known.FIRST: trial.number},
            )
        )

    def _is_needed(self, made: Any) -> bool:
        """Returns whether no earlier attempt at the point is still going or has settled it.

        Two workers may have queued it at the same moment.
        """
        names = self.space.parts
        return all(
            known.is_lost(other, names) or known.is_void(other, names)
            for other in self._attempts()[: made.number]
            if known.first_of(other) == made.user_attrs[known.FIRST]
        )

    def _wait_for_earlier(self, attempt: Attempt) -> list[Trial]:
        """Returns the trials before an attempt, when all of them have their points."""
        names = self.space.parts
        while True:
            before = self._attempts()[: attempt.number]
            if all(known.is_drawn(a, names) or known.is_void(a, names) for a in before):
                return known.trials_of(before, names)
            self.reclaim()
            attempt.beat()
            time.sleep(_WAIT)

    def _is_dead(self, attempt: Any) -> bool:
        ended = self.holds.ended(attempt.user_attrs.get(known.WORKER))
        if ended is not None:
            return ended
        sign, now = (attempt.user_attrs.get(known.BEAT), len(attempt.params)), time.monotonic()
        before, since = self._heard.get(attempt.number, (None, now))
        if sign != before:
            self._heard[attempt.number] = sign, now
            return False
        return now - since > SILENCE


def _given_sampler() -> Any:
    from optuna.samplers import BaseSampler

    class Given(BaseSampler):
        """Gives a trial the values of a point that was drawn before."""

        point: Point

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {}

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            return {}

        def sample_independent(
            self, study: Any, trial: Any, param_name: str, param_distribution: Any
        ) -> Any:
            return self.point[param_name]

    return Given()


def _suggest(made: Any, name: str, part: Any) -> None:
    """Records the value of an option."""
    own = distribution(part)
    if isinstance(part, Choices):
        made.suggest_categorical(name, own.choices)
    elif part.whole:
        made.suggest_int(name, own.low, own.high, step=own.step, log=own.log)
    else:
        made.suggest_float(name, own.low, own.high, step=own.step, log=own.log)
