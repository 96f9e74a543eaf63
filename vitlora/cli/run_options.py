"""What ``fit``, ``validate`` and ``test`` are given: words typed, configs, and a bundle's values.

A bundle counts less than a config, a config less than what is typed. torch is imported only once
there is a bundle to read: mistakes are told before.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from vitlora import yaml_text
from vitlora.bundle.folder import check_there, newest_bundle
from vitlora.cli.results import check_json, take_json
from vitlora.config_files import find_config
from vitlora.data.read import check_root
from vitlora.errors import UsageError
from vitlora.shell import long_name

_GROUPS = ("data", "model", "trainer", "unsure")  # of options, in configs and on the command line
_KEYS = (  # beside them
    *("output", "from", "old_data", "checkpoint", "json", "seed_everything"),
    *("config", "print_config", "help"),
)
_VIEW = ("image_size", "crop_mode")  # refused later, with what they should be
_PLACE = ("accelerator", "devices", "enable_progress_bar")  # of trainer, which change no number


def run_options(
    command: str, options: list[str], run: bool = True
) -> tuple[list[str], dict[str, Any]]:
    """Resolves bare config names, the bundle to score or to go on from, and the default output.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        options: The words after it.
        run: Whether the command is run; else the pictures need not be there.

    Returns:
        The words for Lightning's CLI; what options are unless a config or a word says otherwise.

    Raises:
        UsageError: A mistake that shows before anything is loaded.
        BundleError: The bundle is damaged, or there is none.
    """
    options, target = take_json(_long_names(command, options), alone=True)
    options, configs = _without_configs(options)
    runs = [_read_config(path) for path in configs]
    for one in runs:
        one.pop("json", None)  # where a result goes, no file decides
    names = [word.partition("=")[0] for word in options if word.startswith("-")]
    for name in [*names, *(f"--{key}" for one in runs for key in one)]:
        _check_group(name)
    check_json(target)
    inherited: dict[str, Any] = {}
    asks = any(name in ("--help", "-h") or name.endswith(".help") for name in names)
    if not asks and command == "fit":
        if run and not runs and "--data.root" not in names:
            raise UsageError(
                "fit needs --config FILE or --data FOLDER; 'vitlora configs' lists those that ship"
            )
        inherited = _to_fit(configs[-1].stem if configs else "run", options, names, runs)
    elif not asks:
        inherited = _to_score(command, options, names, runs)
    if not run:
        inherited = {"data.root": "PHOTOS", **inherited}
    elif not any(name.startswith(("--print_config", "--help", "-h")) for name in names) and (
        root := _chosen("data.root", options, runs)
    ):
        check_root(root)
    # configs first: what is typed counts more, wherever it stands
    # and as what they hold: jsonargparse would read the files in the console's code page
    words = [word for one in runs for word in ("--config", _as_yaml(one))] + options
    return words, {**inherited, "json": target}


def _long_names(command: str, typed: list[str]) -> list[str]:
    """Returns the words, each option by its own name, what is given by position by its own, too."""
    options = [word for option in typed for word in _split_equals(option)]
    if options and not options[0].startswith("-"):  # each takes one word by position
        config = options[0].endswith((".yaml", ".yml"))
        if command == "fit" and not config:
            raise UsageError(
                f"'{options[0]}' stands alone; name pictures with --data, a config by .yaml"
            )
        options.insert(0, "--config" if config else "--checkpoint")
    return [
        # --data FILE.yaml is jsonargparse's way to give a whole group
        word if word == "--data" and after.endswith((".yaml", ".yml")) else long_name(word)
        for word, after in pairwise([*options, ""])
    ]


def _without_configs(options: list[str]) -> tuple[list[str], list[Path]]:
    """Returns the words without ``--config FILE``, and the files."""
    left, configs, waiting = list[str](), list[Path](), list(options)
    while waiting:
        word = waiting.pop(0)
        if word in ("--config", "-c") and waiting:
            configs.append(find_config(waiting.pop(0)))
        else:
            left.append(word)
    return left, configs


def _check_group(name: str) -> None:
    """Refuses an option of a misspelt group; what is wrong within a group is found later."""
    key = name.removeprefix("--")
    group, dot, rest = key.rstrip("+").partition(".")
    close = get_close_matches(group, (*_GROUPS, *_KEYS), 1, 0.75)
    if name.startswith("--") and close and group != close[0]:
        raise UsageError(
            f"unknown key '{key}' (did you mean '{close[0]}{dot}{rest}'?); 'vitlora fit --help' "
            "lists all"
        )


def _to_fit(
    name: str, options: list[str], names: list[str], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what a training starts with; leaves out of its configs what a bundle decides."""
    parent = _chosen("from", options, runs)
    if parent is None:
        return {"output": str(Path("checkpoints") / name)}
    check_there(parent)
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.training.continued import options_of, split_of, unsure_of

    bundle = load_bundle(parent)
    kept = options_of(bundle, [yaml_text.values(run) for run in runs], names)
    for group, _, key in (name.partition(".") for name in kept if name != "model.weights"):
        for run in runs:
            _mapping(run, group).pop(key, None)
    output = Path("checkpoints") / f"{bundle.folder.resolve().name}-continued"
    drawn = {f"data.{key}": value for key, value in split_of(bundle).items()}
    chosen = any(name.startswith("--unsure") for name in names) or any("unsure" in r for r in runs)
    return {"output": str(output), **drawn, **({} if chosen else unsure_of(bundle)), **kept}


