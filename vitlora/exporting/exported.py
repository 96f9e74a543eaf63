"""What an exported file says about itself, as JSON in its metadata. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from vitlora.bundle.plain import check_texts
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import BundleError, printable, shown
from vitlora.metrics.confidence import Confidence

FORMAT = 1
MOST_BYTES = 2**24  # of the JSON; a thousand classes take 20 kB
ExportPrecision = Literal["32", "fp16", "int8"]


@dataclass(frozen=True)
class Exported:
    """What is needed to use an exported network, beside its numbers.

    Attributes:
        backbone: ``source/model.tag``.
        bundle_digest: SHA-256 of the bundle it was made of.
        precision: How the weights are kept: ``32``, ``fp16`` or ``int8``.
        classes: Names in the order of the probabilities.
        preprocessing: How a file becomes the 8-bit square that the network takes.
        validated: Whether the bundle has a validation score.
        confidence: Thresholds; None before calibration. The temperature is in the network already.
    """

    backbone: str
    bundle_digest: str
    precision: ExportPrecision
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    validated: bool
    confidence: Confidence | None

    def to_text(self) -> str:
        """Returns the JSON.

        Raises:
            ValueError: A text has control characters or is too long.
        """
        fields = {"format": FORMAT, **asdict(self)}
        check_texts(fields)
        return json.dumps(fields)

    @classmethod
    def from_text(cls, text: str | None, file: object) -> "Exported":
        """Reads the JSON of ``to_text`` and checks every value; anyone may have written it.

        Args:
            text: The JSON; None if the file has none.
            file: Its file, for the error.

        Raises:
            BundleError: It is missing or wrong.
        """
        if text is None:
            raise BundleError(
                f"{file} was not written by vitlora: it has none of vitlora's metadata; export a "
                "bundle with 'vitlora export'"
            )
        try:
            if len(text) > MOST_BYTES:
                raise ValueError(f"its metadata has {len(text):,} characters")
            return cls._read(json.loads(text))
        except (
            *(KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError),
        ) as error:
            said = printable(" ".join(str(error).split()))
            raise BundleError(
                f"{file} has metadata that vitlora cannot read ({type(error).__name__}: {said}); "
                "export the bundle again"
            ) from None

    @classmethod
    def _read(cls, fields: Mapping[str, Any]) -> "Exported":
        if fields["format"] != FORMAT:
            raise ValueError(f"format is {shown(fields['format'])}; expected {FORMAT}")
        check_texts(fields)
        classes, learnt = fields["classes"], fields["confidence"]
        for name in ("backbone", "bundle_digest"):
            if not isinstance(fields[name], str):
                raise ValueError(f"{name} is {shown(fields[name])}; expected text")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"classes is {shown(classes)}; expected a list of names")
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError("classes holds fewer than two names, or one twice")
        if fields["precision"] not in get_args(ExportPrecision):
            raise ValueError(f"precision is {shown(fields['precision'])}")
        if type(fields["validated"]) is not bool:
            raise ValueError(f"validated is {shown(fields['validated'])}; expected true or false")
        return cls(
            backbone=fields["backbone"],
            bundle_digest=fields["bundle_digest"],
            precision=fields["precision"],
            classes=tuple(classes),
            preprocessing=Preprocessing.from_json(fields["preprocessing"]),
            validated=fields["validated"],
            confidence=None if learnt is None else Confidence.from_json(learnt),
        )
