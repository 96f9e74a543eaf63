"""Pictures that training knew: what every command says of them; where going on puts them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.folder import PICTURES
from vitlora.cli.main import main
from vitlora.data.usage import contents

MICRO = ["--model.backbone", "vitlora/vit_micro_patch8_96", "--model.weights", "none"]
MICRO += ["--model.image_size", "32", "--model.adapter", "LinearProbe"]
RUN = ["--trainer.accelerator", "cpu", "--data.num_workers", "0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])


@pytest.fixture
def photos(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Class folders of 12 pictures each; 6 more of each, of other bytes, wait in `more`."""
    make_folder(tmp_path / "more", splits=(), count=18)
    for path in sorted(Path("more").rglob("*.jpg")):
        if int(path.stem) < 12:
            Path("photos", path.parent.name).mkdir(parents=True, exist_ok=True)
            path.rename(Path("photos", *path.parts[1:]))
    return tmp_path / "photos"


def fit(output: str, *words: str) -> Bundle:
    model = [] if "--from" in words else MICRO
    common = ["--data.root", "photos", "--trainer.max_epochs", "1", "--output", output]
    assert main(["fit", *common, *model, *RUN, *words]) == 0
    return load_bundle(output)


def score(command: str, *words: str) -> dict[str, Any]:
    assert main([command, "--json", "scores.json", *RUN, *words]) == 0
    return json.loads(Path("scores.json").read_text())


def added(photos: Path) -> None:
    """Adds pictures, renames one of each class, and gives one of each another class."""
    for name in ("a", "b"):
        first, second, *_ = sorted((photos / name).iterdir())
        first.rename(first.with_name(f"renamed-{name}.jpg"))
        second.rename(photos / ("b" if name == "a" else "a") / f"corrected-{name}.jpg")
        for path in Path("more", name).iterdir():
            shutil.copy(path, photos / name / f"new-{path.name}")


@pytest.mark.parametrize(
    "split",
    [
        ["--data.test_fraction", "0.25"],
        ["--data.folds", "3", "--data.fold", "2", "--data.test_fraction", "0.25"],
    ],
)
def test_what_was_held_out_stays_so_through_two_continuations(
    split: list[str], photos: Path, capsys: Any
) -> None:
    first = fit("first", *split)
    assert first.usage is not None
    assert len(first.usage.train) == sum(first.record.split["counts"]["train"])
    assert score("validate", "--checkpoint", "first")["seen_in_training"] == 0
    capsys.readouterr()
    added(photos)

    # the old bundle is still scored, on what it held out
    scored = score("validate", "--checkpoint", "first")
    assert scored["images"] == sum(first.record.split["counts"]["val"])
    assert (scored["seen_in_training"], scored["seen_in_validation"]) == (0, scored["images"])
    assert "12 new pictures left out" in capsys.readouterr().err
    assert score("test", "--checkpoint", "first")["images"] == 6

    second = fit("second", "--from", "first", "--model.lr", "0.0001")
    out = capsys.readouterr().out
    assert "continuing from first: kept 24 pictures on the side they were on, 12 new" in out
    assert "the old test set, 6 pictures" in out
    third = fit("third", "--from", "second", "--model.lr", "0.0001")
    known = contents(photos.rglob("*.jpg"))
    for earlier, later in ((first, second), (second, third), (first, third)):
        assert earlier.usage is not None and later.usage is not None
        assert not earlier.usage.train & (later.usage.val | later.usage.test)
        assert not later.usage.train & (earlier.usage.val | earlier.usage.test)
        assert earlier.usage.train <= later.usage.train <= set(known.values())
    assert third.record.split["drawn"] == first.record.split["drawn"]
    assert sum(map(sum, third.record.split["counts"].values())) == 36

    # and the later one as its training left it, in silence
    capsys.readouterr()
    scored = score("validate", "--checkpoint", "third")
    assert scored["images"] == third.record.metrics["images"]
    assert scored["accuracy"] == third.record.metrics["accuracy"]
    assert capsys.readouterr().err == ""


