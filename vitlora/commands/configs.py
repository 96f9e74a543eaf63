"""The ``configs`` command: the configs that ship with vitlora, to see and to copy."""

from dataclasses import dataclass
from typing import Any

from vitlora.config_files import shipped
from vitlora.errors import UsageError, nearest

_NEXT = (
    "run one    vitlora fit --config waste5.yaml --data PHOTOS",
    "copy one   vitlora configs waste5.yaml > mine.yaml",
)


def configs(name: str | None = None) -> "Configs":
    """Lists the configs that ship, or shows one to copy.

    Args:
        name: The config to show whole, such as waste5.yaml.

    Returns:
        The texts of the configs, by name.

    Raises:
        UsageError: No config of that name ships.

    Examples:
        $ vitlora configs
        $ vitlora configs waste5.yaml > mine.yaml

        >>> "demo.yaml" in configs().texts
        True
    """
    ours = shipped()
    if name is not None and name not in ours:
        raise UsageError(
            f"no config '{name}' ships with vitlora{nearest(name, ours)}; expected one of "
            f"{', '.join(ours)}"
        )
    wanted = ours if name is None else {name: ours[name]}
    return Configs({key: path.read_text("utf-8") for key, path in wanted.items()}, name is not None)


@dataclass(frozen=True)
class Configs:
    """Configs that ship with vitlora.

    Attributes:
        texts: Their YAML, by name.
        whole: Whether one was asked for, to be shown whole.
    """

    texts: dict[str, str]
    whole: bool

    def to_text(self) -> str:
        """Returns the one that was asked for, else a line about each."""
        if self.whole:
            return "".join(self.texts.values()).rstrip("\n")
        width = max(map(len, self.texts))
        lines = [f"{name:{width}}  {_about(text)}" for name, text in self.texts.items()]
        return "\n".join([*lines, "", *_NEXT])

    def to_json(self) -> dict[str, Any]:
        """Returns the texts."""
        return {"configs": self.texts}


def _about(text: str) -> str:
    """Returns the first sentence of a config's opening comment."""
    opening = text.split("\n#\n")[0]
    words = " ".join(line.removeprefix("#").strip() for line in opening.splitlines())
    return words.partition(". ")[0].rstrip(".")
