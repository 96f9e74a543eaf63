"""Kinds of exported files, one module each. Importing them needs none of their libraries."""

from pathlib import Path

from vitlora.exporting.targets.onnx_file import OnnxFile
from vitlora.exporting.targets.openvino_file import OpenVinoFile
from vitlora.exporting.targets.program_file import ProgramFile
from vitlora.exporting.targets.target import Target

TARGETS: dict[str, Target] = {
    target.suffix: target for target in (OnnxFile(), OpenVinoFile(), ProgramFile())
}

__all__ = ["TARGETS", "Target", "target_of"]


def target_of(file: str | Path) -> Target | None:
    """Returns the kind of file that a name says; None for another ending and for a folder."""
    return None if Path(file).is_dir() else TARGETS.get(Path(file).suffix.lower())
