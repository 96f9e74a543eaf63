"""Runs an ASGI application by uvicorn until a signal ends it."""

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitlora.errors import UsageError

_HEAD = 16 << 10  # bytes of a request's head; what comes with it in one piece is read, too


def bound(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on an address; who connects waits until ``run``.

    Raises:
        UsageError: The address is taken, not allowed, or not of this machine.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()  # two may bind at once, but only one may listen
    except (OSError, UnicodeError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        todo = "; --port 0 takes a free one" if said == os.strerror(errno.EADDRINUSE) else ""
        raise UsageError(f"cannot serve on --host {host} --port {port}: {said}{todo}") from None
    return made


def run(app: Any, listening: socket.socket, patience: float) -> None:
    """Serves until SIGTERM or SIGINT; then answers what was accepted, and returns.

    A second SIGINT ends it at once. In another thread than the main one it serves until the process
    ends.

    Args:
        app: The ASGI application.
        listening: From ``bound``.
        patience: Seconds that a client may take over sending the head of a request.
    """
    for library in ("uvicorn", "python_multipart"):  # they warn of whatever clients do wrong
        logging.getLogger(library).setLevel(logging.ERROR)

    class Impatient(_Impatient):
        seconds = patience

    server = _Server(
        uvicorn.Config(
            app,
            http=Impatient,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=24 * 3600,  # Impatient closes them sooner
            h11_max_incomplete_event_size=_HEAD,
        )
    )

    # uvicorn 0.54 raises the signal once more after it has shut down; then these do nothing
    main = threading.current_thread() is threading.main_thread()  # which alone gets signals
    before = {one: signal.signal(one, server.handle_exit) for one in _ENDING if main}
    try:
        server.run(sockets=[listening])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


_ENDING = (signal.SIGINT, signal.SIGTERM)


class _Server(uvicorn.Server):
    """Ends at a second SIGINT without a traceback for each request that it drops."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remembers a signal."""
        if self.should_exit:
            logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


class _Impatient(H11Protocol):
    """Closes connections on which no request begins.

    uvicorn 0.54 waits for ever for the first head, and for the rest of a body that it refused.

    Attributes:
        seconds: Time from a connection or an answer to the end of the next request's head.
    """

    seconds = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts to wait."""
        super().connection_made(transport)
        self._free_since = self.loop.time()
        self._look = self.loop.call_later(self.seconds, self._close_or_wait)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Starts to wait again."""
        self._free_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, if an answer is still possible.

        uvicorn 0.54 raises where HEAD has a malformed body, and where an answer is under way; and
        when the application answers a request that was answered so.
        """
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True

    def _close_or_wait(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        left = self.seconds if answering else self._free_since + self.seconds - self.loop.time()
        if left <= 0:
            self.transport.abort()
        else:
            self._look = self.loop.call_later(left, self._close_or_wait)
