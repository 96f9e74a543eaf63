"""The tasks of a Label Studio export, and what annotators said of them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitlora.data.layouts.exports import checked
from vitlora.errors import printable

# what Label Studio itself adds to a record of JSON-MIN
_OWN_KEYS = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
)


@dataclass(frozen=True)
class Answer:
    """What one annotator said of a picture at one time.

    Attributes:
        annotator: Who.
        created: When; later times sort behind earlier ones.
        truth: Whether somebody marked it as the ground truth.
        choices: The classes by the name of the question.
    """

    annotator: str
    created: str
    truth: bool
    choices: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Task:
    """A picture and all that was said of it.

    Attributes:
        where: File and task, for errors.
        data: The fields that were imported.
        answers: As the file orders them.
    """

    where: str
    data: Mapping[str, Any]
    answers: list[Answer]


def tasks_in(rows: Sequence[object], file: str) -> list[Task]:
    """Returns the tasks of an export of either kind.

    Raises:
        DataError: It is not built as one.
    """
    records = [checked(row, dict, f"{file}, record {number}") for number, row in enumerate(rows)]
    if any("data" in one and ("annotations" in one or "completions" in one) for one in records):
        return [_task(one, f"{file}, task {_id(one, n)}") for n, one in enumerate(records)]
    same: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, one in enumerate(records):
        same[_id(one, number)].append(one)
    return [_task_of(alike, f"{file}, task {key}") for key, alike in same.items()]


def _id(record: Mapping[str, Any], number: int) -> str:
    found = record.get("id")
    return printable(str(found), 40) if isinstance(found, int | str) else f"without id {number}"


def _task(task: Mapping[str, Any], where: str) -> Task:
    """Returns a task of JSON."""
    data = checked(task.get("data"), dict, f"{where}, data")
    given = task.get("annotations", task.get("completions")) or []
    answers: list[Answer] = []
    for number, one in enumerate(checked(given, list, f"{where}, annotations")):
        annotation = checked(one, dict, f"{where}, annotation {number}")
        if annotation.get("was_cancelled") or annotation.get("skipped"):
            continue
        choices: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for result in checked(annotation.get("result") or [], list, f"{where}, result"):
            if (said := _said(result)) is not None:
                choices[said[0]] += said[1]
        truth = annotation.get("ground_truth") is True
        annotator = _annotator(annotation.get("completed_by"), number)
        answers.append(Answer(annotator, _time(annotation), truth, choices))
    return Task(where, data, answers)


def _said(result: object) -> tuple[str, tuple[str, ...]] | None:
    """Returns the question that a result answers, and the classes; None for one of other kinds."""
    if not isinstance(result, dict) or result.get("type") != "choices":
        return None
    value, question = result.get("value"), result.get("from_name")
    if not isinstance(value, dict) or value.keys() != {"choices"} or not isinstance(question, str):
        return None  # more than choices: they belong to a region
    classes = _classes(value)
    return None if classes is None else (question, classes)


def _task_of(records: Sequence[Mapping[str, Any]], where: str) -> Task:
    """Returns a task of JSON-MIN, each record an annotation of it."""
    answers: list[Answer] = []
    for number, one in enumerate(records):
        said = {key: _classes(one[key]) for key in _questions(one)}
        choices = {key: classes for key, classes in said.items() if classes is not None}
        annotator = _annotator(one.get("annotator"), number)
        answers.append(Answer(annotator, _time(one), False, choices))
    return Task(where, records[0], answers)


def _questions(record: Mapping[str, Any]) -> list[str]:
    """Returns the keys that annotators answered.

    Label Studio writes them between the task's id and the annotator, behind what was imported. If
    another program has sorted the keys since, all but Label Studio's own may be meant.
    """
    keys = list(record)
    if "id" in record and "annotator" in record and keys.index("id") < keys.index("annotator"):
        keys = keys[keys.index("id") : keys.index("annotator")]
    return [key for key in keys if key not in _OWN_KEYS]


def _time(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("created_at") or "")


def _classes(value: object) -> tuple[str, ...] | None:
    """Returns the classes that a value names; None if it is not a choice.

    One choice is a text in JSON-MIN; several, and each of JSON, are ``{"choices": [...]}``.
    """
    names: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        given: object = part.get("choices") if isinstance(part, dict) else [part]
        texts = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
        if not isinstance(given, list) or len(texts) < len(given):
            return None
        names += texts
    return tuple(name for name in names if name.strip())


def _annotator(who: object, number: int) -> str:
    """Returns who annotated; each of those who are not named is another."""
    if isinstance(who, dict):
        who = who.get("id", who.get("email"))
    return f"nobody {number}" if who in (None, "None") else str(who)


def agreed(answers: Iterable[Answer], question: str) -> set[tuple[str, ...]]:
    """Returns what annotators said: one set of classes if they agree, none if nobody chose."""
    answers = sorted(answers, key=lambda one: one.created, reverse=True)
    answers = [one for one in answers if one.truth] or answers
    newest: dict[str, tuple[str, ...]] = {}
    for one in answers:
        newest.setdefault(one.annotator, tuple(dict.fromkeys(one.choices.get(question, ()))))
    return {tuple(sorted(labels)) for labels in newest.values() if labels}
