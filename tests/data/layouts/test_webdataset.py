"""webdataset's shards, as its own writer writes them and its own reader understands them."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import MICRO

from vitlora.cli.main import main
from vitlora.data.archives import open_file
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import read_folder, read_place
from vitlora.errors import DataError, UsageError


def picture(shade: int) -> bytes:
    """Returns a JPEG of noise about a shade of green."""
    noise = np.random.default_rng(shade).integers(0, 40, (40, 40, 3))
    out = io.BytesIO()
    Image.fromarray((noise + np.array([0, shade % 200, 0])).astype(np.uint8)).save(out, "JPEG")
    return out.getvalue()


def tar(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, data in files.items():
            data = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, labels: list[str], ending: str = "cls") -> Path:
    """Writes a shard of one picture for each label."""
    files: dict[str, bytes | str] = {}
    for number, label in enumerate(labels):
        files[f"{number:06d}.jpg"] = picture(number)
        files[f"{number:06d}.{ending}"] = label
    return tar(path, files)


def read(root: Path, **options: str) -> dict[str, tuple[str, str]]:
    """Returns the label and the split of each picture, by name."""
    place, reading = read_place(root, LayoutOptions(**options))
    assert reading.layout == "webdataset"
    assert [one.name for one in reading.pictures] == sorted(one.name for one in reading.pictures)
    for one in reading.pictures[:20]:
        assert place.root in one.path.parents and open_file(one.path).read(3) == b"\xff\xd8\xff"
    return {one.name: (one.label, one.split) for one in reading.pictures}


def refused(root: Path, *words: str, **options: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        read_place(root, LayoutOptions(**options))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_what_webdataset_writes_is_read_as_webdataset_reads_it(tmp_path):
    wds = pytest.importorskip("webdataset")
    for number in range(2):
        with wds.TarWriter(str(tmp_path / f"shard-{number:06d}.tar")) as writer:
            for i in range(4):
                key, label = f"sub.dir/{number}{i:05d}", (number + i) % 3
                writer.write({"__key__": key, "jpg": picture(i), "cls": label, "txt": "a bird"})
    expected = {}
    for file in sorted(tmp_path.glob("*.tar")):
        for one in wds.WebDataset(str(file), shardshuffle=False):
            expected[f"{file.name}/{one['__key__']}.jpg"] = (one["cls"].decode(), "")
    assert len(expected) == 8
    assert read(tmp_path) == expected


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["shard-000000.tar", "shard-000001.tar"], ["", ""]),
        (["train/000.tar", "val/000.tar"], ["train", "val"]),
        (["birds-train-000.tar", "birds-validation-000.tar"], ["train", "val"]),
        (["data/Train_0.tar", "data/TEST_0.tar"], ["train", "test"]),
        (["train-000.tar", "train-001.tar"], ["train", "train"]),
    ],
)
def test_splits_come_from_folders_and_names(tmp_path, names, splits):
    for name in names:
        shard(tmp_path / name, ["a", "b"])
    expected = {
        f"{name}/{key}.jpg": (label, split)
        for name, split in zip(names, splits, strict=True)
        for key, label in (("000000", "a"), ("000001", "b"))
    }
    assert read(tmp_path) == expected


@pytest.mark.parametrize(
    ("ending", "texts", "labels"),
    [
        ("cls", ["3", "10\n"], ["3", "10"]),
        ("txt", ["1e3", "NA"], ["1e3", "NA"]),
        ("TXT", ["\ufeffyes", "e\u0301"], ["yes", "\xe9"]),
        ("json", ['{"label": "01", "x": 1}', '{"label": 1}'], ["01", "1"]),
        ("json", ['{"cls": 0}', '{"cls": true}'], ["0", "true"]),
    ],
)
def test_labels_stay_the_text_they_are(tmp_path, ending, texts, labels):
    file = shard(tmp_path / "a.tar", texts, ending)
    assert [label for label, _ in read(file).values()] == labels


def test_a_named_key_of_json_counts_before_all(tmp_path):
    shard(tmp_path / "a.tar", ['{"label": 1, "species": "x"}', '{"species": "y"}'], "json")
    assert [v for v, _ in read(tmp_path, label_column="species").values()] == ["x", "y"]
    refused(tmp_path, "a.tar/000001.json has no 'label'", "species", "data.label_column")


def test_json_without_a_label_does_not_hide_the_class_in_txt(tmp_path):
    files = {"1.jpg": picture(1), "1.json": '{"url": "x"}', "1.txt": "cat"}
    tar(tmp_path / "a.tar", files | {"2.jpg": picture(2), "2.json": "{}", "2.txt": "dog"})
    assert [label for label, _ in read(tmp_path).values()] == ["cat", "dog"]


def test_names_of_classes_lie_beside_or_inside_or_are_named(tmp_path):
    inside = tar(
        tmp_path / "b" / "x.tar", {"1.jpg": picture(1), "1.cls": "1", "classes.txt": "a\nb"}
    )
    assert [*read(inside).values()] == [("b", "")]
    shard(tmp_path / "a" / "x.tar", ["1", "0", "2"])
    (tmp_path / "a" / "classes.txt").write_text("zebra\r\nant\r\nbee\r\nnone of these\r\n")
    place, reading = read_place(tmp_path / "a")
    assert [one.label for one in reading.pictures] == ["ant", "zebra", "bee"]
    assert reading.classes == ("zebra", "ant", "bee", "none of these")
    assert read_folder(place.root).classes == ("zebra", "ant", "bee")
    (tmp_path / "other").write_text("x\ny")
    refused(
        tmp_path / "a", "classes 0 to 1", "000002.jpg ('2')", label_names=str(tmp_path / "other")
    )
    refused(tmp_path / "a", "no such file", label_names=str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("names", "words"),
    [("a\n\nb", "name of class 1"), ("a\na", "classes 0 and 1"), ("a\nb", "000002.jpg ('2')")],
)
def test_wrong_names_are_refused(tmp_path, names, words):
    shard(tmp_path / "x.tar", ["1", "0", "2"])
    (tmp_path / "classes.txt").write_text(names)
    refused(tmp_path, "classes.txt", words)


def test_unlabelled_pictures_are_counted_not_used(tmp_path):
    files = {"1.jpg": picture(1), "1.cls": "0", "2.jpg": picture(2), "3.jpg": picture(3)}
    tar(tmp_path / "a.tar", {**files, "3.cls": " \n"})
    _, reading = read_place(tmp_path)
    assert [one.name for one in reading.pictures] == ["a.tar/1.jpg"]
    assert reading.notes == ("2 pictures without a label not used",)


def test_two_pictures_of_one_key_are_refused(tmp_path):
    names = [
        "IMG_2024.06.01.jpg",
        "IMG_2024.07.09.jpg",
        "IMG_2024.cls",
        "b.left.jpg",
        "b.right.jpg",
    ]
    tar(tmp_path / "a.tar", {name: picture(1) if "jpg" in name else "0" for name in names})
    refused(tmp_path, "a.tar: IMG_2024.06.01.jpg, IMG_2024.07.09.jpg", "first dot", "1 more")


def test_names_that_differ_in_their_unicode_form_alone_are_refused(tmp_path):
    names = ("e\u0301.jpg", "e\u0301.cls", "\xe9.jpg", "\xe9.cls")
    tar(tmp_path / "a.tar", {name: picture(1) if "jpg" in name else "0" for name in names})
    refused(tmp_path, "two pictures of one name")


@pytest.mark.parametrize(
    ("ending", "text", "words"),
    [
        ("cls", b"\xff\xfe", "not UTF-8"),
        ("txt", "a bird\nin a tree", "several lines"),
        ("cls", "x" * 2**21, "2,097,152 bytes"),
        ("json", "{", "not JSON"),
        ("json", "[" * 100_000, "not JSON"),
        ("json", "[1]", "expected {"),
        ("json", '{"label": [1, 2]}', "not supported yet"),
        ("json", '{"label": {"a": 1}}', "expected text or a whole number"),
        ("json", '{"label": 0.5}', "expected text or a whole number"),
        ("json", '{"url": "\\u001b[31m"}', "found url"),
    ],
)
def test_a_label_that_is_none_is_told_with_its_file(tmp_path, ending, text, words):
    shard(tmp_path / "a.tar", [text if isinstance(text, str) else "x"], ending)
    if isinstance(text, bytes):
        tar(tmp_path / "a.tar", {"000000.jpg": picture(0), "000000.cls": text})
    refused(tmp_path, f"a.tar/000000.{ending}", words)


def test_shards_of_no_split_beside_others_are_refused(tmp_path):
    for name in ("train-0.tar", "val-0.tar", "extra-0.tar"):
        shard(tmp_path / name, ["a", "b"])
    refused(tmp_path, "extra-0.tar", "train-0.tar", "expected train, val or test")
    (tmp_path / "extra-0.tar").rename(tmp_path / "train-val.tar")
    refused(tmp_path, "train-val.tar can belong to train or val")


def test_options_that_do_not_apply_are_refused(tmp_path):
    shard(tmp_path / "a.tar", ["a", "b"])
    refused(tmp_path, "data.split_column", split_column="split")
    refused(tmp_path, "no picture has a .json file", label_column="x")


def test_class_folders_in_a_tar_are_class_folders(tmp_path):
    files = {f"{name}/{i}.jpg": picture(i) for name in ("cat", "dog") for i in range(2)}
    captions = {f"{name}/{i}.txt": "a picture" for name in ("cat", "dog") for i in range(2)}
    for content in (files, files | captions):
        _, reading = read_place(tar(tmp_path / "photos.tar", content))
        assert reading.layout == "folders"
    tar(tmp_path / "several" / "a.tar", files)
    refused(tmp_path / "several", "no pictures", "a.tar")


def test_a_zip_of_such_files_is_not_taken_for_a_shard(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("1.jpg", picture(1))
        opened.writestr("1.cls", "0")
    refused(tmp_path / "a.zip", "1 picture")


def test_names_that_point_outside_are_refused(tmp_path):
    tar(tmp_path / "a.tar", {"../1.jpg": picture(1), "../1.cls": "0"})
    refused(tmp_path, "names that lead outside it")


@pytest.mark.slow
def test_many_small_files_take_seconds(tmp_path):
    for number in range(10):
        files = {f"{i:06d}.{e}": b"\xff\xd8\xff0" for i in range(2000) for e in ("jpg", "cls")}
        tar(tmp_path / f"{number}.tar", {k: b"3" if "cls" in k else v for k, v in files.items()})
    start = time.perf_counter()
    assert len(read(tmp_path)) == 20_000
    assert time.perf_counter() - start < 20


@pytest.mark.slow
def test_shards_are_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        shard(tmp_path / "shards" / split / "000.tar", ["b", "a"] * 4)
    options = {**MICRO, "data.root": "shards", "output": "out", "data.num_workers": "2"}
    assert main(["fit", *(f"--{name}={value}" for name, value in options.items())]) == 0
    record = json.loads((tmp_path / "out" / "vitlora.json").read_text())
    assert record["classes"] == ["a", "b"]
    assert record["split"]["reading"]["layout"] == "webdataset"
    assert main(["validate", "out", "--device", "cpu"]) == 0
