"""The ``merge`` command: a bundle and its base -> one file of plain timm weights, with proof."""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from timm.models import create_model
from torch import nn

from vitlora import parsers
from vitlora.backbones import Backbone
from vitlora.backbones.torchvision import ARCHITECTURES
from vitlora.bundle.checkpoint import Bundle, load_bundle
from vitlora.bundle.merging import bundle_backbone, merge_into
from vitlora.bundle.updates import Update, read_changes
from vitlora.data.datamodule import FolderData
from vitlora.data.value_range import range_text
from vitlora.errors import BundleError, DataError, VitloraError
from vitlora.evaluation.pictures import settle
from vitlora.evaluation.seen import seen
from vitlora.evaluation.training_folder import folder_of
from vitlora.files import draft, rename, write_through, write_whole
from vitlora.hardware import pick_device
from vitlora.quantization import Storage, dequantize

_BASES = {"trained": "as the adapter was trained on", "full": "in full precision"}
_MOST = 1e-3  # of the logits' spread; two exact merges in fp32 differ by a hundredth of it
_MARK = "vitlora"  # in the metadata of merged files


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


def main(args: Sequence[str] | None = None) -> int:
    """Merges a bundle into its base, proves it on the validation pictures, writes file and proof.

    Raises:
        UsageError: OUT exists, or cannot be written there.
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be had.
        DataError: There are no validation pictures.
        VitloraError: The merged file does not say what the adapter says.
    """
    options = parsers.merge(args)
    out, proof_file = options.out, options.proof
    bundle = load_bundle(options.checkpoint)
    data = _pictures(bundle, options.data)
    backbone = _base(bundle, options.weights)
    name, arguments = timm_arguments(backbone, len(bundle.record.classes))
    print(f"proving on the validation pictures of {data.folder.root} …")
    labels = torch.tensor([sample.label for sample in data.folder.splits["val"]])
    expected = _logits(_unmerged(backbone, bundle), data)
    if not torch.isfinite(expected).all():
        raise BundleError(f"{bundle.folder} answers with logits that are not finite; train again")
    proofs: dict[str, Proof] = {}
    with draft(out) as room:
        room.mkdir()
        drafts = {base: room / f"{base}.safetensors" for base in _BASES}
        for base in _BASES:
            if base == "full" and bundle.record.storage == Storage():  # nothing was rounded
                proofs[base], drafts[base] = proofs["trained"], drafts["trained"]
                continue
            _write(drafts[base], _base(bundle, options.weights), bundle, base)
            merged = create_model(name, **arguments, checkpoint_path=drafts[base])
            proofs[base] = _compare(expected, _logits(merged, data), labels)
        _check(proofs["trained"])
        write_whole(proof_file, _to_json(options, bundle, data, proofs, name, arguments))
        rename(drafts[options.base], out)
    _report(out, proof_file, options.base, proofs, len(labels))
    print(
        f"\nnetwork   timm.create_model({_call([name], arguments | {'checkpoint_path': str(out)})})"
    )
    view = asdict(bundle.record.preprocessing)
    value_range = view.pop("value_range")
    view = {"input_size": view.pop("image_size"), **view}
    print(f"pictures  timm.data.create_transform({_call([], view)})")
    if value_range is not None:
        print(
            f"          files deeper than 8 bits: {range_text(value_range)} become 0 to 255 first"
        )
    return 0


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


def _pictures(bundle: Bundle, root: str | None) -> FolderData:
    """Returns the validation split of training, or that of another folder."""
    data, record = folder_of(bundle, root), bundle.record
    note = settle(bundle, data, "val") if bundle.usage is not None else None
    if (
        note is None
        and not data.recalled
        and data.digest("val") != record.split["digests"].get("val")
    ):
        if root is None:
            groups = (
                ", or data.groups changed" if record.split.get("drawn", {}).get("groups") else ""
            )
            raise DataError(
                f"the validation pictures in {data.folder.root} are not those of training: some "
                f"were added, removed or renamed{groups}; pass --data DIR, a folder with pictures "
                "of the same classes"
            )
        note = f"these are not the validation pictures of training: {root}"
    if note:
        print(f"note: {note}")
    for line in seen(bundle, data.folder.splits.get("val", ())).notes("val"):
        print(f"warning: {line}")
    data.setup("validate")
    return data


def _base(bundle: Bundle, weights: str | None) -> Backbone:
    """Returns a fresh copy of the base a bundle was trained on, in full precision."""
    try:
        backbone = bundle_backbone(bundle, weights)
        if bundle.record.method != "FullFineTuning":
            bundle.check_base(backbone.digest)
    except VitloraError:
        file = weights or bundle.weights
        if file and _MARK in _metadata(Path(file)):
            raise BundleError(
                f"{file} is no base of {bundle.folder}: 'vitlora merge' wrote it, and an adapter "
                f"is in it already; pass the weights {bundle.record.backbone} came with"
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


@torch.inference_mode()
def _logits(network: nn.Module, data: FolderData) -> torch.Tensor:
    """Returns the logits ``(N, classes)`` of the validation pictures, on the CPU."""
    device = pick_device()
    network.to(device).eval()
    return torch.cat([network(images.to(device)).cpu() for images, _ in data.val_dataloader()])


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
    if not proof.relative_gap <= _MOST:  # also where it is no number
        raise VitloraError(
            f"the merged file is wrong: its logits are up to {proof.relative_gap:.2g} of their "
            f"spread away from the unmerged network's, expected {_MOST:g} at most; nothing was "
            "written. This is a bug in vitlora"
        )


def _to_json(
    options: argparse.Namespace,
    bundle: Bundle,
    data: FolderData,
    proofs: Mapping[str, Proof],
    name: str,
    arguments: Mapping[str, Any],
) -> str:
    record = bundle.record
    fields = {
        "file": Path(options.out).name,
        "checkpoint": str(bundle.folder),
        "backbone": record.backbone,
        "storage": asdict(record.storage),
        "base": options.base,
        "timm": {"name": name, **arguments},
        "classes": record.classes,
        "preprocessing": asdict(record.preprocessing),
        "pictures": {"root": str(data.folder.root), "count": sum(data.folder.counts("val"))},
        "proof": {base: asdict(proof) for base, proof in proofs.items()},
    }
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def _report(
    out: Path, proof_file: Path, base: str, proofs: Mapping[str, Proof], pictures: int
) -> None:
    print(f"\nmerged    {out}  ({out.stat().st_size:,} bytes), the base {_BASES[base]}")
    print(f"proof     {proof_file}, on {pictures} pictures, against the unmerged network\n")
    print("merged into the base            largest logit gap  of spread  accuracy before   after")
    for key, proof in proofs.items():
        print(
            f"{_BASES[key]:<30}  {proof.largest_gap:17.2e}  {proof.relative_gap:9.1e}"
            f"  {proof.accuracy_before:15.4f}  {proof.accuracy_after:.4f}"
        )


def _call(words: Sequence[str], keywords: Mapping[str, Any]) -> str:
    """Returns arguments as Python has them."""
    shown = [f"{key}={_quoted(value)}" for key, value in keywords.items()]
    return ", ".join([*map(_quoted, words), *shown])


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
