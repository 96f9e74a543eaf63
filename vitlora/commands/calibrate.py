"""The ``calibrate`` command: teaches a bundle what its confidence is worth, once more."""

import sys
from collections.abc import Sequence

from vitlora.bundle.folder import check_there
from vitlora.command_line import CommandParser
from vitlora.errors import DataError
from vitlora.metrics.unsure import Unsure

_EPILOG = """examples:
  vitlora calibrate checkpoints/photos --max-error 0.02
  vitlora calibrate checkpoints/adopted --data photos"""


def main(args: Sequence[str] | None = None) -> int:
    """Looks at the pictures of training again and writes temperature and threshold anew.

    Raises:
        UsageError: A share out of range.
        BundleError: The bundle is damaged.
        BackboneError: The base's weights cannot be had.
        DataError: There are no pictures to learn from.
    """
    options = _parser().parse_args(args)
    check_there(options.checkpoint)
    unsure = Unsure(options.max_error, options.coverage)
    # torch and timm take seconds to import: only now, when the words typed make sense
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.bundle.merging import merged_network
    from vitlora.evaluation.calibrate import calibrate, describe
    from vitlora.evaluation.pictures import settle
    from vitlora.evaluation.seen import seen
    from vitlora.evaluation.training_folder import folder_of
    from vitlora.hardware import pick_device

    bundle = load_bundle(options.checkpoint)
    data = folder_of(bundle, options.data)
    noted = settle(bundle, data, "val") if bundle.usage is not None else None
    for split in ("train", "val"):
        if split not in data.folder.splits:
            raise DataError(
                f"{data.folder.root} has no {split} split; expected pictures the network was "
                "trained on and others that it was not"
            )
    held_out = data.folder.splits["val"]
    known = seen(bundle, held_out)
    same = data.recalled or data.digest("val") == bundle.record.split["digests"].get("val")
    if not same and known.trained is None and (data.drawn or options.data is None):
        raise DataError(
            f"the validation pictures of {data.folder.root} are not those held out in training, so "
            "training pictures could be among them; expected those, or --data DIR with train/ and "
            "val/ of your own choice"
        )
    if not same and not noted:
        at_its_word = (
            f"; {data.folder.root} is taken at its word that val/ was not trained on"
            if known.trained is None
            else ""
        )
        noted = f"these are not the validation pictures of training{at_its_word}"
    if noted:
        print(f"note: {noted}", file=sys.stderr)
    for line in known.notes("val"):
        print(f"warning: {line}", file=sys.stderr)
    network = merged_network(bundle, options.weights, pick_device(options.device))
    splits = data.folder.splits
    bundle = calibrate(bundle, network, splits["train"], splits["val"], unsure)
    if bundle.record.confidence is not None:
        print(describe(bundle.record.confidence))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="vitlora calibrate",
        description="Fits the temperature of a bundle's confidence on validation pictures, chooses "
        "below which confidence an answer is unsure, and learns where the training pictures lie, "
        "to know unfamiliar ones. 'vitlora fit' does so by itself; this does it again, for another "
        "error rate or for an adopted adapter.",
        epilog=_EPILOG,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder with train/ and val/, or class folders (default: the folder of training)",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--max-error",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="wrong answers accepted among the sure ones of new pictures, kept to with 90%% "
        "probability (default: 0.05)",
    )
    either.add_argument(
        "--coverage", type=float, metavar="SHARE", help="or: pictures to be answered for sure"
    )
    parser.add_base_arguments()
    return parser
