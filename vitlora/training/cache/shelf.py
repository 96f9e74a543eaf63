"""Stores tensors: in memory for one run, or on disk for later runs too.

On disk, a tensor is found by a key of everything it depends on, and checked before use. Each tensor
is a file of raw numbers, which is memory-mapped, and a JSON file with its name, shape, dtype, key
and checksum. The JSON file is written last: numbers without one are ignored. Two runs that compute
the same tensor at the same time write separate files.
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
# names of our files, also of older versions; all other files are left alone
_NUMBERS = re.compile(r"([0-9a-f]{32})(\.[0-9a-f]{16})?\.bin")
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.(bin\.\d+|json)\.new")
_ABANDONED = 3600  # age in seconds at which an unfinished file is removed
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class Memory:
    """The memory of this process; its tensors are lost when the run ends."""

    def __str__(self) -> str:
        return "memory"

    def find(self, key: Mapping[str, Any]) -> None:
        """Finds nothing: earlier runs leave nothing in memory."""

    def make_room(self, needed: int) -> int:
        """Returns the bytes that may be used: half of the free memory."""
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
    """A folder of tensors with a bounded size: the least recently used make room for new ones.

    Args:
        folder: The folder; created if needed.
        bound: Bytes that all tensors together may take.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self._ours: set[str] = set()

    def __str__(self) -> str:
        return str(self.folder)

    def find(self, key: Mapping[str, Any]) -> torch.Tensor | None:
        """Returns the tensor of ``key`` if it is there and its checksum is right."""
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
            return None  # missing or damaged
        self._ours.add(name)
        with suppress(OSError):
            (self.folder / f"{name}.json").touch()  # marks it as used now
        return tensor

    def keep(
        self, key: Mapping[str, Any], parts: Iterable[torch.Tensor], shape: tuple[int, ...]
    ) -> torch.Tensor:
        """Writes a tensor piece by piece and returns it, memory-mapped from its file.

        If only its JSON file cannot be written, a message says that later runs will not find it.

        Args:
            key: What the tensor depends on, as JSON values.
            parts: Pieces along the first dimension, on the CPU, fp32, bf16 or fp16.
            shape: Shape of the whole tensor.

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
            tell(f"{'cache':<12} later runs cannot reuse it: {error.strerror}")
        return tensor

    def make_room(self, needed: int) -> int:
        """Removes the least recently used tensors until ``needed`` more bytes are within the bound.

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
        """Returns the file of numbers that a JSON file names, and the JSON file's fields."""
        fields = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        file = fields.get("file", f"{name}.bin")  # older versions did not write the name
        if not _NUMBERS.fullmatch(file):
            raise ValueError(f"not a file of numbers: {file}")
        return self.folder / file, fields

    def _names(self, name: str, numbers: Path) -> bool:
        """Returns whether the JSON file ``name`` names these numbers."""
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
