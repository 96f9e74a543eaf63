"""The sort command on a small bundle: the list, the page, the folders, Label Studio."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from runs import MICRO

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main as vitlora
from vitlora.commands.sort import sort
from vitlora.data.read import read_folder
from vitlora.errors import DataError, UsageError
from vitlora.labelling.journal import Journal
from vitlora.labelling.page import LabellingPage
from vitlora.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: Any, make_folder: Callable[..., Path]) -> Path:
    where = tmp_path_factory.mktemp("sort")
    options = [word for key, value in MICRO.items() for word in (f"--{key}", value)]
    photos = make_folder(where / "photos", ("can", "glass"), count=6)
    words = ["fit", "--data", str(photos), "--output", str(where / "bundle")]
    assert vitlora([*words, *options]) == 0
    return where / "bundle"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "inbox/more").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "c.png", "more/a.jpg", "more/<b>&.jpg"):
        pixels = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "inbox" / name)
    (tmp_path / "inbox/torn.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return tmp_path / "inbox"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answers every question of the page with the next of these fields, then finishes."""
    answers: list[dict[str, Any]] = []

    def serve(page: LabellingPage) -> None:
        server = threading.Thread(target=lambda: serves(page))
        server.start()
        for one in answers:
            post(page, **one)
        post(page, "finish")
        server.join(10)

    def post(page: LabellingPage, action: str, **fields: object) -> None:
        state = send(page, "state", {})
        found = {"id": state["question"]["id"]} if state["question"] else {}
        assert "error" not in send(page, action, {**found, **fields})

    def send(page: LabellingPage, action: str, fields: dict[str, object]) -> dict[str, Any]:
        body, kind = json.dumps(fields).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(page.address + action, body, kind)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    serves = LabellingPage.serve
    monkeypatch.setattr(LabellingPage, "serve", serve)
    return answers


def named(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}


