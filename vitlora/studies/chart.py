"""The chart of a comparison: accuracy against cost."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlora.studies.comparison import Row

_WIDTH = 108  # characters of the legend in a line
_MARKERS = "osD^vPX*<>hp"


def chart(rows: Sequence[Row], title: str) -> bytes:
    """Returns a PNG: accuracy with its interval over trained parameters, and over seconds.

    Of several bases, the left half is over the time for one picture: that is what a base costs.

    Args:
        rows: The finished methods; not empty.
        title: Title of the chart: the data and the base.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    bases = any("@" in row.method for row in rows)
    parameters = _apart([row.trainable for row in rows])
    _panel(left, rows, [row.milliseconds for row in rows] if bases else parameters)
    _panel(right, rows, [row.seconds for row in rows])
    left.set(ylabel="accuracy, 95% interval")
    if bases:
        left.set(xlabel="one picture, milliseconds")
        left.set_xlim(left=0)
    else:
        left.set(xlabel="trained parameters", xscale="log")
    right.set(xlabel="training, seconds")
    right.set_xlim(left=0)
    figure.suptitle(title, fontsize="medium")
    handles, labels = left.get_legend_handles_labels()
    columns = max(_WIDTH // (max(map(len, labels)) + 6), 1)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "vitlora"})
    return buffer.getvalue()


def _panel(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    for index, (row, x) in enumerate(zip(rows, places, strict=True)):
        low, high = row.accuracy_interval
        axes.errorbar(
            x,
            row.accuracy,
            yerr=[[max(row.accuracy - low, 0)], [max(high - row.accuracy, 0)]],
            fmt=_MARKERS[index % len(_MARKERS)],
            color=f"C{index % 10}",
            capsize=4,
            label=row.method,
        )
        if len(row.runs) > 1:
            axes.plot([x] * len(row.runs), row.by_seed, "_", color=f"C{index % 10}", alpha=0.6)
    axes.grid(alpha=0.3)


def _apart(values: Sequence[float]) -> list[float]:
    """Returns values for a logarithmic axis, moved up where they would overlap."""
    step = max((max(values) / min(values)) ** 0.025, 1.02)
    places, last = list(values), 0.0
    for index in sorted(range(len(values)), key=values.__getitem__):
        places[index] = last = max(values[index], last * step)
    return places
