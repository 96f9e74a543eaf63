"""What ``vitlora.predict`` says of several words comes in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import train

from vitlora.commands.predict import predict
from vitlora.errors import DataError, UsageError, VitloraError


def test_errors_stand_where_their_words_do(tmp_path: Path, make_folder: Any) -> None:
    root = make_folder(tmp_path / "d")
    train(root, tmp_path / "bundle")
    one, other = (root / "val" / name / "0.jpg" for name in ("a", "b"))
    words = [one, tmp_path / "nope.jpg", other]
    first, error, last = predict(words, checkpoint=tmp_path / "bundle", device="cpu")
    assert isinstance(error, DataError) and "nope.jpg: no such file" in str(error)
    assert not isinstance(first, DataError) and not isinstance(last, DataError)
    assert (first.path, last.path) == (one, other)


def test_a_network_among_the_pictures_was_meant_as_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos.onnx", "photos.xml", "photos.bin", "annotation.xml"):
        Path(name).write_bytes(b"x")
    Path("bundle").mkdir()
    Path("bundle", "vitlora.json").write_text("{}")
    for name in ("photos.onnx", "photos.xml", "bundle"):
        with pytest.raises(UsageError, match=f"'{name}' is a network, .* --checkpoint '{name}'"):
            predict([name, "tyre.jpg"])
    with pytest.raises(VitloraError, match="no trained adapter"):
        predict(["annotation.xml"])
