"""``fit``, ``validate`` and ``test`` on Lightning's CLI."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from vitlora import yaml_text
from vitlora.bundle.checkpoint import Bundle, bundle_bytes, load_bundle
from vitlora.bundle.merging import merged_network, trained_network
from vitlora.cli.calibrating import calibrate_run
from vitlora.cli.complaints import explained
from vitlora.cli.continuing import follow, note_absent, remembered
from vitlora.cli.lightning_errors import check_checkpoints, is_lightnings, stopped_by_callbacks
from vitlora.cli.lightning_parser import (
    Parser,
    add_run_options,
    by_value,
    check_numbers,
    prepare,
    show_only_ours,
)
from vitlora.cli.resuming import begin, same_options
from vitlora.cli.scoring import check_fits, failed
from vitlora.cli.timing import as_found, time_budget
from vitlora.data.datamodule import FolderData
from vitlora.errors import UsageError
from vitlora.evaluation.forgetting import OldPictures
from vitlora.evaluation.pictures import guard
from vitlora.hardware import free_memory
from vitlora.memory import Batches, MemoryFullError
from vitlora.memory.devices import check_shared
from vitlora.metrics.unsure import Unsure
from vitlora.notes import note, tell
from vitlora.shell import SHORT, typed
from vitlora.training import RunFolder, Summary, Trainer, ranks
from vitlora.training.classifier import Classifier
from vitlora.training.continued import check_output, start
from vitlora.training.identity import check_same_data
from vitlora.training.progress import stopped_early
from vitlora.training.run_state import RunState
from vitlora.training.time_budget import TimeBudget

_DESCRIPTIONS = {
    "fit": "Trains an adapter on a folder of pictures and writes a bundle.",
    "validate": "Scores a bundle on its validation split.",
    "test": "Scores a bundle on its test split.",
}
_SHORT = ", ".join(f"{short} for {name}" for short, name in SHORT.items() if "." in name)
_DRIVEN_BY_US = {"ckpt_path", "weights_only", "verbose", "datamodule", "model"}


class VitloraCLI(LightningCLI):
    """Creates a model, a folder and a trainer, and runs one subcommand.

    Args:
        inherited: Option -> value, overridden by configs and arguments.
        args: The arguments after the program's name.
        started: ``time.monotonic()`` when the command began.
    """

    def __init__(self, inherited: Mapping[str, Any], args: list[str], started: float) -> None:
        self._inherited, self._words, self._started = dict(inherited), args, started
        self.budget: list[TimeBudget] = []  # one, or none
        reading = {"exit_on_error": False, "parser_mode": yaml_text.MODE}
        parsers: dict[str, Any] = {
            name: {"description": f"{text} Short names: {_SHORT}.", **reading}
            for name, text in _DESCRIPTIONS.items()
        }
        super().__init__(
            *(Classifier, FolderData),
            trainer_class=Trainer,
            parser_class=Parser,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "vitlora", "allow_abbrev": False, **reading, **parsers},
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the subcommands and the arguments of the trainer's methods to leave out."""
        return {
            "fit": {"train_dataloaders", "val_dataloaders", *_DRIVEN_BY_US},
            "validate": {"dataloaders", *_DRIVEN_BY_US},
            "test": {"dataloaders", *_DRIVEN_BY_US},
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the groups in order of importance; Lightning puts its own first."""
        parser.add_lightning_class_args(FolderData, "data")
        parser.add_lightning_class_args(Classifier, "model")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.add_class_arguments(Unsure, "unsure")
        show_only_ours(parser)
        parser.usage = "vitlora fit|validate|test [CONFIG.yaml | CHECKPOINT] [any option below]"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the other options."""
        add_run_options(parser)
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        cast(Parser, parser).inherit(self._inherited)

    def before_instantiate_classes(self) -> None:
        """Replaces enumerations by their values, for YAML, and checks numbers.

        Raises:
            UsageError: An argument was read as another number than it says.
        """
        by_value(self.config)
        check_numbers(self.config[str(self.subcommand)], self._words)

    def instantiate_classes(self) -> None:
        """Creates model, data and trainer.

        Raises:
            UsageError: A class does not accept its options; the message names its key.
        """
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Problem with given class_path" not in str(error):
                raise
            raise explained(error, self.config.get(str(self.subcommand))) from None

    def before_fit(self) -> None:
        """Adds the callbacks that report and save the run; prepares to continue from a bundle."""
        config = self.config.fit
        if config.output == "":
            raise UsageError("--output is empty; expected a folder")
        check_checkpoints(self.trainer, self.model.storage.quantization)
        output = Path(config.output or "checkpoints/run")
        ranks.join(self.trainer)
        check_same_data(self.datamodule, same_options(self._options()))
        lock, interruption, found = begin(output, config.resume, self._options, self._held)
        parent = config["from"] and load_bundle(config["from"])
        if parent:
            check_output(output, parent)
        elif config.old_data:
            raise UsageError("--old-data is for --from; leave it out, or add --from")
        self.run_folder = RunFolder(
            output,
            run_config=self._run_config,
            logs=config.trainer.logger in (None, True),
            parent=parent.digest[:16] if parent else None,
            lock=lock,
        )
        self.state = RunState(output, self._options, interruption, self.run_folder.parent, found)
        self.memory: OldPictures | None = None
        if parent:
            start(self.model, parent)
            data = self.datamodule
            tell(f"continuing from {parent.folder}{follow(parent, data)}")
            note_absent(data)
            if self.trainer.is_global_zero:
                self.memory = remembered(parent, self._merged(parent), data, config.old_data)
        trainer: Any = self.trainer
        self.budget = time_budget(trainer, self.datamodule, self._started, self._words)
        # first, because other callbacks need its loggers
        ours = [Summary(), *self.budget, self.run_folder, self.state]
        trainer.callbacks = [*ours, *trainer.callbacks]

    def fit(self, model: Classifier, datamodule: FolderData) -> None:
        """Trains, after finding the batch size if it is auto; explains if memory runs out."""
        self.state.settle(datamodule, self.trainer)
        batches = Batches(vars(self.config.fit.model), model, datamodule, self.trainer)
        if datamodule.auto_batch:
            tell(batches.settle())
        check_shared(datamodule.batch_size, ranks.count())
        with batches.explained(), stopped_by_callbacks():
            self.trainer.fit(model, datamodule=datamodule)

    def after_fit(self) -> None:
        """Prints the scores of the kept epoch, calibrates the bundle, and says what to do next."""
        ranks.leave()
        if not self.trainer.is_global_zero:
            return
        if not self.run_folder.written:
            raise UsageError("nothing was trained: trainer.limit_train_batches leaves no batch")
        if self.run_folder.kept is None:
            return
        folder, scores = self.run_folder.folder, self.run_folder.kept
        kept, last = self.run_folder.kept_epoch, self.run_folder.last_epoch
        self.model.release()  # makes room for the bundle's network
        if line := stopped_early(self.trainer, last):
            tell(line)
        why = ""
        if kept < last:
            early = bool(self.trainer.early_stopping_callbacks)
            why = f" (the best of {last})" if early else " (later ones were clearly worse)"
        tell(
            f"\nvalidation, epoch {kept}{why}, in "
            f"{self.trainer.precision}, before calibration\n\n{scores.to_text()}"
        )
        if warning := failed(scores):
            note(warning)
        unsure = self._get(self.config_init, "unsure")
        calibrate_run(folder, self.datamodule, self._merged, unsure)
        if self.memory is not None:
            bundle = load_bundle(folder)
            forgetting = self.memory.compare(self._merged(bundle), bundle.record.preprocessing)
            tell(f"\n{forgetting.to_text(self.memory.where)}")
        for budget in self.budget:
            budget.tell()
        tell(f"\nbundle   {folder}  ({bundle_bytes(folder):,} bytes)")
        tell(f"predict  {typed('vitlora', 'predict', 'IMAGE.jpg', '--checkpoint', folder)}")

    def _merged(self, bundle: Bundle) -> nn.Module:
        device = self.trainer.strategy.root_device
        return merged_network(bundle, self._get(self.config, "model.weights"), device)

    def validate(self, model: Classifier, datamodule: FolderData) -> None:
        """Scores a bundle on the validation split."""
        self._score("val", model, datamodule)

    def test(self, model: Classifier, datamodule: FolderData) -> None:
        """Scores a bundle on the test split."""
        self._score("test", model, datamodule)

    def _score(self, split: str, model: Classifier, data: FolderData) -> None:
        bundle = load_bundle(self._get(self.config, "checkpoint"))
        check_fits(bundle, model, data)
        known = guard(bundle, data, split)
        model.network = trained_network(model.backbone, bundle, self.trainer.strategy.root_device)
        ranks.join(self.trainer)
        check_same_data(data)
        run = self.trainer.validate if split == "val" else self.trainer.test
        run(model, datamodule=data, verbose=False)
        if not self.trainer.is_global_zero:
            return
        scores = model.scores(bundle.record.classes)
        scores = replace(scores, logits=bundle.judge.calibrated(scores.logits))
        tell(
            f"{bundle.folder} on {data.folder.root}, split {split}, in {self.trainer.precision}, "
            f"{'calibrated' if bundle.record.confidence else 'not calibrated'}\n\n"
            f"{scores.to_text()}"
        )
        self.scored = bundle.folder, split, scores, known

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs a subcommand; while ``fit`` runs, the folder and the signals are its own."""
        with ExitStack() as self._held:
            self._held.callback(ranks.leave)
            super()._run_subcommand(subcommand)
            if subcommand == "fit":
                self.state.finish()

    def _options(self) -> dict[str, Any]:
        return yaml.safe_load(self._dumped(self.config.fit))

    def _run_config(self) -> str:
        found = as_found(self.config.fit, self.budget, self.datamodule, self.trainer)
        return self._dumped(found)

    def _dumped(self, config: Any) -> str:
        config = config.clone()
        config.resume = False
        # those of compare and sweep belong to the one run
        every = config.trainer.callbacks
        if isinstance(every, list):
            left = [one for one in every if not one.class_path.startswith("vitlora.training.")]
            config.trainer.callbacks = left or None
        return self._parser("fit").dump(config, skip_unset=False, format="yaml")


def main(args: list[str], inherited: Mapping[str, Any], started: float) -> VitloraCLI:
    """Runs one subcommand; tries ``fit`` again with a smaller batch if memory ran out.

    Args:
        args: The arguments after the program's name; ``--config`` is followed by YAML text.
        inherited: Option -> value, overridden by configs and arguments; not parsed.
        started: ``time.monotonic()`` when the command began.

    Returns:
        The finished run.

    Raises:
        VitloraError: A mistake that the user can fix.
    """
    try:
        return run(args, inherited, started)
    except MemoryFullError as full:
        if not full.again:
            raise
        note(str(full))
        args = [*args, *full.again]
    free_memory()  # here, because the exception held the network
    return run(args, inherited, started)


def run(
    args: list[str],
    inherited: Mapping[str, Any],
    started: float,
    kind: type[VitloraCLI] = VitloraCLI,
) -> VitloraCLI:
    """Reads the arguments and runs a subcommand.

    Args:
        args: As for ``main``.
        inherited: As for ``main``.
        started: As for ``main``.
        kind: The class that reads and runs.

    Raises:
        UsageError: An argument or a config is wrong.
    """
    prepare()
    try:
        return kind(inherited, args, started)
    except ArgumentError as error:
        raise explained(error) from None
    except ValueError as error:
        if not is_lightnings(error):
            raise
        raise UsageError(" ".join(str(error).split())) from None
