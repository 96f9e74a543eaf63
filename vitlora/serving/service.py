"""Pictures -> answers by one pool, for many callers at once; knows nothing of HTTP."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

import torch

from vitlora.data.images import Opened
from vitlora.errors import BundleError, DataError, UsageError, a_few, counted, shown
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.pooled_adapter import PooledAdapter
from vitlora.serving.batcher import Batcher
from vitlora.serving.counts import Counts
from vitlora.serving.decoders import Decoders
from vitlora.serving.limits import Limits, Refusal, check_name

_T = TypeVar("_T")


class Upload(NamedTuple):
    """A picture that somebody sent.

    Attributes:
        name: What its sender calls it; it names no file here.
        content: The bytes of its file.
    """

    name: str
    content: bytes


class _Question(NamedTuple):
    adapter: PooledAdapter
    tensor: torch.Tensor
    top_k: int


class Service:
    """Answers pictures by the adapters of a pool, in batches that mix them.

    Args:
        pool: The base and its adapters.
        limits: What is refused.
        decoders: Number of processes that decode pictures.
        below: Folder below which bundles may be loaded while it runs; None forbids it.

    Attributes:
        counts: What has happened so far.
    """

    def __init__(
        self, pool: AdapterPool, limits: Limits, decoders: int, below: Path | None = None
    ) -> None:
        self.pool, self.limits, self.counts = pool, limits, Counts()
        self._below = None if below is None else below.resolve()
        self._count = decoders
        self._users: Counter[PooledAdapter] = Counter()  # pictures that are being answered

    async def start(self) -> None:
        """Starts the processes and the thread; call it in the event loop that answers."""
        self._decoders = Decoders(self._count, self.limits.pixels, self.limits.decoding)
        self._aside = ThreadPoolExecutor(1, "aside")
        threads = torch.get_num_threads()
        self._batcher = Batcher(
            self._judge,
            self.limits.batch,
            partial(torch.set_num_threads, threads),
            self.counts.batch,
        )

    async def close(self) -> None:
        """Answers what is waiting, and ends what ``start`` started."""
        await self._batcher.close()
        self._aside.shutdown()
        self._decoders.close()

    @property
    def waiting(self) -> int:
        """Pictures that are being answered."""
        return self._users.total()

    def check_room(self, pictures: int = 1) -> None:
        """Refuses pictures for which there is no room.

        Raises:
            Refusal: Too many wait already.
        """
        if self.waiting + pictures > self.limits.waiting:
            raise Refusal(
                503,
                f"busy: {counted(self.waiting, 'picture')} of {self.limits.waiting:,} are waiting "
                "to be answered; try again later",
            )

    async def predict(
        self, uploads: Sequence[Upload], adapter: str | None, top_k: int
    ) -> list[Prediction | Refusal]:
        """Returns an answer to each picture, in order, as ``vitlora predict`` would give it.

        Args:
            uploads: The pictures.
            adapter: Name of the adapter; None if there is only one.
            top_k: How many classes to keep, at least 1.

        Raises:
            Refusal: There is no such adapter, there are no pictures, or too many of them.
        """
        chosen = self._chosen(adapter)
        if not uploads:
            raise Refusal(422, "the request has no picture; send one as its body, or as a form")
        if len(uploads) > self.limits.pictures:
            raise Refusal(413, f"more than {counted(self.limits.pictures, 'picture')} at once")
        self.check_room(len(uploads))
        with self._using(chosen, len(uploads)):
            return await asyncio.gather(*(self._one(one, chosen, top_k) for one in uploads))

    async def load(self, name: str, path: str) -> None:
        """Adds an adapter from a bundle below the folder that was allowed.

        Raises:
            Refusal: Loading is not allowed, or not from there; the name is taken, or the bundle is
                not one for this base.
        """
        if self._below is None:
            raise Refusal(403, "this server loads no adapters; start it with --adapters DIR")
        check_name(name)
        try:
            folder = (self._below / path).resolve()
        except (OSError, ValueError) as error:  # a NUL, a loop of links
            raise Refusal(422, f"path is {shown(path)}: {error}") from None
        if not folder.is_relative_to(self._below):
            raise Refusal(403, f"path is {shown(path)}, which leads out of the folder of adapters")
        try:
            await asyncio.to_thread(self.pool.load, name, folder)
        except UsageError as error:
            raise Refusal(409, str(error)) from None
        except (BundleError, OSError) as error:
            said = str(error).replace(f"{self._below}/", "").replace(str(self._below), ".")
            raise Refusal(422, said) from None

    async def remove(self, name: str) -> None:
        """Removes an adapter, and returns when the last picture that uses it is answered.

        Raises:
            Refusal: Removing is not allowed, or there is no such adapter.
        """
        if self._below is None:
            raise Refusal(403, "this server removes no adapters; start it with --adapters DIR")
        adapter = self._chosen(name)
        try:
            await asyncio.to_thread(self.pool.remove, name)
        except UsageError as error:  # somebody else was faster
            raise Refusal(404, str(error)) from None
        while self._users[adapter]:  # the limits on time end this
            await asyncio.sleep(0.02)

    async def open(
        self, upload: Upload, adapter: str | None, then: Callable[[PooledAdapter, torch.Tensor], _T]
    ) -> _T:
        """Returns what ``then`` makes of one picture, in a thread; no two run at once.

        Args:
            upload: The picture.
            adapter: Name of the adapter; None if there is only one.
            then: Gets the adapter and the picture, ``(3, H, W)``, normalised.

        Raises:
            Refusal: As ``predict``; the picture cannot be read, or there is no answer in time.
        """
        chosen = self._chosen(adapter)
        self.check_room()
        with self._using(chosen, 1):
            try:
                async with asyncio.timeout(self.limits.seconds):
                    tensor, _ = await self._decoders.open(
                        *upload, chosen.preprocessing, partial(_tensor, chosen)
                    )
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(self._aside, then, chosen, tensor)
            except TimeoutError:
                what = f"{upload.name}: no answer within {self.limits.seconds:g} s"
                raise Refusal(504, what) from None
            except DataError as error:
                raise Refusal(422, str(error)) from None

    def _chosen(self, name: str | None) -> PooledAdapter:
        names = self.pool.names
        if not names:
            raise Refusal(404, "no adapter is loaded")
        if name is None and len(names) != 1:
            raise Refusal(422, f"adapter is missing; expected one of {a_few(names)}")
        try:
            return self.pool.adapter(names[0] if name is None else name)
        except UsageError as error:
            raise Refusal(404, str(error)) from None

    @contextmanager
    def _using(self, adapter: PooledAdapter, pictures: int) -> Iterator[None]:
        self._users[adapter] += pictures
        try:
            yield
        finally:
            self._users[adapter] -= pictures
            if not self._users[adapter]:
                del self._users[adapter]  # which holds its tensors, if it has been removed

    async def _one(
        self, upload: Upload, adapter: PooledAdapter, top_k: int
    ) -> Prediction | Refusal:
        started = perf_counter()
        try:
            async with asyncio.timeout(self.limits.seconds):
                tensor, outside = await self._decoders.open(
                    *upload, adapter.preprocessing, partial(_tensor, adapter)
                )
                said = await self._batcher.answer(_Question(adapter, tensor, top_k))
            answer = replace(said, path=Path(upload.name), outside=outside)
        except Refusal as refusal:
            answer = refusal
        except TimeoutError:
            answer = Refusal(504, f"{upload.name}: no answer within {self.limits.seconds:g} s")
        except DataError as error:
            answer = Refusal(422, str(error))
        self.counts.picture(getattr(answer, "status", 200), perf_counter() - started)
        return answer

    def _judge(self, questions: Sequence[_Question]) -> list[Prediction]:
        adapters, tensors, top_k = zip(*questions, strict=True)
        return self.pool.judge(tensors, adapters, top_k)


def _tensor(adapter: PooledAdapter, opened: Opened) -> tuple[torch.Tensor, bool]:
    return adapter.transform(opened.image), opened.outside
