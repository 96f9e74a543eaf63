"""ONNX: one file for onnxruntime and many other runtimes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.exporting.exported import Exported
from vitlora.exporting.targets.target import INPUT, KEY, OUTPUTS, OpenedNetwork, Target, Value
from vitlora.files import write_through

if TYPE_CHECKING:
    from torch.export import ExportedProgram

MOST_BYTES = 2**31 - 2**24  # protobuf allows 2 GiB; the graph needs some of it
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_PROVIDER = "CPUExecutionProvider"
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxFile(Target):
    """Read by onnxruntime; a graph runs operators of onnxruntime, no code of its own."""

    suffix = ".onnx"
    writes_with = ("onnx", "onnxscript", "onnxruntime")
    reads_with = ("onnxruntime",)
    most_bytes = MOST_BYTES

    def write(self, program: "ExportedProgram", exported: Exported, file: Path) -> None:
        """Writes one file, with its weights; see ``Target.write``."""
        write_through(file, onnx_bytes(program, exported))

    def open(self, file: Path) -> OpenedNetwork:
        """Opens a file with as many threads as torch would have; see ``Target.open``."""
        # or onnxruntime 1.32 tells Microsoft of each session
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised, too
        options.intra_op_num_threads = threads()
        # where no folder can be: a stranger's file may name other files to read weights from
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.absolute() / "none"))
        session = onnxruntime.InferenceSession(str(file), options, providers=[_PROVIDER])
        names = [output.name for output in session.get_outputs()]

        def run(pictures: Any) -> dict[str, Any]:
            return dict(zip(names, session.run(names, {INPUT: pictures}), strict=True))

        return OpenedNetwork(
            session.get_modelmeta().custom_metadata_map.get(KEY),
            {part.name: _value(part) for part in session.get_inputs()},
            {part.name: _value(part) for part in session.get_outputs()},
            run,
        )


def onnx_bytes(program: "ExportedProgram", exported: Exported) -> bytes:
    """Returns a program as an ONNX file with its weights and what it says about itself."""
    import torch

    from vitlora.exporting.eight_bits import with_weights_in_8_bits
    from vitlora.exporting.quiet import quietly

    outputs = OUTPUTS if exported.confidence is not None else OUTPUTS[:-1]
    with quietly():
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    made.model.metadata_props[KEY] = exported.to_text()
    data = made.model_proto.SerializeToString()
    return with_weights_in_8_bits(data) if exported.precision == "int8" else data


def threads() -> int:
    """Returns how many threads to run on, as torch does; 0 is one for each core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else 0


def _value(part: Any) -> Value:
    shape = tuple(size if isinstance(size, int) else None for size in part.shape)
    return _TYPES.get(part.type) or part.type, shape
