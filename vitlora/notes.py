"""Messages for the user besides the result, sent with ``logging``; the command line prints them.

A program that imports vitlora configures the logger ``vitlora`` as it likes.
"""

import logging

NOTE = 25  # between INFO and WARNING
LOG = logging.getLogger("vitlora")
logging.addLevelName(NOTE, "NOTE")


def tell(text: str) -> None:
    """Logs what is being done; the command line prints the text unchanged."""
    LOG.info("%s", text)


def note(text: str) -> None:
    """Logs what a user may want to know; the command line prints ``note: ...`` to stderr."""
    LOG.log(NOTE, "%s", text)


def warn(text: str) -> None:
    """Logs why a result may mislead; the command line prints ``warning: ...`` to stderr."""
    LOG.warning("%s", text)
