"""The folder of a sweep, and which of several machines' folders came first."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError
from vitlora.files import write_json
from vitlora.studies.search.search import Search
from vitlora.studies.study import SETUP, difference

_HOME = "home"  # the folder's mark, in its setup and in the storage


def take_folder(folder: Path, setup: Mapping[str, Any]) -> None:
    """Records the setup in the folder, or checks that it is that of the trials there.

    Raises:
        UsageError: The folder has trials of another sweep.
    """
    file = folder / SETUP
    if not file.is_file():
        write_json({**setup, _HOME: secrets.token_hex(8)}, str(file))
        return
    known = json.loads(file.read_text("utf-8"))
    home = known.pop(_HOME, None)
    change = difference(known, dict(setup)) if home else "it is no sweep"
    if change:
        raise UsageError(
            f"{folder} has trials of another sweep ({change}); choose another --output, or delete "
            "that folder"
        )


def is_home(search: Search, folder: Path) -> bool:
    """Returns whether this folder's sweep came first to the storage.

    The best is trained again there; sweeps in other folders only add trials.
    """
    mark = json.loads((folder / SETUP).read_text("utf-8"))[_HOME]
    if _HOME not in search.study.user_attrs:
        search.study.set_user_attr(_HOME, mark)
    return search.study.user_attrs[_HOME] == mark
