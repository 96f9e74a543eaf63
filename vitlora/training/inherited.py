"""The values that a run takes from a bundle, each checked against the type of its option.

A bundle may come from anywhere, and the command line imports any class that a configuration names.
So nothing from a bundle becomes an argument of the command line or the name of a class.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from vitlora.bundle.checkpoint import Bundle
from vitlora.bundle.folder import RUN_CONFIG
from vitlora.bundle.plain import is_a
from vitlora.bundle.record import is_network_path
from vitlora.data.datamodule import FolderData
from vitlora.data.hub import address
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.preprocessing import CropMode
from vitlora.errors import BundleError, shown

# options that do not change scores, so the user chooses them
_FREE = ("augment", "batch_size", "num_workers", "check_copies")


def options_in(bundle: Bundle, group: str) -> dict[str, Any]:
    """Returns the unchecked ``data`` or ``model`` section of a bundle's ``config.yaml``.

    Raises:
        BundleError: The section is missing.
    """
    options = bundle.run().get(group)
    if not isinstance(options, dict):
        raise BundleError(f"{bundle.folder / RUN_CONFIG} records no run: {group} is missing")
    return options


def to_score(
    bundle: Bundle, chosen: Container[str] = (), root: str | None = None
) -> dict[str, Any]:
    """Returns a bundle's pictures and base as options, without the options of its training.

    Args:
        bundle: The bundle.
        chosen: Names of options that the user sets, such as ``data.root``; they are left out.
        root: The folder that the user names; None for that of training.

    Raises:
        BundleError: Its ``config.yaml`` holds a value that an option does not accept.
    """
    data, record, where = options_in(bundle, "data"), bundle.record, bundle.folder / RUN_CONFIG
    hints = get_type_hints(FolderData.__init__)
    options = {name: value for name, value in data.items() if f"data.{name}" not in chosen}
    view = {"crop_mode": options_in(bundle, "model").get("crop_mode")}
    check(where, "data", options, hints)
    # relative paths depend on the folder in which the run was started; the record has absolute ones
    places = {"root": record.split["root"], "groups": record.split.get("drawn", {}).get("groups")}
    # known_classes allows classes without pictures, and classes leaves out others
    options |= {"classes": list(record.classes), "known_classes": list(record.classes)}
    options |= {name: place for name, place in places.items() if place and name in options}
    if root is not None and address(root) != record.split["root"]:
        # another folder may be stored in another way
        options = {name: v for name, v in options.items() if name not in vars(LayoutOptions())}
    else:
        known = LayoutOptions.recorded(record.split).given()
        options |= {name: value for name, value in known.items() if f"data.{name}" not in chosen}
    check(where, "data", options, hints)
    check(where, "model", view, {"crop_mode": CropMode | None})
    whole = record.method == "FullFineTuning"  # such a bundle holds every weight
    return {
        **{f"data.{name}": value for name, value in options.items() if name not in _FREE},
        "model.backbone": record.backbone,
        "model.weights": "none" if whole else bundle.weights,
        "model.image_size": record.preprocessing.image_size,
        "model.crop_mode": view["crop_mode"],
    }


def check(
    where: Path, group: str, options: Mapping[Any, object], hints: Mapping[str, object]
) -> None:
    """Refuses unknown names, values of the wrong type, and paths on other machines.

    Args:
        where: The file that sets the options, for the message.
        group: ``data``, ``model`` or ``model.adapter``.
        options: Name -> value.
        hints: Name -> annotation.

    Raises:
        BundleError: There is one.
    """
    for name, value in options.items():
        key = f"{group}.{name}"
        if name not in hints:
            raise BundleError(
                f"{where} sets {shown(key)}, which this version of vitlora does not know; was it "
                "made by a newer one?"
            )
        if not is_a(value, hints[name]):
            raise BundleError(
                f"{where} sets {key} to {shown(value)}, which that option does not accept"
            )
        if isinstance(value, str) and is_network_path(value):
            raise BundleError(
                f"{where} sets {key} to {shown(value)}, a path on another machine, which a bundle "
                f"may not choose; set it yourself with --{key}"
            )
