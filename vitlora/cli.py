"""The command line: ``fit``, ``validate`` and ``test`` on Lightning's CLI."""

import inspect
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from vitlora.adapters import Lora
from vitlora.checkpoint import Bundle, bundle_bytes, load_bundle
from vitlora.classifier import Classifier
from vitlora.data.datamodule import FolderData
from vitlora.errors import BundleError, UsageError, nearest
from vitlora.scores import Scores
from vitlora.training import RunFolder, Summary, Trainer

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
        if config.checkpoint or config.json:
            raise UsageError("--checkpoint and --json belong to validate and test, not to fit")
        self.run_folder = RunFolder(
            Path(config.output or "checkpoints/run"),
            run_config=self._run_config(),
            logs=config.trainer.logger in (None, True),
        )
        trainer: Any = self.trainer
        trainer.callbacks += [Summary(), self.run_folder]

    def after_fit(self) -> None:
        """Prints how good the kept epoch is, where it lies, and what to type next."""
        if not self.run_folder.written:
            raise UsageError("nothing was trained: trainer.limit_train_batches leaves no batch")
        if self.run_folder.best is None:
            return
        folder, scores = self.run_folder.folder, self.run_folder.best
        print(f"\nvalidation, epoch {self.run_folder.best_epoch} (kept)\n\n{scores.to_text()}")
        print(f"\nbundle   {folder}  ({bundle_bytes(folder):,} bytes)")
        print(f"predict  python predict.py --checkpoint {_quoted(folder)} IMAGE.jpg")

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
        bundle = load_bundle(self._get(self.config, "checkpoint"))
        _check_fits(bundle, model, data, split)
        model.start_from(bundle.record.storage, bundle.tensors)
        run = self.trainer.validate if split == "val" else self.trainer.test
        run(model, datamodule=data, verbose=False)
        scores = model.scores(bundle.record.classes)
        if target != "-":
            print(f"{bundle.folder} on {data.folder.root}, split {split}\n\n{scores.to_text()}")
        if target:
            _write_json(scores, target, bundle.folder, split)

    def _run_config(self) -> str:
        return self._parser("fit").dump(self.config.fit, skip_link_targets=True, format="yaml")


def main(args: list[str]) -> None:
    """Runs one subcommand.

    Args:
        args: The words after the program's name; ``--config`` names are files by now.

    Raises:
        VitloraError: A mistake a user can mend.
    """
    _quieten()
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


def _explained(error: ArgumentError) -> UsageError:
    """Returns jsonargparse's complaint on one line, with the nearest key for an unknown one."""
    text = " ".join(str(error).split())
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    text = re.sub(r"a typing.Literal\[(.+?)\]", r"one of \1", text)
    lost = re.search(r"import path string: (\w+)", text)
    if lost is not None:
        names = ("Lora", "LinearProbe", "FullFineTuning")
        return UsageError(
            f"model.adapter '{lost[1]}' is unknown; expected one of {', '.join(names)}"
            f"{nearest(lost[1], names)}"
        )
    match = re.search(
        r"(?:unrecognized arguments: --|does not accept option '|Option ')([\w.]+)", text
    )
    if match is None:
        return UsageError(text)
    key = match[1]
    hint = next(filter(None, (_nearest_part(key, part) for part in key.split("."))), "")
    return UsageError(f"unknown key '{key}'{hint}: {text}")


def _nearest_part(key: str, part: str) -> str:
    """Returns a hint for one part of a dotted key, or nothing if that part is known."""
    groups: dict[str, tuple[type, ...]] = {
        "data": (FolderData,),
        "model": (Classifier, Lora),
        "trainer": (Trainer, LightningTrainer),
    }
    first = key.split(".")[0]
    tops = [*groups, "output", "seed_everything", "checkpoint", "json", "config"]
    owners = groups.get(first, (FolderData, Classifier, Lora, Trainer))
    below = [name for owner in owners for name in inspect.signature(owner.__init__).parameters]
    if part in tops or part in below:
        return ""
    alone = part == first  # a lone word is a whole key, or the end of one whose start is unsaid
    return nearest(part, tops) or nearest(part, below) if alone else nearest(part, below)


def _check_fits(bundle: Bundle, model: Classifier, data: FolderData, split: str) -> None:
    record, folder = bundle.record, data.folder
    bundle.check_base(model.backbone.digest)
    if folder.classes != record.classes:
        raise BundleError(
            f"{bundle.folder} knows the classes {', '.join(record.classes)}; {folder.root} has "
            f"{', '.join(folder.classes)}"
        )
    if data.drawn and str(folder.root.resolve()) != record.split["root"]:
        print(
            f"note: {folder.root} is not the folder of training; if it is a copy of it, training "
            "pictures may be among those scored",
            file=sys.stderr,
        )
    known_root = str(folder.root.resolve()) == record.split["root"]
    drawn_here = data.drawn and known_root and split in folder.splits
    if drawn_here and data.digest(split) != record.split["digests"].get(split):
        raise BundleError(
            f"the {split} split drawn from {folder.root} is not the one held out in training, so "
            "training pictures could be in it: the folder or the split's options changed. Score on "
            "a folder of new pictures with --data.root"
        )


def _write_json(scores: Scores, target: str, checkpoint: Path, split: str) -> None:
    text = json.dumps(
        {"checkpoint": str(checkpoint), "split": split, **scores.to_json()},
        indent=1,
        ensure_ascii=False,
    )
    if target == "-":
        print(text)
        return
    path = Path(target)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n", "utf-8")
    new.replace(path)


def _quieten() -> None:
    """Leaves the screen to what a user needs: Lightning's tips and known noise go."""
    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a hint to raise num_workers, and one about logging intervals longer than a short epoch
    warnings.filterwarnings("ignore", module="lightning.pytorch")


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)
