"""Shares of each class -> whole groups of pictures, dealt out to train, val and test."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

from vitlora.errors import UsageError

_MOST_SWAPS = 20_000  # tried between two parts in a round; where there are more, none is
_LEAST = 1e-9  # a smaller gain is rounding

Wanted = list[list[int]]  # pictures of each class: wanted[part][class]


def check_shares(val: float, test: float, folds: int | None, fold: int) -> None:
    """Checks the options for shares and folds under ``data``.

    Raises:
        UsageError: They are out of range or exclude each other.
    """
    if folds is None and not (0 < val < 1 and 0 <= test < 1 - val) and test != 1:
        raise UsageError(
            f"data.val_fraction {val} and data.test_fraction {test}: "
            "expected 0 < val, 0 <= test and val + test < 1; or test 1, to test on everything"
        )
    if folds is None and fold:
        raise UsageError(f"data.fold is {fold}, but data.folds is null; set data.folds too")
    if folds is not None and folds < 2:
        raise UsageError(f"data.folds is {folds}; expected 2 or more, or null")
    if folds is not None and not 0 <= fold < folds:
        raise UsageError(
            f"data.fold is {fold}; expected 0 to {folds - 1}, as data.folds is {folds}"
        )
    if folds is not None and not 0 <= test <= 1:
        raise UsageError(f"data.test_fraction is {test}; expected 0 <= test < 1, or 1")


def wanted_shares(
    counts: Sequence[int], val: float, test: float, there: Mapping[str, Sequence[int]] | None = None
) -> tuple[list[str], Wanted]:
    """Returns the parts of a split and how many pictures of each class belong in them.

    The number for ``train`` may be zero or negative: then the class is too small.

    Args:
        counts: Pictures of each class; a class without pictures gets none.
        val: Share held out for validation, ``0 < val < 1``; never less than a picture.
        test: Share held out for testing, ``0 <= test < 1``; never less than a picture unless 0.
        there: Pictures of each class that the parts have already, if any: then a share may be less
            than a picture where the part has one of the class, and none is negative.
    """
    shares = {"val": val, "test": test} if test else {"val": val}
    wanted = [[_share(share, n) for n in counts] for share in shares.values()]
    if there is not None:
        left = list(counts)
        for (part, share), some in zip(shares.items(), wanted, strict=True):
            for label, had in enumerate(there[part]):
                some[label] = round(share * counts[label]) if had else some[label]
                some[label] = min(some[label], left[label])
                left[label] -= some[label]
    train = [n - sum(held) for n, held in zip(counts, zip(*wanted, strict=True), strict=True)]
    return [*shares, "train"], [*wanted, train]


def wanted_folds(
    counts: Sequence[int], folds: int, fold: int, test: float
) -> tuple[list[str], Wanted]:
    """Returns the same for a fold: it is ``val``, the other folds are ``train``.

    How much belongs in which fold does not depend on ``fold``, and no two folds differ by more than
    one picture of a class, nor of all.

    Args:
        counts: Pictures of each class.
        folds: Number of folds, 2 or more.
        fold: The one to validate on, ``0 <= fold < folds``.
        test: Share held out for testing, the same for all folds.
    """
    held = [_share(test, n) for n in counts]
    wanted: Wanted = [[] for _ in range(folds)]
    given = 0
    for n, kept in zip(counts, held, strict=True):
        each, extra = divmod(n - kept, folds)
        for place in range(folds):  # the next class starts at the fold where this one ended
            wanted[(given + place) % folds].append(each + (place < extra))
        given += extra
    parts = ["val" if index == fold else "train" for index in range(folds)]
    return (["test", *parts], [held, *wanted]) if test else (parts, wanted)


def _share(share: float, count: int) -> int:
    return max(1, round(share * count)) if share and count else 0


def deal(groups: Sequence[Mapping[int, int]], wanted: Wanted) -> list[int]:
    """Returns the part of each group, so that the parts come near what is wanted of each class.

    A group goes to the first part that has room for it. Then, as long as it brings the parts
    nearer, a group moves or two change places: first so that no part lacks a class, then so that
    the sum of (pictures - wanted)² / (pictures of the class) falls. Groups of one picture meet what
    is wanted exactly, in the order given.

    Args:
        groups: How many pictures of which class each has; the order is the draw.
        wanted: ``wanted[part][class]``; the sum over the parts is the number of pictures.
    """
    balance = _Balance(wanted)
    sides = [balance.place(group) for group in groups]
    kinds: dict[tuple[tuple[int, int], ...], int] = {}  # groups of one kind can stand in for others
    kind = [kinds.setdefault(tuple(sorted(group.items())), len(kinds)) for group in groups]
    sizes = [dict(counts) for counts in kinds]
    members: list[list[list[int]]] = [[[] for _ in sizes] for _ in wanted]
    for index, side in enumerate(sides):
        members[side][kind[index]].append(index)
    while balance.is_off() and _round(balance, members, sizes):
        pass
    for side, part in enumerate(members):
        for index in (index for alike in part for index in alike):
            sides[index] = side
    return sides


def _round(
    balance: "_Balance", members: list[list[list[int]]], sizes: list[dict[int, int]]
) -> bool:
    """Makes each exchange that brings the parts nearer; returns whether there was one."""
    changed = False
    for one, two in combinations(range(len(members)), 2):
        for give, take in _exchanges(members[one], members[two], sizes):
            net = Counter(sizes[take] if take is not None else {})
            net.subtract(sizes[give] if give is not None else {})
            here = give is None or members[one][give]
            there = take is None or members[two][take]
            if not (here and there and balance.gains(net, one, two)):
                continue
            balance.move(net, one, two)
            if give is not None:
                members[two][give].append(members[one][give].pop())
            if take is not None:
                members[one][take].append(members[two][take].pop())
            changed = True
    return changed


def _exchanges(
    one: list[list[int]], two: list[list[int]], sizes: list[dict[int, int]]
) -> Iterator[tuple[int | None, int | None]]:
    """Yields the kinds that can change sides, alone and then in pairs that share a class."""
    here, there = ([kind for kind, alike in enumerate(part) if alike] for part in (one, two))
    yield from ((kind, None) for kind in here)
    yield from ((None, kind) for kind in there)
    if len(here) * len(there) > _MOST_SWAPS:
        return
    for give, take in product(here, there):
        if give != take and sizes[give].keys() & sizes[take].keys():
            yield give, take


class _Balance:
    """How many more pictures of each class the parts have than they should."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.over = [[-count for count in part] for part in wanted]
        self.totals = [sum(column) for column in zip(*wanted, strict=True)]

    def place(self, group: Mapping[int, int]) -> int:
        """Puts a group into the first part with room, else where it does least harm."""
        parts = range(len(self.wanted))
        fits = (p for p in parts if all(self.over[p][c] + n <= 0 for c, n in group.items()))
        side = next(fits, None)
        if side is None:
            side = min(parts, key=lambda part: self._change(part, group, 1))
        self._add(side, group, 1)
        return side

    def is_off(self) -> bool:
        """Returns whether any part has more or less than is wanted."""
        return any(map(any, self.over))

    def gains(self, net: Mapping[int, int], one: int, two: int) -> bool:
        """Returns whether moving ``net`` from part ``two`` to part ``one`` improves the balance."""
        first, second = self._change(one, net, 1), self._change(two, net, -1)
        lacking, far = first[0] + second[0], first[1] + second[1]
        return lacking < 0 or (lacking == 0 and far < -_LEAST)

    def move(self, net: Mapping[int, int], one: int, two: int) -> None:
        """Moves ``net`` pictures of each class from part ``two`` to part ``one``."""
        self._add(one, net, 1)
        self._add(two, net, -1)

    def _add(self, part: int, counts: Mapping[int, int], sign: int) -> None:
        for label, count in counts.items():
            self.over[part][label] += sign * count

    def _change(self, part: int, counts: Mapping[int, int], sign: int) -> tuple[int, float]:
        """Returns what a part's lacking classes and its distance would grow by."""
        lacking, far = 0, 0.0
        for label, count in counts.items():
            before, wanted = self.over[part][label], self.wanted[part][label]
            after = before + sign * count
            if wanted:
                lacking += (after == -wanted) - (before == -wanted)
            far += (after * after - before * before) / self.totals[label]
        return lacking, far
