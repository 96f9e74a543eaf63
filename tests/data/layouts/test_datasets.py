"""Hugging Face datasets, as the library itself writes them."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import MICRO

from vitlora.cli.main import main
from vitlora.data import archives
from vitlora.data.archives import open_file
from vitlora.data.hub import address, hub_name
from vitlora.data.layouts.reading import LayoutOptions
from vitlora.data.read import check_root, read_folder, read_place
from vitlora.errors import DataError, UsageError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
NAMES = ["zebra", "ant"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path_factory):
    """Keeps copies out of the real home, and the internet out of reach."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return home


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 40, (40, 40, 3))
    out = io.BytesIO()
    Image.fromarray((noise + np.array([0, 200 * (number % 2), 0])).astype(np.uint8)).save(
        out, "PNG"
    )
    return out.getvalue()


def make(count: int, first: int = 0, **columns: Any) -> Any:
    """Returns a dataset of pictures whose label is whether their number is odd."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    numbers = range(first, first + count)
    rows = {
        "image": [{"bytes": picture(number), "path": None} for number in numbers],
        "label": [number % 2 for number in numbers],
    }
    whole = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    for name, values in columns.items():
        whole = whole.add_column(name, values)
    return whole


def splits() -> Any:
    return datasets.DatasetDict(train=make(6), validation=make(4, 10), test=make(2, 20))


EXPECTED = {
    **{f"train/{i:06d}": (NAMES[i % 2], "train", i) for i in range(6)},
    **{f"val/{i:06d}": (NAMES[i % 2], "val", 10 + i) for i in range(4)},
    **{f"test/{i:06d}": (NAMES[i % 2], "test", 20 + i) for i in range(2)},
}


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.table(columns), path, **options)
    return path


def read(root: Path | str, **options: str) -> dict[str, tuple[str, str, int]]:
    """Returns the label, split and number of each picture, by name; opens them all."""
    _, reading = read_place(root, LayoutOptions(**options))
    assert reading.layout == "datasets"
    numbers = {picture(number): number for number in range(30)}
    shuffled = random.Random(0).sample(reading.pictures, len(reading.pictures))
    assert [one.name for one in reading.pictures] == sorted(one.name for one in shuffled)
    return {o.name: (o.label, o.split, numbers[open_file(o.path).read()]) for o in shuffled}


def refused(root: Path | str, *words: str, **options: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        read_place(root, LayoutOptions(**options))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def saved(root: Path) -> Path:
    """A folder as save_to_disk writes it, with a cache that the library left beside it."""
    splits().save_to_disk(str(root), num_shards={"train": 3, "validation": 1, "test": 1})
    datasets.load_from_disk(str(root))["train"].map(lambda row: {"new": row["label"]})
    assert [*root.glob("train/cache-*.arrow")]
    return root


def shards(root: Path) -> Path:
    """Parquet files named as those on the hub, train in two."""
    (root / "data").mkdir(parents=True)
    for split, whole in splits().items():
        count = 2 if split == "train" else 1
        for number in range(count):
            part = whole.shard(count, number, contiguous=True)
            part.to_parquet(str(root / f"data/{split}-{number:05d}-of-{count:05d}.parquet"))
    (root / "README.md").write_text("---\nlicense: mit\n---\n")
    return root


def folders(root: Path) -> Path:
    """Parquet files in folders of splits, as the hub's converted ones."""
    for split, whole in splits().items():
        (root / "default" / split).mkdir(parents=True)
        whole.to_parquet(str(root / "default" / split / "0000.parquet"))
    return root


def feather(root: Path) -> Path:
    """Arrow files with an index and compressed, which cannot be mapped as they are."""
    for split, whole in splits().items():
        (root / split).mkdir(parents=True)
        table = whole.data.table
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(root / split / "x.arrow"), table.schema, options=options) as file:
            file.write_table(table)
    return root


