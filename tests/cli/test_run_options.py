"""What a run is given: the bundle counts less than a config, a config less than what is typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import get_loader
from runs import MICRO

import vitlora
from vitlora import yaml_text
from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.cli.resolved import resolve
from vitlora.cli.run_options import run_options
from vitlora.errors import BundleError, UsageError
from vitlora.shell import option_words

NAMES = ["1e-3", "1e5", "yes", "no", "null", "012", "12:30", "1_000", "true", "~", "0x1f", "1."]
WORDS = [word for key, value in MICRO.items() for word in (f"--{key}", value)]
TYPED = f"[{','.join(NAMES)}]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    """Photos of classes that YAML takes for other things, and two bundles trained on them."""
    home = tmp_path_factory.mktemp("home")
    photos = make_folder(home / "photos", classes=NAMES, splits=("train", "val", "test"), count=2)
    fit = ["fit", "--data.root", str(photos), *WORDS, "--data.classes", TYPED]
    for name in ("checkpoints/x", "checkpoints/y"):
        assert main([*fit, "--output", str(home / name)]) == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    return tmp_path


def config(home: Path, text: str) -> list[str]:
    (home / "c.yaml").write_text(text)
    return ["--config", str(home / "c.yaml")]


def printed(capsys: Any, *words: str) -> dict[str, Any]:
    """Returns the configuration of a fit as ``--print_config`` shows it."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name",
    [*NAMES, ".5", "off", "2024-01-01", "-", "a: b", "=", "<<", "", "1e3", "?", "1:", "a\x85b"],
)
def test_text_that_is_written_is_read_as_the_same_text_by_every_loader(name: str) -> None:
    text = yaml_text.write({"classes": [name], name: name})
    for value in (
        yaml.safe_load(text),
        get_loader("yaml")(text),
        yaml_text.values(yaml_text.read(text)),
    ):
        assert value == {"classes": [name], name: name}


@pytest.mark.parametrize("name", [*NAMES, ".5", "off", "2024-01-01"])
def test_a_word_without_quotes_is_kept_as_it_was_typed(name: str) -> None:
    tree = yaml_text.read(f"data: {{classes: [{name}, b]}}")
    assert yaml_text.typed(tree) == {"data": {"classes": [name, "b"]}}
    assert yaml_text.as_typed(f"[{name}]") == [name]


def test_options_of_classes_that_are_not_ours_are_what_yaml_says() -> None:
    tree = yaml_text.read("a: {init_args: {n: 5, on: yes, x: [1e-3]}, n: 5, none: null, empty: }")
    assert yaml_text.typed(tree) == {
        "a": {"init_args": {"n": 5, "on": True, "x": [1e-3]}, "n": "5", "none": None, "empty": None}
    }


def test_class_names_stay_what_was_typed_through_every_command(home: Path, capsys: Any) -> None:
    assert load_bundle("checkpoints/x").record.classes == tuple(NAMES)
    assert printed(capsys, "--config", "checkpoints/x/config.yaml")["data"]["classes"] == NAMES
    by_hand = config(home, f"data: {{root: photos, classes: {TYPED}}}")
    assert printed(capsys, *by_hand)["data"]["classes"] == NAMES
    words = ["--data.root", "photos", "--data.classes", "[1, 2, 10]"]
    assert printed(capsys, *words)["data"]["classes"] == ["1", "2", "10"]
    new = ["--from", "checkpoints/x", "--data.root", "photos"]
    assert printed(capsys, *new)["data"]["known_classes"] == NAMES
    assert main(["validate", "--checkpoint", "checkpoints/x"]) == 0
    assert main(["test", "--checkpoint", "checkpoints/x", "--data.classes", TYPED]) == 0


def test_other_options_are_still_what_their_types_say(home: Path, capsys: Any) -> None:
    words = config(
        home,
        "output: 2026\ndata: {root: photos, batch_size: 8, resplit: yes, folds: null}\n"
        "model: {lr: 1e-3, adapter: {class_path: Lora, init_args: {ranks: {mlp.fc1: 3}}}}\n"
        "trainer: {logger: false, callbacks: null}",
    )
    found = printed(capsys, *words)
    assert found["output"] == "2026"
    assert found["data"]["batch_size"] == 8 and found["data"]["resplit"] is True
    assert found["model"]["lr"] == 1e-3
    assert found["model"]["adapter"]["init_args"]["ranks"] == {"mlp.fc1": 3}
    assert found["trainer"]["logger"] is False


