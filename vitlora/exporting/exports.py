"""A bundle -> a proven file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vitlora.bundle.checkpoint import Bundle
from vitlora.data.folder import Sample
from vitlora.errors import BundleError
from vitlora.evaluation.answers import answer
from vitlora.exporting.exported import ExportPrecision
from vitlora.exporting.program import described, exported_program, merged_vit
from vitlora.exporting.proof import ExportProof, prove
from vitlora.exporting.targets import Target
from vitlora.files import draft, rename
from vitlora.metrics.judge import Judged


@contextmanager
def exported_file(
    bundle: Bundle,
    file: Path,
    target: Target,
    samples: list[Sample],
    weights: str | Path | None = None,
    precision: ExportPrecision = "32",
) -> Iterator[dict[ExportPrecision, ExportProof]]:
    """Exports a bundle and proves it; the file is there when the ``with`` ends.

    After an error, also one inside the ``with``, there is no file.

    Args:
        bundle: The bundle.
        file: The file.
        target: Its kind.
        samples: Pictures to compare on.
        weights: File of the base's weights; None looks where training found them.
        precision: How the weights are kept.

    Yields:
        The proof of this precision and of ``32``.

    Raises:
        UsageError: The network is too large for the file.
        BundleError: The bundle is damaged, or the base's weights are not those of training.
        BackboneError: The base's weights cannot be found.
        VitloraError: The file does not answer as the bundle does.
    """
    vit = merged_vit(bundle, target, weights)
    expected, paths = expected_answers(bundle, vit, samples)
    proofs: dict[ExportPrecision, ExportProof] = {}
    with draft(file) as room:
        room.mkdir()
        keys: tuple[ExportPrecision, ...] = ("32",) if precision == "32" else ("32", precision)
        drafts: dict[ExportPrecision, Path] = {key: room / f"{key}{target.suffix}" for key in keys}
        program = exported_program(vit, bundle)
        for key, written in drafts.items():
            if key == "fp16":  # int8 is made when the file is written
                program = exported_program(vit, bundle, key)
            try:
                target.write(program, described(bundle, key), written)
            except OSError as error:  # it names the draft, which means nothing to the user
                raise OSError(error.errno, error.strerror, str(file)) from None
            proofs[key] = prove(written, expected, paths)
            proofs[key].check(key)
        yield proofs
        for new, path in zip(target.files(drafts[precision]), target.files(file), strict=True):
            rename(new, path)


def expected_answers(
    bundle: Bundle, vit: nn.Module, samples: list[Sample]
) -> tuple[Judged, list[Path]]:
    """Returns what the bundle's network says of the pictures, and their files."""
    answers = answer(vit, samples, bundle.record.preprocessing)
    if not torch.isfinite(answers.logits).all():
        raise BundleError(f"{bundle.folder} answers with logits that are not finite; train again")
    judged = bundle.judge.judge(answers.features, answers.logits)
    return judged, [sample.path for sample in answers.samples]
