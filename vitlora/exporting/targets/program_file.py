"""torch's own file: a program of torch.export, for programs that have torch but not timm."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.exporting.exported import Exported
from vitlora.exporting.targets.target import INPUT, KEY, OpenedNetwork, Target, Value
from vitlora.files import write_through

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


class ProgramFile(Target):
    """Read by torch.export.load, which unpickles: a stranger's file can run code."""

    suffix = ".pt2"
    use = "torch.export.load('{}').module()(pictures)"
    precisions = ("32",)
    runs_code = True

    def write(self, program: "ExportedProgram", exported: Exported, file: Path) -> None:
        """Writes one file; see ``Target.write``."""
        import torch

        whole = BytesIO()
        torch.export.save(program, whole, extra_files={KEY: exported.to_text()})
        write_through(file, whole.getvalue())

    def open(self, file: Path) -> OpenedNetwork:
        """Opens a file; see ``Target.open``."""
        import torch

        extra: dict[str, Any] = {KEY: None}
        program: Any = torch.export.load(file, extra_files=extra)
        module = program.module()

        @torch.inference_mode()
        def run(pictures: Any) -> dict[str, Any]:
            said = module(torch.from_numpy(pictures))
            return {name: values.numpy() for name, values in said.items()}

        graph, call = program.graph, program.call_spec
        placeholder = graph.find_nodes(op="placeholder", target=INPUT)[0]
        outputs: dict[str, Any] = call.out_spec.unflatten(graph.output_node().args[0])
        return OpenedNetwork(
            extra[KEY],
            {INPUT: _value(placeholder.meta["val"])},
            {name: _value(node.meta["val"]) for name, node in outputs.items()},
            run,
        )


def _value(tensor: "torch.Tensor") -> Value:
    shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return str(tensor.dtype).removeprefix("torch."), shape
