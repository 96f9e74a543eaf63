"""Reads adapters that plain PEFT saved, and refuses those that no bundle can hold."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model, model_entrypoint

from vitlora.bundle.folder import PEFT_CONFIG, TENSORS
from vitlora.bundle.lora_options import check_known
from vitlora.errors import BundleError, UsageError, a_few, printable, shown

PREFIX = "base_model.model."
# Starts that only set A and B. All others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) also change the
# frozen weights, which PEFT does not save.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
_VIT = ".vision_transformer"  # timm's module of plain ViTs
_PLAIN = ("head", "patch_embed", "norm", "fc_norm", "attn_pool")  # parts of a ViT besides blocks
# Names of layers in libraries other than timm.
_STRANGERS = {
    r"(.*\.)?encoder_layer_\d+\..*|heads\..*": "a ViT of torchvision's",
    r"(.*\.)?resblocks\.\d+\..*": "a model of open_clip's",
    r"timm_model\..*": "a timm model inside Hugging Face transformers",
    r"model\.(.*\.)?layers\.\d+\..*": "a language model",
    r"(.*\.)?layers?\.\d+\..*|classifier\..*": "a model of Hugging Face transformers",
}


@dataclass(frozen=True)
class PeftAdapter:
    """A folder that PEFT's ``save_pretrained`` wrote.

    Attributes:
        folder: The folder.
        config: The contents of ``adapter_config.json``, for LoRA, rsLoRA or DoRA.
        tensors: PEFT's name -> tensor, each once.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: str | Path) -> "PeftAdapter":
        """Reads the adapter in a folder.

        Raises:
            BundleError: It is damaged, of an unsupported kind, or made for another library.
        """
        folder = Path(folder)
        adapter = cls(folder, _config(folder / PEFT_CONFIG), _tensors(folder))
        adapter._check_library()
        return adapter

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuses class names whose number differs from the head's outputs.

        Raises:
            UsageError: There are more or fewer names than outputs.
            BundleError: The adapter has no usable head.
        """
        head = self.tensors.get(f"{PREFIX}head.weight")
        if head is None:
            raise BundleError(
                f"{self.folder / TENSORS} holds no head ({PREFIX}head.weight), so it cannot say "
                "which class is which; train it with LoraConfig(..., modules_to_save=['head'])"
            )
        if head.ndim != 2:
            raise BundleError(
                f"{self.folder / TENSORS}: the head's weight is {tuple(head.shape)}; expected "
                f"({len(classes)}, width)"
            )
        if len(head) != len(classes):
            raise UsageError(
                f"--classes names {len(classes)} classes ({a_few(classes)}), but the adapter's "
                f"head has {len(head)} outputs"
            )

    def check_backbone(self, backbone: str) -> None:
        """Refuses a backbone other than the timm model that the adapter names, if it names one.

        Args:
            backbone: Id of the backbone, ``source/model.tag``.

        Raises:
            UsageError: The adapter names another model.
        """
        named = self.config.get("base_model_name_or_path")
        architecture, tag = _timm_model(named)
        ours, _, our_tag = backbone.partition("/")[2].partition(".")
        if is_model(architecture) and (architecture != ours or tag not in ("", our_tag)):
            raise UsageError(
                f"--backbone is {backbone}, but {self.folder / PEFT_CONFIG} says the adapter was "
                f"made for {printable(str(named))}"
            )

    def _check_library(self) -> None:
        """Refuses an adapter whose tensors have another library's names."""
        folder, named = self.folder, self.config.get("base_model_name_or_path")
        names = [name.removeprefix(PREFIX) for name in self.tensors]
        names = sorted(names, key=lambda name: (".lora_" not in name, name))  # LoRA layers first
        if any(name.startswith("blocks.") for name in names):
            return
        first = names[0].partition(".lora_")[0] if names else ""
        architecture = _timm_model(named)[0]
        if is_model(architecture) and not model_entrypoint(architecture).__module__.endswith(_VIT):
            raise BundleError(
                f"{folder} is an adapter for timm's {architecture}, which vitlora does not run: it "
                f"changes {shown(first)}; vitlora runs plain ViTs, whose layers are named like "
                "blocks.0.attn.qkv"
            )
        for pattern, library in _STRANGERS.items():
            for name in names:
                if re.fullmatch(pattern, name):
                    layer = shown(name.partition(".lora_")[0])
                    base = printable(str(named or ""))
                    raise BundleError(
                        f"{folder} is an adapter for {library}{f' ({base})' if base else ''}: it "
                        f"changes {layer}; adopt takes those for timm models, whose layers are "
                        "named like blocks.0.attn.qkv. Train it again on a timm model, as 'vitlora "
                        "fit' does"
                    )
        if any(".lora_" in name for name in names) and not first.startswith(_PLAIN):
            raise BundleError(
                f"{folder} changes {shown(first)}, which no plain timm ViT has; expected layers "
                "named like blocks.0.attn.qkv"
            )


def _config(path: Path) -> dict[str, Any]:
    """Reads ``adapter_config.json``, and refuses adapters that a bundle cannot hold."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}); save the adapter again") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        known = isinstance(config, dict)
        kind = shown(config.get("peft_type")) if known else f"a {type(config).__name__}"
        raise BundleError(f"{path} describes {kind}; expected LORA (LoRA, rsLoRA or DoRA)")
    if (start := config.get("init_lora_weights")) not in _STARTS:
        raise BundleError(
            f"{path}: the adapter started as {shown(start)}, which changed the base's weights too, "
            "and those are not here; save it again with PEFT's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...), which makes it plain LoRA"
        )
    try:
        check_known(config)
    except ValueError as error:
        raise BundleError(f"{path} {error}") from None
    return config


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        found = ", only adapter_model.bin, a pickle, which may run any code" if pickled else ""
        raise BundleError(
            f"{folder} has no {TENSORS}{found}; save the adapter with PEFT's "
            "save_pretrained(..., safe_serialization=True)"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise BundleError(f"{path} is torn or no safetensors file ({error})") from None
    # with bias="all", PEFT lists those of modules trained in full twice, and their copies'
    twice = (".modules_to_save.", ".original_module.")
    return {name: t for name, t in tensors.items() if not any(part in name for part in twice)}


def _timm_model(named: object) -> tuple[str, str]:
    """Returns the architecture and the tag of a model that PEFT names; each may be empty."""
    model = str(named or "").removeprefix("hf-hub:").removeprefix("timm/")
    architecture, _, tag = model.partition(".")
    return architecture, tag
