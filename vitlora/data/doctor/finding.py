"""What the folder doctor says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vitlora.shell import typed

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: Its short name, for programs.
        severity: ``error`` stops training or makes its numbers wrong, ``warning`` makes them worse,
            ``note`` is good to know.
        what: What was found, in one line without the count; with it where neither files nor groups
            are named.
        advice: What to do, in one line.
        files: Names of the files concerned, relative to the folder.
        why: For some files, a few words each.
        groups: For copies, the names that belong together.
    """

    kind: str
    severity: Severity
    what: str
    advice: str
    files: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Groups of copies, else files."""
        return len(self.groups) or len(self.files)

    @property
    def title(self) -> str:
        """What was found, with the count."""
        return f"{self.what}: {self.count:,}" if self.count else self.what


def split_anew(root: Path) -> str:
    """Returns the advice to write a cleaned copy that is split anew."""
    return f"split anew: {typed('vitlora', 'doctor', '--data', root, '--fix', f'{root}-clean')}"
