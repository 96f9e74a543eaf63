"""The ``merge`` command: merges a bundle into its base, as one proven file of timm weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root
from vitlora.errors import UsageError, counted
from vitlora.files import check_writable, write_whole
from vitlora.light_imports import light_imports
from vitlora.notes import tell

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vitlora.bundle.merged_file import Merged
    from vitlora.bundle.record import Record
    from vitlora.data.datamodule import FolderData


@checked
def merge(
    checkpoint: str | Path,
    output: str | Path,
    *,
    weights: str | Path | None = None,
    base: Literal["trained", "full"] = "trained",
    data: str | Path | None = None,
    **reading: str | Path,
) -> Merge:
    """Merges an adapter into its base: one file for timm.

    timm opens the file without vitlora. Before the file is written, its answers to the validation
    pictures are compared with those of the unmerged network. The result is written next to it, as
    NAME.json.

    Args:
        checkpoint: Folder of the bundle.
        output: File to write, NAME.safetensors; it must not exist.
        weights: File of the base's weights, if it has moved since training.
        base: Merge into the base as it was rounded in training (trained), or in full precision
            (full).
        data: Folder of pictures to compare on (default: the folder of training).
        reading: Options of fit that say how --data is stored, such as --data.layout and
            --data.label_column.

    Returns:
        Where the file is, how to open it, and the proof.

    Raises:
        UsageError: The file already exists, or cannot be written.
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be found.
        DataError: There are no validation pictures.
        VitloraError: The merged file answers differently than the adapter.

    Examples:
        $ vitlora merge checkpoints/waste5 waste5.safetensors
        $ vitlora merge checkpoints/waste5 waste5.safetensors --base full --data photos
    """
    check_there(checkpoint)
    layout = LayoutOptions.named(reading)
    file = Path(output)
    proof_file = _proof_file(file)
    if data is not None:
        check_root(data, "--data")
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.bundle.merged_file import merged_file
        from vitlora.evaluation.pictures import find_validation

    bundle = load_bundle(checkpoint)
    pictures = find_validation(bundle, data, layout)
    pictures.setup("validate")  # leaves out unreadable ones
    root = pictures.folder.root
    tell(f"comparing on the validation pictures of {root} …")
    with merged_file(bundle, file, partial(_answers, pictures), weights, base) as merged:
        result = Merge(bundle.folder, file, proof_file, base, root, bundle.record, merged)
        fields = json.dumps(result.to_json(), indent=1, ensure_ascii=False)
        write_whole(proof_file, fields + "\n")
    return result


@dataclass(frozen=True)
class Merge:
    """A file of merged weights and its proof.

    Attributes:
        checkpoint: The bundle.
        output: The file.
        proof_file: The JSON file next to it.
        base: The base that the adapter was merged into: trained or full.
        data: The folder of the compared pictures.
        record: The bundle's record.
        merged: How timm opens the file, and the proof for each base.
    """

    checkpoint: Path
    output: Path
    proof_file: Path
    base: str
    data: Path
    record: Record
    merged: Merged

    def to_text(self) -> str:
        """Returns where the file is, the proof as a table, and Python lines that open it."""
        return "\n".join([*self._table(), "", *self._lines()])

    def to_json(self) -> dict[str, object]:
        """Returns the content of the JSON file."""
        return {
            "file": self.output.name,
            "checkpoint": str(self.checkpoint),
            "backbone": self.record.backbone,
            "storage": asdict(self.record.storage),
            "base": self.base,
            "timm": self.merged.timm,
            "classes": self.record.classes,
            "preprocessing": asdict(self.record.preprocessing),
            "pictures": {"root": str(self.data), "count": self.merged.pictures},
            "proof": {base: asdict(proof) for base, proof in self.merged.proofs.items()},
        }

    def _table(self) -> list[str]:
        from vitlora.bundle.merged_file import BASES

        merged = self.merged
        pictures = f"{counted(merged.pictures, 'picture')}, against the unmerged network"
        lines = [
            f"merged    {self.output}  ({merged.size:,} bytes), the base {BASES[self.base]}",
            f"proof     {self.proof_file}, on {pictures}",
            "",
            "merged into the base            largest logit gap  of spread  accuracy before   after",
        ]
        lines += [
            f"{BASES[base]:<30}  {proof.largest_gap:17.2e}  {proof.relative_gap:9.1e}"
            f"  {proof.accuracy_before:15.4f}  {proof.accuracy_after:.4f}"
            for base, proof in merged.proofs.items()
        ]
        return lines

    def _lines(self) -> list[str]:
        """Returns the lines of Python that open the network and pictures."""
        from vitlora.data.value_range import range_text

        arguments = {**self.merged.timm, "checkpoint_path": str(self.output)}
        view = asdict(self.record.preprocessing)
        value_range, srgb = view.pop("value_range"), view.pop("srgb")
        view = {"input_size": view.pop("image_size"), **view}
        lines = [
            f"network   timm.create_model({_call([arguments.pop('name')], arguments)})",
            f"pictures  timm.data.create_transform({_call([], view)})",
        ]
        if value_range is not None:
            shown = range_text(value_range)
            lines.append(f"          first scale {shown} to 0 to 255 in files deeper than 8 bits")
        if srgb:
            lines.append("          first convert colour profiles to sRGB")
        return lines


def _proof_file(output: Path) -> Path:
    """Returns the path of the proof.

    Raises:
        UsageError: It or the merged file exists or cannot be written.
    """
    proof = output.with_suffix(".json")
    if output.suffix != ".safetensors":
        raise UsageError(f"OUTPUT is '{output}'; expected a name that ends in .safetensors")
    if not output.parent.is_dir():
        raise UsageError(f"OUTPUT '{output}': its folder does not exist; create it first")
    check_writable("OUTPUT", output.parent)
    for path in (output, proof):
        if path.exists():
            place = f"{path}, where the proof goes," if path == proof else path
            raise UsageError(f"{place} already exists; choose another OUTPUT")
    return proof


def _answers(data: FolderData, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits ``(N, classes)`` and labels ``(N,)`` of the validation pictures."""
    from vitlora.evaluation.answers import answer
    from vitlora.hardware import pick_device

    preprocessing = data.preprocessing
    if preprocessing is None:
        raise UsageError("the pictures have no preprocessing")
    network = network.to(pick_device()).eval()
    answers = answer(network, data.folder.splits["val"], preprocessing, data.batch_size)
    return answers.logits, answers.labels


def _call(words: Sequence[str], keywords: Mapping[str, object]) -> str:
    """Returns arguments in Python's syntax."""
    shown = [f"{key}={_python(value)}" for key, value in keywords.items()]
    return ", ".join([*map(_python, words), *shown])


def _python(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
