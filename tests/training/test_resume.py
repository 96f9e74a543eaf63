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
from vitlora.training import run_state
from vitlora.training.run_state import RunState

LAST = ["--model.adapter.last_blocks", "2"]
EPOCHS = ["--trainer.max_epochs", "2"]
# options of a run of two epochs, each of 3 batches of 4 and one of 3
RUNS: dict[str, list[str]] = {
    "dropout, patch drop": ["--model.adapter.dropout", "0.2", "--model.patch_drop", "0.5"],
    "accumulated, a worker": ["--trainer.accumulate_grad_batches", "2", "--data.num_workers", "1"],
    "cache, two workers": [*LAST, "--trainer.cache", "memory", "--data.num_workers", "2"],
    "probe": ["--model.adapter", "LinearProbe", "--model.optimizer", "sgd"],
    "full, weights of classes": ["--model.adapter", "FullFineTuning", "--model.class_weights=true"],
    "early stopping, lion": [
        *("--trainer.max_epochs", "9", "--trainer.early_stopping", "1", "--model.optimizer", "lion")
    ],
    "steps": ["--trainer.max_steps", "7", "--trainer.max_epochs", "null"],
    "two validations": ["--trainer.val_check_interval", "0.5"],
    "eva": ["--model.adapter.variant", "eva", "--model.adapter.rank", "4"],
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
        shutil.copytree("out", copies[-1])
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
    for number in range(1, len(copies), 2) if kind == next(iter(RUNS)) else [len(copies) - 1]:
        put_back(copies[number])
        assert (Path("out") / STATE).is_file()
        assert main(["fit", "--resume", "--output", "out"]) == 0
        for name, content in left().items():
            assert content == whole[name], (number, name)
        assert left().keys() == whole.keys()
