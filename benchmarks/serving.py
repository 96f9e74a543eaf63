"""What HTTP costs: ``vitlora serve`` on loopback beside the pool that it answers with.

    python benchmarks/serving.py --data PHOTOS [--parts throughput,latency,adapters,soak]

One server process, one client process, one torch thread for the network; LoRA of rank 8 on all
linear layers, random weights, a photo as a body. Photos with a short side of
256 pixels, such as TrashNet's, cost little to decode; 12-megapixel photos cost more.

``throughput``: pictures per second of 64 clients that ask again as soon as they are answered,
beside those of ``AdapterPool.forward`` on ready tensors in batches of 32, in turns; and the CPU
time of each, which other processes on the machine disturb less: where there is a core to spare, the
network's thread decides the rate. ``latency``:
pictures that arrive at random at half of that rate. ``adapters``: 64 clients of 32 adapters beside
64 clients of one, in turns. ``soak``: good and broken pictures, forms of both, slow senders, for
``--seconds``; every request must get the answer that it should, and the memory of the server and
its decoders must stay flat. Rows are printed and appended to benchmarks/results/serving.jsonl.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from hostile import hostile
from pool import random_bundle

from vitlora.prediction.pool import AdapterPool

RESULTS = Path(__file__).parent / "results" / "serving.jsonl"
CLIENTS = 64
ADAPTERS = 32


def main() -> None:
    """Measures the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--backbone", default="timm/vit_tiny_patch16_224")
    parser.add_argument("--parts", default="throughput,latency,adapters,soak")
    parser.add_argument("--seconds", type=float, default=15, help="of a turn; the soak's own")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    photos = [file.read_bytes() for file in sorted(options.data.rglob("*.jpg"))[::7]]
    parts = {"throughput": throughput, "latency": latency, "adapters": adapters, "soak": soak}
    with tempfile.TemporaryDirectory() as folder:
        names = [f"a{number}" for number in range(ADAPTERS)]
        for name in names:
            random_bundle(Path(folder) / name, options.backbone)
        for part in options.parts.split(","):
            for row in parts[part](Path(folder), names, photos, options):
                record({"part": part, "backbone": options.backbone, **row})


def record(row: dict[str, Any]) -> None:
    """Prints a row and appends it to the results."""
    row |= {"torch": torch.__version__, "load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps(row), flush=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def throughput(
    folder: Path, names: list[str], photos: list[bytes], options: Any
) -> Iterator[dict[str, Any]]:
    """Yields the pictures per second of the server and of its pool, and the CPU time of each."""
    pool = AdapterPool({names[0]: folder / names[0]}, device="cpu")
    images = torch.randn(32, 3, *[pool.adapter(names[0]).preprocessing.image_size] * 2)
    bare, over_http, cpu = list[float](), list[float](), list[dict[str, float]]()
    with server(folder, names[:1]) as (url, process):
        asyncio.run(closed(url, names[:1], photos, 2))  # warm
        for _ in range(options.turns):
            start = time.process_time()
            each, done = rate(lambda: len(pool.forward(images, names[:1] * 32)), options.seconds)
            bare.append(each)
            cpu.append({"pool": 1e3 * (time.process_time() - start) / done})
            each, spent = measured(process, url, names[:1], photos, options.seconds)
            over_http.append(each)
            cpu[-1] |= spent
    medians = {part: statistics.median(one[part] for one in cpu) for part in cpu[0]}
    yield {
        "pool_pictures_per_second": rounded(bare),
        "http_pictures_per_second": rounded(over_http),
        "ratio": round(statistics.median(over_http) / statistics.median(bare), 3),
        "cpu_milliseconds_per_picture": {part: round(ms, 2) for part, ms in medians.items()},
        "cpu_ratio_of_the_network": round(medians["pool"] / medians["network"], 3),
    }


