"""The functions and commands ``fit``, ``validate`` and ``test``."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vitlora.arguments import checked
from vitlora.cli.processes import (
    as_one_of,
    hand_over,
    place_of,
    result_of_processes,
    run_processes,
)
from vitlora.cli.results import write_result
from vitlora.cli.run_options import run_options
from vitlora.errors import UsageError
from vitlora.light_imports import light_imports
from vitlora.shell import option_words

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle
    from vitlora.cli.lightning import VitloraCLI
    from vitlora.evaluation.seen import Seen
    from vitlora.metrics.scores import Scores


Config: TypeAlias = Sequence[str | Path] | str | Path


@checked
def fit(
    config: Config | None = None,
    *,
    data: str | Path | None = None,
    output: str | Path | None = None,
    from_: str | Path | None = None,
    weights: str | Path | None = None,
    device: str | None = None,
    val_fraction: float | None = None,
    resume: bool = False,
    **options: object,
) -> Fitted:
    """Trains an adapter on a folder of pictures and writes a bundle.

    Args:
        config: A YAML file, or the name of one that comes with vitlora; or several, where later
            ones override earlier ones.
        data: Folder of pictures (``data.root``).
        output: Folder of the bundle; None for ``checkpoints/<config name>``.
        from_: Bundle to continue from (``--from`` on the command line).
        weights: File of the base's weights (``model.weights``).
        device: ``auto``, ``cpu``, ``cuda`` or ``mps`` (``trainer.accelerator``).
        val_fraction: Share of each class to validate on if the folder has no splits, in (0, 1)
            (``data.val_fraction``).
        resume: Resume the unfinished run in ``output``, by default the newest in
            ``checkpoints/``, as if it had not been stopped; start it if there is none.
        options: Any other option of ``vitlora fit --help``, in groups or by dotted names:
            ``model={"adapter.rank": 16}``, ``**{"trainer.max_epochs": 3}``.

    Returns:
        The bundle and its scores.

    Raises:
        VitloraError: A mistake that the user can fix; the message says how.

    Examples:
        >>> fitted = fit("demo.yaml", data="photos", output="checkpoints/new")
        data: ...
        >>> fitted.checkpoint.name, 0 <= fitted.scores.accuracy <= 1
        ('new', True)
    """
    named = {"data": data, "output": output, "from": from_, "weights": weights}
    named |= {"device": device, "val_fraction": val_fraction}
    named |= {"resume": True} if resume else {}
    return _run("fit", config, named, options)


@checked
def validate(
    checkpoint: str | Path | None = None,
    *,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    device: str | None = None,
    **options: object,
) -> Scored:
    """Scores a bundle on its validation split.

    Args:
        checkpoint: Folder of the bundle; None for the newest in ``checkpoints/``.
        data: Folder of pictures; None for the folder of training.
        weights: File of the base's weights, if it has moved since training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Options under ``data`` and ``trainer``, as for ``fit``.

    Returns:
        The scores, calibrated as predictions are.

    Raises:
        VitloraError: A mistake that the user can fix; the message says how.

    Examples:
        >>> validated = validate("checkpoints/waste5")
        checkpoints...
        >>> 0 <= validated.scores.macro_f1 <= 1
        True
    """
    named = {"checkpoint": checkpoint, "data": data, "weights": weights, "device": device}
    return _score("validate", named, options)


@checked
def test(
    checkpoint: str | Path | None = None,
    *,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    device: str | None = None,
    **options: object,
) -> Scored:
    """Scores a bundle on its test split.

    Args:
        checkpoint: Folder of the bundle; None for the newest in ``checkpoints/``.
        data: Folder of pictures; None for the folder of training.
        weights: File of the base's weights, if it has moved since training.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Options under ``data`` and ``trainer``, as for ``fit``.

    Returns:
        The scores, calibrated as predictions are.

    Raises:
        VitloraError: A mistake that the user can fix; the message says how.

    Examples:
        >>> tested = test("checkpoints/waste5", data="photos")
        checkpoints...
        >>> tested.split, tested.scores.images
        ('test', 12)
    """
    named = {"checkpoint": checkpoint, "data": data, "weights": weights, "device": device}
    return _score("test", named, options)


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        bundle: The bundle of the epoch that was kept: see docs/time.md.
        scores: Its scores on the validation pictures; None if this run validated no epoch.
        epoch: Its number, from 1; 0 if the run to resume had ended before.
    """

    bundle: Bundle
    scores: Scores | None
    epoch: int

    @property
    def checkpoint(self) -> Path:
        """The bundle's folder."""
        return self.bundle.folder

    def to_json(self) -> dict[str, object]:
        """Returns the scores as JSON values."""
        scores = {} if self.scores is None else self.scores.to_json()
        return {"checkpoint": str(self.checkpoint), "epoch": self.epoch, "split": "val", **scores}


