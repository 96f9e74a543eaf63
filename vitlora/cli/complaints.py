"""Turns jsonargparse's complaints about a configuration into one clear line."""

import inspect
import re
import sys
from collections.abc import Iterable

from lightning.pytorch import Trainer as LightningTrainer

from vitlora.adapters import Lora
from vitlora.cli.words import NAMES
from vitlora.data.datamodule import FolderData
from vitlora.errors import UsageError, nearest, nearest_of
from vitlora.metrics.unsure import Unsure
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier

_ADAPTERS = ("Lora", "LinearProbe", "FullFineTuning")
_HOMES = {  # modules in which a class named alone is found
    "trainer.callbacks": "lightning.pytorch.callbacks",
    "trainer.logger": "lightning.pytorch.loggers",
    "trainer.plugins": "lightning.pytorch.plugins",
    "trainer.profiler": "lightning.pytorch.profilers",
}
_OWNERS: dict[str, type] = {
    "data": FolderData,
    "model": Classifier,
    "model.adapter": Lora,
    "trainer": Trainer,
    "unsure": Unsure,
}
# base classes, which jsonargparse also tries
_BASES = ("Adapter", "Callback", "Logger", "Profiler", "Strategy")
_NEXT = r"(?= - (?:Problem|Expected|Import path|Not a valid|Does not)| Given value|$)"
_VALUE = (
    rf"(?:Expected (?:an? )?(?P<type>.+?)\. Got value: (?P<value>.*?){_NEXT}"
    r"|Does not validate against any of the Union subtypes Subtypes: \[(?P<union>.+?)\] Errors: .*?"
    rf"Given value: (?P<given>.*?){_NEXT}"
    r"|Expected a dot import path string: (?P<path>\S+))"
)


def explained(error: Exception, config: object = None) -> UsageError:
    """Returns jsonargparse's complaint in one line.

    Args:
        error: The complaint; its text lists everything that jsonargparse tried.
        config: The configuration, to find the key if the complaint names none.
    """
    text = " ".join(str(error).split())
    named = re.match(r'Parser key "([\w.]+)"', text)
    key = named[1] if named else _key_of(text, config)
    said = _unknown_option(text) or _of_a_class(key, text) or _of_a_name(key, text)
    return UsageError(said or _of_a_value(key, text) or text)


def _unknown_option(text: str) -> str | None:
    """Returns the complaint about an option that does not exist."""
    unknown = re.search(
        r"unrecognized arguments: --([\w.-]+)|does not accept option '([\w.]+)'", text
    )
    if unknown is not None:
        return _unknown_key(unknown[1] or unknown[2])
    unknown = re.match(r'Parser key "[^"]*": Option \'([\w.]+)\' is not accepted', text)
    return _unknown_key(unknown[1]) if unknown else None


def _unknown_key(key: str) -> str:
    return f"unknown key '{key}'{_nearest_key(key)}; 'vitlora fit --help' lists all"


def _of_a_class(key: str, text: str) -> str | None:
    """Returns the complaint about a class that was found, or about its options."""
    problem = rf"Problem with given class_path '([\w.]+)': (.+?){_NEXT}"
    found = [(m[1], m[2], m.start()) for m in re.finditer(problem, text)]
    ours = [one for one in found if one[0].rpartition(".")[2] not in _BASES]
    if not found:
        return None
    path, what, start = (ours or found)[0]
    name = path.rpartition(".")[2]
    if lacking := re.match(r"the following arguments are required: (.+)", what):
        options = ", ".join(f"--{key}.{option}" for option in lacking[1].split(", "))
        return f"{key}: {name} needs {lacking[1]}; add {options} (init_args in a config)"
    if unknown := re.match(r"Option '(\w+)' is not accepted", what):
        return _unaccepted(key, path, unknown[1], bare=not ours)
    value = re.compile(rf"Problem with given class_path '[\w.]+': Parser key \"(\w+)\": {_VALUE}")
    if wrong := value.match(text, start):
        return _wrong_value(f"{key}.{wrong[1]}", wrong)
    if "object has no attribute 'keys'" in what:
        return f"{key}: init_args of {name} must map its options' names to values"
    if package := re.search(r"pip install (?:-U )?['\"]?([\w.-]+[^'\"`\s]*)", what):
        return (
            f"{key}: {name} needs the package {package[1]}, which is not installed; run "
            f"pip install '{package[1]}'"
        )
    if lost := re.match(r"No module named '?([\w.]+)", what):
        return (
            f"{key} '{path}': there is no module {lost[1]}; correct the path, or install its "
            "package"
        )
    if lost := re.match(r"module '([\w.]+)' has no attribute '(\w+)'", what):
        names = [one for one in dir(sys.modules.get(lost[1])) if not one.startswith("_")]
        return f"{key} '{path}': {lost[1]} has no {lost[2]}{nearest(lost[2], names)}"
    return f"{key}: {name}: {what}"


