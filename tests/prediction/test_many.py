"""Very many pictures into one file, which survives everything that stops it."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import train

from vitlora.cli.main import main
from vitlora.data.unlabelled import find
from vitlora.errors import DataError, UsageError
from vitlora.metrics.prediction import Prediction
from vitlora.prediction.many import Written, predict_many
from vitlora.prediction.shard import Shard
from vitlora.prediction.unfinished import begin

CLASSES = ("a", "b", "c")


class Fake:
    """Answers by the number in a picture's name; counts what it was asked, stops where told."""

    classes, precision = CLASSES, "32"

    def __init__(self, digest: str = "x", stop: int | None = None) -> None:
        self.digest, self.stop, self.asked = digest, stop, list[str]()

    def predict(
        self, paths: Iterable[str], top_k: int = 3, batch_size: int = 32
    ) -> Iterator[Prediction | DataError]:
        for path in map(Path, paths):
            if len(self.asked) == self.stop:
                raise KeyboardInterrupt
            self.asked.append(str(path))
            number = int(path.stem)
            if number % 10 == 7:
                yield DataError(f"{path}: damaged")
                continue
            top = tuple((CLASSES[(number + n) % 3], 0.5 / 2**n) for n in range(min(top_k, 3)))
            yield Prediction(path, top, number % 10 == 1, number % 10 == 2, number % 10 == 3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(100):
        (tmp_path / "photos" / f"{number:02}.jpg").touch()
    return tmp_path / "photos"


def run(photos: Path, target: Path, fake: Fake, shard: Shard | None = None, **options: Any) -> Any:
    options = {"batch_size": 8, **options}
    return predict_many(fake, Path("b"), [*find(photos)], target, shard or Shard(), **options)


def rows_of(target: Path) -> list[dict[str, Any]]:
    if target.suffix == ".jsonl":
        return [json.loads(line) for line in target.read_text().splitlines()]
    if target.suffix == ".csv":
        return list(csv.DictReader(target.read_text("utf-8-sig").splitlines()))
    return pytest.importorskip("pyarrow.parquet").read_table(target).to_pylist()


def paths(photos: Path) -> list[str]:
    return [f"{photos}/{number:02}.jpg" for number in range(100)]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv"])
def test_each_picture_has_a_row_that_says_what_it_shows_or_why_not(
    photos: Path, ending: str
) -> None:
    target = photos.parent / f"answers{ending}"
    written = run(photos, target, Fake())
    rows = rows_of(target)
    assert [row["path"] for row in rows] == paths(photos)
    assert rows[4]["class"] == "b" and float(rows[4]["confidence"]) == 0.5 and not rows[4]["error"]
    assert rows[7]["error"] == "damaged" and not rows[7]["class"]
    second = rows[4]["top_k"][1]["class"] if ending == ".jsonl" else rows[4]["class_2"]
    assert second == "c"
    marks = [rows[n][name] for n, name in ((1, "unsure"), (2, "unfamiliar"), (3, "outside"))]
    assert marks == (["yes"] * 3 if ending == ".csv" else [True] * 3)
    assert written.counts == {"unreadable": 10, "unsure": 10, "unfamiliar": 10, "outside": 10}
    assert written.pictures == written.predicted == 100
    assert sorted(path.name for path in photos.parent.iterdir()) == [
        target.name,
        f"{target.name}.run",
        "photos",
    ]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("stop", [0, 5, 8, 50, 99])
def test_a_run_that_was_stopped_goes_on(photos: Path, ending: str, stop: int) -> None:
    target, first, second = photos.parent / f"answers{ending}", Fake(stop=stop), Fake()
    with pytest.raises(KeyboardInterrupt):
        run(photos, target, first)
    assert not target.exists()
    written = run(photos, target, second)
    assert written.predicted == 100 - stop // 8 * 8
    assert second.asked == paths(photos)[stop // 8 * 8 :]
    whole = photos.parent / f"whole{ending}"
    assert run(photos, whole, Fake()).counts == written.counts
    assert rows_of(whole) == rows_of(target)


def test_a_complete_file_needs_no_disk_to_write_on(photos: Path, monkeypatch: Any) -> None:
    target = photos.parent / "answers.jsonl"
    run(photos, target, Fake())

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    assert run(photos, target, Fake()).predicted == 0


def test_answers_of_another_kind_of_file_are_named(photos: Path) -> None:
    target, other = photos.parent / "answers.jsonl", Fake()
    run(photos, target, other)
    other.precision = ".xml 32"
    with pytest.raises(
        UsageError, match=r"of the bundle, in 32, not a \.xml file with --precision"
    ):
        run(photos, target, other)


@pytest.mark.parametrize("torn", [b'{"path": "', b"\0" * 4096, b"{}", b"x"])
def test_a_torn_line_is_done_again(photos: Path, torn: bytes, capsys: Any) -> None:
    target = photos.parent / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(photos, target, Fake(stop=20))
    part = target.with_name("answers.jsonl.part")
    part.write_bytes(part.read_bytes() + torn)
    run(photos, target, Fake())
    assert [row["path"] for row in rows_of(target)] == paths(photos)
    assert "is incomplete; that picture is done again" in capsys.readouterr().err


def test_an_edited_line_is_refused(photos: Path) -> None:
    target = photos.parent / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(photos, target, Fake(stop=20))
    part = target.with_name("answers.jsonl.part")
    good = part.read_bytes()
    for bad in (good.replace(b"03.jpg", b"04.jpg"), good.replace(b'"error"', b'"eror"', 1)):
        part.write_bytes(bad)
        with pytest.raises(UsageError, match=r"part, line \d: not the answer"):
            run(photos, target, Fake())
        assert part.read_bytes() == bad


def test_a_complete_file_stays_as_it_is(photos: Path, capsys: Any) -> None:
    target = photos.parent / "answers.parquet"
    first = run(photos, target, Fake())
    before, again = target.stat(), Fake()
    second = run(photos, target, again)
    assert target.stat() == before and not again.asked
    assert (second.counts, second.pictures, second.predicted) == (first.counts, 100, 0)
    assert "is complete already" in capsys.readouterr().err


def test_killed_between_the_file_and_the_end(photos: Path) -> None:
    target = photos.parent / "answers.csv"
    run(photos, target, Fake())
    part = target.with_name("answers.csv.part")
    part.write_text("what a process left that was killed before it could remove it")
    run(photos, target, Fake())
    assert not part.exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fake": "y"}, "of the bundle b as it was before, not b"),
        ({"top_k": 2}, "with --top-k 3, not 2"),
        ({"shard": Shard(1, 1), "photos": "other"}, "for 100 pictures in .*/photos, not the 100"),
        ({"photos": "more"}, "for 100 pictures in .*/photos, not the 101 pictures in .*/photos"),
        ({"photos": "renamed"}, "for other 100 pictures in .*/photos; name another file"),
    ],
)
def test_answers_of_another_run_are_refused_in_one_line(
    photos: Path, finished: bool, change: dict[str, Any], said: str
) -> None:
    target, change = photos.parent / "answers.jsonl", dict(change)
    if finished:
        run(photos, target, Fake())
    else:
        with pytest.raises(KeyboardInterrupt):
            run(photos, target, Fake(stop=30))
    before = {path: path.read_bytes() for path in photos.parent.glob("answers*")}
    match change.pop("photos", ""):
        case "other":
            photos = Path(shutil.copytree(photos, photos.parent / "other"))
        case "more":
            (photos / "100.jpg").touch()
        case "renamed":
            (photos / "50.jpg").rename(photos / "500.jpg")
    with pytest.raises(UsageError, match=said) as caught:
        run(photos, target, Fake(change.pop("fake", "x")), **change)
    assert "\n" not in str(caught.value)
    name = "answers.jsonl" if finished else "answers.jsonl.part"
    assert str(caught.value).endswith(f"or delete {name} and answers.jsonl.run to start over")
    assert {path: path.read_bytes() for path in photos.parent.glob("answers*")} == before


