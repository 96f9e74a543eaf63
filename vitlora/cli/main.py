"""``python -m vitlora``: runs the command, says a mistake in one line."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from typing import Any

from vitlora import __version__
from vitlora.errors import UsageError, VitloraError, nearest

_HELP = f"""vitlora {__version__}: fine-tune Vision Transformers on a folder of images

  vitlora configs                        the configs that ship, to run or to copy
  vitlora fetch trashnet                 download a public dataset to train on
  vitlora fetch waste5-drawn             draw the demo's pictures, offline
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
# fmt: off
_OTHERS = (  # each a module of its own
    "configs", "fetch", "doctor", "predict", "report", "drift", "compare", "calibrate", "merge",
    "adopt", "push", "plan",
)
# fmt: on
_ON_TORCH = ("report", "drift", "merge", "adopt")
_COMMANDS = (*_TRAINING, *_OTHERS)


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
            f"there is no command '{command}'; expected one of {', '.join(_COMMANDS)}"
            f"{nearest(command, _COMMANDS)}"
        )
    if command == "plan":
        return import_module("vitlora.commands.plan").main(options, _resolved)
    if command in _ON_TORCH:  # its help, and what is wrong with the words, come before that
        getattr(import_module("vitlora.parsers"), command)(options)
    if command in _OTHERS:
        return import_module(f"vitlora.commands.{command}").main(options)
    from vitlora.cli.run_options import run_options

    words, inherited = run_options(command, options)
    from vitlora.cli.lightning import main as train

    train([command, *words], inherited)
    return 0


def _resolved(options: list[str]) -> dict[str, Any]:
    """Returns the whole configuration of a ``fit`` with these options; nothing is looked for."""
    import yaml

    from vitlora.cli.run_options import run_options

    if not any(word.partition("=")[0] in ("--config", "--data.root") for word in options):
        options = ["--data.root", "PHOTOS", *options]
    words, inherited = run_options("fit", [*options, "--print_config"])
    from vitlora.cli.lightning import main as train

    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        train(["fit", *words], inherited)
    return yaml.safe_load(printed.getvalue())


def _as_user_error(error: Exception) -> VitloraError | None:
    """Returns the error if a user can mend it, with the command line's own put into our words."""
    if isinstance(error, VitloraError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return VitloraError(f"{error.filename}: {error.strerror}")
    if isinstance(error, RuntimeError | MemoryError):
        from vitlora.data.loading import lost_workers
        from vitlora.hardware import is_out_of_memory

        if lost := lost_workers(error):
            return VitloraError(lost)
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
