"""Draws the points of a sweep, none of them twice."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from vitlora.studies.search.space import Choices, Point, Range, Space

Sampler: TypeAlias = Literal["tpe", "random", "grid"]
_DRAWS, _MORE = 20, 1000  # by the sampler; then at random


def distribution(part: Choices | Range) -> Any:
    """Returns Optuna's distribution for an option."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(part, Choices):
        return CategoricalDistribution(part.words)
    if part.whole:
        low, high, step = (int(n) for n in (part.low, part.high, part.step or 1))
        return IntDistribution(low, high - (high - low) % step, part.log, step)
    # so that Optuna does not move the upper end, with a warning
    high = part.high if part.step is None else float(max(part.values() or (), key=float))
    return FloatDistribution(part.low, high, part.log, part.step)


def draw(
    study: Any,
    attempt: Any,
    space: Space,
    taken: set[tuple[Any, ...]],
    seed: int,
    sampler: Sampler,
) -> Point:
    """Returns a point that was not drawn before.

    The random numbers depend on the seed and the attempt's number, so two workers never share
    them, and one worker alone draws the same points again.

    Args:
        study: Optuna's.
        attempt: The new attempt, as Optuna records it.
        space: The space.
        taken: Keys of the points drawn before.
        seed: Of the sweep.
        sampler: ``tpe`` looks near the good points, ``random`` anywhere, ``grid`` in order.

    Raises:
        ValueError: All points are taken.
    """
    if sampler != "grid":
        every = {name: distribution(part) for name, part in space.parts.items()}
        for number in range(_MORE):
            kind = sampler if number < _DRAWS else "random"
            own = _sampler(kind, seed, attempt.number, number)
            point = _drawn(own, study, attempt, every)
            if space.key(point) not in taken:
                return point
    for point in space.points() if space.size is not None else ():
        if space.key(point) not in taken:
            return point
    raise ValueError("every point of the space is taken")


def _sampler(kind: str, *seeds: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    if kind == "random":
        return RandomSampler(seed)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _drawn(sampler: Any, study: Any, attempt: Any, every: Mapping[str, Any]) -> Point:
    """Returns the value of each option, by the sampler unless there is only one."""
    point = {n: d.to_external_repr(0) for n, d in every.items() if d.single()}
    free = {name: one for name, one in every.items() if name not in point}
    point |= sampler.sample_relative(study, attempt, free)
    for name in free.keys() - point.keys():
        point[name] = sampler.sample_independent(study, attempt, name, free[name])
    return {name: point[name] for name in every}