@pytest.mark.parametrize("name", ["answers.csv", "answers.csv.part"])
def test_a_file_of_another_program_is_refused(photos: Path, name: str) -> None:
    (photos.parent / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} exists, and no answers.csv.run"):
        run(photos, photos.parent / "answers.csv", Fake())
    (photos.parent / "answers.csv.run").write_text("[]")
    with pytest.raises(UsageError, match=r"answers\.csv\.run was not written by vitlora"):
        run(photos, photos.parent / "answers.csv", Fake())
    assert (photos.parent / name).read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such lock")
def test_two_processes_do_not_write_one_file(photos: Path) -> None:
    target = photos.parent / "answers.csv"
    with pytest.raises(KeyboardInterrupt):
        run(photos, target, Fake(stop=9))
    known = json.loads(target.with_name("answers.csv.run").read_text())
    with begin(target, known), pytest.raises(UsageError, match="written by another process"):
        run(photos, target, Fake())
    assert run(photos, target, Fake()).predicted == 92


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize("room", [0, 3000])
def test_a_full_disk_is_named_and_nothing_is_lost(photos: Path, room: int) -> None:
    import resource

    target = photos.parent / "answers.jsonl"
    run(photos, photos.parent / "whole.jsonl", Fake())
    with pytest.raises(KeyboardInterrupt):
        run(photos, target, Fake(stop=0))  # answers.jsonl.run is there
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=r"answers\.jsonl\.(part|run)'"):
            run(photos, target, Fake())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run(photos, target, Fake())
    assert rows_of(target) == rows_of(photos.parent / "whole.jsonl")


