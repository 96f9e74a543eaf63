"""The ``sweep`` command: looks for good options of a training.

Each trial is a ``vitlora fit`` in a process of its own, started by workers, which are processes,
too. This process watches the storage, and trains the best again in the end. It imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from vitlora import __version__, yaml_text
from vitlora.arguments import checked
from vitlora.errors import UsageError, counted
from vitlora.files import alone_in, expanded, write_json, write_whole
from vitlora.notes import tell
from vitlora.processes import device_count
from vitlora.studies.methods import fit_words
from vitlora.studies.pictures import pictures_of
from vitlora.studies.search.again import OWN, Again, Retrainings, train_again
from vitlora.studies.search.drawing import Sampler
from vitlora.studies.search.goals import check_goals
from vitlora.studies.search.home import is_home, take_folder
from vitlora.studies.search.progress import Progress
from vitlora.studies.search.result import Swept
from vitlora.studies.search.search import Search
from vitlora.studies.search.space import Choices, Space, read_space
from vitlora.studies.search.storage import check_storage, explained, open_storage
from vitlora.studies.search.trials import Trial
from vitlora.studies.search.worker import open_search, training_of
from vitlora.studies.search.workers import Workers
from vitlora.studies.study import SETUP, check_ours, refusals, resolved

_POLL = 1.0  # seconds between looks at the storage
_MOST_WORKERS = 256
_LAST_SEED = 2**31  # seeds of training again follow; torch takes up to 2**32 - 1


@checked
def sweep(
    config: Sequence[str | Path] | str | Path = (),
    *,
    sweep: str | Path,
    data: str | Path | None = None,
    trials: int = 20,
    workers: int = 1,
    objectives: Sequence[str] = ("macro_f1",),
    sampler: Sampler = "tpe",
    no_prune: bool = False,
    again: int = 3,
    seed: int = 0,
    storage: str | None = None,
    output: str | Path | None = None,
    **options: object,
) -> Swept:
    r"""Searches for the best options of a training.

    Each trial trains with other values of the options in --sweep, and is scored on the validation
    pictures. The best is then trained again with new seeds, beside the configuration without
    changes, and both are scored on the test pictures: the best of many trials is partly lucky, and
    this says how much. Needs pip install 'vitlora[sweep]'.

    --sweep names a YAML file with options of fit, each with a list of choices, such as
    model.adapter.rank: [4, 8, 16], or a range, such as model.lr: {low: 0.0005, high: 0.01,
    log: true}. step: 2 in a range allows every second number.

    Workers are processes, and any may be killed: its trial is tried again. After Ctrl-C the same
    command continues; with more --trials it goes on. For several machines, start the same command
    on each with the same --storage, the address of a database.

    Objectives: macro_f1, accuracy, loss (on the validation pictures); seconds (of training), size
    (of the bundle), memory (of training), trainable (parameters). With several, the trials that no
    other beats are marked, and none is pruned.

    The exit status is 1 if no trial was completed, or if training the best again failed.

    Args:
        config: YAML files, as for fit.
        sweep: YAML file with the options to vary.
        data: Folder of pictures.
        trials: Number of trials in all.
        workers: Number of trials at once on this machine.
        objectives: What to look for; the first is a score.
        sampler: tpe (near the good trials), random, or grid (every combination, in order).
        no_prune: Train also those trials to the end whose scores stay below the median.
        again: Number of new seeds with which the best is trained again.
        seed: Seed of the points and of each training.
        storage: Address of a database that several machines share (default: a journal file in the
            output folder).
        output: Folder for the bundle, the table and the logs (default: sweeps/NAME, where NAME is
            the config's).
        options: Any option of fit with a dot in its name, or its short name.

    Returns:
        The trials, and what training the best again says.

    Raises:
        UsageError: An option is wrong, or the output folder holds something else.
        DataError: The folder of pictures cannot be used.
        VitloraError: Too many workers died.
        KeyboardInterrupt: It was stopped; finished trials are kept.

    Examples:
        $ vitlora sweep waste5.yaml --sweep lora.yaml --data photos --trials 20
        $ vitlora sweep waste5.yaml --sweep lora.yaml --objectives macro_f1,seconds \
            --workers 2
    """
    if not find_spec("optuna"):
        raise UsageError("sweep needs optuna: pip install 'vitlora[sweep]'")
    goals = check_goals(objectives)
    _check_numbers(trials=trials, again=again, seed=seed, workers=workers)
    check_storage(storage)
    space, fields = read_space(sweep)
    words = fit_words(config, data, options, set_by_method=())
    if not {"--config", "--data.root"} & {*words}:
        raise UsageError(
            "sweep needs --config FILE or --data FOLDER; 'vitlora configs' lists the configs"
        )
    for name in space.parts:
        if f"--{name}" in words:
            raise UsageError(f"--{name} is given, and --sweep {sweep} varies it; leave one out")
    if sampler == "grid" and space.size is None:
        raise UsageError("--sampler grid needs choices or steps for every option of --sweep")
    configs = [b for a, b in pairwise(words) if a == "--config"]
    folder = expanded(output or Path("sweeps") / (Path(configs[-1]).stem if configs else "run"))
    check_ours(folder, "sweep")
    base = resolved(words)
    several = {"trainer.devices", "trainer.num_nodes"} & space.parts.keys()
    if several or device_count(base["trainer"]["devices"]) * base["trainer"]["num_nodes"] > 1:
        raise UsageError(
            "sweep trains each trial on one device; leave trainer.devices out, and use --workers "
            "for several trials at a time"
        )
    split, pictures, digest = pictures_of(base["data"], "sweep")
    if not (folder / SETUP).is_file():
        _check_space(space, words)
    if storage is not None:
        open_storage(folder, storage)  # tells mistakes before anything is written
    setup = {
        "vitlora": __version__,
        "name": folder.resolve().name,
        "pictures": digest,
        "config": base,
        "space": fields,
        "objectives": goals,
        "sampler": sampler,
        "prune": not no_prune,
        "seed": seed,
    }
    take_folder(folder, setup)
    target = trials if space.size is None else min(trials, space.size)
    points = "" if space.size is None else f" of {counted(space.size, 'point')}"
    with explained(storage):
        search = open_search(folder, setup, storage)
        search.take_setup({key: setup[key] for key in setup if key != "name"}, target)
        tell(
            f"{counted(target, 'trial')}{points} on {base['data']['root']}, "
            f"{counted(workers, 'worker')}; bundles and logs go to {folder}"
        )
        _run(search, folder, workers, storage)
        found, front, home = search.trials(), search.front(), is_home(search, folder)
    training = training_of(folder, setup)
    best = next(iter(front), None)
    retrained = None
    if best is not None:
        tuned = resolved(training.words(best.point))
        write_whole(folder / "best.yaml", yaml_text.write(tuned))
        if again and not home:
            tell("the best is trained again where the sweep was started")
        elif again:
            retrained = _again(folder, base, split, pictures, best, tuned, goals[0], seed, again)
    bundle = None if best is None else training.bundle(best.number, best.attempt)
    swept = Swept(
        folder,
        setup,
        space,
        found,
        [trial.number for trial in front],
        retrained,
        bundle if bundle is not None and (bundle / "vitlora.json").is_file() else None,
    )
    _write(swept)
    return swept


def _check_numbers(**numbers: int) -> None:
    ranges = {"trials": 1, "again": 0, "seed": 0, "workers": 1}
    for name, value in numbers.items():
        most = {"seed": _LAST_SEED, "workers": _MOST_WORKERS}.get(name)
        if value < ranges[name] or (most is not None and value > most):
            expected = f"at least {ranges[name]}" if most is None else f"{ranges[name]} to {most}"
            raise UsageError(f"--{name} is {value}; expected {expected}")


def _check_space(space: Space, words: Sequence[str]) -> None:
    """Refuses what cannot be trained, before the first training.

    Each look of ``fit`` at its options takes time, so each checks a value of every option.

    Raises:
        UsageError: An option that varies is unknown or has a value of a wrong type; or no point can
            be trained, so it is not for one of the values that vary.
    """
    values = [
        part.words if isinstance(part, Choices) else (part.low, part.high)
        for part in space.parts.values()
    ]
    points = [
        {n: v[number % len(v)] for n, v in zip(space.parts, values, strict=True)}
        for number in range(max(map(len, values)))
    ]
    found = refusals([[*words, *space.words(point)] for point in points])
    refused = [one for one in found if one is not None]
    for one in refused:
        if one.unread:
            raise UsageError(f"--sweep: {one.reason}")
    if len(refused) == len(points):
        raise UsageError(refused[0].reason)


def _run(search: Search, folder: Path, workers: int, storage: str | None) -> None:
    """Runs the workers until all trials are settled, and says how each trial ended."""
    is_home(search, folder)
    progress = Progress(search)
    if search.finished():
        return
    crew = Workers(folder, workers, storage)
    try:
        while not search.finished():
            progress.tell()
            crew.check()
            time.sleep(_POLL)
        progress.tell()
    except KeyboardInterrupt:
        crew.stop()
        tell(f"\n{progress.kept()} kept; the same command continues")
        raise
    finally:
        crew.stop()


def _again(
    folder: Path,
    base: dict[str, Any],
    split: str,
    pictures: int,
    best: Trial,
    tuned: dict[str, Any],
    goal: str,
    seed: int,
    count: int,
) -> Again:
    name = f"trial-{best.number}"
    seeds = range(seed + 1, seed + 1 + count)
    tell(
        f"training trial {best.number} and the configuration without changes again, with "
        f"{counted(count, 'new seed')}; scored on {counted(pictures, f'{split} picture')}"
    )
    study = Retrainings(folder / "again", base, split, True, {}, {name: tuned, OWN: base})
    study.folder.mkdir(exist_ok=True)
    assert best.values is not None  # it is on the front
    with alone_in(study.folder):  # several commands may have run trials in the folder
        return train_again(study, name, seeds, goal, best.values[0])


def _write(swept: Swept) -> None:
    from vitlora.studies.search.page import page

    write_json(swept.to_json(), str(swept.folder / "sweep.json"))
    write_whole(swept.folder / "sweep.html", page(swept))
