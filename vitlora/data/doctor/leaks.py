"""What makes a score too good: copies across splits and classes, files that betray their class."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import log2, sqrt
from pathlib import Path
from typing import TypeVar

from vitlora.data.doctor.finding import Finding, Severity, split_anew
from vitlora.data.doctor.survey import Picture, Survey
from vitlora.data.duplicates import Fingerprint, group
from vitlora.data.folder import Folder, Sample
from vitlora.data.groups import merged
from vitlora.errors import a_few

_TELLING = 0.1  # accuracy over the majority guess worth a word; noise alone must give less

_Item = TypeVar("_Item")

_LABEL_ADVICE = (
    "decide which class is right and remove the others; --fix OUT leaves all of them out"
)
_PARTED = "fit may put one of them in train and another in val"
_TWICE_ADVICE = {  # by the kind of copies, and whether fit is yet to split them
    ("same", False): "remove copies: they weigh double",
    ("same", True): f"remove copies: they weigh double, and {_PARTED}",
    ("alike", False): "nothing, unless you split the folder anew: then keep them together",
    ("alike", True): f"add --data.groups duplicates to fit, or {_PARTED}",
}


def copy_groups(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Returns the groups of two and more pictures, all readable, that are copies of one another."""
    numbers = group([picture.print for picture in pictures if picture.print is not None])
    return [m for m in _sorted_by(pictures, numbers) if len(m) > 1]


def together(pictures: Sequence[Picture], alike: Sequence[Sequence[Picture]]) -> dict[str, int]:
    """Returns the number of the group of each picture, by its name.

    Args:
        pictures: They share a group if the folder says so, or if they are copies.
        alike: Their ``copy_groups``.
    """
    number = {picture.name: index for index, picture in enumerate(pictures)}
    number |= {one.name: number[some[0].name] for some in alike for one in some}
    groups = merged(list(number.values()), [picture.group or None for picture in pictures])
    return dict(zip(number, groups, strict=True))


def copies(survey: Survey) -> Iterator[Finding]:
    """Yields copies, by bytes and by looks, across classes, across splits, and within both."""
    alike = copy_groups(survey.readable)
    same = [
        members
        for pictures in alike
        for members in _sorted_by(pictures, [file_of(p) for p in pictures])
        if len(members) > 1
    ]
    look_alike = [pictures for pictures in alike if len({file_of(p) for p in pictures}) > 1]
    kinds: list[tuple[str, str, list[list[Picture]], Severity]] = [
        ("same", "the same file", same, "error"),
        ("alike", "the same scene", look_alike, "warning"),
    ]
    for kind, what, groups, severity in kinds:
        labels = [g for g in groups if len({p.label for p in g}) > 1]
        splits = [g for g in groups if len({p.split for p in g}) > 1]
        torn = {id(g) for g in (*labels, *splits)}
        within = [g for g in groups if id(g) not in torn]
        where = f"{what} in two or more"
        yield from _found(f"{kind}_two_labels", severity, f"{where} classes", _LABEL_ADVICE, labels)
        yield from _found(
            f"{kind}_two_splits",
            "error",
            f"{where} splits",
            f"keep one of each, or {split_anew(survey.root)}",
            splits,
        )
        parted = any(g[0].split == survey.drawn for g in within)
        yield from _found(
            f"{kind}_twice",
            "warning" if kind == "same" or parted else "note",
            f"{what} twice or more in one class",
            _TWICE_ADVICE[kind, parted],
            within,
        )


def giveaways(survey: Survey) -> Iterator[Finding]:
    """Yields the property of the files, if any, that alone tells much of the class."""
    pictures = survey.readable
    if len(pictures) < 2:
        return
    properties: dict[str, Callable[[Picture], Hashable]] = {
        "format": lambda p: p.format,
        "colour mode": lambda p: p.mode,
        "size": lambda p: p.size,
        "rough resolution": lambda p: round(log2(sqrt(p.size[0] * p.size[1]))),
    }
    labels = [picture.label for picture in pictures]
    scores = {
        name: _predicted([of(picture) for picture in pictures], labels)
        for name, of in properties.items()
    }
    best = max(scores, key=scores.__getitem__)
    guess = max(Counter(labels).values()) / len(labels)
    if scores[best] - guess < max(_TELLING, 3 * sqrt(0.25 / len(pictures))):
        return
    by_label = sorted(_sorted_by(pictures, labels), key=lambda some: some[0].label)
    shown = a_few(f"{some[0].label} {_commonest(properties[best], some)}" for some in by_label)
    yield Finding(
        "giveaway",
        "warning",
        f"the {best} of the file alone predicts {scores[best]:.0%} of the classes "
        f"(the commonest class: {guess:.0%}): {shown}",
        "a network may learn that instead of the subject; bring all pictures to one "
        f"{best}, or doubt the score",
    )