def zipped(root: Path) -> Path:
    folder = saved(root)
    with zipfile.ZipFile(f"{root}.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for file in folder.rglob("*.*"):
            opened.write(file, file.relative_to(folder))
    return Path(f"{root}.zip")


def tarred(root: Path) -> Path:
    with tarfile.open(f"{root}.tar", "w") as opened:
        opened.add(shards(root), ".")
    return Path(f"{root}.tar")


@pytest.mark.parametrize("kind", [saved, shards, folders, feather, zipped, tarred])
def test_what_the_library_writes_is_read(tmp_path, kind):
    root = kind(tmp_path / "set")
    assert read(root) == EXPECTED
    found = read_folder(root)
    assert found.classes == ("zebra", "ant")
    again = tmp_path / "moved" / root.name
    again.parent.mkdir()
    root.rename(again)
    assert read_folder(again).digest("train") == found.digest("train")


def test_one_dataset_and_one_file_have_no_splits(tmp_path):
    make(6).save_to_disk(str(tmp_path / "one"))
    expected = {f"{i:06d}": (NAMES[i % 2], "", i) for i in range(6)}
    assert read(tmp_path / "one") == expected
    make(6).to_parquet(str(tmp_path / "pictures.parquet"))
    make(4, 10).to_parquet(str(tmp_path / "other.parquet"))
    assert read(tmp_path / "pictures.parquet") == expected


def test_a_copy_is_made_once_and_anew_when_the_file_changed(tmp_path, elsewhere, capsys):
    file = parquet(tmp_path / "a.parquet", {"image": [picture(0)], "label": ["a"]})
    read(file)
    read(file)
    cache = elsewhere / ".cache/vitlora/rows"
    assert len([*cache.iterdir()]) == 1
    _, reading = read_place(file)
    assert "copies in" in reading.notes[0]
    parquet(file, {"image": [picture(1)], "label": ["b"]})
    assert read(file) == {"000000": ("b", "", 1)}
    (cache / "other.arrow").touch()
    for one in cache.iterdir():
        one.unlink()
    assert read(file) == {"000000": ("b", "", 1)}


def test_a_copy_that_cannot_be_written_is_told(tmp_path, elsewhere):
    (elsewhere / ".cache").write_text("")
    file = parquet(tmp_path / "a.parquet", {"image": [picture(0)], "label": ["a"]})
    refused(file, "cannot be copied to", "rows")


def in_another_process(file: Path) -> None:
    """Reads a place as a new run does."""
    code = f"from vitlora.data.read import read_place; read_place({str(file)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_copies_that_no_run_used_for_a_month_are_removed(tmp_path, elsewhere):
    fcntl = pytest.importorskip("fcntl")
    files = [
        parquet(tmp_path / f"{name}.parquet", {"image": [picture(0)], "label": [name]})
        for name in "abc"
    ]
    cache, copies = elsewhere / ".cache/vitlora/rows", dict[Path, Path]()
    for file in files:
        before = {*cache.glob("*")}
        in_another_process(file)
        (copies[file],) = {*cache.glob("*")} - before
    foreign = cache / "notes.arrow"
    foreign.touch()
    month = time.time() - 31 * 24 * 3600
    for old in (foreign, copies[files[0]], copies[files[1]]):
        os.utime(old, (month, old.stat().st_mtime))
    written = copies[files[1]].stat().st_mtime_ns
    handle = os.open(cache, os.O_RDONLY)  # another run reads its copies
    fcntl.flock(handle, fcntl.LOCK_SH)
    in_another_process(files[1])
    assert copies[files[0]].exists()
    os.close(handle)
    in_another_process(files[2])
    assert {*cache.iterdir()} == {foreign, copies[files[1]], copies[files[2]]}
    assert copies[files[1]].stat().st_mtime_ns == written


def test_a_run_keeps_its_copies_from_being_removed(tmp_path, elsewhere):
    fcntl = pytest.importorskip("fcntl")
    file = parquet(tmp_path / "a.parquet", {"image": [picture(0)], "label": ["a"]})
    read(file)
    handle = os.open(elsewhere / ".cache/vitlora/rows", os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


PICTURES = [picture(number) for number in range(4)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["01", "1e3", "NA", "yes"], ["01", "1e3", "NA", "yes"]),
        ([3, 1, 3, 2], ["3", "1", "3", "2"]),
        ([True, False, True, False], ["true", "false", "true", "false"]),
        (pa.array(["b", "a", "b", "a"]).dictionary_encode(), ["b", "a", "b", "a"]),
        (pa.array(["e\u0301"] * 4, pa.large_string()), ["\xe9"] * 4),
        (pa.array([1, 2, 3, 4], pa.uint8()), ["1", "2", "3", "4"]),
    ],
)
@pytest.mark.parametrize("binary", [pa.binary(), pa.large_binary()])
def test_labels_stay_the_text_they_are(tmp_path, labels, expected, binary):
    columns = {"photo": pa.array(PICTURES, binary), "label": labels}
    found = read(parquet(tmp_path / "a.parquet", columns))
    assert len(found) == 4
    assert [found[f"{i:06d}"][0] for i in range(4)] == expected


