"""The plan as a picture: a bar for each method, and a line where the memory ends."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure

from vitlora.memory.room import Room
from vitlora.memory.table import Way, shares

_COLOURS = ("#4c5c73", "#d98c3f", "#b5504e", "#6fa8b8")
_FREE = "#eeeeee"


def chart(ways: Sequence[Way], room: Room, batch: int, title: str) -> bytes:
    """Returns a PNG.

    Args:
        ways: At least one.
        room: Its end is drawn as a line.
        batch: Pictures at once, at least 1.
        title: What is trained on what.
    """
    figure = Figure(figsize=(9, 1.6 + 0.45 * len(ways)), layout="constrained")
    axes = figure.subplots()
    for row, way in enumerate(ways):
        left = 0.0
        for (name, part), colour in zip(shares(way.counted, batch).items(), _COLOURS, strict=True):
            axes.barh(row, part / 1e9, left=left, color=colour, label="" if row else name)
            left += part / 1e9
        if left * 1e9 < room.free:
            free = room.free / 1e9 - left
            axes.barh(row, free, left=left, color=_FREE)
        place = min(left, 2.6 * room.free / 1e9)  # stays in the picture if the bar does not
        box = {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.7}
        axes.annotate(f" {left:.3g} GB", (place, row), va="center", fontsize="small", bbox=box)
    axes.barh(0, 0, color=_FREE, label="free")
    end = room.free / 1e9
    axes.axvline(end, color="black", lw=1)
    axes.annotate(f"{end:.3g} GB free ", (end, 1.0), xycoords=("data", "axes fraction"), ha="right",
                  va="bottom", fontsize="small")  # fmt: skip
    axes.set_yticks(range(len(ways)), [way.name for way in ways])
    axes.invert_yaxis()
    biggest = max(way.counted.total(batch) for way in ways) / 1e9
    axes.set(xlabel=f"GB with batches of {batch}", xlim=(0, min(1.15 * max(biggest, end), 3 * end)))
    figure.suptitle(title, fontsize="medium")
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": "vitlora"})
    return buffer.getvalue()