def latency(
    folder: Path, names: list[str], photos: list[bytes], options: Any
) -> Iterator[dict[str, Any]]:
    """Yields how long answers take at half of the server's rate."""
    with server(folder, names[:1]) as (url, _):
        most, _ = asyncio.run(closed(url, names[:1], photos, options.seconds))
        while httpx.get(f"{url}/health").json()["waiting"]:  # those of clients that are gone
            time.sleep(0.1)
        taken = asyncio.run(opened(url, names[0], photos, most / 2, 4 * options.seconds))
        alone = asyncio.run(opened(url, names[0], photos, 2, options.seconds))
    for load, seconds in (("half", taken), ("two pictures a second", alone)):
        cuts = statistics.quantiles(seconds, n=100)
        yield {
            "load": load,
            "pictures_per_second": round(most / 2 if load == "half" else 2, 1),
            "pictures": len(seconds),
            "milliseconds": {f"p{n}": round(1e3 * cuts[n - 1], 1) for n in (50, 95, 99)},
        }


def adapters(
    folder: Path, names: list[str], photos: list[bytes], options: Any
) -> Iterator[dict[str, Any]]:
    """Yields the pictures per second of many adapters and of one, and the network's CPU time."""
    seen: dict[str, list[float]] = {"one": [], "many": []}
    cpu: dict[str, list[float]] = {"one": [], "many": []}
    with server(folder, names) as (url, process):
        asyncio.run(closed(url, names, photos, 2))  # warm
        for _ in range(options.turns):
            for kind, some in (("one", names[:1]), ("many", names)):
                each, spent = measured(process, url, some, photos, options.seconds)
                seen[kind].append(each)
                cpu[kind].append(spent["network"])
    medians = {kind: statistics.median(values) for kind, values in cpu.items()}
    yield {
        "adapters": len(names),
        **{f"{kind}_pictures_per_second": rounded(values) for kind, values in seen.items()},
        "times_the_time": round(
            statistics.median(seen["one"]) / statistics.median(seen["many"]), 3
        ),
        "network_cpu_milliseconds_per_picture": {k: round(ms, 2) for k, ms in medians.items()},
        "times_the_cpu_time": round(medians["many"] / medians["one"], 3),
    }