def test_rows_without_a_label_are_counted_not_used(tmp_path):
    whole = make(4).to_dict() | {"label": [0, -1, None, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=NAMES))
    datasets.Dataset.from_dict(whole, features=features).to_parquet(str(tmp_path / "a.parquet"))
    assert read(tmp_path) == {"000000": ("zebra", "", 0), "000003": ("ant", "", 3)}
    _, reading = read_place(tmp_path)
    assert reading.notes[0] == "2 pictures without a label not used"
    columns = {"image": PICTURES, "label": ["a", "", None, "b"]}
    assert read(parquet(tmp_path / "a.parquet", columns)).keys() == {"000000", "000003"}


def test_columns_are_found_or_chosen(tmp_path):
    both = {"image": PICTURES, "mask": PICTURES, "fine": list("abcd"), "coarse": list("aabb")}
    file = parquet(tmp_path / "a.parquet", both)
    refused(file, "several columns of pictures (image, mask)", "data.file_column", "fine (string)")
    refused(file, "no column of classes", "data.label_column", file_column="image")
    found = read(file, file_column="mask", label_column="coarse")
    assert [found[f"{i:06d}"][0] for i in range(4)] == ["a", "a", "b", "b"]
    wrong = {"file_column": "mask", "label_column": "coarce"}
    refused(file, "data.label_column is 'coarce' (did you mean 'coarse'?)", **wrong)
    refused(file, "'fine' (string) holds no picture", file_column="fine", label_column="coarse")
    refused(file, "'mask' is binary", file_column="image", label_column="mask")
    refused(parquet(tmp_path / "b.parquet", {"label": ["a"]}), "no column of pictures")


def test_two_columns_of_classes_need_a_choice(tmp_path):
    label = datasets.ClassLabel(names=["x", "y"])
    whole = make(4).rename_column("label", "fine").add_column("coarse", [0, 0, 1, 1])
    whole.cast_column("coarse", label).to_parquet(str(tmp_path / "a.parquet"))
    refused(tmp_path, "several columns of classes (fine, coarse)")
    assert read(tmp_path, label_column="coarse")["000001"] == ("x", "", 1)
    whole.cast_column("coarse", label).rename_column("fine", "label").to_parquet(
        str(tmp_path / "a.parquet")
    )
    assert read(tmp_path)["000001"] == ("ant", "", 1)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0], [1], [0, 1], []], "several labels a picture are not supported yet"),
        ([0.0, 1.0, 0.0, 1.0], "expected text or whole numbers"),
        ([{"a": 1}] * 4, "expected text or whole numbers"),
    ],
)
def test_labels_of_other_types_are_refused(tmp_path, labels, words):
    refused(parquet(tmp_path / "a.parquet", {"image": PICTURES, "label": labels}), words)


