"""``python -m vitlora``: finds config files, runs the command, says a mistake in one line."""

import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora import __version__
from vitlora.errors import BundleError, UsageError, VitloraError, nearest

if TYPE_CHECKING:
    from vitlora.checkpoint import Bundle

_HELP = f"""vitlora {__version__}: fine-tune Vision Transformers on a folder of images

  vitlora fetch trashnet                 download a public dataset to train on
  vitlora doctor --data DIR              what is wrong with an image folder
  vitlora plan --config waste5.yaml      what fits into this GPU, before the run
  vitlora fit --config waste5.yaml       train an adapter; writes a bundle to checkpoints/waste5
  vitlora fit --from CHECKPOINT --data.root FOLDER
                                         go on training with new or corrected pictures
  vitlora validate [--checkpoint DIR]    score a bundle on its validation split
  vitlora test [--checkpoint DIR]        score a bundle on a test split
  vitlora predict IMAGE...               class and confidence, as predict.py
  vitlora report CHECKPOINT              how good it is, as one offline HTML page
  vitlora drift CHECKPOINT --data DIR    are new, unlabelled photos still like training's?
  vitlora compare --config waste5.yaml   methods on your own photos, in one table
  vitlora calibrate CHECKPOINT           what its confidence is worth, once more
  vitlora merge CHECKPOINT OUT           adapter into base weights, with proof
  vitlora adopt ADAPTER_DIR              a bundle from an adapter made by plain PEFT
  vitlora push CHECKPOINT OWNER/NAME     upload a bundle to the Hugging Face hub

'vitlora fit --help' lists every option, 'vitlora fit --model.adapter.help Lora' the adapter's;
'vitlora fit --config X --print_config' shows a run."""

