"""Tests of decoding in processes: the same pixels, and nothing a picture does reaches another."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import zlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import micro

from benchmarks.hostile import encoded, hostile, png
from vitlora.data.images import Opened
from vitlora.errors import DataError
from vitlora.serving.decoders import Decoders
from vitlora.serving.limits import Refusal

Open = Callable[[bytes], Awaitable[Opened]]
PREPROCESSING = micro().preprocessing


def decoding(
    play: Callable[[Decoders, Open], Coroutine[Any, Any, None]],
    count: int = 1,
    pixels: int = 10_000_000,
    seconds: float = 20.0,
) -> None:
    async def limited() -> None:
        decoders = Decoders(count, pixels, seconds)
        try:
            async with asyncio.timeout(60):
                await play(
                    decoders, lambda data: decoders.open("it", data, PREPROCESSING, lambda one: one)
                )
        finally:
            decoders.close()

    asyncio.run(limited())


def pid(decoders: Decoders) -> int:
    (process,) = decoders._every
    return process._process.pid


def test_the_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.effect_noise((1500, 1400), 80).save(tmp_path / "large.jpg", exif=exif, quality=50)
    Image.effect_noise((40, 30), 80).convert("CMYK").save(tmp_path / "inks.tif")
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF"):
        (tmp_path / kind).write_bytes(encoded(kind))

    async def play(_: Decoders, open_: Open) -> None:
        for file in sorted(tmp_path.iterdir()):
            want, got = PREPROCESSING.open(file), await open_(file.read_bytes())
            assert got.outside == want.outside, file.name
            np.testing.assert_array_equal(np.asarray(got.image), np.asarray(want.image))

    decoding(play)


def test_bad_pictures_are_errors_and_the_process_goes_on() -> None:
    said = {
        b"": "it: the file is empty",
        b"nothing": "it: not a picture, whatever its name says",
        encoded("JPEG")[:900]: "it: damaged picture",
        png(20_000, 20_000): "it: too large to open safely: more than 178 million pixels",
        png(4000, 4000): "it: too large to open safely: more than 10 million pixels",
    }

    async def play(decoders: Decoders, open_: Open) -> None:
        before = pid(decoders)
        for content, message in said.items():
            with pytest.raises(DataError, match=message):
                await open_(content)
        assert (await open_(encoded("PNG"))).image.size == (60, 50)
        assert pid(decoders) == before

    decoding(play)


def test_a_picture_that_takes_for_ever_is_stopped_and_its_neighbours_are_answered() -> None:
    async def play(decoders: Decoders, open_: Open) -> None:
        before = pid(decoders)
        os.kill(before, signal.SIGSTOP)  # as a picture would that takes for ever
        slow = asyncio.create_task(open_(encoded("PNG")))
        await asyncio.sleep(0)
        good = [asyncio.create_task(open_(encoded("PNG"))) for _ in range(3)]
        with pytest.raises(DataError, match="it: decoding it takes longer than 4 s; save it anew"):
            await slow
        assert {one.image.size for one in await asyncio.gather(*good)} == {(60, 50)}
        assert pid(decoders) != before

    decoding(play, seconds=4.0)


def test_a_picture_that_its_sender_gave_up_on_is_stopped() -> None:
    async def play(decoders: Decoders, open_: Open) -> None:
        await open_(encoded("PNG"))
        before = pid(decoders)
        os.kill(before, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await open_(encoded("PNG"))
        assert (await open_(encoded("PNG"))).image.size == (60, 50)
        assert pid(decoders) != before

    decoding(play)


@pytest.mark.skipif(sys.platform != "linux", reason="has the limit on memory")
def test_a_picture_that_takes_too_much_memory_is_an_error(monkeypatch: Any) -> None:
    monkeypatch.setattr("vitlora.serving.decoders._FIXED", 250)
    monkeypatch.setattr("vitlora.serving.decoders._EACH", 0)
    side = 9000
    large = png(side, side, zlib.compress(bytes((3 * side + 1) * side), 1))

    async def play(decoders: Decoders, open_: Open) -> None:
        with pytest.raises(DataError, match="takes too much memory to decode; make it smaller"):
            await open_(large)
        assert (await open_(encoded("PNG"))).image.size == (60, 50)

    decoding(play, pixels=side * side)


def test_who_gives_up_waiting_gets_no_one_elses_pixels() -> None:
    """Pictures of many sizes, most of them abandoned at some moment of their decoding."""

    async def play(_: Decoders, open_: Open) -> None:
        pictures = {size: encoded("PNG", (size, 9)) for size in range(20, 60)}

        async def one(size: int, patience: float) -> None:
            try:
                async with asyncio.timeout(patience):
                    assert (await open_(pictures[size])).image.size == (size, 9)
            except TimeoutError:
                return

        await asyncio.gather(*(one(size, 0.002 * (size % 13)) for size in pictures))
        await asyncio.gather(*(one(size, 30) for size in pictures))

    decoding(play, count=2)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_process_that_something_else_ends_is_replaced() -> None:
    async def play(decoders: Decoders, open_: Open) -> None:
        await open_(encoded("PNG"))
        os.kill(pid(decoders), signal.SIGTERM)  # as to a whole group: it stays
        await open_(encoded("PNG"))
        os.kill(pid(decoders), signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert (await open_(encoded("PNG"))).image.size == (60, 50)

    decoding(play)


def test_nothing_that_is_sent_stops_it() -> None:
    async def play(_: Decoders, open_: Open) -> None:
        good, tried = 0, 0
        for content, _ in zip(hostile(1), range(150), strict=False):
            tried += 1
            try:
                good += (await open_(content)).image.mode == "RGB"
            except DataError as error:
                assert "\n" not in str(error)
        assert 0 < good < tried
        assert (await open_(encoded("PNG"))).image.size == (60, 50)

    decoding(play)


def test_what_cannot_be_started_is_said_and_tried_again(monkeypatch: Any) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async def play(decoders: Decoders, open_: Open) -> None:
        good = encoded("PNG")
        os.kill(pid(decoders), signal.SIGKILL)
        while not next(iter(decoders._every)).ended():
            await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr("subprocess.Popen", refused)
            for _ in range(2):
                with pytest.raises(Refusal, match="no decoder can be started") as caught:
                    await open_(good)
                assert caught.value.status == 503
        assert (await open_(good)).image.size

    decoding(play)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_decoder_does_not_know_the_token(monkeypatch: Any) -> None:
    monkeypatch.setenv("VITLORA_TOKEN", "a secret of a server")

    async def play(decoders: Decoders, open_: Open) -> None:
        await open_(encoded("PNG"))
        known = Path(f"/proc/{pid(decoders)}/environ").read_bytes()
        assert b"OMP_NUM_THREADS" in known and b"VITLORA_TOKEN" not in known

    decoding(play)
