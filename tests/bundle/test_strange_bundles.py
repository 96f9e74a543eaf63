"""A bundle may come from anywhere: nothing in it is run, imported, or taken for a word typed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import MICRO

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.errors import BundleError, VitloraError
from vitlora.prediction.pool import AdapterPool
from vitlora.training.continued import options_of
from vitlora.training.inherited import to_score

COMMANDS = {
    "validate": ["validate", "--checkpoint", "x"],
    "test": ["test", "--checkpoint", "x"],
    "fit": ["fit", "--from", "x", "--data.root", "photos", "--output", "on"],
    "predict": ["predict", "photos/val/a/0.jpg", "--checkpoint", "x"],
    "report": ["report", "x"],
    "drift": ["drift", "x", "--data", "photos/val/a"],
    "calibrate": ["calibrate", "x"],
    "merge": ["merge", "x", "merged.safetensors"],
    "push": ["push", "x", "owner/name"],
}
WRITTEN = {"on", "x-report.html", "merged.safetensors", "merged.json", "x", "checkpoints"}
STRINGS = ["evil.Evil", "--trainer.callbacks+=evil.Evil", "--json=precious.txt"]
KEYS: dict[str, Any] = {
    "batch_size=8": "--trainer.callbacks+=evil.Evil",
    "batch_size=9": "--config=evil.yaml",
    "root --trainer.callbacks": [{"class_path": "evil.Evil"}],
    "--json": "precious.txt",
    "--config": "evil.yaml",
    "callbacks": {"class_path": "evil.Evil"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    """A folder with photos and a bundle x that was trained on them by the command line."""
    home = tmp_path_factory.mktemp("home")
    photos = make_folder(home / "photos", splits=("train", "val", "test"))
    words = [word for key, value in MICRO.items() for word in (f"--{key}", value)]
    assert main(["fit", "--data.root", str(photos), *words, "--output", str(home / "x")]) == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with what a stranger would want to be imported or lost."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    for name in ("HF_TOKEN", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none") if name == "HF_HOME" else "")
    Path("evil.py").write_text("open('ran', 'w').close()\nclass Evil: pass\n")
    Path("evil.yaml").write_text("trainer: {callbacks: [{class_path: evil.Evil}]}\n")
    Path("precious.txt").write_text("precious")
    return tmp_path


def sign(folder: Path, strange: dict[str, Any] | None = None) -> None:
    """Makes the sums of a bundle right again, whatever its files say now."""
    record = folder / "vitlora.json"
    fields: dict[str, Any] = strange or json.loads(record.read_text("utf-8"))
    fields.pop("digest", None)
    fields["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in fields["files"]
        if (folder / name).is_file()
    }
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    fields["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    record.write_text(json.dumps(fields), "utf-8")


def with_strings(value: Any, text: str) -> Any:
    """Returns plain values with every string replaced."""
    if isinstance(value, dict):
        return {key: with_strings(inside, text) for key, inside in value.items()}
    if isinstance(value, list):
        return [with_strings(inside, text) for inside in value]
    return text if isinstance(value, str) else value


def with_keys(value: Any, more: dict[str, Any]) -> Any:
    """Returns plain values with keys added to every mapping."""
    if isinstance(value, dict):
        return {**more, **{key: with_keys(inside, more) for key, inside in value.items()}}
    return [with_keys(inside, more) for inside in value] if isinstance(value, list) else value


def one_by_one(value: Any, text: Any) -> Iterator[tuple[str, Any]]:
    """Yields the path of each leaf, and the values with that one replaced."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, leaf in list(inside):
        if isinstance(leaf, dict | list):
            for path, changed in one_by_one(leaf, text):
                copy = value.copy()
                copy[key] = changed
                yield f"{key}.{path}", copy
        else:
            copy = value.copy()
            copy[key] = text
            yield str(key), copy


def stands(home: Path, run: Callable[[], int], capsys: Any) -> None:
    """Asserts that a command ends well or with one line, and touches nothing that is not its."""
    before = {path.name for path in home.iterdir()}
    status = run()
    error = capsys.readouterr().err.splitlines()
    assert status in (0, 1, 2)
    assert status == 0 or (error and error[-1].startswith("vitlora: ")), error
    assert len([line for line in error if line.startswith("vitlora: ")]) <= 1
    assert not (home / "ran").exists(), "a stranger's module was imported"
    assert (home / "precious.txt").read_text() == "precious"
    assert {path.name for path in home.iterdir()} <= before | WRITTEN | {"__pycache__", "none"}


def pool(folder: Path) -> int:
    try:
        AdapterPool({"x": folder})
    except VitloraError as error:
        print(f"vitlora: {error}", file=sys.stderr)
        return 1
    return 0


