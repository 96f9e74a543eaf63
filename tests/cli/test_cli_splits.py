"""Groups and folds as a user types them: fit, then validate, test and merge draw them again."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.cli.main import main
from vitlora.evaluation.pictures import find_validation

MICRO = ["--model.backbone", "vitlora/vit_micro_patch8_96", "--model.weights", "none"]
MICRO += ["--model.image_size", "32", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])


@pytest.fixture
def photos(make_folder):
    """Class folders with two pictures of each of five things; things.csv beside them."""
    root = make_folder(Path("photos"), splits=(), count=10)
    write_csv(root, 2)
    return root


def write_csv(root, size):
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    thing = [f"{Path(name).parent.name}{int(Path(name).stem) // size}" for name in names]
    rows = [f"{name},{group}" for name, group in zip(names, thing, strict=True)]
    Path("things.csv").write_text("\n".join(["file,group", *rows]), "utf-8")


def fit(output, *words):
    words = ["--output", output, "--trainer.max_epochs", "1", *MICRO, *words]
    return main(["fit", "--data.root", "photos", *words])


def images(capsys, command, *words):
    capsys.readouterr()
    assert main([command, "--json", "-", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_groups_are_drawn_again_by_every_command(photos, capsys):
    words = ["--data.groups", "things.csv", "--data.test_fraction", "0.2"]
    assert fit("checkpoints/x", *words) == 0
    record = load_bundle("checkpoints/x").record
    assert record.split["counts"] == {"train": [6, 6], "val": [2, 2], "test": [2, 2]}
    assert record.split["drawn"]["groups"] == str(Path("things.csv").resolve())
    assert images(capsys, "validate")["accuracy"] == record.metrics["accuracy"]
    assert images(capsys, "test")["images"] == 4
    assert main(["merge", "checkpoints/x", "x.safetensors"]) == 0
    assert json.loads(Path("x.json").read_text())["pictures"]["count"] == 4

    # other groups draw otherwise; what was held out is known by its content
    assert images(capsys, "test", "--data.groups", "null")["images"] == 4
    write_csv(photos, 1)
    assert images(capsys, "validate")["accuracy"] == record.metrics["accuracy"]
    assert main(["merge", "checkpoints/x", "z.safetensors"]) == 0
    Path("things.csv").unlink()
    for command in (["validate"], ["merge", "checkpoints/x", "y.safetensors"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "things.csv': no such file" in line
    assert main(["test", "--data.test_fraction", "1"]) == 1  # training's pictures among them
    assert "the options of the split changed" in capsys.readouterr().err


def test_other_pictures_are_tested_without_the_groups(photos, make_folder, capsys):
    assert fit("checkpoints/x", "--data.groups", "things.csv") == 0
    make_folder(Path("new"), splits=(), count=3)
    words = ["--data.root", "new", "--data.test_fraction", "1"]
    assert images(capsys, "test", *words)["images"] == 6
    make_folder(Path("parted"), splits=("train", "test"), count=2)
    assert main(["test", "--data.root", "parted"]) == 1
    assert "things.csv does not list" in capsys.readouterr().err
    words = ["--data.root", "parted", "--data.groups", "null"]
    assert images(capsys, "test", *words)["images"] == 4


def test_folds_validate_every_picture_once(photos, capsys):
    seen, held = Counter(), set()
    for fold in range(2):
        words = ["--data.folds", "2", "--data.fold", str(fold), "--data.test_fraction", "0.2"]
        assert fit(f"checkpoints/{fold}", *words, "--data.groups", "things.csv") == 0
        split = load_bundle(f"checkpoints/{fold}").record.split
        assert (split["drawn"]["folds"], split["drawn"]["fold"]) == (2, fold)
        held.add(split["digests"]["test"])
        scored = images(capsys, "validate", "--checkpoint", f"checkpoints/{fold}")
        for row, name in zip(scored["confusion"]["counts"], "ab", strict=True):
            seen[name] += sum(row)
    test = images(capsys, "test", "--checkpoint", "checkpoints/0")["images"]
    assert len(held) == 1
    assert seen.total() + test == 20
    with_fold_1 = find_validation(load_bundle("checkpoints/1")).folder
    assert with_fold_1.digest("val") == split["digests"]["val"]
    assert main(["validate", "--checkpoint", "checkpoints/1", "--data.fold", "0"]) == 1
    assert "not the one of training" in capsys.readouterr().err


def test_a_split_folder_is_split_anew_when_asked(make_folder, capsys):
    make_folder(Path("photos"), splits=("train", "val", "test"), count=4)
    before = sorted(Path("photos").rglob("*"))
    assert fit("checkpoints/x", "--data.groups", "duplicates") == 2
    assert "set data.resplit true to pool them" in capsys.readouterr().err
    words = ["--data.resplit", "true", "--data.test_fraction", "0.25"]
    assert fit("checkpoints/x", *words) == 0
    split = load_bundle("checkpoints/x").record.split
    assert split["counts"] == {"train": [7, 7], "val": [2, 2], "test": [3, 3]}
    assert split["drawn"] == {"val": 0.2, "test": 0.25, "seed": 0, "resplit": True}
    assert images(capsys, "validate")["images"] == 4
    assert images(capsys, "test")["images"] == 6
    assert find_validation(load_bundle("checkpoints/x")).folder.counts("val") == [2, 2]
    assert sorted(Path("photos").rglob("*")) == before


def test_a_bundle_from_before_groups_is_scored_as_ever(photos, capsys):
    assert fit("checkpoints/x", "--data.test_fraction", "0.1") == 0
    bundle = load_bundle("checkpoints/x")
    text = (bundle.folder / "config.yaml").read_text("utf-8")
    new = ("  groups:", "  resplit:", "  folds:", "  fold:")
    old = "\n".join(line for line in text.splitlines() if not line.startswith(new)) + "\n"
    assert len(text.splitlines()) == len(old.splitlines()) + len(new)
    assert set(bundle.record.split) == {"root", "counts", "digests", "drawn", "reading"}
    assert set(bundle.record.split["drawn"]) == {"val", "test", "seed"}
    split = {name: value for name, value in bundle.record.split.items() if name != "reading"}
    record = replace(bundle.record, confidence=None, split=split)
    save_bundle(Path("checkpoints/x"), record, bundle.tensors, bundle.peft, old)
    assert images(capsys, "validate")["images"] == 4
    assert images(capsys, "test")["images"] == 2


def test_a_split_drawn_in_training_is_not_taken_from_folders_later(photos, capsys):
    assert fit("checkpoints/x", "--data.test_fraction", "0.1") == 0
    folder = load_bundle("checkpoints/x").record.split["root"]
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            shutil.copytree(Path(folder) / name, Path(folder) / split / name)
    for name in ("a", "b"):
        shutil.rmtree(Path(folder) / name)
    for words in (["test"], ["validate"], ["report", "checkpoints/x"]):
        capsys.readouterr()
        assert main(words) == 1
        assert "its own split folders are used" in capsys.readouterr().err
