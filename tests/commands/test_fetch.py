import dataclasses
import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import file_download
from PIL import Image

from vitlora.cli.main import RENAMED
from vitlora.cli.main import main as vitlora
from vitlora.cli.parser import CommandLine
from vitlora.commands import fetch
from vitlora.data import download
from vitlora.data.drawn import folder as drawn
from vitlora.data.drawn.folder import ForeignFolderError
from vitlora.data.public import DATASETS, Dataset, File
from vitlora.data.read import read_folder
from vitlora.errors import DataError, UsageError, VitloraError

ARCHIVE = "photos-small.zip"
LISTS = {
    "train": "can0.jpg 1\ncan1.jpg 1\ntyre0.jpg 2\ntyre1.jpg 2\n",
    "val": "can2.jpg 1\ntyre2.jpg 2\n",
    "test": "can3.jpg 1\ntyre3.jpg 2\n",
}
PICTURES = [f"{label}{index}.jpg" for label in ("can", "tyre") for index in range(4)]


class Home(ThreadingHTTPServer):
    """A server of files, with what can go wrong with one.

    Attributes:
        files: Name -> content.
        asked: Name and Range of each request, in order.
        tokens: Values of the Authorization headers that came.
        ranges: Whether it knows the Range header.
        cuts: Bytes to send before the connection is cut, for each of the next answers.
        status: To answer everything with instead.
        moved: Whether files are one redirect away.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: list[str] = []
        self.ranges, self.moved = True, False
        self.cuts: list[int] = []
        self.status = 0

    def ranges_of(self, name: str) -> list[str | None]:
        return [wanted for asked, wanted in self.asked if asked == name]


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        home, name = self.server, self.path.rpartition("/")[2]
        wanted = self.headers.get("Range")
        home.asked.append((name, wanted))
        home.tokens += self.headers.get_all("Authorization", [])
        if home.status or name not in home.files:
            return self.send_error(home.status or 404)
        if home.moved and not self.path.startswith("/cdn/"):
            self.send_response(302)
            self.send_header("Location", f"{home.url}/cdn/{name}")
            return self.end_headers()
        content = home.files[name]
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and home.ranges else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + home.cuts.pop(0) if home.cuts else None
        self.wfile.write(content[start:end])
        return None


def picture(name: str) -> bytes:
    """Returns a JPEG that is another for every name."""
    stream = io.BytesIO()
    colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
    Image.new("RGB", (40, 30), colour).save(stream, "JPEG")
    return stream.getvalue()


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def members() -> dict[str, bytes]:
    """Returns an archive's content, with what a Mac leaves in one."""
    pictures = {f"photos/{name.rstrip('0123.jpg')}/{name}": picture(name) for name in PICTURES}
    junk = {f"__MACOSX/{path.replace('can0', '._can0')}": b"junk" for path in pictures}
    return {"photos/": b"", "photos/.DS_Store": b"junk", **pictures, **junk}


