"""The contents of ``vitlora.json``, and the checks of its values."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vitlora import __version__
from vitlora.bundle.plain import check_texts, is_a
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError, shown
from vitlora.metrics.confidence import Confidence
from vitlora.quantization import Storage

_MOST_NUMBER = 2**63
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_DRAWN = {
    **{"val": float, "test": float, "seed": int, "folds": int, "fold": int},
    **{"groups": str, "resplit": bool},
}


@dataclass(frozen=True)
class Record:
    """The contents of ``vitlora.json``.

    Attributes:
        backbone: ``source/model.tag``.
        base_digest: SHA-256 of the base's weights without the head.
        weights: The file training read them from; ``none`` for a random start.
        storage: How the frozen base was kept.
        method: Name of the adapter class.
        head: ``full`` or ``lora``.
        classes: Names in the order of the outputs.
        preprocessing: The preprocessing of pictures.
        split: The data's root, the counts of each split, and how the splits were made.
        metrics: Validation numbers of the saved epoch.
        confidence: Temperature and thresholds; None before calibration.
        created: Time of creation, see ``creation_time``.
        libraries: Library name -> version.
        parent: First 16 digits of the digest of the bundle that training continued from, if any.
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
    created: str = field(default_factory=lambda: creation_time())
    libraries: dict[str, str] = field(default_factory=lambda: _library_versions())
    parent: str | None = None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Record":
        """Reads the fields of ``to_json``, and checks them; other fields are ignored.

        Raises:
            KeyError, TypeError, AttributeError, ValueError, ArithmeticError, UsageError: A field is
                missing or wrong; anyone may have written it.
        """
        names = cls.__dataclass_fields__.keys() - {"confidence", "parent"}
        learnt = fields.get("confidence")  # older bundles have none
        record = cls(
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
        return record

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain values, without those that are not needed.

        Raises:
            ValueError: A text has control characters or is too long.
        """
        fields = asdict(self)
        check_texts(fields)
        if self.parent is None:
            del fields["parent"]
        if self.preprocessing.value_range is None:
            del fields["preprocessing"]["value_range"]
        if not self.preprocessing.srgb:
            del fields["preprocessing"]["srgb"]
        return fields


def creation_time() -> str:
    """Returns the time in UTC, ISO 8601: now, or ``SOURCE_DATE_EPOCH`` for reproducible bundles.

    https://reproducible-builds.org/specs/source-date-epoch/

    Raises:
        UsageError: The variable holds no time.
    """
    date = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        moment = datetime.now(UTC) if date is None else datetime.fromtimestamp(int(date), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is {shown(date)}; expected whole seconds since 1970, or unset it"
        ) from None
    return moment.isoformat(timespec="seconds")


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {shown(value)}")
    return value


def _check_record(record: Record) -> None:
    """Refuses invalid values; a correct checksum proves nothing, as anyone can compute it.

    Raises:
        ValueError: A value is invalid.
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
        **{f"split reading {n}": (value, str) for n, value in split.get("reading", {}).items()},
    }
    for name, (value, kind) in expected.items():
        if not is_a(value, kind) or (kind in (int, float) and not abs(value) < _MOST_NUMBER):
            raise ValueError(f"{name} is {shown(value)}; expected {_KINDS[kind]}")
    if len(record.classes) < 2 or len(set(record.classes)) < len(record.classes):
        raise ValueError("classes holds fewer than two names, or one twice")
    if record.head not in ("full", "lora"):
        raise ValueError(f"head is {shown(record.head)}; expected full or lora")


def is_network_path(path: str) -> bool:
    """Returns whether a path leads to another machine; an untrusted one must not be followed.

    Windows would log in to a server, and a dataset of the hub would be downloaded.
    """
    return path.replace("\\", "/").startswith(("//", "hf:/"))


def _library_versions() -> dict[str, str]:
    versions = {"vitlora": __version__}
    for name in ("torch", "timm", "peft", "bitsandbytes"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
