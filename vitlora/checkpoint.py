"""The adapter bundle: a folder of a few small files, written atomically, verified on load.

``adapter_model.safetensors`` and ``adapter_config.json`` are PEFT's own formats; ``vitlora.json``
says which base they belong to and what the outputs mean; ``config.yaml`` repeats the run. No file
holds a base weight, and none is a pickle.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from vitlora import __version__
from vitlora.confidence import Confidence, Reference
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError
from vitlora.quantization import Storage

FORMAT = 1
RECORD = "vitlora.json"
TENSORS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
RUN_CONFIG = "config.yaml"
REFERENCE = "reference.safetensors"
CARD = "README.md"
FILES = (RECORD, TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE, CARD)


@dataclass(frozen=True)
class Record:
    """What ``vitlora.json`` says.

    Attributes:
        backbone: ``source/model.tag``.
        base_digest: SHA-256 of the base's weights, the head left out.
        weights: The file training read them from; ``none`` for a random start.
        storage: How the frozen base was kept.
        method: Name of the adapter class.
        head: ``full`` or ``lora``.
        classes: Names in the order of the outputs.
        preprocessing: What a picture goes through.
        split: The data's root, counts and split.
        metrics: Validation numbers of the epoch that was kept.
        confidence: What validation taught about its confidence; None before it did.
        created: UTC, ISO 8601.
        libraries: Versions the bundle was made with.
        parent: First 16 digits of the digest of the bundle that training went on from, if any.
    """

    backbone: str
    base_digest: str
    weights: str
    storage: Storage
    method: str
    head: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split: dict[str, Any]
    metrics: dict[str, float]
    confidence: Confidence | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    libraries: dict[str, str] = field(default_factory=lambda: _library_versions())
    parent: str | None = None


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        folder: Where it was read.
        record: What ``vitlora.json`` says.
        tensors: Adapter and head, on the CPU.
        peft: What ``adapter_config.json`` says; None where the bundle has no LoRA.
        reference: Where the training pictures lie; None where ``record.confidence`` is.
    """

    folder: Path
    record: Record
    tensors: dict[str, torch.Tensor]
    peft: dict[str, Any] | None
    reference: Reference | None = None

    @property
    def weights(self) -> str | None:
        """Where training found the base's weights; None if they are there no more."""
        known = self.record.weights
        there = not is_network_path(known) and Path(known).is_file()
        return known if known == "none" or there else None

    def check_base(self, digest: str) -> None:
        """Refuses base weights that are not those of training.

        Raises:
            BundleError: The digest is another.
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
) -> None:
    """Writes a bundle; whatever interrupts that, the folder still loads as the old one or the new.

    All files are written under other names first. Renaming ``vitlora.json`` is what makes the new
    bundle count: a file that was not renamed after that is read under its other name. The card is
    for people: it may be edited, so no sum is kept of it.

    Args:
        folder: Where it goes.
        record: What ``vitlora.json`` says.
        tensors: Adapter and head.
        peft: What ``adapter_config.json`` says, if anything.
        run_config: The resolved run as YAML.
        card: The model card, Markdown, if there is to be one.
        reference: Where the training pictures lie, if that is known.
    """
    files = {TENSORS: dump_tensors({k: v.cpu().contiguous() for k, v in tensors.items()})}
    if peft is not None:
        files[PEFT_CONFIG] = (json.dumps(peft, indent=0, sort_keys=True) + "\n").encode()
    files[RUN_CONFIG] = run_config.encode()
    if reference is not None:
        files[REFERENCE] = dump_tensors(reference.tensors())
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    fields = {"format": FORMAT, **asdict(record), "files": sums}
    if record.parent is None:
        del fields["parent"]
    if record.preprocessing.value_range is None:
        del fields["preprocessing"]["value_range"]
    fields["digest"] = _fields_digest(fields)
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, separators=(',', ':'))}"
        for k, v in fields.items()
    ]
    files[RECORD] = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    if card is not None:
        files[CARD] = card.encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write_through(folder / f".{name}.new", content)
    for name in sorted(files, key=lambda name: name != RECORD):
        (folder / f".{name}.new").replace(folder / name)


def load_bundle(folder: str | Path) -> Bundle:
    """Returns a bundle after checking every byte of it.

    Raises:
        BundleError: No bundle is there, or it is torn, was changed, or is of another format.
    """
    folder = Path(folder)
    fields = _read_record(folder)
    contents = _read_files(folder, fields)
    learnt = fields.get("confidence")  # older bundles have none
    try:
        tensors = load_tensors(contents[TENSORS])
        peft = json.loads(contents[PEFT_CONFIG]) if PEFT_CONFIG in contents else None
        reference = (
            None if learnt is None else Reference.from_tensors(load_tensors(contents[REFERENCE]))
        )
        names = Record.__dataclass_fields__.keys() - {"confidence", "parent"}
        record = Record(
            **{
                **{name: fields[name] for name in names},
                "confidence": None if learnt is None else Confidence.from_json(learnt),
                "storage": Storage(**fields["storage"]),
                "classes": tuple(_list(fields["classes"])),
                "preprocessing": Preprocessing.from_json(fields["preprocessing"]),
                "parent": fields.get("parent"),
            }
        )
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"{folder} is torn or no bundle of vitlora's ({type(error).__name__}: {error}); train "
            "again"
        ) from None
    problem = _malformed(record, peft)
    if problem:
        raise BundleError(f"{folder} is no bundle of vitlora's: {problem}; train again")
    return Bundle(folder, record, tensors, peft, reference)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return value


def _malformed(record: Record, peft: Any) -> str | None:
    """Returns what is wrong with fields whose sums are right: a bundle may come from anywhere."""
    if not all(isinstance(name, str) for name in record.classes) or len(record.classes) < 2:
        return "classes holds no names"
    if not {"root", "counts", "digests"} <= record.split.keys():
        return "split is incomplete"
    if peft is not None and not isinstance(peft, dict):
        return f"{PEFT_CONFIG} holds no fields"
    return None


def bundle_digest(folder: Path) -> str:
    """Returns the SHA-256 that a bundle's record gives itself.

    Raises:
        BundleError: As ``load_bundle``.
    """
    return _fields_digest(_read_record(folder))


def is_network_path(path: str) -> bool:
    """Returns whether a path, chosen by a stranger, could make Windows log in to a server."""
    return path.replace("\\", "/").startswith("//")


def newest_bundle(root: str | Path = "checkpoints") -> Path:
    """Returns the folder of the bundle written last, anywhere under ``root``.

    Raises:
        BundleError: There is none.
    """
    found = sorted(Path(root).rglob(RECORD), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise BundleError(
            f"no trained adapter under {Path(root).resolve()}; train one with "
            "'python -m vitlora fit --config demo.yaml', or name one with --checkpoint DIR"
        )
    return found[-1].parent


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder claims to hold a bundle."""
    return (folder / RECORD).is_file()


