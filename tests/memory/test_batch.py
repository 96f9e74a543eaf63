"""A batch that fits, and what is said and done where one did not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.hardware import is_out_of_memory
from vitlora.memory import batch as batches
from vitlora.memory.room import Room
from vitlora.training.classifier import Classifier

MICRO = ["--model.backbone", "vitlora/vit_micro_patch8_96", "--model.weights", "none"]
MICRO += ["--model.image_size", "32", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]
MICRO += ["--trainer.max_epochs", "1", "--trainer.precision", "32-true"]


@pytest.fixture
def photos(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    return make_folder(tmp_path / "photos", count=16, size=32)


def fit(photos: Path, *words: str) -> int:
    return main(["fit", "--data.root", str(photos), *MICRO, *words])


def full_above(most: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Lets no step hold more than so many pictures; returns the batches that were tried."""
    tried: list[int] = []
    real = Classifier.training_step

    def step(self: Any, batch: Any, index: int) -> Any:
        tried.append(len(batch[1]))
        if len(batch[1]) > most:
            raise error
        return real(self, batch, index)

    monkeypatch.setattr(Classifier, "training_step", step)
    return tried


def room(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(batches, "room_here", lambda device: Room(int(free), "free in this test"))


def test_auto_takes_the_default_batch_where_it_fits(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--data.batch_size", "auto") == 0
    assert "batch  32 pictures at once (" in capsys.readouterr().out


def test_auto_halves_the_batch_and_accumulates(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = full_above(99, monkeypatch, torch.OutOfMemoryError("no"))
    room(monkeypatch, 30e6)
    assert fit(photos, "--data.batch_size", "auto") == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("batch "))
    size, steps = int(said.split()[1]), int(said.split(" x ")[1].split()[0])
    assert size * steps == 32 and 1 < size < 32 and set(tried) == {size}
    assert "(30 MB free in this test; 32 at once would take 4" in said


def test_auto_says_so_where_not_even_one_picture_fits(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 1e6)
    assert fit(photos, "--data.batch_size", "auto") == 0
    assert "batch  1 pictures x 32 steps accumulated (1 MB" in capsys.readouterr().out


def test_auto_and_accumulation_are_not_both_given(photos: Path, capsys: Any) -> None:
    words = ["--data.batch_size", "auto", "--trainer.accumulate_grad_batches", "2"]
    assert fit(photos, *words) == 2
    assert "which sets trainer.accumulate_grad_batches" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_a_full_device_is_explained_once_and_half_the_batch_tried(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert fit(photos) == 0
    before = load_bundle("checkpoints/run").tensors
    tried = full_above(16, monkeypatch, error)
    assert fit(photos, "--data.batch_size", "auto") == 0
    printed = capsys.readouterr()
    assert tried == [32, 16, 16]
    notes = [line for line in printed.err.splitlines() if "out of memory" in line]
    assert len(notes) == 1 and notes[0].startswith("note: out of memory on cpu with 32 pictures")
    assert notes[0].endswith("Once more with 16 x 2 accumulated")
    kept = load_bundle("checkpoints/run-1").tensors
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert "accumulate_grad_batches: 2" in Path("checkpoints/run/config.yaml").read_text("utf-8")


def test_a_given_batch_is_not_changed_and_the_earlier_bundle_stays(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(photos) == 0
    before = load_bundle("checkpoints/run").tensors
    tried = full_above(4, monkeypatch, torch.OutOfMemoryError("no"))
    assert fit(photos, "--data.batch_size", "8") == 1
    assert tried == [8]
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vitlora: out of memory on cpu with 8 pictures at once; by plan")
    assert "--data.batch_size 4 --trainer.accumulate_grad_batches 2" in error
    kept = load_bundle("checkpoints/run").tensors
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert not Path("checkpoints/run-1").exists()


def test_a_second_time_ends_the_run(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = full_above(1, monkeypatch, torch.OutOfMemoryError("no"))
    assert fit(photos, "--data.batch_size", "auto") == 1
    assert tried == [32, 16]
    assert "vitlora: out of memory on cpu with 16 pictures" in capsys.readouterr().err


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("not enough memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"))
