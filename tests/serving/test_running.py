"""Tests of ``vitlora serve`` as a process: signals, and senders that are slow or strange."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving.servers import running, until

from benchmarks.hostile import encoded


@contextmanager
def process(bundles: Path, *options: str) -> Iterator[tuple[Any, int]]:
    """Runs the command; yields the process and its port."""
    words = ("serve", str(bundles / "two"), "--port", "0", *options)
    with running(*words) as started:
        line = started.stdout.readline()  # pyright: ignore
        assert "answers for two" in line, started.communicate()
        port = int(line.split()[0].rpartition(":")[2])
        until(lambda: listens(port))
        yield started, port


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def raw(port: int, data: bytes, hold: bool = False) -> Any:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(data)
    if hold:
        return connection
    return received(connection)


def received(connection: socket.socket) -> bytes:
    """Returns what comes until the other side closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_signal_answers_what_was_accepted_then_ends_with_0(bundles: Path) -> None:
    picture = encoded("PNG")
    for one in (signal.SIGTERM, signal.SIGINT):
        with process(bundles) as (server, port):
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
                picture
            )
            connection = raw(port, head + picture[:100], hold=True)
            time.sleep(0.3)
            server.send_signal(one)
            time.sleep(0.3)
            assert server.poll() is None
            connection.sendall(picture[100:])
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200") and b'"top_k"' in answer
            out, err = server.communicate(timeout=20)
            assert (server.returncode, err) == (0, "")
            assert out == "stopped; 1 picture answered\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_second_ctrl_c_ends_it_at_once_and_quietly(bundles: Path) -> None:
    with process(bundles) as (server, port):
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        with raw(port, head, hold=True):
            time.sleep(0.3)
            server.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert server.poll() is None
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=20)
        assert (server.returncode, err) == (0, "")
        assert out == "stopped; 0 pictures answered\n"


@pytest.mark.slow
def test_it_serves_in_a_thread_of_a_notebook(bundles: Path) -> None:
    code = f"""
import threading, time, urllib.request, vitlora
options = dict(port=8377, device="cpu")
words = ({str(bundles / "two")!r},)
threading.Thread(target=vitlora.serve, args=words, kwargs=options, daemon=True).start()
for _ in range(200):
    time.sleep(0.1)
    try:
        print(urllib.request.urlopen("http://127.0.0.1:8377/health", timeout=5).status)
        break
    except OSError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("200", "")


@pytest.mark.slow
def test_slow_and_strange_senders_are_let_go_of(bundles: Path) -> None:
    with process(bundles, "--timeout", "4") as (server, port):
        started = time.monotonic()
        silent = raw(port, b"", hold=True)
        half = raw(port, b"POST /predict HT", hold=True)
        assert silent.recv(10) == b"" and half.recv(10) == b""  # closed
        slow = raw(
            port,
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nabc",
            True,
        )
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 40
        assert raw(port, b"\x16\x03\x01 no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
        no_chunks = b"HEAD /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n"
        assert raw(port, no_chunks).startswith(b"HTTP/1.1 4")
        long_head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000
        assert raw(port, long_head + b"\r\n").startswith(b"HTTP/1.1 4")
        left = raw(
            port,
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nabc",
            True,
        )
        left.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/predict", encoded("PNG"))
        assert connection.getresponse().status == 200
        server.terminate()
        _, err = server.communicate(timeout=20)
        assert server.returncode == 0 and "Traceback" not in err
