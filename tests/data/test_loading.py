"""Tests of how many loader processes the shared memory has room for."""

from __future__ import annotations

import pytest

from vitlora.data import loading
from vitlora.data.datamodule import FolderData
from vitlora.data.preprocessing import Preprocessing

BATCH = 32 * 3 * 224 * 224 * 4  # bytes of a default batch


@pytest.mark.parametrize(
    ("room", "workers"),
    [
        (64 * 2**20, 0),  # a container's: three batches
        (6 * BATCH, 2),  # two processes make two each, training holds two
        (6 * BATCH - 1, 1),
        (10 * BATCH, 4),
        (0, 0),
    ],
)
def test_each_process_has_two_batches_and_training_two(room, workers):
    assert loading.workers_in(room, BATCH) == workers


def test_fewer_processes_load_where_there_is_no_room_and_a_line_says_so(
    make_folder, tmp_path, monkeypatch, capsys
):
    data = FolderData(str(make_folder(tmp_path, count=8)), batch_size=2, num_workers=4)
    data.preprocessing = Preprocessing(32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    bytes_of_one = 2 * 3 * 32 * 32 * 4
    monkeypatch.setattr(loading, "shared_memory", lambda: 4 * bytes_of_one)
    assert data.train_dataloader().num_workers == 1
    assert data.val_dataloader().num_workers == 1
    said = capsys.readouterr().err
    assert (
        said.count("note: /dev/shm has 0 MB free, too little for 4 loader processes; 1 will") == 1
    )
    assert "docker run --shm-size" in said
    monkeypatch.setattr(loading, "shared_memory", lambda: 10 * bytes_of_one)
    assert data.train_dataloader().num_workers == 4
    monkeypatch.setattr(loading, "shared_memory", lambda: None)
    assert data.train_dataloader().num_workers == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is poss",
            "/dev/shm is full",
        ),
        (
            "unable to write to file </torch_7_3_1>: No space left on device (28)",
            "/dev/shm is full",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "--data.num_workers 0"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "--data.num_workers 0"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_a_lost_process_is_answered_with_what_to_type(text, said):
    answer = loading.lost_workers(RuntimeError(text))
    assert answer is None if said is None else said in str(answer)
