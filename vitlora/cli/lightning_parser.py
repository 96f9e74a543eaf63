"""Lightning's parser of fit, validate and test, made to read and write what was typed."""

import argparse
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any

import yaml
from jsonargparse import Namespace, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from vitlora import yaml_text
from vitlora.cli.words import read_otherwise
from vitlora.errors import UsageError
from vitlora.training import Trainer


class Parser(LightningArgumentParser):
    """Keeps all options of a run in its configuration, also those that the help does not show.

    jsonargparse makes another of this class for the help of a class's options.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"prog": "vitlora fit", **options})

    def dump(self, cfg: Any, *args: Any, **options: Any) -> str:
        """Returns YAML; what is read back on the way holds values, not words typed.

        jsonargparse leaves out what the help does not show: here, Lightning's own options of the
        trainer. Those that were set belong to the run.
        """
        if "skip_none" in options:  # Lightning's word for it, which jsonargparse 4.49 renamed
            options["skip_unset"] = options.pop("skip_none")
        hidden = [
            action
            for action in self._actions
            if action.help == argparse.SUPPRESS and cfg.get(action.dest) != action.default
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
        help="fit --from: where the bundle's old pictures lie, if no longer where they were, "
        "to see what is forgotten.",
    )
    parser.add_argument(
        "--checkpoint",
        type=str | None,
        default=None,
        help="validate and test: the bundle to score; the newest under checkpoints/ if not given.",
    )
    parser.add_argument(
        "--json",
        type=str | None,
        default=None,
        help="Write the scores as JSON; without a file, print that alone.",
    )


def show_only_ours(parser: LightningArgumentParser) -> None:
    """Leaves out of the help what Lightning's Trainer adds, and a file for a whole group.

    Both work all the same.
    """
    ours = {f"trainer.{name}" for name in inspect.signature(Trainer).parameters}
    for action in parser._actions:
        name = action.dest.removesuffix(".help")
        group = action.dest in ("data", "model", "trainer", "unsure")
        if group or (name.startswith("trainer.") and name not in ours):
            action.help = argparse.SUPPRESS


def by_value(fields: Any) -> None:
    """Replaces the enumerations among a configuration's values: YAML knows none."""
    for name, value in list(vars(fields).items()):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Namespace):
                by_value(one)
        if isinstance(value, Enum):
            setattr(fields, name, value.value)


def check_numbers(options: Namespace, words: Sequence[str]) -> None:
    """Refuses words, and those of configs, that were read as other numbers than they spell.

    Args:
        options: What was read.
        words: As for Lightning's CLI.

    Raises:
        UsageError: There is such a word.
    """
    for name, word in dict(_given(words)).items():  # the last one counts
        group, _, last = name.rpartition(".")
        value = options.get(name, options.get(f"{group}.init_args.{last}"))
        if read_otherwise(word, value):
            raise UsageError(f"{name} is '{word}'; expected a decimal number")


def _given(words: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Yields the options that words set, configs included, by their dotted names."""
    for word, after in pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if name == "--config":
            yield from yaml_text.flat(yaml_text.read(after)).items()
        elif name.startswith("--"):
            yield name.removeprefix("--"), value if equals else after


def prepare() -> None:
    """Teaches jsonargparse our YAML; leaves out what is noise to a user."""
    set_loader(yaml_text.MODE, yaml_text.as_typed, (yaml.YAMLError,))
    set_dumper("yaml", yaml_text.write)
    for name in ("lightning.pytorch", "lightning.fabric", "bitsandbytes", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a hint to raise num_workers, and one about logging intervals longer than a short epoch
    warnings.filterwarnings("ignore", module="lightning.pytorch")
