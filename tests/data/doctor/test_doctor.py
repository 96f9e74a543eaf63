"""Tests of the folder doctor: every ill planted is found, and none in a healthy folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from vitlora.data import waiting
from vitlora.data.datamodule import FolderData
from vitlora.data.doctor import examine
from vitlora.data.doctor.finding import Finding
from vitlora.data.doctor.leaks import leak_notes
from vitlora.data.doctor.survey import survey
from vitlora.data.duplicates import fingerprints
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import read_folder
from vitlora.errors import DataError


def scene(seed: int, size=(120, 90)) -> Image.Image:
    """Returns a sharp picture with smooth parts, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)).resize(size)
    grain = rng.integers(-15, 16, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A healthy folder: two classes, 12 pictures each to train on and 3 to validate."""
    for number in range(30):
        split, label = ("val" if number % 5 == 4 else "train"), "ab"[number % 2]
        folder = tmp_path / "photos" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        scene(number).save(folder / f"{number:02}.jpg", quality=90)
    return tmp_path / "photos"


def found(root: Path) -> dict[str, Finding]:
    findings = examine(survey(root))
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def test_nothing_is_wrong_with_a_healthy_folder(root):
    assert found(root) == {}


def test_nothing_is_wrong_with_healthy_class_folders(root):
    assert found(root / "train") == {}


def brother(root: Path) -> Path:
    return root / "train/a/00.jpg"


def torn(root):
    (root / "train/a/torn.jpg").write_bytes(brother(root).read_bytes()[:900])
    (root / "train/b/void.png").touch()
    (root / "val/b/text.jpg").write_text("no picture")
    (root / "val/b/phone.heic").write_bytes(b"....ftypheic")
    (root / "val/b/gone.jpg").symlink_to("nowhere.jpg")
    return ["train/a/torn.jpg", "train/b/void.png", "val/b/gone.jpg", "val/b/phone.heic",
            "val/b/text.jpg"]  # fmt: skip


def wrong_ending(root):
    scene(100).save(root / "train/a/new.jpg", "PNG")
    return ["train/a/new.jpg"]


def small(root):
    scene(100, (31, 40)).save(root / "train/a/new.jpg")
    return ["train/a/new.jpg"]


def long(root):
    scene(100, (500, 100)).save(root / "train/a/new.jpg")
    return ["train/a/new.jpg"]


def mode(root):
    scene(100).convert("L").save(root / "train/a/grey.png")
    scene(101).convert("CMYK").save(root / "train/a/print.jpg")
    deep = np.asarray(scene(102).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "train/b/deep.png")
    scene(103).convert("RGBA").save(root / "train/b/clear.png")
    scene(104).convert("P").save(root / "train/b/palette.png")
    names = ("a/grey.png", "a/print.jpg", "b/clear.png", "b/deep.png", "b/palette.png")
    return [f"train/{name}" for name in names]


def turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(100).save(root / "train/a/new.jpg", exif=exif)
    exif[0x0112] = 1
    scene(101).save(root / "train/a/upright.jpg", exif=exif)
    return ["train/a/new.jpg"]


def links(root):
    scene(100).save(root.parent / "elsewhere.jpg")
    (root / "train/a/new.jpg").symlink_to(root.parent / "elsewhere.jpg")
    return ["train/a/new.jpg"]


def flat(root):
    Image.new("RGB", (90, 90), "black").save(root / "train/a/new.png")
    return ["train/a/new.png"]


def dark(root):
    scene(100).point(lambda level: level // 10).save(root / "train/a/new.png")
    return ["train/a/new.png"]


def bright(root):
    scene(100).point(lambda level: 235 + level // 10).save(root / "train/a/new.png")
    return ["train/a/new.png"]


def blurred(root):
    soft = scene(100, (480, 360)).filter(ImageFilter.GaussianBlur(6))
    ImageOps.autocontrast(soft).save(root / "train/a/new.jpg")
    return ["train/a/new.jpg"]


def unmeasured(root):
    (root / "train/c").mkdir()
    for number in range(12):
        scene(200 + number).save(root / f"train/c/{number}.jpg", quality=90)
    return ["val/c"]


def empty_class(root):
    for split in ("train", "val"):
        (root / split / "c").mkdir()
    return ["train/c"]


def few_pictures(root):
    for file in sorted((root / "train/a").iterdir())[9:]:
        file.unlink()
    return ["a"]


def imbalance(root):
    for number in range(120):
        scene(200 + number).save(root / f"train/b/{number}.jpg", quality=90)
    return []


def no_training(root):
    (root / "train").rename(root / "test")
    return []


def folders(root):
    shutil.copytree(root / "val", root / "more")
    return ["more/"]


def beside(root):
    scene(100).save(root / "train/new.jpg")
    return ["train/new.jpg"]


def hidden(root):
    (root / "train/a/.ipynb_checkpoints").mkdir()
    (root / "train/a/._00.jpg").touch()
    return ["train/a/._00.jpg", "train/a/.ipynb_checkpoints/"]


def other(root):
    (root / "train/a/more").mkdir()
    (root / "train/a/more/labels.xml").touch()
    (root / "readme.txt").touch()
    return ["readme.txt", "train/a/more/labels.xml"]


def linked(root):
    (root / "train/a/more").symlink_to(root / "train")
    return ["train/a/more/"]


def deep(seed, white):
    grey = np.asarray(scene(seed).convert("L")).astype(np.float64)
    return Image.fromarray(np.rint(grey / grey.max() * white).astype(np.uint16))


def outside(root):
    deep(100, 4095).save(root / "train/a/12.png")
    deep(101, 65535).save(root / "train/b/16.png")
    deep(102, 4095).save(root / "val/a/12.png")
    return ["train/a/12.png", "val/a/12.png"]


ILLS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "unreadable": (torn, "error"),
    "wrong_ending": (wrong_ending, "warning"),
    "small": (small, "warning"),
    "long": (long, "warning"),
    "mode": (mode, "note"),
    "turned": (turned, "note"),
    "links": (links, "note"),
    "flat": (flat, "warning"),
    "dark": (dark, "warning"),
    "bright": (bright, "warning"),
    "blurred": (blurred, "warning"),
    "unmeasured": (unmeasured, "warning"),
    "empty_class": (empty_class, "error"),
    "few_pictures": (few_pictures, "warning"),
    "imbalance": (imbalance, "warning"),
    "no_training": (no_training, "error"),
    "folders": (folders, "warning"),
    "beside": (beside, "warning"),
    "hidden": (hidden, "note"),
    "other": (other, "note"),
    "linked": (linked, "warning"),
    "outside": (outside, "warning"),
}
ALONG = {
    "imbalance": {"giveaway"},
    "empty_class": {"unmeasured"},
    "mode": {"deep"},
    "outside": {"deep", "mode", "flat"},
}  # what comes with an ill


@pytest.mark.parametrize("kind", ILLS)
def test_planted_ill_is_found_and_no_other(root, kind):
    plant, severity = ILLS[kind]
    want = plant(root)
    findings = found(root)
    assert findings.keys() - ALONG.get(kind, set()) == {kind}
    assert findings[kind].severity == severity
    assert findings[kind].files == want
    assert findings[kind].what and findings[kind].advice


def test_every_unreadable_file_says_why(root):
    torn(root)
    why = found(root)["unreadable"].why
    assert "damaged picture" in why["train/a/torn.jpg"]
    assert why["train/b/void.png"] == "the file is empty"
    assert why["val/b/text.jpg"] == "not a picture, whatever its name says"
    assert "HEIC" in why["val/b/phone.heic"]
    assert why["val/b/gone.jpg"] == "a link to a file that is not there"


def test_deep_pictures_are_seen_at_one_scale_and_it_is_said(root):
    for n in range(4):
        deep(100 + n, 4095).save(root / f"train/{'ab'[n % 2]}/deep{n}.png")
    deep(104, 4000).save(root / "val/a/deep.png")
    findings = found(root)
    assert findings.keys() == {"deep", "mode"}  # neither dark nor copies of one another
    total = len(list((root / "train").rglob("*.*")))
    assert findings["deep"].title == (
        f"4 of {total} pictures are deeper than 8 bits: values 0 to 4095 become 0 to 255"
    )


def test_deep_pictures_that_training_has_none_of_are_named(root):
    deep(100, 4095).save(root / "val/a/deep.png")
    finding = found(root)["outside"]
    assert finding.files == ["val/a/deep.png"] and "train/ has none" in finding.what


def test_what_is_passed_over_is_counted_by_ending(root):
    for name in ("train/a/1.txt", "train/b/2.txt", "train/b/3.dng", "labels.csv"):
        (root / name).touch()
    assert found(root)["other"].title == (
        "files passed over (2 .txt, 1 .csv, 1 .dng (camera raw is not read; export as JPEG)): 4"
    )


def test_pixel_kinds_are_named(root):
    mode(root)
    assert found(root)["mode"].why == {
        "train/a/grey.png": "grey",
        "train/a/print.jpg": "CMYK",
        "train/b/clear.png": "transparency",
        "train/b/deep.png": "16-bit grey",
        "train/b/palette.png": "palette",
    }


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_files_and_folders_without_permission_are_errors(root):
    brother(root).chmod(0)
    (root / "val/a").chmod(0)
    try:
        findings = found(root)
    finally:
        (root / "val/a").chmod(0o755)
    assert findings["unreadable"].why == {"train/a/00.jpg": "no permission to read it"}
    assert findings["closed"].files == ["val/a/"]


def test_two_spellings_of_a_class_are_named_with_their_counts(root):
    (root / "train/A").mkdir()
    for number in range(12):
        scene(200 + number).save(root / f"train/A/{number}.jpg", quality=90)
    finding = found(root)["alike_classes"]
    assert finding.severity == "warning"
    assert finding.what.endswith("accents: 'A' (12 pictures) and 'a' (15 pictures)")


def test_a_tool_s_folder_for_no_label_is_found(root):
    (root / "train/a").rename(root / "train/no_label")
    (root / "val/a").rename(root / "val/no_label")
    assert "'no_label' (15 pictures)" in found(root)["unlabelled_class"].what


def by_table(root: Path, label) -> dict[str, Finding]:
    """Returns what is found where a table says the class of each picture."""
    pictures = sorted(root.glob("train/*/*.jpg"))
    rows = [f"{one.relative_to(root)},{label(one)}" for one in pictures]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    findings = examine(survey(root, options=LayoutOptions("table")))
    return {finding.kind: finding for finding in findings}


def test_labels_of_a_table_that_the_class_folder_contradicts_are_found(root):
    swapped = {"00": "b", "02": "b", "01": "a"}
    finding = by_table(root, lambda one: swapped.get(one.stem, one.parent.name.upper()))
    assert finding["other_folder"].why == {
        "train/a/00.jpg": "labelled b",
        "train/a/02.jpg": "labelled b",
        "train/b/01.jpg": "labelled a",
    }
    assert "labels.csv" in finding["other_folder"].what


@pytest.mark.parametrize("classes", ["xy", "aX"])
def test_folders_that_are_no_classes_contradict_nothing(root, classes):
    assert "other_folder" not in by_table(root, lambda one: classes[int(one.stem) % 3 > 0])


COPIES = {
    "same_two_labels": ("train/a/00.jpg", "train/b/copy.jpg", "same", "error"),
    "same_two_splits": ("train/a/00.jpg", "val/a/copy.jpg", "same", "error"),
    "same_twice": ("train/a/00.jpg", "train/a/copy.jpg", "same", "warning"),
    "alike_two_labels": ("train/a/00.jpg", "train/b/copy.png", "alike", "warning"),
    "alike_two_splits": ("train/a/00.jpg", "val/a/copy.png", "alike", "error"),
    "alike_twice": ("train/a/00.jpg", "train/a/copy.png", "alike", "note"),
}


def copy(source: Path, target: Path, how: str) -> None:
    if how == "same":
        target.write_bytes(source.read_bytes())
    else:
        ImageOps.mirror(Image.open(source)).resize((100, 75)).save(target)


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copy_is_found_and_no_other(root, kind):
    source, target, how, severity = COPIES[kind]
    copy(root / source, root / target, how)
    findings = found(root)
    assert findings.keys() == {kind}
    assert findings[kind].severity == severity
    assert findings[kind].groups == [[source, target]]
    assert findings[kind].count == 1


def test_scenes_that_fit_may_part_are_a_warning_that_says_how_not_to(root):
    (root / "val").rename(root / "test")
    copy(root / "train/a/00.jpg", root / "train/a/copy.png", "alike")
    for place in (root, root / "train"):  # val is drawn from train, or from all
        finding = found(place)["alike_twice"]
        assert finding.severity == "warning" and "--data.groups duplicates" in finding.advice
    data = FolderData(str(root / "train"), groups="duplicates")
    names = {"a/00.jpg", "a/copy.png"}
    in_train = {s.path.relative_to(root / "train").as_posix() for s in data.folder.splits["train"]}
    assert names <= in_train or not names & in_train


def test_copy_in_another_split_and_class_is_both(root):
    copy(root / "train/a/00.jpg", root / "val/b/copy.jpg", "same")
    assert found(root).keys() == {"same_two_labels", "same_two_splits"}


def test_size_that_tells_the_class_is_found(root):
    for file in [*root.glob("*/b/*.jpg")]:
        Image.open(file).resize((60, 45)).save(file, quality=95)
    finding = found(root)["giveaway"]
    assert finding.severity == "warning" and finding.files == []
    assert "predicts 100% of the classes (the commonest class: 50%)" in finding.what
    assert "a 120 x 90, b 60 x 45" in finding.what


def test_format_that_tells_the_class_is_found(root):
    for file in [*root.glob("*/b/*.jpg")]:
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    assert "a JPEG, b PNG" in found(root)["giveaway"].what


def test_size_that_differs_within_a_class_tells_nothing(root):
    for number, file in enumerate(sorted(root.glob("*/*/*.jpg"))):
        Image.open(file).resize((100 + number // 3 % 3, 80)).save(file, quality=95)
    assert "giveaway" not in found(root)


def test_a_giveaway_names_a_few_of_many_classes(tmp_path):
    noise = np.random.default_rng(0)
    for label in range(30):
        folder = tmp_path / f"{label:02}"
        folder.mkdir()
        for number in range(4):
            pixels = noise.integers(0, 255, (40 + label, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    what = found(tmp_path)["giveaway"].what
    assert "the size of the file alone predicts 100% of the classes" in what
    assert "00 40 x 40, 01 40 x 41, " in what and what.endswith("09 40 x 49 and 20 more")


def test_class_folders_alone_need_two(root):
    (root / "train/b").rename(root / "b")
    assert found(root / "train")["few_classes"].severity == "error"


def test_a_long_look_is_told(root, monkeypatch, capsys):
    monkeypatch.setattr(waiting, "_PATIENCE", 0.0)
    survey(root)
    assert "looking at 30 pictures …" in capsys.readouterr().err


def test_training_is_warned_of_copies_in_a_line_each(root):
    copy(root / "train/a/00.jpg", root / "val/b/copy.jpg", "alike")
    folder = read_folder(root)
    prints = fingerprints(s.path for samples in folder.splits.values() for s in samples)[0]
    assert list(leak_notes(folder, prints)) == [
        "1 scene is in two or more splits, such as train/a/00.jpg and val/b/copy.jpg",
        "1 scene is in two or more classes, such as train/a/00.jpg and val/b/copy.jpg",
    ]
    (root / "val/b/copy.jpg").unlink()
    assert list(leak_notes(read_folder(root), prints)) == []


def test_what_fit_cannot_split_is_an_error_in_the_words_of_fit(tmp_path):
    for name in ("c", "d"):
        (tmp_path / name).mkdir()
        scene(ord(name)).save(tmp_path / name / "only.png")
    with pytest.raises(DataError) as refused:
        FolderData(str(tmp_path))
    finding = found(tmp_path)["too_few_to_split"]
    assert finding.severity == "error"
    assert f"{finding.what}; {finding.advice}" == str(refused.value)
    scene(ord("c") + 9).save(tmp_path / "c" / "second.png")
    FolderData(str(tmp_path))
    assert "too_few_to_split" not in found(tmp_path)
