"""The parser of fit, validate and test: Lightning's, with our YAML and our help."""

import argparse
import inspect
import logging
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import yaml
from jsonargparse import Namespace, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from vitlora import yaml_text
from vitlora.cli.words import given, read_otherwise
from vitlora.errors import UsageError
from vitlora.training import Trainer


class Parser(LightningArgumentParser):
    """Writes all options of a run into its configuration, even those that the help hides."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"prog": "vitlora fit", **options})
        self._inherited: set[str] = set()

    def inherit(self, options: Mapping[str, Any]) -> None:
        """Sets the values of options that the arguments do not set: name -> value."""
        self._inherited = set(options)
        self.set_defaults(dict(options))

    def dump(self, cfg: Any, *args: Any, **options: Any) -> str:
        """Returns YAML with values, not text.

        jsonargparse leaves out options that the help hides, here those of Lightning's trainer. The
        ones that were set belong to the run.
        """
        if "skip_none" in options:  # Lightning's name for it; jsonargparse 4.49 renamed it
            options["skip_unset"] = options.pop("skip_none")
        hidden = [
            action
            for action in self._actions
            if action.help == argparse.SUPPRESS
            and (cfg.get(action.dest) != action.default or action.dest in self._inherited)
        ]
        mode, self.parser_mode = self.parser_mode, "yaml"
        try:
            for action in hidden:
                action.help = ""
            return super().dump(cfg, *args, **options)
        finally:
            self.parser_mode = mode
            for action in hidden:
                action.help = argparse.SUPPRESS


def add_run_options(parser: LightningArgumentParser) -> None:
    """Adds the options that belong to neither data, model nor trainer."""
    texts = {
        "output": "fit: folder for the bundle; null for checkpoints/CONFIG's name.",
        "from": "fit: bundle to continue from. Its base, adapter and classes are kept; new classes "
        "of data.root are added.",
        "old_data": "fit --from: folder of the bundle's old pictures, if they have moved; used to "
        "measure forgetting.",
        "checkpoint": "validate, test: bundle to score; null for the newest in checkpoints/.",
        "json": "Write the scores as JSON to this file; without a file, print only them.",
    }
    for name, text in texts.items():
        parser.add_argument(f"--{name}", type=str | None, default=None, help=text)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="fit: resume the unfinished run in --output (by default the newest in "
        "checkpoints/) as if it had not been stopped; start it if there is none.",
    )


def show_only_ours(parser: LightningArgumentParser) -> None:
    """Hides Lightning's own trainer options and each group's YAML file from the help.

    They work all the same.
    """
    ours = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    for action in parser._actions:
        name = action.dest.removesuffix(".help")
        group = action.dest in ("data", "model", "trainer", "unsure")
        if group or (name.startswith("trainer.") and name not in ours):
            action.help = argparse.SUPPRESS


def by_value(fields: Any) -> None:
    """Replaces a configuration's enumerations by their values, for YAML."""
    for name, value in list(vars(fields).items()):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Namespace):
                by_value(one)
        if isinstance(value, Enum):
            setattr(fields, name, value.value)


def check_numbers(options: Namespace, words: Sequence[str]) -> None:
    """Refuses values that jsonargparse read as other numbers than they say, such as 1:30.

    Args:
        options: The values.
        words: The arguments.

    Raises:
        UsageError: There is such a value.
    """
    for name, word in dict(given(words)).items():  # the last one wins
        group, _, last = name.rpartition(".")
        value = options.get(name, options.get(f"{group}.init_args.{last}"))
        if read_otherwise(word, value):
            raise UsageError(f"{name} is '{word}'; expected a decimal number")


def prepare() -> None:
    """Sets jsonargparse to our YAML, and silences messages that do not help users."""
    set_loader(yaml_text.MODE, yaml_text.as_typed, (yaml.YAMLError,))
    set_dumper("yaml", yaml_text.write)
    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # hints to raise num_workers, and about logging intervals longer than an epoch
    warnings.filterwarnings("ignore", module="lightning.pytorch")
