"""Tables as people and tools write them: what is understood, and what is refused."""

from __future__ import annotations

import json
import tarfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import MICRO

from vitlora.cli.main import main
from vitlora.data.datamodule import FolderData
from vitlora.data.layouts.reading import LayoutOptions, Place, Reading
from vitlora.data.layouts.table import Tables
from vitlora.data.read import read_folder, read_place
from vitlora.errors import DataError, UsageError

ROWS = "file,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat\n4.jpg,dog\n"
FOUR = "1.jpg 2.jpg 3.jpg 4.jpg"
CATS = {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": "cat", "4.jpg": "dog"}


def make(root: Path, pictures: str, **tables: str | bytes) -> Path:
    """Makes empty pictures, and tables: ``labels_csv="..."``, ``train__x_csv`` in a folder."""
    files = {name.replace("__", "/"): text for name, text in tables.items()}
    for name in pictures.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in files.items():
        file = root / ".".join(name.rsplit("_", 1))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def read(root: Path, **options: Any) -> Reading:
    place, reading = read_place(root, LayoutOptions(**options))
    assert reading.layout == "table"
    folder = Path(options.get("images", place.folder))
    for one in reading.pictures:
        assert one.path == folder / one.name
    assert [one.name for one in reading.pictures] == sorted(one.name for one in reading.pictures)
    return reading


def labels(reading: Reading) -> dict[str, str]:
    return {one.name: one.label for one in reading.pictures}


def splits(reading: Reading) -> dict[str, str]:
    return {one.name: one.split for one in reading.pictures}


def refused(root: Path, **options: Any) -> str:
    with pytest.raises((DataError, UsageError)) as told:
        read(root, **options)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels_csv", ROWS),
        ("labels_csv", "\ufeff" + ROWS),
        ("labels_csv", ROWS.replace("\n", "\r\n")),
        ("labels_csv", ROWS.replace("\n", "\r")),
        ("labels_csv", ROWS.replace(",", ";")),
        ("labels_csv", ROWS.replace(",", "\t")),
        ("labels_tsv", ROWS.replace(",", "\t")),
        ("labels_CSV", ROWS),
        ("labels_csv", '"file", "label"\n' + "".join(f'"{n}", "{c}"\n' for n, c in CATS.items())),
        ("labels_csv", ROWS + "\n,\n\n"),
        ("labels_csv", ROWS.replace("file", "Image_ID").replace(".jpg", "")),
        ("labels_csv", ROWS.replace("file,label", "id,Breed")),
        ("labels_csv", ROWS.replace("file,label", " Filename , Class ")),
        ("labels_csv", "label,file\n" + "".join(f"{c},{n}\n" for n, c in CATS.items())),
        ("labels_csv", "n,file,label\n" + "".join(f"{n[0]},{n},{c}\n" for n, c in CATS.items())),
        ("labels_csv", ",file,label\n" + "".join(f"{n[0]},{n},{c}\n" for n, c in CATS.items())),
        ("metadata_csv", ROWS.replace("file,label", "file_name,animal")),
        (
            "metadata_jsonl",
            "".join(json.dumps({"file_name": n, "label": c}) + "\n" for n, c in CATS.items()),
        ),
        (
            "labels_csv",
            "id,file,cls,class\n1,1.jpg,0,cat\n2,2.jpg,1,dog\n3,3.jpg,0,cat\n4,4.jpg,1,dog",
        ),
        (
            "labels_csv",
            "file,class id,class\n1.jpg,0,cat\n2.jpg,1,dog\n3.jpg,0,cat\n4.jpg,1,dog\n",
        ),
        ("labels_csv", "file,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,1.0,0.0\n4.jpg,,1\n"),
    ],
)
def test_a_table_is_understood(tmp_path, name, text):
    reading = read(make(tmp_path, FOUR, **{name: text}))
    assert labels(reading) == CATS
    assert set(splits(reading).values()) == {""}
    assert reading.source.endswith(".".join(name.split("_")))
    assert reading.read_from == (".".join(name.split("_")),)
    assert reading.notes == ()


