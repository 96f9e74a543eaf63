from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from vitlora.errors import UsageError
from vitlora.studies.search.space import Choices, Range, Space, from_json, read_space


def read(folder: Path, text: str) -> Space:
    file = folder / "space.yaml"
    file.write_text(text, "utf-8")
    space, fields = read_space(file)
    assert from_json(json.loads(json.dumps(fields))) == space
    return space


def test_lists_are_kept_as_the_words_that_would_be_typed(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        """
model.adapter.rank: [4, 8]
model:
  adapter.targets: [[attention.qkv], [attention.qkv, mlp.fc1]]
  adapter.last_blocks: [null, 6]
  lr: [1e-3, 0.002]
data.augment: [none, yes]
model.adapter:
  - {class_path: LinearProbe}
  - {class_path: Lora, init_args: {rank: 3}}
""",
    )
    assert space.parts["model.adapter.targets"] == Choices(
        ('["attention.qkv"]', '["attention.qkv", "mlp.fc1"]')
    )
    assert space.parts["model.adapter.last_blocks"] == Choices(("null", "6"))
    assert space.parts["model.lr"] == Choices(("1e-3", "0.002"))
    assert space.parts["data.augment"] == Choices(("none", "yes"))
    first = next(space.points())
    assert space.words(first)[:4] == [
        *("--model.adapter", '{"class_path": "LinearProbe"}'),  # a class before its options
        *("--model.adapter.rank", "4"),
    ]
    assert space.size == 2**6


def test_points_are_those_of_nested_loops(tmp_path: Path) -> None:
    space = read(
        tmp_path,
        "model.adapter.rank: {low: 2, high: 8, step: 3}\n"
        "model.patch_drop: {low: 0.1, high: 0.5, step: 0.2}\n"
        "trainer.max_epochs: {low: 1, high: 2}\n",
    )
    found = [tuple(point.values()) for point in space.points()]
    expected = list(product([2, 5, 8], [0.1, 0.3, 0.5], [1, 2]))
    assert len(found) == space.size == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)
    other = {"model.adapter.rank": 5, "model.patch_drop": 0.30000000000000004}
    keys = {space.key(point) for point in space.points()}
    assert len(keys) == 18 and space.key({**other, "trainer.max_epochs": 1}) in keys


def test_a_range_of_any_number_has_no_size(tmp_path: Path) -> None:
    space = read(tmp_path, "model.lr: {low: 1e-4, high: 1e-2, log: true}")
    assert space.parts == {"model.lr": Range(0.0001, 0.01, True)}
    assert space.size is None and not Range(0.5, 4).whole and Range(1, 4).whole


def test_a_point_is_said_by_the_shortest_names_that_differ() -> None:
    one = Choices(("1",))
    space = Space({"model.adapter.rank": one, "model.lr": Range(0.1, 1), "trainer.lr": one})
    said = space.say({"model.adapter.rank": "1", "model.lr": 0.123456, "trainer.lr": '["a"]'})
    assert said == "rank 1, model.lr 0.1235, trainer.lr [a]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no options; expected"),
        ("[1, 2]", "there are no options"),
        ("model.lr: 0.1", "model.lr is 0.1; expected a list of choices, or a range"),
        ("model.lr: []", "model.lr has no choices"),
        ("model.adapter.rank: [4, 8, 4]", "has the choice 4 twice"),
        ("model.lr: {low: 1, high: 1}", "low is 1 and high is 1; expected low < high"),
        ("model.lr: {low: 2, high: 1}", "expected low < high"),
        ("model.lr: {high: 1}", "model.lr has no low"),
        ("model.lr: {low: 1, high: 9, stepp: 2}", "unknown key 'stepp' (did you mean 'step'?); a"),
        ("model.lr: {low: 1, hihg: 9}", "unknown key 'hihg' (did you mean 'high'?); a range has"),
        ("model.lr: {low: 0, high: 1, log: true}", "with log it must be above 0"),
        ("model.lr: {low: 1, high: 9, log: true, step: 2}", "has log and step"),
        ("model.lr: {low: 1, high: 2, step: 3}", "model.lr.step is 3"),
        ("model.lr: {low: 1, high: 2, step: -1}", "model.lr.step is -1"),
        ("model.lr: {low: a, high: 2}", "model.lr.low is 'a'; expected a number"),
        ("model.lr: {low: .nan, high: 2}", "model.lr.low is nan"),
        ("model.lr: {low: 1, high: .inf}", "model.lr.high is inf"),
        ("model.lr: {low: 1, high: 2, log: 3}", "model.lr.log is 3"),
        ("model: {lr: [1], lr: [2]}", "'lr' stands twice"),
        ("model: {lr: [1]}\nmodel.lr: [2]", "model.lr stands there twice"),
        ("data.root: [a, b]", "data.root changes the pictures"),
        ("data: {split_seed: [1, 2]}", "data.split_seed changes the pictures"),
        ("trainer.callbacks: [[], null]", "trainer.callbacks cannot be varied"),
        ("model: [1]", "model is a group"),
        ("model.lr: [1", "is not YAML"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_space(tmp_path / "none.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; expected a YAML file with the options"):
        read_space(tmp_path)
