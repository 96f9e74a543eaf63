"""What the folder doctor found, as text: first how it read the folder, then what is wrong."""

from collections import Counter
from collections.abc import Sequence

from vitlora.data.doctor.finding import SEVERITIES, Finding
from vitlora.data.doctor.survey import Survey
from vitlora.data.folder import VAL_FRACTION
from vitlora.errors import a_few, counted

_SHOWN, _MEMBERS = 3, 6  # names, or groups, of each finding; pictures of each group
_DRAWN = {  # by the split of which fit holds out a part to validate
    "all": f"none; fit holds out {VAL_FRACTION:.0%} of each class for val",
    "train": f"fit holds out {VAL_FRACTION:.0%} of each class in train for val",
    "": "",
}


def text_of(survey: Survey, findings: Sequence[Finding]) -> str:
    """Returns how the folder was read, then each finding with a few of its files and what to do."""
    lines = [f"{survey.root}: {summary(survey)}"]
    lines += [f"{word:<8} {line}" for word, line in understood(survey)]
    lines += ["", tally(findings)]
    for finding in findings:
        items = finding.groups or finding.files
        lines += ["", f"{finding.severity:<8} {finding.title}"]
        lines += [f"         {_item(finding, item)}" for item in items[:_SHOWN]]
        lines += [f"         ... and {len(items) - _SHOWN:,} more"] * (len(items) > _SHOWN)
        lines += [f"         -> {finding.advice}"]
    # a name may hold a line feed
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def summary(survey: Survey) -> str:
    """Returns how many pictures and classes there are, and where the classes come from."""
    pictures = counted(len(survey.pictures), "picture")
    return f"{pictures} in {counted(len(survey.classes), 'class')}, labels from {survey.labels}"


def understood(survey: Survey) -> list[tuple[str, str]]:
    """Returns how the folder was read, a word and a line each."""
    splits = Counter(picture.split for picture in survey.pictures)
    classes = Counter(picture.label for picture in survey.pictures)
    found = ", ".join(f"{split} {splits[split]:,}" for split in survey.splits if split != "all")
    return [
        ("layout", survey.layout),
        ("splits", "; ".join(filter(None, (found, _DRAWN[survey.drawn])))),
        ("classes", a_few(f"{label} {classes[label]:,}" for label in survey.classes)),
        *(("read", line) for line in survey.notes),
    ]


def tally(findings: Sequence[Finding]) -> str:
    """Returns how many findings there are of each severity."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(counted(n, word) for word in SEVERITIES if (n := counts[word])) or (
        "nothing wrong"
    )


def _item(finding: Finding, item: str | list[str]) -> str:
    if isinstance(item, list):
        more = f"  and {len(item) - _MEMBERS} more" * (len(item) > _MEMBERS)
        return "  =  ".join(item[:_MEMBERS]) + more
    return f"{item}  ({finding.why[item]})" if item in finding.why else item