def test_columns_of_splits_and_groups_count(tmp_path):
    columns = {"image": PICTURES, "label": list("abab"), "split": ["train", "TEST", "dev", "train"]}
    file = parquet(tmp_path / "a.parquet", {**columns, "group": ["p", "q", None, "p"]})
    _, reading = read_place(file)
    assert [one.split for one in reading.pictures] == ["train", "test", "val", "train"]
    assert [one.group for one in reading.pictures] == ["p", "q", "", "p"]
    columns["split"] = ["train", "nonsense", "", "train"]
    file = parquet(tmp_path / "a.parquet", columns)
    refused(file, "1 row with an unknown split: 000001 ('nonsense')")
    columns["split"] = [""] * 4
    _, reading = read_place(parquet(tmp_path / "a.parquet", columns))
    assert {one.split for one in reading.pictures} == {""}


def test_names_for_numbers_come_from_a_file(tmp_path):
    file = parquet(tmp_path / "a.parquet", {"image": PICTURES, "label": [1, 0, 1, 2]})
    (tmp_path / "names.txt").write_text("zebra\nant\nbee\n")
    _, reading = read_place(file, LayoutOptions(label_names=str(tmp_path / "names.txt")))
    assert [one.label for one in reading.pictures] == ["ant", "zebra", "ant", "bee"]
    assert reading.classes == ("zebra", "ant", "bee")


def test_a_number_without_a_name_is_told(tmp_path):
    note = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}
    table = pa.table({"image": PICTURES, "label": [0, 1, 2, -2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(note)})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    refused(tmp_path, "names for 0 to 1", "2 (2), 3 (-2)")


@pytest.mark.parametrize(
    "note",
    [
        *("{", "[]", "[" * 100_000, '{"info": 1}', '{"info": {"features": [1]}}'),
        '{"info": {"features": {"label": 1}}}',
        '{"info": {"features": {"label": {"_type": "ClassLabel", "names": 7}}}}',
    ],
)
def test_strange_notes_in_a_file_do_no_harm(tmp_path, note):
    table = pa.table({"image": PICTURES, "label": [0, 1, 2, 0]})
    pa.parquet.write_table(
        table.replace_schema_metadata({"huggingface": note}), tmp_path / "a.parquet"
    )
    assert [label for label, _, _ in read(tmp_path).values()].count("0") == 2


def test_paths_instead_of_pictures_are_refused(tmp_path):
    cells = [{"bytes": None, "path": "/etc/passwd"}] * 2
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet(tmp_path / "a.parquet", {"image": pa.array(cells, kind), "label": ["a", "b"]})
    refused(tmp_path, "'image' holds paths of pictures, not the pictures", "hf download")


def test_a_row_without_a_picture_is_an_unreadable_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture(i), "path": None} for i in range(12)]
    cells[3] = None
    columns = {"image": pa.array(cells, kind), "label": ["a", "b"] * 6}
    parquet(tmp_path / "a.parquet", columns)
    options = {**MICRO, "data.root": "a.parquet", "output": "out"}
    words = ["fit", *(f"--{name}={value}" for name, value in options.items())]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "image/3" in said and "Traceback" not in said
    assert main([*words, "--data.skip_unreadable=true"]) == 0


def test_a_folder_with_several_datasets_is_refused(tmp_path):
    for name in ("cats", "dogs"):
        parquet(tmp_path / name / "train" / "0.parquet", {"image": PICTURES[:1], "label": ["a"]})
    refused(tmp_path, "several folders (cats/, dogs/)")


