"""Weights on disk: one file or sharded safetensors, read one tensor at a time.

Tensors are read, not mapped: the pages of a mapped file count as memory of the process, and
safetensors maps it privately, which Linux refuses for a file larger than its memory.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from vitlora.backbones.source import Source
from vitlora.errors import BackboneError

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
        start: Where its bytes begin, from the start of the file.
        shape: Its shape.
        dtype: Its dtype.
    """

    file: Path
    start: int
    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """Returns the tensor.

        Raises:
            BackboneError: The file is gone or was cut since it was opened.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        room: Any = tensor.view(-1).view(torch.uint8).numpy()
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(room) != len(room):
                raise BackboneError(f"{self.file} became shorter while it was read")
        return tensor

    def blank(self) -> torch.Tensor:
        """Returns a tensor like it without memory."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Weights = dict[str, Stored | torch.Tensor]


class Tensors(Mapping[str, torch.Tensor]):
    """Weights by name in fp32, each read when it is asked for."""

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
    path = Path(path).expanduser()
    if path.is_dir():
        files = (path / INDEX, path / "model.safetensors")
        return next((file for file in files if file.is_file()), None)
    return path if path.is_file() else None


def open_weights(file: Path) -> Weights:
    """Returns the tensors of a file by the names it gives them; safetensors are not read yet.

    Args:
        file: A .safetensors file, the .json index of a sharded one, or a .pth of plain tensors.

    Raises:
        BackboneError: The file or a shard is missing, damaged, or no weights.
    """
    if file.suffix == ".safetensors":
        return dict(_opened(file))
    return _sharded(file) if file.suffix == ".json" else _pickled(file)


def converted(weights: Weights, source: Source, module: nn.Module) -> Weights:
    """Returns weights by timm's names; only those that ``source.convert`` computes with are read.

    Args:
        weights: By the names of their file.
        source: Whose names to translate from.
        module: timm's, perhaps without memory.

    Raises:
        BackboneError: They are not of such a model.
    """
    blanks = {k: v.blank() if isinstance(v, Stored) else v for k, v in weights.items()}
    places = {id(blank): weights[name] for name, blank in blanks.items()}
    try:
        made = source.convert(dict(blanks), module)
        if _unknown(made, places):  # changed, not just renamed: read what is not passed on as it is
            passed = {id(tensor) for tensor in made.values()}
            known = {k: b if id(b) in passed else _in_memory(weights[k]) for k, b in blanks.items()}
            made = source.convert(known, module)
        if not _unknown(made, places):
            return {name: places.get(id(tensor), tensor) for name, tensor in made.items()}
    except BackboneError:  # perhaps only because values were missing
        pass
    return dict(source.convert({k: _in_memory(v) for k, v in weights.items()}, module))


def check_fits(weights: Weights, module: nn.Module, complaint: str) -> None:
    """Refuses weights that are not those of a module, the head left out.

    Args:
        weights: By timm's names.
        module: timm's, perhaps without memory.
        complaint: What the message begins with.

    Raises:
        BackboneError: A tensor is missing, has no place, or is of another shape.
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
    """Puts weights and a head of zeros into a module without memory, one tensor at a time.

    Args:
        module: timm's.
        weights: Those that fit it, by timm's names; taken out as they are used.
        keep: Called with the path of each part once all its tensors are there, in fp32.

    Returns:
        The SHA-256 of all tensors but the head's, by name, shape and fp32 value.
    """
    digest, blanks = hashlib.sha256(), module.state_dict()
    left = Counter(name.rpartition(".")[0] for name in blanks)
    with ThreadPoolExecutor(1) as hashing:  # beside whatever ``keep`` does
        pending: Future[None] | None = None
        for name, blank in sorted(blanks.items()):
            path, _, leaf = name.rpartition(".")
            if _of_head(name):
                tensor = torch.zeros(blank.shape)
            else:
                tensor = _in_memory(weights.pop(name)).float().contiguous()
                if pending is not None:
                    pending.result()  # so that no more than two tensors wait
                pending = hashing.submit(_add, digest, name, tensor)
            part = module.get_submodule(path)
            part.load_state_dict({leaf: tensor}, strict=False, assign=True)
            left[path] -= 1
            if keep is not None and not left[path]:
                keep(path)
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
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
    # on a damaged file the reader raises almost anything, also KeyError and UnicodeDecodeError
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
