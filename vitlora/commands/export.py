"""The ``export`` command: writes a bundle for another runtime, and proves that it answers alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import UsageError, counted, either
from vitlora.exporting.targets import TARGETS, Target
from vitlora.files import check_writable, write_whole
from vitlora.light_imports import light_imports
from vitlora.notes import note, tell
from vitlora.shell import typed

if TYPE_CHECKING:
    from vitlora.exporting.proof import ExportProof

_SCRIPT = Path(__file__).parents[1] / "exporting" / "device.py"


@checked
def export(
    checkpoint: str | Path | None = None,
    output: str | Path | None = None,
    *,
    example: bool = False,
    weights: str | Path | None = None,
    precision: Literal["32", "fp16", "int8"] = "32",
    data: str | Path | None = None,
    **reading: str | Path,
) -> Export | Example:
    """Exports a bundle to ONNX, OpenVINO or torch.export.

    Before the file is written, its answers to the validation pictures are compared with those of
    the bundle. The result is written next to it, as NAME.json.

    Args:
        checkpoint: Folder of the bundle.
        output: File to write, which must not exist: NAME.onnx for onnxruntime and others, NAME.xml
            (with NAME.bin) for OpenVINO, NAME.pt2 for torch.export.
        example: Export nothing; print a script that uses an .onnx file on a device that has only
            onnxruntime, numpy and pillow.
        weights: File of the base's weights, if it has moved since training.
        precision: How the weights are kept: 32 as they are, fp16 in half of the bytes, int8 in a
            quarter. The last two are refused if more than 0.5% of the classes change.
        data: Folder of pictures to compare on (default: the folder of training).
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        Where the file is, and the proof; or the script.

    Raises:
        UsageError: The file already exists, or cannot be written; the packages are not installed;
            the base is too large for the file or for the memory.
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be found.
        DataError: There are no validation pictures.
        VitloraError: The file answers differently than the bundle.

    Examples:
        $ vitlora export checkpoints/waste5 waste5.onnx
        $ vitlora predict photo.jpg --checkpoint waste5.onnx
        $ vitlora export --example > device.py
    """
    if example:
        return Example(_SCRIPT.read_text("utf-8"))
    if checkpoint is None or output is None:
        raise UsageError("export needs CHECKPOINT and OUTPUT, a bundle's folder and NAME.onnx")
    check_there(checkpoint)
    layout = LayoutOptions.named(reading)
    file, target = Path(output), _target(output, precision)
    proof_file = _proof_file(file, target)
    if data is not None:
        check_root(data, "--data")
    target.check_installed(f"writing {target.suffix} files", target.writes_with)
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.evaluation.pictures import find_validation
    from vitlora.exporting.exports import exported_file

    bundle = load_bundle(checkpoint)
    pictures = find_validation(bundle, data, layout)
    pictures.setup("validate")  # leaves out unreadable ones
    root = pictures.folder.root
    if bundle.record.confidence is None:
        note(
            f"{bundle.folder} is not calibrated, so the file has no marks; see 'vitlora calibrate'"
        )
    tell(f"exporting, and comparing on the validation pictures of {root} …")
    samples = pictures.folder.splits["val"]
    with exported_file(bundle, file, target, samples, weights, precision) as proofs:
        result = Export(bundle.folder, file, proof_file, precision, root, {**proofs})
        fields = json.dumps(result.to_json(), indent=1, ensure_ascii=False)
        write_whole(proof_file, fields + "\n")
    return result


@dataclass(frozen=True)
class Export:
    """An exported file and its proof.

    Attributes:
        checkpoint: The bundle.
        output: The file.
        proof_file: The JSON file next to it.
        precision: How its weights are kept.
        data: The folder of the compared pictures.
        proofs: Precision -> what it changed; of 32 and of the file's.
    """

    checkpoint: Path
    output: Path
    proof_file: Path
    precision: str
    data: Path
    proofs: Mapping[str, ExportProof]

    def to_text(self) -> str:
        """Returns where the file is, the proof as a table, and how to use it."""
        proof = self.proofs[self.precision]
        pictures = counted(proof.pictures, "picture")
        lines = [
            f"exported  {self.output}  ({proof.bytes:,} bytes), precision {self.precision}",
            f"proof     {self.proof_file}, on {pictures}, against the bundle",
            "",
            "precision  largest confidence gap  changed: classes  unsure  unfamiliar"
            "       bytes  ms a picture",
        ]
        lines += [
            f"{name:<9}  {one.largest_gap:22.2g}  {one.changed_classes:16,}  "
            f"{one.changed_unsure:6,}  {one.changed_unfamiliar:10,}  {one.bytes:10,}  "
            f"{one.milliseconds:12.1f}"
            for name, one in self.proofs.items()
        ]
        suffix, name = self.output.suffix, str(self.output)
        use = TARGETS[suffix].use.format(typed(name) if suffix != ".pt2" else name)
        gaps = ", ".join(f"{n}: {gap:.1g}" for n, gap in proof.batches.items())
        return "\n".join(
            [
                *lines,
                "",
                f"batches   pictures at once, and the largest gap: {gaps}",
                f"use       {use}",
            ]
        )

    def to_json(self) -> dict[str, object]:
        """Returns the content of the JSON file."""
        return {
            "file": self.output.name,
            "checkpoint": str(self.checkpoint),
            "precision": self.precision,
            "pictures": {
                "root": str(self.data),
                "count": self.proofs[self.precision].pictures,
            },
            "proof": {name: asdict(proof) for name, proof in self.proofs.items()},
        }


@dataclass(frozen=True)
class Example:
    """A script for devices.

    Attributes:
        script: Its text.
    """

    script: str

    def to_text(self) -> str:
        """Returns the script."""
        return self.script.rstrip()

    def to_json(self) -> dict[str, object]:
        """Returns the script under ``script``."""
        return {"script": self.script}


def _target(output: str | Path, precision: str) -> Target:
    """Returns the kind of file that OUTPUT names.

    Raises:
        UsageError: There is no such kind, or it does not have the precision.
    """
    target = TARGETS.get(Path(output).suffix)
    if target is None:
        raise UsageError(f"OUTPUT is '{output}'; expected a name that ends in {either(TARGETS)}")
    if precision not in target.precisions:
        expected = f"{either(target.precisions)} for {target.suffix} files"
        raise UsageError(f"--precision is {precision}; expected {expected}")
    return target


def _proof_file(output: Path, target: Target) -> Path:
    """Returns the path of the proof.

    Raises:
        UsageError: It or the exported file exists or cannot be written.
    """
    proof = output.with_suffix(".json")
    if not output.parent.is_dir():
        raise UsageError(f"OUTPUT '{output}': its folder does not exist; create it first")
    check_writable("OUTPUT", output.parent)
    for path in (*target.files(output), proof):
        if path.exists():
            place = f"{path}, where the proof goes," if path == proof else path
            raise UsageError(f"{place} already exists; choose another OUTPUT")
    return proof
