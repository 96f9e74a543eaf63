"""The adapter bundle: a folder of a few small files, written atomically, verified on load.

``adapter_model.safetensors`` and ``adapter_config.json`` have PEFT's own formats. ``vitlora.json``
records the base and the meaning of the outputs, ``config.yaml`` the options of the run. No file
holds base weights (after full fine-tuning, all weights are the adapter's), and none is a pickle.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from vitlora.arguments import checked
from vitlora.bundle.folder import (
    CARD,
    FILES,
    PEFT_CONFIG,
    PICTURES,
    RECORD,
    REFERENCE,
    RUN_CONFIG,
    TENSORS,
)
from vitlora.bundle.lora_options import LoraOptions
from vitlora.bundle.plain import check_texts
from vitlora.bundle.record import Record, is_network_path
from vitlora.bundle.transaction import (
    FORMAT,
    fields_digest,
    finish_save,
    pending_path,
    read_files,
    read_record,
    write_pending,
)
from vitlora.data.usage import Usage
from vitlora.errors import BundleError, UsageError, printable
from vitlora.files import alone_in, rename
from vitlora.metrics.judge import Judge
from vitlora.metrics.reference import Reference

_MOST_VALUES = 10**6  # in config.yaml; with YAML's aliases, a few lines can expand without bound


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        folder: The folder it was read from.
        record: The contents of ``vitlora.json``.
        tensors: Adapter and head, on the CPU.
        peft: The contents of ``adapter_config.json``; None if the bundle has no LoRA.
        reference: The training pictures in feature space; None before calibration.
        usage: What each picture was used for; None in older and in adopted bundles.
        config: The text of ``config.yaml``, the resolved run.
        digest: SHA-256 of the record, from ``vitlora.json``.

    Examples:
        >>> bundle = load_bundle("checkpoints/waste5")
        >>> bundle.record.classes
        ('can', 'glass')
        >>> bundle.record.method, bundle.judge.classes == bundle.record.classes
        ('Lora', True)
    """

    folder: Path
    record: Record
    tensors: dict[str, torch.Tensor] = field(repr=False)
    peft: dict[str, Any] | None = field(repr=False)
    reference: Reference | None = field(default=None, repr=False)
    usage: Usage | None = field(default=None, repr=False)
    config: str = field(default="", repr=False)
    digest: str = ""

    @property
    def weights(self) -> str | None:
        """The file training read the base's weights from; None if it is gone."""
        known = self.record.weights
        there = not is_network_path(known) and Path(known).is_file()
        return known if known == "none" or there else None

    @property
    def judge(self) -> Judge:
        """The judge that turns the network's features and logits into answers."""
        return Judge(self.record.classes, self.record.confidence, self.reference)

    def run(self) -> dict[str, Any]:
        """Returns ``config`` as plain values; nothing is imported or run.

        Raises:
            BundleError: It is not YAML, not a mapping, or too large.
        """
        try:
            run = yaml.safe_load(self.config)
            if not isinstance(run, dict):
                raise TypeError(f"expected keys and values, got {type(run).__name__}")
            _check_size(run)
        except Exception as error:  # PyYAML raises many kinds of errors for malformed scalars
            said = printable(" ".join(str(error).split()))
            raise BundleError(
                f"{self.folder / RUN_CONFIG} describes no run ({type(error).__name__}: {said})"
            ) from None
        return run

    def lora(self) -> LoraOptions | None:
        """Returns the options of the low-rank updates; None if the bundle has none.

        Raises:
            BundleError: ``peft`` holds an invalid value.
        """
        try:
            return None if self.peft is None else LoraOptions.from_json(self.peft)
        except ValueError as error:
            raise BundleError(f"{self.folder / PEFT_CONFIG}: {error}") from None

    def card(self) -> str | None:
        """Returns the model card, which people may have edited; None if there is none."""
        for path in (pending_path(self.folder / CARD, self.digest), self.folder / CARD):
            with suppress(FileNotFoundError):
                return path.read_text("utf-8", errors="surrogateescape")
        return None

    def check_base(self, digest: str) -> None:
        """Refuses base weights that are not those of training.

        Raises:
            BundleError: The digest differs.
        """
        if digest != self.record.base_digest:
            raise BundleError(
                f"{self.folder} was trained on other weights of {self.record.backbone} than these "
                f"(expected digest {self.record.base_digest[:12]}, got {digest[:12]}); pass the "
                "right file with --weights"
            )


