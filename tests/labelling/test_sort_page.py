"""The labelling page over HTTP: what it answers, whom it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from vitlora.data.preprocessing import Preprocessing
from vitlora.labelling.inbox import read_inbox
from vitlora.labelling.journal import FILE, Journal
from vitlora.labelling.page import LabellingPage
from vitlora.labelling.session import Question, Session
from vitlora.metrics.prediction import Prediction

HALF = (0.5, 0.5, 0.5)
SEEN = Preprocessing(image_size=32, crop_pct=1.0, mean=HALF, std=HALF)
CLASSES = ("can", "glass")
NAMES = ("0.jpg", "<img src=x onerror=alert(1)>.jpg", "a/2.jpg", "b/2.jpg")


class Client:
    """Asks a page as a browser does."""

    def __init__(self, page: LabellingPage) -> None:
        place = urlsplit(page.address)
        self.port, self.home = place.port, place.path

    def ask(
        self,
        method: str,
        place: str = "",
        body: bytes | None = None,
        home: str | None = None,
        **headers: str,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, (self.home if home is None else home) + place, body, sent)
        response = connection.getresponse()
        return response, response.read()

    def act(self, name: str, **fields: object) -> dict[str, Any]:
        body = json.dumps(fields).encode()
        response, found = self.ask("POST", name, body, Content_Type="application/json")
        assert response.status == 200
        return json.loads(found)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "inbox" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "inbox" / name)
    return tmp_path / "inbox"


@pytest.fixture
def client(inbox: Path) -> Iterator[Client]:
    pictures = read_inbox(inbox)
    top = (("can", 0.6), ("glass", 0.4))
    questions = [Question(one, Prediction(one.path, top)) for one in pictures]
    session = Session(CLASSES, questions, pictures, Journal(inbox.parent / "labelled"))
    page = LabellingPage(session, SEEN)
    server = threading.Thread(target=page.serve)
    server.start()
    client = Client(page)
    yield client
    client.act("finish")
    server.join(10)
    assert not server.is_alive()


def test_answers_skips_and_undo(client: Client, inbox: Path) -> None:
    state = client.act("state")
    assert state["question"]["name"] == "0.jpg" and state["left"] == 4 and state["last"] is None
    assert state["question"]["top_k"][0] == {"class": "can", "confidence": 0.6}
    state = client.act("answer", id=state["question"]["id"], **{"class": "can"})
    assert state["question"]["name"] == NAMES[1] and state["waiting"] == {"can": 1}
    state = client.act("answer", id=state["question"]["id"], **{"class": "tyre"})
    assert state["classes"] == ["can", "glass", "tyre"]
    state = client.act("skip", id=state["question"]["id"])
    assert state["question"]["name"] == "b/2.jpg" and state["left"] == 1
    assert state["last"] == {"name": "a/2.jpg", "class": None}
    for name in ("a/2.jpg", NAMES[1], "0.jpg"):
        assert client.act("undo")["question"]["name"] == name
    assert client.act("undo")["error"] == "there is no answer to take back"
    assert Journal(inbox.parent / "labelled").labels == {}


def test_what_was_skipped_before_is_asked_once_more(inbox: Path) -> None:
    journal, pictures = Journal(inbox.parent / "labelled"), read_inbox(inbox)
    skipped = pictures[0]
    journal.answer(skipped.digest, skipped.name, None)
    questions = [Question(one, Prediction(one.path, (("can", 0.6),))) for one in pictures]
    session = Session(CLASSES, questions, pictures, journal)
    assert session.left == 4 and session.state()["question"]["id"] == skipped.digest
    session.answer(skipped.digest, None)
    assert session.left == 3 and session.state()["question"]["id"] != skipped.digest


def test_a_picture_in_its_folder_keeps_its_answer(client: Client, inbox: Path) -> None:
    asked = client.act("state")["question"]["id"]
    client.act("answer", id=asked, **{"class": "can"})
    client.act("file")
    late = client.act("answer", id=asked, **{"class": "glass"})  # of a page opened twice
    assert "is in the folder of its class already" in late["error"]
    assert Journal(inbox.parent / "labelled").labels == {asked: "can"}


def test_nothing_is_copied_before_the_button(client: Client, inbox: Path) -> None:
    for label in ("can", "glass", "can", "can"):
        client.act("answer", id=client.act("state")["question"]["id"], **{"class": label})
    labelled = inbox.parent / "labelled"
    assert [path.name for path in labelled.iterdir()] == [FILE]
    said = client.act("file")
    assert said["said"] == f"copied 4 pictures to {labelled}: can 3, glass 1"
    assert {path.name for path in (labelled / "can").iterdir()} == {"0.jpg", "2.jpg", "2-1.jpg"}
    assert (labelled / "glass" / NAMES[1]).exists() and (inbox / "0.jpg").exists()
    assert said["waiting"] == {} and said["question"] is None and said["last"] is None
    assert client.act("file")["said"] == "nothing to copy: no new answers"


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".x", "", "test", "Can", "a\nb"])
def test_classes_that_no_folder_may_have(client: Client, inbox: Path, name: str) -> None:
    asked = client.act("state")["question"]["id"]
    state = client.act("answer", id=asked, **{"class": name})
    assert state["error"] and state["question"]["id"] == asked
    assert not (inbox.parent / "labelled").exists()


def test_an_answer_that_the_disk_does_not_take_is_told(
    client: Client, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = client.act("state")["question"]["id"]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        state = client.act("answer", id=asked, **{"class": "can"})
    assert state["error"] == "not kept: No space left on device"
    assert state["question"]["id"] == asked and state["left"] == 4
    client.act("answer", id=asked, **{"class": "glass"})
    assert Journal(inbox.parent / "labelled").labels == {asked: "glass"}


def test_an_unknown_picture_is_not_answered(client: Client) -> None:
    assert "not among" in client.act("answer", id="0" * 64, **{"class": "can"})["error"]
    assert client.ask("GET", "picture/" + "0" * 64)[0].status == 404
    assert client.ask("GET", "picture/../../../etc/passwd")[0].status == 404


def test_pictures_are_jpegs_of_their_own_look(client: Client, inbox: Path) -> None:
    asked = client.act("state")["question"]["id"]
    response, body = client.ask("GET", f"picture/{asked}")
    assert response.headers["Content-Type"] == "image/jpeg"
    shown = Image.open(BytesIO(body)).convert("RGB")
    with Image.open(inbox / "0.jpg") as stored:
        gap = np.abs(np.asarray(shown, float) - np.asarray(stored, float)).mean()
    assert shown.size == (60, 40) and gap < 12
    (inbox / "0.jpg").unlink()
    assert client.ask("GET", f"picture/{asked}")[0].status == 404


def test_the_page_runs_its_own_script_only(client: Client) -> None:
    response, body = client.ask("GET")
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' data:; connect-src 'self'; ")
    nonce = policy.partition("script-src 'nonce-")[2].partition("'")[0]
    text = body.decode()
    assert len(nonce) > 20 and text.count("<script") == text.count(f'<script nonce="{nonce}">') == 1
    assert "http://" not in text and "https://" not in text
    assert "innerHTML" not in text and "onerror=alert" not in text
    again = client.ask("GET")[0].headers["Content-Security-Policy"]
    assert again != policy


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("localhost:1234", 200),
        ("127.0.0.1", 200),
    ],
)
def test_only_this_machine_is_answered(client: Client, host: str, status: int) -> None:
    assert client.ask("GET", Host=host)[0].status == status


@pytest.mark.parametrize("home", ["/", "/x/", "//", "/..//", "/favicon.ico"])
def test_only_who_knows_the_token_is_answered(client: Client, home: str) -> None:
    assert client.ask("GET", home=home)[0].status == 404
    said = client.ask("POST", "undo", b"{}", home=home, Content_Type="application/json")
    assert said[0].status == 404


@pytest.mark.parametrize(
    ("place", "body", "headers", "status"),
    [
        ("undo", b"{}", {"Content_Type": "text/plain"}, 415),
        ("undo", b"{}", {}, 415),
        ("undo", b"[]", {"Content_Type": "application/json"}, 400),
        ("undo", b"{", {"Content_Type": "application/json"}, 400),
        ("undo", b"\xff", {"Content_Type": "application/json"}, 400),
        ("undo", b"[" * 60000, {"Content_Type": "application/json"}, 400),
        ("undo", b" " * 70000, {"Content_Type": "application/json"}, 413),
        ("undo", b"{}", {"Content_Type": "application/json", "Content_Length": "-1"}, 411),
        ("undo", b"{}", {"Content_Type": "application/json", "Content_Length": "9" * 99}, 413),
        ("answer", b'{"id": 1, "class": "can"}', {"Content_Type": "application/json"}, 400),
        ("answer", b'{"id": "1"}', {"Content_Type": "application/json"}, 400),
        ("nothing", b"{}", {"Content_Type": "application/json"}, 404),
    ],
)
def test_wrong_requests_are_refused(
    client: Client, place: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert client.ask("POST", place, body, **headers)[0].status == status
    assert client.act("state")["left"] == 4


def test_the_body_of_a_refused_request_is_no_request(client: Client) -> None:
    inside = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST {client.home}undo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inside)}"
    with socket.create_connection(("127.0.0.1", client.port), 10) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + inside)
        said = b""
        try:
            while part := connection.recv(65536):
                said += part
        except ConnectionResetError:  # the body was never read
            pass
    assert said.count(b"HTTP/1.1 ") == 1 and said.startswith(b"HTTP/1.1 415")


def test_it_listens_on_the_loopback_alone(client: Client) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for host in others - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError), socket.create_connection((str(host), client.port), 2):
            pass
