"""Durations and sizes as text. Needs no torch."""

import re

from vitlora.errors import UsageError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def clock(seconds: float) -> str:
    """Returns a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def seconds_of(text: str, option: str) -> float:
    """Returns the seconds of a duration such as ``90s``, ``5m`` or ``1h30m``.

    Args:
        text: The duration.
        option: Where it was given, for the message.

    Raises:
        UsageError: It is not a duration above 0.
    """
    found = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in (found.groups() if found else "000"))
    if total := 3600 * hours + 60 * minutes + seconds:
        return total
    raise UsageError(f"{option} is '{text}'; expected a duration such as 90s, 5m or 1h30m")


def size(count: float) -> str:
    """Returns bytes in kB, MB, GB or TB (powers of 1000), in at most seven characters."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:
            value = count / scale
            return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"
    return f"{count:.0f} B"