def save_bundle(
    folder: Path,
    record: Record,
    tensors: Mapping[str, torch.Tensor],
    peft: Mapping[str, Any] | None,
    run_config: str,
    card: str | None = None,
    reference: Reference | None = None,
    usage: Usage | None = None,
    replaces: str | None = None,
) -> None:
    """Writes a bundle; whatever interrupts that, the folder still loads as the old one or the new.

    All files are written under pending names first, which carry their digests. Renaming
    ``vitlora.json``, which lists the digests, is what makes the new bundle count: it says which
    pending files are its own, and they are read under those names until they have been renamed. An
    earlier save that was interrupted there is finished first. The card is for people: it may be
    edited, so no sum is kept of it; its pending name carries the digest of ``vitlora.json``.

    Args:
        folder: Where it goes.
        record: What ``vitlora.json`` says.
        tensors: Adapter and head.
        peft: What ``adapter_config.json`` says, if anything.
        run_config: The resolved run as YAML.
        card: The model card, Markdown, if there is to be one.
        reference: Where the training pictures lie, if that is known.
        usage: What training did with which picture, if that is known.
        replaces: Digest of the bundle that must lie there, if one must.

    Raises:
        BundleError: Another bundle than ``replaces`` lies there, or the record holds a text with
            control characters.
    """
    files = {TENSORS: dump_tensors({k: v.cpu().contiguous() for k, v in tensors.items()})}
    if peft is not None:
        files[PEFT_CONFIG] = (json.dumps(peft, indent=0, sort_keys=True) + "\n").encode()
    files[RUN_CONFIG] = run_config.encode()
    if reference is not None:
        files[REFERENCE] = dump_tensors(reference.tensors())
    if usage is not None:
        files[PICTURES] = usage.to_bytes()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    try:
        fields = {"format": FORMAT, **record.to_json(), "files": sums}
    except ValueError as error:
        raise BundleError(f"{folder} could not be read again: {error}") from None
    fields["digest"] = fields_digest(fields)
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}"
        for k, v in fields.items()
    ]
    files[RECORD], sums[RECORD] = ("{\n" + ",\n".join(lines) + "\n}\n").encode(), fields["digest"]
    if card is not None:
        files[CARD], sums[CARD] = card.encode("utf-8", "surrogateescape"), fields["digest"]
    pending = {name: pending_path(folder / name, digest) for name, digest in sums.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        finish_save(folder)
        if replaces is not None and read_record(folder)[1]["digest"] != replaces:
            raise BundleError(
                f"{folder} was written anew since it was read, and the newer bundle is kept; do "
                "this again"
            )
        write_pending(folder, files, pending)
        rename(pending[RECORD], folder / RECORD)
        finish_save(folder)


@checked
def load_bundle(folder: str | Path) -> Bundle:
    """Reads a bundle and checks every byte of it.

    Examples:
        >>> load_bundle("checkpoints/waste5").record.backbone
        'vitlora/vit_micro_patch8_96'

    Raises:
        BundleError: There is no bundle, or it is damaged, was changed, or has another format.
    """
    return read_bundle(folder)[0]


def read_bundle(folder: str | Path) -> tuple[Bundle, dict[str, bytes]]:
    """Returns a bundle, and file name -> bytes of the files it was read from.

    Raises:
        BundleError: As ``load_bundle``.
    """
    folder = Path(folder)
    fields, contents = read_files(folder)
    try:
        check_texts(fields)
        tensors = load_tensors(contents[TENSORS])
        check_texts(list(tensors))
        peft = json.loads(contents[PEFT_CONFIG]) if PEFT_CONFIG in contents else None
        reference = None
        if fields.get("confidence") is not None:
            reference = Reference.from_tensors(load_tensors(contents[REFERENCE]))
        usage = Usage.from_bytes(contents[PICTURES]) if PICTURES in contents else None
        config = contents[RUN_CONFIG].decode("utf-8")
        record = Record.from_json(fields)
    except (
        *(KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError),
        *(SafetensorError, UsageError),
    ) as error:
        said = printable(" ".join(str(error).split()))
        raise BundleError(
            f"{folder} is torn or no bundle of vitlora's ({type(error).__name__}: {said}); train "
            "again"
        ) from None
    bundle = Bundle(folder, record, tensors, peft, reference, usage, config, fields["digest"])
    bundle.lora()
    return bundle, contents


def bundle_bytes(folder: Path) -> int:
    """Returns the size of a bundle's files in bytes, without the card."""
    paths = [folder / name for name in FILES if name != CARD]
    return sum(path.stat().st_size for path in paths if path.exists())


def _check_size(run: object) -> None:
    """Refuses values that would exhaust the memory: YAML's aliases can repeat each other."""
    waiting, seen = [run], 1
    while waiting:
        value = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(parts, list | tuple | set):
            seen += len(parts)
            if seen > _MOST_VALUES:
                raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
            waiting += parts
