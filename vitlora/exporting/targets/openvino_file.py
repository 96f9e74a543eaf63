"""OpenVINO's IR: NAME.xml with the graph, and NAME.bin with the weights beside it."""

import re
import sys
import zlib
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

_PART = 1 << 20  # bytes to read at once
_METADATA = ["framework", KEY]  # where OpenVINO keeps that of ONNX
_CHECKSUM = re.compile(rb'<bin value="([^"]*)"')  # beside it: the CRC-32 of the .bin


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
        openvino = _silent_openvino()
        model = openvino.Core().read_model(onnx_bytes(program, exported))
        model.set_rt_info("none yet", ["framework", "bin"])
        try:
            openvino.save_model(model, file, compress_to_fp16=False)
        except RuntimeError:
            raise OSError(EIO, "OpenVINO cannot write it; is the disk full?", str(file)) from None
        known = b'<bin value="%s"' % _checksum(file)
        file.write_bytes(_CHECKSUM.sub(known, file.read_bytes(), count=1))
        for path in self.files(file):
            keep_content(path)

    def open(self, file: Path) -> OpenedNetwork:
        """Opens a file with as many threads as torch would have; see ``Target.open``."""
        _check_weights(file)
        openvino = _silent_openvino()
        # read_model would also try the readers of other formats, which print what they think
        reader = openvino.frontend.FrontEndManager().load_by_framework("ir")
        model = reader.convert(reader.load(str(file)))
        options = {**_EXACT, "INFERENCE_NUM_THREADS": threads()}
        compiled = openvino.compile_model(model, "CPU", options)

        def run(pictures: Any) -> dict[str, Any]:
            found = compiled({INPUT: pictures})
            return {part.any_name: found[part].copy() for part in compiled.outputs}

        return OpenedNetwork(
            model.get_rt_info(_METADATA).astype(str) if model.has_rt_info(_METADATA) else None,
            {part.any_name: _value(part) for part in model.inputs},
            {part.any_name: _value(part) for part in model.outputs},
            run,
        )


def _silent_openvino() -> Any:
    """Imports OpenVINO, which tells Google Analytics so where ``openvino_telemetry`` is installed.

    Seen with OpenVINO 2026.4, whose wheel requires it; without it a stub is imported.
    """
    hidden = "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino.frontend  # pyright: ignore[reportMissingImports]
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


def _check_weights(file: Path) -> None:
    """Refuses weights that are not those with which vitlora wrote a graph.

    Raises:
        ValueError: They are another file's, or damaged; or the graph does not say.
    """
    graph = file.read_bytes()
    known = _CHECKSUM.search(graph)
    if known is None and b"<vitlora value=" in graph:
        raise ValueError("it has no checksum of its .bin")
    if known is not None and known[1] != _checksum(file):
        raise ValueError("its .bin is another file's, or damaged")


def _checksum(file: Path) -> bytes:
    """Returns the CRC-32 of a graph's weights, in hex."""
    checksum = 0
    with file.with_suffix(".bin").open("rb") as weights:
        while part := weights.read(_PART):
            checksum = zlib.crc32(part, checksum)
    return b"%08x" % checksum


def _value(part: Any) -> Value:
    sizes = (size.get_length() if size.is_static else None for size in part.partial_shape)
    return part.element_type.to_dtype().name, tuple(sizes)
