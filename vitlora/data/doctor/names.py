"""Class names that look like a mistake, and labels that are not the folder of the picture."""

from collections import Counter
from collections.abc import Iterator

from vitlora.data.class_names import doubts, plain
from vitlora.data.doctor.finding import Finding
from vitlora.data.doctor.survey import Survey


def names(survey: Survey) -> Iterator[Finding]:
    """Yields class names that look like a mistake."""
    for doubt in doubts(Counter(picture.label for picture in survey.pictures)):
        yield Finding(doubt.kind, "warning", doubt.what, doubt.advice)


def folders(survey: Survey) -> Iterator[Finding]:
    """Yields the pictures whose label, by a table or export, is not the class folder they lie in.

    Only where most folders that hold pictures bear the names of classes.
    """
    if survey.labels == "class folders":
        return
    classes = {plain(label): label for label in survey.classes}
    lies_in = {picture.name: _class_folder(picture.name, classes) for picture in survey.pictures}
    found = set(lies_in.values())
    named = [folder for folder in found if plain(folder) in classes]
    if len(named) < 2 or 2 * len(named) <= len(found):
        return
    wrong = {
        picture.name: f"labelled {picture.label}"
        for picture in survey.pictures
        if plain(lies_in[picture.name]) in classes.keys() - {plain(picture.label)}
    }
    if wrong:
        yield Finding(
            "other_folder",
            "warning",
            f"pictures that {survey.labels} gives another class than their folder",
            "find out which is right: fit takes the label, not the folder",
            list(wrong),
            wrong,
        )


def _class_folder(name: str, classes: dict[str, str]) -> str:
    """Returns the innermost folder of a picture that is a class, else the innermost of all."""
    *above, _ = name.split("/")
    return next((part for part in reversed(above) if plain(part) in classes), (above or [""])[-1])