def test_shards_that_do_not_fit_each_other_are_refused(tmp_path):
    parquet(tmp_path / "train-0.parquet", {"image": PICTURES[:1], "label": ["a"]})
    parquet(tmp_path / "test-0.parquet", {"photo": PICTURES[:1], "label": ["a"]})
    refused(tmp_path, "test-0.parquet and", "train-0.parquet have other columns")
    (tmp_path / "test-0.parquet").rename(tmp_path / "extra-00000-of-00001.parquet")
    refused(tmp_path, "extra-00000-of-00001.parquet do not", "expected train, val or test")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1", b"PAR1" + b"\0" * 100, b"hello"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, name, content, elsewhere):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, f"{name} is not a whole Arrow or Parquet file")
    assert not [*elsewhere.rglob("*.arrow"), *elsewhere.rglob(".vitlora*")]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("{", "is not what save_to_disk writes"),
        ("[1]", "is not what save_to_disk writes"),
        ('{"_data_files": 3}', "is not what save_to_disk writes"),
        ('{"_data_files": [{"filename": "../secret.arrow"}]}', "lists ../secret.arrow, which"),
        ('{"_data_files": [{"filename": "/etc/passwd"}]}', "lists /etc/passwd, which"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "lists gone.arrow, which"),
        ('{"_data_files": [], "_indices_data_files": [{}]}', "old version"),
        ('{"_data_files": []}', "holds no .parquet"),
    ],
)
def test_a_strange_state_is_refused(tmp_path, state, words):
    make(2).save_to_disk(str(tmp_path / "set"))
    make(2).save_to_disk(str(tmp_path / "secret.arrow"))
    (tmp_path / "set" / "state.json").write_text(state)
    refused(tmp_path / "set", words)


def test_columns_with_names_of_paths_open_nothing_else(tmp_path):
    parquet(tmp_path / "a.parquet", {"../../x": PICTURES, "label": list("abcd")})
    refused(tmp_path, "'../../x' (binary) holds no picture files")


def test_a_table_of_pictures_beside_it_is_not_taken_for_a_dataset(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(picture(1))
    parquet(tmp_path / "metadata.parquet", {"file_name": ["cat/1.png"], "label": ["a"]})
    _, reading = read_place(tmp_path)
    assert reading.layout == "table"


def test_without_the_extra_a_line_says_what_to_install(tmp_path, monkeypatch):
    make(2).save_to_disk(str(tmp_path / "set"))
    parquet(tmp_path / "a.parquet", {"image": PICTURES, "label": list("abcd")})
    archives._open.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for place in (tmp_path / "set", tmp_path / "a.parquet", "hf://owner/name"):
        refused(place, "pip install 'vitlora[datasets]'")


@pytest.mark.slow
def test_two_hundred_thousand_rows_take_seconds(tmp_path):
    count = 200_000
    columns = {"image": [b"\xff\xd8\xff"] * count, "label": [f"{i % 5}" for i in range(count)]}
    file = parquet(tmp_path / "a.parquet", columns)
    start = time.perf_counter()
    assert len(read_place(file)[1].pictures) == count
    assert time.perf_counter() - start < 20


# The hub: only the library's answer is there; nothing is downloaded.


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("hf://owner/name", "hf://owner/name"),
        ("hf://datasets/owner/name/config/", "hf://owner/name/config"),
        (Path("hf://owner/name"), "hf://owner/name"),
        ("photos", ""),
        ("/a/hf://b", ""),
    ],
)
def test_a_dataset_of_the_hub_is_known_by_its_name(root, name):
    assert hub_name(root) == name
    if name:
        assert address(root) == name and hub_name(check_root(root)) == name


@pytest.mark.parametrize(
    "root", ["hf://", "hf://owner", "hf://a/b/c/d", "hf://../x", "hf://a/b@main", "hf://a/b\n"]
)
def test_other_names_on_the_hub_are_refused(root):
    with pytest.raises(UsageError, match="expected hf://OWNER/NAME"):
        check_root(root)


