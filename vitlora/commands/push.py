"""The ``push`` command: a bundle -> a model repository on the Hugging Face hub."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from vitlora.bundle.folder import check_there
from vitlora.command_line import CommandParser
from vitlora.errors import UsageError, VitloraError, printable

if TYPE_CHECKING:
    from vitlora.bundle.checkpoint import Bundle

_EPILOG = """needs a token that may write: 'hf auth login' keeps one, or set HF_TOKEN

example:
  vitlora push checkpoints/waste5 jane/waste5 --private"""

_MEND = {
    401: "the token is not valid: log in again with 'hf auth login --force', or set HF_TOKEN",
    403: "the token may not write there: check the owner's name, or make a token that may write",
    404: "check the owner's name, and that the token sees the repository",
    409: "somebody else is changing it; try again",
    412: "somebody else changed it meanwhile; try again",
}


def main(args: Sequence[str] | None = None) -> int:
    """Uploads a verified bundle and its model card in one commit; prints where it went.

    Raises:
        UsageError: A repository's name that is none.
        BundleError: The bundle is damaged, describes no run, or there is none.
        VitloraError: No token, no network, or the hub refuses.
    """
    options = _parser().parse_args(args)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.repo, re.ASCII):
        raise UsageError(f"REPO is '{options.repo}'; expected owner/name, as in jane/waste5")
    check_there(options.checkpoint)
    # torch and timm take seconds to import: only now, when the words typed make sense
    from vitlora.bundle.card import model_card
    from vitlora.bundle.checkpoint import read_bundle
    from vitlora.bundle.folder import CARD

    bundle, files = read_bundle(options.checkpoint)
    card = bundle.card() or model_card(bundle.record, bundle.tensors, bundle.peft)
    files[CARD] = card.encode("utf-8", "surrogateescape")
    message = options.message or f"{bundle.record.method} on {bundle.record.backbone}, by vitlora"
    print(_upload(options.repo, files, message, options.private, list(_notes(bundle))))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="vitlora push",
        description="Uploads a bundle and its model card to the Hugging Face hub, in one commit.",
        epilog=_EPILOG,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the bundle")
    parser.add_argument(
        "repo", metavar="REPO", help="owner/name on the hub; made if it is not there"
    )
    parser.add_argument(
        "--private", action="store_true", help="only you (or your organisation) may see it"
    )
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    return parser


def _upload(
    repo: str, files: Mapping[str, bytes], message: str, private: bool, notes: Sequence[str]
) -> str:
    """Returns the URL of a repository, made if it is not there, to which files were committed.

    Raises:
        VitloraError: No token, no network, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    api = HfApi()
    try:
        api.token = get_token()
        if not api.token:
            raise VitloraError(
                "no token for the Hugging Face hub on this machine; type 'hf auth login', or set "
                "HF_TOKEN to a token that may write"
            )
        api.create_repo(repo, private=private or None, exist_ok=True)
        is_private = api.repo_info(repo).private
        if private and not is_private:  # the hub leaves a repository that exists as it is
            raise VitloraError(
                f"{api.endpoint}/{repo} exists and is public; make it private in its settings, or "
                "push without --private"
            )
        _announce(f"{'private' if is_private else 'public'} {api.endpoint}/{repo}", files, notes)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        api.create_commit(repo, additions, commit_message=message)
    except VitloraError:
        raise
    # huggingface_hub, its HTTP client and hf_xet raise many kinds of error, others in each version
    except Exception as error:
        raise VitloraError(_in_words(error, f"{api.endpoint}/{repo}")) from error
    return f"{api.endpoint}/{repo}"


def _announce(target: str, files: Mapping[str, bytes], notes: Sequence[str]) -> None:
    """Prints what is about to be uploaded, and what that tells to its readers."""
    print(f"to the {target}:")
    for name, content in files.items():
        print(f"  {name:<27} {len(content):>13,} bytes")
    for note in notes:
        print(f"note: {note}")


def _notes(bundle: "Bundle") -> Iterator[str]:
    """Yields what a bundle gives away of this machine and of the pictures of training.

    Raises:
        BundleError: It describes no run.
    """
    from vitlora.bundle.folder import PICTURES

    values = [asdict(bundle.record), bundle.peft, bundle.run()]
    if paths := sorted(set(map(printable, _absolute(values)))):
        yield f"these files name places on this machine: {', '.join(paths)}"
    if bundle.usage is not None:
        yield f"{PICTURES} tells whoever has a picture whether it was trained on"


def _absolute(value: Any) -> Iterator[str]:
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
    """Returns in one line what stood in the way of an upload, and what to do about it."""
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
