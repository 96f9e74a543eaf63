"""``python -m vitlora.cli.checked``: what ``fit`` refuses before it looks at a picture.

For ``compare`` and ``sweep``, which train many times and whose own process imports no torch. Reads
lists of arguments of ``fit`` as JSON from its input; prints a line for each: null, or what
``refusal`` returns.
"""

import json
import sys

from vitlora.light_imports import light_imports


def main() -> None:
    """Checks the lists of arguments."""
    with light_imports():
        from vitlora.cli.resolved import refusal
    for options in json.load(sys.stdin):
        print(json.dumps(refusal(options)))


if __name__ == "__main__":
    main()
