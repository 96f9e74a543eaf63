"""Options of ``fit``, ``validate`` and ``test``: from arguments, configs and a bundle.

Arguments override configs, configs override the bundle. torch is imported only to read a bundle,
so mistakes are reported before.
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
from vitlora.cli.unfinished import take_resume, to_resume
from vitlora.config_files import find_config
from vitlora.data.read import check_root
from vitlora.errors import UsageError
from vitlora.light_imports import light_imports
from vitlora.shell import long_name
from vitlora.units import seconds_of

_GROUPS = ("data", "model", "trainer", "unsure")  # groups of options
_KEYS = (  # options outside groups
    *("output", "from", "old_data", "resume", "checkpoint", "json", "seed_everything"),
    *("config", "print_config", "help"),
)
_PATHS = ("output", "from", "checkpoint", "config", "data.root", "model.weights")
_NEEDS = "fit needs --config FILE or --data FOLDER; 'vitlora configs' lists the configs"
_VIEW = ("image_size", "crop_mode")  # checked later, to say what they should be
_LENGTHS = ("time", "max_epochs", "max_steps")  # trainer's
_PLACE = ("accelerator", "devices", "enable_progress_bar")  # trainer's, with no effect on scores


def run_options(
    command: str, options: list[str], run: bool = True
) -> tuple[list[str], dict[str, Any]]:
    """Resolves config names, the bundle to score or to continue from, and the default output.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        options: The arguments after it.
        run: Whether the command will run; if not, the pictures may be missing.

    Returns:
        The arguments for Lightning's CLI; values of options that these arguments do not set.

    Raises:
        UsageError: A mistake that shows before anything is loaded.
        BundleError: The bundle is damaged, or there is none.
    """
    short = any(word.partition("=")[0] == "--data" for word in options)
    options, resumes = take_resume(command, options)
    options, target = take_json(_long_names(command, options), alone=True)
    options, configs = _without_configs(options)
    runs = [_read_config(path) for path in configs]
    for one in runs:
        for key in ("json", "resume"):  # only arguments set them
            one.pop(key, None)
    names = [word.partition("=")[0] for word in options if word.startswith("-")]
    for name in [*names, *(f"--{key}" for one in runs for key in one)]:
        _check_group(name)
    check_json(target)
    inherited: dict[str, Any] = {}
    asks = any(name in ("--help", "-h") or name.endswith(".help") for name in names)
    if not asks and command == "fit":
        named = bool(runs) or "--data.root" in names
        if run and not named and not resumes:
            raise UsageError(_NEEDS)
        inherited = _to_fit(configs[-1].stem if configs else "run", options, names, runs)
        if resumes:
            chosen = _chosen("output", options, runs)
            inherited |= to_resume(chosen, inherited["output"], named, names)
    elif not asks:
        inherited = _to_score(command, options, names, runs)
    if not run:
        inherited = {"data.root": "PHOTOS", **inherited}
    elif not any(name.startswith(("--print_config", "--help", "-h")) for name in names):
        if command == "fit" and _chosen("checkpoint", options, runs):
            raise UsageError(
                "--checkpoint is for validate and test; to continue from a bundle, pass --from"
            )
        if root := _chosen("data.root", options, runs):
            typed = "--data.root" in names
            check_root(root, ("--data" if short else "--data.root") if typed else "data.root")
    # configs come first, so that arguments override them, and as text, because jsonargparse would
    # read the files in the console's code page
    words = [word for one in runs for word in ("--config", _as_yaml(one))] + options
    return words, {**inherited, "json": target}


def _long_names(command: str, typed: list[str]) -> list[str]:
    """Returns the arguments with full option names, and a name for the one given by position."""
    options = [word for option in typed for word in _split_equals(option)]
    if options and not options[0].startswith("-"):
        config = options[0].endswith((".yaml", ".yml"))
        if command == "fit" and not config:
            raise UsageError(
                f"unexpected argument '{options[0]}'; expected CONFIG.yaml, or --data FOLDER for "
                "pictures"
            )
        options.insert(0, "--config" if config else "--checkpoint")
    for name, value in pairwise(options):
        if not value and long_name(name).removeprefix("--") in _PATHS:
            raise UsageError(f"{name} is empty; expected a path")
    return [
        # jsonargparse reads a whole group from --data FILE.yaml
        word if word == "--data" and after.endswith((".yaml", ".yml")) else long_name(word)
        for word, after in pairwise([*options, ""])
    ]


def _without_configs(options: list[str]) -> tuple[list[str], list[Path]]:
    """Returns the arguments without ``--config FILE``, and the files."""
    left, configs, waiting = list[str](), list[Path](), list(options)
    while waiting:
        word = waiting.pop(0)
        if word in ("--config", "-c") and waiting:
            configs.append(find_config(waiting.pop(0)))
        else:
            left.append(word)
    return left, configs


def _check_group(name: str) -> None:
    """Refuses an option of a misspelt group; options within groups are checked later."""
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
    """Returns a training's defaults; drops options from its configs that the bundle sets."""
    _settle_length(options, runs)
    parent = _chosen("from", options, runs)
    if parent is None:
        return {"output": str(Path("checkpoints") / name)}
    check_there(parent)
    with light_imports():
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


