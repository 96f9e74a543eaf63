"""Weights on disk: one file or sharded safetensors, read one tensor at a time.

Tensors are read, not memory-mapped: the pages of a mapped file count as memory of the process, and
safetensors maps files privately, which Linux refuses for a file larger than its memory.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vitlora.backbones.source import Source
from vitlora.errors import BackboneError
from vitlora.files import expanded

INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in its file.

    Attributes:
        file: A safetensors file.
        start: Offset of the tensor's first byte in the file.
        shape: Shape of the tensor.
        dtype: Dtype of the tensor.
    """

    file: Path
    start: int
    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """Returns the tensor.

        Raises:
            BackboneError: The file was removed or truncated since it was opened.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        room = tensor.view(-1).view(torch.uint8).numpy().data
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(room) != len(room):
                raise BackboneError(f"{self.file} became shorter while it was read")
        return tensor

    def blank(self) -> torch.Tensor:
        """Returns a tensor of the same shape and dtype on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Weights = dict[str, Stored | torch.Tensor]


class Tensors(Mapping[str, torch.Tensor]):
    """Weights by name in fp32; each is read when it is used."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> torch.Tensor:
        return _in_memory(self._weights[name]).float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def find_weights(path: str | Path) -> Path | None:
    """Returns the file to open: ``path`` itself, or what a folder holds; None if there is none."""
    path = expanded(path)
    if path.is_dir():
        files = (path / INDEX, path / "model.safetensors")
        return next((file for file in files if file.is_file()), None)
    return path if path.is_file() else None


def open_weights(file: Path) -> Weights:
    """Returns the tensors of a file by their names in it; safetensors are not read yet.

    Args:
        file: A .safetensors file, the .json index of a sharded one, or a .pth of plain tensors.

    Raises:
        BackboneError: The file or a shard is missing or damaged, or does not hold weights.
    """
    if file.suffix == ".safetensors":
        return dict(_opened(file))
    return _sharded(file) if file.suffix == ".json" else _pickled(file)


def converted(weights: Weights, source: Source, module: nn.Module) -> Weights:
    """Returns weights by timm's names; reads only those that ``source.convert`` computes with.

    Args:
        weights: The weights by their names in the file.
        source: The source that knows these names.
        module: timm's model, perhaps on the meta device.

    Raises:
        BackboneError: The weights are not those of such a model.
    """
    blanks = {k: v.blank() if isinstance(v, Stored) else v for k, v in weights.items()}
    places = {id(blank): weights[name] for name, blank in blanks.items()}
    try:
        made = source.convert(dict(blanks), module)
        if _unknown(made, places):  # some are changed, not only renamed: those must be read
            passed = {id(tensor) for tensor in made.values()}
            known = {k: b if id(b) in passed else _in_memory(weights[k]) for k, b in blanks.items()}
            made = source.convert(known, module)
        if not _unknown(made, places):
            return {name: places.get(id(tensor), tensor) for name, tensor in made.items()}
    except BackboneError:  # perhaps only because the values were missing
        pass
    return dict(source.convert({k: _in_memory(v) for k, v in weights.items()}, module))


def check_fits(weights: Weights, module: nn.Module, complaint: str) -> None:
    """Refuses weights that do not match a module; the head is ignored.

    Args:
        weights: The weights by timm's names.
        module: timm's model, perhaps on the meta device.
        complaint: Start of the error message.

    Raises:
        BackboneError: A tensor is missing, is not expected, or has another shape.
    """
    expected = {k: v.shape for k, v in module.state_dict().items() if not _of_head(k)}
    got = {k: v.shape for k, v in weights.items() if not _of_head(k)}
    missing, extra = expected.keys() - got.keys(), got.keys() - expected.keys()
    if missing or extra:
        differences = filter(None, (_some("missing", missing), _some("unexpected", extra)))
        raise BackboneError(f"{complaint}: {'; '.join(differences)}; name its own file")
    for key, shape in got.items():
        if shape != expected[key]:
            raise BackboneError(
                f"{complaint}: {key} is {tuple(shape)}, expected {tuple(expected[key])}"
            )


def fill(module: nn.Module, weights: Weights, keep: Callable[[str], None] | None) -> str:
    """Puts weights and a head of zeros into a module on the meta device, one tensor at a time.

    Args:
        module: timm's model.
        weights: Weights that fit it, by timm's names; each is removed when it is used.
        keep: Called with the path of each submodule when all its own tensors are loaded, in fp32.

    Returns:
        The SHA-256 of the names, shapes and fp32 values of all tensors but the head's.
    """
    digest, blanks = hashlib.sha256(), module.state_dict()
    left = Counter(name.rpartition(".")[0] for name in blanks)
    with ThreadPoolExecutor(1) as hashing:  # in parallel with ``keep``
        pending: Future[None] | None = None
        for name, blank in sorted(blanks.items()):
            path, _, leaf = name.rpartition(".")
            if _of_head(name):
                tensor = torch.zeros(blank.shape)
            else:
                tensor = _in_memory(weights.pop(name)).float().contiguous()
                if pending is not None:
                    pending.result()  # at most two tensors are in memory
                pending = hashing.submit(_add, digest, name, tensor)
            part = module.get_submodule(path)
            part.load_state_dict({leaf: tensor}, strict=False, assign=True)
            left[path] -= 1
            if keep is not None and not left[path]:
                keep(path)
    return digest.hexdigest()


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...


def _add(digest: _Hash, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name}{tuple(tensor.shape)}".encode())
    digest.update(tensor.numpy().data)


def _of_head(name: str) -> bool:
    return name.startswith("head.")


def _unknown(made: Mapping[str, torch.Tensor], places: Mapping[int, object]) -> bool:
    return any(tensor.is_meta and id(tensor) not in places for tensor in made.values())


def _in_memory(tensor: Stored | torch.Tensor) -> torch.Tensor:
    return tensor.read() if isinstance(tensor, Stored) else tensor


def _opened(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, "np"):  # checks every offset against the file's length
            pass
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            fields = json.loads(opened.read(length))
        fields.pop("__metadata__", None)
        return {
            name: Stored(
                file,
                8 + length + field["data_offsets"][0],
                torch.Size(field["shape"]),
                _DTYPES[field["dtype"]],
            )
            for name, field in fields.items()
        }
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from None


def _sharded(index: Path) -> Weights:
    try:
        names = json.loads(index.read_text("utf-8"))["weight_map"]
        shards = set(names.values())
        if wrong := [shard for shard in shards if Path(shard).name != shard]:
            raise ValueError(f"shard {wrong[0]!r} is not a file name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{index} cannot be read as the index of sharded weights ({type(error).__name__}); "
            'expected JSON with "weight_map"'
        ) from None
    opened: dict[str, dict[str, Stored]] = {}
    for shard in sorted(shards):
        file = index.with_name(shard)
        if not file.is_file():
            raise BackboneError(f"{file} is missing; {index.name} names it among {len(shards)}")
        opened[shard] = _opened(file)
    for name, shard in names.items():
        if name not in opened[shard]:
            raise BackboneError(
                f"{index.with_name(shard)} lacks {name}; {index.name} puts it there"
            )
    return {name: opened[shard][name] for name, shard in names.items()}


def _pickled(file: Path) -> Weights:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # a damaged file can raise almost anything, even KeyError and UnicodeDecodeError
    except Exception as error:
        raise _unreadable(file, error) from None
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and key in state else state
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise BackboneError(f"{file} holds no state dict of plain tensors")
    return dict(state)


def _unreadable(file: Path, error: Exception) -> BackboneError:
    got = f"{file} cannot be read as weights ({type(error).__name__})"
    if isinstance(error, SafetensorError):
        return BackboneError(f"{got}; it is cut short or damaged: get it again")
    return BackboneError(f"{got}; expected .safetensors, or a .pth of plain tensors")


def _some(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})" if names else ""
