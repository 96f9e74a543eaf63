"""What a user should know beside the result, by ``logging``: the command line prints it.

A program that uses vitlora decides by itself what becomes of the logger ``vitlora``.
"""

import logging

NOTE = 25  # between INFO and WARNING
LOG = logging.getLogger("vitlora")
logging.addLevelName(NOTE, "NOTE")


def tell(text: str) -> None:
    """Logs what is being done; the command line prints it as it is."""
    LOG.info("%s", text)


def note(text: str) -> None:
    """Logs what a user may want to know; the command line prints ``note: ...`` to stderr."""
    LOG.log(NOTE, "%s", text)


def warn(text: str) -> None:
    """Logs what makes a result mislead; the command line prints ``warning: ...`` to stderr."""
    LOG.warning("%s", text)
