"""The ``demo`` command: a page in the browser that asks this machine."""

from __future__ import annotations

import os
import secrets
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from urllib.parse import quote

from vitlora.arguments import checked
from vitlora.bundle.folder import newest_bundle
from vitlora.errors import counted
from vitlora.files import expanded
from vitlora.light_imports import without_compiler
from vitlora.notes import note, tell
from vitlora.serving.corrections import Corrections
from vitlora.serving.limits import Limits
from vitlora.serving.starting import (
    TOKEN,
    check_installed,
    check_port,
    decoder_count,
    named_bundles,
    note_uncalibrated,
    read_token,
)
from vitlora.shell import typed


@checked
def demo(
    checkpoints: Sequence[str | Path] | str | Path = (),
    *,
    corrections: str | Path = "corrections",
    no_browser: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    token_file: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
) -> Demonstrated:
    """Shows a page in the browser that classifies pictures.

    Choose, drop, paste or photograph pictures: the page says the class, the calibrated confidence
    and doubts, and shows where the network looked. A picture whose class you correct there is kept,
    for fit --from. Only this machine reaches it, unless --host is given; requests must bring the
    random token in the page's address, or yours, from the environment variable VITLORA_TOKEN or
    --token-file. Ctrl-C ends it.

    Args:
        checkpoints: Bundles, each as DIR or NAME=DIR; all on one base (default: the newest in
            checkpoints/).
        corrections: Folder for corrected pictures, which gets a folder for each class. On another
            host than this machine nothing is kept without a token of yours.
        no_browser: Open no browser; the address is printed.
        host: Address to listen on; 0.0.0.0 is every network.
        port: Port to listen on; 0 takes a free one.
        token_file: File with the token.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.

    Returns:
        What was answered and kept, once it is stopped.

    Raises:
        UsageError: A value is out of range, a package is missing, or the address is taken.
        BundleError: A bundle is damaged, missing, or belongs to another base.
        BackboneError: The base's weights cannot be found.

    Examples:
        $ vitlora demo checkpoints/waste5
        $ vitlora demo waste=checkpoints/waste5 birds=checkpoints/birds --no-browser
        $ vitlora demo checkpoints/waste5 --host 0.0.0.0 --token-file token
    """
    check_installed("demo")
    check_port(port)
    words = [checkpoints] if isinstance(checkpoints, str | Path) else list(checkpoints)
    found = named_bundles(words or [newest_bundle()])
    own = read_token(token_file)
    token = own or secrets.token_urlsafe(16)
    keeping = Corrections(expanded(corrections), list(found))
    from vitlora.serving.running import bound, run

    with bound(host, port) as listening:
        address, port, *_ = listening.getsockname()
        if not ip_address(address).is_loopback and own is None:
            keeping = None
            note(f"corrections are off on --host {host}; set a token in {TOKEN} or --token-file")
        with without_compiler():
            from vitlora.prediction.pool import AdapterPool
            from vitlora.serving.demo import demo_application
            from vitlora.serving.service import Service

        limits = Limits()
        pool = AdapterPool(found, weights, device)
        note_uncalibrated(pool.uncalibrated)
        service = Service(pool, limits, decoder_count())
        if not words:
            note(f"using {found[next(iter(found))]}")
        app = demo_application(service, token, keeping)
        place = _place(host, address, port)
        tell(f"open {place}#{quote(token, safe='') if own is None else 'TOKEN'} in a browser")
        if own is not None:
            note(f"TOKEN is the one in {token_file or TOKEN}")
        if not no_browser:
            _show(f"{place}#{quote(token, safe='')}")
        run(app, listening, limits.seconds)
        kept = keeping.counts if keeping else {}
        folders = keeping.folders if keeping else {}
        bases = {
            name: (path, folders[name], kept[name]) for name, path in found.items() if name in kept
        }
        return Demonstrated(service.counts.answered, bases)


@dataclass(frozen=True)
class Demonstrated:
    """What a demo did until it was stopped.

    Attributes:
        pictures: Pictures that got a prediction.
        corrected: Name of an adapter -> its bundle, the folder of its corrections, and how many
            pictures were kept.
    """

    pictures: int
    corrected: Mapping[str, tuple[Path, Path, int]]

    def to_text(self) -> str:
        """Returns what was done and what to do next."""
        lines = [f"stopped; {counted(self.pictures, 'picture')} answered"]
        for checkpoint, folder, count in self.corrected.values():
            fit = typed("vitlora", "fit", "--from", checkpoint, "--data", folder)
            lines.append(
                f"{counted(count, 'correction')} in {folder}; add old pictures of each class, "
                f"so that it forgets none, then train: {fit}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Returns the same as plain values."""
        corrected = [
            {"adapter": name, "checkpoint": str(path), "folder": str(folder), "pictures": count}
            for name, (path, folder, count) in self.corrected.items()
        ]
        return {"pictures": self.pictures, "corrected": corrected}


def _place(host: str, address: str, port: int) -> str:
    """Returns the page's address for a browser on this machine."""
    if ip_address(address).is_unspecified:
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _show(address: str) -> None:
    """Opens a browser, where there is a screen; some browsers return only when they are closed."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(os.environ.get(one) for one in screens):
        return
    Thread(target=webbrowser.open, args=(address,), daemon=True).start()
