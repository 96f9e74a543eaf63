"""Finds a config by name: a path, a file in ``./configs/``, or one that ships with vitlora."""

from importlib.resources import files
from pathlib import Path

from vitlora.errors import UsageError, nearest

_OWN = Path("configs")  # the user's, in the working folder


def shipped() -> dict[str, Path]:
    """Returns the configs that ship with vitlora: name -> file, sorted by name."""
    folder = Path(str(files("vitlora") / "configs"))
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Returns a config file: a path, else one in ``./configs/``, else one that ships.

    Raises:
        UsageError: There is none; the message lists those that exist.
    """
    for path in (Path(name), _OWN / name):
        if path.is_file():
            return path
    ours = shipped()
    if name in ours:
        return ours[name]
    own = sorted(path.name for path in _OWN.glob("*.yaml"))
    here = f"in configs/: {', '.join(own)}; " if own else ""
    raise UsageError(
        f"--config '{name}': no such file{nearest(Path(name).name, [*own, *ours])}; "
        f"{here}shipped with vitlora: {', '.join(ours)}"
    )
