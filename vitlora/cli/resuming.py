"""``fit --resume``: the options of an unfinished run, and those that may change.

A state file may come from anywhere. So it gives plain values, each checked against the type of its
option; what could name a class to import is only compared with what the user gives again.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from lightning.pytorch import Trainer as LightningTrainer

from vitlora.bundle.folder import STATE
from vitlora.bundle.plain import is_a
from vitlora.bundle.record import is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.errors import UsageError, printable
from vitlora.metrics.unsure import Unsure
from vitlora.training import Trainer, ranks
from vitlora.training.classifier import Classifier
from vitlora.training.continued import adapter_of
from vitlora.training.interruption import Interruption
from vitlora.training.run_folder import check_free
from vitlora.training.run_lock import RunLock
from vitlora.training.state_file import StateError, read_about, read_state

# options that do not change a run, or that are checked otherwise
_FREE = (
    *("output", "resume", "json", "checkpoint", "old_data"),
    *("data.root", "data.num_workers", "data.check_copies", "data.images"),
    *("model.weights", "trainer.enable_progress_bar", "trainer.cache_folder", "trainer.cache_gb"),
)
_LENGTHS = ("trainer.max_epochs", "trainer.max_steps", "trainer.time")
_TOP = {"seed_everything": int | bool, "from": str | None, "old_data": str | None}


def options_of(file: Path, typed: Container[str] = ()) -> dict[str, Any]:
    """Returns the options of an unfinished run as defaults: name -> value.

    Args:
        file: Its state.
        typed: Names that the user sets, such as ``--data.root``; they are left out.

    Raises:
        StateError: The file is damaged, or has a value that its option does not accept.
    """
    stored = read_about(file).get("options")
    if not isinstance(stored, dict):
        raise StateError(f"{file} records no options; remove it to start the run anew")
    hints = _hints()
    pairs = _flat(stored)
    defaults = {n: value for n, value in pairs if n in hints and f"--{n}" not in typed}
    for name, value in defaults.items():
        if isinstance(value, str) and is_network_path(value):
            raise StateError(
                f"{file} sets {name} to {printable(value, 80)}, a path on another machine, which a "
                f"file may not choose; set it yourself with --{name}"
            )
        if _is_plain(hints[name]) and not is_a(value, hints[name]):
            raise StateError(
                f"{file} sets {name} to {_shown(value)}, which that option does not accept; "
                "remove the file to start the run anew"
            )
    taken = {name: value for name, value in defaults.items() if _is_safe(value, hints[name])}
    adapter = adapter_of(file, _group(stored, "model").get("adapter"))
    return {**taken, "model.adapter": adapter}


def begin(
    folder: Path, resumes: bool, options: Callable[[], Mapping[str, Any]], held: ExitStack
) -> tuple[RunLock, Interruption, tuple[dict[str, Any], dict[Any, Any]] | None]:
    """Takes the folder of a run and the signals, and reads the state to go on from, if there is.

    Args:
        folder: Folder of the run.
        resumes: Whether an unfinished run in it goes on.
        options: Returns the options that are given now.
        held: Gives folder and signals back in the end.

    Raises:
        StateError: The file is damaged.
        UsageError: Another run has the folder, or the options would make another run.
    """
    interruption, lock, found = held.enter_context(Interruption(resumes)), RunLock(folder), None
    if ranks.rank() == 0:  # the folder may be on another machine than the other processes
        check_free(folder)
        lock.take()
        held.callback(lock.release)
        if resumes and (file := folder / STATE).is_file():
            found = read_state(file)
            check_options(file, found[0].get("options"), options())
    return lock, interruption, ranks.of_first(found)


def same_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that all processes of a run have in common, by dotted name."""
    return {name: value for name, value in _flat(options) if name not in _FREE}


def check_options(file: Path, before: Any, now: Mapping[str, Any]) -> None:
    """Refuses options that would make another run of it.

    Args:
        file: Its state.
        before: Its options, as the state has them.
        now: The options that are given now, or taken from there.

    Raises:
        UsageError: They differ; the message names one.
    """
    known, given = (dict(_flat(each)) for each in (before, now))
    for name in sorted(known.keys() | given.keys()):
        was, wants = known.get(name), given.get(name)
        if was == wants or name in _FREE:
            continue
        said = f"--{name} is {_shown(wants)}, but the run in {file.parent} has {_shown(was)}"
        if name in _LENGTHS:
            raise UsageError(
                f"{said}: its learning rate follows the length of the run, and a longer run would "
                "not have trained so. Leave the option out; when the run has ended, train on with "
                f"'vitlora fit --from {file.parent}'"
            )
        if wants is None:
            raise UsageError(f"{said}, which may not be taken from a file: give it again")
        raise UsageError(f"{said}; leave it out, or start the run anew without --resume")


def _hints() -> dict[str, Any]:
    """Returns the annotation of each option, by its dotted name."""
    kinds: dict[str, tuple[type, ...]] = {
        "data": (FolderData,),
        "model": (Classifier,),
        "trainer": (LightningTrainer, Trainer),  # the second overrides
        "unsure": (Unsure,),
    }
    hints = dict(_TOP)
    for group, classes in kinds.items():
        for kind in classes:
            for name, hint in get_type_hints(kind.__init__).items():
                if name not in ("return", "kwargs", "adapter", "num_classes"):
                    hints[f"{group}.{name}"] = hint
    return hints


def _is_safe(value: object, hint: Any) -> bool:
    """Returns whether no class can be made of a value: it is a number, or its option is plain."""
    return _is_plain(hint) or value is None or isinstance(value, bool | int | float)


def _is_plain(hint: Any) -> bool:
    """Returns whether a value of this type is plain, in all cases."""
    if get_args(hint) and get_origin(hint) is not None:
        literal = str(get_origin(hint)) == "typing.Literal"
        return literal or all(_is_plain(one) for one in get_args(hint))
    return hint in (str, int, float, bool, type(None))


def _flat(options: Any) -> Iterator[tuple[str, Any]]:
    """Yields the dotted names of options with their values, those of an adapter included."""
    for name, value in options.items() if isinstance(options, Mapping) else ():
        if name in ("data", "model", "trainer", "unsure") or name in ("adapter", "init_args"):
            yield from ((f"{name}.{inner}", one) for inner, one in _flat(value))
        else:
            yield str(name), value


def _group(options: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    group = options.get(name)
    return group if isinstance(group, Mapping) else {}


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(text, 80)
