"""The folder doctor: what is wrong with an image folder, before it costs a training run."""

from vitlora.data.doctor import flaws, leaks, names, single
from vitlora.data.doctor.finding import SEVERITIES, Finding
from vitlora.data.doctor.survey import Survey


def examine(survey: Survey) -> list[Finding]:
    """Returns what is wrong with a folder, the worst first."""
    parts = (
        single.files,
        names.folders,
        names.names,
        leaks.copies,
        flaws.classes,
        leaks.giveaways,
        flaws.unused,
    )
    found = [finding for part in parts for finding in part(survey)]
    return sorted(found, key=by_severity)


def by_severity(finding: Finding) -> int:
    """Returns a finding's place: errors come first, notes last."""
    return SEVERITIES.index(finding.severity)
