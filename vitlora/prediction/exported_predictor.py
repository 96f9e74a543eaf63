"""Picture -> class and confidence, from an exported file. Needs onnxruntime, but no torch."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vitlora.errors import BundleError, DataError, UsageError, printable
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.ahead import ahead
from vitlora.prediction.exported import KEY, Exported

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INPUT = "pictures"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
PROBABILITIES, FEATURES, DISTANCES = OUTPUTS = ("probabilities", "features", "distances")
_Seen = tuple[Path, NDArray[np.uint8] | DataError, bool]  # square, whether its values are outside


class ExportedPredictor:
    """A network that ``vitlora export`` wrote; it answers as the ``Predictor`` of its bundle does.

    Args:
        file: The .onnx file.

    Raises:
        BundleError: It is missing or damaged, or vitlora did not write it.
        UsageError: onnxruntime is not installed.
    """

    def __init__(self, file: str | Path) -> None:
        self._session = _opened(Path(file))
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.exported = Exported.from_text(metadata.get(KEY), file)
        _check_fits(self._session, self.exported, file)
        self.classes = self.exported.classes
        self.validated = self.exported.validated
        self.confidence = self.exported.confidence
        self.preprocessing = self.exported.preprocessing
        self._framing = self.preprocessing.framing()

    def predict(
        self, paths: Iterable[str | Path], top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        """Yields a prediction for each file, in order; an error for one that cannot be read.

        Args:
            paths: Picture files.
            top_k: How many classes to keep, at least 1.
            batch_size: Pictures in one forward pass.
        """
        opened = ahead(self._open, map(Path, paths), 2 * batch_size)
        while group := list(islice(opened, batch_size)):
            yield from self._predict_group(group, top_k)

    def run(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Returns what the network says of squares.

        Args:
            pictures: RGB, ``(B, size, size, 3)``, in ``[0, 255]``.

        Returns:
            Probabilities ``(B, C)``, features ``(B, D)`` and, if the bundle was calibrated,
            distances to the training pictures ``(B,)``, by their names.
        """
        names = [output.name for output in self._session.get_outputs()]
        values: Any = self._session.run(names, {INPUT: pictures})  # all are arrays of floats
        return dict(zip(names, values, strict=True))

    def square(self, path: Path) -> tuple[NDArray[np.uint8], bool]:
        """Returns a file as the network takes it, ``(size, size, 3)``; see ``Opened.outside``.

        Raises:
            DataError: It cannot be read.
        """
        opened = self.preprocessing.open(path)
        return np.asarray(self._framing(opened.image)), opened.outside

    def _open(self, path: Path) -> _Seen:
        try:
            return path, *self.square(path)
        except DataError as error:
            return path, error, False

    def _predict_group(
        self, group: Sequence[_Seen], top_k: int
    ) -> Iterator[Prediction | DataError]:
        squares = [square for _, square, _ in group if not isinstance(square, DataError)]
        said = self.run(np.stack(squares)) if squares else {}
        row = 0
        for path, square, outside in group:
            if isinstance(square, DataError):
                yield square
                continue
            one = {name: values[row] for name, values in said.items()}
            yield self._prediction(path, one, outside, top_k)
            row += 1

    def _prediction(
        self, path: Path, said: dict[str, NDArray[np.float32]], outside: bool, top_k: int
    ) -> Prediction:
        """Returns the prediction for one picture; marks are set as ``Judge`` does."""
        probabilities, known = said[PROBABILITIES], self.confidence
        order = np.argsort(-probabilities, kind="stable")
        top = tuple((self.classes[n], float(probabilities[n])) for n in order[: max(top_k, 1)])
        unsure = known is not None and top[0][1] < known.unsure_below
        unfamiliar = known is not None and float(said[DISTANCES]) > known.unfamiliar_above
        return Prediction(path, top, unsure, unfamiliar, outside)


def _opened(file: Path) -> "InferenceSession":
    """Returns onnxruntime's session; a graph runs operators of onnxruntime, no code of its own.

    Raises:
        BundleError, UsageError: As for ``ExportedPredictor``.
    """
    if not file.is_file():
        raise BundleError(f"checkpoint '{file}': no such file")
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            f"reading {file} needs the package onnxruntime, which is not installed: pip install "
            "'vitlora[export]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors, which are raised anyway
    # as torch does; 0 is every core
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    # where no folder can be: a stranger's file may name other files to read weights from
    nowhere = str(file.absolute() / "none")
    options.add_session_config_entry(_WEIGHTS_FOLDER, nowhere)
    try:
        return onnxruntime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime's own errors have no common class
    except Exception as error:
        said = printable(" ".join(str(error).split()))
        raise BundleError(
            f"{file} is torn or no ONNX file that onnxruntime {onnxruntime.__version__} reads "
            f"({said}); export the bundle again"
        ) from None


def _check_fits(session: "InferenceSession", exported: Exported, file: object) -> None:
    """Refuses a file whose network is not the one that its metadata describes.

    Raises:
        BundleError: An input or output is missing, or has another type or shape.
    """
    side, classes = exported.preprocessing.image_size, len(exported.classes)
    distances = {} if exported.confidence is None else {DISTANCES: ("tensor(float)", ())}
    expected = {
        INPUT: ("tensor(uint8)", (side, side, 3)),
        PROBABILITIES: ("tensor(float)", (classes,)),
        **distances,
    }
    parts = [*session.get_inputs(), *session.get_outputs()]
    found = {part.name: (part.type, tuple(part.shape[1:])) for part in parts}
    inputs = [part.name for part in session.get_inputs()]
    for name, want in expected.items():
        if found.get(name) != want or inputs != [INPUT]:
            raise BundleError(
                f"{file} is not a network of vitlora's: '{name}' is {found.get(name)}, expected "
                f"{want}; export the bundle again"
            )
    if any(isinstance(part.shape[0], int) for part in parts):
        raise BundleError(f"{file} takes a fixed number of pictures; export the bundle again")
