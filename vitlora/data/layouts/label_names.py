"""What classes may be called, their order, and names for labels that are numbers."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from vitlora.data.layouts.reading import LayoutOptions, Place, normal
from vitlora.data.listing import is_hidden
from vitlora.errors import DataError, UsageError, a_few, printable, shown
from vitlora.files import expanded

_LONGEST = 300  # characters
_LONGEST_FOLDER = 255  # bytes
_NO_WINDOWS_NAME = re.compile(
    r'[<>:"|?*]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)
_SPELLING = dict.fromkeys(map(ord, "\u00a0\u3000\u200c\u200d"))  # spaces and joiners of scripts


def is_class_name(name: str) -> bool:
    """Returns whether a class can be called this: a line of text that prints, and no path up."""
    plain = name.translate(_SPELLING)
    up = ".." in re.split(r"[/\\]", name)
    return bool(name.strip()) and len(name) <= _LONGEST and plain.isprintable() and not up


def is_folder_name(name: str) -> bool:
    """Returns whether a class can have a folder of its name, which is not passed over as hidden."""
    short = is_class_name(name) and len(name.encode()) <= _LONGEST_FOLDER
    allowed = sys.platform != "win32" or not _NO_WINDOWS_NAME.search(name)
    return short and allowed and not is_hidden(name) and not set(name) & set("/\\\0")


def are_numbers(labels: Iterable[str]) -> bool:
    """Returns whether all labels are whole numbers from 0."""
    return all(re.fullmatch(r"[0-9]{1,18}", label) for label in labels)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns labels sorted: numbers by their value, else by name."""
    labels = tuple(labels)
    if are_numbers(labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def names_in(place: Place, options: LayoutOptions, beside: Iterable[str] = ()) -> tuple[str, ...]:
    """Returns the names of classes 0, 1, 2 ... from a text file with one a line; empty without one.

    Args:
        place: Where it may lie.
        options: ``label_names`` says where, relative to the working folder.
        beside: Files in the place to take if the option is not given, by name: the first counts.

    Raises:
        UsageError: The file that the option names is not there.
        DataError: The file is not UTF-8, has an empty line, or a name twice.
    """
    file = next((place.others[name] for name in beside if name in place.others), None)
    if options.label_names is not None:
        file = expanded(options.label_names)
        if not file.is_file():
            raise UsageError(f"data.label_names '{file}': no such file")
    if file is None:
        return ()
    names = [normal(line.strip()) for line in place.read_text(file).rstrip().split("\n")]
    return checked_names(names, file)


def checked_names(names: Iterable[object], where: Path | str) -> tuple[str, ...]:
    """Returns the names of classes, each of which must be a text of its own.

    Raises:
        DataError: One is not a text, is empty, or is there twice.
    """
    known: dict[str, int] = {}
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: the name of class {number} is {shown(name)}; expected text")
        if normal(name) in known:
            raise DataError(
                f"{where}: classes {known[normal(name)]} and {number} have one name, "
                f"'{printable(name, 80)}'; expected a name of its own for each"
            )
        known[normal(name)] = number
    return tuple(known)


def named(labels: Mapping[str, str], names: tuple[str, ...], where: str) -> dict[str, str]:
    """Returns labels with a name for each number.

    Labels that are all names already stay what they are.

    Args:
        labels: By what to call the picture in an error; empty where there is none.
        names: Of class 0, 1, 2 ...
        where: The names' file, for errors.

    Raises:
        DataError: A label is neither a number with a name nor a name.
    """
    found = {label for label in labels.values() if label}
    if not names or found <= set(names):
        return dict(labels)
    known = {"": "", **{str(number): name for number, name in enumerate(names)}}
    wrong = [f"{key} ('{printable(v, 80)}')" for key, v in labels.items() if v not in known]
    if wrong:
        raise DataError(
            f"{where} names classes 0 to {len(names) - 1} ({a_few(names, 3)}), which do not fit "
            f"the labels of {a_few(wrong, 5)}"
        )
    return {key: known[label] for key, label in labels.items()}