def test_without_output_it_lists_what_predict_says(bundle: Path, inbox: Path, capsys: Any) -> None:
    assert vitlora(["sort", str(bundle), "--data", str(inbox), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["unreadable"]) == {str(inbox / "torn.jpg")}
    predictor = Predictor(bundle)
    assert len(found["pictures"]) == 5
    for one in found["pictures"]:
        said = predictor(one["path"])
        assert one["class"] == said.label
        assert one["confidence"] == pytest.approx(said.confidence, abs=1e-5)


def test_pictures_that_training_used_are_left_out(
    bundle: Path, inbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(bundle.parent / "photos/train/can/0.jpg", inbox / "again.jpg")
    found = sort(bundle, data=inbox)
    assert "left out 1 picture, of the splits" in capsys.readouterr().err
    assert len(found.questions) == 5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DataError, match="none of these pictures is new"):
        sort(bundle, data=bundle.parent / "photos")


def test_the_loop_from_photos_to_a_better_bundle(
    bundle: Path, inbox: Path, asked: list[dict[str, Any]], tmp_path: Path, capsys: Any
) -> None:
    labelled = tmp_path / "labelled"
    words = ["sort", str(bundle), "--data", str(inbox), "--output", str(labelled)]
    asked[:] = [
        {"action": "answer", "class": "can"},
        {"action": "skip"},
        {"action": "answer", "class": "tyre"},
    ]
    assert vitlora(words) == 0
    said = capsys.readouterr().out
    assert "5 pictures to label: open http://127.0.0.1:" in said
    assert "2 answers kept" in said and "2 pictures left" in said
    assert named(labelled) == {".vitlora-sort.jsonl"}

    asked[:] = [{"action": "answer", "class": "tyre"}] * 3 + [{"action": "file"}]
    assert vitlora(words) == 0  # goes on; the skipped one comes last
    said = capsys.readouterr().out
    assert "3 pictures to label" in said
    assert f"copied 5 pictures to {labelled}: can 1, tyre 4" in said
    assert f"vitlora fit --from {bundle} --data {labelled}" in said
    assert len(named(labelled)) == 6 and len(named(inbox)) == 6

    own = {key: value for key, value in MICRO.items() if not key.startswith("model.")}
    options = [word for key, value in own.items() for word in (f"--{key}", value)]
    fit = ["fit", "--from", str(bundle), "--data", str(labelled), "--output", str(tmp_path / "new")]
    assert vitlora([*fit, *options]) == 0
    assert load_bundle(tmp_path / "new").record.classes == ("can", "glass", "tyre")


def test_apply_moves_when_told(
    bundle: Path, inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = {one.path.name: one for one in _pictures(inbox)}
    Journal(tmp_path / "labelled").answer(digests["b.jpg"].digest, "b.jpg", "can")
    words = ["sort", str(bundle), "--data", str(inbox), "--output", str(tmp_path / "labelled")]
    assert vitlora([*words, "--apply", "--move"]) == 0
    said = capsys.readouterr().out
    assert "moved 1 picture to" in said and "left" not in said
    assert not (inbox / "b.jpg").exists() and (tmp_path / "labelled/can/b.jpg").exists()
    assert vitlora([*words, "--apply", "--move"]) == 0
    assert "nothing to move: no new answers" in capsys.readouterr().out
    Journal(tmp_path / "labelled").answer(digests["c.png"].digest, "c.png", "can")
    (tmp_path / "labelled/can").rename(tmp_path / "elsewhere")
    (tmp_path / "labelled/can").symlink_to(tmp_path / "elsewhere")
    assert vitlora([*words, "--apply", "--move"]) == 1
    assert "is a link" in capsys.readouterr().out and (inbox / "c.png").exists()


def _pictures(inbox: Path) -> list[Any]:
    from vitlora.labelling.inbox import read_inbox

    return read_inbox(inbox)


def test_label_studio_and_back(bundle: Path, inbox: Path, tmp_path: Path, capsys: Any) -> None:
    target = tmp_path / "tasks.json"
    words = ["sort", str(bundle), "--data", str(inbox), "--label-studio", str(target)]
    assert vitlora(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("wrote 5 tasks to") and len(said) == 2
    assert '<Choice value="can"/><Choice value="glass"/>' in said[1]
    tasks = json.loads(target.read_text())
    first = tasks[0]["predictions"][0]
    assert first["result"][0]["value"]["choices"][0] in ("can", "glass")
    # as Label Studio exports tasks that somebody has annotated
    for number, task in enumerate(tasks):
        choice = {**task["predictions"][0]["result"][0], "value": {"choices": ["ab"[number % 2]]}}
        task |= {"id": number, "annotations": [{"id": number, "result": [choice]}]}
    (inbox / "export.json").write_text(json.dumps(tasks))
    (inbox / "torn.jpg").unlink()
    folder = read_folder(inbox)
    assert folder.source and folder.source.layout == "label_studio"
    addresses = [unquote(one["data"]["image"].partition("?d=")[2]) for one in tasks]
    assert addresses[0].startswith("inbox/") and "inbox/more/<b>&.jpg" in addresses
    labels = {s.path: folder.classes[s.label] for s in folder.splits["all"]}
    assert labels == {inbox.parent / name: "ab"[n % 2] for n, name in enumerate(addresses)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"apply": True}, "--apply needs --output"),
        ({"move": True}, "--move needs --output"),
        ({"port": 99}, "--port needs --output"),
        ({"output": "out", "port": 70000}, "expected 0 to 65535"),
        ({"output": "out", "label_studio": "x.json"}, "give one of them"),
        ({"output": "inbox"}, "lie in one another"),
        ({"output": "inbox/labelled"}, "lie in one another"),
        ({"output": "."}, "lie in one another"),
        ({"output": "file"}, "is a file; expected a folder"),
        ({"output": "split"}, "has the split train"),
        ({"label_studio": "x.txt"}, r"ends in \.json"),
    ],
)
def test_mistakes_are_told(
    bundle: Path,
    inbox: Path,
    options: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(inbox.parent)
    Path("file").touch()
    Path("split/train").mkdir(parents=True)
    with pytest.raises(UsageError, match=said):
        sort(bundle, data="inbox", **options)


@pytest.mark.parametrize(
    ("data", "said"),
    [("nothing", "no such file"), ("empty", "no pictures"), ("notes.txt", "the file is empty")],
)
def test_inboxes_without_pictures_are_told(
    bundle: Path, tmp_path: Path, data: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=said):
        sort(bundle, data=tmp_path / data)


def test_killed_it_has_lost_nothing(bundle: Path, inbox: Path, tmp_path: Path) -> None:
    words = ["sort", str(bundle), "--data", str(inbox), "--output", str(tmp_path / "labelled")]
    command = [sys.executable, "-u", "-m", "vitlora", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        asked = _post(address[0] + "state", {})["question"]["id"]
        _post(address[0] + "answer", {"id": asked, "class": "can"})
        process.kill()
    assert Journal(tmp_path / "labelled").labels == {asked: "can"}


def _post(address: str, fields: dict[str, object]) -> dict[str, Any]:
    body, kind = json.dumps(fields).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=10) as reply:
        return json.load(reply)


@pytest.fixture
def browser() -> Iterator[str]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium: scripts/install-chromium")
    yield found


def test_in_a_browser_it_shows_the_picture_and_runs_nothing_strange(
    bundle: Path, inbox: Path, tmp_path: Path, browser: str
) -> None:
    for name in ("a.jpg", "b.jpg", "c.png", "more/a.jpg", "torn.jpg"):
        (inbox / name).unlink()
    words = ["sort", str(bundle), "--data", str(inbox), "--output", str(tmp_path / "labelled")]
    command = [sys.executable, "-u", "-m", "vitlora", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        options = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [browser, *options.split(), profile, address[0]],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        _post(address[0] + "finish", {})
    assert '<div class="soft" id="name">more/&lt;b&gt;&amp;.jpg</div>' in done.stdout
    assert re.search(r'<img id="picture" alt="[^"]+" src="picture/[0-9a-f]{64}">', done.stdout)
    assert "1 picture left of 1" in done.stdout and 'class="first"' in done.stdout
