"""A run that was killed goes on as if it had not been: the same files, to the last bit.

What a kill leaves is a copy of the run's folder from any moment. So one whole run gives many kills.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import MICRO

from vitlora.bundle.folder import STATE
from vitlora.cli.main import main
from vitlora.training import Summary, run_state, time_budget
from vitlora.training.run_state import RunState

LAST = ["--model.adapter.last_blocks", "2"]
EPOCHS = ["--trainer.max_epochs", "2"]
# options of a run of two epochs, each of 3 batches of 4 and one of 3
RUNS: dict[str, list[str]] = {
    "dropout, patch drop": ["--model.adapter.dropout", "0.2", "--model.patch_drop", "0.5"],
    "accumulated, a worker, steps": [
        *("--trainer.accumulate_grad_batches", "2", "--data.num_workers", "1"),
        *("--trainer.max_steps", "7", "--trainer.max_epochs", "null"),
    ],
    "cache, two workers": [*LAST, "--trainer.cache", "memory", "--data.num_workers", "2"],
    "epochs of one batch": ["--data.batch_size", "16", "--trainer.max_epochs", "4"],
    "probe": ["--model.adapter", "LinearProbe", "--model.optimizer", "sgd"],
    "full, weights of classes, early stopping": [
        *("--model.adapter", "FullFineTuning", "--model.class_weights=true"),
        *("--trainer.max_epochs", "9", "--trainer.early_stopping", "1"),
    ],
    "eva, two validations, lion": [
        *("--model.adapter.variant", "eva", "--model.adapter.rank", "4"),
        *("--trainer.val_check_interval", "0.5", "--model.optimizer", "lion"),
    ],
    "pissa, 8 bits": ["--model.adapter.variant", "pissa", "--model.optimizer", "adamw8bit"],
    "nf4, bf16": ["--model.quantization", "nf4", "--trainer.precision", "bf16-mixed"],
}


def fit(*words: str) -> int:
    options = {**MICRO, "trainer.precision": "32-true", "trainer.log_every_n_steps": "1"}
    fixed = [word for name, value in options.items() for word in (f"--{name}", value)]
    return main(["fit", *fixed, *EPOCHS, "--data.batch_size", "4", "--output", "out", *words])


def left() -> dict[str, Any]:
    """Returns what a run left: its files without what depends on the time."""
    found: dict[str, Any] = {}
    for path in sorted(Path("out").rglob("*")):
        if path.is_file() and "tfevents" not in path.name:
            found[path.name] = path.read_bytes()
    record = found["vitlora.json"] = json.loads(found["vitlora.json"])
    for name in ("created", "digest"):
        del record[name]
    del record["files"]["config.yaml"]  # whose options may stand in another order
    found["config.yaml"] = yaml.safe_load(found["config.yaml"])
    return found


def put_back(copy: Path) -> None:
    shutil.rmtree("out")
    shutil.copytree(copy, "out")


def goes_on_as(whole: dict[str, Any], copy: Path, *words: str) -> None:
    """Goes on after a kill, and compares what is left in the end."""
    put_back(copy)
    assert main(["fit", "--resume", "--output", "out", *words]) == 0
    found = left()
    assert found.keys() == whole.keys()
    for name, content in found.items():
        assert content == whole[name], name


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos"), ("a", "b", "c"), count=5, size=40)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kills(monkeypatch: Any) -> list[Path]:
    """Saves a state before every batch; lists the folders that a kill just before would leave."""
    copies: list[Path] = []
    own = RunState._save

    def save(self: RunState, *args: Any) -> None:
        copies.append(Path(f"kill-{len(copies)}"))
        shutil.copytree(self.file.parent, copies[-1])
        own(self, *args)

    monkeypatch.setattr(RunState, "_save", save)
    monkeypatch.setattr(run_state, "_EVERY", 0.0)
    monkeypatch.setattr(run_state, "_WORTH", 0.0)
    return copies


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    kind: str, photos: Path, kills: list[Path]
) -> None:
    assert fit("--data", str(photos), *RUNS[kind]) == 0
    whole, copies = left(), list(kills)
    assert len(copies) >= 4 and STATE not in whole
    assert {"adapter_model.safetensors", "metrics.csv"} <= whole.keys()
    # one in the second epoch; of the first kind, also in the first and at the start of the second
    for number in range(1, len(copies), 3) if kind == next(iter(RUNS)) else [len(copies) - 1]:
        goes_on_as(whole, copies[number])


def test_a_timed_run_keeps_its_plan(photos: Path, kills: list[Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(time_budget, "MOST_EPOCHS", 2)  # the plan on any machine
    monkeypatch.setattr(time_budget, "_FEW", 1e6)  # half of the patches are left out
    fixed = [word for name, value in MICRO.items() for word in (f"--{name}", value)]
    fixed = [word for word in fixed if word not in ("--trainer.max_epochs", "1")]
    words = ["--time", "5m", "--data.batch_size", "4", "--output", "out"]
    assert main(["fit", "--data", str(photos), *fixed, *words]) == 0
    whole = left()
    assert whole["config.yaml"]["model"]["patch_drop"] == 0.5
    goes_on_as(whole, kills[-2])


def test_a_run_that_continues_a_bundle_goes_on(
    photos: Path, kills: list[Path], make_folder: Callable[..., Path], capsys: Any
) -> None:
    assert fit("--data", str(photos), "--trainer.max_epochs", "1", "--output", "first") == 0
    new = make_folder(Path("new"), ("a", "b", "c", "d"), count=3, size=40)
    words = [*("--from", "first", "--data", str(new), "--output", "out"), *EPOCHS]
    words += ["--trainer.accelerator", "cpu", "--data.num_workers", "0", "--data.batch_size", "4"]
    assert main(["fit", *words]) == 0
    whole = left()
    said = capsys.readouterr().out
    goes_on_as(whole, kills[-2])
    assert "resuming from" in (again := capsys.readouterr().out)
    assert said.split("before -> after")[1] == again.split("before -> after")[1]  # what it forgot
    goes_on_as(whole, kills[-2], "--from", "first")  # the command of a job that is queued again
    shutil.rmtree("first")
    put_back(kills[-2])
    assert main(["fit", "--resume", "--output", "out"]) == 1
    assert "first" in capsys.readouterr().err


def test_callbacks_of_the_user_go_on_if_they_are_given_again(
    photos: Path, kills: list[Path], capsys: Any
) -> None:
    Path("run.yaml").write_text(
        "trainer:\n  max_time: 00:01:00:00\n  callbacks:\n"
        "  - class_path: EarlyStopping\n    init_args: {monitor: train/loss, patience: 3}\n"
        "  - class_path: Timer\n    init_args: {interval: epoch}\n"
    )
    assert fit("--data", str(photos), "--config", "run.yaml") == 0
    whole = left()
    put_back(kills[-2])
    assert main(["fit", "--resume", "--output", "out"]) == 2
    assert "may not be taken from a file: give it again" in capsys.readouterr().err
    goes_on_as(whole, kills[-2], "--config", "run.yaml")


def test_a_callback_that_cannot_be_saved_is_said_once(
    photos: Path, kills: list[Path], monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(Summary, "state_dict", lambda self: {"odd": {1, 2}})
    assert fit("--data", str(photos), "--trainer.max_epochs", "1") == 0
    said = capsys.readouterr().err
    assert said.count("cannot be written (callback state: callbacks.Summary.odd is a set)") == 1