def _unaccepted(key: str, path: str, option: str, bare: bool) -> str:
    if option == "class_path":
        return f"{key} takes class_path and init_args; move its options into init_args"
    if bare:
        return f"{key} has {option}, but no class_path; expected class_path and init_args"
    wanted = f"{key}.{option}"
    if key == "model.adapter":
        if option in _options(Lora):
            return f"{wanted} is an option of Lora; the chosen adapter has no such option"
        return _unknown_key(wanted)
    home, _, name = path.rpartition(".")
    options = _options(getattr(sys.modules.get(home), name, object))
    close = nearest(wanted, [f"{key}.{one}" for one in options])
    return f"unknown key '{wanted}'{close}; {name} takes {', '.join(options) or 'no options'}"


def _of_a_name(key: str, text: str) -> str | None:
    """Returns the complaint about a class that was not found, or a value that names no class."""
    if lost := re.search(r"Expected a dot import path string: (\S+)", text):
        if key == "model.adapter":
            names: Iterable[str] = _ADAPTERS
            wanted = f"one of {', '.join(_ADAPTERS)}"
        else:
            home = _HOMES.get(key, "")
            names = getattr(sys.modules.get(home), "__all__", ())
            if lost[1] in names:  # a missing package hides it
                return f"{key} '{lost[1]}' was not found; write {home}.{lost[1]}"
            wanted = f"a class of {home}, or package.Class" if home else "package.Class"
        return f"{key} '{lost[1]}' is unknown; expected {wanted}{nearest(lost[1], names)}"
    if given := re.search(r"is abstract .*Given value: (.*)$", text):
        if "'class_path'" in given[1]:
            return f"{key} takes class_path and init_args; move its options into init_args"
        return f"{key} is {given[1]}, without a class_path; expected class_path and init_args"
    if given := re.search(r"Not a valid subclass of \w+\. Got value: (.*?) Subclass types", text):
        return f"{key} is {given[1]}; expected the name of a class, or class_path and init_args"
    if re.search(r"Unable to load config", text):
        return f"--{key} takes a YAML file; to set one option, write --{key}.NAME VALUE"
    return None


def _of_a_value(key: str, text: str) -> str | None:
    wrong = re.search(rf'Parser key "{re.escape(key)}": (?:[^"]*? )??{_VALUE}', text)
    return _wrong_value(key, wrong) if wrong else None


def _wrong_value(key: str, wrong: re.Match[str]) -> str:
    if wrong["path"]:
        return f"{key} is '{wrong['path']}'; expected a function, as package.function"
    wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wrong["union"] or wrong["type"])
    wanted = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", wanted)
    wanted = re.sub(r"Literal\[(.+?)\]", r"one of \1", wanted).replace(", NoneType", " or null")
    names = {kind.__name__: name for kind, name in NAMES.items()}
    wanted = re.sub(r"(?<!\[)\b(int|float|bool|str)\b(?!\])", lambda kind: names[kind[0]], wanted)
    return f"{key} is {wrong['given'] or wrong['value']!r}; expected {wanted}"


def _key_of(text: str, config: object) -> str:
    """Returns the key of the class that could not be created."""
    found = re.search(r"Problem with given class_path '([\w.]+)'", text)
    for group, options in _items(config):
        for name, value in _items(options):
            values = value if isinstance(value, list) else [value]
            if found and any(dict(_items(one)).get("class_path") == found[1] for one in values):
                return f"{group}.{name}"
    return "config"


def _items(fields: object) -> Iterable[tuple[str, object]]:
    """Returns the keys and values of a mapping, or of jsonargparse's namespace."""
    if isinstance(fields, dict):
        return fields.items()
    return vars(fields).items() if hasattr(fields, "__dict__") else ()


def _options(owner: type) -> list[str]:
    """Returns the names of a class's options."""
    if owner is object:
        return []
    named = inspect.signature(owner).parameters.values()
    return [p.name for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def _nearest_key(key: str) -> str:
    """Returns a hint for an unknown dotted key, or for the last part of one."""
    ends = {
        name: f"{group}.{name}"
        for group, owner in _OWNERS.items()
        for name in _options(owner)
        if name != "num_classes"
    }
    lightnings = [f"trainer.{name}" for name in _options(LightningTrainer)]
    tops = ["output", "seed_everything", "checkpoint", "json", "config"]
    group, dot, _ = key.partition(".")
    if group in _OWNERS:
        inside = [name for name in (*ends.values(), *lightnings) if name.startswith(f"{group}.")]
        return nearest(key, inside)
    if dot:
        return nearest(key, ends.values())
    end = nearest_of(key, (*ends, *tops))
    return f" (did you mean '{ends.get(end, end)}'?)" if end else ""
