"""Tests of the ``doctor`` command: what it prints and writes, and the cleaned copy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitlora.cli.main import main
from vitlora.commands import doctor
from vitlora.data.datamodule import FolderData
from vitlora.data.duplicates import near_duplicates
from vitlora.data.read import read_folder


def scene(seed: int, size=(120, 90)) -> Image.Image:
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)).resize(size)
    grain = rng.integers(-15, 16, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A healthy folder: 20 + 5 pictures of each of two classes."""
    for number in range(50):
        split, label = ("val" if number % 5 == 4 else "train"), "ab"[number % 2]
        folder = tmp_path / "photos" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        scene(number).save(folder / f"{number:02}.jpg", quality=90)
    return tmp_path / "photos"


@pytest.fixture
def sick(root: Path) -> Path:
    """The same with something of everything that is left out or moved."""
    (root / "train/a/torn <b>.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "train/a/again.jpg").write_bytes((root / "train/a/00.jpg").read_bytes())
    (root / "val/b/two.jpg").write_bytes((root / "train/a/02.jpg").read_bytes())
    for number in (6, 10, 12, 16):
        mirrored = ImageOps.mirror(Image.open(root / f"train/a/{number:02}.jpg"))
        mirrored.save(root / f"val/a/{number:02}.jpg")  # the name stands in both splits
    scene(100).save(root / "train/b/lies.jpg", "PNG")
    return root


@pytest.fixture
def table(tmp_path: Path):
    """Returns what writes a table of pictures, each with its class and group."""

    def write(rows: list[tuple[str, str]]) -> Path:
        folder = tmp_path / "listed"
        folder.mkdir()
        for number in range(len(rows)):
            scene(number).save(folder / f"{number:02}.jpg", quality=90)
        lines = [f"{number:02}.jpg,{label},{group}" for number, (label, group) in enumerate(rows)]
        text = "\n".join(["file,label,patient", *lines, ""])
        (folder / "labels.csv").write_text(text, "utf-8")
        return folder

    return write


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def run(*words: object) -> int:
    return main(["doctor", *map(str, words)])


def test_healthy_folder_is_said_to_be_so(root, capsys):
    before = contents(root)
    assert run("--data", root) == 0
    out, err = capsys.readouterr()
    assert out == (
        f"{root}: 50 pictures in 2 classes, labels from class folders\n"
        "layout   folders\n"
        "splits   train 40, val 10\n"
        "classes  a 25, b 25\n"
        "\n"
        "nothing wrong\n"
    )
    assert err == ""
    assert contents(root) == before


def test_sick_folder_is_reported_and_left_alone(sick, capsys):
    before = contents(sick)
    assert run("--data", sick) == 1
    assert contents(sick) == before
    out = capsys.readouterr().out
    assert out.isascii()
    assert out.split("\n\n")[1] == "4 errors, 2 warnings"
    blocks = dict(block.split("\n", 1) for block in out.split("\n\n")[2:])
    assert "train/a/torn <b>.jpg  (" in blocks["error    pictures that cannot be read: 1"]
    assert (
        "train/a/02.jpg  =  val/b/two.jpg\n"
        in (blocks["error    the same file in two or more classes: 1"])
    )
    scenes = blocks["error    the same scene in two or more splits: 4"].splitlines()
    assert len(scenes) == 5 and scenes[3].strip() == "... and 1 more"
    assert all("-> " in block for block in blocks.values())


def test_what_was_understood_is_told_first(root, capsys):
    (root / "val").rename(root / "test")
    assert run("--data", root) == 0
    said = "splits   train 40, test 10; fit holds out 20% of each class in train for val\n"
    assert said in capsys.readouterr().out
    assert run("--data", root / "train") == 0
    said = "splits   none; fit holds out 20% of each class for val\n"
    assert said in capsys.readouterr().out


def test_a_table_is_read_as_its_options_say(root, capsys):
    rows = [f"{one.relative_to(root)},{one.parent.name},x" for one in sorted(root.rglob("*.jpg"))]
    (root / "labels.csv").write_text("\n".join(["file,kind,where", *rows]))
    table = [root / "labels.csv", "--data.label_column"]
    assert run("--data", *table, "kind") == 0
    out = capsys.readouterr().out
    assert "labels from labels.csv\nlayout   table\nsplits   train 40, val 10\n" in out
    assert run("--data", *table, "kin") == 2
    assert "data.label_column is 'kin' (did you mean 'kind'?)" in capsys.readouterr().err


def test_warnings_alone_are_no_failure(root):
    (root / "train/a/again.jpg").write_bytes((root / "train/a/00.jpg").read_bytes())
    assert run("--data", root) == 0


def test_json_says_all_of_it_on_the_console_or_in_a_file(sick, tmp_path, capsys):
    assert run("--data", sick, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert run("--data", sick, "--json", tmp_path / "x.json") == 1
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == printed
    assert "4 errors" in capsys.readouterr().out
    assert printed["pictures"] == {"train": {"a": 22, "b": 21}, "val": {"a": 9, "b": 6}}
    findings = {finding["kind"]: finding for finding in printed["findings"]}
    assert findings["alike_two_splits"]["count"] == 4
    assert findings["same_twice"]["groups"] == [["train/a/00.jpg", "train/a/again.jpg"]]
    assert findings["wrong_ending"]["why"] == {"train/b/lies.jpg": "PNG"}


def test_page_stands_alone_and_shows_copies_side_by_side(sick, tmp_path):
    assert run("--data", sick, "--html", tmp_path / "x.html") == 1
    page = (tmp_path / "x.html").read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)
    assert "torn &lt;b&gt;.jpg" in page and "torn <b>" not in page
    section = page.split('<section class="same_two_labels">')[1].split("</section>")[0]
    (group,) = section.split('<div class="group">')[1:]
    assert group.count("data:image/jpeg") == 2
    assert group.index("<b>a in train</b>train/a/02.jpg") < group.index("<b>b in val</b>val/b/two")
    alike = page.split('<section class="alike_two_splits">')[1].split("</section>")[0]
    assert alike.count('<div class="group">') == 4
    assert "<tr><td>b</td><td>21</td><td>6</td></tr>" in page


def test_page_shows_the_first_pictures_of_many(root, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_TILES", 2)
    for number in range(5):
        Image.new("L", (40, 40), 40 * number).save(root / f"train/a/flat{number}.png")
    run("--data", root, "--html", tmp_path / "x.html")
    section = (tmp_path / "x.html").read_text("utf-8").split('<section class="flat">')[1]
    section = section.split("</section>")[0]
    assert section.count("<figure>") == 2 and "and 3 more" in section


def test_fixed_copy_has_no_ill_left_and_trains(sick, tmp_path, capsys):
    before, out = contents(sick), tmp_path / "new" / "clean"
    assert run("--data", sick, "--fix", out) == 1
    assert contents(sick) == before
    assert "4 left out" in capsys.readouterr().out
    assert run("--data", out) == 0
    assert "warning" not in capsys.readouterr().out
    folder = read_folder(out)
    assert folder.classes == ("a", "b") and set(folder.splits) == {"train", "val"}
    side = {s.path: split for split, samples in folder.splits.items() for s in samples}
    groups = near_duplicates(list(side))
    assert len(set(groups)) == len(set(zip(groups, side.values(), strict=True)))
    assert len(groups) - len(set(groups)) == 4  # the mirrored ones, each with its original
    FolderData(str(out), batch_size=4, num_workers=0)
    record = json.loads((out / "fixed.json").read_text("utf-8"))
    assert record["left_out"].keys() == {
        "train/a/torn <b>.jpg",
        "train/a/again.jpg",
        "train/a/02.jpg",
        "val/b/two.jpg",
    }
    assert record["left_out"]["train/a/again.jpg"] == "the same file as train/a/00.jpg"
    assert "other labels (a, b)" in record["left_out"]["val/b/two.jpg"]
    old = contents(sick)
    new = {name: data for name, data in contents(out).items() if name != "fixed.json"}
    assert {name: old[source] for name, source in record["from"].items()} == new
    assert record["from"].keys() == new.keys()
    (lies,) = [name for name, source in record["from"].items() if source == "train/b/lies.jpg"]
    assert lies.endswith("/b/lies.png")
    # the shares of the folder itself: 15 of 58 in val
    assert len(folder.splits["val"]) == pytest.approx(54 * 15 / 58, abs=3)
    assert {p.name for p in out.parent.iterdir()} == {"clean"}


def test_fix_splits_by_the_shares_and_seed_asked(root, tmp_path):
    shares = ("--val-fraction", 0.1, "--test-fraction", 0.3)
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        assert run("--data", root, "--fix", tmp_path / name, *shares, "--seed", seed) == 0
    assert list(contents(tmp_path / "x")) and contents(tmp_path / "x") == contents(tmp_path / "y")
    assert contents(tmp_path / "x").keys() != contents(tmp_path / "z").keys()
    folder = read_folder(tmp_path / "x")
    for split, share in (("val", 0.1), ("test", 0.3)):
        assert folder.counts(split) == pytest.approx([25 * share] * 2, abs=0.5)


def test_fix_of_class_folders_holds_out_a_fifth(root, tmp_path):
    assert run("--data", root / "train", "--fix", tmp_path / "x") == 0
    assert read_folder(tmp_path / "x").counts("val") == [4, 4]


def test_fix_keeps_the_groups_of_a_table_and_their_copies_whole(table, tmp_path):
    rows = [("ab"[n // 3 % 2], f"p{n // 3}" if n < 42 else "") for n in range(60)]
    photos = table(rows)
    ImageOps.mirror(Image.open(photos / "00.jpg")).save(
        photos / "06.jpg"
    )  # p0 and p2 share a scene
    assert run("--data", photos, "--fix", tmp_path / "x") == 0
    record = json.loads((tmp_path / "x" / "fixed.json").read_text("utf-8"))
    side = {old: new.split("/")[0] for new, old in record["from"].items()}
    parts = [{side[f"{n:02}.jpg"] for n in range(m, m + 3)} for m in range(0, 42, 3)]
    assert all(len(part) == 1 for part in parts) and parts[0] == parts[2]
    assert len(side) == 60 and list(side.values()).count("val") == pytest.approx(12, abs=3)


def test_fix_copies_where_links_fail(root, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    assert run("--data", root, "--fix", tmp_path / "x") == 0
    copied = list((tmp_path / "x").rglob("*.jpg"))
    assert len(copied) == 50 and all(p.stat().st_nlink == 1 for p in copied)


@pytest.mark.parametrize("label", ["pets/cat", "up\\down", ".wild", "__MACOSX"])
def test_fix_refuses_a_class_that_is_no_plain_folder_name(label, table, tmp_path, capsys):
    photos = table([(label, ""), ("ok", "")] * 10)
    before = sorted(tmp_path.rglob("*"))
    assert run("--data", photos, "--fix", tmp_path / "new" / "clean") == 1
    assert capsys.readouterr().err == (
        f"vitlora: --fix makes a folder for each class, which cannot be called {label!r}; rename "
        "the class: no / or \\, and no . at the beginning\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("label", ["../../evil", ".."])
def test_a_class_that_leads_out_of_its_folder_is_never_read(label, table, tmp_path, capsys):
    photos = table([(label, ""), ("ok", "")] * 10)
    before = sorted(tmp_path.rglob("*"))
    assert run("--data", photos, "--fix", tmp_path / "new" / "clean") == 1
    assert f"and without '..'; found '{label}' (00.jpg) in labels.csv" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_fix_that_fails_leaves_nothing(root, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(28, "No space left on device", "x.jpg")

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("shutil.copy2", refuse)
    before = sorted(tmp_path.iterdir())
    assert run("--data", root, "--fix", tmp_path / "x") == 1
    said = capsys.readouterr()
    assert said.err == "vitlora: x.jpg: No space left on device\n"
    assert sorted(tmp_path.iterdir()) == before
    assert run("--data", root) == 0
    assert said.out == capsys.readouterr().out  # what was found is told all the same


MISTAKES = {
    "no such folder": (["--data", "{tmp}/gone"], 1, "gone': no such folder"),
    "no pictures": (["--data", "{tmp}"], 1, "holds no pictures"),
    "out exists": (["--data", "{root}", "--fix", "{tmp}"], 2, "already exists"),
    "out inside": (["--data", "{root}", "--fix", "{root}/x"], 2, "is inside --data"),
    "html nowhere": (
        ["--data", "{root}", "--html", "{tmp}/no/x.html"],
        2,
        "its folder does not exist",
    ),
    "json is a folder": (["--data", "{root}", "--json={tmp}"], 2, "is a folder"),
    "no folder named": ([], 2, "doctor needs DATA"),
    "shares without fix": (["--data", "{root}", "--val-fraction", "0.1"], 2, "add --fix OUT"),
    "shares too large": (
        ["--data", "{root}", "--fix", "{tmp}/x", "--val-fraction", "0.6", "--test-fraction", "0.5"],
        2,
        "val + test < 1",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line(mistake, root, tmp_path, capsys):
    words, status, said = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    where = {"root": root, "tmp": tmp_path / "empty" if mistake == "no pictures" else tmp_path}
    before = contents(tmp_path)
    assert main(["doctor", *(word.format(**where) for word in words)]) == status
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert contents(tmp_path) == before


def test_help_names_the_command(capsys):
    assert main(["--help"]) == 0
    assert "vitlora doctor " in capsys.readouterr().out


def test_it_overwrites_nothing_but_its_own(tmp_path, make_folder, capsys):
    photos = make_folder(tmp_path / "photos")
    for name in ("log", "log.html"):
        (tmp_path / name).write_text("mine")
    for option, name, said in (
        ("--html", "log.html", "was not written by vitlora"),
        ("--html", "photos/new.html", "is inside --data"),
        ("--json", "log", "expected a file name that ends in .json"),
    ):
        assert main(["doctor", "--data", str(photos), f"{option}={tmp_path / name}"]) == 2
        assert said in capsys.readouterr().err
    for option in ("--json", "--html"):
        for _ in range(2):  # its own it writes anew
            file = tmp_path / f"found.{option[2:]}"
            assert main(["doctor", "--data", str(photos), option, str(file)]) == 0
    assert (tmp_path / "log").read_text() == "mine"
    assert sorted(p.name for p in photos.iterdir()) == ["train", "val"]


def test_shares_out_of_range_are_refused_before_the_work(tmp_path, make_folder, capsys):
    photos = make_folder(tmp_path / "photos", splits=())
    words = ["doctor", "--data", str(photos), "--fix", str(tmp_path / "out")]
    assert main([*words, "--val-fraction", "0.6", "--test-fraction", "0.6"]) == 2
    printed = capsys.readouterr()
    assert "shares 0.6 for validation" in printed.err and not printed.out


def test_a_folder_of_test_pictures_alone_cannot_be_trained_on(tmp_path, make_folder, capsys):
    photos = make_folder(tmp_path / "photos", splits=("test",))
    assert main(["doctor", "--data", str(photos)]) == 1
    assert "test/ without train/: fit needs it" in capsys.readouterr().out


def test_a_class_without_a_good_picture_is_left_out_of_the_copy(tmp_path, make_folder):
    photos = make_folder(tmp_path / "photos", classes=("a", "b", "c"), splits=(), count=6)
    for path in (photos / "c").iterdir():
        path.unlink()
    main(["doctor", "--data", str(photos), "--fix", str(tmp_path / "out")])
    assert sorted(p.name for p in (tmp_path / "out" / "train").iterdir()) == ["a", "b"]


def test_the_folder_may_stand_alone_or_have_a_name(root, capsys):
    assert run(root) == 0
    alone = capsys.readouterr().out
    assert run("--data", root) == 0
    assert capsys.readouterr().out == alone


def test_the_function_returns_what_the_command_prints(sick, tmp_path, capsys):
    found = doctor.doctor(sick, fix=tmp_path / "new")
    assert capsys.readouterr().out == ""
    assert found.status == 1 and found.to_text().startswith(f"{sick}: ")
    assert found.copy.folder == tmp_path / "new" and found.left_out == 4
    copied = sum(1 for _ in (tmp_path / "new").rglob("*.jpg"))
    assert sum(found.copy.counts.values()) == copied + 1  # and lies.png
    assert found.to_json()["copy"]["left_out"] == 4
    assert json.loads(json.dumps(found.to_json()))["data"] == str(sick)
