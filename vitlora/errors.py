"""What can go wrong, in one line: what was got, what was expected, what to do."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VitloraError(Exception):
    """A mistake the user can fix; printed as one line, without a traceback."""

    exit_status = 1


class UsageError(VitloraError):
    """A wrong option, key or value."""

    exit_status = 2


class BackboneError(VitloraError):
    """The frozen base is not available, or is not the one that was asked for."""


class AdapterError(VitloraError):
    """An adapter that does not fit the backbone, or that would train nothing."""


class DataError(VitloraError):
    """An image or image folder that cannot be used as it is."""


class BundleError(VitloraError):
    """A bundle that is damaged, tampered with, foreign, or made for another base."""


def counted(number: int, noun: str) -> str:
    """Returns ``"1 picture"``, ``"2 pictures"``, ``"2 classes"``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def shown(value: object, most: int = 80) -> str:
    """Returns the ``repr`` of an untrusted value, cut to ``most`` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str, most: int = 300) -> str:
    """Returns the start of a text; Python escapes replace characters that do not print."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:most])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def a_few(names: Iterable[str], most: int = 10) -> str:
    """Returns the first names, separated by commas, and how many more there are; or ``none``."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return f"{', '.join(every[:most]) or 'none'}{more}"


def either(words: Iterable[str]) -> str:
    """Returns ``"a"``, ``"a or b"``, ``"a, b or c"``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def a_few_lines(lines: Sequence[str], most: int = 20) -> str:
    """Returns the first lines, all but one of them indented, and how many more there are."""
    more = [f"... and {len(lines) - most:,} more"] if len(lines) > most else []
    return "\n  ".join([*lines[:most], *more])


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest choice, or an empty string."""
    match = nearest_of(name, choices)
    return f" (did you mean '{match}'?)" if match else ""


def nearest_of(name: str, choices: Iterable[str]) -> str:
    """Returns the closest choice, or an empty string if none is similar."""
    known = list(choices)
    start = [choice for choice in known if choice[:4] == name[:4]]  # these may differ more
    close = get_close_matches(name, known, 1) or get_close_matches(name, start, 1, 0.5)
    return next(iter(close), "")
