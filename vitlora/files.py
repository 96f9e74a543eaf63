"""Files that are written whole or not at all."""

import json
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under another name, then renames it; text is UTF-8.

    Args:
        path: Where it goes; its folder is made if it is not there.
        content: Of the file. Names of files that are no text are written with escapes.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(data)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def write_json(fields: dict[str, Any], target: str) -> None:
    """Writes JSON to a file, or to the screen in ASCII, which survives every console and pipe.

    Args:
        fields: What to write.
        target: The file; ``-`` for the screen.
    """
    if target == "-":
        print(json.dumps(fields, indent=1))
    else:
        write_whole(Path(target), json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
