"""The command line: ``fit``, ``validate`` and ``test`` on Lightning's CLI."""

import argparse
import inspect
import logging
import math
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from vitlora.adapters import Lora
from vitlora.checkpoint import Bundle, bundle_bytes, bundle_digest, load_bundle
from vitlora.classifier import Classifier
from vitlora.data.datamodule import FolderData
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import (
    BundleError,
    DataError,
    UsageError,
    VitloraError,
    nearest,
    nearest_of,
)
from vitlora.evaluation.calibrate import Unsure, calibrate, describe
from vitlora.evaluation.forgetting import Memory, remember
from vitlora.files import write_json
from vitlora.hardware import free_memory, is_out_of_memory
from vitlora.memory import Batches, MemoryFullError
from vitlora.scores import Scores
from vitlora.training import RunFolder, Summary, Trainer
from vitlora.training.continued import check_output, start
from vitlora.updates import merged_network, trained_network

_DESCRIPTIONS = {
    "fit": "Trains an adapter on a folder of pictures and writes a bundle.",
    "validate": "Scores a bundle on its validation split.",
    "test": "Scores a bundle on a test split.",
}
_DRIVEN_BY_US = {"ckpt_path", "weights_only", "verbose", "datamodule", "model"}


class VitloraCLI(LightningCLI):
    """Puts a model, a folder and a trainer together and runs one subcommand."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the subcommands and the arguments of the trainer's methods to leave out."""
        return {
            "fit": {"train_dataloaders", "val_dataloaders", *_DRIVEN_BY_US},
            "validate": {"dataloaders", *_DRIVEN_BY_US},
            "test": {"dataloaders", *_DRIVEN_BY_US},
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the groups in the order in which people need them; Lightning puts its own first."""
        parser.add_lightning_class_args(FolderData, "data")
        parser.add_lightning_class_args(Classifier, "model")
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.add_class_arguments(Unsure, "unsure")
        _show_only_ours(parser)
        parser.usage = "vitlora COMMAND --config FILE [any option below]"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs neither to the trainer nor to the model nor to the data."""
        parser.add_argument(
            "--output",
            type=str | None,
            default=None,
            help="Folder that receives the bundle; checkpoints/<config name> if not given.",
        )
        parser.add_argument(
            "--from",
            type=str | None,
            default=None,
            help="fit: the bundle to go on from; its base, adapter and classes are kept, new "
            "classes of data.root are added.",
        )
        parser.add_argument(
            "--old_data",
            type=str | None,
            default=None,
            help="fit --from: where the bundle's old pictures lie, if no more where they were, to "
            "see what is forgotten.",
        )
        parser.add_argument(
            "--checkpoint",
            type=str | None,
            default=None,
            help="validate and test: the bundle to score; the newest under checkpoints/ if not "
            "given.",
        )
        parser.add_argument(
            "--json",
            type=str | None,
            default=None,
            help="validate and test: also write the numbers to this file, or - for the screen.",
        )
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

    def before_fit(self) -> None:
        """Attaches the callbacks that tell of the run and keep it."""
        config = self.config.fit
        if config.output == "":
            raise UsageError("output is empty; expected a folder")
        if config.checkpoint or config.json:
            raise UsageError("--checkpoint and --json belong to validate and test, not to fit")
        output = Path(config.output or "checkpoints/run")
        parent = config["from"] and load_bundle(config["from"])
        if parent:
            check_output(output, parent)
        elif config.old_data:
            raise UsageError("--old-data is of use with --from alone; leave it out")
        self.run_folder = RunFolder(
            output,
            run_config=self._run_config(),
            logs=config.trainer.logger in (None, True),
            parent=bundle_digest(parent.folder)[:16] if parent else None,
        )
        self.memory: Memory | None = None
        if parent:
            self.memory = self._go_on(parent)
        trainer: Any = self.trainer
        trainer.callbacks += [Summary(), self.run_folder]

    def fit(self, model: Classifier, datamodule: FolderData) -> None:
        """Trains, with a batch that fits if that is asked for; says clearly if none did."""
        batches = Batches(vars(self.config.fit.model), model, datamodule, self.trainer)
        if datamodule.auto_batch:
            print(batches.settle())
        with batches.explained():
            self.trainer.fit(model, datamodule=datamodule)

    def after_fit(self) -> None:
        """Prints how good the kept epoch is, where it lies, and what to type next."""
        if not self.run_folder.written:
            raise UsageError("nothing was trained: trainer.limit_train_batches leaves no batch")
        if self.run_folder.best is None:
            return
        folder, scores = self.run_folder.folder, self.run_folder.best
        self.model.let_go()  # the bundle is read back, and its base may fill the memory
        print(f"\nvalidation, epoch {self.run_folder.best_epoch} (kept)\n\n{scores.to_text()}")
        if note := _ran_away(scores):
            print(note)
        self._calibrate(folder)
        if self.memory is not None:
            print(f"\n{self._forgotten(folder, self.memory)}")
        print(f"\nbundle   {folder}  ({bundle_bytes(folder):,} bytes)")
        print(f"predict  python predict.py --checkpoint {_quoted(folder)} IMAGE.jpg")

    def _calibrate(self, folder: Path) -> None:
        """Looks at the pictures once more, through the network that will predict.

        What goes wrong here takes nothing from a training that went well.
        """
        data = self.datamodule
        splits, unsure = data.folder.splits, self._get(self.config_init, "unsure")
        try:
            bundle = load_bundle(folder)
            network = self._merged(bundle)
            bundle = calibrate(
                bundle, network, splits["train"], splits["val"], unsure, data.batch_size
            )
        except (VitloraError, RuntimeError, MemoryError) as error:
            if not isinstance(error, VitloraError) and not is_out_of_memory(error):
                raise
            reason = str(error) if isinstance(error, VitloraError) else "the device is full"
            print(
                f"note: the bundle is kept, but its confidence is not calibrated ({reason}); "
                f"'vitlora calibrate {_quoted(folder)} --device cpu' does it",
                file=sys.stderr,
            )
        else:
            if bundle.record.confidence is not None:
                print(describe(bundle.record.confidence))

    def _forgotten(self, folder: Path, memory: Memory) -> str:
        bundle = load_bundle(folder)
        forgetting = memory.compare(self._merged(bundle), bundle.record.preprocessing)
        return forgetting.to_text(memory.where)

    def _merged(self, bundle: Bundle) -> nn.Module:
        device = self.trainer.strategy.root_device
        return merged_network(bundle, self._get(self.config, "model.weights"), device)

    def _go_on(self, parent: Bundle) -> Memory | None:
        """Starts from a bundle, and asks it about its old pictures before anything is trained."""
        start(self.model, parent)
        print(f"goes on from {parent.folder}")
        folder, old = self.datamodule.folder, self.config.fit.old_data
        counts = zip(folder.classes, folder.counts("train"), strict=True)
        if absent := [name for name, count in counts if not count]:
            _note(
                f"{folder.root} has no training pictures of {', '.join(absent)}: they may be "
                "forgotten; old pictures among the new ones prevent that"
            )
        try:
            return remember(parent, self._merged(parent), folder.splits.get("train", []), old)
        except DataError as error:
            if old:
                raise
            _note(f"{error}; pass --old-data DIR to measure what is forgotten")
            return None

    def validate(self, model: Classifier, datamodule: FolderData) -> None:
        """Scores a bundle on the validation split."""
        self._score("val", model, datamodule)

    def test(self, model: Classifier, datamodule: FolderData) -> None:
        """Scores a bundle on the test split."""
        self._score("test", model, datamodule)

    def _score(self, split: str, model: Classifier, data: FolderData) -> None:
        target = self._get(self.config, "json")
        if target not in (None, "-") and not Path(target).parent.is_dir():
            raise UsageError(f"--json '{target}': its folder does not exist")
        if target not in (None, "-") and Path(target).is_dir():
            raise UsageError(f"--json '{target}' is a folder; expected a file")
        bundle = load_bundle(self._get(self.config, "checkpoint"))
        _check_fits(bundle, model, data, split)
        model.network = trained_network(model.backbone, bundle, self.trainer.strategy.root_device)
        run = self.trainer.validate if split == "val" else self.trainer.test
        run(model, datamodule=data, verbose=False)
        scores = model.scores(bundle.record.classes)
        if bundle.record.confidence is not None:
            scores = replace(scores, logits=scores.logits / bundle.record.confidence.temperature)
        if target != "-":
            print(f"{bundle.folder} on {data.folder.root}, split {split}\n\n{scores.to_text()}")
        if target:
            about = {"checkpoint": str(bundle.folder), "split": split}
            write_json({**about, **scores.to_json()}, target)

    def _run_config(self) -> str:
        return self._parser("fit").dump(self.config.fit, skip_link_targets=True, format="yaml")


def main(args: list[str]) -> None:
    """Runs one subcommand; a ``fit`` that ran out of memory once more if it may.

    Args:
        args: The words after the program's name; ``--config`` names are files by now.

    Raises:
        VitloraError: A mistake a user can mend.
    """
    _quieten()
    try:
        _run(args)
        return
    except MemoryFullError as full:
        if not full.again:
            raise
        _note(str(full))
        args = [*args, *full.again]
    free_memory()  # the network and its step went with the exception
    _run(args)


def _run(args: list[str]) -> None:
    parsers: dict[str, Any] = {
        name: {"description": text, "exit_on_error": False} for name, text in _DESCRIPTIONS.items()
    }
    try:
        VitloraCLI(
            Classifier,
            FolderData,
            trainer_class=Trainer,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "vitlora",
                "exit_on_error": False,
                "allow_abbrev": False,
                **parsers,
            },
            args=args,
        )
    except ArgumentError as error:
        raise _explained(error) from None


