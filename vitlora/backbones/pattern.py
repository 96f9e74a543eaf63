"""The paths of layers as one regular expression for PEFT."""

import re
from collections.abc import Iterable


def anchored_pattern(layers: Iterable[str]) -> str:
    """Returns a short regular expression that fully matches the given module paths and no others.

    PEFT would read a list as suffixes: ``proj`` would also match ``patch_embed.proj``.
    """
    blocks: dict[str, list[str]] = {}
    for layer in layers:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", layer)
        number, rest = (match[1], match[2]) if match else ("", layer)
        blocks.setdefault(rest, []).append(number)
    parts = [
        re.escape(rest) if numbers == [""] else rf"blocks\.({'|'.join(numbers)})\.{re.escape(rest)}"
        for rest, numbers in blocks.items()
    ]
    return "|".join(parts)