def test_a_folder_of_the_same_name_is_not_taken_for_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "owner" / "name")
    refused("hf://owner/name", "a folder owner/name lies here, too")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", no_network)
    refused("hf://owner/name", "hf://owner/name: cannot be downloaded", "go online once")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the disk: the library loads the same files from there."""
    load = datasets.load_dataset
    asked = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        asked.append((path, name, options))
        return load(str(tmp_path / "hub" / path), name, **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return tmp_path / "hub", asked


def test_a_dataset_of_the_hub_is_read_as_its_files_are(hub):
    root, asked = hub
    shards(root / "owner" / "name")
    assert read("hf://owner/name") == EXPECTED
    assert read_folder("hf://owner/name").classes == ("zebra", "ant")
    assert asked[0] == ("owner/name", None, {"keep_in_memory": False})


def test_a_configuration_of_the_hub_is_chosen(hub):
    root, asked = hub
    for name in ("one", "two"):
        shards(root / "owner" / "name" / name)
    card = {"configs": [{"config_name": n, "data_dir": f"{n}/data"} for n in ("one", "two")]}
    (root / "owner" / "name" / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    refused("hf://owner/name", "'one', 'two'", "hf://OWNER/NAME/CONFIG")
    refused("hf://owner/name/three", "three", "hf://OWNER/NAME/CONFIG")
    assert read("hf://owner/name/two") == EXPECTED
    assert asked[-1][:2] == ("owner/name", "two")


def test_splits_of_the_hub_that_are_not_known_are_refused(hub):
    root, _ = hub
    (root / "owner" / "name" / "data").mkdir(parents=True)
    for split in ("train", "extra"):
        make(2).to_parquet(str(root / "owner/name/data" / f"{split}-00000-of-00001.parquet"))
    refused("hf://owner/name", "the splits", "extra")


def test_pictures_that_the_hub_keeps_as_files_are_refused(hub):
    root, _ = hub
    for name in NAMES:
        (root / "owner" / "name" / name).mkdir(parents=True)
        (root / "owner" / "name" / name / "1.png").write_bytes(picture(1))
    refused("hf://owner/name", "holds paths of pictures", "hf download --repo-type dataset")


def test_training_on_the_hub_is_remembered_and_scored(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shards(hub[0] / "owner" / "name")
    options = {**MICRO, "data.root": "hf://owner/name", "output": "out", "data.num_workers": "2"}
    assert main(["fit", *(f"--{name}={value}" for name, value in options.items())]) == 0
    record = json.loads((tmp_path / "out" / "vitlora.json").read_text())
    assert record["split"]["root"] == "hf://owner/name"
    assert record["classes"] == NAMES
    assert main(["validate", "out", "--device", "cpu", "--data", "hf://owner/name"]) == 0
    assert "is not the folder of training" not in capsys.readouterr().err
    asked = len(hub[1])
    assert main(["validate", "out", "--device", "cpu"]) == 1  # no bundle chooses what is downloaded
    assert "hf://owner/name" in capsys.readouterr().err and len(hub[1]) == asked
    assert main(["report", "out", "--data", "hf://owner/name", "--output", "r.html"]) == 0
    assert main(["doctor", "hf://owner/name"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_parquet_is_trained_on_and_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shards(tmp_path / "set")
    options = {**MICRO, "data.root": "set", "output": "out", "data.num_workers": "2"}
    assert main(["fit", *(f"--{name}={value}" for name, value in options.items())]) == 0
    assert main(["test", "out", "--device", "cpu"]) == 0


@pytest.mark.slow
def test_copies_are_told_by_their_rows_and_a_cleaned_folder_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pictures = [picture(number) for number in range(12)]
    parquet(tmp_path / "set/train.parquet", {"image": pictures, "label": ["a", "b"] * 6})
    parquet(tmp_path / "set/val.parquet", {"image": pictures[:4], "label": ["a", "b"] * 2})
    options = {**MICRO, "data.root": "set", "output": "out"}
    assert main(["fit", *(f"--{name}={value}" for name, value in options.items())]) == 0
    assert "such as train/000000 and val/000000" in capsys.readouterr().err
    make(20).to_parquet(str(tmp_path / "a.parquet"))
    assert main(["doctor", "a.parquet", "--fix", "clean"]) == 0
    assert len([*(tmp_path / "clean").rglob("*.png")]) == 20
