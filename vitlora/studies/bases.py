"""The bases of a comparison: their names, and which of them are worth fine-tuning."""

import hashlib
import re
import statistics
from collections.abc import Sequence

from vitlora.errors import UsageError
from vitlora.files import expanded
from vitlora.studies.comparison import Run

FROZEN = "linear"  # the method by which bases are ranked: it says what their features are worth


def read_bases(words: Sequence[str]) -> dict[str, str | None]:
    """Returns the file of each base's weights by its name; None for those that vitlora finds.

    Args:
        words: Each ``NAME`` or ``NAME=FILE``.

    Raises:
        UsageError: A word is empty, or a base is named twice.
    """
    bases: dict[str, str | None] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not name or (equals and not file):
            raise UsageError(f"--backbones has '{word}'; expected NAME or NAME=FILE")
        if name in bases:
            raise UsageError(f"--backbones has '{name}' twice; give it once")
        bases[name] = file or None
    return bases


def weights_digest(name: str, file: str | None) -> str | None:
    """Returns the SHA-256 of a base's file of weights, or of all files of a sharded one.

    Args:
        name: Of the base, for the message.
        file: As in ``read_bases``; ``none`` and None are returned as they are.

    Raises:
        UsageError: There is no such file.
    """
    if file in (None, "none"):
        return file
    path = expanded(file)
    if not path.exists():
        raise UsageError(f"--backbones {name}={file}: no such file")
    folder = path if path.is_dir() else path.parent
    sharded = path.is_dir() or path.name.endswith(".index.json")
    whole = hashlib.sha256()
    for part in sorted(folder.glob("*.safetensors*")) if sharded else [path]:
        with part.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def named(method: str, base: str) -> str:
    """Returns the name of a method on a base."""
    return f"{method}@{base}" if base else method


def parted(name: str) -> tuple[str, str]:
    """Returns the method and the base of a name; without a base it is empty."""
    method, _, base = name.partition("@")
    return method, base


def file_name(name: str) -> str:
    """Returns a name as part of a file's."""
    return re.sub(r"[^\w.@+-]", "_", name)


def ranked(runs: Sequence[Run]) -> list[tuple[str, float]]:
    """Returns the bases of runs with their mean macro-F1 on the validation pictures, best first.

    The scored pictures have no say, so the choice does not flatter their scores.
    """
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.validated is None:
            raise ValueError(f"{run.method}, seed {run.seed} has no validation score")
        found.setdefault(parted(run.method)[1], []).append(run.validated)
    means = {base: statistics.fmean(values) for base, values in found.items()}
    return sorted(means.items(), key=lambda item: -item[1])