def soak(
    folder: Path, names: list[str], photos: list[bytes], options: Any
) -> Iterator[dict[str, Any]]:
    """Yields what became of good and bad requests, and of the server's memory."""
    with server(folder, names) as (url, process):
        asyncio.run(closed(url, names, photos, 5))  # warm
        memory, stop = list[tuple[int, int]](), time.monotonic() + options.seconds
        answers = asyncio.run(mixed(url, names, photos, stop, lambda: memory.append(rss(process))))
    tenth = max(len(memory) // 10, 1)
    yield {
        "seconds": options.seconds,
        "answers": dict(sorted(answers.items())),
        "rss_mb_of_the_server_and_the_decoders": {
            when: [statistics.median(values) for values in zip(*some, strict=True)]
            for when, some in (("first tenth", memory[:tenth]), ("last tenth", memory[-tenth:]))
        },
    }


@contextmanager
def server(
    folder: Path, names: list[str], *options: str, errors: Any = None
) -> Iterator[tuple[str, psutil.Process]]:
    """Runs a server of bundles; yields its address and its process. It must end with 0.

    Args:
        folder: Of the bundles.
        names: Of the bundles.
        options: More options of ``vitlora serve``.
        errors: A file for what it writes to stderr.
    """
    command = [sys.executable, "-m", "vitlora", "serve", "--port", "0", *options]
    process = subprocess.Popen(
        [*command, *(str(folder / name) for name in names)],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        for _ in range(200):
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, psutil.Process(process.pid)
        process.terminate()
        if status := process.wait(60):
            raise RuntimeError(f"the server ended with {status}")
    finally:
        process.kill()


def rate(compute: Callable[[], int], seconds: float) -> tuple[float, int]:
    """Returns how many a second a computation does, and how many it did."""
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += compute()
    return done / (time.perf_counter() - start), done


def measured(
    process: psutil.Process, url: str, names: list[str], photos: list[bytes], seconds: float
) -> tuple[float, dict[str, float]]:
    """Returns the pictures per second of clients, and the server's CPU milliseconds for each."""
    before = spent(process)
    each, done = asyncio.run(closed(url, names, photos, seconds))
    after = spent(process)
    return each, {part: 1e3 * (after[part] - before[part]) / done for part in before}


def spent(process: psutil.Process) -> dict[str, float]:
    """Returns CPU seconds: of the network's thread, which uses most; the others; the decoders."""
    threads = [one.user_time + one.system_time for one in process.threads()]
    decoders = [child.cpu_times() for child in process.children()]
    return {
        "network": max(threads),
        "rest of the server": sum(threads) - max(threads),
        "decoders": sum(one.user + one.system for one in decoders),
    }


async def closed(
    url: str, names: list[str], photos: list[bytes], seconds: float
) -> tuple[float, int]:
    """Returns the pictures per second of clients that each wait for their answer; how many."""
    rng, done = random.Random(0), 0
    async with client(url) as http:
        start = time.perf_counter()

        async def one() -> None:
            nonlocal done
            while time.perf_counter() - start < seconds:
                ask = {"content": rng.choice(photos), "params": {"adapter": rng.choice(names)}}
                (await http.post("/predict", **ask)).raise_for_status()
                done += 1

        await asyncio.gather(*(one() for _ in range(CLIENTS)))
        return done / (time.perf_counter() - start), done


async def opened(
    url: str, name: str, photos: list[bytes], per_second: float, seconds: float
) -> list[float]:
    """Returns the seconds of each answer, of pictures that arrive at random times."""
    rng, taken = random.Random(0), list[float]()
    async with client(url) as http, asyncio.TaskGroup() as tasks:

        async def one() -> None:
            start = time.perf_counter()
            answer = await http.post(f"/predict?adapter={name}", content=rng.choice(photos))
            answer.raise_for_status()
            taken.append(time.perf_counter() - start)

        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            tasks.create_task(one())
            await asyncio.sleep(rng.expovariate(per_second))
    return taken


async def mixed(
    url: str, names: list[str], photos: list[bytes], stop: float, look: Callable[[], object]
) -> Counter[str]:
    """Returns how many requests of each kind got which answer."""
    rng, broken, answers = random.Random(1), hostile(1), Counter[str]()
    async with client(url) as http:

        async def good() -> str:
            where = {"adapter": rng.choice(names)}
            return str(
                (await http.post("/predict", content=rng.choice(photos), params=where)).status_code
            )

        async def bad() -> str:
            answer = await http.post(f"/predict?adapter={names[0]}", content=next(broken))
            return "200 or 422" if answer.status_code in (200, 422) else str(answer.status_code)

        async def form() -> str:
            parts = [("f", ("a", rng.choice(photos))), ("f", ("b", next(broken)))]
            answer = await http.post(f"/predict?adapter={names[1]}", files=parts)
            return (
                f"{answer.status_code}, first {answer.json()['results'][0].get('status', 'good')}"
            )

        async def slow() -> str:
            answer = await http.post(f"/predict?adapter={names[2]}", content=halves())
            return str(answer.status_code)

        async def halves() -> AsyncIterator[bytes]:
            photo = rng.choice(photos)
            yield photo[: len(photo) // 2]
            await asyncio.sleep(1)
            yield photo[len(photo) // 2 :]

        async def one() -> None:
            while time.monotonic() < stop:
                kind = rng.choices((good, bad, form, slow), (10, 3, 3, 1))[0]
                answers[f"{kind.__name__}: {await kind()}"] += 1

        async def watch() -> None:
            while time.monotonic() < stop:
                look()
                await asyncio.sleep(0.5)

        await asyncio.gather(watch(), *(one() for _ in range(CLIENTS // 4)))
    return answers


def client(url: str) -> httpx.AsyncClient:
    """Returns a client without a limit on connections."""
    return httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None))


def rss(process: psutil.Process) -> tuple[int, int]:
    """Returns the MB in memory of the server, and of its decoders together."""
    decoders = 0
    for child in process.children():
        with suppress(psutil.NoSuchProcess):  # a picture has ended it
            decoders += child.memory_info().rss
    return process.memory_info().rss // 10**6, decoders // 10**6


def rounded(values: list[float]) -> list[float]:
    """Returns values with a decimal."""
    return [round(value, 1) for value in values]


if __name__ == "__main__":
    main()
