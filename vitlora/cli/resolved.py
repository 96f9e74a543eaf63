"""The whole configuration of a ``fit``, and what is wrong with it, without running it."""

from collections.abc import Mapping, Sequence
from typing import Any

from vitlora.cli.lightning import VitloraCLI, run
from vitlora.cli.run_options import run_options
from vitlora.errors import VitloraError


def resolve(args: list[str], inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole configuration of a ``fit`` as plain values.

    Args:
        args: The arguments after ``fit``, as for ``main``.
        inherited: As for ``main``.

    Raises:
        UsageError: An argument or a config is wrong.
    """
    return run(["fit", *args], inherited, 0.0, _Reader)._options()


def refusal(options: Sequence[str]) -> tuple[str, bool] | None:
    """Returns why ``fit`` refuses options before it looks at a picture; None if it does not.

    Args:
        options: What is typed after ``fit``.

    Returns:
        The message; whether an option or a value cannot be read.
    """
    try:
        words, inherited = run_options("fit", list(options))
        del inherited["json"]
        run(["fit", *words], inherited, 0.0, _Checker)
    except VitloraError as error:
        return str(error), not isinstance(error, _UnusableError)
    return None


class _Checker(VitloraCLI):
    """Opens the folder of pictures and the base, makes adapter and trainer, and stops."""

    def instantiate_classes(self) -> None:
        """Does as for a run."""
        try:
            super().instantiate_classes()
        except VitloraError as error:
            raise _UnusableError(str(error)) from None

    def _set_seed(self) -> None:
        """Leaves this process's random numbers alone."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


class _Reader(_Checker):
    """Stops once everything is read."""

    def instantiate_classes(self) -> None:
        """Creates nothing."""


class _UnusableError(VitloraError):
    """All options could be read, but they cannot be used."""
