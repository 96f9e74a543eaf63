"""The ``predict`` command, which is also ``predict.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there, is_bundle, newest_bundle
from vitlora.data.listing import describe
from vitlora.data.unlabelled import Found, every, options_of
from vitlora.errors import DataError, UsageError, counted
from vitlora.exporting.targets import target_of
from vitlora.light_imports import without_compiler
from vitlora.notes import note
from vitlora.prediction.shard import Shard
from vitlora.prediction.unfinished import check_output

if TYPE_CHECKING:
    from vitlora.data.bit_depth import ValueRange
    from vitlora.exporting.exported_predictor import ExportedPredictor
    from vitlora.metrics.prediction import Prediction
    from vitlora.prediction.many import Written
    from vitlora.prediction.predictor import Predictor


@checked
def predict(
    images: Sequence[str | Path] | str | Path,
    *,
    checkpoint: str | Path | None = None,
    top_k: int = 3,
    batch_size: int = 32,
    output: str | Path | None = None,
    shard: str | None = None,
    show: bool = False,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Literal["32", "bf16", "auto"] = "32",
    **reading: str | Path,
) -> Iterator[Prediction | DataError] | Written:
    """Predicts the class of pictures, with its confidence.

    Without --output it prints each answer at once (with --json as an object on its own line), and
    the exit status is 1 if any picture could not be read. With --output the answers go to a file;
    a picture that cannot be read is a row with the reason. If it was stopped, the same command
    goes on where it was.

    Args:
        images: Files, folders, globs, archives, or tables (.csv, .tsv, .jsonl, .parquet).
        checkpoint: Folder of the bundle (default: the newest in checkpoints/), or a file that
            export wrote, which starts faster.
        top_k: Number of classes to list for each picture.
        batch_size: Pictures in one forward pass.
        output: Write the answers to this .parquet, .jsonl or .csv file instead of the screen.
        shard: K/N: only the K-th of N shares of the pictures, to answers-K-of-N.parquet
            (default: the share of this process under torchrun or srun).
        show: Show each picture with its classes; without a display, or for several pictures, save
            them to predictions/.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.
        precision: 32 is what the bundle was scored in; bf16 is faster; auto is bf16 if the chip
            computes in it, else 32.
        reading: Options of fit that say how a table names pictures: --data.file_column and
            --data.images.

    Returns:
        An iterator over the answers, in order: a prediction for each picture, and an error for
        each that cannot be read. With ``output``, how many answers the file has.

    Raises:
        UsageError: A number is out of range; the file cannot be written, or has other answers.
        DataError: With ``output``, there are no pictures where one was named.
        BundleError: The bundle is damaged, or there is none.
        BackboneError: The base's weights cannot be found.

    Examples:
        $ vitlora predict photo.jpg
        $ vitlora predict holiday/ "more/*.png" --top-k 5 --output answers.csv
        $ vitlora predict photo.jpg --checkpoint checkpoints/waste5 --show
    """
    for name, value in (("--top-k", top_k), ("--batch-size", batch_size)):
        if value < 1:
            raise UsageError(f"{name} is {value}; expected at least 1")
    share = _share(output, shard, show)
    options = options_of(reading)
    words = [images] if isinstance(images, str | Path) else list(images)
    if checkpoint is None:
        _check_no_network(words)
    places = list(every(words, options))
    found = _noted(places, output is not None)
    if not any(one.files for one in found):
        return (one for one in _in_order(places) if isinstance(one, DataError))
    if checkpoint is not None and target_of(checkpoint) is not None:
        place, predictor = Path(checkpoint), _exported(Path(checkpoint), weights, device, precision)
    else:
        place = newest_bundle() if checkpoint is None else check_there(checkpoint)
        # importing torch and timm takes seconds, so the arguments are checked first
        with without_compiler():
            from vitlora.prediction.predictor import Predictor

        predictor = Predictor(place, weights, device, precision)
    if checkpoint is None:
        note(f"using {place}")
    _note_doubts(place, predictor)
    if output is not None:
        from vitlora.prediction.many import predict_many

        return predict_many(predictor, place, found, Path(output), share, top_k, batch_size)
    answers = _answers(predictor, list(_in_order(places)), top_k, batch_size, show)
    names = {file: name for one in found for file, name in one.names.items()}
    return map(partial(_renamed, names), answers) if names else answers


def _check_no_network(words: Sequence[str | Path]) -> None:
    """Refuses what was probably meant as ``checkpoint``.

    Raises:
        UsageError: A bundle or an exported file is among the pictures.
    """
    for path in map(Path, words):
        target = target_of(path)  # an .xml file may be an annotation, but that has no .bin beside
        if is_bundle(path) or (target and all(file.is_file() for file in target.files(path))):
            raise UsageError(f"'{path}' is a network, not a picture; write --checkpoint '{path}'")


def _renamed(names: Mapping[str, str], answer: Prediction | DataError) -> Prediction | DataError:
    """Returns an answer that calls a row of a file by its own name, not by that of a copy."""
    if isinstance(answer, DataError):
        return answer
    return replace(answer, path=Path(names.get(str(answer.path), answer.path)))


def _share(output: str | Path | None, shard: str | None, show: bool) -> Shard:
    """Returns which of the pictures this process predicts.

    Raises:
        UsageError: The file cannot be written, or an option does not go with it.
    """
    if output is None:
        if shard is not None:
            raise UsageError("--shard writes a file for each share; name it with --output")
        return Shard()
    if show:
        raise UsageError("--show and --output do not go together; leave one out")
    check_output(Path(output))
    if shard is not None:
        return Shard.read(shard)
    share, names = Shard.launched()
    if names:
        note(f"this process predicts shard {share}, by {names}; --shard 1/1 predicts all")
    return share


def _noted(places: Sequence[Found | DataError], strict: bool) -> list[Found]:
    """Returns the places with pictures, and notes the files that are ignored.

    Raises:
        DataError: ``strict`` is set, and there is an error or a folder that may not be read.
    """
    found = [one for one in places if isinstance(one, Found)]
    errors = [one for one in places if isinstance(one, DataError)]
    errors += [_closed(path) for one in found for path in one.closed]
    if strict and errors:
        raise errors[0]
    if others := [path for one in found for path in one.others]:
        note(f"ignored {describe(others)}")
    return found


def _in_order(places: Sequence[Found | DataError]) -> Iterator[Path | DataError]:
    """Yields pictures, each once, and what cannot be read in its place."""
    seen: set[str] = set()
    for place in places:
        if isinstance(place, DataError):
            yield place
            continue
        yield from map(_closed, place.closed)
        for file in place.files:
            if file not in seen:
                seen.add(file)
                yield Path(file)


def _closed(folder: Path) -> DataError:
    return DataError(f"{folder}: permission denied")


def _exported(
    file: Path, weights: str | Path | None, device: str, precision: str
) -> ExportedPredictor:
    """Returns the predictor of an exported file; torch is not imported.

    Raises:
        UsageError: An option is only for bundles.
        BundleError: The file is missing or damaged.
    """
    from vitlora.exporting.exported_predictor import ExportedPredictor

    if weights is not None:
        raise UsageError(f"--weights is for bundles; {file} holds its weights, so leave it out")
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device is {device}, but {file} runs on the CPU; predict with a bundle")
    if precision == "bf16":
        raise UsageError(
            f"--precision is bf16, but {file} has the precision of its export; leave it out"
        )
    return ExportedPredictor(file)


def _answers(
    predictor: Predictor | ExportedPredictor,
    found: Sequence[Path | DataError],
    top_k: int,
    batch_size: int,
    show: bool,
) -> Iterator[Prediction | DataError]:
    """Yields the answer to each file, or its error, in order."""
    from vitlora.metrics.prediction import OnlyPrediction

    paths = [one for one in found if isinstance(one, Path)]
    alone = len(found) == 1
    answers = predictor.predict(paths, top_k, batch_size)
    for answer in (next(answers) if isinstance(one, Path) else one for one in found):
        if isinstance(answer, DataError):
            yield answer
            continue
        yield OnlyPrediction(**vars(answer)) if alone else answer
        if show:
            _show(answer, predictor.preprocessing.value_range, alone)


def _note_doubts(folder: Path, predictor: Predictor | ExportedPredictor) -> None:
    """Notes why a bundle's confidence may mislead."""
    if not predictor.validated:
        note(f"{folder} was never validated, so its accuracy is unknown and no answer has a mark")
    elif predictor.confidence is None:
        note(f"{folder} is not calibrated, so its confidence may mislead; see 'vitlora calibrate'")
    elif predictor.confidence.unsure_below > 1:
        pictures = counted(predictor.confidence.images, "validation picture")
        note(
            f"every answer of {folder} is unsure, because {pictures} cannot show a low error rate; "
            "'vitlora calibrate' accepts a larger --max-error"
        )


def _show(result: Prediction, value_range: ValueRange | None, alone: bool) -> None:
    from vitlora.prediction.picture import captioned

    path = result.path
    picture = captioned(path, result.top, value_range)
    display = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY")
    if alone and display:
        picture.show(title=path.name)
        return
    folder = Path("predictions")
    folder.mkdir(exist_ok=True)
    parts = path.resolve().relative_to(path.resolve().anchor).parts  # no drive, which would win
    target = folder / f"{'_'.join(parts[-3:])}.png"
    picture.save(target)
    note(f"saved {target}")
