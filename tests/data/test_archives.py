"""A zip or tar is read in place, as if it were the folder it holds."""

from __future__ import annotations

import io
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from vitlora.data import archives
from vitlora.data.datamodule import FolderData
from vitlora.data.images import open_image
from vitlora.data.listing import list_pictures
from vitlora.data.preprocessing import Preprocessing
from vitlora.data.read import read_folder
from vitlora.data.usage import contents
from vitlora.errors import DataError

PLAIN = Preprocessing(32, 1.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def pack(folder: Path, archive: Path) -> Path:
    """Packs a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for file in files:
                opened.write(file, file.relative_to(folder).as_posix())
    else:
        with tarfile.open(archive, "w") as opened:
            opened.add(folder, ".")
    return archive


def with_member(archive: Path, name: str, data: bytes = b"x") -> Path:
    """Makes an archive of one file of any name."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(zipfile.ZipInfo(name), data)
    else:
        with tarfile.open(archive, "w") as opened:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return archive


@pytest.fixture(params=["photos.zip", "photos.tar", "PHOTOS.ZIP"])
def packed(request, make_folder, tmp_path):
    """Makes a folder and an archive of it."""
    folder = make_folder(tmp_path / "photos", ("cat", "dog"), ("train", "val"), count=3)
    (folder / "train" / "cat" / "notes.txt").write_text("beside")
    return folder, pack(folder, tmp_path / request.param)


def test_an_archive_holds_what_the_folder_does(packed):
    folder, archive = packed
    plain, inside = read_folder(folder), read_folder(archive)
    assert inside.classes == plain.classes
    for split in plain.splits:
        assert inside.digest(split) == plain.digest(split)
        assert inside.counts(split) == plain.counts(split)
    assert inside.source.notes == plain.source.notes
    pairs = zip(plain.splits["train"], inside.splits["train"], strict=True)
    for one, other in pairs:
        assert open_image(one.path).tobytes() == open_image(other.path).tobytes()
        assert contents([one.path])[one.path] == contents([other.path])[other.path]
        assert archives.size_and_time(other.path)[0] == one.path.stat().st_size
        assert archives.is_there(other.path) and not other.path.exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_processes_see_the_same_pictures(packed, workers):
    folder, archive = packed
    batches = []
    for root in (folder, archive):
        data = FolderData(str(root), augment="none", num_workers=workers, batch_size=2)
        data.preprocessing = PLAIN
        data.setup("fit")
        batches.append(torch.cat([images for images, _ in data.val_dataloader()]))
    assert torch.equal(*batches)


def test_many_threads_read_at_once(packed):
    folder, archive = packed
    paths = list_pictures(archive).pictures * 20
    wrong: list[str] = []

    def compare() -> None:
        for path in paths:
            real = folder / path.relative_to(archive)
            if archives.open_file(path).read() != real.read_bytes():
                wrong.append(str(path))

    threads = [threading.Thread(target=compare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_archive_written_anew_is_read_anew(make_folder, tmp_path):
    archive = pack(make_folder(tmp_path / "a", splits=()), tmp_path / "x.zip")
    before = len(list_pictures(archive).pictures)
    pack(make_folder(tmp_path / "b", splits=(), count=9), archive)
    os.utime(archive, ns=(1, 1))
    assert len(list_pictures(archive).pictures) != before


@pytest.mark.parametrize("ending", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../cat/1.jpg", "/cat/1.jpg", "a/../../1.jpg", "cat\\1.jpg"])
def test_names_that_point_elsewhere_are_refused(tmp_path, ending, name):
    archive = with_member(tmp_path / f"x{ending}", name)
    with pytest.raises(DataError, match="names that lead outside it"):
        list_pictures(archive)


def test_links_in_an_archive_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        info = tarfile.TarInfo("cat/1.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
        opened.addfile(info)
    with pytest.raises(DataError, match="links or devices"):
        list_pictures(tmp_path / "x.tar")


def test_one_name_for_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr("cat/1.jpg", b"a")
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("cat/1.jpg", b"b")
    with pytest.raises(DataError, match=r"two files under one name \(cat/1.jpg\)"):
        list_pictures(tmp_path / "x.zip")


def test_hidden_files_and_what_a_mac_adds_are_left_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        for name in ("cat/1.jpg", "__MACOSX/cat/._1.jpg", "cat/.DS_Store", "cat/._2.jpg"):
            opened.writestr(name, b"x")
    found = list_pictures(tmp_path / "x.zip")
    assert [path.name for path in found.pictures] == ["1.jpg"]
    assert len(found.passed_over["hidden"]) == 3


def test_a_torn_file_inside_is_one_unreadable_picture(make_folder, tmp_path):
    archive = pack(make_folder(tmp_path / "a", splits=()), tmp_path / "x.zip")
    data = bytearray(archive.read_bytes())
    data[80:90] = b"\0" * 10
    archive.write_bytes(data)
    path = list_pictures(archive).pictures[0]
    with pytest.raises(DataError, match=r"x\.zip/a/0\.jpg: damaged in the archive"):
        open_image(path)


def test_a_file_that_is_not_there_is_not_found(make_folder, tmp_path):
    archive = pack(make_folder(tmp_path / "a", splits=()), tmp_path / "x.zip")
    with pytest.raises(DataError, match="no such file"):
        open_image(archive / "a" / "99.jpg")
    with pytest.raises(FileNotFoundError):
        archives.size_and_time(tmp_path / "nowhere.zip" / "a.jpg")
    assert not archives.is_there(archive / "a")


def test_names_may_be_longer_inside_than_on_a_disk(make_folder, tmp_path):
    photo = next(make_folder(tmp_path / "a", splits=()).rglob("*.jpg"))
    archive = with_member(tmp_path / "x.zip", f"cat/{'y' * 300}.jpg", photo.read_bytes())
    (path,) = list_pictures(archive).pictures
    assert open_image(path).size == (40, 40)


def test_a_hard_link_in_a_tar_is_the_file_packed_before_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"picture")
    os.link(tmp_path / "a/1.jpg", tmp_path / "a/2.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        packed.add(tmp_path / "a", "a")
    assert sorted(archives.members(tmp_path / "x.tar")) == ["a/1.jpg", "a/2.jpg"]
    for name in ("a/1.jpg", "a/2.jpg"):
        with archives.open_file(tmp_path / "x.tar" / name) as file:
            assert file.read() == b"picture"


@pytest.mark.parametrize("name", ["a/" * 101 + "1.jpg", "a" * 4097 + ".jpg"])
def test_names_that_no_disk_has_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr(name, b"")
    with pytest.raises(DataError, match="names of more than 4,096 characters or 100 folders"):
        archives.members(tmp_path / "x.zip")
