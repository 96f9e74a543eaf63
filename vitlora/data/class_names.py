"""Names of classes that look like a mistake: two spellings of one class, or a tool's "no label"."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from vitlora.errors import a_few, counted, printable

# what tools write for a picture that nobody has labelled: CVAT and Datumaro no_label, FiftyOne
# _unlabeled, Roboflow unlabeled, Python None, pandas nan, JSON null
_UNLABELLED = frozenset(["nolabel", "unlabeled", "unlabelled", "none", "null", "nan", "undefined"])


class Doubt(NamedTuple):
    """Names that look like a mistake.

    Attributes:
        kind: ``alike_classes`` or ``unlabelled_class``.
        what: The names, each with its number of pictures.
        advice: What to do.
    """

    kind: str
    what: str
    advice: str


def doubts(counts: Mapping[str, int]) -> Iterator[Doubt]:
    """Yields what looks wrong with the names of classes.

    Args:
        counts: Number of pictures of each class.
    """
    same: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        same[plain(name)].append(name)
    if alike := [names for names in same.values() if len(names) > 1]:
        groups = a_few((" and ".join(_shown(n, counts) for n in names) for names in alike), 5)
        yield Doubt(
            "alike_classes",
            f"class names that differ only in case, spaces, hyphens or accents: {groups}",
            "if they are one class, give them one name; they are learnt as different classes",
        )
    if marks := [name for key, names in same.items() if key in _UNLABELLED for name in names]:
        yield Doubt(
            "unlabelled_class",
            "a class whose name tools give to pictures without a label: "
            f"{a_few(_shown(name, counts) for name in marks)}",
            "if these have no label, move them elsewhere or leave the class out with data.classes; "
            "it is learnt as a class",
        )


def plain(name: str) -> str:
    """Returns what a class's name has in common with its other spellings.

    Without case, Latin accents, and spaces, hyphens and underscores between words. A sign before or
    behind the name counts (``-1``, ``A-``), and so does one between digits (``1-1``).
    """
    text = unicodedata.normalize("NFKD", name).casefold()
    text = re.sub(r"[\u0300-\u036f]", "", text).strip(" _")
    numbers = re.sub(r"(?<=\d)[\s_-]+(?=\d)", "-", text)
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W\d_])|(?<=[^\W\d_])[\s_-]+(?=\d)", "", numbers)


def _shown(name: str, counts: Mapping[str, int]) -> str:
    return f"'{printable(name, 40)}' ({counted(counts[name], 'picture')})"
