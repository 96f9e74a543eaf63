"""The words of the commands that stand on torch: read and checked before torch is imported.

``__main__`` calls these first, the command itself once more.
"""

import json
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from vitlora.bundle.folder import PEFT_CONFIG, RECORD, check_there, is_bundle
from vitlora.command_line import CommandParser
from vitlora.errors import DataError, UsageError

REPORT_MARK = b'<meta name="generator" content="vitlora report">'  # as its template has it

_REPORT = """example:
  vitlora report checkpoints/waste5 --data photos"""

_MERGE = """example:
  vitlora merge checkpoints/waste5 waste5.safetensors"""

_ADOPT = """example:
  vitlora adopt my-adapter --classes can,glass,tyre \\
    --backbone timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"""

_DRIFT = """examples:
  vitlora drift checkpoints/waste5 --data photos-of-june
  vitlora drift checkpoints/waste5 --data inbox --json - | grep -q '"drift": true' && echo look

The exit status is 0 whether something changed or not."""

_BASES = ("trained", "full")  # the keys of merge's own
_QUANTIZATIONS = ("none", "nf4", "fp4")  # vitlora.quantization.Quantization, which needs torch


def report(words: Sequence[str] | None) -> Namespace:
    """Returns what ``report`` is asked for; ``out`` is a path that it may write.

    Raises:
        UsageError: A word is wrong, or the page cannot be written there.
        BundleError: There is no such bundle.
    """
    options = _report().parse_args(words)
    folder = check_there(options.checkpoint)
    out = options.out = Path(options.out or f"{folder.resolve().name}-report.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out is '{out}'; expected a name that ends in .html")
    if not out.parent.is_dir():
        raise UsageError(f"--out is '{out}': its folder does not exist")
    if is_bundle(out.parent):
        raise UsageError(f"--out is '{out}', inside a bundle, which keeps to its own files")
    if out.exists() and not (out.is_file() and REPORT_MARK in out.read_bytes()[:2000]):
        raise UsageError(f"{out} exists and is no report of vitlora's; choose another --out")
    return options


def merge(words: Sequence[str] | None) -> Namespace:
    """Returns what ``merge`` is asked for; ``out`` and ``proof`` are paths of no files.

    Raises:
        UsageError: A word is wrong, or a file is there already.
        BundleError: There is no such bundle.
    """
    options = _merge().parse_args(words)
    check_there(options.checkpoint)
    out = options.out = Path(options.out)
    options.proof = out.with_suffix(".json")
    if out.suffix != ".safetensors":
        raise UsageError(f"OUT is '{out}'; expected a name that ends in .safetensors")
    if not out.parent.is_dir():
        raise UsageError(f"OUT is '{out}': its folder does not exist")
    for path in (out, options.proof):
        if path.exists():
            raise UsageError(f"{path} exists, and merge overwrites nothing; choose another OUT")
    return options


def adopt(words: Sequence[str] | None) -> Namespace:
    """Returns what ``adopt`` is asked for; ``adapter`` and ``output`` are paths, ``classes`` names.

    Raises:
        UsageError: A word is wrong, there is no adapter, or the output exists.
    """
    options = _adopt().parse_args(words)
    folder = options.adapter = Path(options.adapter)
    output = options.output = Path(options.output or Path("checkpoints") / folder.resolve().name)
    text = options.classes
    names = tuple(unicodedata.normalize("NFC", name.strip()) for name in text.split(","))
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        raise UsageError(
            f"--classes is '{text}'; expected at least 2 names, each once, as in can,glass,tyre"
        )
    options.classes = names
    if output.exists():
        raise UsageError(f"output '{output}' exists, and adopt overwrites nothing; choose another")
    if (folder / RECORD).exists():
        raise UsageError(f"{folder} is a bundle already; use it as it is")
    if not (folder / PEFT_CONFIG).is_file():
        raise UsageError(
            f"{folder} holds no PEFT adapter: it has no {PEFT_CONFIG}; expected the folder that "
            "PEFT's save_pretrained wrote"
        )
    return options