def _predicted(keys: Sequence[Hashable], labels: Sequence[str]) -> float:
    """Returns the share of labels that keys predict, each half of a class from the other half.

    Not each picture by all others: where two classes are even, it would always tip the balance.
    """
    everywhere = Counter(labels)
    seen: Counter[str] = Counter()
    halves: list[dict[Hashable, Counter[str]]] = [defaultdict(Counter), defaultdict(Counter)]
    sides: list[int] = []
    for key, label in zip(keys, labels, strict=True):
        sides.append(seen[label] % 2)
        halves[sides[-1]][key][label] += 1
        seen[label] += 1

    def commonest(counts: Counter[str]) -> str:
        return max(counts, key=lambda name: (counts[name], everywhere[name], name))

    usual = commonest(everywhere)
    guesses = [{key: commonest(counts) for key, counts in half.items()} for half in halves]
    right = sum(
        guesses[1 - side].get(key, usual) == label
        for key, label, side in zip(keys, labels, sides, strict=True)
    )
    return right / len(labels)


def leak_notes(folder: Folder, prints: Mapping[Path, Fingerprint]) -> Iterator[str]:
    """Yields a line for copies across splits and one for copies across classes, if there are any.

    Args:
        folder: Already split.
        prints: Of its pictures; those without one are passed over.
    """
    placed = [
        (split, folder.classes[sample.label], sample)
        for split, samples in folder.splits.items()
        for sample in samples
        if sample.path in prints
    ]
    groups = _sorted_by(placed, group([prints[one.path] for _, _, one in placed]))
    parted = [g for g in groups if len({split for split, _, _ in g}) > 1]
    if parted:
        yield f"{_counted(parted)} in two or more splits{_such_as(folder, parted, 0)}"
    torn = [g for g in groups if len({label for _, label, _ in g}) > 1]
    if torn:
        yield f"{_counted(torn)} in two or more classes{_such_as(folder, torn, 1)}"


def _counted(groups: Sequence[object]) -> str:
    return "1 scene is" if len(groups) == 1 else f"{len(groups)} scenes are"


def _such_as(folder: Folder, groups: Sequence[Sequence[tuple[str, str, Sample]]], of: int) -> str:
    """Returns an example: two of the first group that differ in split (0) or label (1)."""
    first = groups[0][0]
    other = next(picture for picture in groups[0] if picture[of] != first[of])
    names = [folder.name(sample) for _, _, sample in (first, other)]
    return f", such as {names[0]} and {names[1]}"


def _found(
    kind: str, severity: Severity, what: str, advice: str, groups: Sequence[Sequence[Picture]]
) -> Iterator[Finding]:
    """Yields a finding about groups of copies, if there are any."""
    names = [[picture.name for picture in pictures] for pictures in groups]
    if names:
        files = [name for members in names for name in members]
        yield Finding(kind, severity, what, advice, files, groups=names)


def _sorted_by(items: Sequence[_Item], keys: Sequence[Hashable]) -> list[list[_Item]]:
    """Returns the items of each key, in the order of the keys' first appearance."""
    sorted_: dict[Hashable, list[_Item]] = defaultdict(list)
    for item, key in zip(items, keys, strict=True):
        sorted_[key].append(item)
    return list(sorted_.values())


def file_of(picture: Picture) -> bytes:
    """Returns the SHA-256 of a readable picture's file."""
    return picture.print.digest if picture.print else b""


def _commonest(of: Callable[[Picture], Hashable], pictures: Sequence[Picture]) -> str:
    """Returns the commonest value of a property, in words."""
    value = Counter(map(of, pictures)).most_common(1)[0][0]
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return f"about {2**value} px" if isinstance(value, int) else str(value)
