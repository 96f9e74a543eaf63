"""Turns a comparison into a sentence of advice. Pure functions."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from vitlora.errors import counted
from vitlora.studies.comparison import LEVEL, Row, answered_right, seed_variance

_POWER = 0.8  # statistical power for the number of pictures
_DISAGREE = 0.1  # assumed share of pictures on which only one of two methods is right


def needed(
    margin: float, methods: int, disagree: float = _DISAGREE, seeds: float = 0.0
) -> int | None:
    """Returns about how many pictures show that a cheaper method is within a margin of the best.

    If both are equally good, this many show it with a probability of 80% (the usual sample size
    for non-inferiority). None if the seeds vary too much for any number of pictures.

    Args:
        margin: Margin of the accuracy, in ``(0, 1)``.
        methods: Number of compared methods, at least 2.
        disagree: Share of the pictures on which one of the two is right and the other wrong.
        seeds: Variance of the difference between seeds; more pictures do not reduce it.
    """
    normal = NormalDist()
    both = normal.inv_cdf(1 - LEVEL / (methods - 1)) + normal.inv_cdf(_POWER)
    left = (margin / both) ** 2 - seeds
    return _round(disagree / left) if left > 0 else None


def tells_apart(pictures: int, methods: int) -> float:
    """Returns the smallest difference in accuracy that can show, in ``[0, 1]``.

    Assumes that two methods disagree on one picture in ten, and on at least as many as McNemar's
    exact test needs if one method is right on all of them.

    Args:
        pictures: Number of scored pictures.
        methods: Number of compared methods, at least 2.
    """
    level = LEVEL / (methods * (methods - 1) / 2)
    fewest = math.ceil(1 - math.log2(level))
    usual = NormalDist().inv_cdf(1 - level / 2) * math.sqrt(_DISAGREE * pictures)
    return min(max(fewest, usual) / pictures, 1.0)


def _round(count: float) -> int:
    """Rounds up an estimate to two significant digits."""
    return math.ceil(float(f"{count:.2g}"))


def advise(rows: Sequence[Row], split: str, margin: float = 0.02) -> str:
    """Returns a recommended method and its certainty, in a sentence or two.

    It recommends the cheapest method that is shown to be within the margin of every other, else
    the most accurate one. A difference that is not shown does not prove equality.

    Args:
        rows: The result of ``compare``.
        split: The scored split.
        margin: Accuracy that a cheaper method may lose, in ``[0, 1)``.
    """
    if not rows:
        return "No run finished, so there is no recommendation."
    seeds = sorted({len(row.runs) for row in rows})
    count, pictures = " to ".join(map(str, seeds)), len(rows[0].runs[0].labels)
    on = f"{counted(pictures, f'{split} picture')} and {count} seed{'s' * (seeds != [1])}"
    best = next(row for row in rows if row.p is None)
    if len(rows) == 1:
        return f"Only {best.method} finished (accuracy {best.accuracy:.3f} on {on})."
    within = [row for row in rows if row.at_most is not None and row.at_most < margin]
    take = min([best, *within], key=lambda row: row.cost)
    near = within if take is not best else []
    worse = [row for row in rows if row.clear and row not in near]
    rest = f"; clearly worse: {_listed(worse)}" if worse else ""
    if take is not best:
        return (
            f"Choose {take.method} (accuracy {take.accuracy:.3f}): with {on}, it is the cheapest "
            f"shown to be within {points(margin)} of the best, {best.method} "
            f"({best.accuracy:.3f}). It is at most {points(take.at_most or 0)} below any other, "
            f"with 95% certainty{rest}."
        )
    if len(worse) == len(rows) - 1:
        return (
            f"Choose {best.method}: clearly the best, with accuracy {best.accuracy:.3f} on "
            f"{on}{rest}."
        )
    open_ = [row for row in rows if row is not best and not row.clear]
    said = (
        f"Choose {best.method} (accuracy {best.accuracy:.3f}), the most accurate on {on}. It is "
        f"not clearly better than {_listed(open_)}{rest}"
    )
    cheaper = [row for row in open_ if row.cost < best.cost]
    if not cheaper or not margin:
        return f"{said}."
    show = _would_show(rows, best, cheaper, margin)
    return f"{said}. No cheaper one is shown to be within {points(margin)} of it{show}"


def _would_show(rows: Sequence[Row], best: Row, cheaper: Sequence[Row], margin: float) -> str:
    """Returns the end of a sentence: what would show that a cheaper method is good enough."""
    equal = "both are equally good" if len(cheaper) == 1 else "one of them is just as good"
    variance, _ = seed_variance(rows)
    counts = []
    for row in cheaper:
        seeds = variance * (1 / len(best.runs) + 1 / len(row.runs))
        counts.append(needed(margin, len(rows), _disagreement(best, row), seeds))
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return f": if {equal}, showing it takes more seeds, not more pictures."
    if max(known) > (pictures := len(best.runs[0].labels)):
        return f": if {equal}, about {max(known):,} pictures would show it."
    return f", although {pictures:,} pictures usually show it if {equal}."


def _disagreement(row: Row, other: Row) -> float:
    """Returns the mean square of the pictures' differences, smoothed as in ``paired``."""
    differences = answered_right(row.runs).mean(0) - answered_right(other.runs).mean(0)
    return (float((differences**2).sum()) + 2) / (len(differences) + 2)


def points(share: float) -> str:
    """Returns a share in percentage points, with at most one decimal."""
    value = f"{100 * share:.1f}".removesuffix(".0")
    return f"{value} point{'s' * (value != '1')}"


def _listed(rows: Sequence[Row]) -> str:
    *first, last = [f"{row.method} ({row.accuracy:.3f})" for row in rows]
    return f"{', '.join(first)} and {last}" if first else last


def can_tell(pictures: int, split: str, methods: int, seeds: int, margin: float) -> str:
    """Returns what a number of pictures can show, before any run.

    Args:
        pictures: Number of pictures to score.
        split: Their split.
        methods: Number of methods to compare.
        seeds: Number of seeds of each method.
        margin: Accuracy that a cheaper method may lose and still be recommended.
    """
    apart = 100 * tells_apart(pictures, methods)
    said = (
        f"{counted(pictures, f'{split} picture')} cannot show differences below about "
        f"{apart:.{0 if apart >= 1.5 else 1}f} points"
    )
    if not margin:
        return said
    within = f"that a cheaper method is within {points(margin)} of the best"
    count = needed(margin, methods) or 0
    said += (
        f"; showing {within} takes about {count:,} pictures"
        if count > pictures
        else f"; they usually show {within} if both are equally good"
    )
    spread = "; the spread of the seeds adds to this" if seeds > 1 else ""
    return f"{said} (assuming that two methods disagree on one picture in ten{spread})"
