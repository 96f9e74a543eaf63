"""Configurations as text: scalars as they were typed, written so that they stay what they are.

YAML takes ``yes``, ``012``, ``12:30`` and ``~`` for other things than text, and so are classes
called. What a word means is for the option to say that it is given to: its type decides, as it does
for a word on the command line.
"""

from typing import Any

import yaml

MODE = "as typed"  # jsonargparse's name for reading as ``as_typed`` does
_MERGE = "tag:yaml.org,2002:merge"
_UNTYPED = ("init_args", "dict_kwargs")  # of classes, whose options need not say what they take


class Scalar(str):
    """A word that stood in YAML without quotes.

    Attributes:
        value: What YAML takes it for.
    """

    value: Any


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way
        first: [pair for pair in pairs if pair[0] == _MERGE]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Returns text; with what YAML takes it for if it had no quotes."""
        text = self.construct_scalar(node)
        if node.style is not None:
            return text
        scalar = Scalar(text)
        scalar.value = _value(text)
        return scalar


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)


class _Dumper(yaml.SafeDumper):
    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Returns text, in quotes if it would be read as something else."""
        style = None if _value(data) == data else "'"
        style = style if data.isprintable() else '"'  # the one in which escapes are read back
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def read(text: str) -> Any:
    """Returns what YAML holds, words without quotes as ``Scalar``.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    return yaml.load(text, _Loader)


def values(tree: Any) -> Any:
    """Returns what ``read`` found as YAML means it."""
    if isinstance(tree, dict):
        return {str(key): values(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [values(value) for value in tree]
    return tree.value if isinstance(tree, Scalar) else tree


def typed(tree: Any) -> Any:
    """Returns what ``read`` found as it was typed; an option that is null is None."""
    if isinstance(tree, dict):
        return {
            str(key): None
            if isinstance(value, Scalar) and value.value is None
            else (values if key in _UNTYPED else typed)(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [typed(value) for value in tree]
    return str(tree) if isinstance(tree, Scalar) else tree


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Returns the leaves of nested options by their dotted names."""
    if not isinstance(tree, dict) or not tree:
        return {name: tree}
    return {
        path: leaf
        for key, inside in tree.items()
        for path, leaf in flat(inside, f"{name}.{key}" if name else str(key)).items()
    }


def as_typed(text: str) -> Any:
    """Returns a word of the command line as jsonargparse wants it read.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    from jsonargparse import get_loader

    try:
        value = get_loader("yaml")(text)
    except (TypeError, UnicodeError):
        return text
    return typed(read(text)) if isinstance(value, dict | list) else value


def write(value: Any) -> str:
    """Returns plain values as YAML for people, which every loader reads as the same values."""
    options: dict[str, Any] = {
        "default_flow_style": False,
        "allow_unicode": True,
        "sort_keys": False,
    }
    return yaml.dump(value, Dumper=_Dumper, **options)


def _value(text: str) -> Any:
    """Returns what jsonargparse's YAML takes a word for."""
    from jsonargparse import get_loader

    try:
        value = get_loader("yaml")(text)
    except (yaml.YAMLError, TypeError, UnicodeError):  # such as "?", which is not a mapping's key
        return text
    return text if isinstance(value, dict | list) else value
