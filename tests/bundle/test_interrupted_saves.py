"""Whatever interrupts saves of a bundle, and however often, the folder holds one of them whole."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.bundle.record import Record
from vitlora.data.preprocessing import Preprocessing
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.reference import Reference
from vitlora.quantization import Storage
from vitlora.training.run_folder import check_free

NAMES = "ABCD"
RECORD = Record(
    backbone="vitlora/vit_micro_patch8_96",
    base_digest="0" * 64,
    weights="none",
    storage=Storage(),
    method="Lora",
    head="full",
    classes=("can", "tyre"),
    preprocessing=Preprocessing(32, 0.9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    split={"root": "", "counts": {}, "digests": {}},
    metrics={},
    created="2026-01-01T00:00:00+00:00",
    libraries={},
)
PEFT = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": "blocks"}
LEARNT = Confidence(1.0, 0.5, {}, 1.0, 0.0, (0.1, 0.1), 1.0, 9, (0.5,) * 11, (0.5,) * 11)
CLEAN = {"vitlora.json", "adapter_model.safetensors", "config.yaml", "README.md"}


class Killed(BaseException):
    """The process is no more: nothing that follows reaches the disk."""


class Disk:
    """Lets so many changes through; the next one, half made, raises.

    Args:
        changes: How many.
        error: Killed for the end of the process; an OSError comes once.
    """

    def __init__(self, changes: int, error: type[BaseException]) -> None:
        self.left, self.error = changes, error

    def change(self, half: Callable[[], object] = lambda: None) -> None:
        if self.left == 0:
            half()
            if self.error is not Killed:
                self.left = -1
            else:
                self.change = self._dead  # pyright: ignore
            raise self.error("interrupted")
        self.left -= 1

    def _dead(self, half: Any = None) -> None:
        raise Killed


class _File:
    def __init__(self, file: Any, disk: Disk) -> None:
        self.file, self.disk = file, disk

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.disk.change(lambda: self.file.write(data[: len(data) // 2]))
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """Lets every call that changes the disk go by ``disk``."""
    real_open = io.open

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return real_open(path, mode, *args, **kwargs)
        disk.change()
        return _File(real_open(path, mode, *args, **kwargs), disk)

    def counted(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            disk.change()
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        for name in ("replace", "rename", "unlink", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(os, "fsync", lambda handle: disk.change())
        yield


def save(folder: Path, name: str) -> None:
    """Saves bundle A (LoRA, a card), B (no LoRA), C (calibrated) or D, as different as they can."""
    number = NAMES.index(name)
    calibrated = name == "C"
    size = torch.ones(8, 8)
    save_bundle(
        folder,
        Record(**{**vars(RECORD), "confidence": LEARNT if calibrated else None}),
        {"x": torch.full((3,), float(number))},
        None if name == "B" else {**PEFT, "r": number + 1},
        f"run: {name}\n",
        f"card {name}\n",
        Reference(size[:2].half(), size.tril().half(), torch.ones(())) if calibrated else None,
    )


def which(folder: Path) -> str:
    """Returns the name of the bundle that lies in a folder, every part of it its own."""
    bundle = load_bundle(folder)
    name = bundle.config[5]
    number = NAMES.index(name)
    assert bundle.tensors["x"].tolist() == [number] * 3
    assert bundle.card() == f"card {name}\n"
    assert (bundle.peft or {}).get("r") == (None if name == "B" else number + 1)
    assert (bundle.reference is not None) == (name == "C")
    return name


State = tuple[tuple[str, bytes], ...]


def snapshot(folder: Path) -> State:
    return tuple(sorted((path.name, path.read_bytes()) for path in folder.iterdir()))


def restore(folder: Path, state: State) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in state:
        (folder / name).write_bytes(content)


def interrupted(folder: Path, state: State, name: str, error: type[BaseException]) -> set[State]:
    """Returns what a save can leave of a folder, wherever it is interrupted."""
    found: set[State] = set()
    for changes in range(1000):
        restore(folder, state)
        disk = Disk(changes, error)
        with suppress(error), failing(disk):
            save(folder, name)
        found.add(snapshot(folder))
        if disk.left > 0:  # there were no more changes to interrupt
            assert changes > 10
            return found
    raise AssertionError("the save has no end")


@pytest.mark.parametrize("error", [Killed, OSError])
def test_two_saves_interrupted_anywhere_leave_one_bundle_whole(
    error: type[BaseException], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    save(folder, "A")
    clean = CLEAN | {"adapter_config.json"}
    assert {name for name, _ in snapshot(folder)} == clean
    seen: set[str] = set()
    done: set[tuple[str, State]] = set()
    for state in interrupted(folder, snapshot(folder), "B", error):
        restore(folder, state)
        before = which(folder)
        assert before in "AB"
        check_free(folder)
        for again in interrupted(folder, state, "C", error):
            if (before, again) in done:
                continue
            done.add((before, again))
            restore(folder, again)
            now = which(folder)
            assert now in (before, "C")
            seen.add(before + now)
            save(folder, "D")
            assert which(folder) == "D"
            assert {name for name, _ in snapshot(folder)} == clean
    assert seen == {"AA", "AC", "BB", "BC"}


@pytest.mark.parametrize("error", [Killed, OSError])
def test_the_same_bundle_saved_again_keeps_its_card(
    error: type[BaseException], tmp_path: Path
) -> None:
    """Its pending files bear the names of those that count, and the card has no sum of its own."""
    folder = tmp_path / "bundle"
    save(folder, "A")
    for state in interrupted(folder, snapshot(folder), "A", error):
        restore(folder, state)
        assert which(folder) == "A"
        save(folder, "D")
        assert {name for name, _ in snapshot(folder)} == CLEAN | {"adapter_config.json"}


@pytest.mark.parametrize("error", [Killed, OSError])
def test_a_first_save_that_was_interrupted_is_in_nobodys_way(
    error: type[BaseException], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for state in interrupted(folder, (), "A", error):
        restore(folder, state)
        check_free(folder)
        save(folder, "B")
        assert which(folder) == "B"
        assert {name for name, _ in snapshot(folder)} == CLEAN


def test_a_save_that_an_older_version_left_half_renamed_is_read_and_finished(
    tmp_path: Path,
) -> None:
    """It wrote ``.NAME.new`` for every file, and renamed ``vitlora.json`` first."""
    save(tmp_path / "old", "A")
    save(tmp_path / "new", "C")
    old, new = (dict(snapshot(tmp_path / name)) for name in ("old", "new"))
    folder = tmp_path / "bundle"
    names = sorted(new, key=lambda name: name != "vitlora.json")
    for renamed in range(len(names) + 1):
        state = {**old, **{f".{name}.new": new[name] for name in names[renamed:]}}
        state |= {name: new[name] for name in names[:renamed]}
        restore(folder, tuple(state.items()))
        loaded = load_bundle(folder)
        assert loaded.config == f"run: {'C' if renamed else 'A'}\n"
        assert loaded.tensors["x"][0] == (2 if renamed else 0)
        for left in interrupted(folder, tuple(state.items()), "B", Killed):
            restore(folder, left)
            assert load_bundle(folder).config in (loaded.config, "run: B\n")
        save(folder, "D")
        assert which(folder) == "D"
        assert {name for name, _ in snapshot(folder)} == CLEAN | {"adapter_config.json"}


def test_leftovers_of_every_version_leave_an_output_free(tmp_path: Path) -> None:
    for name in (
        ".vitlora.json.new",
        ".README.md.new",
        f".config.yaml.{'0' * 16}.new",
        f".vitlora-{'a' * 16}.new",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / "logs").mkdir()
    check_free(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, to be fast")
def test_processes_that_save_into_one_folder_are_killed(tmp_path: Path) -> None:
    """Two save, each its own bundle, and are killed at any moment; a third only reads."""
    folder = tmp_path / "bundle"
    save(folder, "A")
    chance = random.Random(0)
    for _ in range(10):
        children = [_forked(lambda name=name: _for_ever(folder, name)) for name in "BC"]
        end = time.monotonic() + chance.uniform(0.02, 0.1)
        while time.monotonic() < end:
            load_bundle(folder)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert which(folder) in "ABC"
    save(folder, "D")
    assert which(folder) == "D"
    assert {name for name, _ in snapshot(folder)} == CLEAN | {"adapter_config.json"}


def _for_ever(folder: Path, name: str) -> None:
    while True:
        save(folder, name)


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        sys.stderr.flush()
        os._exit(1)


def test_a_full_disk_is_told_by_the_files_own_name_and_gets_its_room_back(tmp_path: Path) -> None:
    save(tmp_path / "bundle", "A")
    before = snapshot(tmp_path / "bundle")
    full: Any = partial(OSError, errno.ENOSPC)
    with failing(Disk(3, full)), pytest.raises(OSError) as told:
        save(tmp_path / "bundle", "B")
    assert told.value.filename == str(tmp_path / "bundle/adapter_model.safetensors")
    assert snapshot(tmp_path / "bundle") == before
