"""Pictures in the rows of an Arrow file are opened by a path, as those in an archive are."""

from __future__ import annotations

import multiprocessing
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitlora.data.archives import is_there, open_file, size_and_time
from vitlora.errors import DataError

pa = pytest.importorskip("pyarrow")
PICTURES = [bytes([i]) * (i + 1) for i in range(250)]


def write(file: Path, columns: dict, rows_a_batch: int = 100) -> Path:
    table = pa.table(columns)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(rows_a_batch):
            writer.write_batch(batch)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    cells = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(PICTURES)]
    columns = {"image": cells, "plain": PICTURES, "label": list(range(250)), "name": ["x"] * 250}
    columns["image"][7] = None
    columns["image"][8] = {"bytes": None, "path": "/etc/passwd"}
    return write(tmp_path / "train.arrow", columns)


@pytest.mark.parametrize("column", ["image", "plain"])
def test_each_row_is_a_file(file, column):
    for row in random.Random(0).sample(range(9, 250), 100):
        path = file / column / str(row)
        assert open_file(path).read() == PICTURES[row]
        assert size_and_time(path) == (row + 1, file.stat().st_mtime_ns)
        assert is_there(path)


@pytest.mark.parametrize(
    "name",
    [
        *("image/250", "image/-1", "image/07", "image/+1", "image/1_0", "image/٣", "image/x"),
        *("image", "image/", "other/1", "label/1", "image/7", "image/8", "1", "../image/1"),
        "image/99999999999999999999",
    ],
)
def test_what_is_no_picture_is_not_there(file, name):
    assert not is_there(file / name)
    with pytest.raises(FileNotFoundError):
        open_file(file / name)


def _read(path: Path) -> bytes:
    return open_file(path).read()


def test_threads_and_forked_processes_read_at_the_same_time(file):
    rows = random.Random(1).choices(range(9, 250), k=400)
    paths = [file / "image" / str(row) for row in rows]
    expected = [PICTURES[row] for row in rows]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_read, paths)) == expected
    if hasattr(os, "fork"):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_read, paths) == expected


def test_a_file_written_anew_is_read_anew(file):
    assert _read(file / "plain" / "9") == PICTURES[9]
    write(file, {"plain": [b"new"] * 10})
    assert _read(file / "plain" / "9") == b"new"


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", None])
def test_a_damaged_file_is_told_in_one_line(file, content):
    file.write_bytes(file.read_bytes()[:3000] if content is None else content)
    with pytest.raises(DataError, match="is not a whole Arrow") as error:
        open_file(file / "plain" / "1")
    assert "\n" not in str(error.value)


def test_offsets_that_lead_outside_the_file_are_refused(tmp_path):
    file = write(tmp_path / "bad.arrow", {"plain": [b"x" * 10, b"y" * 10, b"z" * 10]})
    good = b"".join(n.to_bytes(4, "little") for n in (0, 10, 20, 30))
    bad = b"".join(n.to_bytes(4, "little") for n in (0, 2**31 - 1, 20, 30))
    assert file.read_bytes().count(good) == 1
    file.write_bytes(file.read_bytes().replace(good, bad))
    with pytest.raises(DataError, match="is not a whole Arrow"):
        open_file(file / "plain" / "1")


def test_many_files_are_open_without_a_handle_each(tmp_path):
    before = len([*Path("/dev/fd").iterdir()])
    for number in range(50):
        assert _read(write(tmp_path / f"{number}.arrow", {"x": [b"1"]}) / "x" / "0") == b"1"
    assert len([*Path("/dev/fd").iterdir()]) <= before + 1