def _show_only_ours(parser: LightningArgumentParser) -> None:
    """Leaves the options Lightning's own Trainer adds out of the help; they work all the same."""
    ours = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    for action in parser._actions:
        name = action.dest.removesuffix(".help")
        if name.startswith("trainer.") and name not in ours:
            action.help = argparse.SUPPRESS


def _explained(error: ArgumentError) -> UsageError:
    """Returns jsonargparse's complaint on one line: key, value, what was expected, nearest key."""
    text = " ".join(str(error).split())
    within = "model.adapter." if "Problem with given class_path" in text else ""
    lost = re.search(r"import path string: (\w+)", text)
    if lost is not None:
        names = ("Lora", "LinearProbe", "FullFineTuning")
        return UsageError(
            f"model.adapter '{lost[1]}' is unknown; expected one of {', '.join(names)}"
            f"{nearest(lost[1], names)}"
        )
    if "Option 'class_path' is not accepted" in text:
        return UsageError(
            "model.adapter takes class_path and init_args; put its options in the latter"
        )
    unknown = re.search(
        r"(?:unrecognized arguments: --|does not accept option '|Option ')([\w.]+)", text
    )
    if unknown is not None:
        key = within + unknown[1]
        if key in {f"model.adapter.{n}" for n in inspect.signature(Lora.__init__).parameters}:
            return UsageError(
                f"{key} belongs to the Lora adapter; the one chosen has no such option"
            )
        return UsageError(f"unknown key '{key}'{_nearest_key(key)}; 'vitlora fit --help' lists all")
    expected = (
        r"Subtypes: \[(?P<union>.+?)\] Errors: .*Given value: (?P<given>.*)"
        r"|Expected (?:an? )?(?P<type>.+?)\. Got value: (?P<value>.*)"
    )
    wrong = re.search(rf'Parser key "(?P<key>[\w.]+)": (?:[^"]*? )?(?:{expected})$', text)
    if wrong is None:
        return UsageError(text)
    wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wrong["union"] or wrong["type"])
    wanted = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", wanted)
    wanted = re.sub(r"Literal\[(.+?)\]", r"one of \1", wanted).replace(", NoneType", " or null")
    value = wrong["given"] or wrong["value"]
    return UsageError(f"{within}{wrong['key']} is {value!r}; expected {wanted}")