@dataclass(frozen=True)
class Scored:
    """A bundle's scores on a split.

    Attributes:
        checkpoint: The bundle's folder.
        split: ``val`` or ``test``.
        scores: Calibrated, as predictions are.
        seen: Which of the pictures training used.
    """

    checkpoint: Path
    split: str
    scores: Scores
    seen: Seen

    def to_json(self) -> dict[str, object]:
        """Returns the scores as JSON values."""
        about = {"checkpoint": str(self.checkpoint), "split": self.split}
        return {**about, **self.scores.to_json(), **self.seen.to_json()}


def run(command: str, words: list[str]) -> int:
    """Runs one of the three commands; returns the exit status."""
    started = time.monotonic()
    typed = words
    words, inherited = run_options(command, typed)
    target = inherited.pop("json")
    place, start = place_of(words, inherited)
    if start > 1 and "ended" not in inherited:
        return run_processes(command, typed, start)
    with as_one_of(place), redirect_stdout(sys.stderr if target == "-" else sys.stdout):
        found = _main([command, *words], inherited, started)
    if place is not None:
        if place.rank:
            return 0
        hand_over(_result(command, found))
    if target is not None:
        write_result(command, _result(command, found).to_json(), target)
    return 0


def _result(command: str, found: VitloraCLI | Path) -> Fitted | Scored:
    return _fitted(found) if command == "fit" else _scored(found)


def _score(command: str, named: Mapping[str, object], options: dict[str, object]) -> Scored:
    config = cast(Config | None, options.pop("config", None))
    return _run(command, config, named, options)


def _scored(found: VitloraCLI | Path) -> Scored:
    return Scored(*cast("VitloraCLI", found).scored)


def _fitted(found: VitloraCLI | Path) -> Fitted:
    from vitlora.bundle.checkpoint import load_bundle

    if isinstance(found, Path):  # the folder of a run that had ended
        return Fitted(load_bundle(found), None, 0)
    run = found.run_folder
    return Fitted(load_bundle(run.folder), run.kept, run.kept_epoch)


def _run(
    command: str, config: Config | None, named: Mapping[str, object], options: Mapping[str, object]
) -> Any:
    """Runs a command with the named options that are not None, and returns its result."""
    if "json" in options:
        raise UsageError("json is for the command line; use to_json() of the result instead")
    given = {name: value for name, value in named.items() if value is not None}
    started = time.monotonic()
    typed = option_words(config, given, options)
    words, inherited = run_options(command, typed)
    del inherited["json"]
    place, start = place_of(words, inherited)
    if start > 1 and "ended" not in inherited:
        return result_of_processes(command, typed, start)
    with as_one_of(place):
        found = _main([command, *words], inherited, started)
        first = place is None or place.rank == 0
        result = _result(command, found) if first else None
        if place is None:
            return result
        from vitlora.training import ranks

        return ranks.after_all(result)


def _main(words: list[str], inherited: dict[str, Any], started: float) -> VitloraCLI | Path:
    """Runs a command; returns the folder of the run to resume if that had ended before."""
    if ended := inherited.pop("ended", None):
        return Path(ended)
    fresh = "torch" not in sys.modules
    with light_imports():
        from vitlora.cli.lightning import main
    if fresh:
        gc.freeze()  # collections need not look through what was imported
    return main(words, inherited, started)
