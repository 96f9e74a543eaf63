"""Commands as they are typed."""

import re
import shlex
import sys


def typed(*words: object) -> str:
    """Returns a command's words as a shell takes them: Windows' here on Windows, else any other.

    Paths may be among the words. Only what needs quotes has them.
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    windows = sys.platform == "win32"
    if re.fullmatch(r"[\w./:=+,@\\-]+" if windows else r"[\w./:=+,@-]+", word):
        return word
    # in double quotes, as in every shell, unless these would mean something there
    return shlex.quote(word) if not windows and set(word) & set('"$`\\!') else f'"{word}"'