def changed(name: str) -> Iterator[Any]:
    """Yields what a file of the bundle could hold instead."""
    path = Path("x") / name
    text = path.read_text("utf-8")
    plain = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
    for string in STRINGS:
        yield with_strings(plain, string)
    yield with_keys(plain, KEYS)
    yield "evil.Evil"


def put(name: str, value: Any) -> None:
    """Writes a file of the bundle, and makes the sums right."""
    path = Path("x") / name
    if name == "vitlora.json":
        files = json.loads(path.read_text("utf-8"))["files"]
        if not isinstance(value, dict):
            path.write_text(json.dumps(value), "utf-8")
            return
        if isinstance(value.get("format"), int) and "files" in value:
            value["files"] = files
        sign(Path("x"), {"files": files, **value})
        return
    dump = json.dumps if name.endswith("json") else yaml.safe_dump
    path.write_text(dump(value), "utf-8")
    sign(Path("x"))


@pytest.mark.parametrize("name", ["config.yaml", "vitlora.json", "adapter_config.json"])
@pytest.mark.parametrize("command", [*COMMANDS, "pool"])
def test_a_strangers_bundle_is_refused_in_one_line_or_does_no_harm(
    command: str, name: str, home: Path, capsys: Any
) -> None:
    files = {path: path.read_bytes() for path in Path("x").iterdir() if path.is_file()}
    for value in changed(name):
        put(name, value)
        words = COMMANDS.get(command, [])
        stands(home, lambda: main(words) if words else pool(home / "x"), capsys)  # noqa: B023
        for written in WRITTEN - {"x"}:
            path = home / written
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
        for path, content in files.items():
            path.write_bytes(content)


def test_each_key_of_a_strangers_config_that_is_no_option_is_refused(
    home: Path, capsys: Any
) -> None:
    config = yaml.safe_load(Path("x/config.yaml").read_text("utf-8"))
    for key, value in KEYS.items():
        put("config.yaml", {**config, "data": {**config["data"], key: value}})
        stands(home, lambda: main(COMMANDS["validate"]), capsys)
        with pytest.raises(BundleError, match="which this version of vitlora does not know"):
            to_score(load_bundle("x"))


@pytest.mark.parametrize("value", ["--json=precious.txt", 3, True, None, ["x"], {"x": "y"}])
def test_each_value_of_a_strangers_config_is_of_its_options_type(value: Any, home: Path) -> None:
    config = yaml.safe_load(Path("x/config.yaml").read_text("utf-8"))
    kept = {group: config[group] for group in ("data", "model")}
    for _, strange in one_by_one(kept, value):
        put("config.yaml", strange)
        bundle = load_bundle("x")
        for inherited in (to_score, lambda bundle: options_of(bundle, [], [])):
            try:
                options = inherited(bundle)
            except BundleError as error:
                assert "\n" not in str(error)
                continue
            named = options.get("model.adapter", {"class_path": "Lora"})["class_path"]
            assert named == "Lora"


@pytest.mark.parametrize("value", ["x", True, None, 3, 2.5, ["x"], {"x": "y"}])
def test_every_field_of_a_strangers_record_is_checked(value: Any, home: Path) -> None:
    fields = json.loads(Path("x/vitlora.json").read_text("utf-8"))
    for _, strange in one_by_one({k: v for k, v in fields.items() if k != "files"}, value):
        put("vitlora.json", {**strange, "files": fields["files"]})
        try:
            load_bundle("x")
        except VitloraError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"batch_size=8": 1}, "'data.batch_size=8', which this version of vitlora does not know"),
        ({"batch_size": "8"}, "data.batch_size to '8', which that option does not accept"),
        ({"classes": "a"}, "data.classes to 'a', which that option does not accept"),
        ({"split_seed": True}, "data.split_seed to True, which that option does not accept"),
        ({"root": "//server/share"}, "a path on another machine, which a bundle may not choose"),
        ({"groups": "\\\\server\\share"}, "set it yourself with --data.groups"),
    ],
)
def test_what_is_wrong_with_a_config_is_named(
    data: dict[str, Any], message: str, home: Path, capsys: Any
) -> None:
    config = yaml.safe_load(Path("x/config.yaml").read_text("utf-8"))
    config["data"] |= data
    put("config.yaml", config)
    assert main(["validate", "--checkpoint", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.yaml sets" in line and message in line


def test_a_place_on_another_machine_may_be_named_by_the_user_instead(
    home: Path, capsys: Any
) -> None:
    config = yaml.safe_load(Path("x/config.yaml").read_text("utf-8"))
    config["data"]["root"] = "//server/share"
    put("config.yaml", config)
    assert main(["validate", "--checkpoint", "x", "--data.root", "photos"]) == 0
    Path("here.yaml").write_text("data: {root: photos}")
    assert main(["validate", "--checkpoint", "x", "--config", "here.yaml"]) == 0
