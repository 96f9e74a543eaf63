"""A small sweep from the command to the page; trainings are real, on two blocks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import MICRO

pytest.importorskip("optuna")

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main

WORDS = [word for name, value in MICRO.items() for word in (f"--{name}", value)]
WORDS += ["--data.batch_size", "4"]
SPACE = """
model.lr: {low: 0.001, high: 0.1, log: true}
model.adapter.rank: [2, 4]
model.adapter.targets: [[attention.qkv], [attention.qkv, mlp.fc1]]
"""


@pytest.fixture
def photos(tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    return make_folder(tmp_path / "photos", splits=("train", "val", "test"))


def sweep(photos: Path, *words: str) -> int:
    command = ["sweep", "--sweep", "space.yaml", "--data", str(photos)]
    return main([*command, *WORDS, *words])


@pytest.mark.slow
def test_a_sweep_keeps_the_best_bundle_and_says_what_training_again_gives(
    photos: Path, capsys: Any
) -> None:
    assert sweep(photos, "--trials", "3", "--workers", "2", "--again", "1") == 0
    out, folder = capsys.readouterr().out, Path("sweeps/run")
    left = json.loads((folder / "sweep.json").read_text())
    trials = left["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    best = max(trials, key=lambda trial: (trial["values"][0], -trial["number"]))
    bundles = [path.parent for path in folder.glob("trial-*/vitlora.json")]
    assert left["front"] == [best["number"]]
    assert [path.name for path in bundles] == [f"trial-{best['number']:04}"]
    bundle, point = load_bundle(bundles[0]), best["point"]
    assert bundle.peft is not None and bundle.peft["r"] == int(point["model.adapter.rank"])
    config = yaml.safe_load(bundle.config)
    adapter = config["model"]["adapter"]["init_args"]
    assert adapter["targets"] == json.loads(point["model.adapter.targets"])
    assert config["model"]["lr"] == point["model.lr"]
    assert bundle.record.metrics["macro_f1"] == best["values"][0]
    for trial in trials:  # logs stay
        place = folder / f"trial-{trial['number']:04}"
        assert (place / "logs" / "metrics.csv").is_file() and place.with_suffix(".log").is_file()
        assert list(trial["curve"].values()) == pytest.approx(trial["values"], abs=1e-6)
    tuned = yaml.safe_load((folder / "best.yaml").read_text())
    assert tuned["model"]["lr"] == point["model.lr"]

    again = left["again"]
    assert again["split"] == "test" and len(again["scores"]) == 1
    assert again["optimism"] == pytest.approx(best["values"][0] - again["scores"][0])
    assert {row["method"] for row in again["rows"]} == {f"trial-{best['number']}", "config"}
    for row in again["rows"]:
        assert [run["seed"] for run in row["runs"]] == [1]
    assert not list((folder / "again").glob("*/vitlora.json"))
    said = f"Trial {best['number']} ("
    assert said in out and "with 1 new seed" in out and "Accuracy on 8 test pictures" in out
    page = (folder / "sweep.html").read_text()
    assert said in page and page.count("<circle") == 3 * 4 and "<script" not in page

    assert sweep(photos, "--trials", "3", "--again", "1") == 0  # nothing is trained
    assert "3 trials from before" in capsys.readouterr().out
    assert json.loads((folder / "sweep.json").read_text()) == left
    assert sweep(photos, "--trials", "3", "--seed", "1") == 2
    assert "seed was 0, is now 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_option_is_told_and_of_several_goals_no_trial_is_pruned(
    photos: Path, capsys: Any
) -> None:
    Path("space.yaml").write_text("model.adapter.rank: [2, 0]\n")
    words = ["--objectives", "macro_f1,size", "--sampler", "grid", "--again", "0"]
    assert sweep(photos, *words, "--json", "out.json") == 0
    out = capsys.readouterr().out
    left = json.loads(Path("out.json").read_text())
    assert [trial["state"] for trial in left["trials"]] == ["complete", "failed"]
    assert "2 trials of 2 points" in out
    assert "failed: 1: " in out and "rank is 0" in out
    assert "too high" in out and left["again"] is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_all_processes_and_the_same_command_continues(photos: Path) -> None:
    words = [sys.executable, "-m", "vitlora", "sweep", "--sweep", "space.yaml"]
    words += ["--data", str(photos), *WORDS, "--trials", "2", "--again", "0"]
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    until = time.monotonic() + 90
    while not list(Path("sweeps").rglob("trial-*.log")) and time.monotonic() < until:
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=60)
    assert command.returncode == 130 and "0 of 2 trials kept; the same command continues" in out
    assert "Traceback" not in out
    held = [path for path in Path("sweeps/run/workers").iterdir() if path.suffix == ".lock"]
    assert held == []  # the workers said goodbye
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    left = json.loads(Path("sweeps/run/sweep.json").read_text())
    assert [trial["state"] for trial in left["trials"]] == ["complete"] * 2
    assert left["trials"][0]["attempts"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials is 0; expected at least 1"),
        (["--workers", "0"], "--workers is 0; expected 1 to"),
        (["--again", "-1"], "--again is -1; expected at least 0"),
        (["--seed", "-1"], "--seed is -1; expected 0 to 2147483648"),
        (["--objectives", "f1"], "--objectives has 'f1'"),
        (["--storage", "x.db"], "expected the address of a database"),
        (["--sampler", "bayes"], "expected one of tpe, random, grid"),
        (["--sampler", "grid"], "needs choices or steps for every option"),
        (["--model.adapter.rank", "4"], "--model.adapter.rank is given, and --sweep"),
        (["--output", "photos"], "holds something else than a sweep"),
        (["--output", "space.yaml"], "a file; expected a folder"),
        (["--data.label_column", "x"], "label_column"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str], message: str, photos: Path, capsys: Any
) -> None:
    assert sweep(photos, *words) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("sweeps").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("model.adapter.rnk: [2]", "--sweep: unknown key 'model.adapter.rnk' (did you mean"),
        ("rank: [2]", "--sweep"),
        ("model.adapter.rank: [2, x]", "--sweep: model.adapter.rank is 'x'; expected a whole"),
        ("model.adapter: [{class_path: Lorra}]", "--sweep: "),
    ],
)
def test_what_fit_does_not_know_is_told_before_the_first_training(
    space: str, message: str, photos: Path, capsys: Any
) -> None:
    Path("space.yaml").write_text(space)
    assert sweep(photos) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("sweeps").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data.batch_size", "0", "data.batch_size is 0; expected at least 1"),
        ("model.backbone", "vitlora/vit_nano", "vit_nano"),
        ("model.weights", "gone.safetensors", "--weights 'gone.safetensors': no such file"),
        ("model.weights", "space.yaml", "space.yaml"),
        ("model.warmup", "3", "model.warmup is 3.0; expected 0 <= warmup < 1"),
    ],
)
def test_what_fit_refuses_at_every_point_is_told_before_the_first_training(
    name: str, value: str, message: str, photos: Path, capsys: Any
) -> None:
    fixed = {**MICRO, "data.root": str(photos), name: value}
    words = [word for each, text in fixed.items() for word in (f"--{each}", text)]
    assert main(["sweep", "--sweep", "space.yaml", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "--sweep:" not in error
    assert not Path("sweeps").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///gone/x.db", "unable to open database file"),
        ("sqlite:///space.yaml", "file is not a database"),
        ("nodb://me:secret@host/x", "there is no kind of database 'nodb'"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_its_own_words(
    url: str, message: str, photos: Path, capsys: Any
) -> None:
    assert sweep(photos, "--storage", url) == 2
    shown = url.replace(":secret", "")
    said = f"vitlora: --storage {shown} cannot be used: {message}\n"
    assert capsys.readouterr().err == said and not Path("sweeps").exists()


def test_without_optuna_it_says_what_to_install(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlora.commands.sweep.find_spec", lambda name: None)
    assert sweep(photos) == 2
    assert "pip install 'vitlora[sweep]'" in capsys.readouterr().err


def test_a_comparison_in_the_folder_is_left_alone(photos: Path, capsys: Any) -> None:
    Path("mine").mkdir()
    Path("mine/setup.json").write_text('{"vitlora": "1"}')
    assert sweep(photos, "--output", "mine") == 2
    assert "it is no sweep" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["setup.json"]