def entry(home: Home, name: str) -> File:
    content = home.files[name]
    return File(f"{home.url}/{name}", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    """A server of the dataset ``small``; the working folder is empty."""
    server = Home()
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.files = {f"{split}.txt": text.encode() for split, text in LISTS.items()}
    publish(server, monkeypatch, packed(members()))
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(file_download.constants, "HF_HUB_OFFLINE", False)
    # the command sets it for its process: set here too, so that it is put back afterwards
    monkeypatch.setattr(file_download.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(download, "_BLOCK", 100)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def publish(home: Home, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> Dataset:
    home.files[ARCHIVE] = archive
    small = Dataset(
        about="Small: 8 photos",
        authors="Jane Doe",
        licence="CC0-1.0",
        home=home.url,
        classes=("can", "tyre"),
        archive=entry(home, ARCHIVE),
        inside="photos",
        lists={split: entry(home, f"{split}.txt") for split in LISTS},
    )
    monkeypatch.setitem(DATASETS, "small", small)
    return small


def is_whole(folder: Path) -> bool:
    """Returns whether all pictures, and nothing else, lie where the lists put them."""
    expected = {
        f"{split}/{line.split()[0].rstrip('0123.jpg')}/{line.split()[0]}"
        for split, text in LISTS.items()
        for line in text.splitlines()
    }
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    right = all((folder / p).read_bytes() == picture(p.rpartition("/")[2]) for p in expected)
    return found == expected | {"SOURCE.txt"} and len(expected) == 8 and right


def left(folder: Path = Path("datasets")) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def main(words: Sequence[str]) -> None:
    arguments, _ = CommandLine("fetch", fetch.fetch, RENAMED["fetch"]).read(words)
    fetch.fetch(**arguments)


def refused(*words: str, kind: type[VitloraError] = VitloraError) -> str:
    with pytest.raises(kind) as caught:
        main(words)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dataset_is_laid_out_by_its_authors_lists(home: Home, capsys) -> None:
    assert vitlora(["fetch", "small"]) == 0
    assert is_whole(Path("datasets/small"))
    assert left() == ["small"]
    folder = read_folder("datasets/small")
    assert folder.classes == ("can", "tyre")
    assert {split: folder.counts(split) for split in folder.splits} == {
        "train": [2, 2],
        "val": [1, 1],
        "test": [1, 1],
    }
    said = capsys.readouterr().out
    for word in ("Jane Doe", "CC0-1.0", f"{home.url}/{ARCHIVE}", "MB", "8 pictures of can, tyre"):
        assert word in said
    root, bundle = (
        str(Path(*parts)) for parts in (("datasets", "small"), ("checkpoints", "small"))
    )
    assert f"vitlora fit --config waste5.yaml --data {root} --output {bundle}" in said
    source = Path("datasets/small/SOURCE.txt").read_text("utf-8")
    for word in ("Jane Doe", "CC0-1.0", hashlib.sha256(home.files[ARCHIVE]).hexdigest()):
        assert word in source


def test_no_token_leaves_this_machine(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    main(["small"])
    assert home.asked
    assert not home.tokens


def test_redirects_are_followed(home: Home) -> None:
    home.moved = True
    main(["small", "--output", "here"])
    assert is_whole(Path("here"))


def test_without_lists_there_are_class_folders(home: Home, monkeypatch) -> None:
    plain = dataclasses.replace(DATASETS["small"], lists={})
    monkeypatch.setitem(DATASETS, "small", plain)
    main(["small"])
    assert read_folder("datasets/small").counts("all") == [4, 4]
    assert not Path("datasets/small/train").exists()


def test_a_cut_connection_goes_on_where_it_was(home: Home) -> None:
    home.cuts = [1000, 200]
    main(["small"])
    assert is_whole(Path("datasets/small"))
    assert home.ranges_of(ARCHIVE) == [None, "bytes=1000-", "bytes=1200-"]


def test_little_is_lost_where_a_connection_breaks() -> None:
    assert download._BLOCK <= 1e6


def test_a_server_without_ranges_starts_again(home: Home) -> None:
    home.cuts, home.ranges = [1000], False
    main(["small"])
    assert is_whole(Path("datasets/small"))
    assert home.ranges_of(ARCHIVE) == [None, "bytes=1000-"]


def test_what_a_broken_network_left_is_resumed(home: Home) -> None:
    home.cuts = [1000] + [0] * 20
    said = refused("small")
    assert f"{home.url}/{ARCHIVE} could not be downloaded" in said
    assert "run the same command again to continue" in said
    assert "--downloads FOLDER" in said
    part = Path("datasets/.small.part") / ARCHIVE
    assert part.read_bytes() == home.files[ARCHIVE][:1000]
    assert left() == [".small.part"]
    home.cuts, home.asked = [], []
    main(["small"])
    assert home.ranges_of(ARCHIVE) == ["bytes=1000-"]
    assert is_whole(Path("datasets/small"))
    assert left() == ["small"]


def test_ctrl_c_leaves_a_part_that_is_resumed(home: Home, monkeypatch, capsys) -> None:
    real = file_download.http_get

    def stopped(url: str, stream: Any, **options: Any) -> None:
        stream.write(home.files[ARCHIVE][:700])
        raise KeyboardInterrupt

    monkeypatch.setattr(file_download, "http_get", stopped)
    assert vitlora(["fetch", "small"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert left() == [".small.part"]
    monkeypatch.setattr(file_download, "http_get", real)
    assert vitlora(["fetch", "small"]) == 0
    assert home.ranges_of(ARCHIVE) == ["bytes=700-"]
    assert is_whole(Path("datasets/small"))


def test_another_content_is_refused_and_deleted(home: Home) -> None:
    true = home.files[ARCHIVE]
    home.files[ARCHIVE] = true[:-1] + bytes([true[-1] ^ 1])
    said = refused("small", kind=DataError)
    assert f"{home.url}/{ARCHIVE} has the SHA-256" in said
    assert hashlib.sha256(home.files[ARCHIVE]).hexdigest() in said
    assert hashlib.sha256(true).hexdigest() in said
    assert left() == []


def test_a_wrong_list_is_refused_too(home: Home) -> None:
    home.files["val.txt"] = home.files["val.txt"][::-1]
    assert "val.txt has the SHA-256" in refused("small", kind=DataError)
    assert left() == [".small.part"]  # the archive, which is right
    home.files["val.txt"] = home.files["val.txt"][::-1]
    main(["small"])
    assert len(home.ranges_of(ARCHIVE)) == 1


@pytest.mark.parametrize("change", [lambda c: c[:-100], lambda c: c + b"more", lambda c: b"<html>"])
def test_a_file_of_another_size_is_refused_and_deleted(home: Home, change) -> None:
    home.files[ARCHIVE] = change(home.files[ARCHIVE])
    assert f"{home.url}/{ARCHIVE} could not be downloaded" in refused("small")
    assert left() == []


def test_a_part_that_cannot_be_gone_on_with_is_dropped(home: Home) -> None:
    part = Path("datasets/.small.part") / ARCHIVE
    part.parent.mkdir(parents=True)
    part.write_bytes(home.files[ARCHIVE][:1000])
    true, home.files[ARCHIVE] = home.files[ARCHIVE], b"short"
    assert "status 416" in refused("small")
    assert left() == []
    home.files[ARCHIVE] = true
    part.parent.mkdir()
    part.write_bytes(true + b"too long")
    main(["small"])
    assert is_whole(Path("datasets/small"))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_one_line(home: Home, status: int) -> None:
    home.status = status
    said = refused("small")
    assert f"{home.url}/{ARCHIVE} could not be downloaded (status {status})" in said
    assert "--downloads FOLDER" in said
    assert ("same command" in said) == (status >= 500)
    assert left() == []


def test_without_a_network_one_line_says_what_to_do(home: Home, capsys) -> None:
    home.shutdown()
    home.server_close()
    assert vitlora(["fetch", "small"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert f"{home.url}/{ARCHIVE} could not be downloaded (ConnectError" in err
    assert "pass it as --downloads FOLDER" in err
    assert all(f"{home.url}/{split}.txt" in out for split in LISTS)
    assert left() == []


def by_hand(home: Home, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names or home.files:
        (folder / name).write_bytes(home.files[name])
    return folder


def test_files_downloaded_by_hand_need_no_network(home: Home, tmp_path: Path) -> None:
    folder = by_hand(home, tmp_path / "usb")
    main(["small", "--downloads", str(folder)])
    assert is_whole(Path("datasets/small"))
    main(["small", "--downloads", str(folder / ARCHIVE), "--output", "other"])
    assert is_whole(Path("other"))
    (folder / ARCHIVE).rename(folder / "photos-small (1).zip")
    main(["small", "--downloads", str(folder / "photos-small (1).zip"), "--output", "third"])
    assert is_whole(Path("third"))
    assert not home.asked
    assert len(left(folder)) == 4


def test_what_is_not_at_hand_is_downloaded(home: Home, tmp_path: Path) -> None:
    folder = by_hand(home, tmp_path / "usb", ARCHIVE)
    main(["small", "--downloads", str(folder / ARCHIVE)])
    assert is_whole(Path("datasets/small"))
    assert [name for name, _ in home.asked] == ["train.txt", "val.txt", "test.txt"]


def test_a_wrong_file_by_hand_is_named_and_kept(home: Home, tmp_path: Path) -> None:
    folder = by_hand(home, tmp_path / "usb")
    (folder / ARCHIVE).write_bytes(b"<html>log in first</html>")
    said = refused("small", "--downloads", str(folder), kind=DataError)
    assert said.startswith(f"{folder / ARCHIVE} has 25 bytes; expected")
    assert f"download it again from {home.url}/{ARCHIVE}" in said
    assert (folder / ARCHIVE).exists()
    assert not home.asked


def test_from_must_hold_something(home: Home, tmp_path: Path) -> None:
    assert "no such file" in refused("small", "--downloads", "nowhere", kind=UsageError)
    (tmp_path / "empty").mkdir()
    said = refused("small", "--downloads", "empty", kind=UsageError)
    assert "has none of" in said
    assert ARCHIVE in said


@pytest.mark.parametrize("evil", ["../evil.jpg", "photos/can/../../../evil.jpg", "/tmp/evil.jpg",
                                  "photos/../evil.jpg", "photos/can/..\\..\\evil.jpg",
                                  "photos/can/C:evil.jpg"])  # fmt: skip
@pytest.mark.parametrize("listed", [True, False])
def test_no_archive_writes_outside(home: Home, monkeypatch, tmp_path, evil, listed) -> None:
    small = publish(home, monkeypatch, packed({**members(), evil: b"evil"}))
    if not listed:
        monkeypatch.setitem(DATASETS, "small", dataclasses.replace(small, lists={}))
    main(["small"])
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not Path("/tmp/evil.jpg").exists()
    assert len(list(Path("datasets/small").rglob("*.jpg"))) == 8


def test_a_picture_that_a_list_names_must_be_there(home: Home, monkeypatch) -> None:
    fewer = {name: content for name, content in members().items() if "tyre2" not in name}
    publish(home, monkeypatch, packed(fewer))
    said = refused("small", kind=DataError)
    assert said.startswith(f"{ARCHIVE} lacks 1 picture")
    assert "tyre2.jpg" in said
    assert left() == [".small.part"]  # no folder half filled


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_left_alone(home: Home, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "mine"
    if kind == "folder":
        output.mkdir()
    elif kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    said = refused("small", "--output", str(output), kind=UsageError)
    assert f"'{output}' already exists; choose another" in said
    assert not home.asked
    assert os.path.lexists(output)


def test_too_small_a_disk_is_said_before(home: Home, monkeypatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage._replace(free=100))
    said = refused("small")
    assert "the disk of" in said
    assert "MB are needed" in said
    assert not home.asked


def test_a_disk_that_fills_up_is_one_line(home: Home, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fetch.shutil, "copyfileobj", full)
        said = refused("small")
    assert "is full (finished parts are kept in" in said
    assert left() == [".small.part"]
    asked = len(home.asked)
    main(["small"])
    assert len(home.asked) == asked  # nothing is downloaded twice
    assert is_whole(Path("datasets/small"))


def test_a_disk_that_fills_up_while_downloading_is_one_line(home: Home, monkeypatch) -> None:
    def full(url: str, stream: Any, **_: Any) -> None:
        stream.write(home.files[ARCHIVE][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    assert "is full" in refused("small")
    assert (Path("datasets/.small.part") / ARCHIVE).stat().st_size == 10


def test_an_unknown_dataset_names_those_there_are(home: Home) -> None:
    said = refused("trashnt", kind=UsageError)
    assert "did you mean 'trashnet'?" in said
    assert "datasets/README.md" in said


@pytest.mark.parametrize("name", DATASETS)
def test_every_address_is_pinned(name: str) -> None:
    dataset = DATASETS[name]
    for file in dataset.files:
        assert file.url.startswith("https://")
        assert any(len(part) == 40 and int(part, 16) for part in file.url.split("/"))
        assert len(file.sha256) == 64
        assert int(file.sha256, 16)
        assert file.size > 0
    assert len({file.name for file in dataset.files}) == len(dataset.files)
    assert set(dataset.lists) <= {"train", "val", "test"}


def test_the_help_names_every_dataset() -> None:
    said = str(fetch.fetch.__doc__)
    assert all(name in said for name in DATASETS if name != "small")


def test_the_result_is_the_folder_and_what_is_in_it(home: Home) -> None:
    fetched = fetch.fetch("small", output="here")
    expected = {"folder": "here", "pictures": 8, "classes": ["can", "tyre"]}
    assert fetched.to_json() == expected


def test_the_old_name_of_downloads_still_works(home: Home, capsys) -> None:
    assert vitlora(["fetch", "small", "--from", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert "note: --from is now called --downloads; the old name still works\n" in said
    assert "--downloads 'nowhere': no such file or folder" in said


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the drawn dataset have few and small pictures."""
    plain = drawn.draw_folder
    small = {"train": 2, "val": 1, "test": 1, "size": 32}
    monkeypatch.setattr(drawn, "draw_folder", lambda folder: plain(folder, **small))


def test_the_drawn_dataset_needs_no_network(home: Home, few: None, capsys: Any) -> None:
    assert vitlora(["fetch", fetch.DRAWN]) == 0
    assert not home.asked
    said = capsys.readouterr().out
    assert "offline" in said and "\n  vitlora fit --config demo.yaml --data " in said
    assert read_folder("datasets/waste5-drawn").counts("train") == [2] * 5
    assert vitlora(["fetch", fetch.DRAWN]) == 0
    assert "already drawn\n" in capsys.readouterr().out


def test_the_drawn_dataset_goes_where_it_is_told(home: Home, few: None, capsys: Any) -> None:
    assert vitlora(["fetch", fetch.DRAWN, "--output", "my pictures"]) == 0
    words = f'--data "my pictures" --output "{Path("checkpoints") / "my pictures"}"'
    assert words in capsys.readouterr().out
    Path("my pictures/holiday.jpg").write_bytes(b"mine")
    Path("my pictures/test/can/000.jpg").unlink()
    with pytest.raises(ForeignFolderError, match=r"'holiday\.jpg'"):
        fetch.fetch(fetch.DRAWN, output="my pictures")
    assert Path("my pictures/holiday.jpg").read_bytes() == b"mine"


def test_the_drawn_dataset_has_no_downloads(home: Home) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        fetch.fetch(fetch.DRAWN, downloads="here")
