"""Commands that read labelled pictures take fit's options of how these are stored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import MICRO, train

from vitlora import doctor, report
from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main
from vitlora.errors import UsageError

COLUMNS = ["--data.file_column", "pic", "--data.label_column", "what"]


@pytest.fixture
def trained(tmp_path: Path, make_folder: Callable[..., Path]) -> tuple[Path, Path]:
    """A bundle, and the pictures it was trained on beside a table with names of its own."""
    photos = make_folder(tmp_path / "photos", count=8)
    train(photos, tmp_path / "bundle")
    table, rows = tmp_path / "table", ["pic,what,part"]
    table.mkdir()
    for file in sorted(photos.rglob("*.jpg")):
        part, label, name = file.relative_to(photos).parts
        shutil.copy(file, table / f"{part}-{label}-{name}")
        rows.append(f"{part}-{label}-{name},{label},{part}")
    (table / "list.csv").write_text("\n".join(rows))
    return tmp_path / "bundle", table


def test_every_command_reads_a_table_whose_columns_are_named(
    trained: tuple[Path, Path], capsys: Any, tmp_path: Path
) -> None:
    bundle, table = map(str, trained)
    page = str(tmp_path / "page.html")
    commands = (
        ["doctor", "--data", table],
        ["report", bundle, "--data", table, "--device", "cpu", "--output", page],
        ["calibrate", bundle, "--data", table, "--device", "cpu"],
        ["merge", bundle, str(tmp_path / "m.safetensors"), "--data", table],
    )
    for command in commands:
        assert main(command) in (1, 2)
        assert "list.csv has no column of classes" in capsys.readouterr().err
        main([*command, *COLUMNS, "--data.split_column", "part"])
        assert "list.csv" not in capsys.readouterr().err
    assert "--data.label_column what" in (tmp_path / "page.html").read_text("utf-8")
    assert load_bundle(bundle).record.confidence is not None
    assert (tmp_path / "m.safetensors").is_file()


def test_python_names_them_with_or_without_the_group(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, table = trained
    columns = {"file_column": "pic", "data.label_column": "what"}
    assert len(doctor(table, **columns).survey.pictures) == 32
    found = report(bundle, data=table, output=tmp_path / "x.html", device="cpu", **columns)
    assert found.scores.images == 32


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.label-column", "what"], "(did you mean 'label_column'?)"),
        (["--data.batch_size", "8"], "'batch_size' does not say how pictures are stored"),
        (["--layout", "cocoa"], "data.layout is 'cocoa' (did you mean 'coco'?)"),
    ],
)
def test_other_options_are_refused(
    words: list[str], said: str, make_folder: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    assert main(["doctor", str(make_folder(tmp_path / "photos")), *words]) == 2
    assert said in capsys.readouterr().err
    with pytest.raises(UsageError, match="does not say how pictures are stored"):
        doctor(tmp_path / "photos", resplit=True)


def test_training_s_own_folder_is_read_as_then_also_when_it_is_named(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    photos = make_folder(tmp_path / "photos", splits=(), count=6)
    rows = [
        f"{p.relative_to(photos)},{'b' if i % 2 else 'a'},{p.parent.name}"
        for i, p in enumerate(sorted(photos.rglob("*.jpg")))
    ]
    (photos / "labels.csv").write_text("\n".join(["file,label,kind", *rows]))
    options = {key: value for key, value in MICRO.items() if key != "data.num_workers"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    stored = ["--data.label_column", "kind", "--layout", "table"]
    output = str(tmp_path / "bundle")
    assert main(["fit", "--data", str(photos), *stored, *words, "--output", output]) == 0
    found = []
    for named in ([], ["--data", str(photos)]):
        capsys.readouterr()
        assert main(["validate", output, *named, "--device", "cpu", "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
