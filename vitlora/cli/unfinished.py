"""``fit --resume`` before torch is imported: which run to resume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlora.bundle.folder import LOCK, STATE, is_bundle
from vitlora.errors import UsageError
from vitlora.light_imports import light_imports
from vitlora.notes import tell
from vitlora.shell import typed


def take_resume(command: str, options: list[str]) -> tuple[list[str], bool]:
    """Returns the arguments without ``--resume``, and whether it was there.

    Raises:
        UsageError: The command does not accept it.
    """
    left, resumes, waiting = list[str](), False, list(options)
    while waiting:
        name, equals, value = (word := waiting.pop(0)).partition("=")
        if name != "--resume":
            left.append(word)
            continue
        if not equals:
            value = waiting.pop(0) if waiting and waiting[0] in ("true", "false") else "true"
        if value not in ("true", "false"):
            raise UsageError(f"--resume is '{value}'; expected --resume alone")
        resumes = value == "true"
    if resumes and command != "fit":
        raise UsageError(f"--resume is for fit, not for {command}; leave it out")
    return left, resumes


def to_resume(output: str | None, usual: str, named: bool, names: Sequence[str]) -> dict[str, Any]:
    """Returns the options of the unfinished run, if there is one.

    Args:
        output: Folder of the run; None if none was chosen.
        usual: Its folder then, if ``named``; otherwise that of the newest unfinished run.
        named: Whether there are pictures to start a run with.
        names: Names of the arguments.

    Returns:
        Option -> value; ``ended`` alone, with its folder, if the run had ended.

    Raises:
        UsageError: There is neither a run to resume nor one to start.
        StateError: The file of the run is damaged.
    """
    folder = Path(output or usual) if output or named else _newest()
    if (folder / STATE).is_file():
        with light_imports():
            from vitlora.cli.resuming import options_of

        return {**options_of(folder / STATE, names), "output": str(folder), "resume": True}
    if (folder / LOCK).is_file():  # perhaps of a run that has saved no state yet
        with light_imports():
            from vitlora.training.run_lock import RunLock

        lock = RunLock(folder)
        lock.take()
        lock.release()
    if is_bundle(folder):
        tell(
            f"the run in {folder} has ended; train on from its bundle with: "
            f"{typed('vitlora', 'fit', '--from', folder)}"
        )
        return {"ended": str(folder)}
    if not named:
        raise UsageError(
            f"there is no unfinished run in {folder}; add --config FILE or --data FOLDER to start "
            "one there"
        )
    tell(f"there is no unfinished run in {folder} yet: starting one")
    return {"resume": True}


def _newest() -> Path:
    found = sorted(Path("checkpoints").rglob(STATE), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise UsageError(
            f"there is no unfinished run under {Path('checkpoints').resolve()}; name its folder "
            "with --output"
        )
    return found[-1].parent
