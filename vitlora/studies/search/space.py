"""The space of a sweep: options of ``fit``, each with choices or a range."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from vitlora import yaml_text
from vitlora.errors import UsageError, nearest, shown
from vitlora.shell import long_name, option_words

Value: TypeAlias = str | int | float
Point: TypeAlias = dict[str, Value]  # an option's name -> its value

_GROUPS = ("data", "model", "trainer", "unsure")
# Other options of data change the pictures, and with them what scores mean.
_DATA = ("batch_size", "augment", "num_workers", "srgb")
_RANGE = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Choices:
    """Values of an option, each as the word that would be typed after it.

    Words survive every storage; lists and tuples do not.
    """

    words: tuple[str, ...]

    def values(self) -> tuple[Value, ...]:
        """Returns all values."""
        return self.words


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Attributes:
        low: Smallest number.
        high: Largest number, > ``low``.
        log: Whether numbers are drawn evenly on a logarithmic scale; then ``low`` > 0.
        step: Distance between neighbouring numbers, > 0; None for 1 if they are whole, else for
            any number.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole."""
        return all(isinstance(n, int) for n in (self.low, self.high, self.step or 0))

    def values(self) -> tuple[Value, ...] | None:
        """Returns all values; None if there is no end of them."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(self.low + step * n for n in range(count))


@dataclass(frozen=True)
class Space:
    """The options that trials vary, by their dotted names, in the order of the file."""

    parts: Mapping[str, Choices | Range]

    @property
    def size(self) -> int | None:
        """The number of points; None if there is no end of them."""
        counts = [part.values() for part in self.parts.values()]
        return None if None in counts else math.prod(len(count or ()) for count in counts)

    def points(self) -> Iterator[Point]:
        """Yields every point, as nested loops would; the space has to be finite."""
        every = [part.values() or () for part in self.parts.values()]
        for values in itertools.product(*every):
            yield dict(zip(self.parts, values, strict=True))

    def key(self, point: Point) -> tuple[Value, ...]:
        """Returns what is equal for equal points, whatever a sum of steps was rounded to."""
        return tuple(_key(self.parts[name], point[name]) for name in self.parts)

    def words(self, point: Point) -> list[str]:
        """Returns the arguments of ``fit`` for a point."""
        return option_words(None, point)

    def say(self, point: Point) -> str:
        """Returns a point in a few words: ``rank 8, lr 0.0021``."""
        return ", ".join(f"{short} {said(point[name])}" for name, short in self.labels().items())

    def labels(self) -> dict[str, str]:
        """Returns the shortest ends of the names that tell them apart."""
        return {name: _shortest(name, self.parts) for name in self.parts}


def read_space(file: str | Path) -> tuple[Space, dict[str, Any]]:
    """Returns the space in a YAML file, and the same as JSON values.

    Raises:
        UsageError: There is no such file, or its content is no space.
    """
    try:
        tree = yaml_text.read(Path(file).read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"--sweep {file} is not UTF-8; save it as UTF-8") from None
    except FileNotFoundError:
        raise UsageError(f"--sweep '{file}': no such file") from None
    except OSError as error:
        if Path(file).is_dir():
            raise UsageError(
                f"--sweep '{file}' is a folder; expected a YAML file with the options to vary"
            ) from None
        raise UsageError(f"--sweep '{file}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"--sweep {file} is not YAML: {' '.join(str(error).split())}") from None
    try:
        space = Space(dict(_parts(tree, "")))
    except UsageError as error:
        raise UsageError(f"--sweep {file}: {error}") from None
    return space, to_json(space)


def to_json(space: Space) -> dict[str, Any]:
    """Returns a space as JSON values, which ``from_json`` takes."""
    return {
        name: list(part.words)
        if isinstance(part, Choices)
        else {key: getattr(part, key) for key in _RANGE}
        for name, part in space.parts.items()
    }


def from_json(fields: Mapping[str, Any]) -> Space:
    """Returns the space of JSON values of ``to_json``."""
    return Space(
        {
            name: Choices(tuple(part)) if isinstance(part, list) else Range(**part)
            for name, part in fields.items()
        }
    )


def said(value: Value) -> str:
    """Returns a value for people: numbers with four digits, lists without quotes."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace('"', "")