_TRAINING = ("fit", "validate", "test")
_VIEW = ("--model.image_size", "--model.crop_mode")  # refused later, with what they should be
# fmt: off
_OTHERS = (  # each a module of its own
    "fetch", "doctor", "predict", "report", "drift", "compare", "calibrate", "merge", "adopt",
    "push", "plan",
)
# fmt: on
_COMMANDS = (*_TRAINING, *_OTHERS)
_ALIASES = {"--weights": "--model.weights", "--old-data": "--old_data"}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status."""
    words = list(sys.argv[1:] if args is None else args)
    _survive_any_console()
    try:
        return _run(words)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except SystemExit as end:  # Lightning makes one of Ctrl-C
        if isinstance(end.__context__, KeyboardInterrupt):
            return 130
        raise
    except Exception as error:
        if os.environ.get("VITLORA_DEBUG") == "1":
            raise
        known = _as_user_error(error)
        if known is None:
            raise
        print(f"vitlora: {known}", file=sys.stderr)
        return known.exit_status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    # it warns of an optional kernel package that CPUs do without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    command, *options = words
    if command not in _COMMANDS:
        raise UsageError(
            f"'{command}' is no command; expected one of {', '.join(_COMMANDS)}"
            f"{nearest(command, _COMMANDS)}"
        )
    if command == "plan":
        return import_module("vitlora.commands.plan").main(options, _resolved)
    if command in _OTHERS:
        return import_module(f"vitlora.commands.{command}").main(options)
    from vitlora.cli import main as train

    train([command, *_find_files(command, options)])
    return 0


def _resolved(options: list[str]) -> dict[str, Any]:
    """Returns the whole configuration of a ``fit`` with these options; nothing is looked for."""
    import yaml

    from vitlora.cli import main as train

    if not any(word.partition("=")[0] in ("--config", "--data.root") for word in options):
        options = ["--data.root", "PHOTOS", *options]
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        train(["fit", *_find_files("fit", options), "--print_config"])
    return yaml.safe_load(printed.getvalue())


def _find_files(command: str, options: list[str]) -> list[str]:
    """Resolves bare config names, the bundle to score, and the default output."""
    options = [word for option in options for word in _split_equals(option)]
    options = [_ALIASES.get(word, word) for word in options]
    configs = []
    while any(word in ("--config", "-c") for word in options[:-1]):
        index = next(i for i, word in enumerate(options) if word in ("--config", "-c"))
        configs.append(_config_file(options[index + 1]))
        del options[index : index + 2]
    runs = [_read_config(path) for path in configs]
    if options and options[0].endswith((".yaml", ".yml")):
        raise UsageError(f"'{options[0]}' stands alone; write --config {options[0]}")
    names = [word.partition("=")[0] for word in options if word.startswith("-")]
    # configs first: what is typed counts more, wherever it stands
    # and as what they hold: jsonargparse would read the files in the console's code page
    options = [word for run in runs for word in ("--config", _as_yaml(run))] + options
    if any(name in ("--help", "-h") or name.endswith(".help") for name in names):
        return options
    if command == "fit":
        if not configs and "--data.root" not in names:
            raise UsageError("fit needs --config FILE or --data.root FOLDER; see configs/")
        name = configs[-1].stem if configs else "run"
        bundle = _parent(options, names, runs)
        if bundle is not None:
            from vitlora.training.continued import options_of, split_of

            name = f"{bundle.folder.resolve().name}-continued"
            words = 2 * len(configs)
            # the bundle's split may be changed by a config, its network by nothing
            given = {k: v for run in runs for k, v in _mapping(run, "model").items()}
            inherited = options_of(bundle, given, names)
            drawn = [w for k, v in split_of(bundle).items() for w in (f"--data.{k}", _plain(v))]
            options = [*drawn, *options[:words], *inherited, *options[words:]]
        return ["--output", str(Path("checkpoints") / name), *options]
    if "--from" in names or "--old_data" in names:
        raise UsageError(f"--from and --old-data belong to fit, not to {command}")
    from vitlora.checkpoint import newest_bundle

    for name in names:
        trains = name.startswith(("--model.", "--unsure."))
        if trains and name not in ("--model.weights", *_VIEW):
            raise UsageError(
                f"{name} is of no use to {command}: a bundle is scored as it was trained; leave it "
                "out"
            )
    if "--checkpoint" not in options:
        options += ["--checkpoint", str(newest_bundle())]
    trained = _as_trained(_value(options, "--checkpoint"))
    if "--data.root" not in {*trained, *names}:
        raise UsageError(
            f"the pictures {_value(options, '--checkpoint')} was trained on are not known; pass "
            "--data.root FOLDER"
        )
    # in fp32, as prediction computes
    return [*trained, "--trainer.precision", "32-true", *options]


def _parent(
    options: list[str], names: list[str], runs: Sequence[dict[str, Any]]
) -> "Bundle | None":
    """Returns the bundle that training goes on from, if any."""
    named = [run["from"] for run in runs if run.get("from")]
    if "--from" in names:
        named.append(_value(options, "--from"))
    if not named:
        return None
    from vitlora.checkpoint import load_bundle

    return load_bundle(named[-1])


def _mapping(run: dict[str, Any], key: str) -> dict[str, Any]:
    value = run.get(key)
    return value if isinstance(value, dict) else {}


def _as_trained(checkpoint: str) -> list[str]:
    """Returns a bundle's data and base as options; how its adapter was trained is over.

    A bundle may come from anywhere, and Lightning's CLI imports any class a configuration names:
    only plain values pass.
    """
    import yaml

    from vitlora.checkpoint import RUN_CONFIG, is_network_path, load_bundle

    bundle = load_bundle(checkpoint)
    record = bundle.record
    run = yaml.safe_load((bundle.folder / RUN_CONFIG).read_text("utf-8"))
    if not isinstance(run, dict) or not all(
        isinstance(run.get(k), dict) for k in ("data", "model")
    ):
        raise BundleError(f"{bundle.folder / RUN_CONFIG} holds no run: data and model are missing")
    whole = record.method == "FullFineTuning"  # such a bundle holds every weight itself
    fields: dict[str, object] = {
        f"--data.{key}": value
        for key, value in run["data"].items()
        if not is_network_path(str(value))
    }
    fields |= {
        "--model.backbone": record.backbone,
        "--model.weights": "none" if whole else bundle.weights,
        "--model.image_size": record.preprocessing.image_size,
        "--model.crop_mode": run["model"].get("crop_mode"),
    }
    return [word for key, value in fields.items() for word in (key, _plain(value))]


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _split_equals(option: str) -> list[str]:
    """Returns ``--name=value`` as two words for the options looked at here."""
    name, equals, value = option.partition("=")
    ours = ("--config", "-c", "--checkpoint", "--output", "--from", *_ALIASES)
    return [name, value] if equals and name in ours else [option]


def _value(options: list[str], name: str) -> str:
    index = options.index(name) + 1
    if index >= len(options):
        raise UsageError(f"{name} needs a value")
    return options[index]


def _config_file(name: str) -> Path:
    """Returns a config by path, else by its name in ``configs/``."""
    for path in (Path(name), Path("configs") / name):
        if path.is_file():
            return path
    known = sorted(path.name for path in Path("configs").glob("*.yaml"))
    raise UsageError(
        f"--config '{name}': no such file here or in configs/{nearest(name, known)}; "
        f"found: {', '.join(known) or 'none'}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Returns what a config holds; refuses one that is no YAML mapping, by name."""
    import yaml
    from jsonargparse import get_loader

    try:
        content: Any = get_loader("yaml")(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no keys; expected data:, model: or trainer:")
    return content


def _as_yaml(run: dict[str, Any]) -> str:
    """Returns ASCII that reads as the same values again: quoted, so that '1e3' stays a name."""
    import yaml

    return yaml.safe_dump(run, default_style='"')


def _as_user_error(error: Exception) -> VitloraError | None:
    """Returns the error if a user can mend it, with the command line's own put into our words."""
    if isinstance(error, VitloraError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return VitloraError(f"{error.filename}: {error.strerror}")
    if isinstance(error, RuntimeError | MemoryError):
        from vitlora.hardware import is_out_of_memory

        if is_out_of_memory(error):
            return VitloraError("memory ran out; take smaller batches, or run on the CPU")
    if type(error).__name__ == "MisconfigurationException":  # Lightning's
        return UsageError(" ".join(str(error).split()))
    return None


def _survive_any_console() -> None:
    """Lets names outside the console's code page print as '?' instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore


if __name__ == "__main__":
    sys.exit(main())
