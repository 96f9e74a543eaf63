"""The ``serve`` command: answers pictures over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from vitlora.arguments import checked
from vitlora.bundle.folder import newest_bundle
from vitlora.errors import UsageError, counted
from vitlora.light_imports import without_compiler
from vitlora.notes import note, tell, warn
from vitlora.serving.limits import Limits
from vitlora.serving.starting import (
    TOKEN,
    check_installed,
    check_port,
    decoder_count,
    most_decoders,
    named_bundles,
    note_uncalibrated,
    read_token,
)


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


@checked
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
    check_installed("serve")
    count = decoder_count() if decoders is None else decoders
    _check_numbers(port, timeout, batch_size, queue, max_megabytes, max_megapixels, count)
    words = [checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints)
    found = named_bundles(words or [newest_bundle()])
    token = read_token(token_file)
    below = None if adapters is None else Path(adapters)
    if below is not None and not below.is_dir():
        raise UsageError(f"--adapters '{adapters}' is no folder; expected the one with the bundles")
    from vitlora.serving.running import bound, run

    with bound(host, port) as listening:
        public = not ip_address(listening.getsockname()[0]).is_loopback
        if public and below is not None and token is None:
            raise UsageError(
                f"--host {host} with --adapters would let everyone load adapters; set a token in "
                f"{TOKEN} or --token-file"
            )
        with without_compiler():
            from vitlora.prediction.pool import AdapterPool
            from vitlora.serving.app import application
            from vitlora.serving.service import Service

        limits = Limits(
            body=max_megabytes * 10**6,
            held=8 * max_megabytes * 10**6,
            pixels=max_megapixels * 10**6,
            pictures=min(Limits.pictures, queue),
            waiting=queue,
            batch=batch_size,
            decoding=min(Limits.decoding, timeout),
            seconds=timeout,
        )
        pool = AdapterPool(found, weights, device)
        service = Service(pool, limits, count, below)
        note_uncalibrated(pool.uncalibrated)
        if public and token is None:
            warn(f"everyone who reaches this machine may ask; set a token in {TOKEN}")
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
    most = most_decoders()
    if count > most:
        raise UsageError(f"--decoders is {count}; expected 1 to {most}")
    check_port(port)
    if not timeout > 0:
        raise UsageError(f"--timeout is {timeout:g}; expected more than 0 seconds")
