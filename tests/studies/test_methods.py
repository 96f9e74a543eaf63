from typing import Any

import pytest
from runs import BACKBONE

import vitlora.adapters
from vitlora import yaml_text
from vitlora.studies.methods import METHODS, configure
from vitlora.training.classifier import Classifier


def base(**model: Any) -> dict[str, Any]:
    lora = {"class_path": "vitlora.adapters.Lora", "init_args": {"rank": 4, "variant": "lora"}}
    fields = {"adapter": lora, "head": "full", "quantization": "none", "block_size": 64, "lr": 2e-3}
    return {"data": {"root": "photos"}, "model": {**fields, **model}}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_one_the_classifier_takes(name: str) -> None:
    model = dict(configure(base(), name)["model"])
    adapter = model.pop("adapter")
    made = getattr(vitlora.adapters, adapter["class_path"])(**adapter.get("init_args", {}))
    Classifier(3, BACKBONE, "none", 32, adapter=made, **model)
    assert getattr(made, "rank", 4) == 4


@pytest.mark.parametrize("name", METHODS)
def test_a_method_changes_no_more_than_it_is(name: str) -> None:
    lora, other = (yaml_text.flat(configure(base(), method)) for method in ("lora", name))
    changed = {key for key in {**lora, **other} if lora.get(key) != other.get(key)}
    of_adapter = {key for key in changed if key.startswith("model.adapter.")}
    assert changed - of_adapter <= {"model.lr", "model.quantization"}
    assert name in ("linear", "full") or len(of_adapter) <= 1


@pytest.mark.parametrize(
    ("name", "expected"), [("lora", 2e-3), ("linear", 5e-3), ("full", 2e-4), ("lora+", 1e-3)]
)
def test_rates_are_those_of_the_benchmarks(name: str, expected: float) -> None:
    assert configure(base(), name)["model"]["lr"] == pytest.approx(expected)
    assert configure(base(), name, same_rate=True)["model"]["lr"] == 2e-3


def test_a_rate_belongs_to_the_adapter_it_stands_with() -> None:
    probe = base(adapter={"class_path": "LinearProbe"}, lr=1e-2)
    assert configure(probe, "linear")["model"]["lr"] == 1e-2
    assert configure(probe, "lora")["model"]["lr"] == pytest.approx(4e-3)


def test_a_configuration_in_four_bits_still_makes_plain_lora_plain() -> None:
    four = base(quantization="fp4", block_size=32)
    assert configure(four, "qlora")["model"]["quantization"] == "fp4"
    plain = configure(four, "lora")["model"]
    assert (plain["quantization"], plain["block_size"]) == ("none", 64)


def test_a_head_trained_as_lora_is_full_where_there_is_no_lora() -> None:
    assert configure(base(head="lora"), "linear")["model"]["head"] == "full"
    assert configure(base(head="lora"), "qlora")["model"]["head"] == "lora"


def test_the_configuration_itself_stays_as_it_was() -> None:
    mine = base()
    configure(mine, "full")
    assert mine == base()
