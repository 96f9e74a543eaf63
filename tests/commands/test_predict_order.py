"""What ``vitlora.predict`` says of several words comes in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs import train

from vitlora.commands.predict import predict
from vitlora.errors import DataError


def test_errors_stand_where_their_words_do(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "d")
    train(root, tmp_path / "bundle")
    one, other = (root / "val" / name / "0.jpg" for name in ("a", "b"))
    words = [one, tmp_path / "nope.jpg", other]
    first, error, last = predict(words, checkpoint=tmp_path / "bundle", device="cpu")
    assert isinstance(error, DataError) and "nope.jpg: no such file" in str(error)
    assert not isinstance(first, DataError) and not isinstance(last, DataError)
    assert (first.path, last.path) == (one, other)
