"""Sends ``vitlora serve`` what nobody should send: it must not crash, hang, or answer 500.

    python benchmarks/serving_fuzz.py [--requests 20000] [--seed 0]

Pictures that are cut, flipped, spliced, made up, or declare a huge size, as bodies and in forms
that are damaged themselves; wrong parameters, paths, methods and JSON; no HTTP at all; connections
that are cut off or go silent. Good pictures in between must get, to the bit, the answer that they
got at first. At the end nothing may be waiting, no file may have been written, and SIGTERM must end
the server, which has written nothing to stderr, with 0. Prints how often each kind of request got
which status, and appends the row to benchmarks/results/serving_fuzz.jsonl.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from hostile import encoded, hostile
from pool import random_bundle
from serving import rss, server

RESULTS = Path(__file__).parent / "results" / "serving_fuzz.jsonl"
BACKBONE = "vitlora/vit_micro_patch8_96"
AT_ONCE = 16
EXPECTED = {200, 400, 403, 404, 405, 408, 409, 413, 415, 422}
LEFT = 0  # in place of a status: the connection was closed without an answer
GOOD = encoded("PNG")
ASK = b"/predict?adapter=a"


def main() -> None:
    """Sends the requests and checks the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folders = tempfile.TemporaryDirectory(), tempfile.TemporaryDirectory()
    with folders[0] as folder, folders[1] as empty, tempfile.TemporaryFile("w+") as errors:
        for name in ("a", "b"):
            random_bundle(Path(folder) / name, BACKBONE)
        before = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
        os.environ["TMPDIR"] = empty
        limits = ("--timeout", "30", "--max-megabytes", "2", "--adapters", folder)
        with server(Path(folder), ["a", "b"], *limits, errors=errors) as (url, process):
            start = time.monotonic()
            row = asyncio.run(_play(int(url.rpartition(":")[2]), process, options))
            row["seconds"] = round(time.monotonic() - start)
        after = {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}
        if after != before or any(Path(empty).iterdir()):
            raise RuntimeError("files were written")
        errors.seek(0)
        if said := errors.read():
            raise RuntimeError(f"the server complained: {said[-2000:]}")
    row = {"requests": options.requests, "seed": options.seed, **row}
    print(json.dumps(row))
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


async def _play(
    port: int, process: psutil.Process, options: argparse.Namespace
) -> dict[str, object]:
    """Returns the counts of statuses for each kind of request, and the memory of the processes."""
    want = await _send(port, _request(b"POST", ASK, GOOD))
    requests = zip(_requests(options.seed), range(options.requests), strict=False)
    seen, memory = Counter[str](), [rss(process)]

    async def client() -> None:
        for (kind, data), number in requests:
            status, body = await _send(port, data, ended=kind in CUT)
            if kind == "good" and (status, body) != want:
                raise RuntimeError(f"a good picture got {status} {body!r}, not {want!r}")
            if status not in EXPECTED | {LEFT} or (status == LEFT and kind not in CUT):
                raise RuntimeError(f"{kind} got {status}: {data[:300]!r} ... {body[:300]!r}")
            seen[f"{kind}: {status or 'closed'}"] += 1
            if number % 500 == 0:
                memory.append(rss(process))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(client())
    status, body = await _send(port, _request(b"GET", b"/health"))
    if (status, json.loads(body)["waiting"]) != (200, 0):
        raise RuntimeError(f"/health answers {status} {body!r}")
    if await _send(port, _request(b"POST", ASK, GOOD)) != want:
        raise RuntimeError("a good picture gets another answer in the end")
    return {"statuses": dict(sorted(seen.items())), "rss_mb": memory}


CUT = ("cut off", "no http", "damaged head")


def _requests(seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields kinds of requests and their bytes, for ever."""
    rng, pictures = random.Random(seed), hostile(seed)
    makers = {
        "picture": lambda: _request(b"POST", ASK, next(pictures)),
        "form": lambda: _form([next(pictures), GOOD], rng),
        "damaged form": lambda: _form([GOOD], rng, damaged=True),
        "wrong": lambda: _wrong(rng),
        "json": lambda: _json(rng),
        "damaged head": lambda: _changed(_request(b"POST", ASK, GOOD), rng, 80),
        "no http": lambda: rng.randbytes(rng.randint(0, 500)) + b"\r\n\r\n",
        "cut off": lambda: _cut(_request(b"POST", ASK, next(pictures)), rng),
        "silent": lambda: _request(b"POST", ASK, GOOD)[: -rng.randint(1, 50)],
        "good": lambda: _request(b"POST", ASK, GOOD),
    }
    weights = (50, 10, 10, 8, 5, 5, 3, 5, 0.05, 5)
    while True:
        [kind] = rng.choices([*makers], weights)
        yield kind, makers[kind]()


def _request(
    method: bytes, target: bytes, body: bytes = b"", kind: bytes = b"image/png", more: bytes = b""
) -> bytes:
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s" % (method, target, more)
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


def _form(pictures: list[bytes], rng: random.Random, damaged: bool = False) -> bytes:
    name = rng.choice((b"a.png", b"../../etc/passwd", b"", b"\xff\xfe", b"a" * 3000, b'"', b"\0"))
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n'
        % (name, one)
        for one in pictures * rng.choice((1, 1, 1, 20))
    ]
    body = b"".join(parts) + b"--b--\r\n"
    body = _changed(body, rng, 200) if damaged else body
    kind = rng.choice((b"multipart/form-data; boundary=b", b"multipart/form-data; boundary=c"))
    return _request(b"POST", ASK, body, kind if damaged else b"multipart/form-data; boundary=b")


def _wrong(rng: random.Random) -> bytes:
    targets = (b"/predict", b"/predict?adapter=", b"/predict?adapter=a&top_k=-1", b"/predict?x=1")
    targets += (b"/predict?adapter=a&top_k=1e9", b"/predict?adapter=%00", b"/predict?adapter=%ff")
    targets += (b"/predict?top_k=" + b"9" * 4000, b"/", b"/adapters/..%2f..%2fetc", b"/adapters/zz")
    targets += (b"/docs", b"//", b"/%2e%2e/", b"*", b"/adapters/" + b"z" * 5000, b"/health?x=1")
    methods = (b"POST", b"GET", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"QUIRK")
    long = b"Content-Length: 99999999\r\n"
    more = rng.choice((b"", b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n", long))
    return _request(rng.choice(methods), rng.choice(targets), GOOD, more=more)


def _json(rng: random.Random) -> bytes:
    strange = ("a", "../b", "/etc", "b\0", "", "x" * 200, 1, None, [], {"a": 1}, "\ud800", 1e400)
    fields = {rng.choice(("name", "path", "x")): rng.choice(strange) for _ in range(3)}
    body = json.dumps(fields).encode()
    body = rng.choice((body, body[:-1], b"[" * 50_000, b"", rng.randbytes(50), b'"' + b"a" * 10**6))
    return _request(b"POST", b"/adapters", body, b"application/json")


def _changed(data: bytes, rng: random.Random, most: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(min(most, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


async def _send(port: int, data: bytes, ended: bool = False) -> tuple[int, bytes]:
    """Returns status and body of the answer; ``LEFT`` if the connection was closed without one.

    Args:
        port: The server's.
        data: What to send.
        ended: Close the sending side, upon which uvicorn closes the connection.
    """
    async with asyncio.timeout(120):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            if ended:
                writer.write_eof()
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else LEFT, body


if __name__ == "__main__":
    main()