def test_a_parquet_file_is_understood(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    make(tmp_path, FOUR)
    columns = {
        "image": [{"bytes": b"", "path": None}] * 4,
        "file_name": [*CATS],
        "label": pa.array(["cat", "dog", "cat", "dog"]).dictionary_encode(),
        "patient": [1, 1, 2, None],
    }
    parquet.write_table(pa.table(columns), tmp_path / "metadata.parquet")
    reading = read(tmp_path)
    assert labels(reading) == CATS
    assert [one.group for one in reading.pictures] == ["1", "1", "2", ""]
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 nothing")
    assert "metadata.parquet is not a whole Parquet file" in refused(tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    make(tmp_path, FOUR, metadata_parquet=b"PAR1")
    assert "pip install 'vitlora[datasets]'" in refused(tmp_path)


@pytest.mark.parametrize("label", ["1e3", "01", "yes", "NA", "null", "None", "nan", "=1+1", "-0"])
def test_a_class_stays_text(tmp_path, label):
    text = ROWS.replace("dog", label)
    lines = "".join(json.dumps({"file": n, "label": c}) + "\n" for n, c in CATS.items())
    assert set(labels(read(make(tmp_path / "csv", FOUR, a_csv=text))).values()) == {"cat", label}
    make(tmp_path / "jsonl", FOUR, a_jsonl=lines.replace("dog", label))
    assert set(labels(read(tmp_path / "jsonl")).values()) == {"cat", label}


def test_numbers_in_json_stay_as_they_are_written(tmp_path):
    values = ["1e3", "1.50", "true", "7", "null", "NaN"]
    lines = "".join(f'{{"file": "{n}.jpg", "label": {v}}}\n' for n, v in enumerate(values))
    make(tmp_path, " ".join(f"{n}.jpg" for n in range(6)), a_jsonl=lines)
    assert [*labels(read(tmp_path)).values()] == ["1e3", "1.50", "true", "7", "NaN"]


def test_the_table_itself_may_be_the_place(tmp_path):
    make(tmp_path, FOUR, a_csv=ROWS, b_csv=ROWS.replace("cat", "cow"))
    assert labels(read(tmp_path / "a.csv")) == CATS
    assert "several tables of classes (a.csv, b.csv)" in refused(tmp_path)


def test_pictures_in_a_folder_beside_the_table(tmp_path):
    names = " ".join(f"images/{n}" for n in CATS)
    root = make(tmp_path, names, labels_csv=ROWS)
    assert labels(read(root)) == {f"images/{n}": label for n, label in CATS.items()}
    assert labels(read(root / "labels.csv")) == labels(read(root))


def test_pictures_elsewhere(tmp_path):
    make(tmp_path / "elsewhere", FOUR)
    root = make(tmp_path / "here", "", labels_csv=ROWS)
    assert labels(read(root, images=str(tmp_path / "elsewhere"))) == CATS
    assert "4 of 4 pictures not found" in refused(root / "labels.csv")


@pytest.mark.parametrize("above", ["", "photos/"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_read_like_a_folder(tmp_path, kind, above):
    root = make(tmp_path / "place", FOUR, labels_csv=ROWS)
    archive = tmp_path / f"place.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for file in sorted(root.iterdir()):
                packed.write(file, above + file.name)
    else:
        with tarfile.open(archive, "w") as packed:
            for file in sorted(root.iterdir()):
                packed.add(file, above + file.name)
    assert labels(read(archive)) == {f"{above}{n}": label for n, label in CATS.items()}


def test_columns_can_be_named(tmp_path):
    text = "where,what,when,who\n1.jpg,cat,train,a\n2.jpg,dog,val,b\n"
    root = make(tmp_path, "1.jpg 2.jpg", t_csv=text)
    assert "no column that names pictures" in refused(root)
    assert "where, what, when, who" in refused(root)
    options = {"file_column": "where", "label_column": "what"}
    reading = read(root, **options, split_column="when", group_column="who")
    assert [(one.label, one.split, one.group) for one in reading.pictures] == [
        ("cat", "train", "a"),
        ("dog", "val", "b"),
    ]
    told = refused(root, split_column="whem")
    assert "data.split_column is 'whem' (did you mean 'when'?)" in told


def test_the_column_of_pictures_is_the_one_that_names_some(tmp_path):
    text = "filename,image_id,label\nx-1,1,cat\nx-2,2,dog\n"
    assert labels(read(make(tmp_path, "1.jpg 2.jpg", t_csv=text))) == {
        "1.jpg": "cat",
        "2.jpg": "dog",
    }


def test_columns_that_differ_are_not_chosen_from(tmp_path):
    text = "file,species,breed\n1.jpg,cat,siam\n2.jpg,dog,pug\n3.jpg,cat,manx\n"
    root = make(tmp_path, FOUR, t_csv=text)
    assert "several columns that may be the classes (species, breed)" in refused(root)
    assert [*labels(read(root, label_column="breed")).values()] == ["siam", "pug", "manx"]


def test_what_pandas_writes_is_understood(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(
        {"file": [*CATS], "kind": ["cat", "dog", "cat", "dog"]}, index=[3, 5, 7, 9]
    )
    for number, ending in enumerate(("csv", "parquet", "jsonl")):
        root = make(tmp_path / ending, FOUR)
        if ending == "csv":
            rows.to_csv(root / "t.csv")
        elif ending == "jsonl":
            rows.to_json(root / "t.jsonl", orient="records", lines=True)
        else:
            rows.to_parquet(root / "t.parquet")
        assert labels(read(root)) == CATS, number


def test_hugging_face_reads_the_same(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "place"
    for split in ("train", "test"):
        pictures(root / split, [f"{n}.png" for n in range(4)])
        rows = [f"{n}.png,{'pale' if n % 2 else 'dark'} {split}\n" for n in range(4)]
        (root / split / "metadata.csv").write_text("file_name,kind\n" + "".join(rows))
    theirs = datasets.load_dataset("imagefolder", data_dir=str(root))
    expected = {(split, kind) for split in theirs for kind in theirs[split]["kind"]}
    ours = read(root)
    assert {(one.split, one.label) for one in ours.pictures} == expected
    assert len(ours.pictures) == sum(len(theirs[split]) for split in theirs)


def test_what_label_studio_writes_as_csv_is_understood(tmp_path):
    head = "annotation_id,annotator,choice,created_at,id,image,lead_time\n"
    rows = [
        f"{n},1,{c},2026-01-01T00:00:00Z,{n},/data/upload/1/ab12-{name},1.5\n"
        for n, (name, c) in enumerate(CATS.items())
    ]
    root = make(tmp_path, " ".join(f"ab12-{n}" for n in CATS), project_csv=head + "".join(rows))
    assert [*labels(read(root)).values()] == [*CATS.values()]


def test_captions_are_no_classes(tmp_path):
    text = "file_name,text\n" + "".join(f"{n},a photo of {n}\n" for n in CATS)
    assert "no column of classes" in refused(make(tmp_path, FOUR, metadata_csv=text))


# splits


def test_a_split_column(tmp_path):
    values = ["Train", "training", "valid", "test"]
    rows = [f"{n},{c},{s}\n" for (n, c), s in zip(CATS.items(), values, strict=True)]
    text = "file,label,Data Set\n" + "".join(rows)
    root = make(tmp_path, FOUR, t_csv=text)
    assert [*splits(read(root)).values()] == ["train", "train", "val", "test"]
    make(root, "", t_csv=text.replace("valid", "other"))
    assert "t.csv: 1 row with an unknown split: line 4 ('other')" in refused(root)
    make(root, "", t_csv=text.replace("valid", ""))
    assert "t.csv: 1 row without a split, where others have one: line 4;" in refused(root)


@pytest.mark.parametrize("column", ["fold", "set", "subset"])
def test_a_numbered_fold_or_set_is_no_split(tmp_path, column):
    text = f"file,label,{column}\n1.jpg,cat,0\n2.jpg,dog,1\n"
    assert [*splits(read(make(tmp_path, "1.jpg 2.jpg", t_csv=text))).values()] == ["", ""]


def test_a_table_for_each_split(tmp_path):
    names = "train/1.jpg train/2.jpg val/1.jpg test/1.jpg"
    root = make(
        tmp_path,
        names,
        train_csv="file,label\ntrain/1.jpg,cat\ntrain/2.jpg,dog\n",
        val_csv="file,label\nval/1.jpg,cat\n",
        test_csv="file,label\ntest/1.jpg,dog\n",
    )
    reading = read(root)
    assert splits(reading) == {name: name.partition("/")[0] for name in names.split()}
    assert reading.source == "test.csv, train.csv, val.csv"


def test_ids_that_splits_share_are_each_their_own(tmp_path):
    root = make(
        tmp_path,
        "train/1.jpg train/2.jpg test/1.jpg test/2.jpg",
        train_csv="id,label\n1,cat\n2,dog\n",
        test_csv="id\n1\n2\n",
    )
    reading = read(root)
    assert labels(reading) == {"train/1.jpg": "cat", "train/2.jpg": "dog"}
    assert set(splits(reading).values()) == {"train"}
    assert reading.notes == (
        "test.csv not used: no classes of pictures",
        f"2 pictures in {root} not used: no class in train.csv",
    )


def test_a_competition_is_understood(tmp_path):
    train = "image_id,label\n" + "".join(f"{n}.jpg,{n % 2}\n" for n in range(6))
    test = "".join(f"{n}.jpg,0\n" for n in range(6, 9))
    names = [f"train_images/{n}.jpg" for n in range(6)] + [
        f"test_images/{n}.jpg" for n in (6, 7, 8)
    ]
    root = make(
        tmp_path,
        " ".join(names),
        train_csv=train,
        test_csv="image_id\n" + test.replace(",0", ""),
        sample_submission_csv="image_id,label\n" + test,
    )
    reading = read(root)
    assert [*labels(reading).values()] == ["0", "1"] * 3
    assert reading.notes[0].startswith("sample_submission.csv, test.csv not used")
    folder = read_folder(root)
    assert (folder.classes, [*folder.splits]) == (("0", "1"), ["all"])


def test_split_folders_that_a_table_does_not_speak_of_count(tmp_path):
    text = "file_name,label\ntrain/1.jpg,cat\ntrain/2.jpg,dog\ntest/1.jpg,cat\n"
    root = make(tmp_path, "train/1.jpg train/2.jpg test/1.jpg x/3.jpg", metadata_csv=text)
    assert [*splits(read(root)).values()] == ["test", "train", "train"]
    make(root, "", metadata_csv=text + "x/3.jpg,dog\n")
    assert "1 picture in no train, val or test folder" in refused(root)


@pytest.mark.parametrize("name", ["metadata_csv", "metadata_jsonl"])
def test_hugging_face_metadata_in_each_split_folder(tmp_path, name):
    rows = [("1.jpg", "cat"), ("2.jpg", "dog")]
    csv = "file_name,label\n" + "".join(f"{n},{c}\n" for n, c in rows)
    lines = "".join(json.dumps({"file_name": n, "label": c, "boxes": [1]}) + "\n" for n, c in rows)
    text = csv if name.endswith("csv") else lines
    root = make(
        tmp_path,
        "train/1.jpg train/2.jpg test/1.jpg test/2.jpg",
        **{f"train__{name}": text, f"test__{name}": text},
    )
    reading = read(root)
    assert splits(reading) == {
        "test/1.jpg": "test",
        "test/2.jpg": "test",
        "train/1.jpg": "train",
        "train/2.jpg": "train",
    }


def test_a_split_column_counts_more_than_the_folder_of_a_picture(tmp_path):
    text = "file,label,split\ntrain/1.jpg,cat,test\ntest/1.jpg,dog,train\ntest/2.jpg,cat,train\n"
    root = make(tmp_path, "train/1.jpg test/1.jpg test/2.jpg", labels_csv=text)
    expected = {"test/1.jpg": "train", "test/2.jpg": "train", "train/1.jpg": "test"}
    assert splits(read(root)) == expected


def test_a_picture_of_two_splits_is_refused(tmp_path):
    root = make(tmp_path, FOUR, train_csv=ROWS, val_csv="file,label\n3.jpg,cat\n")
    told = refused(root)
    assert "train.csv line 4 and val.csv line 2 ('3.jpg': split 'train' or 'val')" in told


# one column for each class


def roboflow(root: Path, **rows: str) -> Path:
    head = "filename, zebra, ant\n"
    for split, text in rows.items():
        names = " ".join(f"{split}/{line.partition(',')[0]}" for line in text.split())
        make(root, names, **{f"{split}___classes_csv": head + text.replace(",", ", ")})
        (root / split / "_classes.csv").unlink(missing_ok=True)
        (root / split / "_classes.csv").write_text(head + text.replace(",", ", "))
    return root


def test_roboflow_classification_as_one_hot(tmp_path):
    root = roboflow(
        tmp_path, train="1.jpg,1,0\n2.jpg,0,1\n3.jpg,0,0\n", valid="4.jpg,1,0\n", test="5.jpg,0,1\n"
    )
    reading = read(root)
    assert labels(reading) == {
        "test/5.jpg": "ant",
        "train/1.jpg": "zebra",
        "train/2.jpg": "ant",
        "valid/4.jpg": "zebra",
    }
    assert splits(reading)["valid/4.jpg"] == "val"
    assert reading.classes == ("zebra", "ant")
    assert f"1 picture in {root} not used" in reading.notes[-1]
    assert "(1 row with an empty one)" in reading.notes[-1]


def test_pictures_that_roboflow_marks_as_unlabelled_have_no_class(tmp_path):
    table = "filename,Unlabeled,zebra,ant\n1.jpg,0,1,0\n2.jpg,0,0,1\n3.jpg,1,0,0\n"
    reading = read(make(tmp_path, "1.jpg 2.jpg 3.jpg", _classes_csv=table))
    assert labels(reading) == {"1.jpg": "zebra", "2.jpg": "ant"}
    assert reading.classes == ("zebra", "ant")
    assert reading.notes[0].endswith("no class in _classes.csv (1 row with an empty one)")


def test_several_classes_a_picture_are_refused(tmp_path):
    root = roboflow(tmp_path, train="1.jpg,1,1\n2.jpg,0,1\n", valid="4.jpg,1,1\n")
    told = refused(root)
    assert "2 pictures with several classes: train/_classes.csv line 2 ('zebra, ant'), " in told
    assert "not supported yet" in told
    root = roboflow(tmp_path, train="1.jpg,2,0\n2.jpg,0,1\n")
    assert "train/_classes.csv, line 2: '2' in the column 'zebra'; expected 0 or 1" in refused(root)


# names for numbers

NUMBERS = "file,label\n1.jpg,0\n2.jpg,1\n3.jpg,2\n4.jpg,10\n"


def test_numbers_are_classes_in_their_order(tmp_path):
    assert read_folder(make(tmp_path, FOUR, t_csv=NUMBERS)).classes == ("0", "1", "2", "10")


def test_numbers_get_their_names(tmp_path):
    text = NUMBERS.replace("10", "0")
    root = make(tmp_path, FOUR, t_csv=text, classes_txt="zebra\nant\ncow\n")
    reading = read(root)
    assert [*labels(reading).values()] == ["zebra", "ant", "cow", "zebra"]
    assert reading.classes == ("zebra", "ant", "cow")
    assert reading.read_from == ("t.csv", "classes.txt")
    assert read_folder(root).classes == ("zebra", "ant", "cow")
    make(root, "", classes_txt="zebra\nant\n")
    reading = read(root)
    assert read_folder(root).classes == ("0", "1", "2")
    assert "classes.txt not used: it names 2 classes, and the labels are 0 to 2" in reading.notes[0]


def test_a_file_beside_that_holds_no_names_is_not_used(tmp_path):
    root = make(tmp_path, FOUR, t_csv=NUMBERS, labels_txt="cat\ndog\ncat\ndog\n")
    reading = read(root)
    assert read_folder(root).classes == ("0", "1", "2", "10")
    assert reading.notes[0].startswith("labels.txt not used: ")
    assert reading.read_from == ("t.csv",)


def test_the_file_of_names_that_is_given_counts(tmp_path):
    root = make(tmp_path / "place", FOUR, t_csv=NUMBERS)
    names = tmp_path / "names"
    names.write_text("\n".join("abcdefghijk"))
    reading = read(root, label_names=str(names))
    assert [*labels(reading).values()] == ["a", "b", "c", "k"]
    assert reading.classes == tuple("abcdefghijk")
    names.write_text("a\nb\nc")
    assert "names classes 0 to 2 (a, b, c), which do not fit" in refused(
        root, label_names=str(names)
    )
    assert "no such file" in refused(root, label_names=str(tmp_path / "nowhere"))


# what is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS + "5.jpg,cat\n6.jpg,dog\n", "t.csv: 2 of 6 pictures not found in {root}: line 6 "
         "('5.jpg'), line 7 ('6.jpg'); put them there"),
        (ROWS + "1.jpg,dog\n", "t.csv: 1 picture listed twice, with different values: "
         "line 2 and line 6 ('1.jpg': label 'cat' or 'dog'); leave one row of each"),
        (ROWS + "1.jpg,cat,x\n5.jpg\n", "t.csv: expected 2 cells in each row, as in the first "
         "line; found others in line 6 (3), line 7 (1)"),
        (ROWS + ",cat\n", "t.csv: 1 row without a picture in the column 'file': line 6"),
        (ROWS.replace("label", "comment"), None),
        (ROWS.replace("file,", "what,"), "t.csv has no column that names pictures, such as file"),
        ("1.jpg,cat\n2.jpg,dog\n", "Its columns (in the first line): 1.jpg, cat"),
        ("file,size,hue\n1.jpg,5,7\n", "t.csv has no column of classes, such as label, class or "
         "category; name one with data.label_column. Its columns: file, size, hue"),
        ("file,label\nx/7.jpg,cat\nx/8.jpg,dog\n", "t.csv: 2 of 2 pictures not found in "
         "{root}: line 2 ('x/7.jpg'), line 3 ('x/8.jpg'); put them there, or name their folder "
         "with data.images, or their column with data.file_column"),
        ("file,label\n1.jpg,\n", "t.csv: no class in any of 1 row (column label)"),
        (ROWS.encode() + b"5.jpg,caf\xe9\n", "{root}/t.csv, line 6: not UTF-8; save the file as"),
        (ROWS.encode("utf-16"), "not UTF-8"),
        ("", "t.csv is empty"),
        ("\n,,\n", "t.csv is empty"),
        ("file,label,label\n1.jpg,a,b\n", "t.csv has two columns named 'label'"),
        (ROWS + '"5.jpg"x,cat\n', "t.csv, line 6: no row of a table"),
        (ROWS + "5.jpg," + "x" * 200_000 + "\n", "t.csv, line 6: no row of a table (field larger"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line(tmp_path, text, message):
    root = make(tmp_path, FOUR, t_csv=text)
    if message is None:
        assert labels(read(root)) == CATS
    else:
        assert message.format(root=root) in refused(root)
        assert message.format(root=root) in refused(root / "t.csv")


def test_many_mistakes_make_one_short_line(tmp_path):
    text = ROWS + "".join(f"no{n}.jpg,cat\n" for n in range(1000))
    told = refused(make(tmp_path, FOUR, t_csv=text))
    assert "1,000 of 1,004 pictures not found" in told and "and 995 more" in told
    assert len(told) < 500


def test_lines_that_are_no_json_are_refused(tmp_path):
    good = '{"file": "1.jpg", "label": "cat"}\n'
    for bad in ('{"file": 1', "[1]", "7", "[" * 100_000):
        assert "t.jsonl, line 3: no JSON object" in refused(
            make(tmp_path, FOUR, t_jsonl=f"{good}\n{bad}\n")
        )
    make(tmp_path, FOUR, t_jsonl=good + '{"file": "2.jpg", "label": ["cat", "dog"]}\n')
    assert "the column 'label' holds no text" in refused(tmp_path)


def test_a_row_that_repeats_another_is_noted(tmp_path):
    reading = read(make(tmp_path, FOUR, t_csv=ROWS + "1.jpg,cat\n./1.jpg,cat\n"))
    assert labels(reading) == CATS
    assert reading.notes == ("t.csv names 2 pictures again, with the same class",)


def test_capital_letters_do_not_part_a_row_from_its_picture(tmp_path):
    text = "file,label\nA/1.JPG,cat\na/2.jpg,dog\n3,cat\nIMG,dog\n"
    reading = read(make(tmp_path, "a/1.jpg a/2.jpg 3.JPG img.png", t_csv=text))
    assert [*labels(reading)] == ["3.JPG", "a/1.jpg", "a/2.jpg", "img.png"]
    assert reading.notes == (
        "2 pictures named in t.csv with other capital letters than on the disk: A/1.JPG is "
        "a/1.jpg, IMG is img.png",
    )


def test_capital_letters_count_where_both_are_there(tmp_path):
    root = make(tmp_path, "1.jpg 1.JPG", t_csv="file,label\n1.JPG,cat\n1.jpg,dog\n")
    assert labels(read(root)) == {"1.JPG": "cat", "1.jpg": "dog"}
    both = make(tmp_path / "b", "1.jpg 1.JPG", t_csv="file,label\n1.Jpg,cat\n1.jpg,dog\n")
    assert "line 2: '1.Jpg' could be any of 1.JPG, 1.jpg" in refused(both)


def test_empty_classes_are_noted(tmp_path):
    reading = read(make(tmp_path, FOUR + " 5.jpg", t_csv=ROWS.replace("3.jpg,cat", "3.jpg, ")))
    assert labels(reading) == {n: label for n, label in CATS.items() if n != "3.jpg"}
    assert reading.notes == (
        f"2 pictures in {tmp_path} not used: no class in t.csv (1 row with an empty one)",
    )


def test_a_picture_of_the_same_name_elsewhere_is_not_taken(tmp_path):
    text = "file,label\na/1.jpg,cat\na/2.jpg,dog\nb/3.jpg,cat\n"
    root = make(tmp_path, "a/1.jpg a/2.jpg c/3.jpg", t_csv=text)
    assert "1 of 3 pictures not found in" in refused(root, layout="table")
    moved = text.replace("a/", "/home/me/a/").replace("b/", "/home/me/c/")
    make(root, "", t_csv=moved)
    assert [*labels(read(root, layout="table"))] == ["a/1.jpg", "a/2.jpg", "c/3.jpg"]


def test_nothing_outside_the_place_is_opened(tmp_path):
    make(tmp_path, "secret.jpg other/secret.png")
    names = [
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "..\\secret.jpg",
        "/etc/passwd",
        "x" * 5000,
    ]
    for name in names:
        root = make(tmp_path / "place", FOUR, t_csv=ROWS + f"{name},cat\n")
        assert "1 of 5 pictures not found" in refused(root)


def test_groups_are_used_and_noted(tmp_path):
    text = "file,label,Patient ID\n1.jpg,cat,a\n2.jpg,dog,a\n3.jpg,cat,\n4.jpg,dog,b\n"
    reading = read(make(tmp_path, FOUR, t_csv=text))
    assert [one.group for one in reading.pictures] == ["a", "a", "", "b"]
    assert "pictures with the same Patient ID in t.csv stay on one side" in reading.notes[0]
    assert read_folder(tmp_path).groups == {"1.jpg": "a", "2.jpg": "a", "4.jpg": "b"}


# beside class folders


def recognised(root: Path) -> bool:
    return Tables().recognises(Place(root), LayoutOptions())


def test_class_folders_with_a_table_of_something_else_are_class_folders(tmp_path):
    names = "cat/1.jpg cat/2.jpg dog/1.jpg dog/2.jpg"
    sizes = "file,size\n" + "".join(f"{n},{k}\n" for k, n in enumerate(names.split()))
    for number, text in enumerate(
        ["class,count\ncat,2\n", sizes, "file,label\nx.jpg,cat\n", "", "\xff"]
    ):
        root = make(tmp_path / str(number), names, stats_csv=text)
        assert not recognised(root)
        assert read_place(root)[1].layout == "folders"


def test_class_folders_with_a_table_of_their_pictures_can_be_either(tmp_path):
    names = "cat/1.jpg cat/2.jpg dog/1.jpg dog/2.jpg"
    text = "file,label\n" + "".join(f"{n},{n[0]}\n" for n in names.split())
    root = make(tmp_path, names, labels_csv=text)
    assert "can be read in several ways" in refused(root)
    assert [*labels(read(root, layout="table")).values()] == ["c", "c", "d", "d"]


def test_a_table_for_each_picture_is_none(tmp_path):
    root = make(tmp_path, "")
    for number in range(101):
        make(root, f"{number}.jpg", **{f"{number}_csv": "x,y\n1,2\n"})
    assert not recognised(root)


# at length


@pytest.mark.slow
def test_two_hundred_thousand_rows_take_seconds(tmp_path):
    names = [f"{n % 100}/{n // 100}" for n in range(200_000)]
    place = Place(
        make(tmp_path, "", t_csv="id,label\n" + "".join(f"x/{n},{n[:1]}\n" for n in names))
    )
    place.__dict__["pictures"] = {f"{n}.jpg": tmp_path / f"{n}.jpg" for n in sorted(names)}
    started = time.process_time()
    reading = Tables().read(place, LayoutOptions())
    assert len(reading.pictures) == 200_000
    assert time.process_time() - started < 30  # 4 s


def pictures(root: Path, names: Iterable[str]) -> None:
    """Makes pictures that a network can tell apart: the even ones dark."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        pixels = rng.integers(0, 60, (40, 40, 3)) + 180 * (number % 2)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / name)


def test_fit_trains_on_a_table(tmp_path, capsys):
    root, output = tmp_path / "place", tmp_path / "run"
    names = [f"images/{n}.jpg" for n in range(16)]
    pictures(root, names)
    rows = [
        f"{n}.jpg,{'pale' if n % 2 else 'dark'},{'train' if n < 12 else 'val'}" for n in range(16)
    ]
    (root / "labels.csv").write_text("file,label,split\n" + "\n".join(rows))
    options = [f"--{name}={value}" for name, value in MICRO.items()]
    main(["fit", "--data", str(root), "--output", str(output), *options])
    said = capsys.readouterr()
    assert (
        "16 pictures in 2 classes, labels from labels.csv; train 12, val 4" in said.out + said.err
    )
    main(["validate", str(output)])


def test_a_bundle_finds_the_pictures_of_a_table_from_any_folder(tmp_path, monkeypatch):
    """``data.images`` was typed relative to the folder that training was started in."""
    for name in ("a1", "a2", "b1", "b2"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
    rows = [f"{name},{name[0]}" for name in ("a1", "a2", "b1", "b2")]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows]))
    monkeypatch.chdir(tmp_path)
    record = FolderData("labels.csv", images="pictures").record()
    assert record["reading"] == {"layout": "table", "images": str(tmp_path / "pictures")}
    monkeypatch.chdir("/")
    again = FolderData(record["root"], **record["reading"]).record()
    assert again["digests"] == record["digests"]


def test_classes_that_never_came_up_are_left_out_with_a_word(tmp_path):
    for name in ("a1", "a2", "b1", "b2"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = ["a1,1,0,0", "a2,1,0,0", "b1,0,1,0", "b2,0,1,0"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,a,b,c", *rows]))
    folder = read_folder(tmp_path)
    assert folder.classes == ("a", "b")
    (note,) = (note for note in folder.source.notes if "have no picture" in note)
    assert note.startswith("1 of 3 classes that labels.csv names") and note.endswith(": c")


@pytest.mark.parametrize(
    ("pictures", "name"),
    [
        ("train/1.jpg train/2.jpg", "val/{}.jpg"),
        ("train/1.jpg train/2.jpg val/3.jpg", "val/{}.jpg"),
        ("x/1.jpg x/2.jpg y/3.jpg", "y/{}.jpg"),
        ("train/a/1.jpg train/a/2.jpg", "val/a/{}.jpg"),
    ],
)
def test_a_picture_of_another_folder_or_split_is_not_taken(tmp_path, pictures, name):
    rows = "file,label\n" + "".join(f"{name.format(n)},{n}\n" for n in (1, 2))
    told = refused(make(tmp_path, pictures, labels_csv=rows), layout="table")
    assert f"2 of 2 pictures not found in {tmp_path}: line 2 ('{name.format(1)}')" in told


def test_folders_of_another_machine_say_nothing(tmp_path):
    rows = "file,label\n/home/me/test/photos/1.jpg,a\n/home/me/test/photos/2.jpg,b\n"
    reading = read(make(tmp_path, "train/1.jpg train/2.jpg", labels_csv=rows))
    assert labels(reading) == {"train/1.jpg": "a", "train/2.jpg": "b"}


@pytest.mark.parametrize("name", ["x" * 301, '"a\nb"', "\x1b[31mred", "../../dog"])
def test_a_class_is_a_line_of_text(tmp_path, name):
    rows = ROWS.replace("4.jpg,dog", f"4.jpg,{name}")
    told = refused(make(tmp_path, FOUR, labels_csv=rows))
    assert "a class is a line of at most 300 characters that print" in told
    assert "(4.jpg)" in told


def test_a_column_taken_because_it_is_the_last_is_named(tmp_path):
    rows = "filename,{}\n1.jpg,5\n2.jpg,6\n3.jpg,5\n4.jpg,6\n"
    root = make(tmp_path, FOUR, sizes_csv=rows.format("width"))
    assert read(root).source == "column width of sizes.csv"
    assert read(root, label_column="width").source == "sizes.csv"
    assert read(make(root, "", sizes_csv=rows.format("label"))).source == "sizes.csv"
