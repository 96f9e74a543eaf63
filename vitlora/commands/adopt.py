"""The ``adopt`` command: an adapter that plain PEFT saved for a timm model -> a bundle."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitlora.bundle.folder import PEFT_CONFIG, RECORD
from vitlora.errors import UsageError
from vitlora.notes import note
from vitlora.shell import typed


def adopt(
    adapter: str | Path,
    *,
    classes: list[str],
    backbone: str,
    weights: str | None = None,
    output: str | Path | None = None,
    image_size: int | None = None,
    quantization: Literal["none", "nf4", "fp4"] = "none",
) -> Adopted:
    """Makes a bundle of a LoRA adapter that PEFT saved.

    The adapter is one that PEFT's save_pretrained wrote for a timm model. It must hold the head:
    modules_to_save=['head'].

    Args:
        adapter: Folder with adapter_config.json and adapter_model.safetensors.
        classes: Their names, in the order of the head's outputs.
        backbone: The base it was trained on, as timm/NAME.TAG.
        weights: File of the base's weights (default: timm's, from the cache or the hub).
        output: Folder of the bundle (default: checkpoints/NAME, named as the adapter's folder).
        image_size: Side in pixels (default: the weights' own).
        quantization: How the blocks of the base were kept in training: none, nf4 or fp4.

    Returns:
        Where the bundle is, and what it adapts.

    Raises:
        UsageError: The output exists, or an option does not fit the adapter.
        BundleError: The adapter is damaged, of a kind vitlora cannot run, or does not fit.
        BackboneError: The base's weights cannot be had.

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
        "PEFT does not save which base weights, order of classes, image size and rounding the "
        "adapter was trained with; test it on pictures whose classes you know"
    )
    return Adopted(folder, bundle, base.id, names, layers, bundle_bytes(bundle))


@dataclass(frozen=True)
class Adopted:
    """A bundle that was made of an adapter.

    Attributes:
        adapter: What PEFT saved.
        output: The bundle.
        backbone: Its base's id.
        classes: Names, in the order of the head's outputs.
        layers: Paths of the adapted layers.
        size: Of the bundle, bytes.
    """

    adapter: Path
    output: Path
    backbone: str
    classes: list[str]
    layers: list[str]
    size: int

    def to_text(self) -> str:
        """Returns where the bundle is, and what to type next."""
        predict = typed("vitlora", "predict", "IMAGE.jpg", "--checkpoint", self.output)
        test = typed("vitlora", "test", "--checkpoint", self.output, "--data", "FOLDER")
        return (
            f"bundle   {self.output}  ({self.size:,} bytes), {len(self.layers)} layers adapted\n"
            f"predict  {predict}\n"
            f"test     {test}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns where the bundle is, and what it adapts."""
        return {
            "adapter": str(self.adapter),
            "checkpoint": str(self.output),
            "backbone": self.backbone,
            "classes": self.classes,
            "layers": self.layers,
            "bytes": self.size,
        }


def _names(classes: list[str]) -> list[str]:
    """Returns the names of the classes as folders of pictures are compared with them.

    Raises:
        UsageError: They are fewer than two, or one is empty or there twice.
    """
    names = [unicodedata.normalize("NFC", name.strip()) for name in classes]
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"--classes is '{','.join(classes)}'; expected at least 2 names, each once, as in "
            "can,glass,tyre"
        )
    return names


def _check_folders(adapter: Path, bundle: Path) -> None:
    """Refuses a folder without an adapter, and to write where something is.

    Raises:
        UsageError: Either is so.
    """
    if (adapter / RECORD).exists():
        raise UsageError(f"{adapter} is a bundle already; use it as it is")
    if not (adapter / PEFT_CONFIG).is_file():
        raise UsageError(
            f"{adapter} holds no PEFT adapter: it has no {PEFT_CONFIG}; expected the folder that "
            "PEFT's save_pretrained wrote"
        )
    if bundle.exists():
        raise UsageError(f"{bundle} exists, and adopt overwrites nothing; choose another --output")
