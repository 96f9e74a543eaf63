"""The table of a comparison, as Markdown that is also readable in a terminal."""

from collections.abc import Sequence

from vitlora.studies.bases import parted
from vitlora.studies.comparison import Failure, Row
from vitlora.units import clock, size


def to_markdown(rows: Sequence[Row], failures: Sequence[Failure]) -> str:
    """Returns the table without empty columns; a method without a finished run is "failed"."""
    records = [cells_of(row) for row in rows]
    finished = {row.method for row in rows}
    lost = dict.fromkeys(f.method for f in failures if f.method not in finished)
    for method, base in map(parted, lost):
        records.append({"method": method, "backbone": base, "accuracy (95%)": "failed"})
    return in_columns(records)


def in_columns(records: Sequence[dict[str, str]]) -> str:
    """Returns records as a table in Markdown, without empty columns."""
    names = [name for name in dict.fromkeys(k for r in records for k in r) if _any(records, name)]
    columns = [[name, *(record.get(name) or "-" for record in records)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in zip(*columns, strict=True)
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _any(records: Sequence[dict[str, str]], name: str) -> bool:
    return any(record.get(name) for record in records)


def cells_of(row: Row) -> dict[str, str]:
    """Returns a row's cells as text, by column."""
    method, base = parted(row.method)
    run, several = row.runs[0], len(row.runs) > 1
    return {
        "method": method,
        "backbone": base,
        "parameters": f"{run.parameters / 1e6:.3g} M" if base and run.parameters else "",
        "base": run.base,
        "lr": f"{run.lr:g}",
        "trained": f"{row.trainable:,}",
        "accuracy (95%)": _with_interval(row.accuracy, row.accuracy_interval),
        "seeds": f"{min(row.by_seed):.3f} to {max(row.by_seed):.3f}" if several else "",
        "macro-F1 (95%)": _with_interval(row.macro_f1, row.macro_f1_interval),
        "behind best (95%)": _behind(row),
        "p": "best" if row.p is None else f"{row.p:.3f}" if row.p >= 0.001 else "<0.001",
        "training": clock(row.seconds),
        "GPU memory": _largest(row, "device_bytes"),
        "RAM": _largest(row, "host_bytes"),
        "one picture": f"{row.milliseconds:.3g} ms",
        "bundle": _largest(row, "bundle_bytes"),
    }


def _behind(row: Row) -> str:
    """Returns the interval by which a method is behind the best, in percentage points."""
    if row.behind is None:
        return ""
    low, high = (f"{100 * end:.1f}" for end in row.behind)
    return f"{low} to {high} points"


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _largest(row: Row, name: str) -> str:
    count = row.most(name)
    return "" if count is None else size(count)