def _nearest_key(key: str) -> str:
    """Returns a hint for an unknown dotted key, or for a lone word that may be the end of one."""
    owners: dict[str, type] = {
        "data": FolderData,
        "model": Classifier,
        "model.adapter": Lora,
        "trainer": Trainer,
        "unsure": Unsure,
    }
    ends = {
        name: f"{group}.{name}"
        for group, owner in owners.items()
        for name in inspect.signature(owner.__init__).parameters
        if name not in ("self", "kwargs", "num_classes")
    }
    lightning = [f"trainer.{name}" for name in inspect.signature(LightningTrainer).parameters]
    tops = ["output", "seed_everything", "checkpoint", "json", "config"]
    group, dot, _ = key.partition(".")
    if group in owners:
        inside = [name for name in (*ends.values(), *lightning) if name.startswith(f"{group}.")]
        return nearest(key, inside)
    if dot:
        return nearest(key, ends.values())
    end = nearest_of(key, (*ends, *tops))
    return f" (did you mean '{ends.get(end, end)}'?)" if end else ""


def _check_fits(bundle: Bundle, model: Classifier, data: FolderData, split: str) -> None:
    record, folder = bundle.record, data.folder
    scale = record.preprocessing.value_range  # training found it; no option says it
    model.backbone.preprocessing = replace(model.backbone.preprocessing, value_range=scale)
    if model.backbone.preprocessing != record.preprocessing:
        raise BundleError(
            f"{bundle.folder} sees pictures as {_view(record.preprocessing)}, as training's "
            f"validation did; the options ask for {_view(model.backbone.preprocessing)}. Leave out "
            "model.image_size and model.crop_mode"
        )
    if folder.classes != record.classes:
        raise BundleError(
            f"{bundle.folder} knows the classes {', '.join(record.classes)}; {folder.root} has "
            f"{', '.join(folder.classes)}"
        )
    known_root = str(folder.root.resolve()) == record.split["root"]
    if data.drawn and not known_root:
        anew = "; its splits were pooled and drawn anew (data.resplit)" if data.resplit else ""
        _note(
            f"{folder.root} is not the folder of training; if it is a copy of it, training "
            f"pictures may be among those scored{anew}"
        )
    if known_root and "drawn" in record.split and not data.drawn:
        raise BundleError(
            f"training drew its splits from {folder.root} by a seed, and now they are found as "
            "folders, so training pictures could be among those scored: leave out data.resplit, or "
            "score on a folder of new pictures with --data.root"
        )
    drawn_here = data.drawn and known_root and split in folder.splits
    if drawn_here and data.digest(split) != record.split["digests"].get(split):
        regrouped = "train" in folder.splits and data.grouping != record.split.get("grouping")
        changed = "the groups of data.groups" if regrouped else "the folder or the split's options"
        raise BundleError(
            f"the {split} split drawn from {folder.root} is not the one held out in training, so "
            f"training pictures could be in it: {changed} changed. Score on a folder of new "
            "pictures with --data.root"
        )


def _ran_away(scores: Scores) -> str | None:
    """Returns a note if a network is far surer of wrong answers than one that guesses."""
    guessing = math.log(len(scores.classes))
    if scores.loss <= 2 * guessing:
        return None
    return (
        f"note: a loss of {scores.loss:.3g} is far above that of guessing, {guessing:.2f}: "
        "training ran away; lower model.lr"
    )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _view(preprocessing: Preprocessing) -> str:
    return f"{preprocessing.image_size} px, {preprocessing.crop_mode}"


def _quieten() -> None:
    """Leaves the screen to what a user needs: Lightning's tips and known noise go."""
    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a hint to raise num_workers, and one about logging intervals longer than a short epoch
    warnings.filterwarnings("ignore", module="lightning.pytorch")


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)