def drift(words: Sequence[str] | None) -> Namespace:
    """Returns what ``drift`` is asked for; ``data`` is a folder.

    Raises:
        UsageError: A word is wrong, or the JSON cannot be written there.
        DataError: There is no such folder of photos.
        BundleError: There is no such bundle.
    """
    options = _drift().parse_args(words)
    check_there(options.checkpoint)
    _check_drifts(options.json)
    root = options.data = Path(options.data).expanduser()
    if not root.is_dir():
        kind = "is a file; expected a folder of photos" if root.exists() else "no such folder"
        raise DataError(f"--data '{root}': {kind}")
    return options


def _check_drifts(target: str | None) -> None:
    """Refuses to write over anything but the result of an earlier comparison."""
    if not target or target == "-":
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise UsageError(f"--json '{path}': its folder does not exist")
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        earlier = None
    if not isinstance(earlier, dict) or not {"drift", "verdict"} <= earlier.keys():
        raise UsageError(f"--json '{path}' exists and is no result of drift's; name another file")


def _report() -> CommandParser:
    parser = CommandParser(
        prog="vitlora report",
        description="Scores a bundle on labelled pictures and writes one HTML page that needs no "
        "network: numbers with intervals, a confusion matrix with the pictures behind it, "
        "confidence, learning curves, the worst mistakes and where the network looked.",
        epilog=_REPORT,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of pictures, with test/, val/ or train/, or class folders alone (default: "
        "that of training)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help="which part of it (default: test, else val, else all)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        help="page to write; an earlier report is replaced (default: NAME-report.html here)",
    )
    parser.add_base_arguments()
    return parser


def _merge() -> CommandParser:
    parser = CommandParser(
        prog="vitlora merge",
        description="Merges an adapter into its base: one file of weights that timm opens without "
        "vitlora. Compares it with the unmerged network on the validation pictures first, and "
        "writes what it found beside it, as OUT with .json for .safetensors.",
        epilog=_MERGE,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument("out", metavar="OUT.safetensors", help="file to write; must not exist yet")
    parser.add_argument("--weights", metavar="FILE", help="the frozen base's weights")
    parser.add_argument(
        "--base",
        choices=_BASES,
        default="trained",
        help="merge into the base as it was rounded in training (default), or in full precision",
    )
    parser.add_argument(
        "--data", metavar="DIR", help="pictures to compare on (default: those of training)"
    )
    return parser


def _adopt() -> CommandParser:
    parser = CommandParser(
        prog="vitlora adopt",
        description="Makes a bundle of a LoRA adapter that PEFT's save_pretrained wrote for a timm "
        "model. The adapter must hold the head: modules_to_save=['head'].",
        epilog=_ADOPT,
    )
    parser.add_argument(
        "adapter",
        metavar="ADAPTER_DIR",
        help="folder with adapter_config.json and adapter_model.safetensors",
    )
    parser.add_argument(
        "--classes", required=True, metavar="A,B,C", help="names in the order of the head's outputs"
    )
    parser.add_argument(
        "--backbone", required=True, metavar="timm/NAME.TAG", help="the base it was trained on"
    )
    parser.add_argument("--weights", metavar="FILE", help="the base's weights")
    parser.add_argument(
        "--output", metavar="DIR", help="of the bundle (default: checkpoints/ADAPTER_DIR's name)"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels (default: the weights' own)"
    )
    parser.add_argument(
        "--quantization",
        choices=_QUANTIZATIONS,
        default="none",
        help="how the base's blocks were kept in training (default: none)",
    )
    return parser


def _drift() -> CommandParser:
    parser = CommandParser(
        prog="vitlora drift",
        description="Says whether new photos, which need no labels, are still like the training "
        "data: the mix of classes, how sure the answers are, how far they lie from its pictures.",
        epilog=_DRIFT,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="folder of new photos, searched to its depths"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write every number and picture as JSON; - prints that and no text; an earlier such "
        "file is replaced",
    )
    parser.add_base_arguments()
    return parser
