from __future__ import annotations

import random

import pytest

from vitlora.errors import UsageError
from vitlora.studies.search.goals import check_goals, front


def test_the_front_is_what_no_other_trial_beats() -> None:
    random.seed(0)
    trials = {n: (random.randint(0, 9) / 10, random.randint(1, 9)) for n in range(60)}
    found = front(["macro_f1", "seconds"], trials)
    for n, (score, seconds) in trials.items():
        better = [
            m
            for m, (s, t) in trials.items()
            if s >= score and t <= seconds and (s > score or t < seconds or m < n)
        ]
        assert (n in found) == (not better)
    scores = [trials[n][0] for n in found]
    assert scores == sorted(scores, reverse=True) and len(found) > 1


def test_of_a_single_goal_the_front_is_the_first_of_the_best() -> None:
    assert front(["accuracy"], {3: (0.5,), 5: (0.7,), 8: (0.7,)}) == [5]
    assert front(["loss"], {3: (0.5,), 5: (0.7,)}) == [3]
    assert front(["loss"], {}) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["macro-f1"], "did you mean 'macro_f1'"),
        (["loss", "loss"], "'loss' twice"),
        (["seconds", "loss"], "starts with seconds; expected a score first"),
        ([], "starts with nothing"),
    ],
)
def test_mistakes(names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_goals(names)
