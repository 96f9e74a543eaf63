"""The logs of a run, ``logs/`` in its folder, which an interrupted run adds to when it goes on."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from vitlora.files import write_whole

LOGS = "logs"
_METRICS = "metrics.csv"


class RunLogs:
    """``metrics.csv`` and TensorBoard's events.

    Args:
        folder: Folder of the run.
        rows: Rows of ``metrics.csv`` that the run wrote before it was interrupted; the others will
            be written again. None for a new run.
        step: Number of steps until then.
    """

    def __init__(self, folder: Path, rows: int | None, step: int) -> None:
        self._file = folder / LOGS / _METRICS
        before = [] if rows is None else _first_rows(self._file, rows)
        self._table = CSVLogger(folder, name=LOGS, version="")
        with warnings.catch_warnings():  # that it removes the file, which is written again below
            warnings.filterwarnings("ignore", "Experiment logs directory")
            writer = self._table.experiment
        if before:
            text = io.StringIO()
            csv.writer(text).writerows(before)
            write_whole(self._file, text.getvalue())
            writer.metrics_keys = list(before[0])
        later: dict[str, Any] = {} if rows is None else {"purge_step": step}
        events = TensorBoardLogger(folder, name=LOGS, version="", **later)
        self.loggers: list[Logger] = [self._table, events]

    def rows(self) -> int:
        """Writes what is still in memory; returns the number of rows of ``metrics.csv``."""
        self._table.save()
        return len(_first_rows(self._file)) - 1


def _first_rows(file: Path, count: int | None = None) -> list[list[str]]:
    """Returns the header and the first rows; an empty list if the file is gone."""
    if not file.is_file():
        return []
    with file.open(newline="") as opened:
        return list(csv.reader(opened))[: None if count is None else count + 1]