def test_the_bundle_is_typed_else_the_configs_else_the_newest(home: Path) -> None:
    def scored(*words: str) -> str:
        return run_options("test", list(words))[1]["checkpoint"]

    named = config(home, "checkpoint: checkpoints/x")
    assert scored() == "checkpoints/y"
    assert scored(*named) == "checkpoints/x"
    assert scored(*named, "--checkpoint", "checkpoints/y") == "checkpoints/y"
    assert scored(*config(home, "checkpoint: null")) == "checkpoints/y"
    with pytest.raises(UsageError, match="checkpoint is ''"):
        scored(*config(home, "checkpoint: ''"))


def test_a_training_config_changes_no_score(home: Path, capsys: Any) -> None:
    words = config(
        home,
        "checkpoint: checkpoints/x\n"
        "model: {lr: 3, head: lora, image_size: null}\nunsure: {coverage: 0.5}\n"
        "data: {augment: strong, known_classes: null, batch_size: 2}\n"
        "trainer: {precision: bf16-mixed, limit_val_batches: 1, fast_dev_run: true}\n"
        "output: elsewhere",
    )
    for extra in ([], words):
        target = home / f"{len(extra)}.json"
        assert (
            main(["validate", "--checkpoint", "checkpoints/x", *extra, "--json", str(target)]) == 0
        )
    plain, told = (json.loads((home / f"{n}.json").read_text()) for n in (0, 2))
    assert told == plain
    options, inherited = run_options("validate", words)
    assert inherited["trainer.precision"] == "32-true"
    assert yaml.safe_load(options[1])["trainer"] == {}
    typed = run_options("validate", [*words, "--trainer.precision", "bf16-mixed"])[0]
    assert typed[-2:] == ["--trainer.precision", "bf16-mixed"]


def test_a_config_of_another_base_is_told_to_name_its_bundle(home: Path) -> None:
    words = config(home, "checkpoint: checkpoints/x\nmodel: {backbone: timm/vit_tiny_patch16_224}")
    with pytest.raises(UsageError, match="name the bundle to score with --checkpoint"):
        run_options("test", words)


@pytest.mark.parametrize(
    "text",
    ["model.lr: 3", "model: {lr: 3}", "model: part.yaml", "model: {adapter.init_args.rank: 4}"],
)
def test_every_way_to_write_a_group_is_read(text: str, home: Path, capsys: Any) -> None:
    Path("part.yaml").write_text("lr: 3")
    run = yaml.safe_load(run_options("fit", config(home, text))[0][1])
    assert run in ({"model": {"lr": "3"}}, {"model": {"adapter": {"init_args": {"rank": 4}}}})


def test_what_a_bundle_decides_is_no_part_of_a_config_any_more(home: Path) -> None:
    words, inherited = run_options(
        "fit", ["--from", "checkpoints/x", "--config", "checkpoints/x/config.yaml"]
    )
    left = yaml.safe_load(words[1])
    assert not {"backbone", "adapter", "head", "image_size"} & left["model"].keys()
    assert inherited["model.adapter"]["class_path"] == "Lora"
    assert left["model"]["lr"] == "0.002"
    conflict = config(home, "model: {adapter.init_args.rank: 4}\ndata: {root: photos}")
    with pytest.raises(UsageError, match=r"model\.adapter\.rank to 4"):
        run_options("fit", ["--from", "checkpoints/x", *conflict])


@pytest.mark.parametrize("word", ["?", "1:", "~:"])
def test_a_word_that_yaml_cannot_read_is_text(word: str, home: Path, capsys: Any) -> None:
    config = printed(capsys, "--data.root", "photos", "--data.classes", json.dumps(["a", word]))
    assert config["data"]["classes"] == ["a", word]
    assert printed(capsys, "--data.root", "photos", "--output", word)["output"] == word


def test_lightnings_own_options_and_nulls_are_part_of_a_run(home: Path, capsys: Any) -> None:
    words = ("--trainer.limit_train_batches", "2", "--trainer.gradient_clip_val", "null")
    trainer = printed(capsys, "--data.root", "photos", *words)["trainer"]
    assert trainer["limit_train_batches"] == 2 and trainer["gradient_clip_val"] is None
    assert "limit_val_batches" not in trainer  # as Lightning has it