def _settle_length(options: list[str], runs: list[dict[str, Any]]) -> None:
    """Lets the length that was typed replace the length in configs, whatever it is given in."""
    words = [part for word in options for part in word.split("=", 1)]
    given = {name: value for name, value in pairwise(words) if value not in ("null", "-1")}
    typed = [name for name in _LENGTHS if f"--trainer.{name}" in given]
    time, *others = _LENGTHS
    if time in typed and given["--trainer.time"] != "auto":
        seconds_of(given["--trainer.time"], "--time")
    if time in typed and len(typed) > 1:
        raise UsageError(
            f"--time and --trainer.{typed[1]} both say how long to train; leave one of them out"
        )
    for run in runs if typed else ():
        for name in others if time in typed else [time]:
            _mapping(run, "trainer").pop(name, None)


def _to_score(
    command: str,
    options: list[str],
    names: list[str],
    runs: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns a scoring's defaults; drops options of training from its configs."""
    if "--from" in names or "--old_data" in names:
        raise UsageError(f"--from and --old-data are for fit, not for {command}; leave them out")
    allowed = [f"--model.{key}" for key in ("weights", *_VIEW)]
    for name in names:
        if name.startswith(("--model", "--unsure")) and name not in allowed:
            raise UsageError(
                f"{command} does not accept {name}, because it scores the bundle as it was "
                "trained; leave it out"
            )
    named = _chosen("checkpoint", options, runs)
    folder = newest_bundle() if named is None else check_there(named)
    with light_imports():
        from vitlora.bundle.checkpoint import load_bundle
        from vitlora.evaluation.training_folder import check_home
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
        whole = bundle.record.method == "FullFineTuning"  # the bundle holds every weight
        _keep(run, "model", _VIEW if whole else ("weights", *_VIEW))
        _keep(run, "trainer", _PLACE)
        for key in ("checkpoint", "unsure", "output", "from", "old_data"):
            run.pop(key, None)
        for key in ("augment", "known_classes"):
            _mapping(run, "data").pop(key, None)
    chosen = {name.removeprefix("--") for name in names}
    chosen |= {f"data.{key}" for run in runs for key in _mapping(run, "data")}
    root = _chosen("data.root", options, runs)
    if root is None:
        check_home(bundle)
    inherited = to_score(bundle, chosen, root)
    # fp32, as in prediction
    return {**inherited, "trainer.precision": "32-true", "checkpoint": str(bundle.folder)}


def _chosen(key: str, options: list[str], runs: list[dict[str, Any]]) -> str | None:
    """Returns a folder from the arguments, else from the last config that sets it."""
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
    """Keeps only some options of a config's group, and drops those that are null."""
    kept = {key: value for key, value in _mapping(run, group).items() if key in keys}
    run[group] = {k: v for k, v in kept.items() if yaml_text.values(v) is not None}


def _mapping(run: dict[str, Any], key: str) -> dict[str, Any]:
    value = run.get(key)
    return value if isinstance(value, dict) else {}


def _split_equals(option: str) -> list[str]:
    """Splits ``--name=value`` for the options that this module reads."""
    name, equals, value = option.partition("=")
    ours = ("--config", "-c", "--checkpoint", "--output", "--from", "--data.root")
    return [name, value] if equals and (name in ours or long_name(name) != name) else [option]


def _read_config(path: Path) -> dict[str, Any]:
    """Returns a config's content, as ``yaml_text.read`` does; refuses all but a YAML mapping."""
    try:
        content = yaml_text.read(path.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8; save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} has no keys; expected data:, model: or trainer:")
    run = _nested(content)
    for group in _GROUPS:
        if isinstance(run.get(group), dict):
            run[group] = _nested(run[group])
        elif isinstance(run.get(group), str) and yaml_text.values(run[group]) is not None:
            run[group] = _read_config(find_config(str(run[group])))  # a separate file
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
                raise UsageError(f"the config has both {group} and {name}; remove one of them")
        before = inside.get(last)
        if isinstance(before, dict) and isinstance(value, dict):
            value = before | value
        inside[last] = value
    return nested


def _as_yaml(run: dict[str, Any]) -> str:
    """Returns a config as ASCII YAML, with every value as it was typed."""
    return yaml.safe_dump(yaml_text.typed(run), default_style='"')
