"""OpenVINO's IR: NAME.xml with the graph, and NAME.bin with the weights beside it."""

from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.exporting.exported import Exported
from vitlora.exporting.targets.onnx_file import MOST_BYTES, onnx_bytes, threads
from vitlora.exporting.targets.target import INPUT, KEY, OpenedNetwork, Target, Value
from vitlora.files import keep_content

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# without it, OpenVINO computes in bf16 where the chip can, and rounds activations to 8 bits
_EXACT = {"EXECUTION_MODE_HINT": "ACCURACY"}

_METADATA = ["framework", KEY]  # where OpenVINO keeps that of ONNX


class OpenVinoFile(Target):
    """Made from the ONNX file, whose 8-bit weights stay in 8 bits; read by OpenVINO."""

    suffix = ".xml"
    beside = (".bin",)
    extra = "openvino"
    writes_with = ("onnx", "onnxscript", "openvino")
    reads_with = ("openvino",)
    most_bytes = MOST_BYTES

    def write(self, program: "ExportedProgram", exported: Exported, file: Path) -> None:
        """Writes two files; see ``Target.write``."""
        import openvino  # pyright: ignore[reportMissingImports]

        model = openvino.Core().read_model(onnx_bytes(program, exported))
        try:
            openvino.save_model(model, file, compress_to_fp16=False)
        except RuntimeError:
            raise OSError(EIO, "OpenVINO cannot write it; is the disk full?", str(file)) from None
        for path in self.files(file):
            keep_content(path)

    def open(self, file: Path) -> OpenedNetwork:
        """Opens a file with as many threads as torch would have; see ``Target.open``."""
        import openvino.frontend  # pyright: ignore[reportMissingImports]

        # read_model would also try the readers of other formats, which print what they think
        reader = openvino.frontend.FrontEndManager().load_by_framework("ir")
        model = reader.convert(reader.load(str(file)))
        options = {**_EXACT, "INFERENCE_NUM_THREADS": threads()}
        compiled = openvino.compile_model(model, "CPU", options)

        def run(pictures: Any) -> dict[str, Any]:
            said = compiled({INPUT: pictures})
            return {part.any_name: said[part].copy() for part in compiled.outputs}

        return OpenedNetwork(
            model.get_rt_info(_METADATA).astype(str) if model.has_rt_info(_METADATA) else None,
            {part.any_name: _value(part) for part in model.inputs},
            {part.any_name: _value(part) for part in model.outputs},
            run,
        )


def _value(part: Any) -> Value:
    sizes = (size.get_length() if size.is_static else None for size in part.partial_shape)
    return part.element_type.to_dtype().name, tuple(sizes)
