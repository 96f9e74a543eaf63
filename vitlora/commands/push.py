"""The ``push`` command: uploads a bundle to the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from vitlora.arguments import checked
from vitlora.bundle.folder import check_there
from vitlora.errors import UsageError, VitloraError, printable
from vitlora.notes import note, tell

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle

_MEND = {
    401: "the token is not valid: log in again with 'hf auth login --force', or set HF_TOKEN",
    403: "the token has no write access: check the owner's name, or use a token with write access",
    404: "check the owner's name, and that the token has access to the repository",
    409: "somebody else is changing it; try again",
    412: "somebody else has just changed it; try again",
}


@checked
def push(
    checkpoint: str | Path, repository: str, *, private: bool = False, message: str | None = None
) -> Pushed:
    """Uploads a bundle to the Hugging Face hub.

    The bundle and its model card are uploaded in one commit. You need a token with write access:
    log in with 'hf auth login', or set HF_TOKEN.

    Args:
        checkpoint: Folder of the bundle.
        repository: OWNER/NAME on the hub; created if it does not exist.
        private: Create a private repository, which only you (or your organisation) can see.
        message: Commit message (default: the method and the base).

    Returns:
        The repository, and what was uploaded.

    Raises:
        UsageError: The repository's name is not valid.
        BundleError: The bundle is damaged, records no run, or there is none.
        VitloraError: There is no token or no network, or the hub refuses.

    Examples:
        $ vitlora push checkpoints/waste5 jane/waste5 --private
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise UsageError(f"REPOSITORY is '{repository}'; expected OWNER/NAME, such as jane/waste5")
    folder = check_there(checkpoint)
    from vitlora.bundle.card import model_card
    from vitlora.bundle.checkpoint import read_bundle
    from vitlora.bundle.folder import CARD

    bundle, files = read_bundle(folder)
    card = bundle.card() or model_card(bundle.record, bundle.tensors, bundle.peft)
    files[CARD] = card.encode("utf-8", "surrogateescape")
    message = message or f"{bundle.record.method} on {bundle.record.backbone}, by vitlora"
    url, is_private = _upload(repository, files, message, private, list(_given_away(bundle)))
    sizes = {name: len(content) for name, content in files.items()}
    return Pushed(folder, repository, url, is_private, sizes)


@dataclass(frozen=True)
class Pushed:
    """A bundle on the hub.

    Attributes:
        checkpoint: The bundle.
        repository: OWNER/NAME.
        url: Address of the repository.
        private: Whether the repository is private.
        files: Name of each uploaded file -> bytes.
    """

    checkpoint: Path
    repository: str
    url: str
    private: bool
    files: dict[str, int]

    def to_text(self) -> str:
        """Returns the address of the repository."""
        return self.url

    def to_json(self) -> dict[str, object]:
        """Returns the repository and what was uploaded."""
        return {**asdict(self), "checkpoint": str(self.checkpoint)}


def _upload(
    repo: str,
    files: Mapping[str, bytes],
    message: str,
    private: bool,
    notes: Sequence[str],
) -> tuple[str, bool]:
    """Commits files to a repository, creating it if needed; returns its URL, whether private.

    Args:
        repo: OWNER/NAME.
        files: Name -> content.
        message: Commit message.
        private: Refuse a public repository.
        notes: Notes to log before the upload.

    Raises:
        VitloraError: There is no token or no network, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    api = HfApi()
    try:
        api.token = get_token()
        if not api.token:
            raise VitloraError(
                "no token for the Hugging Face hub on this machine; log in with 'hf auth login', "
                "or set HF_TOKEN to a token with write access"
            )
        api.create_repo(repo, private=private or None, exist_ok=True)
        is_private = api.repo_info(repo).private
        if private and not is_private:  # the hub does not change an existing repository
            raise VitloraError(
                f"{api.endpoint}/{repo} exists and is public; make it private in its settings, or "
                "push without --private"
            )
        _announce(f"{'private' if is_private else 'public'} {api.endpoint}/{repo}", files, notes)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, additions, commit_message=message)
    except VitloraError:
        raise
    # the errors of huggingface_hub, its HTTP client and hf_xet differ between versions
    except Exception as error:
        raise VitloraError(_in_words(error, f"{api.endpoint}/{repo}")) from error
    return f"{api.endpoint}/{repo}", bool(is_private)


def _announce(target: str, files: Mapping[str, bytes], notes: Sequence[str]) -> None:
    """Logs what is about to be uploaded and what it reveals."""
    tell(f"uploading to the {target}:")
    for name, content in files.items():
        tell(f"  {name:<27} {len(content):>13,} bytes")
    for line in notes:
        note(line)


def _given_away(bundle: Bundle) -> Iterator[str]:
    """Yields what a bundle reveals about this machine and the training pictures.

    Raises:
        BundleError: It records no run.
    """
    from vitlora.bundle.folder import PICTURES

    values = [asdict(bundle.record), bundle.peft, bundle.run()]
    if paths := sorted(set(map(printable, _absolute(values)))):
        yield f"these files contain paths of this machine: {', '.join(paths)}"
    if bundle.usage is not None:
        yield f"{PICTURES} reveals whether a given picture was used in training"


def _absolute(value: object) -> Iterator[str]:
    """Yields every absolute path in parsed JSON or YAML."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and any(
            kind(value).is_absolute() for kind in (PurePosixPath, PureWindowsPath)
        ):
            yield value


def _in_words(error: Exception, target: str) -> str:
    """Returns in one line why an upload failed and what to do."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub's "Error while uploading"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "" if isinstance(error, ValueError) else "; is there a network?"
        return f"the push to {target} failed ({reason}){hint}"
    said = " ".join((getattr(error, "server_message", None) or "").split())
    later = "try again later" if status == 429 or status >= 500 else ""
    parts = [f"the push to {target} was refused ({status}{f': {said}' if said else ''})"]
    return "; ".join(filter(None, [*parts, _MEND.get(status, later)]))
