"""The adapter bundle: a folder of a few small files, written atomically, verified on load.

``adapter_model.safetensors`` and ``adapter_config.json`` are PEFT's own formats; ``vitlora.json``
says which base they belong to and what the outputs mean; ``config.yaml`` repeats the run. No file
holds a base weight, and none is a pickle.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from vitlora import __version__
from vitlora.bundle.folder import PEFT_CONFIG, RECORD, check_there
from vitlora.bundle.lora_options import LoraOptions
from vitlora.bundle.plain import is_a
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.usage import Usage
from vitlora.errors import BundleError, UsageError, printable, shown
from vitlora.files import alone_in, is_draft, keep_names, rename, write_through
from vitlora.metrics.confidence import Confidence, Reference
from vitlora.metrics.judge import Judge
from vitlora.quantization import Storage

FORMAT = 1
TENSORS = "adapter_model.safetensors"
RUN_CONFIG = "config.yaml"
REFERENCE = "reference.safetensors"
PICTURES = "pictures.safetensors"
CARD = "README.md"
FILES = (RECORD, TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE, PICTURES, CARD)
_SUMMED = (TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE, PICTURES)
# a pending file bears a digest; those of older versions of vitlora did not
_PENDING = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})(\.[0-9a-f]{{16}})?\.new")
_MOST_NUMBER = 2**63
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_DRAWN = {
    **{"val": float, "test": float, "seed": int, "folds": int, "fold": int},
    **{"groups": str, "resplit": bool},
}
# of one line; a folder's path has at most as many characters
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,4096}")
_MOST_VALUES = 10**6  # in config.yaml; a few lines of YAML can stand for more than memory holds
_TRIES = 10  # to read a bundle that others are writing


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
        usage: What training did with which picture; None in older bundles and adopted ones.
        config: The resolved run, the text of ``config.yaml``.
        digest: SHA-256 that ``vitlora.json`` gives itself.
    """

    folder: Path
    record: Record
    tensors: dict[str, torch.Tensor]
    peft: dict[str, Any] | None
    reference: Reference | None = None
    usage: Usage | None = None
    config: str = ""
    digest: str = ""

    @property
    def weights(self) -> str | None:
        """Where training found the base's weights; None if they are gone."""
        known = self.record.weights
        there = not is_network_path(known) and Path(known).is_file()
        return known if known == "none" or there else None

    @property
    def judge(self) -> Judge:
        """What makes answers of its network's features and logits."""
        return Judge(self.record.classes, self.record.confidence, self.reference)

    def run(self) -> dict[str, Any]:
        """Returns what ``config`` says, as YAML's plain values: nothing is imported or run.

        Raises:
            BundleError: It is no YAML, or no mapping.
        """
        try:
            run = yaml.safe_load(self.config)
            if not isinstance(run, dict):
                raise TypeError(f"expected keys and values, got {type(run).__name__}")
            _check_size(run)
        except Exception as error:  # PyYAML raises whatever a malformed scalar makes it
            said = printable(" ".join(str(error).split()))
            raise BundleError(
                f"{self.folder / RUN_CONFIG} describes no run ({type(error).__name__}: {said})"
            ) from None
        return run

    def lora(self) -> LoraOptions | None:
        """Returns what ``peft`` says of the low-rank updates; None where the bundle has none.

        Raises:
            BundleError: It says what cannot be.
        """
        try:
            return None if self.peft is None else LoraOptions.from_json(self.peft)
        except ValueError as error:
            raise BundleError(f"{self.folder / PEFT_CONFIG}: {error}") from None

    def card(self) -> str | None:
        """Returns the model card, which people may have edited; None where there is none."""
        for path in (_pending(self.folder / CARD, self.digest), self.folder / CARD):
            with suppress(FileNotFoundError):
                return path.read_text("utf-8", errors="surrogateescape")
        return None

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
        _check_texts(asdict(record))
    except ValueError as error:
        raise BundleError(f"{folder} could not be read again: {error}") from None
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
    files[RECORD], sums[RECORD] = ("{\n" + ",\n".join(lines) + "\n}\n").encode(), fields["digest"]
    if card is not None:
        files[CARD], sums[CARD] = card.encode("utf-8", "surrogateescape"), fields["digest"]
    pending = {name: _pending(folder / name, digest) for name, digest in sums.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        _settle(folder)
        if replaces is not None and _read_record(folder)[1]["digest"] != replaces:
            raise BundleError(
                f"{folder} was written anew since it was read, and the newer bundle is kept; do "
                "this again"
            )
        for name, content in files.items():
            write_through(pending[name], content)
        keep_names(folder)
        rename(pending[RECORD], folder / RECORD)
        _settle(folder)


def load_bundle(folder: str | Path) -> Bundle:
    """Returns a bundle after checking every byte of it.

    Raises:
        BundleError: No bundle is there, or it is torn, was changed, or is of another format.
    """
    return read_bundle(folder)[0]


def read_bundle(folder: str | Path) -> tuple[Bundle, dict[str, bytes]]:
    """Returns a bundle and the bytes it was read from, by the names of their files.

    Raises:
        BundleError: As ``load_bundle``.
    """
    folder = Path(folder)
    fields, contents = _read_files(folder)
    learnt = fields.get("confidence")  # older bundles have none
    try:
        _check_texts(fields)
        tensors = load_tensors(contents[TENSORS])
        _check_texts(list(tensors))
        peft = json.loads(contents[PEFT_CONFIG]) if PEFT_CONFIG in contents else None
        reference = (
            None if learnt is None else Reference.from_tensors(load_tensors(contents[REFERENCE]))
        )
        usage = Usage.from_bytes(contents[PICTURES]) if PICTURES in contents else None
        config = contents[RUN_CONFIG].decode("utf-8")
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
        _check_record(record)
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


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {shown(value)}")
    return value


def _check_record(record: Record) -> None:
    """Refuses values that make no sense though their sums are right: anyone may have written them.

    Raises:
        ValueError: One does not.
    """
    split, drawn = record.split, record.split.get("drawn", {})
    if not {"root", "counts", "digests"} <= split.keys():
        raise ValueError("split is incomplete")
    expected = {
        **{n: (getattr(record, n), str) for n in ("backbone", "base_digest", "weights", "created")},
        **{n: (getattr(record, n), str) for n in ("method", "head")},
        **{f"metrics {n}": (value, float) for n, value in record.metrics.items()},
        **{f"libraries {n}": (value, str) for n, value in record.libraries.items()},
        **{f"classes {i}": (value, str) for i, value in enumerate(record.classes)},
        "parent": ("" if record.parent is None else record.parent, str),
        "split root": (split["root"], str),
        **{f"split digests {n}": (value, str) for n, value in split["digests"].items()},
        **{
            f"split counts {n}": (count, int)
            for n, counts in split["counts"].items()
            for count in _list(counts)
        },
        **{f"split drawn {n}": (drawn[n], kind) for n, kind in _DRAWN.items() if n in drawn},
    }
    for name, (value, kind) in expected.items():
        if not is_a(value, kind) or (kind in (int, float) and not abs(value) < _MOST_NUMBER):
            raise ValueError(f"{name} is {shown(value)}; expected {_KINDS[kind]}")
    if len(record.classes) < 2 or len(set(record.classes)) < len(record.classes):
        raise ValueError("classes holds no names, or one twice")
    if record.head not in ("full", "lora"):
        raise ValueError(f"head is {shown(record.head)}; expected full or lora")


def _check_texts(value: Any) -> None:
    """Refuses texts, in nested values, that would not print as a piece of a line.

    Raises:
        ValueError: There is one.
    """
    if isinstance(value, str) and not _TEXT.fullmatch(value):
        raise ValueError(f"it holds {shown(value)}; expected at most 4096 printable characters")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for part in value if isinstance(value, list | tuple) else ():
        _check_texts(part)


def is_network_path(path: str) -> bool:
    """Returns whether a path, chosen by a stranger, could make Windows log in to a server."""
    return path.replace("\\", "/").startswith("//")


def is_leftover(name: str) -> bool:
    """Returns whether an interrupted save leaves files of this name in a bundle's folder."""
    return is_draft(name) or _PENDING.fullmatch(name) is not None


def bundle_bytes(folder: Path) -> int:
    """Returns the size of a bundle's files in bytes; the card, for people, does not count."""
    paths = [folder / name for name in FILES if name != CARD]
    return sum(path.stat().st_size for path in paths if path.exists())


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns a record's fields, and the checked bytes of its files and of itself."""
    record, fields = _read_record(folder)
    for _ in range(_TRIES):
        try:
            contents = {n: _read_checked(folder / n, d) for n, d in fields["files"].items()}
            return fields, {RECORD: record, **contents}
        except BundleError:
            before = record
            record, fields = _read_record(folder)
            if record == before:
                raise
    raise BundleError(f"{folder} is written to again and again; read it when that has ended")


def _read_record(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of ``vitlora.json`` and its checked fields."""
    record = (check_there(folder) / RECORD).read_bytes()
    try:
        fields = json.loads(record.decode("utf-8"))
        digest = fields["digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{folder / RECORD} is torn or not a bundle's; train again") from None
    if fields.get("format") != FORMAT:
        raise BundleError(
            f"{folder} is a bundle of format {shown(fields.get('format'))}; this vitlora reads "
            f"format {FORMAT}. Install a newer vitlora"
        )
    files = fields.get("files")
    if digest != _fields_digest(fields) or not isinstance(files, dict) or files.keys() - _SUMMED:
        raise BundleError(f"{folder / RECORD} was changed after it was written; train again")
    return record, fields


def _read_checked(path: Path, digest: Any) -> bytes:
    found = False
    for candidate in _candidates(path, digest):
        with suppress(FileNotFoundError):
            content, found = candidate.read_bytes(), True
            if hashlib.sha256(content).hexdigest() == digest:
                return content
    if not found:
        raise BundleError(f"{path.parent} is torn: {path.name} is missing; train again")
    raise BundleError(
        f"{path} was truncated or changed after it was written; train again or restore it"
    )


def _candidates(path: Path, digest: Any) -> Iterator[Path]:
    """Yields where a bundle's file may be; a pending one is there until its name is its own."""
    yield _pending(path, digest)
    yield path
    yield path.with_name(f".{path.name}.new")  # an older vitlora's


def _pending(path: Path, digest: Any) -> Path:
    short = digest[:16] if isinstance(digest, str) and re.match("[0-9a-f]{16}", digest) else "none"
    return path.with_name(f".{path.name}.{short}.new")


def _settle(folder: Path) -> None:
    """Finishes what an interrupted save left: pending files get their names, or are removed.

    Where nothing says which bundle counts, nothing is touched.
    """
    left = [path for path in folder.iterdir() if _PENDING.fullmatch(path.name)]
    try:
        fields = _read_record(folder)[1]
    except BundleError:
        return
    if not left:
        return
    for name, digest in fields["files"].items():
        there = next((p for p in _candidates(folder / name, digest) if _sum(p) == digest), None)
        if there not in (None, folder / name):
            rename(there, folder / name)
    with suppress(FileNotFoundError):
        rename(_pending(folder / CARD, fields["digest"]), folder / CARD)
    others = [folder / name for name in _SUMMED if name not in fields["files"]]
    for path in (*left, *others):
        with suppress(OSError):  # gone, or somebody reads it
            path.unlink()


def _sum(path: Path) -> str | None:
    """Returns the SHA-256 of a file, None if it is not there."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def _check_size(run: Any) -> None:
    """Refuses what would take all memory to walk through: in YAML, a value may stand for others."""
    waiting, seen = [run], 1
    while waiting:
        value = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(parts, list | tuple | set):
            seen += len(parts)
            if seen > _MOST_VALUES:
                raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
            waiting += parts


def _fields_digest(fields: Mapping[str, Any]) -> str:
    """Returns the digest of a record's fields, itself left out."""
    fields = {name: value for name, value in fields.items() if name != "digest"}
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _library_versions() -> dict[str, str]:
    versions = {"vitlora": __version__}
    for name in ("torch", "timm", "peft", "bitsandbytes"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
