"""onnxruntime-web's files: from an archive, a folder, the cache, npm, a server; all checked."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from vitlora.browser.runtime import find_runtime
from vitlora.data.public import RUNTIME, RUNTIME_FILES, File
from vitlora.errors import DataError, UsageError, VitloraError

CONTENT = {"run.mjs": b"export{x as default};", "run.wasm": bytes(range(256))}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Any) -> Path:
    """An empty cache, no npm, and small files with nobody at their address."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    serve(monkeypatch, "http://127.0.0.1:9")
    return tmp_path


def serve(monkeypatch: Any, url: str) -> None:
    for key, (name, data) in zip(RUNTIME_FILES, CONTENT.items(), strict=True):
        file = File(f"{url}/{name}", len(data), hashlib.sha256(data).hexdigest())
        monkeypatch.setitem(RUNTIME_FILES, key, file)


def archive(path: Path, content: dict[str, bytes] = CONTENT) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


def npm(home: Path, script: str) -> None:
    """Puts an npm on the path."""
    (home / "bin").mkdir()
    (home / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin" / "npm").chmod(0o755)


def assert_right(found: Any) -> None:
    assert [found.script.encode(), found.program] == list(CONTENT.values())


def cached(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("cache/**/*.*") if path.is_file())


def test_an_archive_or_a_folder_is_read_and_nothing_is_kept(home: Path) -> None:
    assert_right(find_runtime(archive(home / "any-name.tgz")))
    for folder in (home / "flat", home / "package" / "dist"):
        folder.mkdir(parents=True)
        for name, data in CONTENT.items():
            (folder / name).write_bytes(data)
    assert_right(find_runtime(home / "flat"))
    assert_right(find_runtime(str(home / "package")))
    assert not cached(home)


def test_other_content_is_refused(home: Path) -> None:
    cases = {
        "run.wasm is not there": {"run.mjs": CONTENT["run.mjs"]},
        "has the SHA-256": {**CONTENT, "run.wasm": bytes(256)},
    }
    for message, content in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            find_runtime(archive(home / "x.tgz", content))
        assert f"npm pack {RUNTIME}" in str(caught.value) and "\n" not in str(caught.value)
    (home / "text.tgz").write_text("hello")
    (home / "torn.tgz").write_bytes((home / "x.tgz").read_bytes()[:40])
    for name in ("text.tgz", "torn.tgz"):
        with pytest.raises(DataError, match=f"{name} is torn or no archive of npm"):
            find_runtime(home / name)
    with pytest.raises(UsageError, match=r"none\.tgz': no such file or folder"):
        find_runtime(home / "none.tgz")


def test_npm_is_asked_once(home: Path) -> None:
    packed = archive(home / "packed.tgz")
    npm(home, f'echo "$@" >> {home}/asked; shift 4; exec /bin/cp {packed} "$1/{RUNTIME}.tgz"')
    assert_right(find_runtime())
    assert_right(find_runtime())
    (asked,) = (home / "asked").read_text().splitlines()
    assert asked.startswith(f"pack {RUNTIME} --loglevel=error --pack-destination ")
    assert cached(home) == sorted(CONTENT)


def test_what_is_damaged_in_the_cache_is_fetched_again(home: Path) -> None:
    packed = archive(home / "packed.tgz")
    npm(home, f'shift 4; exec /bin/cp {packed} "$1/{RUNTIME}.tgz"')
    find_runtime()
    (broken,) = home.glob("cache/**/run.wasm")
    broken.write_bytes(bytes(256))
    assert_right(find_runtime())
    assert broken.read_bytes() == CONTENT["run.wasm"]


@pytest.mark.parametrize("script", ["echo no network >&2; exit 1", "exit 0"])
def test_npms_complaint_is_one_line(home: Path, script: str) -> None:
    npm(home, script)
    said = "no network" if "network" in script else "it wrote no archive"
    with pytest.raises(VitloraError, match=rf"npm could not fetch .*\({said}\).*--runtime") as got:
        find_runtime()
    assert "\n" not in str(got.value) and not cached(home)


def test_npm_that_brings_another_file_is_refused(home: Path) -> None:
    packed = archive(home / "packed.tgz", {**CONTENT, "run.mjs": b"evil" + bytes(17)})
    npm(home, f'shift 4; exec /bin/cp {packed} "$1/{RUNTIME}.tgz"')
    with pytest.raises(DataError, match="SHA-256"):
        find_runtime()
    assert not cached(home)


@pytest.fixture
def server(home: Path, monkeypatch: Any) -> Iterator[Path]:
    folder = home / "served"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        serve(monkeypatch, f"http://127.0.0.1:{served.server_port}")
        yield folder
        served.shutdown()


def test_without_npm_the_files_are_downloaded_once(server: Path, home: Path) -> None:
    assert_right(find_runtime())
    for path in server.iterdir():
        path.unlink()
    assert_right(find_runtime())
    assert cached(home) == sorted(CONTENT)


def test_a_wrong_download_is_deleted(server: Path, home: Path) -> None:
    (server / "run.mjs").write_bytes(bytes(21))
    with pytest.raises(DataError, match=r"run\.mjs has the SHA-256 .*'npm pack"):
        find_runtime()
    assert not cached(home)


def test_without_a_network_one_line_says_what_to_do(home: Path) -> None:
    with pytest.raises(VitloraError, match=rf"could not be downloaded.*npm pack {RUNTIME}") as got:
        find_runtime()
    assert "\n" not in str(got.value)


def test_the_address_is_that_of_the_pinned_version() -> None:
    for file in RUNTIME_FILES.values():
        assert f"/{RUNTIME}/dist/" in file.url and file.url.startswith("https://")
        assert len(file.sha256) == 64
