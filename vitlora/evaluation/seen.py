"""Finds the pictures that a bundle's training used, by their content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.archives import is_there, size_and_time
from vitlora.data.folder import Sample
from vitlora.data.usage import Usage, contents, used
from vitlora.errors import DataError, UsageError, counted
from vitlora.evaluation.training_folder import folder_of, same_split

_MEANINGLESS = 0.5  # share of training pictures from which a score says nothing


@dataclass(frozen=True)
class Seen:
    """Which of the pictures to score training used; a copy has the same bytes.

    Attributes:
        pictures: Number of pictures to score.
        trained: Those that were trained on; None if training's pictures are unknown.
        validated: Those on which training chose its epoch, as far as known.
        whole: Whether this covers all trainings, not only the last one.
    """

    pictures: int
    trained: tuple[Path, ...] | None = None
    validated: tuple[Path, ...] = ()
    whole: bool = True

    def notes(self, split: str) -> list[str]:
        """Returns caveats about the scores, a line each.

        Args:
            split: The split that is scored; training used ``train`` and ``val`` anyway.
        """
        lines = []
        if self.trained and split != "train":
            share = len(self.trained) / self.pictures
            means = "are too high" if share < _MEANINGLESS else "say nothing about new pictures"
            lines.append(f"{self._copies(self.trained, 'training')}: scores {means}")
        if self.validated and split not in ("train", "val"):
            lines.append(
                f"{self._copies(self.validated, 'validation')}, on which training chose its epoch: "
                "scores are a little too high"
            )
        if not self.whole:
            lines.append("the first training did not record its pictures, so some may be scored")
        return lines

    def to_json(self) -> dict[str, int | None]:
        """Returns the counts; null if they are unknown."""
        if self.trained is None:
            return {"seen_in_training": None, "seen_in_validation": None}
        seen = {"seen_in_training": self.trained, "seen_in_validation": self.validated}
        return {key: len(paths) for key, paths in seen.items()}

    def _copies(self, paths: Sequence[Path], kind: str) -> str:
        count, total = len(paths), counted(self.pictures, "picture")
        if count == 1:
            return f"1 of {total} is a copy of a {kind} picture"
        return f"{count:,} of {total} ({count / self.pictures:.0%}) are copies of {kind} pictures"


def seen(bundle: Bundle, samples: Iterable[Sample]) -> Seen:
    """Returns which pictures a bundle's training used, by their content.

    Older bundles do not record it; training's folder is then compared, if it has not changed.
    """
    samples = list(samples)
    if bundle.usage is None:
        try:
            data = folder_of(bundle)
        except (DataError, UsageError):
            return Seen(len(samples))
        parts, digests = data.folder.splits, bundle.record.split["digests"]
        if not all(same_split(data, digests, part) for part in digests if part != "test"):
            return Seen(len(samples))
        trained, validated = (copies(samples, parts.get(part, [])) for part in ("train", "val"))
        return Seen(len(samples), tuple(trained), tuple(validated), bundle.record.parent is None)
    known = contents(sample.path for sample in samples)
    found: dict[str | None, list[Path]] = {}
    for sample in samples:
        found.setdefault(bundle.usage.side(known.get(sample.path)), []).append(sample.path)
    trained, validated = (tuple(found.get(part, ())) for part in ("train", "val"))
    return Seen(len(samples), trained, validated, bundle.usage.whole)


def usage_of(bundle: Bundle) -> Usage | None:
    """Returns what a bundle's training used each picture for.

    Older bundles do not record it; it is then taken from training's folder. None if that folder is
    gone or has changed.
    """
    if bundle.usage is not None:
        return bundle.usage
    try:
        data = folder_of(bundle)
    except (DataError, UsageError):
        return None
    digests = bundle.record.split["digests"]
    if not all(same_split(data, digests, part) for part in digests):
        return None
    parts = data.folder.splits.items()
    found = used({part: contents(s.path for s in some).values() for part, some in parts})
    return found.joined(Usage(whole=bundle.record.parent is None))


def copies(samples: Iterable[Sample], among: Iterable[Sample]) -> list[Path]:
    """Returns the files that have the same bytes as one of the others.

    Reads only files of equal size; files that are gone do not count.
    """
    sizes: dict[int, list[Path]] = {}
    for sample in among:
        if is_there(sample.path):
            sizes.setdefault(size_and_time(sample.path)[0], []).append(sample.path)
    known: dict[int, set[bytes]] = {}
    found = []
    for path in (sample.path for sample in samples if is_there(sample.path)):
        size = size_and_time(path)[0]
        if size in sizes and size not in known:
            known[size] = set(contents(sizes[size]).values())
        if size in known and contents([path])[path] in known[size]:
            found.append(path)
    return found
