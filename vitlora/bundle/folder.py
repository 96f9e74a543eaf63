"""A bundle's folder: the names of its files, and how to find bundles. Needs no torch."""

from pathlib import Path

from vitlora.errors import BundleError

RECORD = "vitlora.json"
TENSORS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
RUN_CONFIG = "config.yaml"
REFERENCE = "reference.safetensors"
PICTURES = "pictures.safetensors"
CARD = "README.md"
STATE = "last.ckpt"  # no part of the bundle: the state of a run that has not ended
LOCK = ".run.lock"  # while a run is going on
FILES = (RECORD, TENSORS, PEFT_CONFIG, RUN_CONFIG, REFERENCE, PICTURES, CARD)


def newest_bundle(root: str | Path = "checkpoints") -> Path:
    """Returns the folder of the newest bundle anywhere under ``root``.

    Raises:
        BundleError: There is none.
    """
    found = sorted(Path(root).rglob(RECORD), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise BundleError(
            f"no trained adapter under {Path(root).resolve()}; train one with "
            "'python -m vitlora fit --config demo.yaml', or name the folder of one"
        )
    return found[-1].parent


def is_bundle(folder: Path) -> bool:
    """Returns whether a folder seems to hold a bundle."""
    return (folder / RECORD).is_file()


def check_there(folder: str | Path) -> Path:
    """Returns the folder if it seems to hold a bundle.

    Raises:
        BundleError: It holds none, or there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        file = "is a file; expected the bundle's folder, or in predict an exported .onnx or .xml"
        kind = file if folder.exists() else "no such folder"
        raise BundleError(f"checkpoint '{folder}': {kind}")
    if not is_bundle(folder):
        kind = "a PEFT adapter" if (folder / PEFT_CONFIG).exists() else "no vitlora bundle"
        todo = "; 'vitlora adopt' makes a bundle of it" if "PEFT" in kind else ""
        raise BundleError(f"{folder} holds {kind}: it has no {RECORD}{todo}")
    return folder
