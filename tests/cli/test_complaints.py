"""Tests of what is said of a wrong configuration: what was typed, and the line that answers it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from vitlora.cli.main import main

MICRO = ["--model.backbone", "vitlora/vit_micro_patch8_96", "--model.weights", "none"]
UTMOST = 400  # characters

TYPED = [
    # a logger
    (
        "--trainer.logger CSVLogger",
        "trainer.logger: CSVLogger needs save_dir; add --trainer.logger",
    ),
    ("--trainer.logger CSVLoger", "trainer.logger 'CSVLoger' is unknown; * 'CSVLogger'?"),
    ("--trainer.logger 3", "trainer.logger '3' is unknown; expected a class of lightning.pytorch"),
    ("--trainer.logger foo.Bar", "trainer.logger 'foo.Bar': there is no module foo"),
    (
        "--trainer.logger lightning.pytorch.loggers.CSVLoger",
        "lightning.pytorch.loggers has no CSVLoger (did you mean 'CSVLogger'?)",
    ),
    (
        "--trainer.logger CSVLogger --trainer.logger.save_dir x --trainer.logger.nme y",
        "unknown key 'trainer.logger.nme' (did you mean 'trainer.logger.name'?); CSVLogger takes",
    ),
    (
        "--trainer.logger CSVLogger --trainer.logger.flush_logs_every_n_steps often",
        "trainer.logger.flush_logs_every_n_steps is 'often'; expected a whole number",
    ),
    ("--trainer.logger collections.OrderedDict", "trainer.logger is 'collections.OrderedDict'"),
    ("--trainer.logger+ CSVLogger", "trainer.logger: CSVLogger needs save_dir"),
    ("--data.split_seed 1:30", "data.split_seed is '1:30'; expected a decimal number"),
    ("--seed_everything=0x1F", "seed_everything is '0x1F'; expected a decimal number"),
    ("--model.lr .nan", "model.lr is '.nan'; expected a decimal number"),
    ("--model.adapter.rank 1_000", "model.adapter.rank is '1_000'; expected a decimal number"),
    # callbacks
    ("--trainer.callbacks Timr", "trainer.callbacks has 'Timr', * (did you mean 'Timer'?)"),
    ("--trainer.callbacks foo.Bar", "trainer.callbacks has 'foo.Bar', which was not found"),
    ("--trainer.callbacks EarlyStopping", "trainer.callbacks: EarlyStopping needs monitor; add"),
    ("--trainer.callbacks+ EarlyStopping", "trainer.callbacks: EarlyStopping needs monitor; add"),
    (
        "--trainer.callbacks EarlyStopping --trainer.callbacks.montor val/acc",
        "unknown key 'trainer.callbacks.montor' (did you mean 'trainer.callbacks.monitor'?)",
    ),
    (
        "--trainer.callbacks EarlyStopping --trainer.callbacks.patience x",
        "trainer.callbacks.patience is 'x'; expected a whole number",
    ),
    (
        "--trainer.callbacks ModelCheckpoint --trainer.callbacks.every_n_epochs x",
        "trainer.callbacks.every_n_epochs is 'x'; expected a whole number or null",
    ),
    (
        "--trainer.callbacks ThroughputMonitor --trainer.callbacks.batch_size_fn len",
        "trainer.callbacks.batch_size_fn is 'len'; expected a function",
    ),
    # strategies, profilers, plugins, devices
    ("--trainer.strategy ddpp", "trainer.strategy is ddpp; expected auto, ddp or fsdp"),
    ("--trainer.strategy DeepSpeedStrategy", "trainer.strategy * expected auto, ddp or fsdp"),
    ("--trainer.strategy fsdp", "trainer.strategy is fsdp, * but the run has one"),
    ("--trainer.num_nodes 2", "trainer.num_nodes is 2, but nothing started this process"),
    ("--trainer.profiler simpel", "profiler"),
    ("--trainer.profiler PyTorchProfiler --trainer.profiler.row_limit x", "row_limit is 'x'"),
    (
        "--trainer.profiler SimpleProfiler --trainer.profiler.foo 3",
        "unknown key 'trainer.profiler.foo' * SimpleProfiler takes dirpath, filename, extended",
    ),
    ("--trainer.plugins foo", "trainer.plugins 'foo' is unknown"),
    ("--trainer.plugins MixedPrecision", "trainer.plugins: MixedPrecision needs precision, device"),
    (
        "--trainer.plugins lightning.pytorch.plugins.MixedPrecision --trainer.plugins.precision x",
        "trainer.plugins.precision is 'x'; expected one of '16-mixed', 'bf16-mixed'",
    ),
    ("--trainer.max_time x", "not a valid duration"),
    ("--trainer.accelerator tpu", "--trainer.accelerator 'tpu' is unknown; use auto, cpu"),
    ("--trainer 3", "--trainer takes a YAML file"),
    # the adapter
    ("--model.adapter foo.Lora", "model.adapter 'foo.Lora': there is no module foo"),
    ("--model.adapter vitlora.adapters.Nope", "vitlora.adapters has no Nope"),
    ("--model.adapter 3", "model.adapter '3' is unknown; expected one of Lora, LinearProbe"),
    ("--model.adapter EarlyStopping", "model.adapter 'EarlyStopping' is unknown; expected one of"),
    # the length of a run
    ("--trainer.max_epochs null", "trainer.max_epochs is null, but the learning rate schedule"),
    ("--trainer.max_epochs null --trainer.max_time 00:00:01:00", "needs the run's length"),
    ("--trainer.max_epochs -1", "trainer.max_epochs is -1; expected at least 1"),
    ("--trainer.max_steps 0", "trainer.max_steps is 0; expected at least 1"),
]

WRITTEN = [
    ("model: {lr: 1:30}", "model.lr is '1:30'; expected a decimal number"),
    ("model.adapter.rank: 0x10", "model.adapter.rank is '0x10'; expected a decimal number"),
    ("seed_everything: -1", "-1 is not in bounds"),
    ("trainer: {val_check_interval: 500}", "val_check_interval` (500) must be less than or equal"),
    ("model: {backbon: x}", "unknown key 'model.backbon' (did you mean 'model.backbone'?)"),
    ("data: {rooot: x}", "unknown key 'data.rooot' (did you mean 'data.root'?)"),
    ("trainer: {max_epoch: 3}", "unknown key 'trainer.max_epoch' (did you mean"),
    ("trainer: {logger: {class_path: CSVLogger}}", "trainer.logger: CSVLogger needs save_dir"),
    (
        "trainer: {logger: [{class_path: CSVLogger, init_args: {save_dir: x, nme: y}}]}",
        "unknown key 'trainer.logger.nme'",
    ),
    ("trainer: {logger: [{class_path: CSVLoger}]}", "trainer.logger 'CSVLoger' is unknown"),
    (
        "trainer: {logger: {class_path: CSVLogger, save_dir: x}}",
        "trainer.logger takes class_path and init_args; move its options into init_args",
    ),
    ("trainer: {logger: {name: x}}", "without a class_path; expected class_path and init_args"),
    ("trainer: {callbacks: [{class_path: Timr}]}", "trainer.callbacks 'Timr' is unknown"),
    ("trainer: {callbacks: [EarlyStopping]}", "trainer.callbacks: EarlyStopping needs monitor"),
    (
        "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {patienc: 3}}]}",
        "unknown key 'trainer.callbacks.patienc'",
    ),
    (
        "trainer: {callbacks: {class_path: EarlyStopping, monitor: val/acc}}",
        "trainer.callbacks takes class_path and init_args; move its options into init_args",
    ),
    (
        "trainer: {callbacks: [{monitor: val/acc}]}",
        "trainer.callbacks has monitor, but no class_path",
    ),
    ("model: {adapter: [Lora]}", "model.adapter is ['Lora']; expected the name of a class"),
    (
        "model: {adapter: {class_path: Lora, init_args: 3}}",
        "model.adapter: init_args of Lora must map",
    ),
    (
        "model: {adapter: {class_path: Lora, init_args: {rank: x}}}",
        "model.adapter.rank is 'x'; expected a whole number",
    ),
]

# callbacks that would spoil a run: the words of each, and why it is refused
REFUSED = [
    ("WeightAveraging", "the scores would be those of averaged weights"),
    ("EMAWeightAveraging", "the scores would be those of averaged weights"),
    (
        "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1",
        "averages at the end of training",
    ),
    ("ModelPruning --trainer.callbacks.pruning_fn l1_unstructured", "replaces the weights"),
    ("BackboneFinetuning", "model.adapter chooses"),
    ("BatchSizeFinder", "data.batch_size auto"),
    ("LearningRateFinder", "another model.lr"),
    (
        "GradientAccumulationScheduler --trainer.callbacks.scheduling '{1: 2}'",
        "the learning rate schedule counts",
    ),
    ("DeviceStatsMonitor", "needs a logger of its own"),
    ("ModelCheckpoint --model.quantization nf4", "cannot be loaded"),
    (
        "OnExceptionCheckpoint --trainer.callbacks.dirpath x --model.quantization nf4",
        "cannot be loaded",
    ),
]


@pytest.fixture
def photos(make_folder: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_folder(tmp_path / "photos")


def fit(photos: Path, *words: str) -> int:
    small = ["--model.image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    return main(["fit", "--data.root", str(photos), *MICRO, *small, "--output", "out", *words])


def check(error: str, *parts: str) -> None:
    lines = [line for line in error.splitlines() if line.startswith("vitlora: ")]
    assert len(lines) == 1
    assert "Traceback" not in error
    assert len(lines[0]) < UTMOST
    assert not any(word in lines[0] for word in ("Namespace", "NestedArg", "model.adapter.trainer"))
    for part in parts:
        assert part in lines[0]
    assert not Path("out").exists()


@pytest.mark.parametrize(("words", "said"), TYPED)
def test_what_was_typed_is_answered_in_a_line(words, said, photos, capsys):
    assert fit(photos, *shlex.split(words)) == 2
    check(capsys.readouterr().err, *(part.strip() for part in said.split("*")))


@pytest.mark.parametrize(("config", "said"), WRITTEN)
def test_what_a_config_says_is_answered_in_a_line(config, said, photos, capsys):
    Path("run.yaml").write_text(config)
    assert fit(photos, "--config", "run.yaml") == 2
    check(capsys.readouterr().err, said)


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_a_callback_that_would_spoil_the_run_is_refused_by_name(words, said, photos, capsys):
    path = "lightning.pytorch.callbacks."
    assert fit(photos, "--trainer.callbacks", *shlex.split(path + words)) == 2
    check(capsys.readouterr().err, words.split()[0], said)


def test_a_package_that_is_missing_is_named_with_what_to_type(photos, capsys, monkeypatch):
    def lacking(self: Any, *_: Any, **__: Any) -> None:
        raise ModuleNotFoundError(
            "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U "
            "'wandb>=0.12.10'`"
        )

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.__init__", lacking)
    assert fit(photos, "--trainer.logger", "lightning.pytorch.loggers.WandbLogger") == 2
    line = "trainer.logger: WandbLogger needs the package wandb>=0.12.10, which is not installed"
    check(capsys.readouterr().err, line, "pip install 'wandb>=0.12.10'")
