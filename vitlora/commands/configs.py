"""The ``configs`` command: lists and shows the configs that come with vitlora."""

from dataclasses import dataclass

from vitlora.arguments import checked
from vitlora.config_files import shipped
from vitlora.errors import UsageError, nearest

_NEXT = (
    "run one    vitlora fit --config waste5.yaml --data PHOTOS",
    "copy one   vitlora configs waste5.yaml > mine.yaml",
)


@checked
def configs(name: str | None = None) -> "Configs":
    """Lists the configs that come with vitlora, or prints one.

    Args:
        name: The config to print, such as waste5.yaml.

    Returns:
        Name -> text of each config.

    Raises:
        UsageError: There is no config of that name.

    Examples:
        $ vitlora configs
        $ vitlora configs waste5.yaml > mine.yaml

        >>> "demo.yaml" in configs().texts
        True
    """
    ours = shipped()
    if name is not None and name not in ours:
        raise UsageError(
            f"vitlora has no config '{name}'{nearest(name, ours)}; expected one of "
            f"{', '.join(ours)}"
        )
    wanted = ours if name is None else {name: ours[name]}
    return Configs({key: path.read_text("utf-8") for key, path in wanted.items()}, name is not None)


@dataclass(frozen=True)
class Configs:
    """Configs that come with vitlora.

    Attributes:
        texts: Name -> YAML text.
        whole: Whether to print the text of one config, not a list.
    """

    texts: dict[str, str]
    whole: bool

    def to_text(self) -> str:
        """Returns the requested config, else a line about each."""
        if self.whole:
            return "".join(self.texts.values()).rstrip("\n")
        width = max(map(len, self.texts))
        lines = [f"{name:{width}}  {_about(text)}" for name, text in self.texts.items()]
        return "\n".join([*lines, "", *_NEXT])

    def to_json(self) -> dict[str, object]:
        """Returns the texts by name."""
        return {"configs": self.texts}


def _about(text: str) -> str:
    """Returns the first sentence of a config's opening comment."""
    opening = text.split("\n#\n")[0]
    words = " ".join(line.removeprefix("#").strip() for line in opening.splitlines())
    return words.partition(". ")[0].rstrip(".")
