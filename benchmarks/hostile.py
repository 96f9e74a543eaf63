"""Pictures as nobody should send them, for serving_fuzz.py and the tests of the server."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image


def encoded(kind: str, size: tuple[int, int] = (60, 50), seed: int = 0) -> bytes:
    """Returns a picture of noise in a format of Pillow's."""
    noise = random.Random(seed).randbytes(3 * size[0] * size[1])
    file = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(file, kind)
    return file.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Returns a PNG that declares a size, with any compressed data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(one)) + kind + one + struct.pack(">I", zlib.crc32(kind + one))
        for kind, one in chunks
    )


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 30)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _spliced(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content)), rng.randint(1, 200)
    return content[:at] + rng.randbytes(length) + content[at + rng.choice((0, length)) :]


def _huge(content: bytes, rng: random.Random) -> bytes:
    return png(rng.choice((0, 1, 70_000, 2**31 - 1)), rng.choice((0, 1, 70_000, 2**31 - 1)))


def _noise(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.choice((0, 2, 4, 12))] + rng.randbytes(rng.randint(0, 3000))


def _swollen(content: bytes, rng: random.Random) -> bytes:
    return png(3000, 3000, zlib.compress(bytes(rng.randint(0, 27_010_000))))


BROKEN: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _flipped,
    _spliced,
    _huge,
    _noise,
    _swollen,
)
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "ICO", "TGA")


def hostile(seed: int) -> Iterator[bytes]:
    """Yields pictures broken in every way, for ever; the same for a seed."""
    rng = random.Random(seed)
    whole = [encoded(kind) for kind in KINDS]
    while True:
        yield rng.choice(BROKEN)(rng.choice(whole), rng)
