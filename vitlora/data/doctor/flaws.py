"""What is wrong with the counts of a folder's classes, and what training passes over."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

from vitlora.data.doctor.finding import Finding, Severity, split_anew
from vitlora.data.doctor.survey import Survey
from vitlora.data.folder import VAL_FRACTION, Folder, Sample
from vitlora.data.listing import by_ending
from vitlora.errors import DataError, counted

_FEW = 10  # pictures of a class to train on
_UNEVEN = 10  # times the pictures of another class


def classes(survey: Survey) -> Iterator[Finding]:
    """Yields what is wrong with the classes and their counts."""
    if len(survey.classes) < 2:
        yield Finding(
            "few_classes",
            "error",
            f"{counted(len(survey.classes), 'class folder')}; training needs 2 or more",
            "give every class a folder of its own, in train/ and val/ or in --data itself",
        )
    counts = Counter((picture.split, picture.label) for picture in survey.readable)
    lacking = {
        _place(split, label): "no readable picture"
        if (split, label) in survey.present
        else "absent"
        for split in survey.splits
        for label in survey.classes
        if not counts[split, label]
    }
    to_train = {p: why for p, why in lacking.items() if not p.startswith(("val/", "test/"))}
    if to_train:
        yield Finding(
            "empty_class",
            "error",
            "classes without a readable picture to train on",
            "add pictures, or leave the class out with data.classes",
            list(to_train),
            to_train,
        )
    if others := {p: why for p, why in lacking.items() if p not in to_train}:
        yield Finding(
            "unmeasured",
            "warning",
            "classes that val/ or test/ has no picture of",
            "add pictures: nothing measures such a class there",
            list(others),
            others,
        )
    if survey.drawn and len(survey.classes) > 1 and not to_train:
        yield from _not_splittable(survey)
    train = {label: counts["train", label] + counts["all", label] for label in survey.classes}
    train = {label: count for label, count in train.items() if count}
    few = {label: f"{count} to train on" for label, count in train.items() if count < _FEW}
    if few and {"train", "all"} & set(survey.splits):
        yield Finding(
            "few_pictures",
            "warning",
            f"classes with fewer than {_FEW} pictures to train on",
            "add pictures: with so few, the score of a class is mostly chance",
            list(few),
            few,
        )
    if len(train) > 1 and max(train.values()) > _UNEVEN * min(train.values()):
        most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
        yield Finding(
            "imbalance",
            "warning",
            f"'{most}' has {train[most]} pictures, '{least}' {train[least]}",
            "read macro-F1 rather than accuracy; add pictures of the small classes",
        )
    if survey.splits and not {"train", "all"} & set(survey.splits):
        yield Finding(
            "no_training",
            "error",
            f"{', '.join(f'{split}/' for split in survey.splits)} without train/: fit needs it",
            f"add train/, or {split_anew(survey.root)}",
        )


def _not_splittable(survey: Survey) -> Iterator[Finding]:
    """Yields what ``fit`` would say if it could hold out nothing to validate, in its own words."""
    numbers = {label: number for number, label in enumerate(survey.classes)}
    samples = [
        Sample(picture.path, numbers[picture.label], picture.name)
        for picture in survey.readable
        if picture.split == survey.drawn
    ]
    pool = Folder(survey.root, tuple(survey.classes), {"all": samples})
    try:
        pool.split(val=VAL_FRACTION, test=0.0, seed=0)
    except DataError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("too_few_to_split", "error", what, advice)


def _place(split: str, label: str) -> str:
    return label if split == "all" else f"{split}/{label}"


def unused(survey: Survey) -> Iterator[Finding]:
    """Yields what training passes over."""
    leave = "nothing, if they are not meant for training"
    said: list[tuple[str, Severity, str, str]] = [
        ("closed", "error", "folders that may not be read", "give yourself the right to read them"),
        (
            "folders",
            "warning",
            "folders without a picture that is used",
            "rename them if they are splits; move them elsewhere if not",
        ),
        (
            "beside",
            "warning",
            "pictures without a class, which are not used",
            "give them one, or leave them out on purpose",
        ),
        (
            "linked",
            "warning",
            "links to folders that are looked through anyway, or lie above; not followed",
            "remove the links",
        ),
        ("hidden", "note", "hidden files and folders, which are not used", leave),
    ]
    for kind, severity, what, advice in said:
        if names := survey.unused.get(kind):
            yield Finding(kind, severity, what, advice, names)
    if names := survey.unused.get("other"):
        what = f"files passed over ({by_ending(map(PurePath, names))})"
        yield Finding("other", "note", what, leave, names)
