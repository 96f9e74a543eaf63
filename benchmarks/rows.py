"""Times reading pictures in random order out of Parquet, out of an Arrow copy, and as files.

python benchmarks/rows.py DIR > benchmarks/results/rows.jsonl

The pictures below DIR, twice, are written as one Parquet file with row groups of 100, as the
library datasets does, and as one with a single row group, as pyarrow does. Bytes alone are read, in
one process. Each line has pictures for each second of a core.
"""

import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vitlora.data.archives import open_file
from vitlora.data.listing import list_pictures
from vitlora.data.rows import copy_rows


def speed(way: str, read: Callable[[int], bytes], pictures: list[bytes], count: int) -> None:
    """Prints how many pictures are read for each core-second, of so many at random."""
    order = random.Random(0).choices(range(len(pictures)), k=count)
    for row in order[:3]:
        assert read(row) == pictures[row]
    start = time.process_time()
    for row in order:
        read(row)
    a_second = count / (time.process_time() - start)
    report(way=way, a_second=round(a_second), read=count)


def report(**fields: object) -> None:
    """Prints a line."""
    print(json.dumps({**fields, "load": round(os.getloadavg()[0], 1)}), flush=True)


def by_group(file: Path, size: int) -> Callable[[int], bytes]:
    """Returns what reads a row by way of its row group."""
    parquet = pq.ParquetFile(file)

    def read(row: int) -> bytes:
        group = parquet.read_row_group(row // size, columns=["image"], use_threads=False)
        return group["image"][row % size]["bytes"].as_py()

    return read


def main() -> None:
    """Writes the files and reads them."""
    files = list_pictures(Path(sys.argv[1])).pictures * 2
    pictures = [file.read_bytes() for file in files]
    report(pictures=len(pictures), mean_bytes=round(sum(map(len, pictures)) / len(pictures)))
    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({"image": [{"bytes": data, "path": ""} for data in pictures]})
        parquet, copy = Path(folder, "x.parquet"), Path(folder, "x.arrow")
        for way, size, count in (("row groups of 100", 100, 1000), ("one row group", 10**6, 20)):
            pq.write_table(table, parquet, row_group_size=size)
            speed(way, by_group(parquet, size), pictures, count)
        start = time.process_time()
        copy_rows(io.BytesIO(parquet.read_bytes()), copy, parquet)
        report(way="copying", a_second=round(len(pictures) / (time.process_time() - start)))
        speed("Arrow copy", lambda n: open_file(copy / f"image/{n}").read(), pictures, 5000)
    speed("files", lambda n: open_file(files[n]).read(), pictures, 5000)


if __name__ == "__main__":
    main()
