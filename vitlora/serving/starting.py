"""What a server's command checks before it imports torch."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from vitlora.bundle.folder import check_there
from vitlora.errors import UsageError, a_few, counted
from vitlora.notes import note
from vitlora.serving.limits import Refusal, check_name

TOKEN = "VITLORA_TOKEN"
_NEEDED = ("fastapi", "uvicorn", "python_multipart")
_SHORTEST = 16  # characters of a token
_DECODERS = 4  # at most, by default
_PER_CORE = 8  # decoders at most; each is a process


def check_installed(command: str) -> None:
    """Checks that the packages of the extra ``serve`` are installed.

    Raises:
        UsageError: One is missing.
    """
    missing = [name for name in _NEEDED if not find_spec(name)]
    if missing:
        raise UsageError(f"{command} needs {' and '.join(missing)}: pip install 'vitlora[serve]'")


def check_port(port: int) -> None:
    """Refuses a number that is not a port.

    Raises:
        UsageError: It is below 0 or too large.
    """
    if not 0 <= port < 65536:
        raise UsageError(f"--port is {port}; expected 0 to 65535")


def decoder_count() -> int:
    """Returns how many processes decode pictures by default."""
    return min(os.cpu_count() or 1, _DECODERS)


def most_decoders() -> int:
    """Returns the largest number of processes that may decode pictures."""
    return _PER_CORE * (os.cpu_count() or 1)


def named_bundles(words: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the bundles by their names.

    Raises:
        UsageError: Two have the same name, or a name cannot be part of a URL.
        BundleError: A folder holds no bundle.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, equals, folder = str(word).partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(word).resolve().name, word
        try:
            check_name(name)
        except Refusal as refusal:
            raise UsageError(f"{word}: {refusal}; write NAME=DIR") from None
        path = check_there(folder)
        if name in found:
            raise UsageError(
                f"two bundles are named '{name}', {found[name]} and {path}; write NAME=DIR"
            )
        found[name] = path
    return found


def note_uncalibrated(names: Sequence[str]) -> None:
    """Notes which adapters mark no answer."""
    if names:
        note(
            f"{a_few(names)} {'is' if len(names) == 1 else 'are'} not calibrated: confidence may "
            "mislead, and no answer is marked as unsure; see 'vitlora calibrate'"
        )


def read_token(file: str | Path | None) -> str | None:
    """Returns the token of the file or the environment; None if there is none.

    Raises:
        UsageError: The file cannot be read, or the token is too short or not ASCII.
    """
    where = TOKEN if file is None else f"--token-file {file}"
    if file is None:
        given = os.environ.get(TOKEN)
        if given is None:
            return None
    else:
        try:
            given = Path(file).read_text("utf-8", errors="replace")
        except OSError as error:
            raise UsageError(f"{where}: {error.strerror}") from None
    token = given.strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"the token in {where} has {counted(len(token), 'character')}; expected at least "
            f"{_SHORTEST} of ASCII without spaces, such as those of 'openssl rand -hex 32'"
        )
    return token
