"""Rows of answers as a file: Parquet, JSON lines or CSV. Needs no torch."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.data.rows import need_pyarrow
from vitlora.errors import DataError
from vitlora.files import draft, rename

if TYPE_CHECKING:
    import pyarrow

    from vitlora.metrics.prediction import Prediction

ENDINGS = (".parquet", ".jsonl", ".csv")
_AT_ONCE = 10_000  # rows of a Parquet row group

Row = dict[str, Any]


def row_of(name: str, answer: "Prediction | DataError", file: str = "") -> Row:
    """Returns the answer to a picture as plain values, the same keys for every picture.

    Args:
        name: What the answer calls the picture.
        answer: The prediction, or why there is none.
        file: The path that was opened, which the reason does not repeat.
    """
    if isinstance(answer, DataError):
        reason = str(answer).removeprefix(f"{file or name}: ")
        marks = dict.fromkeys(("class", "confidence", "unsure", "unfamiliar", "outside"))
        return {"path": name, **marks, "top_k": [], "error": reason}
    return {**answer.to_json(), "path": name, "error": None}


def convert(rows: Iterator[Row], target: Path, top_k: int, about: Mapping[str, object]) -> None:
    """Writes rows to a file by its ending, whole or not at all; few are in memory.

    Args:
        rows: The rows.
        target: Ends in .parquet or .csv.
        top_k: Classes of each answer.
        about: What made them; stored in a Parquet file's metadata under ``vitlora``.
    """
    with draft(target) as new:
        if target.suffix.lower() == ".csv":
            _write_csv(rows, new, top_k)
        else:
            _write_parquet(rows, new, top_k, about)
        rename(new, target)


def columns_of(top_k: int) -> list[str]:
    """Returns the columns of a table of answers."""
    others = [f"{name}_{n}" for n in range(2, top_k + 1) for name in ("class", "confidence")]
    return ["path", "class", "confidence", "unsure", "unfamiliar", "outside", *others, "error"]


def table_of(rows: Sequence[Row], top_k: int) -> "pyarrow.Table":
    """Returns rows as an Arrow table, of the same types whatever they hold."""
    arrow = need_pyarrow("a table of answers")
    kinds = {"class": arrow.string(), "confidence": arrow.float64()}
    marks = dict.fromkeys(("unsure", "unfamiliar", "outside"), arrow.bool_())
    kinds |= {"path": arrow.string(), "error": arrow.string(), **marks}
    schema = arrow.schema([(name, kinds[name.partition("_")[0]]) for name in columns_of(top_k)])
    return arrow.Table.from_pylist([_flat(row) for row in rows], schema)


def _flat(row: Row) -> Row:
    """Returns a row whose runners-up have a column each; no character that UTF-8 lacks."""
    flat = {key: value for key, value in row.items() if key != "top_k"}
    for n, one in enumerate(row["top_k"][1:], 2):
        flat |= {f"{key}_{n}": value for key, value in one.items()}
    texts = {key: value for key, value in flat.items() if isinstance(value, str)}
    return flat | {k: v.encode("utf-8", "backslashreplace").decode() for k, v in texts.items()}


def _write_parquet(rows: Iterator[Row], new: Path, top_k: int, about: Mapping[str, object]) -> None:
    arrow = need_pyarrow("a Parquet file")
    schema = table_of([], top_k).schema.with_metadata({"vitlora": json.dumps(about)})
    with arrow.parquet.ParquetWriter(new, schema) as writer:
        while group := list(islice(rows, _AT_ONCE)):
            writer.write_table(table_of(group, top_k).cast(schema))


def _write_csv(rows: Iterator[Row], new: Path, top_k: int) -> None:
    """Writes a line for each answer, with the byte-order mark Excel wants."""
    columns = columns_of(top_k)
    with new.open("w", encoding="utf-8-sig", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        for row in map(_flat, rows):
            lines.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6f}" if isinstance(value, float) else value
