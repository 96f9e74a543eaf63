"""The ``adopt`` command: turns an adapter that PEFT saved for a timm model into a bundle."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import PEFT_CONFIG, RECORD
from vitlora.errors import UsageError, counted
from vitlora.notes import note
from vitlora.shell import typed


@checked
def adopt(
    adapter: str | Path,
    *,
    classes: list[str],
    backbone: str,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    image_size: int | None = None,
    quantization: Literal["none", "nf4", "fp4"] = "none",
) -> Adopted:
    """Turns a LoRA adapter that PEFT saved into a bundle.

    PEFT's save_pretrained must have written the adapter for a timm model, together with the head
    (modules_to_save=['head']).

    Args:
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        classes: Names of the classes, in the order of the head's outputs.
        backbone: The base that the adapter was trained on, as timm/NAME.TAG.
        weights: File of the base's weights (default: timm's, from the cache or the hub).
        output: Folder of the bundle (default: checkpoints/NAME, where NAME is the adapter's
            folder).
        image_size: Side of the input in pixels (default: that of the weights).
        quantization: How the base was quantised in training.

    Returns:
        Where the bundle is, and which layers it adapts.

    Raises:
        UsageError: The output exists, or an option does not fit the adapter.
        BundleError: The adapter is damaged, of an unsupported kind, or does not fit the base.
        BackboneError: The base's weights cannot be found.

    Examples:
        $ vitlora adopt mine --classes can,cup --backbone timm/vit_base_patch16_224.mae
    """
    folder = Path(adapter)
    bundle = Path(output or Path("checkpoints") / folder.resolve().name)
    names = _names(classes)
    _check_folders(folder, bundle)
    from vitlora.backbones import load_backbone
    from vitlora.bundle.adopt import adopt as write
    from vitlora.bundle.checkpoint import bundle_bytes
    from vitlora.bundle.foreign import PeftAdapter
    from vitlora.quantization import Storage

    found = PeftAdapter.read(folder)
    found.check_classes(names)
    base = load_backbone(backbone, len(names), weights, image_size)
    found.check_backbone(base.id)
    layers = write(found, names, base, Storage(quantization), bundle)
    note(
        "PEFT does not save the base weights, order of classes, image size and quantisation that "
        "the adapter was trained with; check them by scoring labelled pictures"
    )
    return Adopted(folder, bundle, base.id, names, layers, bundle_bytes(bundle))


@dataclass(frozen=True)
class Adopted:
    """A bundle made from a PEFT adapter.

    Attributes:
        adapter: The adapter's folder.
        output: The bundle's folder.
        backbone: The base's id.
        classes: Names of the classes, in the order of the head's outputs.
        layers: Paths of the adapted layers.
        size: Size of the bundle, bytes.
    """

    adapter: Path
    output: Path
    backbone: str
    classes: list[str]
    layers: list[str]
    size: int

    def to_text(self) -> str:
        """Returns where the bundle is and what to type next."""
        predict = typed("vitlora", "predict", "IMAGE.jpg", "--checkpoint", self.output)
        test = typed("vitlora", "test", "--checkpoint", self.output, "--data", "FOLDER")
        return (
            f"bundle   {self.output}  ({self.size:,} bytes), "
            f"{counted(len(self.layers), 'layer')} adapted\n"
            f"predict  {predict}\n"
            f"test     {test}"
        )

    def to_json(self) -> dict[str, object]:
        """Returns where the bundle is and which layers it adapts."""
        return {
            "adapter": str(self.adapter),
            "checkpoint": str(self.output),
            "backbone": self.backbone,
            "classes": self.classes,
            "layers": self.layers,
            "bytes": self.size,
        }


def _names(classes: list[str]) -> list[str]:
    """Returns the names of the classes without spaces around them, in Unicode's NFC form.

    Raises:
        UsageError: There are fewer than two, or one is empty or repeated.
    """
    names = [unicodedata.normalize("NFC", name.strip()) for name in classes]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"--classes is '{','.join(classes)}'; expected at least 2 different names, such as "
            "can,glass,tyre"
        )
    return names


def _check_folders(adapter: Path, bundle: Path) -> None:
    """Refuses a folder without an adapter, and an output that exists."""
    if (adapter / RECORD).exists():
        raise UsageError(f"ADAPTER is '{adapter}', which is already a bundle; use it as it is")
    if not (adapter / PEFT_CONFIG).is_file():
        raise UsageError(
            f"ADAPTER is '{adapter}', which has no {PEFT_CONFIG}; expected the folder that PEFT's "
            "save_pretrained wrote"
        )
    if bundle.exists():
        raise UsageError(f"output '{bundle}' already exists; choose another --output")
