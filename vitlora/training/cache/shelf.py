"""Where tensors are kept: in memory for a run, or on disk for later runs too.

On disk they are found by what they were made of, and checked before use. Each is a file of raw
numbers, which is mapped into memory, and a JSON file beside it, which names the numbers, says what
they are and carries their checksum. The JSON file is written last: numbers that none names count
for nothing. Two runs that compute the same at the same time each write numbers of their own.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from vitlora.errors import UsageError
from vitlora.files import write_whole
from vitlora.notes import tell

_FORMAT = 1
# what we name files there, and what older versions did; all others are somebody's own
_NUMBERS = re.compile(r"([0-9a-f]{32})(\.[0-9a-f]{16})?\.bin")
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.(bin\.\d+|json)\.new")
_ABANDONED = 3600  # seconds after which a file that nobody finished is litter
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class Memory:
    """The memory of this process; what is kept there ends with the run."""

    def __str__(self) -> str:
        return "memory"

    def find(self, key: Mapping[str, Any]) -> None:
        """Finds nothing: no run comes before this one."""

    def make_room(self, needed: int) -> int:
        """Returns the bytes that may be taken: half of what is free."""
        return psutil.virtual_memory().available // 2

    def keep(
        self, key: Mapping[str, Any], parts: Iterable[torch.Tensor], shape: tuple[int, ...]
    ) -> torch.Tensor:
        """Returns one tensor of ``shape``, put together from pieces along the first dimension."""
        whole, end = torch.empty(0), 0
        for part in parts:
            if not end:
                whole = torch.empty(shape, dtype=part.dtype)
            whole[end : end + len(part)] = part
            end += len(part)
        return whole


class Shelf:
    """A folder of tensors whose size is bounded: the longest unused make room for new ones.

    Args:
        folder: Where they lie; made if it is not there.
        bound: Bytes that all of them may take.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self._ours: set[str] = set()

    def __str__(self) -> str:
        return str(self.folder)

    def find(self, key: Mapping[str, Any]) -> torch.Tensor | None:
        """Returns the tensor that was made of ``key``, if it is there whole, byte for byte."""
        name = _name(key)
        try:
            numbers, fields = self._about(name)
            dtype, shape = _DTYPES[fields["dtype"]], tuple(map(int, fields["shape"]))
            with numbers.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == fields["sha256"]
            if not whole or fields["key"] != json.loads(json.dumps(key)):
                return None
            tensor = _mapped(numbers, shape, dtype)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            return None  # not there, or torn
        self._ours.add(name)
        with suppress(OSError):
            (self.folder / f"{name}.json").touch()  # used just now
        return tensor

    def keep(
        self, key: Mapping[str, Any], parts: Iterable[torch.Tensor], shape: tuple[int, ...]
    ) -> torch.Tensor:
        """Writes a tensor piece by piece and returns it, mapped from its file.

        Where only later runs cannot find it, this one says so and goes on.

        Args:
            key: What it is made of, as JSON has it.
            parts: Pieces along the first dimension, on the CPU, fp32, bf16 or fp16.
            shape: Of the whole.

        Raises:
            UsageError: It cannot be written there.
        """
        name = _name(key)
        self._ours.add(name)
        numbers = self.folder / f"{name}.{secrets.token_hex(8)}.bin"
        digest, dtype = hashlib.sha256(), torch.float32
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with numbers.open("xb") as file:
                for part in parts:
                    data, dtype = part.contiguous().view(torch.uint8).numpy().data, part.dtype
                    digest.update(data)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            tensor = _mapped(numbers, shape, dtype)
        except BaseException as error:
            with suppress(OSError):
                numbers.unlink()
            if not isinstance(error, OSError):
                raise
            raise UsageError(
                f"trainer.cache is disk, but {self.folder} cannot be written ({error.strerror}); "
                "name another trainer.cache_folder, or set trainer.cache to auto"
            ) from None
        fields = {
            "dtype": str(dtype),
            "shape": shape,
            "sha256": digest.hexdigest(),
            "key": key,
            "file": numbers.name,
        }
        try:
            write_whole(self.folder / f"{name}.json", json.dumps(fields))
        except OSError as error:
            tell(f"{'cache':<12} later runs will not find it: {error.strerror}")
        return tensor

    def make_room(self, needed: int) -> int:
        """Removes what was unused longest until ``needed`` bytes more stay within the bound.

        Returns:
            The bytes then free on the disk.
        """
        now, kept = time.time(), []
        for file in self.folder.glob("*") if self.folder.is_dir() else ():
            with suppress(OSError):
                state, ours = file.stat(), _NUMBERS.fullmatch(file.name)
                if ours and self._names(ours[1], file):
                    used = (self.folder / f"{ours[1]}.json").stat().st_mtime
                    kept.append((used, state.st_size, ours[1], file))
                elif (ours or _UNFINISHED.fullmatch(file.name)) and (
                    now - state.st_mtime > _ABANDONED
                ):
                    file.unlink()
        total = sum(size for _, size, _, _ in kept)
        for _, size, name, file in sorted(kept):
            if total + needed > self.bound and name not in self._ours:
                with suppress(OSError):
                    (self.folder / f"{name}.json").unlink()
                    file.unlink()
                    total -= size
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.is_dir())
        return shutil.disk_usage(there).free

    def _about(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Returns the file of the numbers that a JSON file names, and what it says of them."""
        fields = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        file = fields.get("file", f"{name}.bin")  # older versions named none
        if not _NUMBERS.fullmatch(file):
            raise ValueError(f"not a file of numbers: {file}")
        return self.folder / file, fields

    def _names(self, name: str, numbers: Path) -> bool:
        """Returns whether the JSON file of that name names these numbers."""
        with suppress(OSError, ValueError, TypeError, AttributeError):
            return self._about(name)[0].name == numbers.name
        return False


def _name(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, key], sort_keys=True).encode()).hexdigest()[:32]


def _mapped(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = torch.Size(shape).numel()
    if file.stat().st_size != size * dtype.itemsize:
        raise ValueError("the file has another size than the tensor")
    return torch.from_file(str(file), shared=False, size=size, dtype=dtype).view(shape)
