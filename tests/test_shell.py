"""Commands as they are typed: shells read the words that were meant."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vitlora.shell import typed

WORDS = ["a b", "it's", '"', "$HOME", "`x`", "back\\slash", "a!b", "", "[a,b]", "*", "~", "é", "-x"]


def test_plain_words_stay_as_they_are() -> None:
    words = ("vitlora", "fit", "--data.root=x", Path("a/b.c"), "--model.lr", 0.001, "a,b", "qv+")
    assert typed(*words) == "vitlora fit --data.root=x a/b.c --model.lr 0.001 a,b qv+"
    assert typed("vitlora", "predict", "a b") == 'vitlora predict "a b"'


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_shell_reads_the_words_that_were_meant() -> None:
    assert shlex.split(typed(*WORDS)) == WORDS
    echo = typed(sys.executable, "-c", "import sys; print(sys.argv[1:])", *WORDS)
    done = subprocess.run(["sh", "-c", echo], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(WORDS)


def test_windows_paths_need_no_quotes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlora.shell.sys.platform", "win32")
    assert typed("C:\\photos", "C:\\my photos") == 'C:\\photos "C:\\my photos"'
