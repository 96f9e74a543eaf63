"""What does not go on, in one line: other runs, other pictures, foreign files, a second run."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import MICRO

import vitlora
from vitlora.bundle.checkpoint import load_bundle
from vitlora.bundle.folder import LOCK, STATE
from vitlora.cli.main import main
from vitlora.cli.resuming import check_options
from vitlora.errors import UsageError
from vitlora.training.classifier import Classifier
from vitlora.training.run_lock import RunLock
from vitlora.training.state_file import read_about, read_state, write_state

OPTIONS = {**MICRO, "trainer.max_epochs": "2", "trainer.precision": "32-true"}
FIXED = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
FIXED += ["--data.batch_size", "4"]
STEPS = 2  # after which the runs here are stopped


def fit(photos: Path, *words: str) -> int:
    return main(["fit", "--data", str(photos), *FIXED, "--output", "out", *words])


def resume(*words: str) -> int:
    return main(["fit", "--resume", "--output", "out", *words])


def stop_at(step: int, monkeypatch: Any) -> Any:
    """Lets Ctrl-C come in a step, which is then still done."""
    own = Classifier.training_step

    def training_step(self: Classifier, *args: Any) -> Any:
        if self.trainer.global_step == step - 1:
            state = next(c for c in self.trainer.callbacks if type(c).__name__ == "RunState")
            state._interruption.asked = 2
        return own(self, *args)

    monkeypatch.setattr(Classifier, "training_step", training_step)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos"), ("a", "b", "c"), count=4, size=40)


@pytest.fixture(scope="module")
def stopped(photos: Path, tmp_path_factory: Any) -> Path:
    """The folder of a run that Ctrl-C stopped after two of six steps."""
    place = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        stop_at(STEPS, patch)
        assert fit(photos) == 130
    return place / "out"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])


@pytest.fixture
def out(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "out")
    return tmp_path / "out"


def changed(out: Path, change: Callable[[dict[str, Any], dict[Any, Any]], object]) -> None:
    """Writes a state anew after a change, with a right checksum."""
    about, state = read_state(out / STATE)
    change(about, state)
    write_state(out / STATE, about, state)


def refusal(capsys: Any, *words: str) -> str:
    """Returns the one line of a refusal."""
    capsys.readouterr()
    assert resume(*words) in (1, 2)
    out, err = capsys.readouterr()
    *before, last = [line for line in err.splitlines() if not line.startswith("INFO")]
    assert last.startswith("vitlora: ") and "Traceback" not in out + err, err
    assert all(line.startswith("note:") for line in before), err
    return last


def test_ctrl_c_keeps_the_state_after_the_step_and_says_how_to_resume(out: Path, capsys: Any):
    about, _ = read_state(out / STATE)
    assert about["steps"] == STEPS and not (out / LOCK).exists()
    assert load_bundle(out).record.metrics == {}  # no epoch was validated: the weights as they are
    assert resume() == 0
    printed = capsys.readouterr().out
    assert f"resuming from out/{STATE}: epoch 1, step 2 of 6" in printed
    assert load_bundle(out).record.metrics["images"] == 12 and not (out / STATE).exists()
    assert resume() == 0
    assert "the run in out has ended; train on from its bundle" in capsys.readouterr().out
    ended = vitlora.fit(output="out", resume=True)
    assert (ended.checkpoint, ended.scores, ended.epoch) == (Path("out"), None, 0)


def test_without_a_name_the_newest_unfinished_run_goes_on(
    stopped: Path, tmp_path: Path, capsys: Any
):
    assert main(["fit", "--resume"]) == 2
    assert "no unfinished run under" in capsys.readouterr().err
    shutil.copytree(stopped, tmp_path / "checkpoints/x")
    assert main(["fit", "--resume", "--json", "r.json"]) == 0
    assert json.loads(Path("r.json").read_text())["checkpoint"] == str(Path("checkpoints/x"))


def test_what_is_not_there_is_started_if_there_are_pictures(photos: Path, capsys: Any):
    assert resume() == 2
    assert "no unfinished run in out; add --config FILE or --data" in capsys.readouterr().err
    assert fit(photos, "--resume", "--trainer.max_epochs", "1") == 0
    assert "no unfinished run in out yet: starting one" in capsys.readouterr().out
    assert load_bundle("out").record.metrics["images"] == 12
    assert "resume: false" in Path("out/config.yaml").read_text()


def test_the_same_command_again_goes_on(photos: Path, out: Path, capsys: Any):
    assert fit(photos, "--resume", "--data.num_workers", "1") == 0
    assert "step 2 of 6" in capsys.readouterr().out


# option, as the state has it -> another value, what is said
OTHER: dict[str, tuple[Any, str]] = {
    "model.lr": (0.5, "--model.lr is 0.5, but the run in out has 0.002"),
    "model.adapter.init_args.rank": (4, "init_args.rank is 4, but the run in out has 8"),
    "trainer.max_epochs": (9, "max_epochs is 9, but .* a longer run would not .* fit --from out"),
    "trainer.max_steps": (9, "max_steps is 9, but the run in out has null: .* fit --from out"),
    "trainer.time": ("1m", "time is 1m, but the run in out has null: .* fit --from out"),
    "trainer.limit_train_batches": (2, "limit_train_batches is 2, but the run in out has null"),
    "data.augment": ("strong", "--data.augment is strong, but the run in out has light"),
    "data.value_range": ([0.0, 1.0], "value_range"),
    "seed_everything": (5, "--seed_everything is 5, but the run in out has 0"),
    "from": ("x", "--from is x, but the run in out has null"),
}


@pytest.mark.parametrize("option", OTHER)
def test_an_option_that_would_make_another_run_is_refused_by_name(option: str, stopped: Path):
    value, message = OTHER[option]
    before = read_about(stopped / STATE)["options"]
    now = copy.deepcopy(before)
    check_options(Path("out") / STATE, before, now)
    *groups, name = option.split(".")
    inside = now
    for group in groups:
        inside = inside[group]
    inside[name] = value
    with pytest.raises(UsageError, match=message):
        check_options(Path("out") / STATE, before, now)


def test_what_is_typed_is_compared_by_its_value(out: Path, capsys: Any):
    before = (out / STATE).read_bytes()
    words = ["--model.lr", "2e-3", "--data.num_workers", "1", "--model.adapter.rank", "4"]
    assert "--model.adapter.init_args.rank is 4, but" in refusal(capsys, *words)
    assert (out / STATE).read_bytes() == before and not (out / LOCK).exists()


def test_pictures_that_moved_are_the_same(photos: Path, out: Path, tmp_path: Path):
    shutil.copytree(photos, tmp_path / "moved")
    assert resume("--data", str(tmp_path / "moved")) == 0


def test_changed_pictures_are_refused(
    photos: Path, out: Path, tmp_path: Path, make_folder: Any, capsys: Any
):
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    shutil.copy(other / "train/a/0.jpg", other / "train/a/1.jpg")
    line = refusal(capsys, "--data", str(other))
    assert "the run has other pictures" in line and "without --resume" in line
    (other / "train/a/1.jpg").unlink()
    assert "the run has other pictures" in refusal(capsys, "--data", str(other))
    make_folder(tmp_path / "classes", ("a", "b", "d"), count=4, size=40)
    assert "the run has other classes" in refusal(capsys, "--data", str(tmp_path / "classes"))


def test_another_base_device_or_precision_is_refused(out: Path, capsys: Any):
    kept = (out / STATE).read_bytes()
    for name, value, said in (
        ("base", "0" * 64, "the run has another base"),
        ("storage", {}, "keeps its base in another way"),
        ("device", "cuda", "the run is on another device: 'cuda', not 'cpu'"),
        ("precision", "16-mixed", "computes in another precision: '16-mixed', not '32-true'"),
        ("parent", "0" * 16, "the bundle that the run continues from has changed"),
    ):
        changed(out, lambda about, _, n=name, v=value: about["identity"].update({n: v}))
        assert said in refusal(capsys)
        (out / STATE).write_bytes(kept)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def about_of(**options: Any) -> Callable[[dict[str, Any], Any], None]:
    def change(about: dict[str, Any], _: Any) -> None:
        for name, value in options.items():
            group, _, key = name.partition("__")
            about["options"][group][key] = value

    return change


def _drop(name: str) -> Callable[[Any, dict[str, Any]], object]:
    return lambda _, state: state.pop(name)


def _set(value: Any, *path: Any) -> Callable[[Any, dict[Any, Any]], None]:
    def change(_: Any, state: dict[Any, Any]) -> None:
        inside: Any = state
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value

    return change


def _grow(_: Any, state: dict[str, Any]) -> None:
    name = next(iter(state["weights"]))
    state["weights"][name] = torch.zeros(99, 99)


FOREIGN: dict[str, Callable[[dict[str, Any], dict[Any, Any]], object]] = {
    "weights of another shape": _grow,
    "no weights": _drop("weights"),
    "moments of another shape": _set(torch.zeros(1), "optimizer", "state", 0, "exp_avg"),
    "a loop elsewhere": _set(5, "loop", "epoch_progress", "total", "ready"),
    "random numbers of text": _set("x", "random", 0, "cpu"),
    "callbacks of text": _set("x", "callbacks"),
    "scores of text": _set({"best": "x"}, "callbacks", "RunFolder"),
    "a class of callbacks": about_of(trainer__callbacks=[{"class_path": "bomb.Bomb"}]),
    "a class as adapter": about_of(model__adapter={"class_path": "bomb.Bomb", "init_args": {}}),
    "a class as profiler": about_of(trainer__profiler="bomb.Bomb"),
    "a rank of text": about_of(model__lr="x"),
    "another machine": about_of(data__root="//elsewhere/photos"),
    "no options": lambda about, _: about.pop("options"),
    "no identity": lambda about, _: about.pop("identity"),
    "a batch of text": lambda about, _: about["identity"].update({"batch_size": "x"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_state_that_does_not_fit_is_refused_and_runs_nothing(kind: str, out: Path, capsys: Any):
    Path("bomb.py").write_text("from pathlib import Path\nPath('exploded').touch()\n")
    changed(out, FOREIGN[kind])
    sys.path.insert(0, "")
    try:
        assert "out" in refusal(capsys)
    finally:
        sys.path.remove("")
    assert not Path("exploded").exists() and "bomb" not in sys.modules


def test_a_file_that_is_none_is_refused(out: Path, capsys: Any):
    content = (out / STATE).read_bytes()
    for foreign in (pickle.dumps(Bomb()), content[:-9], b"", struct.pack("<Q", 2**62) + content):
        (out / STATE).write_bytes(foreign)
        assert f"out/{STATE} is damaged, or was not written by vitlora" in refusal(capsys)
    torch.save({"x": Bomb()}, out / STATE)
    assert "is damaged" in refusal(capsys)
    assert not Path("exploded").exists()


def test_a_second_run_in_the_folder_is_refused(photos: Path, out: Path, capsys: Any):
    lock = RunLock(out)
    lock.take()
    assert "--output 'out' belongs to a run that is going on (process" in refusal(capsys)
    assert fit(photos) == 2
    assert "choose another folder" in capsys.readouterr().err
    lock.release()
    assert resume() == 0


def test_a_new_run_moves_the_unfinished_one_aside(photos: Path, out: Path, capsys: Any):
    state = (out / STATE).read_bytes()
    assert fit(photos, "--trainer.max_epochs", "1") == 0
    said = capsys.readouterr().out
    assert "is now out-1; its run is unfinished" in said and "--resume --output out-1" in said
    assert Path("out-1", STATE).read_bytes() == state and not Path("out-1", LOCK).exists()
    assert main(["fit", "--resume", "--output", "out-1"]) == 0


def test_a_lost_bundle_is_said(photos: Path, monkeypatch: Any, capsys: Any):
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert fit(photos) == 130
    for path in Path("out").iterdir():
        if path.is_file() and path.name != STATE:
            path.unlink()
    assert "no longer has the bundle" in refusal(capsys)


def test_resume_is_for_fit_alone(capsys: Any):
    assert main(["test", "--resume"]) == 2
    assert "--resume is for fit, not for test" in capsys.readouterr().err
    assert main(["fit", "--resume=maybe"]) == 2
    assert "--resume is 'maybe'" in capsys.readouterr().err
