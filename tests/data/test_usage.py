"""What pictures were used for: the file, and that no continuation mixes the sides."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from vitlora.data.datamodule import FolderData
from vitlora.data.usage import Usage, contents, used
from vitlora.errors import DataError

CLASSES = ("a", "b", "c")


def png(number: int) -> bytes:
    """Returns a picture whose file no other number has."""
    file = BytesIO()
    Image.fromarray(np.full((2, 2, 3), number % 256, np.uint8)).save(file, "png")
    return file.getvalue() + str(number).encode()


def put(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))
    return path


def sha(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def test_the_file_holds_five_bytes_a_picture_and_reads_back(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{n}.png", n) for n in range(300)]
    known = contents([*paths, tmp_path / "gone.png"])
    assert known == {path: sha(path)[:5] for path in paths}
    usage = used({"train": [known[p] for p in paths[:200]], "val": [known[p] for p in paths[200:]]})
    for one in (usage, Usage(), Usage(frozenset([b"12345"]), whole=False)):
        assert Usage.from_bytes(one.to_bytes()) == one
    assert len(usage.to_bytes()) < 5 * 300 + 300
    assert usage.to_bytes() == Usage.from_bytes(usage.to_bytes()).to_bytes()


def test_what_was_trained_on_is_never_held_out() -> None:
    one = used({"train": [b"1"], "val": [b"2"], "test": [b"3", b"4"]})
    two = used({"train": [b"3"], "val": [b"1", b"4"], "test": [b"2"]})
    both = one.joined(two)
    sides = [both.side(content) for content in (b"1", b"2", b"3", b"4", b"5", None)]
    assert sides == ["train", "val", "train", "val", None, None]
    assert both.whole and not both.joined(Usage(whole=False)).whole


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"train": np.zeros((1, 5), np.uint8)},
        {part: np.zeros((1, 4), np.uint8) for part in ("train", "val", "test")},
        {part: np.zeros(5, np.uint8) for part in ("train", "val", "test")},
        {part: np.zeros((1, 5), np.int8) for part in ("train", "val", "test")},
        {part: np.zeros((0, 5), np.uint8) for part in ("train", "val", "test", "more")},
    ],
)
def test_other_tensors_are_refused(tensors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Usage.from_bytes(save(tensors))


class Photos:
    """A folder that its owner changes at random; the oracle knows each picture by its number."""

    def __init__(self, root: Path, layout: str, rng: random.Random) -> None:
        self.root, self.layout, self.rng = root, layout, rng
        self.numbers: dict[Path, int] = {}
        self.made = 0
        for label in CLASSES:
            for split in ("train",) * 8 + ("val",) * 3 + ("test",) * 2:
                self.add(label, split)

    def add(self, label: str, split: str) -> None:
        self.made += 1
        self._write(label, split, self.made)

    def change(self) -> None:
        """Adds, removes, renames, copies pictures and gives some another class or split."""
        rng = self.rng
        for _ in range(rng.randrange(1, 25)):
            split, label = rng.choice(("train", "train", "val", "test")), rng.choice(CLASSES)
            what = rng.choice(("add", "add", "add", "remove", "rename", "label", "copy", "split"))
            if what == "add":
                self.add(label, split)
                continue
            path = rng.choice(sorted(self.numbers))
            number = self.numbers[path]
            old = path.relative_to(self.root).parts
            if what != "copy":
                path.unlink()
                del self.numbers[path]
            if what == "rename":
                self._write(old[-2], old[0], number)
            elif what in ("label", "copy"):
                self._write(label, old[0], number)
            elif what == "split":
                self._write(old[-2], split, number)

    def _write(self, label: str, split: str, number: int) -> None:
        folder = self.root / label if self.layout == "drawn" else self.root / split / label
        path = folder / f"{self.rng.random():.12f}.png"
        self.numbers[put(path, number)] = number

    def groups(self, file: Path) -> str:
        """Lists the pictures in random groups."""
        rows = [
            f"{path.relative_to(self.root).as_posix()},{self.rng.randrange(len(self.numbers))}"
            for path in self.numbers
        ]
        file.write_text("\n".join(["file,group", *rows]), "utf-8")
        return str(file)

    def options(self, file: Path) -> dict[str, Any]:
        """Returns how its owner has it split this time."""
        rng = self.rng
        if self.layout == "folders":
            return {}
        options: dict[str, Any] = {"split_seed": rng.choice((0, 0, 5))}
        options["test_fraction"] = rng.choice((0.0, 0.2))
        if self.layout == "pooled":
            options["resplit"] = True
        if rng.random() < 0.4:
            options["folds"] = rng.choice((2, 3))
            options["fold"] = rng.randrange(options["folds"])
        if rng.random() < 0.4:
            options["groups"] = self.groups(file)
        return options


def chain(tmp_path: Path, layout: str, seed: int) -> Iterator[tuple[Photos, FolderData, set[int]]]:
    """Yields three trainings, each going on from the one before; fewer where one is refused."""
    rng = random.Random(seed)
    photos = Photos(tmp_path / str(seed), layout, rng)
    before: Usage | None = None
    for _ in range(3):
        try:
            data = FolderData(str(photos.root), **photos.options(tmp_path / f"{seed}.csv"))
            if before is not None:
                data.follow(before)
        except DataError as error:
            assert "\n" not in str(error)
            return
        new = {photos.numbers[s.path] for some in data.folder.splits.values() for s in some}
        yield photos, data, new
        before = Usage.from_bytes(data.usage().to_bytes())
        photos.change()


@pytest.mark.parametrize("layout", ["drawn", "pooled", "folders"])
def test_no_continuation_mixes_the_sides(layout: str, tmp_path: Path, capsys: Any) -> None:
    continued = 0
    for seed in range(40):
        trained: set[int] = set()
        held: set[int] = set()
        for turn, (photos, data, there) in enumerate(chain(tmp_path, layout, seed)):
            now = {
                split: {photos.numbers[s.path] for s in samples}
                for split, samples in data.folder.splits.items()
            }
            out = now["val"] | now.get("test", set())
            assert not out & trained, (seed, turn)
            assert not now["train"] & held, (seed, turn)
            if layout != "folders" or not turn:  # a new picture may lie in two of its folders
                assert not now["train"] & out, (seed, turn)
            names = {photos.numbers[p] for p in photos.numbers}
            assert not (names - there) - trained - held, "only known pictures are ever left out"
            trained |= now["train"]
            held |= out - now["train"]
            continued += turn > 0
        shutil.rmtree(tmp_path / str(seed))
    assert continued > 40


def numbers(root: Path, data: FolderData) -> dict[str, list[str]]:
    return {
        split: sorted(data.folder.name(s) for s in samples)
        for split, samples in data.folder.splits.items()
    }


def folder(root: Path, count: int, first: int = 0) -> Path:
    for place, label in enumerate(CLASSES):
        for number in range(count):
            put(root / label / f"{first + number}.png", 1000 * place + first + number)
    return root


@pytest.mark.parametrize(
    "options",
    [
        {"test_fraction": 0.1},
        {"folds": 5, "fold": 2},
        {"folds": 5, "fold": 2, "test_fraction": 0.2},
    ],
)
def test_new_pictures_are_drawn_by_the_same_shares(options: dict[str, Any], tmp_path: Path) -> None:
    root = folder(tmp_path, 50)
    first = FolderData(str(root), **options)
    before = numbers(root, first)
    folder(root, 40, first=50)
    again = FolderData(str(root), **options)
    said = again.follow(first.usage())
    assert said == "kept 150 pictures on the side they were on, 120 new"
    now = numbers(root, again)
    assert again.folder.counts("val") == [18, 18, 18] or "folds" in options
    for split, names in before.items():
        assert set(names) <= set(now[split])
        share = len(names) / 150
        assert len(now[split]) - len(names) == pytest.approx(share * 120, abs=3)


def test_an_unchanged_folder_is_split_as_it_was(tmp_path: Path) -> None:
    root = folder(tmp_path, 20)
    first = FolderData(str(root), test_fraction=0.2)
    again = FolderData(str(root), test_fraction=0.2)
    again.follow(first.usage())
    assert again.record() == first.record()
    assert again.usage() == first.usage()
    other = FolderData(str(root), val_fraction=0.5)  # asked otherwise, the sides stay
    other.follow(first.usage())
    assert other.record()["digests"] == first.record()["digests"]


def test_a_single_new_picture_is_trained_on_and_a_new_class_is_drawn_whole(tmp_path: Path) -> None:
    root = folder(tmp_path, 10)
    first = FolderData(str(root))
    put(root / "a" / "new.png", 5000)
    for number in range(10):
        put(root / "d" / f"{number}.png", 6000 + number)
    again = FolderData(str(root), known_classes=list(CLASSES))
    again.follow(first.usage())
    assert again.folder.counts("train") == [9, 8, 8, 8]
    assert again.folder.counts("val") == [2, 2, 2, 2]


def test_a_class_that_was_only_trained_on_gets_validation_pictures_of_the_new(
    tmp_path: Path,
) -> None:
    root = folder(tmp_path / "data", 10)
    everything = used({"train": contents(root.rglob("*.png")).values()})
    with pytest.raises(DataError, match="no picture left to validate on"):
        FolderData(str(root), test_fraction=0.2).follow(everything)
    for number in range(2):
        put(root / "a" / f"new{number}.png", 5000 + number)
    data = FolderData(str(root), test_fraction=0.2)
    data.follow(everything)
    assert [data.folder.counts(part) for part in ("train", "val", "test")] == [
        [10, 10, 10],
        [1, 0, 0],
        [1, 0, 0],
    ]


def test_a_group_goes_with_what_it_was_trained_on(tmp_path: Path, capsys: Any) -> None:
    root = folder(tmp_path / "data", 10)
    first = FolderData(str(root))
    side = {
        first.folder.name(s): split for split, some in first.folder.splits.items() for s in some
    }
    trained, *_ = sorted(n for n, s in side.items() if s == "train" and n.startswith("a/"))
    held, kept = sorted(n for n, s in side.items() if s == "val" and n.startswith("a/"))
    for name in ("new1", "new2"):
        put(root / "b" / f"{name}.png", 7000 + int(name[-1]))
    together = {trained: "x", held: "x", "b/new1.png": "x", kept: "y", "b/new2.png": "y"}
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{name},{together.get(name, name)}" for name in names]
    (tmp_path / "g.csv").write_text("\n".join(["file,group", *rows]))
    again = FolderData(str(root), groups=str(tmp_path / "g.csv"))
    again.follow(first.usage())
    now = numbers(root, again)
    assert trained in now["train"] and "b/new1.png" in now["train"]
    assert kept in now["val"] and "b/new2.png" in now["val"]
    assert held not in now["train"] + now["val"]
    assert "1 picture is left out: held out from" in capsys.readouterr().err


def test_what_lies_in_the_wrong_folder_is_left_out(tmp_path: Path, capsys: Any) -> None:
    def put_all(parts: Sequence[tuple[str, int, int]]) -> None:
        for split, start, end in parts:
            for number in range(start, end):
                for place, label in enumerate(CLASSES):
                    put(tmp_path / split / label / f"{number}.png", 1000 * place + number)

    put_all([("train", 0, 6), ("val", 6, 9)])
    before = FolderData(str(tmp_path)).usage()
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / part)
    put_all([("train", 2, 7), ("val", 1, 2), ("val", 7, 12)])  # 6 was held out, 1 trained on
    again = FolderData(str(tmp_path))
    again.follow(before)
    assert [again.folder.counts(part) for part in ("train", "val")] == [[4] * 3, [5] * 3]
    err = capsys.readouterr().err
    assert "3 pictures are left out of val/ and test/: the bundle of --from was trained" in err
    assert "3 pictures are left out: held out from the bundle" in err
    shutil.rmtree(tmp_path / "val")
    put_all([("val", 0, 3)])
    with pytest.raises(DataError, match="was trained on all of them"):
        FolderData(str(tmp_path)).follow(before)
