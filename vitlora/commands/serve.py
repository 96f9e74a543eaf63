"""The ``serve`` command: answers pictures over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

from vitlora.bundle.folder import check_there, newest_bundle
from vitlora.errors import UsageError, counted
from vitlora.light_imports import without_compiler
from vitlora.notes import note, tell, warn
from vitlora.serving.limits import Limits, Refusal, check_name

_TOKEN = "VITLORA_TOKEN"
_NEEDED = ("fastapi", "uvicorn", "python_multipart")
_SHORTEST = 16  # characters of a token
_DECODERS = 4  # at most, by default
_PER_CORE = 8  # decoders at most


@dataclass(frozen=True)
class Served:
    """What a server did until it was stopped.

    Attributes:
        pictures: Pictures that got a prediction.
    """

    pictures: int

    def to_text(self) -> str:
        """Returns one line."""
        return f"stopped; {counted(self.pictures, 'picture')} answered"

    def to_json(self) -> dict[str, object]:
        """Returns the same as plain values."""
        return {"pictures": self.pictures}


def serve(
    checkpoints: Sequence[str | Path] | str | Path = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    adapters: str | Path | None = None,
    token_file: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 32,
    queue: int = 256,
    max_megabytes: int = 32,
    max_megapixels: int = 50,
    timeout: float = 30.0,
    decoders: int | None = None,
) -> Served:
    """Answers pictures over HTTP, by many adapters on one base.

    Only this machine reaches it, unless --host is given. With a token, in the environment variable
    VITLORA_TOKEN or in --token-file, requests must bring it. SIGTERM and Ctrl-C end it after what
    was accepted is answered.

    Args:
        checkpoints: Bundles, each as DIR or NAME=DIR; all on one base (default: the newest in
            checkpoints/).
        host: Address to listen on; 0.0.0.0 is every network.
        port: Port to listen on; 0 takes a free one.
        adapters: Folder below which bundles may be loaded and removed while the server runs.
        token_file: File with the token.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.
        batch_size: Pictures in one forward pass at most.
        queue: Pictures that may wait for their answers; more are refused.
        max_megabytes: Size of a request at most.
        max_megapixels: Pixels to decode of one picture at most.
        timeout: Seconds for a request to arrive, and again for its answer.
        decoders: Processes that decode pictures (default: one for each core, at most 4).

    Returns:
        What the server did, once it is stopped.

    Raises:
        UsageError: A value is out of range, a package is missing, or the address is taken.
        BundleError: A bundle is damaged, missing, or belongs to another base.
        BackboneError: The base's weights cannot be found.

    Examples:
        $ vitlora serve checkpoints/waste5
        $ vitlora serve waste=checkpoints/waste5 birds=checkpoints/birds --port 8080
        $ vitlora serve checkpoints/waste5 --host 0.0.0.0 --token-file token
        $ vitlora serve checkpoints/waste5 --adapters checkpoints
    """
    missing = [name for name in _NEEDED if not find_spec(name)]
    if missing:
        raise UsageError(f"serve needs {' and '.join(missing)}: pip install 'vitlora[serve]'")
    count = min(os.cpu_count() or 1, _DECODERS) if decoders is None else decoders
    _check_numbers(port, timeout, batch_size, queue, max_megabytes, max_megapixels, count)
    words = [checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints)
    found = _named(words or [newest_bundle()])
    token = _token(token_file)
    below = None if adapters is None else Path(adapters)
    if below is not None and not below.is_dir():
        raise UsageError(f"--adapters '{below}' is no folder")
    from vitlora.serving.running import bound, run

    with bound(host, port) as listening:
        public = not ip_address(listening.getsockname()[0]).is_loopback
        if public and below is not None and token is None:
            raise UsageError(
                f"--host {host} with --adapters would let everyone load adapters; set a token in "
                f"{_TOKEN} or --token-file"
            )
        with without_compiler():
            from vitlora.prediction.pool import AdapterPool
            from vitlora.serving.app import application
            from vitlora.serving.service import Service

        megabyte = 1 << 20
        limits = Limits(
            body=max_megabytes * megabyte,
            held=8 * max_megabytes * megabyte,
            pixels=max_megapixels * 10**6,
            pictures=min(Limits.pictures, queue),
            waiting=queue,
            batch=batch_size,
            decoding=min(Limits.decoding, timeout),
            seconds=timeout,
        )
        pool = AdapterPool(found, weights, device)
        service = Service(pool, limits, count, below)
        if public and token is None:
            warn(f"everyone who reaches this machine may ask; set a token in {_TOKEN}")
        if not words:
            note(f"using {found[next(iter(found))]}")
        shown = f"[{host}]" if ":" in host else host
        tell(f"http://{shown}:{listening.getsockname()[1]} answers for {', '.join(pool.names)}")
        run(application(service, token, local=not public), listening, timeout)
        return Served(service.counts.answered)


def _check_numbers(
    port: int, timeout: float, batch: int, queue: int, megabytes: int, megapixels: int, count: int
) -> None:
    least = {
        "--batch-size": batch,
        "--queue": queue,
        "--max-megabytes": megabytes,
        "--max-megapixels": megapixels,
        "--decoders": count,
    }
    for option, value in least.items():
        if value < 1:
            raise UsageError(f"{option} is {value}; expected at least 1")
    most = _PER_CORE * (os.cpu_count() or 1)
    if count > most:  # each is a process
        raise UsageError(f"--decoders is {count}; expected 1 to {most}, {_PER_CORE} for each core")
    if not 0 <= port < 65536:
        raise UsageError(f"--port is {port}; expected 0 to 65535")
    if not timeout > 0:
        raise UsageError(f"--timeout is {timeout:g}; expected more than 0 seconds")


def _named(words: Sequence[str | Path]) -> dict[str, Path]:
    """Returns the bundles by their names.

    Raises:
        UsageError: Two have the same name, or a name is not fit for a URL.
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


def _token(file: str | Path | None) -> str | None:
    """Returns the token of the file or the environment; None if there is none.

    Raises:
        UsageError: The file cannot be read, or the token is short or no ASCII.
    """
    where = _TOKEN if file is None else f"--token-file {file}"
    if file is None:
        given = os.environ.get(_TOKEN)
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
