"""A run twice, or again from its bundle's config.yaml alone: the same bundle, to the byte."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import MICRO

from vitlora.bundle.folder import FILES, RECORD, RUN_CONFIG
from vitlora.cli.main import main
from vitlora.memory import batch
from vitlora.training import time_budget

# the base that ships, in the defaults' precision
FIXED = {k: v for k, v in MICRO.items() if k not in ("model.weights", "trainer.max_epochs")}
EPOCH = ["--trainer.max_epochs", "1"]
KINDS: dict[str, list[str]] = {
    "lora": [],
    "two workers": ["--data.num_workers", "2", "--trainer.max_epochs", "2"],
    "random base, dropout, another seed": [
        *("--model.weights", "none", "--model.adapter.dropout", "0.2", "--seed_everything", "7"),
    ],
    "full": ["--model.adapter", "FullFineTuning"],
    "nf4": ["--model.quantization", "nf4"],
    "cache": ["--trainer.cache", "memory", "--model.adapter.last_blocks", "2"],
    "fold": ["--data.resplit", "true", "--data.folds", "3", "--data.fold", "1"],
    "pissa, patch drop": ["--model.adapter.variant", "pissa", "--model.patch_drop", "0.5"],
}


def fit(*words: str, output: str) -> Path:
    assert main(["fit", *words, "--output", output]) == 0
    return Path(output)


def options() -> list[str]:
    return [word for name, value in FIXED.items() for word in (f"--{name}", value)]


def assert_same(one: Path, other: Path, *differing: str) -> None:
    """Compares two bundles; time, place and what follows from them differ, and these options."""
    names = {path.name for path in one.iterdir() if path.is_file()}
    assert names == {path.name for path in other.iterdir() if path.is_file()}
    assert {"adapter_model.safetensors", "reference.safetensors", "README.md"} <= names <= {*FILES}
    for name in names - {RECORD, RUN_CONFIG}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    records = [json.loads((folder / RECORD).read_text()) for folder in (one, other)]
    for folder, record in zip((one, other), records, strict=True):
        for name in ("created", "digest"):
            del record[name]
        digest = hashlib.sha256((folder / RUN_CONFIG).read_bytes()).hexdigest()
        assert record["files"].pop(RUN_CONFIG) == digest
    assert records[0] == records[1]
    configs = [(folder / RUN_CONFIG).read_text().splitlines() for folder in (one, other)]
    differ = [a.split(":")[0].strip() for a, b in zip(*configs, strict=True) if a != b]
    assert differ == [*differing, "output"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos"), ("a", "b", "c"), count=5, size=40)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_repeated_by_its_arguments_and_by_its_config(kind: str, photos: Path) -> None:
    words = [*options(), *EPOCH, "--data", str(photos), "--data.batch_size", "4", *KINDS[kind]]
    first = fit(*words, output="first")
    assert_same(first, fit(*words, output="second"))
    assert_same(first, fit("--config", "first/config.yaml", output="third"))


def test_another_number_of_workers_changes_no_byte_but_its_own(photos: Path) -> None:
    words = [*options(), *EPOCH, "--data", str(photos), "--data.batch_size", "4"]
    one, other = (
        fit(*words, output="first"),
        fit(*words, "--data.num_workers", "2", output="second"),
    )
    assert_same(one, other, "num_workers")


def test_another_process_with_another_hash_seed_writes_the_same(photos: Path) -> None:
    words = [*options(), *EPOCH, "--data", str(photos)]
    for name, seed in (("first", "1"), ("second", "2")):
        command = [sys.executable, "-m", "vitlora", "fit", *words, "--output", name]
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, env=env, check=True, capture_output=True)
    assert_same(Path("first"), Path("second"))


def test_a_continued_run_is_repeated(photos: Path, make_folder: Callable[..., Path]) -> None:
    fit(*options(), *EPOCH, "--data", str(photos), output="parent")
    new = make_folder(Path("new"), ("a", "b", "c", "d"), count=3, size=40)
    words = ["--from", "parent", "--data", str(new), *EPOCH, "--device", "cpu"]
    words += ["--data.num_workers", "0"]
    first = fit(*words, output="first")
    assert_same(first, fit("--config", "first/config.yaml", output="second"))


def test_a_batch_that_was_made_to_fit_is_repeated_whatever_is_free_later(
    photos: Path, monkeypatch: Any
) -> None:
    words = [*options(), *EPOCH, "--data", str(photos), "--data.batch_size", "auto"]
    with monkeypatch.context() as less:
        less.setattr(batch, "fitting_batch", lambda counted, room, most, devices: most // 8)
        first = fit(*words, output="first")
    run = yaml.safe_load((first / RUN_CONFIG).read_text())
    assert (run["data"]["batch_size"], run["trainer"]["accumulate_grad_batches"]) == (4, 8)
    assert_same(first, fit("--config", "first/config.yaml", output="second"))


def test_a_timed_run_whose_plan_held_is_repeated(photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(time_budget, "MOST_EPOCHS", 2)  # the plan on any machine
    first = fit(*options(), "--data", str(photos), "--time", "5m", output="first")
    assert yaml.safe_load((first / RUN_CONFIG).read_text())["trainer"]["max_steps"] == 2
    assert_same(first, fit("--config", "first/config.yaml", output="second"))


def test_with_a_set_date_even_the_record_is_the_same(photos: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    words = [*options(), *EPOCH, "--data", str(photos)]
    fit(*words, output="run").rename("first")
    first, second = Path("first"), fit(*words, output="run")
    assert json.loads((first / RECORD).read_text())["created"] == "2001-09-09T01:46:40+00:00"
    for path in (path for path in first.iterdir() if path.is_file()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize("date", ["today", "-1e3", "99999999999999"])
def test_a_wrong_date_is_told_before_the_training(
    date: str, photos: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    assert main(["fit", *options(), *EPOCH, "--data", str(photos), "--output", "run"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"vitlora: SOURCE_DATE_EPOCH is '{date}'; expected whole seconds since 1970, or unset it\n"
    )
    assert "epoch" not in said.out and not Path("run").exists()
