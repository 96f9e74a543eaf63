"""How the commands that stand on torch read their words: apart, so that help needs no torch.

``__main__`` reads the words by these first, and the command then imports what it needs.
"""

from vitlora.command_line import CommandParser

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


def report() -> CommandParser:
    """Returns what reads the words after ``vitlora report``."""
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


def merge() -> CommandParser:
    """Returns what reads the words after ``vitlora merge``."""
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


def adopt() -> CommandParser:
    """Returns what reads the words after ``vitlora adopt``."""
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


def drift() -> CommandParser:
    """Returns what reads the words after ``vitlora drift``."""
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