def test_a_bundles_pictures_are_where_training_found_them(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = run_options("validate", ["--checkpoint", str(trained / "checkpoints/x")])[1]
    assert options["data.root"] == str((trained / "photos").resolve())
    assert not {"data.num_workers", "data.batch_size", "data.augment"} & options.keys()


def test_one_word_may_be_given_by_position(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words, inherited = run_options("fit", ["demo.yaml", "--data", "x", "--json"], run=False)
    assert inherited["output"] == str(Path("checkpoints/demo")) and inherited["json"] == "-"
    assert words[-2:] == ["--data.root", "x"] and words[0] == "--config"
    with pytest.raises(
        UsageError, match=r"unexpected argument 'photos'; expected CONFIG.yaml, or --data"
    ):
        run_options("fit", ["photos"])
    with pytest.raises(BundleError, match="checkpoint 'nowhere': no such folder"):
        run_options("test", ["nowhere"])


def test_names_that_all_commands_share_are_those_of_fit() -> None:
    shared = ["--data=x", "--weights", "w", "--device", "cpu", "--precision=32-true"]
    shared += ["--val-fraction", "0.1", "--test-fraction=0.2"]
    words, _ = run_options("fit", shared, run=False)
    assert words == [
        *("--data.root", "x", "--model.weights", "w", "--trainer.accelerator", "cpu"),
        *("--trainer.precision", "32-true", "--data.val_fraction", "0.1"),
        *("--data.test_fraction", "0.2"),
    ]
    # a group of options in a file is a file still
    assert run_options("fit", ["--data", "data.yaml"], run=False)[0] == ["--data", "data.yaml"]


def test_no_config_decides_where_a_result_goes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("json: stolen.json\ndata:\n  root: .\n")
    words, inherited = run_options("fit", ["mine.yaml"])
    assert inherited["json"] is None and "stolen" not in " ".join(words)
    with pytest.raises(UsageError, match="json is for the command line"):
        vitlora.fit("mine.yaml", json="x.json")
    with pytest.raises(UsageError, match="fit needs --config FILE or --data FOLDER"):
        vitlora.fit()


def given_in_python(*options: dict[str, Any]) -> dict[str, Any]:
    words = option_words(None, {"data.root": "photos"}, *options)
    words, inherited = run_options("fit", words, run=False)
    del inherited["json"]
    return resolve(words, inherited)


@pytest.mark.parametrize(
    "given",
    [
        {"adapter": "Lora", "adapter.rank": 8},
        {"adapter.rank": 8, "adapter": "Lora"},
        {"adapter.rank": 8},
        {"adapter": {"rank": 8}},
        {"adapter": {"class_path": "Lora", "init_args": {"rank": 8}}},
        {"adapter": {"class_path": "Lora"}, "adapter.rank": 8},
    ],
)
def test_a_class_may_be_named_beside_its_options(given: dict[str, Any]) -> None:
    adapter = given_in_python({"model": given})["model"]["adapter"]
    assert (adapter["class_path"], adapter["init_args"]["rank"]) == ("vitlora.adapters.Lora", 8)
    assert adapter["init_args"]["variant"] == "lora"


def test_values_given_in_python_are_what_they_are() -> None:
    callbacks = [{"class_path": "EarlyStopping", "init_args": {"monitor": "1:30", "patience": 4}}]
    read = given_in_python(
        {"data": {"classes": NAMES, "groups": Path("a b"), "num_workers": None}},
        {"model.adapter.ranks": {"attention.qkv": 2}, "trainer": {"callbacks": callbacks}},
        {"trainer.max_epochs": -1, "model.class_weights": True, "model.lr": 1e-5},
    )
    assert read["data"]["classes"] == NAMES
    assert (read["data"]["groups"], read["data"]["num_workers"]) == ("a b", None)
    assert read["model"]["adapter"]["init_args"]["ranks"] == {"attention.qkv": 2}
    assert (read["model"]["class_weights"], read["model"]["lr"]) == (True, 1e-5)
    assert read["trainer"]["max_epochs"] == -1
    stopping = read["trainer"]["callbacks"][0]["init_args"]
    assert (stopping["monitor"], stopping["patience"]) == ("1:30", 4)


def test_a_number_that_counts_less_is_not_looked_at() -> None:
    words = ["--data", "photos", "--model.lr", "1:30", "--model.lr", "0.1"]
    words, inherited = run_options("fit", words, run=False)
    del inherited["json"]
    assert resolve(words, inherited)["model"]["lr"] == 0.1


def test_test_and_report_have_the_same_logits(home: Path) -> None:
    """Lightning's loop and ``evaluation.answers`` open and judge pictures alike."""
    tested = vitlora.test("checkpoints/x", **{"trainer.enable_progress_bar": False}).scores
    reported = vitlora.report("checkpoints/x", split="test", output=home / "r.html").scores
    assert tested.labels.tolist() == reported.labels.tolist()
    torch.testing.assert_close(tested.logits, reported.logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_typed_is_refused_in_python() -> None:
    with pytest.raises(UsageError, match=r"--data\.root is given twice; give it once"):
        vitlora.fit(data="a", **{"data.root": "b"})
    with pytest.raises(UsageError, match=r"--trainer\.callbacks is \[<object.*expected text"):
        vitlora.fit(data="a", trainer={"callbacks": [object()]})
