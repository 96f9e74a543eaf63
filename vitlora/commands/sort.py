"""The ``sort`` command: labels new pictures with a bundle's help."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.errors import DataError, UsageError, counted
from vitlora.files import check_target, expanded
from vitlora.labelling.filing import check_folders
from vitlora.labelling.inbox import Unlabelled, read_inbox
from vitlora.labelling.journal import Journal, check_class
from vitlora.labelling.label_studio import write_tasks
from vitlora.labelling.session import Filed, Question, Session, file_answers
from vitlora.light_imports import light_imports
from vitlora.notes import note, tell
from vitlora.shell import typed

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle


@checked
def sort(
    checkpoint: str | Path,
    *,
    data: str | Path,
    output: str | Path | None = None,
    apply: bool = False,
    move: bool = False,
    label_studio: str | Path | None = None,
    port: int = 0,
    weights: str | Path | None = None,
    device: str = "auto",
) -> Ranking | Labelled:
    """Asks which class new pictures are, the most useful first.

    The bundle answers all pictures. First come those that it doubts or that are unlike its training
    pictures, and that stand for many others. Without --output it lists them in this order. With
    --output a page in the browser shows one after another: a key confirms the answer, or corrects
    it. Answers are kept as they are given; run the same command again to go on. No picture is
    copied or moved before you say so, on the page or with --apply.

    Args:
        checkpoint: Folder of the bundle.
        data: New pictures: all that predict takes, such as a folder, glob, archive or table.
        output: Folder for the labelled pictures, which gets a folder for each class.
        apply: Copy the pictures answered so far into the folders of their classes, without a page.
        move: Move pictures instead of copying them, when they are put into those folders.
        label_studio: Write tasks for Label Studio with the bundle's answers to this .json file.
        port: Port of the page on this machine; 0 for a free one.
        weights: File of the base's weights, if it has moved since training.
        device: auto, cpu, cuda or mps.

    Returns:
        The pictures in order; with ``output``, what was answered and put into folders.

    Raises:
        UsageError: Options contradict each other, or a folder cannot be used.
        BundleError: The bundle is damaged.
        BackboneError: The base's weights cannot be found.
        DataError: There are no pictures.

    Examples:
        $ vitlora sort checkpoints/waste5 --data inbox
        $ vitlora sort checkpoints/waste5 --data inbox --output labelled
        $ vitlora sort checkpoints/waste5 --data inbox --apply --output labelled
    """
    check_there(checkpoint)
    root = expanded(data)
    _check_options(output, apply, move, label_studio, port)
    check_target("--label-studio", label_studio, (".json",), b'"/data/local-files/')
    if output is None:
        pictures = read_inbox(data, "--label-studio" if label_studio is not None else "")
        questions, unreadable = _questions(bundle := _loaded(checkpoint), pictures, weights, device)
        tasks = None if label_studio is None else Path(label_studio)
        if tasks is not None:
            if not root.exists():
                raise UsageError(f"--label-studio needs a folder or a table, not {data}")
            folder = root if root.is_dir() else root.parent
            write_tasks(tasks, questions, folder, bundle.folder, bundle.record.classes)
        return Ranking(Path(checkpoint), root, questions, unreadable, tasks)
    folder = expanded(output)
    check_folders(folder, root)
    pictures = read_inbox(data, "--move" if move else "")
    journal = Journal(folder)
    left = None if apply else sum(one.digest not in journal.labels for one in pictures)
    filed: list[Filed] = []
    if apply:
        filed = [file_answers(journal, {one.digest: one for one in pictures}, move)]
    elif session := _session(checkpoint, pictures, journal, move, port, weights, device):
        left, filed = session.left, session.filed
    waiting = journal.waiting.keys() & {one.digest for one in pictures}
    return Labelled(Path(checkpoint), root, folder, move, left, len(waiting), filed)


@dataclass(frozen=True)
class Ranking:
    """New pictures, those worth most first.

    Attributes:
        checkpoint: The bundle.
        data: Where they are.
        questions: Each with the bundle's answer.
        unreadable: Path -> reason, for pictures that could not be read.
        tasks: File of the tasks for Label Studio; None if none was asked for.
    """

    checkpoint: Path
    data: Path
    questions: list[Question]
    unreadable: dict[str, str]
    tasks: Path | None = None

    def to_text(self) -> str:
        """Returns a line for each picture; nothing if they are in a file."""
        if self.tasks is not None:
            return ""
        return "\n".join(one.prediction.to_text() for one in self.questions)

    def to_json(self) -> dict[str, object]:
        """Returns the pictures in order, each as ``predict`` returns it."""
        return {
            "checkpoint": str(self.checkpoint),
            "data": str(self.data),
            "pictures": [one.prediction.to_json() for one in self.questions],
            "unreadable": self.unreadable,
        }


@dataclass(frozen=True)
class Labelled:
    """What was answered, and which pictures were put into the folders of their classes.

    Attributes:
        checkpoint: The bundle.
        data: Where the new pictures are.
        output: Folder of the classes.
        move: Whether pictures were moved.
        left: Number of pictures without an answer; None if only answers were applied.
        waiting: Number of pictures with an answer that are in no class's folder yet.
        filed: What was put there, each time.
    """

    checkpoint: Path
    data: Path
    output: Path
    move: bool
    left: int | None
    waiting: int
    filed: list[Filed]

    @property
    def status(self) -> int:
        """1 if a picture could not be put into its folder."""
        return int(any(one.failed for one in self.filed))

    def to_text(self) -> str:
        """Returns what was done and what to do next."""
        lines = [one.to_text(self.output, self.move) for one in self.filed]
        words = ("--data", self.data, "--output", self.output, *(["--move"] if self.move else []))
        again, verb = typed("vitlora", "sort", self.checkpoint, *words), ("copy", "move")[self.move]
        if self.waiting:
            answers = counted(self.waiting, "answer")
            pictures = "its picture" if self.waiting == 1 else "their pictures"
            lines.append(f"{answers} kept; to {verb} {pictures}: {again} --apply")
        if self.left:
            lines.append(f"{counted(self.left, 'picture')} left; to go on: {again}")
        if any(one.counts for one in self.filed):
            fit = typed("vitlora", "fit", "--from", self.checkpoint, "--data", self.output)
            lines.append(f"to train on them: {fit}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Returns the counts."""
        return {
            "checkpoint": str(self.checkpoint),
            "data": str(self.data),
            "output": str(self.output),
            "left": self.left,
            "waiting": self.waiting,
            "filed": [{"counts": one.counts, "failed": [*one.failed]} for one in self.filed],
        }