def _to_score(
    command: str,
    options: list[str],
    names: list[str],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns what a scoring starts with; leaves out of config files what belongs to training."""
    if "--from" in names or "--old_data" in names:
        raise UsageError(f"--from and --old-data belong to fit, not to {command}")
    sparing = [f"--model.{key}" for key in ("weights", *_VIEW)]
    for name in names:
        if name.startswith(("--model", "--unsure")) and name not in sparing:
            raise UsageError(
                f"{command} does not accept {name}: a bundle is scored as it was trained"
            )
    named = _chosen("checkpoint", options, runs)
    folder = newest_bundle() if named is None else check_there(named)
    from vitlora.bundle.checkpoint import load_bundle
    from vitlora.training.inherited import options_in, to_score

    bundle = load_bundle(folder)
    known = bundle.record.backbone, options_in(bundle, "model").get("backbone")
    for run in runs:
        base = yaml_text.typed(_mapping(run, "model")).get("backbone")
        if base is not None and base not in known:
            raise UsageError(
                f"the config sets model.backbone to {base}, but {bundle.folder} was trained on "
                f"{bundle.record.backbone}; name the bundle to score with --checkpoint"
            )
        whole = bundle.record.method == "FullFineTuning"  # it holds every weight itself
        _keep(run, "model", _VIEW if whole else ("weights", *_VIEW))
        _keep(run, "trainer", _PLACE)
        for key in ("checkpoint", "unsure", "output", "from", "old_data"):
            run.pop(key, None)
        for key in ("augment", "known_classes"):
            _mapping(run, "data").pop(key, None)
    chosen = {name.removeprefix("--") for name in names}
    chosen |= {f"data.{key}" for run in runs for key in _mapping(run, "data")}
    inherited = to_score(bundle, chosen)
    if "data.root" not in {*inherited, *chosen}:
        raise UsageError(
            f"the pictures {bundle.folder} was trained on are not known; pass --data.root FOLDER"
        )
    # in fp32, as prediction computes
    return {**inherited, "trainer.precision": "32-true", "checkpoint": str(bundle.folder)}


def _chosen(key: str, options: list[str], runs: list[dict[str, Any]]) -> str | None:
    """Returns the folder that is named: on the command line, else in the last config with one."""
    typed = [index for index, word in enumerate(options) if word == f"--{key}"]
    if typed and typed[-1] + 1 == len(options):
        raise UsageError(f"--{key} needs a value")
    if typed:
        return options[typed[-1] + 1]
    named = [yaml_text.flat(yaml_text.typed(run)).get(key) for run in runs]
    named = [name for name in named if name is not None]
    if named and not (isinstance(named[-1], str) and named[-1]):
        raise UsageError(f"the config's {key} is {named[-1]!r}; expected a folder")
    return named[-1] if named else None


def _keep(run: dict[str, Any], group: str, keys: Sequence[str]) -> None:
    """Leaves all but some options of a group out of a config, and those that are null."""
    kept = {key: value for key, value in _mapping(run, group).items() if key in keys}
    run[group] = {k: v for k, v in kept.items() if yaml_text.values(v) is not None}


def _mapping(run: dict[str, Any], key: str) -> dict[str, Any]:
    value = run.get(key)
    return value if isinstance(value, dict) else {}


def _split_equals(option: str) -> list[str]:
    """Returns ``--name=value`` as two words for the options looked at here."""
    name, equals, value = option.partition("=")
    ours = ("--config", "-c", "--checkpoint", "--output", "--from", "--data.root")
    return [name, value] if equals and (name in ours or long_name(name) != name) else [option]


def _read_config(path: Path) -> dict[str, Any]:
    """Returns what a config holds, as ``yaml_text.read``; refuses what is not a YAML mapping."""
    try:
        content: Any = yaml_text.read(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no keys; expected data:, model: or trainer:")
    run = _nested(content)
    for group in _GROUPS:
        if isinstance(run.get(group), dict):
            run[group] = _nested(run[group])
        elif isinstance(run.get(group), str) and yaml_text.values(run[group]) is not None:
            run[group] = _read_config(find_config(str(run[group])))  # a file of its own
    return run


def _nested(options: dict[Any, Any]) -> dict[str, Any]:
    """Returns ``model.lr: 1`` as ``model: {lr: 1}``."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = str(name).split(".")
        inside = nested
        for group in groups:
            inside = inside.setdefault(group, {})
            if not isinstance(inside, dict):
                raise UsageError(f"the config has both {group} and {name}; write one of them")
        inside[last] = {**inside[last], **value} if _both(inside.get(last), value) else value
    return nested


def _both(one: object, other: object) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _as_yaml(run: dict[str, Any]) -> str:
    """Returns ASCII that reads as what was typed in a config."""
    return yaml.safe_dump(yaml_text.typed(run), default_style='"')
