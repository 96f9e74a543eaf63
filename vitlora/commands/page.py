"""The ``page`` command: a page that classifies pictures in the browser, offline."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import UsageError, counted
from vitlora.exporting.targets import TARGETS, target_of
from vitlora.files import check_target, check_writable, write_whole
from vitlora.notes import note, tell, warn

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle
    from vitlora.data.datamodule import FolderData
    from vitlora.exporting.exported import ExportPrecision
    from vitlora.exporting.proof import ExportProof

MARK = b'content="vitlora page"'  # near the start of a page; see files.check_target

_ONNX = TARGETS[".onnx"]
_FOR_PHONES = 100_000_000  # bytes


@checked
def page(
    checkpoint: str | Path,
    output: str | Path,
    *,
    title: str | None = None,
    weights: str | Path | None = None,
    precision: Literal["32", "fp16", "int8"] | None = None,
    data: str | Path | None = None,
    runtime: str | Path | None = None,
    **reading: str | Path,
) -> Page:
    """Writes a page that classifies pictures in a browser.

    Whoever opens the page drops, pastes or photographs a picture. It stays on their device: the
    page needs no server and sends nothing. The network in it is proven as by export. What runs it,
    the npm package onnxruntime-web, is fetched once, by npm if that is installed.

    Args:
        checkpoint: Folder of the bundle, or a file that export wrote.
        output: File to write, NAME.html.
        title: Heading of the page (default: the name of the bundle).
        weights: File of the base's weights, if it has moved since training.
        precision: How the weights are kept, as in export (default: 32).
        data: Folder of pictures to compare on (default: the folder of training).
        runtime: Archive that 'npm pack' wrote, or a folder with its files, to fetch nothing.
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        Where the page is, its size, and the proof.

    Raises:
        UsageError: The page cannot be written, or the network is too large for it; a package is
            not installed.
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be found.
        DataError: There are no validation pictures, or onnxruntime-web is not as expected.
        VitloraError: The network answers differently in the page's format; onnxruntime-web cannot
            be fetched.

    Examples:
        $ vitlora page checkpoints/waste5 waste5.html
        $ vitlora page waste5.onnx waste5.html --title "Which bin?"
    """
    file, checkpoint = Path(output), Path(checkpoint)
    check_target("OUTPUT", file, (".html", ".htm"), MARK)
    check_writable("OUTPUT", file.parent)
    layout = LayoutOptions.named(reading)
    target = target_of(checkpoint)
    if target is None:
        check_there(checkpoint)
        _ONNX.check_installed("page", _ONNX.writes_with)
    else:
        _check_options(checkpoint, weights, precision, data)
        if target is not _ONNX:
            raise UsageError(f"a page holds {_ONNX.suffix} files, not {checkpoint}; export one")
    if data is not None:
        check_root(data, "--data")
    from vitlora.browser.page import page_of
    from vitlora.browser.runtime import find_runtime
    from vitlora.exporting.exported_predictor import ExportedPredictor

    if target is not None:
        said, proof = ExportedPredictor(checkpoint).exported, None
        found, content = find_runtime(runtime), checkpoint.read_bytes()
    else:
        bundle, pictures = _compared(checkpoint, data, layout)
        found = find_runtime(runtime)
        with tempfile.TemporaryDirectory() as folder:
            network = Path(folder) / "network.onnx"
            proof = _export(bundle, pictures, network, weights, precision or "32")
            said, content = ExportedPredictor(network).exported, network.read_bytes()
    if said.confidence is None:
        note(
            f"{checkpoint} is not calibrated, so the page marks no answer; see 'vitlora calibrate'"
        )
    if said.preprocessing.value_range is not None:
        warn(
            f"{checkpoint} was trained on files deeper than 8 bits, of which browsers read only 8; "
            "the page answers them unreliably, and says so"
        )
    heading = title or checkpoint.resolve().name.removesuffix(_ONNX.suffix)
    write_whole(file, page_of(content, said, found, heading))
    size = file.stat().st_size
    if size > _FOR_PHONES:
        note(
            f"{file} has {size / 1e6:,.0f} MB, which phones may refuse; --precision int8 is smaller"
        )
    return Page(checkpoint, file, size, proof)


def _compared(
    checkpoint: Path, data: str | Path | None, layout: LayoutOptions
) -> tuple[Bundle, FolderData]:
    """Returns a bundle and the validation pictures to compare its export on."""
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.evaluation.pictures import find_validation

    bundle = load_bundle(checkpoint)
    return bundle, find_validation(bundle, data, layout)


def _export(
    bundle: Bundle,
    pictures: FolderData,
    file: Path,
    weights: str | Path | None,
    precision: ExportPrecision,
) -> ExportProof:
    """Exports a bundle to a file, and returns its proof."""
    from vitlora.exporting.exports import exported_file

    pictures.setup("validate")  # leaves out unreadable ones
    root = pictures.folder.root
    tell(f"exporting, and comparing on the validation pictures of {root} …")
    samples = pictures.folder.splits["val"]
    with exported_file(bundle, file, _ONNX, samples, weights, precision) as proofs:
        return proofs[precision]


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        checkpoint: The bundle or exported file.
        output: The page.
        bytes: Its size.
        proof: What exporting changed; None if ``checkpoint`` was exported before.
    """

    checkpoint: Path
    output: Path
    bytes: int
    proof: ExportProof | None

    def to_text(self) -> str:
        """Returns where the page is, what exporting changed, and what to do with the page."""
        lines = [f"page   {self.output}  ({self.bytes:,} bytes)"]
        if self.proof:
            lines.append(
                f"proof  {counted(self.proof.pictures, 'picture')}: largest confidence gap "
                f"{self.proof.largest_gap:.1e}; changed: {self.proof.changed_classes:,} classes, "
                f"{self.proof.changed_unsure:,} unsure, "
                f"{self.proof.changed_unfamiliar:,} unfamiliar"
            )
        return "\n".join([*lines, "open it in a browser; it needs no server and no network"])

    def to_json(self) -> dict[str, object]:
        """Returns the same as plain values."""
        return {
            "file": str(self.output),
            "checkpoint": str(self.checkpoint),
            "bytes": self.bytes,
            "proof": self.proof and asdict(self.proof),
        }


def _check_options(file: Path, weights: object, precision: object, data: object) -> None:
    """Refuses what an exported file has no use for.

    Raises:
        UsageError: An option is given that is only for bundles.
    """
    given = {"--weights": weights, "--precision": precision, "--data": data}
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise UsageError(
            f"{', '.join(names)}: {file} was exported and proven before; name the bundle's folder, "
            "or leave this out"
        )
