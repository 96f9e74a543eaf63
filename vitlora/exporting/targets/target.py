"""The contract of an export format. A new format is a new module that fulfils it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitlora.errors import UsageError
from vitlora.exporting.exported import Exported, ExportPrecision

if TYPE_CHECKING:
    from torch.export import ExportedProgram

KEY = "vitlora"  # of the metadata
INPUT = "pictures"
PROBABILITIES, FEATURES, DISTANCES = OUTPUTS = ("probabilities", "features", "distances")
Value = tuple[str, tuple[int | None, ...]]  # numpy's name of a type; a shape, None for any size


@dataclass(frozen=True)
class OpenedNetwork:
    """An exported file, ready to run.

    Attributes:
        said: Its metadata, the JSON of ``Exported``; None if it has none.
        inputs: What it takes, by name.
        outputs: What it returns, by name.
        run: Squares ``(B, size, size, 3)`` -> the outputs by name.
    """

    said: str | None
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    run: Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]


class Target(ABC):
    """A kind of exported file, for one runtime.

    Attributes:
        suffix: Ending of its name.
        beside: Endings of files of the same name that belong to it.
        use: How to use a file, with ``{}`` for its path.
        extra: The extra of vitlora that installs its packages.
        writes_with: Packages that writing needs.
        reads_with: Packages that reading needs.
        precisions: How it can keep the weights.
        most_bytes: Largest size of the weights in fp32; None if there is no limit.
        runs_code: Whether reading a file can run code that is in it.
    """

    suffix: str
    beside: tuple[str, ...] = ()
    use: str = "vitlora predict PHOTO.jpg --checkpoint {}"
    extra: str = "export"
    writes_with: tuple[str, ...] = ()
    reads_with: tuple[str, ...] = ()
    precisions: tuple[ExportPrecision, ...] = ("32", "fp16", "int8")
    most_bytes: int | None = None
    runs_code: bool = False

    @abstractmethod
    def write(self, program: "ExportedProgram", exported: Exported, file: Path) -> None:
        """Writes a file, and those beside it, through to the disk.

        Args:
            program: Of ``exported_program``, in the precision that ``exported`` names.
            exported: What the file says about itself.
            file: Its path.
        """

    @abstractmethod
    def open(self, file: Path) -> OpenedNetwork:
        """Opens a file to run on the CPU, in the arithmetic that the proof is for.

        Raises:
            Exception: The file is damaged or of another kind; each library has its own errors.
        """

    def files(self, file: Path) -> list[Path]:
        """Returns all files of an exported file, itself last."""
        return [file.with_suffix(ending) for ending in (*self.beside, file.suffix)]

    def check_installed(self, what: str, packages: tuple[str, ...]) -> None:
        """Refuses to go on without packages.

        Raises:
            UsageError: One is not installed.
        """
        missing = [name for name in packages if find_spec(name) is None]
        if missing:
            raise UsageError(
                f"{what} needs {', '.join(missing)}, not installed: pip install "
                f"'vitlora[{self.extra}]'"
            )
