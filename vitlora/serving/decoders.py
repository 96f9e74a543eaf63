"""Several decoder processes, and what becomes of a picture that one of them cannot stand."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from PIL import Image

from vitlora.data.images import Opened
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError
from vitlora.serving.limits import Refusal
from vitlora.serving.starting import TOKEN

_T = TypeVar("_T")
_FIXED, _EACH = 1024, 40  # MiB a decoder may take, and bytes more for each pixel it may decode
_LINE = 100_000  # bytes of a decoder's line at most
# the libraries' own threads would only compete, and each takes address space
_ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class Decoders:
    """Decodes pictures in processes; a picture that kills one, or takes too long, is an error.

    Args:
        count: Number of processes.
        most_pixels: Pixels to decode of one picture at most.
        seconds: Time for decoding one picture.
    """

    def __init__(self, count: int, most_pixels: int, seconds: float) -> None:
        self._most_pixels, self._seconds = most_pixels, seconds
        self._threads = ThreadPoolExecutor(count, "pictures")  # each talks to one process
        self._every = {self._start() for _ in range(count)}
        self._idle: asyncio.Queue[_Process] = asyncio.Queue()
        for process in self._every:
            self._idle.put_nowait(process)

    async def open(
        self,
        name: str,
        content: bytes,
        preprocessing: Preprocessing,
        then: Callable[[Opened], _T],
    ) -> _T:
        """Returns what ``then`` makes, in a thread, of a picture as ``preprocessing`` opens it.

        Args:
            name: What messages call the picture.
            content: The bytes of its file.
            preprocessing: The bundle's.
            then: What to do with the decoded picture.

        Raises:
            DataError: It is not a picture, is too large, or takes too long.
            Refusal: There is no decoder, and none can be started.
        """
        options = {
            "name": name,
            "bytes": len(content),
            "at_least": preprocessing.at_least,
            "value_range": preprocessing.value_range,
            "srgb": preprocessing.srgb,
            "side": preprocessing.side,
            "most_pixels": self._most_pixels,
        }
        loop = asyncio.get_running_loop()
        process, watch = await self._idle.get(), None
        try:
            if process.ended():  # something else ended it; that is not this picture's fault
                try:
                    process = self._replaced(process)
                except OSError as error:
                    why = error.strerror or error
                    raise Refusal(503, f"no decoder can be started ({why})") from None
            process.ready = False  # here, since the thread may start after this is cancelled
            watch = loop.call_later(self._seconds, process.stop, True)
            return await loop.run_in_executor(
                self._threads, lambda: then(process.decode(options, content))
            )
        except _DiedError:
            why = f"takes longer than {self._seconds:g} s" if process.late else "fails"
            raise DataError(f"{name}: decoding it {why}; save it anew as JPEG or PNG") from None
        finally:
            if watch is not None:
                watch.cancel()
            if not process.ready:
                process.stop()
                with suppress(OSError):  # else whoever takes it tries again
                    process = self._replaced(process)
            self._idle.put_nowait(process)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._every:
            process.stop()
        self._threads.shutdown()

    def _start(self) -> "_Process":
        return _Process(self._most_pixels)

    def _replaced(self, process: "_Process") -> "_Process":
        new = self._start()
        self._every.discard(process)
        self._every.add(new)
        return new


class _DiedError(Exception):
    """A decoder ended before it had answered."""


class _Process:
    """One decoder.

    Args:
        most_pixels: Pixels of a picture at most.

    Attributes:
        ready: Whether it waits for the next picture; False if it is busy, or at its end.
        late: Whether it was stopped because it took too long.
    """

    def __init__(self, most_pixels: int) -> None:
        megabytes = _FIXED + (_EACH * most_pixels >> 20)
        self._most_bytes = 3 * most_pixels
        self.ready, self.late = True, False
        # whoever took over a decoder would know the token
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vitlora.serving.decoder", str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],  # where this package is, installed or not
            env=environment | _ALONE,
        )

    def decode(self, options: dict[str, object], content: bytes) -> Opened:
        """Returns a decoded picture.

        Raises:
            DataError: It cannot be decoded.
            _DiedError: The process ended.
        """
        stdin, stdout = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        try:
            stdin.write(json.dumps(options).encode() + b"\n")
            stdin.write(content)
            stdin.flush()
            answer = json.loads(stdout.readline(_LINE))
            width, height = answer.get("size", (0, 0))
            size = 3 * width * height
            if width < 0 or height < 0 or size > self._most_bytes:
                raise ValueError(f"{width} x {height} pixels")
            pixels = stdout.read(size)
            if len(pixels) < size:
                raise EOFError(f"{len(pixels)} of {size} bytes")
        # nothing, half of it, or something else than a decoder says
        except (OSError, ValueError, TypeError, AttributeError, EOFError) as error:
            raise _DiedError from error
        self.ready = not answer.get("last")
        if "error" in answer:
            raise DataError(answer["error"])
        return Opened(Image.frombytes("RGB", (width, height), pixels), answer["outside"])

    def ended(self) -> bool:
        """Returns whether the process is gone."""
        return self._process.poll() is not None

    def stop(self, late: bool = False) -> None:
        """Ends the process, whatever it is doing."""
        self.late = self.late or late
        with suppress(OSError):
            self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