def test_shards_together_have_every_picture_once(photos: Path) -> None:
    target = photos.parent / "answers.jsonl"
    for number in (1, 2, 3):
        run(photos, target, Fake(), Shard(number, 3))
    files = sorted(photos.parent.glob("answers-*-of-3.jsonl"))
    assert len(files) == 3 and all(map(rows_of, files))
    assert sorted(row["path"] for file in files for row in rows_of(file)) == paths(photos)
    # the same shards wherever the folder is mounted
    (photos.parent / "x").mkdir()
    moved = Path(shutil.copytree(photos, photos.parent / "x/photos"))
    run(moved, photos.parent / "x/answers.jsonl", Fake(), Shard(2, 3))
    names = [
        [Path(row["path"]).name for row in rows_of(photos.parent / f"{folder}answers-2-of-3.jsonl")]
        for folder in ("", "x/")
    ]
    assert names[0] == names[1]


def test_a_name_is_in_one_shard_however_a_disk_spells_it(tmp_path: Path) -> None:
    class One(Fake):
        def predict(self, paths: Iterable[str], *_: Any) -> Iterator[Prediction | DataError]:
            return (Prediction(Path(path), (("a", 1.0),)) for path in paths)

    counts = []
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        for number in range(20):
            (tmp_path / form / unicodedata.normalize(form, f"é{number}.jpg")).touch()
        written = run(tmp_path / form, tmp_path / f"{form}.jsonl", One(), Shard(1, 2), top_k=1)
        names = [Path(row["path"]).name for row in rows_of(written.output)]
        counts.append([unicodedata.normalize("NFC", name) for name in names])
    assert sorted(counts[0]) == sorted(counts[1]) and 0 < len(counts[0]) < 20


def test_more_shards_than_pictures(photos: Path) -> None:
    for file in [*photos.iterdir()][1:]:
        file.unlink()
    target = photos.parent / "answers.parquet"
    assert sum(run(photos, target, Fake(), Shard(n, 3)).pictures for n in (1, 2, 3)) == 1


def test_a_picture_named_twice_has_one_row(photos: Path) -> None:
    found = [one for word in (photos, photos / "03.jpg", photos) for one in find(word)]
    predict_many(Fake(), Path("b"), found, photos.parent / "a.jsonl", Shard())
    assert [row["path"] for row in rows_of(photos.parent / "a.jsonl")] == paths(photos)