def bundle_bytes(folder: Path) -> int:
    """Returns the size of a bundle's files in bytes; the card, for people, does not count."""
    paths = [folder / name for name in FILES if name != CARD]
    return sum(path.stat().st_size for path in paths if path.exists())


def _read_record(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        kind = "is a file; expected the bundle's folder" if folder.exists() else "no such folder"
        raise BundleError(f"checkpoint '{folder}': {kind}")
    if not is_bundle(folder):
        kind = "a PEFT adapter" if (folder / PEFT_CONFIG).exists() else "no vitlora bundle"
        todo = "; 'vitlora adopt' makes a bundle of it" if "PEFT" in kind else ""
        raise BundleError(f"{folder} holds {kind}: it has no {RECORD}{todo}")
    try:
        fields = json.loads((folder / RECORD).read_text("utf-8"))
        digest = fields.pop("digest")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise BundleError(f"{folder / RECORD} is torn or not a bundle's; train again") from None
    if fields.get("format") != FORMAT:
        raise BundleError(
            f"{folder} is a bundle of format {fields.get('format')!r}; this vitlora reads format "
            f"{FORMAT}. Install a newer vitlora"
        )
    known = {TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE}
    files = fields.get("files")
    if digest != _fields_digest(fields) or not isinstance(files, dict) or files.keys() - known:
        raise BundleError(f"{folder / RECORD} was changed after it was written; train again")
    return fields


def read_contents(folder: Path) -> dict[str, bytes]:
    """Returns the checked bytes of all that a bundle's record sums up, and of the record.

    Raises:
        BundleError: As ``load_bundle``.
    """
    record = (folder / RECORD).read_bytes() if is_bundle(folder) else b""
    return {RECORD: record, **_read_files(folder, _read_record(folder))}


def _read_files(folder: Path, fields: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: _read_checked(folder / name, digest) for name, digest in fields["files"].items()}


def _read_checked(path: Path, digest: str) -> bytes:
    candidates = [p for p in (path, path.with_name(f".{path.name}.new")) if p.is_file()]
    if not candidates:
        raise BundleError(f"{path.parent} is torn: {path.name} is missing; train again")
    for candidate in candidates:
        content = candidate.read_bytes()
        if hashlib.sha256(content).hexdigest() == digest:
            return content
    raise BundleError(
        f"{path} was truncated or changed after it was written; train again or restore it"
    )


def _fields_digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _library_versions() -> dict[str, str]:
    versions = {"vitlora": __version__}
    for name in ("torch", "timm", "peft", "bitsandbytes"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