def _check_options(
    output: str | Path | None, apply: bool, move: bool, label_studio: str | Path | None, port: int
) -> None:
    for name, given in (("--apply", apply), ("--move", move), ("--port", port)):
        if given and output is None:
            raise UsageError(f"{name} needs --output, the folder for the labelled pictures")
    if output is not None and label_studio is not None:
        raise UsageError("--output asks here, --label-studio asks elsewhere; give one of them")
    if not 0 <= port < 2**16:
        raise UsageError(f"--port is {port}; expected 0 to 65535")


def _session(
    checkpoint: str | Path,
    pictures: list[Unlabelled],
    journal: Journal,
    move: bool,
    port: int,
    weights: str | Path | None,
    device: str,
) -> Session | None:
    """Shows the page until it is ended; returns None if there is nothing to ask."""
    skipped = {digest for digest, label in journal.labels.items() if label is None}
    unanswered = [p for p in pictures if p.digest not in journal.labels or p.digest in skipped]
    if not unanswered:
        note(f"all {counted(len(pictures), 'picture')} of this inbox have an answer")
        return None
    bundle = _loaded(checkpoint)
    _check_classes(bundle)
    questions, _ = _questions(bundle, unanswered, weights, device)
    from vitlora.labelling.page import LabellingPage

    questions.sort(key=lambda one: one.picture.digest in skipped)  # those come last
    session = Session(bundle.record.classes, questions, pictures, journal, move)
    try:
        page = LabellingPage(session, bundle.record.preprocessing, port)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0") from None
    tell(f"{counted(len(questions), 'picture')} to label: open {page.address} in a browser here")
    tell("each answer is kept at once; Ctrl-C ends")
    with suppress(KeyboardInterrupt):
        page.serve()
    session.close()
    return session


def _check_classes(bundle: Bundle) -> None:
    for name in bundle.record.classes:
        try:
            check_class(name, ())
        except DataError as error:
            raise DataError(f"{bundle.folder}: {error}; label with --label-studio") from None


def _loaded(checkpoint: str | Path) -> Bundle:
    """Returns the bundle; notes what it cannot tell about new pictures."""
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle

    bundle = load_bundle(checkpoint)
    if bundle.record.confidence is None:
        note(
            f"{bundle.folder} is not calibrated, so pictures unlike those of training are not "
            f"recognised; see '{typed('vitlora', 'calibrate', bundle.folder)}'"
        )
    return bundle


def _questions(
    bundle: Bundle, pictures: list[Unlabelled], weights: str | Path | None, device: str
) -> tuple[list[Question], dict[str, str]]:
    """Returns the pictures in order with the bundle's answers, and those that are unreadable."""
    with light_imports():
        from vitlora.bundle.merging import merged_network
        from vitlora.data.folder import Sample
        from vitlora.evaluation.answers import answer
        from vitlora.labelling.ranking import ranking
    from vitlora.hardware import pick_device

    new = _new(bundle, pictures)
    network = merged_network(bundle, weights, pick_device(device))
    answers = answer(network, [Sample(one.path, -1) for one in new], bundle.record.preprocessing)
    for line in answers.unreadable.values():
        note(f"left out: {line}")
    judged = bundle.judge.judge(answers.features, answers.logits)
    paths, outside = [sample.path for sample in answers.samples], {*answers.outside}
    said = bundle.judge.predictions(paths, answers.features, answers.logits, top_k=3)
    by_path = {one.path: one for one in new}
    questions = [
        Question(
            by_path[one.path],
            replace(one, path=by_path[one.path].shown, outside=one.path in outside),
        )
        for one in said
    ]
    order = ranking(answers.features, judged.probabilities, judged.unfamiliar)
    unreadable = {str(path): why for path, why in answers.unreadable.items()}
    return [questions[index] for index in order], unreadable


def _new(bundle: Bundle, pictures: list[Unlabelled]) -> list[Unlabelled]:
    """Returns the pictures that training did not use.

    Raises:
        DataError: It used them all.
    """
    from vitlora.data.usage import content_of

    if bundle.usage is None:
        return pictures
    side = bundle.usage.side
    new = [one for one in pictures if side(content_of(bytes.fromhex(one.digest))) is None]
    if not new:
        raise DataError(
            f"none of these pictures is new: all are in a split that {bundle.folder} was made with"
        )
    if used := len(pictures) - len(new):
        note(f"left out {counted(used, 'picture')}, of the splits {bundle.folder} was made with")
    return new
