"""``last.ckpt``: nested values in one safetensors file, with JSON in its header; never a pickle.

What the file says is checked against its checksum, and its values are only those of JSON, tuples
and tensors. Whether they fit a run is for the reader to check. Reading the JSON needs no torch.
"""

import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.bundle.folder import STATE
from vitlora.errors import VitloraError
from vitlora.files import draft, keep_content, rename

if TYPE_CHECKING:
    import torch

_FORMAT = "2"
_LONGEST = 100_000_000  # bytes of a header, as the safetensors library has it
_DEEPEST = 40  # values in values


class StateError(VitloraError):
    """A state file that is damaged, foreign, or of another run."""


def write_state(path: Path, about: Mapping[str, Any], state: Mapping[Any, Any]) -> None:
    """Writes a state file, whole or not at all.

    Args:
        path: The file.
        about: JSON values, which ``read_about`` returns without reading the tensors; ``steps`` is
            the number of steps that are done.
        state: Nested values: None, bool, int, float, str, list, tuple, dict, tensor.

    Raises:
        TypeError: There is another kind of value; the message says where.
        OSError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    encoded = json.dumps(_encoded(state, tensors, set(), ""))
    texts = {"vitlora_state": _FORMAT, "about": json.dumps(about), "state": encoded}
    try:
        with draft(path) as new:
            new.touch()
            mode = new.stat().st_mode  # the library lets nobody else read its files
            save_file(tensors, new, {**texts, "sha256": _digest(texts, tensors)})
            new.chmod(mode)
            keep_content(new)
            rename(new, path)
    except SafetensorError as error:  # "... (os error 28)"
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def read_about(path: Path) -> dict[str, Any]:
    """Returns what a state file says about its run, unchecked. Needs no torch.

    Raises:
        StateError: It is not a state file of this format.
    """
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST + 1
        header = file.read(length) if length <= _LONGEST else b""
    try:
        texts = json.loads(header)["__metadata__"]
        known, about = texts["vitlora_state"], json.loads(texts["about"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _torn(path) from None
    if known != _FORMAT:
        raise StateError(
            f"{path} has format {known!r:.40}; this vitlora reads format {_FORMAT}. Use the "
            "vitlora that wrote it"
        )
    if not isinstance(about, dict):
        raise _torn(path)
    return about


def saved_steps(folder: Path) -> int:
    """Returns the steps of the unfinished run in a folder; 0 if there is none to resume."""
    try:
        steps = read_about(folder / STATE).get("steps")
    except (OSError, StateError):
        return 0
    return steps if type(steps) is int else 0


def read_state(path: Path) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Returns ``about`` and ``state`` as they were given to ``write_state``; tensors on the CPU.

    Raises:
        StateError: It is not a state file of this format, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    about = read_about(path)
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = texts.pop("sha256")
        state = _decoded(json.loads(texts["state"]), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _torn(path) from None
    if digest != _digest(texts, tensors) or not isinstance(state, dict):
        raise _torn(path)
    return about, state


def _torn(path: Path) -> StateError:
    return StateError(
        f"{path} is damaged, or was not written by vitlora; remove it to start the run anew"
    )


def _digest(texts: Mapping[str, str], tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Returns a SHA-256 over all that a file holds."""
    import torch

    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _encoded(value: Any, tensors: dict[str, "torch.Tensor"], places: set[int], path: str) -> Any:
    """Returns a value as JSON.

    Args:
        value: The value.
        tensors: Gets its tensors, each under a name.
        places: Gets where they are in memory: the library does not save one memory twice.
        path: Where the value stands, for the message.
    """
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        name, kept = str(len(tensors)), value.detach().cpu().contiguous()
        whole = kept.untyped_storage().nbytes() == kept.nbytes  # the library saves no part of one
        shared = kept.data_ptr() in places
        places.add(kept.data_ptr())
        tensors[name] = kept if whole and not shared else kept.clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {
            "dict": [[key, _encoded(one, tensors, places, f"{path}.{key}")] for key, one in pairs]
        }
    if isinstance(value, list | tuple):
        parts = [
            _encoded(one, tensors, places, f"{path}.{index}") for index, one in enumerate(value)
        ]
        return parts if isinstance(value, list) else {"tuple": parts}
    raise TypeError(f"{path.removeprefix('.')} is a {type(value).__name__}")


def _decoded(value: Any, tensors: Mapping[str, "torch.Tensor"], depth: int = 0) -> Any:
    """Returns the value that ``_encoded`` was given.

    Raises:
        ValueError, KeyError, TypeError: It is no such value.
    """
    if depth > _DEEPEST:
        raise ValueError("too many values in values")
    if isinstance(value, list):
        return [_decoded(one, tensors, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "tuple":
        return tuple(_decoded(one, tensors, depth + 1) for one in inside)
    if kind == "dict":
        return {key: _decoded(one, tensors, depth + 1) for key, one in inside}
    raise ValueError(f"unknown kind {kind!r}")
