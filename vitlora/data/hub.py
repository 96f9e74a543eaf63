"""Datasets of the Hugging Face hub, as a place of pictures: ``hf://owner/name/config``."""

import re
from pathlib import Path, PurePath

from vitlora.errors import DataError, UsageError, printable
from vitlora.files import expanded

_START = re.compile(r"hf:/+(?:datasets/)?")  # a Path keeps one slash of two
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[\w-][\w.-]*)?")


def hub_name(root: str | PurePath) -> str:
    """Returns ``hf://owner/name`` or ``hf://owner/name/config``; empty for another place.

    Raises:
        UsageError: The place begins with ``hf:``, but is not of this form.
    """
    text = root if isinstance(root, str) else root.as_posix()
    start = _START.match(text)
    if start is None:
        return ""
    name = text[start.end() :].rstrip("/")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"data.root '{printable(text)}': expected hf://OWNER/NAME or hf://OWNER/NAME/CONFIG"
        )
    return f"hf://{name}"


def address(root: str | Path) -> str:
    """Returns how a bundle records a place: its name on the hub, or its absolute path."""
    return hub_name(root) or str(expanded(root).resolve())


def arrow_files(place: str) -> dict[str, list[Path]]:
    """Returns the Arrow files of each split of a dataset, downloaded if they are not here yet.

    No code of the dataset is run: the library has not done so since its version 4.

    Args:
        place: Its name, as ``hub_name`` returns it.

    Raises:
        DataError: The library is not installed, the hub cannot be reached, or it has no such
            dataset or configuration; or a folder here has the same name.
    """
    owner, name, config = [*place.removeprefix("hf://").split("/"), None][:3]
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{place} needs the package datasets, which is not installed: pip install "
            "'vitlora[datasets]'"
        ) from None
    if Path(f"{owner}/{name}").exists():  # which the library would take instead
        raise DataError(
            f"{place}: a folder {owner}/{name} lies here, too, and would be read instead; go to "
            "another folder, or name that one with --data"
        )
    try:
        found = datasets.load_dataset(f"{owner}/{name}", config, keep_in_memory=False)
    except Exception as error:  # the library, its formats and the connection have many kinds
        raise DataError(f"{place}: {_said(error)}") from None
    if not isinstance(found, datasets.DatasetDict):
        raise DataError(f"{place} has no splits; found {type(found).__name__}")
    return {
        str(split): [Path(file["filename"]) for file in part.cache_files]
        for split, part in found.items()
    }


def _said(error: Exception) -> str:
    """Returns what went wrong and what to do, in one line."""
    said = printable(" ".join(str(error).split()) or type(error).__name__)
    if isinstance(error, ConnectionError):
        return f"cannot be downloaded ({said}); go online once, then it is kept"
    if "onfig" in said:
        return f"{said}; name one as hf://OWNER/NAME/CONFIG"
    return f"cannot be read ({said}); if it is private, log in with 'hf auth login'"
