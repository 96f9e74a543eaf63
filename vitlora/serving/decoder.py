"""The process that decodes pictures for a server: ``python -m vitlora.serving.decoder MEGABYTES``.

It imports no torch, writes no file, and may take a limited amount of memory, so a picture made to
crash, to hang or to fill the memory does so to this process alone. Its parent sends a line of JSON
and the picture's bytes to stdin, and gets a line of JSON and the pixels on stdout; nothing is
pickled. It ends when stdin does.
"""

import json
import os
import signal
import sys
from typing import Any, BinaryIO

from vitlora.data.archives import InMemory
from vitlora.data.images import MemoryShortError, open_marked
from vitlora.errors import DataError


def main() -> None:
    """Decodes one picture after the other."""
    for one in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group; the parent decides
        signal.signal(one, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    limit(int(sys.argv[1]))
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        content = sys.stdin.buffer.read(asked.pop("bytes"))
        if not decode(InMemory(content, asked.pop("name")), asked, answers):
            return


def decode(picture: InMemory, options: dict[str, Any], answers: BinaryIO) -> bool:
    """Writes a picture's pixels or what is wrong with it; returns whether to go on."""
    pixels = b""
    answer: dict[str, object]
    try:
        opened = open_marked(picture, **options)
        answer = {"size": opened.image.size, "outside": opened.outside}
        pixels = opened.image.tobytes()
    except (MemoryShortError, MemoryError):  # what is left of the libraries' state is uncertain
        said = f"{picture}: takes too much memory to decode; make it smaller"
        answer = {"error": said, "last": True}
    except DataError as error:
        answer = {"error": str(error)}
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.write(pixels)
    answers.flush()
    return "last" not in answer


def limit(megabytes: int) -> None:
    """Forbids this process to take more memory than that, to write files, or to leave its memory.

    Windows has no such limits.
    """
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform == "linux":  # macOS does not keep to it
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))


if __name__ == "__main__":
    main()
