"""Answers against the network called picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import micro

from vitlora.data.folder import Sample
from vitlora.data.images import open_image
from vitlora.data.read import read_folder
from vitlora.errors import DataError
from vitlora.evaluation.answers import answer


def test_answers_are_the_networks_own_in_order(tmp_path: Path, make_folder: Callable) -> None:
    samples = read_folder(make_folder(tmp_path / "d", ("a", "b", "c"))).splits["val"]
    backbone = micro()
    network = backbone.module.eval()
    got = answer(network, samples, backbone.preprocessing, batch_size=5)
    transform = backbone.preprocessing.transform()
    with torch.no_grad():
        expected = torch.cat([network(transform(open_image(s.path))[None]) for s in samples])
        by_head = network.head(got.features)  # pyright: ignore
    torch.testing.assert_close(got.logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_head, got.logits, rtol=1e-5, atol=1e-5)
    assert got.samples == tuple(samples)
    assert got.labels.tolist() == [sample.label for sample in samples]
    assert got.unreadable == {}
    halved = got.scores(("a", "b", "c"), temperature=2.0)
    torch.testing.assert_close(halved.logits, got.logits / 2)


def test_unreadable_pictures_are_named_and_left_out(tmp_path: Path, make_folder: Callable) -> None:
    samples = read_folder(make_folder(tmp_path / "d")).splits["val"]
    samples[1].path.write_bytes(b"no picture")
    samples[-1].path.unlink()
    backbone = micro(2)
    got = answer(backbone.module.eval(), samples, backbone.preprocessing, batch_size=2)
    assert list(got.unreadable) == [samples[1].path, samples[-1].path]
    assert "not a picture" in got.unreadable[samples[1].path]
    assert got.samples == (samples[0], *samples[2:-1])
    assert len(got.logits) == len(got.features) == len(samples) - 2


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    backbone = micro(2)
    with pytest.raises(DataError, match="no picture can be read, of 1; the first: "):
        answer(backbone.module, [Sample(tmp_path / "x.jpg", 0)], backbone.preprocessing)
