"""The file of a state: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import json
import math
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitlora import files
from vitlora.training.state_file import StateError, read_about, read_state, write_state

_TWICE = torch.rand(3)
STATE: dict[Any, Any] = {
    "one memory twice": [_TWICE, {"again": _TWICE, "a part": _TWICE[:2]}],
    "weights": torch.arange(6.0).reshape(2, 3),
    "part of a larger one": torch.arange(10, dtype=torch.uint8)[2:5],
    "turned": torch.randn(3, 4).T,
    "scalar": torch.tensor(3),
    "nothing": torch.empty(0, 2, dtype=torch.bfloat16),
    "optimiser": {0: {"step": 3, "lr": 0.1}, 1: {}},
    "kinds": [None, True, 1, -2.5, math.inf, "x", (1, [2, (torch.ones(1),)]), {}],
    "tensor": {"tensor": "not one", "dict": [], "tuple": ()},
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_state(tmp_path / "last.ckpt", {"step": 3, "options": {"a": [1, None]}}, STATE)
    return tmp_path / "last.ckpt"


def test_what_goes_in_comes_out(file):
    about, state = read_state(file)
    assert same(STATE, state) and about == {"step": 3, "options": {"a": [1, None]}}
    assert read_about(file) == about
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]
    (file.parent / "another").touch()
    assert file.stat().st_mode == (file.parent / "another").stat().st_mode


@pytest.mark.parametrize("odd", [{1, 2}, Path("x"), torch.float32, object()])
def test_another_kind_of_value_is_refused_by_its_place(odd, tmp_path):
    with pytest.raises(TypeError, match=r"^callbacks\.Timer\.1 is a \w+$"):
        write_state(tmp_path / "x", {}, {"callbacks": {"Timer": [1, odd]}})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_file_before(file, monkeypatch):
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt"):
        write_state(file, {}, {"x": torch.ones(3)})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


def test_every_byte_counts(file):
    content = file.read_bytes()
    _, state = read_state(file)
    for place in range(0, len(content), 7):
        torn = bytearray(content)
        torn[place] ^= 1
        file.write_bytes(torn)
        try:
            read = read_state(file)
        except StateError:
            continue
        assert same(state, read[1]), place  # space in the header
    for end in (0, 4, 8, 100, len(content) - 1):
        file.write_bytes(content[:end])
        with pytest.raises(StateError, match=r"is damaged, or was not written by vitlora; remove"):
            read_state(file)


def header(texts: object) -> bytes:
    text = json.dumps({"__metadata__": texts}).encode()
    return struct.pack("<Q", len(text)) + text


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


FOREIGN: dict[str, bytes] = {
    "pickle": pickle.dumps(Bomb()),
    "empty": b"",
    "huge header": struct.pack("<Q", 2**60),
    "no metadata": header(None),
    "list": header([1]),
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "no state": header({"vitlora_state": "2", "about": "{}"}),
    "about a list": header({"vitlora_state": "2", "about": "[]"}),
    "not JSON": header({"vitlora_state": "2", "about": "{}", "state": "{", "sha256": ""}),
    "deep state": header(
        {"vitlora_state": "2", "about": "{}", "state": "[" * 60 + "]" * 60, "sha256": ""}
    ),
    "unknown kind": header(
        {"vitlora_state": "2", "about": "{}", "state": '{"call": "os.system"}', "sha256": ""}
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_others_wrote_is_refused_and_runs_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "last.ckpt"
    file.write_bytes(FOREIGN[kind])
    with pytest.raises(StateError, match=r"last\.ckpt is damaged, or was not written by vitlora"):
        read_state(file)
    torch.save({"a": Bomb()}, file)
    with pytest.raises(StateError, match="is damaged"):
        read_state(file)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_changed_text_is_noticed_though_the_file_is_whole(file):
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        texts = opened.metadata()
    texts["about"] = texts["about"].replace("3", "4")
    save_file(load_file(file), file, texts)
    with pytest.raises(StateError, match="is damaged"):
        read_state(file)


def test_another_format_is_named(tmp_path):
    (tmp_path / "x").write_bytes(header({"vitlora_state": "3", "about": "{}"}))
    with pytest.raises(StateError, match="has format '3'; this vitlora reads format 2"):
        read_about(tmp_path / "x")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_disk_that_takes_no_more_is_an_error_of_the_file(tmp_path: Path) -> None:
    import resource

    write_state(tmp_path / "last.ckpt", {"steps": 1}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as told:
            write_state(tmp_path / "last.ckpt", {"steps": 2}, {"w": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.filename == str(tmp_path / "last.ckpt")
    assert read_about(tmp_path / "last.ckpt") == {"steps": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
