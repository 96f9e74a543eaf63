"""A bundle as a stage of Ray Data: ``Dataset.map_batches(RayPredictor, ...)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vitlora.data.archives import InMemory
from vitlora.data.images import File
from vitlora.errors import DataError, UsageError, a_few
from vitlora.hardware import PredictionPrecision
from vitlora.light_imports import without_compiler
from vitlora.prediction.answer_file import row_of, table_of

if TYPE_CHECKING:
    import pyarrow


class RayPredictor:
    """Answers batches of pictures; each of Ray's actors loads the weights once.

    Torch computes in as many threads as the actor has CPUs: ``num_cpus`` alone does not set that.

    Args:
        checkpoint: Folder of the bundle, where every machine can read it.
        weights: File of the base's weights; None looks where ``Predictor`` does.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``32``, ``bf16`` or ``auto``.
        top_k: How many classes to keep.
        keep: Columns of the batch to keep beside the answers.

    Raises:
        BundleError: The bundle is damaged, or belongs to other base weights.
        BackboneError: The base's weights cannot be found.
        UsageError: There is no such device or precision; or ``keep`` has a column of answers.

    Examples:
        >>> import ray
        >>> pictures = ray.data.read_binary_files("photos/", include_paths=True)
        >>> answers = pictures.map_batches(
        ...     RayPredictor,
        ...     fn_constructor_kwargs={"checkpoint": "checkpoints/photos"},
        ...     batch_size=64,
        ...     num_cpus=2,
        ...     compute=ray.data.ActorPoolStrategy(size=4),
        ... )
        >>> answers.write_parquet("answers/")
    """

    def __init__(
        self,
        checkpoint: str | Path,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: PredictionPrecision = "32",
        top_k: int = 3,
        keep: Sequence[str] = (),
    ) -> None:
        with without_compiler():
            from vitlora.prediction.predictor import Predictor

        torch.set_num_threads(_cpus())
        self._predictor = Predictor(checkpoint, weights, device, precision)
        self._top_k, self._keep = top_k, tuple(keep)
        self._width = min(top_k, len(self._predictor.classes))
        if taken := {*keep} & {*table_of([], self._width).column_names}:
            raise UsageError(f"keep has {a_few(sorted(taken))}, which are columns of the answers")

    def __call__(self, batch: Mapping[str, Sequence[object]]) -> pyarrow.Table:
        """Returns a row for each picture: the columns of ``vitlora predict --output``.

        Args:
            batch: A column ``bytes`` with files and perhaps ``path``, or ``path`` alone.

        Raises:
            DataError: There is neither column.
        """
        if not {"bytes", "path"} & batch.keys():
            raise DataError(
                f"a batch has the columns {a_few(batch)}; expected path, or bytes, or both, as "
                "ray.data.read_binary_files(..., include_paths=True) gives"
            )
        count = len(next(iter(batch.values())))
        names = [str(path) for path in batch.get("path", [""] * count)]
        answers = self._predictor.predict(_files(batch, names), self._top_k, max(count, 1))
        rows = [row_of(*one) for one in zip(names, answers, strict=True)]
        table = table_of(rows, self._width)
        for name in self._keep:
            table = table.append_column(name, [list(batch[name])])
        return table


def _files(batch: Mapping[str, Sequence[object]], names: Sequence[str]) -> Sequence[File]:
    """Returns what to open: the paths, or the bytes under their names.

    Raises:
        DataError: The bytes are something else.
    """
    files: list[File] = []
    for content, name in zip(batch.get("bytes", names), names, strict=True):
        if "bytes" in batch and not isinstance(content, bytes):
            raise DataError(f"the column bytes holds {type(content).__name__}; expected bytes")
        files.append(InMemory(content, name) if isinstance(content, bytes) else name)
    return files


def _cpus() -> int:
    """Returns how many CPUs this actor has; torch's number of threads outside of Ray."""
    import ray

    if not ray.is_initialized():
        return torch.get_num_threads()
    assigned = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(assigned.get("CPU", 1)))
