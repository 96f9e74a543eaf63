"""Bodies of requests, read into memory within limits, and nowhere else."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vitlora.errors import printable, shown
from vitlora.serving.limits import Limits, Refusal
from vitlora.serving.service import Upload

_T = TypeVar("_T")
_FIELDS = 8  # of a form that are no pictures, before it is refused unread


def content_type(request: Request) -> str:
    """Returns the type of a request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Bodies:
    """Reads the bodies of requests into memory, and nowhere else.

    Args:
        limits: What is refused.

    Attributes:
        held: Bytes of all requests that are being read or answered.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self.held = limits, 0

    def holding(self) -> "Held":
        """Returns a context: until its end the bytes that are read into it count."""
        return Held(self)

    async def read(self, request: Request, held: "Held") -> AsyncGenerator[bytes, None]:
        """Yields a body as it arrives.

        Raises:
            Refusal: It is too long, or there is no room for it.
        """
        most = self._limits.body
        too_long = Refusal(
            413,
            f"more than {most:,} bytes, the limit of this server; send fewer or smaller pictures",
        )
        if int(request.headers.get("content-length", 0)) > most:
            raise too_long
        async for chunk in request.stream():
            held.add(len(chunk))
            if held.bytes > most:
                raise too_long
            if self.held > self._limits.held:
                raise Refusal(503, "busy: other requests take all memory for bodies")
            yield chunk

    async def whole(self, request: Request, held: "Held") -> bytes:
        """Returns a whole body; refuses as ``read``."""
        return b"".join([chunk async for chunk in self.read(request, held)])

    async def in_time(self, reading: Awaitable[_T]) -> _T:
        """Returns what is read.

        Raises:
            Refusal: It takes too long.
        """
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await reading
        except TimeoutError:
            raise Refusal(408, f"no whole body within {self._limits.seconds:g} s") from None

    async def uploads(self, request: Request, held: "Held") -> list[Upload]:
        """Returns the pictures of a form, or a body that is one.

        Raises:
            Refusal: As ``read``; or it is no form of files.
        """
        if content_type(request) != "multipart/form-data":
            content = await self.whole(request, held)
            return [Upload("picture", content)] if content else []
        chunks = self.read(request, held)
        most = self._limits.pictures
        parser = MultiPartParser(request.headers, chunks, max_files=most, max_fields=_FIELDS)
        parser.spool_max_size = self._limits.body + 1  # never on the disk
        try:
            form = await parser.parse()
        except MultiPartException as error:
            many = error.message.startswith("Too many files")
            raise Refusal(413 if many else 400, f"the form: {printable(error.message)}") from None
        uploads: list[Upload] = []
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                raise Refusal(
                    422,
                    f"field {shown(name)} of the form is no file; send pictures as files (with "
                    f"curl, -F {printable(name, 40)}=@photo.jpg), and options in the URL",
                )
            uploads.append(Upload(printable(part.filename or "picture"), await part.read()))
        return uploads


class Held:
    """The bytes of one request."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.bytes = bodies, 0

    def add(self, count: int) -> None:
        """Counts bytes that arrived."""
        self.bytes += count
        self._bodies.held += count

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *_: object) -> None:
        self._bodies.held -= self.bytes