def _parts(tree: Any, above: str) -> Iterator[tuple[str, Choices | Range]]:
    """Yields each option with its choices or its range; options may stand in groups."""
    if not isinstance(tree, dict) or not tree:
        where = f"{above} is {shown(yaml_text.values(tree))}" if above else "there are no options"
        raise UsageError(
            f"{where}; expected a list of choices, or a range such as {{low: 1, high: 8}}"
        )
    seen: set[str] = set()
    for key, inside in tree.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(inside, list) or not isinstance(inside, dict):
            name = long_name(f"--{name}").removeprefix("--")
        if isinstance(inside, dict) and not {*map(str, inside)}.isdisjoint(_RANGE):
            found = [(name, _range(name, inside))]
        elif isinstance(inside, list):
            found = [(name, _choices(name, inside))]
        else:
            found = list(_parts(inside, name))
        for each, part in found:
            _check_name(each)
            if each in seen:
                raise UsageError(f"{each} stands there twice; give it once")
            seen.add(each)
            yield each, part


def _check_name(name: str) -> None:
    group, _, rest = name.partition(".")
    if group == "data" and rest not in _DATA:
        raise UsageError(
            f"{name} changes the pictures that trials are compared on; leave it out (of data, "
            f"only {', '.join(_DATA)} can be varied)"
        )
    if name in ("trainer.callbacks", "trainer.logger"):
        raise UsageError(f"{name} cannot be varied; a config may set it for all trials")
    if group in _GROUPS and not rest:
        raise UsageError(f"{name} is a group of options; expected {name}.OPTION")


def _choices(name: str, inside: list[Any]) -> Choices:
    if not inside:
        raise UsageError(f"{name} has no choices; expected at least one")
    words = [_word(each) for each in yaml_text.typed(inside)]
    for word in words:
        if words.count(word) > 1:
            raise UsageError(f"{name} has the choice {word} twice; give it once")
    return Choices(tuple(words))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _range(name: str, inside: Mapping[str, Any]) -> Range:
    fields = {str(key): yaml_text.values(value) for key, value in inside.items()}
    for key in fields:
        if key not in _RANGE:
            raise UsageError(
                f"{name} has the unknown key '{key}'{nearest(key, _RANGE)}; a range has "
                f"{', '.join(_RANGE)}"
            )
    for key in ("low", "high"):
        if key not in fields:
            raise UsageError(f"{name} has no {key}; expected a range such as {{low: 1, high: 8}}")
    for key in ("low", "high", "step"):
        value = fields.get(key)
        if key == "step" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise UsageError(f"{name}.{key} is {shown(value)}; expected a number")
    if not isinstance(fields.get("log", False), bool):
        raise UsageError(f"{name}.log is {shown(fields['log'])}; expected true or false")
    made = Range(**fields)
    if made.low >= made.high:
        raise UsageError(f"{name}: low is {made.low} and high is {made.high}; expected low < high")
    if made.log and made.low <= 0:
        raise UsageError(f"{name}: low is {made.low}; with log it must be above 0")
    if made.log and made.step is not None:
        raise UsageError(f"{name} has log and step; leave one of them out")
    if made.step is not None and not 0 < made.step <= made.high - made.low:
        raise UsageError(f"{name}.step is {made.step}; expected more than 0, at most high - low")
    return made


def _finite(value: float) -> bool:
    return abs(value) < 2**53  # which every storage keeps exactly


def _key(part: Choices | Range, value: Value) -> Value:
    if isinstance(part, Choices) or part.step is None or isinstance(value, str):
        return value
    return round((value - part.low) / part.step)


def _shortest(name: str, others: Mapping[str, Any]) -> str:
    ends = name.split(".")
    for count in range(1, len(ends)):
        short = ".".join(ends[-count:])
        if not any(other != name and f".{other}".endswith(f".{short}") for other in others):
            return short
    return name
