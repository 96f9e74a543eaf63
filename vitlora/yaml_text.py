"""Configurations as text: scalars are kept as typed, and written so that they do not change.

YAML does not read ``yes``, ``012``, ``12:30`` and ``~`` as text, but classes may have such names.
The type of the option decides what a word means, as it does on the command line.
"""

from typing import Any

import yaml

MODE = "as typed"  # the name under which jsonargparse knows ``as_typed``
_MERGE = "tag:yaml.org,2002:merge"
_UNTYPED = ("init_args", "dict_kwargs")  # options of classes, which may have no annotation


class Scalar(str):
    """A word without quotes in YAML.

    Attributes:
        value: The value that YAML reads it as.
    """

    value: object


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way
        first: [pair for pair in pairs if pair[0] == _MERGE]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Returns a mapping; a key that stands twice would lose what stands under the first."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"'{key.value}' stands twice, in lines {seen[key.value]} and {line}"
                    )
                seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        """Returns the text; a ``Scalar`` if it had no quotes."""
        text = self.construct_scalar(node)
        if node.style is not None:
            return text
        scalar = Scalar(text)
        scalar.value = _value(text)
        return scalar


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)


class _Dumper(yaml.SafeDumper):
    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Returns the text, in quotes if it would be read as something else."""
        style = None if _value(data) == data else "'"
        style = style if data.isprintable() else '"'  # only double quotes allow escapes
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def read(text: str) -> Any:
    """Parses YAML; words without quotes become ``Scalar``.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    return yaml.load(text, _Loader)


def values(tree: object) -> Any:
    """Returns a tree of ``read`` with the values that YAML gives its words."""
    if isinstance(tree, dict):
        return {str(key): values(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [values(value) for value in tree]
    return tree.value if isinstance(tree, Scalar) else tree


def typed(tree: object) -> Any:
    """Returns a tree of ``read`` with its words as they were typed; a null option is None."""
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
    """Reads a word of the command line for jsonargparse.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    from jsonargparse import get_loader

    try:
        value = get_loader("yaml")(text)
    except (TypeError, UnicodeError):
        return text
    return typed(read(text)) if isinstance(value, dict | list) else value


def write(value: object) -> str:
    """Returns plain values as readable YAML, which every loader reads as the same values."""
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )


def _value(text: str) -> object:
    """Returns the value that jsonargparse's YAML gives a word."""
    from jsonargparse import get_loader

    try:
        value = get_loader("yaml")(text)
    except (yaml.YAMLError, TypeError, UnicodeError):  # such as a lone "?"
        return text
    return text if isinstance(value, dict | list) else value
