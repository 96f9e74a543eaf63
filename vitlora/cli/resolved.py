"""The whole configuration of a ``fit``, without running it."""

from collections.abc import Mapping
from typing import Any

from vitlora.cli.lightning import VitloraCLI, run


def resolve(args: list[str], inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole configuration of a ``fit`` as plain values.

    Args:
        args: The arguments after ``fit``, as for ``main``.
        inherited: As for ``main``.

    Raises:
        UsageError: An argument or a config is wrong.
    """
    return run(["fit", *args], inherited, 0.0, _Reader)._options()


class _Reader(VitloraCLI):
    """Stops once everything is read."""

    def instantiate_classes(self) -> None:
        """Creates nothing."""

    def _set_seed(self) -> None:
        """Leaves this process's random numbers alone."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""