def test_every_command_says_that_training_pictures_are_scored(
    photos: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fit("checkpoints/x", "--data.val_fraction", "0.25")
    for name in ("a", "b"):  # 18 of 24 are training pictures
        for path in Path("more", name).iterdir():
            for split in ("val", "test"):
                Path("mixed", split, name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, Path("mixed", split, name))
    known = contents(photos.rglob("*.jpg"))
    assert bundle.usage is not None
    trained = [path for path, content in known.items() if content in bundle.usage.train]
    for number, path in enumerate(trained):
        for split in ("val", "test"):
            shutil.copy(path, Path("mixed", split, path.parent.name, f"another{number}.jpg"))
    shutil.copytree(photos, "mixed/train")
    shutil.copytree("mixed/test", "flat")
    line = (
        "18 of 30 pictures (60%) are copies of training pictures: scores say nothing about new "
        "pictures"
    )
    commands = [
        ["test", "--data.root", "mixed", "--json", "-", *RUN],
        ["test", "--data.root", "flat", "--data.test_fraction", "1", "--json", "-", *RUN],
        ["validate", "--data.root", "mixed", "--json", "-", *RUN],
        ["drift", "checkpoints/x", "--data", "flat", "--json", "-"],
        ["report", "checkpoints/x", "--data", "mixed", "--output", "r.html"],
        ["report", "checkpoints/x", "--data", "flat", "--output", "r.html"],
        ["merge", "checkpoints/x", "x.safetensors", "--data", "mixed"],
        ["calibrate", "checkpoints/x", "--data", "mixed"],
    ]
    for words in commands:
        capsys.readouterr()
        assert main(words) == 0
        said = capsys.readouterr()
        assert line in said.err + said.out, words
        if "--json" in words:
            assert json.loads(said.out)["seen_in_training"] == 18
        if words[0] == "report":
            page = Path("r.html").read_text("utf-8")
            assert line in page and "another0.jpg" in page
    assert (load_bundle("checkpoints/x").folder / PICTURES).is_file()  # calibrate keeps it
    assert load_bundle("checkpoints/x").usage == bundle.usage
    shutil.rmtree(photos)  # it needs none of the pictures
    assert score("test", "--data.root", "mixed")["seen_in_training"] == 18
    shutil.rmtree("mixed/train")
    words = ["--data.root", "mixed", "--data.val_fraction", "0.25"]
    assert score("test", *words)["seen_in_training"] == 18


def test_an_older_bundle_is_compared_with_its_folder_or_said_to_be_unknown(
    photos: Path, capsys: Any
) -> None:
    new = fit("checkpoints/x", "--data.folds", "3", "--data.fold", "1")
    record, config = new.record, (new.folder / "config.yaml").read_text("utf-8")
    reference = new.reference
    save_bundle(Path("old"), record, new.tensors, new.peft, config, reference=reference)
    assert load_bundle("old").usage is None
    shutil.copytree(photos, "copy")
    words = ["--checkpoint", "old", "--data.root", "copy", "--data.test_fraction", "1"]
    assert score("test", *words, "--data.folds", "null", "--data.fold", "0")[
        "seen_in_training"
    ] == len(new.usage.train)  # pyright: ignore

    # an unchanged folder tells what was held out, folds and all
    child = fit("child", "--from", "old", "--model.lr", "0.0001")
    assert child.usage == new.usage
    added(photos)
    assert main(["validate", "--checkpoint", "old", *RUN]) == 1
    assert "is not the one of training" in capsys.readouterr().err
    assert (
        score("test", *words, "--data.folds", "null", "--data.fold", "0")["seen_in_training"]
        is None
    )
    assert "if it is a copy of it, training pictures may be scored" in capsys.readouterr().err
    child = fit("late", "--from", "old", "--model.lr", "0.0001")
    assert "does not record its training pictures" in capsys.readouterr().err
    assert child.usage is not None and not child.usage.whole
    score("validate", "--checkpoint", "late")
    assert "so some may be scored" in capsys.readouterr().err


def test_a_torn_or_foreign_list_of_pictures_is_refused(photos: Path, capsys: Any) -> None:
    bundle = fit("checkpoints/x")
    file = bundle.folder / PICTURES
    content = file.read_bytes()
    for damage in (content[:-3], b"", content + b"x"):
        file.write_bytes(damage)
        assert main(["validate", *RUN]) == 1
        assert "was truncated or changed" in capsys.readouterr().err


def test_a_split_folder_whose_owner_moved_pictures(photos: Path, capsys: Any) -> None:
    for path in sorted(photos.rglob("*.jpg")):
        split = "val" if int(path.stem) >= 9 else "train"
        Path("split", split, path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, Path("split", split, path.parent.name))
    words = ["--data.root", "split"]
    fit("first", *words)
    Path("split/val/a/9.jpg").rename("split/train/a/9.jpg")
    Path("split/train/b/0.jpg").rename("split/val/a/corrected.jpg")
    capsys.readouterr()
    second = fit("second", "--from", "first", *words)
    err = capsys.readouterr().err
    assert "1 picture is left out of val/ and test/" in err
    assert "1 picture is left out: held out from the bundle" in err
    assert second.record.split["counts"] == {"train": [9, 8], "val": [2, 3]}
    scored = score("validate", "--checkpoint", "second")
    assert (scored["images"], scored["seen_in_training"]) == (5, 0)
    capsys.readouterr()
    scored = score("validate", "--checkpoint", "first")  # the one it was trained on is left out
    assert (scored["images"], scored["seen_in_training"]) == (5, 0)
    assert (
        "1 picture in val/ left out: training used them in another split" in capsys.readouterr().err
    )
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save("split/val/a/new.jpg")  # what is added changes nothing in that
    assert score("validate", "--checkpoint", "second")["seen_in_training"] == 0
