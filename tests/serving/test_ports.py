"""Two servers on one port."""

import socket

import pytest

from vitlora.errors import UsageError
from vitlora.serving.running import bound


def test_of_two_that_start_at_once_one_gets_the_port() -> None:
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))  # and does not listen yet
        port = first.getsockname()[1]
        with bound("127.0.0.1", port), pytest.raises(OSError, match=r"[Aa]ddress already in use"):
            first.listen()
    with bound("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="--port 0 takes a free"):
        bound("127.0.0.1", taken.getsockname()[1])
