"""A bundle and its base -> one file of plain timm weights, and the proof that it is right."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from timm.models import create_model
from torch import nn

from vitlora.backbones import Backbone
from vitlora.backbones.torchvision import ARCHITECTURES
from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.merging import bundle_backbone, merge_into
from vitlora.bundle.updates import Update, read_changes
from vitlora.errors import BundleError, VitloraError
from vitlora.files import draft, rename, write_through
from vitlora.quantization import Storage, dequantize

BASES = {"trained": "as the adapter was trained on", "full": "in full precision"}
_MOST = 1e-3  # of the logits' spread; two exact merges in fp32 differ by a hundredth of it
_MARK = "vitlora"  # in the metadata of merged files

# a network's logits (N, classes) for N pictures, always the same, and their labels (N,)
Ask = Callable[[nn.Module], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Proof:
    """What merging changed, over all validation pictures.

    Attributes:
        largest_gap: Between a logit of the unmerged network and of the merged one.
        relative_gap: The same, over the standard deviation of the unmerged network's logits.
        accuracy_before: Of the unmerged network, in ``[0, 1]``.
        accuracy_after: Of the merged one, in ``[0, 1]``.
    """

    largest_gap: float
    relative_gap: float
    accuracy_before: float
    accuracy_after: float


@dataclass(frozen=True)
class Merged:
    """Merged weights that were proved.

    Attributes:
        timm: Arguments of ``timm.create_model``, the model's name under ``name``.
        proofs: For each key of ``BASES``.
        pictures: How many they rest on.
        size: Of the file, bytes.
    """

    timm: dict[str, Any]
    proofs: dict[str, Proof]
    pictures: int
    size: int


@contextmanager
def merged_file(
    bundle: Bundle,
    file: Path,
    ask: Ask,
    weights: str | Path | None = None,
    base: str = "trained",
) -> Iterator[Merged]:
    """Merges a bundle into its base and proves it; the file is there when the ``with`` ends.

    After an error, also one inside the ``with``, there is no file.

    Args:
        bundle: The bundle.
        file: Of the weights.
        ask: Returns what a plain ViT says of the validation pictures, in fp32, and their labels.
        weights: File of the base's weights; None looks where training found them.
        base: What to merge into, a key of ``BASES``.

    Raises:
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be found.
        VitloraError: The merged weights do not say what the adapter says.
    """
    backbone = plain_base(bundle, weights)
    name, arguments = timm_arguments(backbone, len(bundle.record.classes))
    expected, labels = ask(_unmerged(backbone, bundle))
    if not torch.isfinite(expected).all():
        raise BundleError(f"{bundle.folder} answers with logits that are not finite; train again")
    proofs: dict[str, Proof] = {}
    with draft(file) as room:
        room.mkdir()
        drafts = {key: room / f"{key}.safetensors" for key in BASES}
        for key in BASES:
            if key == "full" and bundle.record.storage == Storage():  # nothing was rounded
                proofs[key], drafts[key] = proofs["trained"], drafts["trained"]
                continue
            _write(drafts[key], plain_base(bundle, weights), bundle, key)
            network = create_model(name, **arguments, checkpoint_path=drafts[key])
            proofs[key] = _compare(expected, ask(network)[0], labels)
        _check(proofs["trained"])
        size = drafts[base].stat().st_size
        yield Merged({"name": name, **arguments}, proofs, len(labels), size)
        rename(drafts[base], file)


def timm_arguments(backbone: Backbone, num_classes: int) -> tuple[str, dict[str, Any]]:
    """Returns what ``timm.create_model`` wants to build a backbone's architecture.

    Args:
        backbone: At the image size it is used with.
        num_classes: Outputs of the head.
    """
    module: Any = backbone.module
    source, _, name = backbone.id.partition("/")
    size = backbone.preprocessing.image_size
    arguments: dict[str, Any] = {"num_classes": num_classes, "img_size": size}
    if source == "timm":
        return name, arguments
    if source == "torchvision":
        return ARCHITECTURES[name.partition(".")[0]], arguments
    # timm has no name for vitlora's own, but takes the shape of any of its plain ViTs
    return "vit_tiny_patch16_224", arguments | {
        "patch_size": module.patch_embed.patch_size[0],
        "embed_dim": module.embed_dim,
        "depth": backbone.num_blocks,
        "num_heads": module.blocks[0].attn.num_heads,
    }


def plain_base(bundle: Bundle, weights: str | Path | None = None) -> Backbone:
    """Returns a fresh copy of the base a bundle was trained on, in full precision.

    Raises:
        BundleError: The weights are not those of training, or were merged already.
        BackboneError: The weights cannot be found.
    """
    try:
        backbone = bundle_backbone(bundle, weights)
        if bundle.record.method != "FullFineTuning":
            bundle.check_base(backbone.digest)
    except VitloraError:
        file = weights or bundle.weights
        if file and _MARK in _metadata(Path(file)):
            raise BundleError(
                f"{file} is not a base of {bundle.folder}: 'vitlora merge' wrote it, and an "
                f"adapter is in it already; pass the weights {bundle.record.backbone} came with"
            ) from None
        raise
    return backbone


def _metadata(file: Path) -> dict[str, str]:
    with suppress(OSError, SafetensorError), safe_open(file, "pt") as opened:
        return opened.metadata() or {}
    return {}


def _unmerged(backbone: Backbone, bundle: Bundle) -> nn.Module:
    """Returns the network as it was trained: the updates stand beside the layers, as in training.

    The judge of the merge: it shares no arithmetic with it.
    """
    module = backbone.module
    changes = read_changes(bundle, module)
    dequantize(module, bundle.record.storage)
    module.load_state_dict(changes.tensors, strict=False)  # read_changes has checked the names
    for path, update in changes.updates.items():
        _add_beside(module.get_submodule(path), update)
    return module


def _add_beside(layer: Any, update: Update) -> None:
    """Makes a linear layer return ``x W' + scaling * x A' B'``, plus bias; DoRA's gain times it."""
    gain = None
    if update.magnitude is not None:
        both = layer.weight.double() + update.scaling * (update.b.double() @ update.a.double())
        gain = (update.magnitude.double() / both.square().sum(1).sqrt()).float()

    def beside(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        x = inputs[0]
        low = F.linear(F.linear(x, update.a.to(x.device)), update.b.to(x.device))
        if gain is None:
            return output + update.scaling * low
        bias = 0 if layer.bias is None else layer.bias
        return gain.to(x.device) * (output - bias + update.scaling * low) + bias

    layer.register_forward_hook(beside)


def _write(file: Path, backbone: Backbone, bundle: Bundle, base: str) -> None:
    """Writes the merged weights; the metadata says what they are."""
    record = bundle.record
    kept = replace(record, storage=Storage()) if base == "full" else record
    merged = merge_into(backbone, replace(bundle, record=kept))
    metadata = {
        "format": "pt",
        _MARK: "merged",
        "backbone": record.backbone,
        "base": base,
        "base_digest": record.base_digest,
        "bundle_digest": bundle.digest,
        "classes": json.dumps(record.classes),
        "preprocessing": json.dumps(asdict(record.preprocessing)),
    }
    tensors = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    # save_file would keep others from reading it
    write_through(file, dump_tensors(tensors, metadata))


def _compare(expected: torch.Tensor, got: torch.Tensor, labels: torch.Tensor) -> Proof:
    gap = float((got - expected).abs().max())
    before, after = (float((x.argmax(1) == labels).double().mean()) for x in (expected, got))
    return Proof(gap, gap / max(float(expected.std()), 1e-12), before, after)


def _check(proof: Proof) -> None:
    """Refuses a file whose logits are not the adapter's."""
    if not proof.relative_gap <= _MOST:  # also where it is not a number
        raise VitloraError(
            f"the merged file is wrong: its logits are up to {proof.relative_gap:.2g} of their "
            f"spread away from the unmerged network's, expected {_MOST:g} at most; nothing was "
            "written. This is a bug in vitlora"
        )