@pytest.mark.parametrize("gone", ["removed", "empty"])
def test_a_drive_that_is_gone_stops_the_run(photos: Path, gone: str) -> None:
    class Losing(Fake):
        def predict(self, paths: Iterable[str], *_: Any) -> Iterator[Prediction | DataError]:
            for number, answer in enumerate(super().predict(paths)):
                if number == 24:
                    shutil.rmtree(photos)
                    if gone == "empty":
                        photos.mkdir()
                yield DataError(f"{photos}: no such file") if number >= 24 else answer

    target, away = photos.parent / "answers.jsonl", photos.parent / "away"
    shutil.copytree(photos, away)
    with pytest.raises(DataError, match="no longer there, or empty; the answers so far are kept"):
        run(photos, target, Losing())
    shutil.copytree(away, photos, dirs_exist_ok=True)
    assert run(photos, target, Fake()).predicted == 76


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    try:
        (tmp_path / "p").mkdir()
        Path(os.fsdecode(bytes(tmp_path / "p") + b"/1\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this disk has no such names")

    class One(Fake):
        def predict(self, paths: Iterable[str], *_: Any) -> Iterator[Prediction | DataError]:
            return (Prediction(Path(path), (("a", 1.0),)) for path in paths)

    for ending in (".jsonl", ".csv", ".parquet"):
        run(tmp_path / "p", tmp_path / f"x{ending}", One(), top_k=1)
        (row,) = rows_of(tmp_path / f"x{ending}")
        assert row["path"].endswith("1\udce9.jpg" if ending == ".jsonl" else "1\\udce9.jpg")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> Path:
    home = tmp_path_factory.mktemp("trained")
    train(make_folder(home / "data", count=8), home / "bundle")
    return home


def test_the_command_writes_what_it_would_print(
    trained: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jpg").write_text("no picture")
    words = [str(trained / "data"), "bad.jpg", "--checkpoint", str(trained / "bundle")]
    words += ["--device", "cpu", "--batch-size", "5"]
    assert main(["predict", *words, "--json"]) == 1  # as ever
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["predict", *words, "--output", "x.jsonl", "--json"]) == 0
    done = capsys.readouterr()
    assert json.loads(done.out)["counts"]["unreadable"] == 1
    assert "warning: 1 picture could not be read; the column error says why" in done.err
    *good, bad = rows_of(Path("x.jsonl"))
    assert [{k: v for k, v in row.items() if k != "error"} for row in good] == printed
    assert len(good) == 32 and bad["path"] == "bad.jpg" and "not a picture" in bad["error"]


def test_python_gets_the_counts(trained: Path, tmp_path: Path) -> None:
    import vitlora

    bundle, target = trained / "bundle", tmp_path / "x.csv"
    written = vitlora.predict(trained / "data", checkpoint=bundle, output=target, device="cpu")
    assert isinstance(written, Written) and written.pictures == 32
    assert written.to_text().startswith(f"{target}: 32 answers")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_real_kill_loses_nothing(trained: Path, tmp_path: Path) -> None:
    photos, source = tmp_path / "photos", sorted((trained / "data").rglob("*.jpg"))
    photos.mkdir()
    for number in range(3000):
        shutil.copy(source[number % len(source)], photos / f"{number:05}.jpg")
    target = tmp_path / "x.parquet"
    part = target.with_name("x.parquet.part")
    words = [sys.executable, "-m", "vitlora", "predict", str(photos), "--output", str(target)]
    words += ["--checkpoint", str(trained / "bundle"), "--device", "cpu", "--batch-size", "16"]
    kills = 0
    for lines in (1, 400, 1500):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None:
            if part.exists() and part.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += process.returncode == -signal.SIGKILL
            time.sleep(0.01)
        process.communicate()
    assert kills >= 2
    subprocess.run(words, check=True, capture_output=True)
    rows = rows_of(target)
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    assert all(row["class"] in ("a", "b") for row in rows)
