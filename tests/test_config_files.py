from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vitlora import config_files, yaml_text
from vitlora.config_files import find_config, shipped
from vitlora.errors import UsageError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shipped_config_is_found_anywhere():
    there = Path(config_files.__file__).parent / "configs" / "demo.yaml"
    assert find_config("demo.yaml") == there == shipped()["demo.yaml"]


def test_a_path_counts_more_than_configs_and_that_more_than_what_ships():
    Path("configs").mkdir()
    for path in (Path("configs/demo.yaml"), Path("demo.yaml")):
        path.write_text("data: {}\n")
        assert find_config("demo.yaml") == path
    assert find_config("configs/demo.yaml") == Path("configs/demo.yaml")


def test_an_unknown_name_lists_what_is_found_in_both():
    Path("configs").mkdir()
    Path("configs/mine.yaml").write_text("data: {}\n")
    with pytest.raises(UsageError) as refused:
        find_config("mein.yaml")
    said = str(refused.value)
    assert "did you mean 'mine.yaml'?" in said and "in configs/: mine.yaml" in said
    assert all(name in said for name in shipped())


def test_a_path_to_nowhere_names_the_config_that_ships():
    with pytest.raises(UsageError, match=r"did you mean 'waste5-qlora\.yaml'"):
        find_config("configs/waste5-qlora.yaml")


def test_a_key_that_stands_twice_is_refused_with_its_lines():
    text = "model:\n  lr: 1\ndata: {}\nmodel:\n  head: lora\n"
    with pytest.raises(yaml.YAMLError, match="'model' stands twice, in lines 1 and 4"):
        yaml_text.read(text)
    assert yaml_text.read("a: {<<: {b: 1}, <<: {c: 2}}")["a"].keys() == {"b", "c"}
