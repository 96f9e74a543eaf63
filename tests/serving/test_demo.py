"""Tests of ``vitlora demo``: who may ask, what it shows, what it keeps."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from runs import train

import vitlora
from vitlora.adapters import Lora
from vitlora.commands.demo import Demonstrated
from vitlora.errors import UsageError
from vitlora.evaluation.saliency import saliency
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor
from vitlora.serving.corrections import Corrections
from vitlora.serving.demo import demo_application
from vitlora.serving.limits import Limits
from vitlora.serving.service import Service, Upload

TOKEN = "0123456789abcdef"
NAMES = {"two": ("a", "b"), "three": ("x", "<y>", "z")}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: Any, make_folder: Any) -> Path:
    """Folder of two bundles on one base."""
    root = tmp_path_factory.mktemp("bundles")
    for name, classes in NAMES.items():
        photos = make_folder(root / f"{name} photos", classes)
        variant = "dora" if name == "three" else "lora"
        train(photos, root / name, adapter=Lora(rank=4, variant=variant))
    vitlora.calibrate(root / "three", device="cpu")  # on too few pictures to prove anything
    return root


@contextmanager
def shown(bundles: Path, kept: Path | None, *names: str, **limits: Any) -> Iterator[TestClient]:
    """The demo, for a client that brings the token."""
    pool = AdapterPool({name: bundles / name for name in names}, device="cpu")
    corrections = Corrections(kept, names) if kept else None
    app = demo_application(Service(pool, Limits(**limits), 1), TOKEN, corrections)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


@pytest.fixture
def client(bundles: Path, tmp_path: Path) -> Iterator[TestClient]:
    with shown(bundles, tmp_path / "kept", "two") as client:
        yield client


def photo(bundles: Path, number: int = 0) -> Path:
    return sorted((bundles / "two photos" / "val").rglob("*.jpg"))[number]


def send(client: TestClient, path: str, content: bytes, name: str = "p.jpg", **query: str) -> Any:
    return client.post(path, params=query, files={"image": (name, content)})


def test_all_but_the_page_needs_the_token(client: TestClient, bundles: Path) -> None:
    content = photo(bundles).read_bytes()
    for given in ({}, {"Authorization": "Bearer 0123456789abcdeX"}):
        client.headers.pop("Authorization", None)
        client.headers.update(given)
        assert client.get("/demo").status_code == 401
        assert client.get("/adapters").status_code == 401
        for path in ("/predict", "/where?class=a", "/corrections?class=a"):
            assert send(client, path, content).status_code == 401
    page = client.get("/")
    assert page.status_code == 200 and TOKEN not in page.text and str(bundles) not in page.text
    assert not any(f">{name}<" in page.text for name in NAMES["two"])


def test_another_name_for_this_machine_gets_no_further_than_the_empty_page(
    client: TestClient, bundles: Path
) -> None:
    """The page of another site can reach the demo by way of its own name server."""
    foreign = {"Host": "evil.example:8000", "Authorization": ""}
    assert client.get("/", headers=foreign).status_code == 200
    for path in ("/demo", "/adapters", "/metrics"):
        assert client.get(path, headers=foreign).status_code == 401
    for path in ("/predict", "/where?class=a", "/corrections?class=a"):
        content = photo(bundles).read_bytes()
        assert client.post(path, content=content, headers=foreign).status_code == 401


def test_the_page_may_load_nothing_else(client: TestClient) -> None:
    pages = [client.get("/") for _ in range(2)]
    policies = [page.headers["Content-Security-Policy"] for page in pages]
    nonces = [re.findall(r"script-src 'nonce-([\w-]+)'", policy) for policy in policies]
    assert nonces[0] != nonces[1]
    for page, (nonce,) in zip(pages, nonces, strict=True):
        assert re.findall(r'<(?:script|style) nonce="([^"]+)"', page.text) == [nonce, nonce]
        assert not re.search(r"https?://|unsafe|javascript:", page.text + policies[0])
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in policies[0] and "frame-ancestors 'none'" in policies[0]


def test_it_describes_its_adapters(bundles: Path, tmp_path: Path) -> None:
    with shown(bundles, tmp_path, "two", "three") as client:
        two, three = client.get("/demo").json()["adapters"]
    assert two == {
        "name": "two",
        "classes": ["a", "b"],
        "calibrated": False,
        "unproven": False,
        "corrections": str(tmp_path / "two"),
    }
    assert three["classes"] == sorted(NAMES["three"])
    assert three["calibrated"] and three["unproven"]


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_where_it_looks_is_what_saliency_says_of_the_merged_network(bundles: Path) -> None:
    with shown(bundles, None, "two", "three") as client:
        for name in NAMES:
            predictor = Predictor(bundles / name, device="cpu")
            tensor = predictor.preprocessing.transform()(
                predictor.preprocessing.open(photo(bundles)).image
            )
            for number, label in enumerate(predictor.classes):
                said = send(
                    client, "/where", photo(bundles).read_bytes(), adapter=name, **{"class": label}
                )
                assert said.status_code == 200, said.text
                heat = decoded(said.json()["map"]).getchannel("A")
                want = saliency(predictor.network, tensor[None], torch.tensor([number]))[0]
                got = torch.from_numpy(np.array(heat, np.float32))
                assert want.amax() == 1 and torch.allclose(got / got.amax(), want, atol=0.02)
                assert decoded(said.json()["seen"]).size == (32, 32)


def test_looking_changes_no_answer(client: TestClient, bundles: Path) -> None:
    content = photo(bundles).read_bytes()
    before = send(client, "/predict", content).json()
    assert send(client, "/where", content, **{"class": "a"}).status_code == 200
    assert send(client, "/predict", content).json() == before


@pytest.mark.parametrize(
    ("query", "content", "status", "said"),
    [
        ({"class": "c"}, None, 422, "there is no class 'c'"),
        ({}, None, 422, "class"),
        ({"class": "a", "adapter": "x"}, None, 404, "no adapter is named 'x'"),
        ({"class": "a", "more": "x"}, None, 422, "there is no parameter 'more'"),
        ({"class": "a"}, b"hello", 422, "not a picture"),
        ({"class": "a"}, b"", 422, ""),
    ],
)
def test_where_refuses(
    client: TestClient, bundles: Path, query: Any, content: bytes | None, status: int, said: str
) -> None:
    sent = photo(bundles).read_bytes() if content is None else content
    reply = send(client, "/where", sent, **query)
    assert reply.status_code == status and said in reply.json()["detail"]


def test_corrections_are_kept_as_they_were_sent(
    client: TestClient, bundles: Path, tmp_path: Path
) -> None:
    first, second = photo(bundles).read_bytes(), photo(bundles, 1).read_bytes()
    kept = tmp_path / "kept"
    reply = send(client, "/corrections", first, "tin.jpg", **{"class": "b"})
    assert reply.status_code == 201
    assert reply.json() == {"place": str(kept / "b" / "tin.jpg"), "class": "b", "new": False}
    assert send(client, "/corrections", second, "tin.jpg", **{"class": " b "}).json()["place"] == (
        str(kept / "b" / "tin-1.jpg")
    )
    assert send(client, "/corrections", first, "tin.jpg", **{"class": "b"}).status_code == 201
    assert send(client, "/corrections", second, **{"class": "tyre"}).json()["new"]
    files = {path.relative_to(kept).as_posix(): path for path in kept.rglob("*.*")}
    assert files.keys() == {"b/tin.jpg", "tyre/p.jpg"}  # second was moved to its last class
    assert files["b/tin.jpg"].read_bytes() == first
    assert files["tyre/p.jpg"].read_bytes() == second
    assert send(client, "/corrections", second, **{"class": "b"}).status_code == 201
    assert not (kept / "tyre").exists()  # fit would refuse a class without pictures


def test_nothing_that_was_there_is_overwritten_or_removed(
    client: TestClient, bundles: Path, tmp_path: Path
) -> None:
    content, kept = photo(bundles).read_bytes(), tmp_path / "kept"
    (kept / "b").mkdir(parents=True)
    (kept / "b" / "p.jpg").write_text("mine")
    assert send(client, "/corrections", content, **{"class": "b"}).status_code == 201
    (kept / "b" / "p-1.jpg").write_text("changed since")
    assert send(client, "/corrections", content, **{"class": "a"}).status_code == 201
    assert (kept / "b" / "p.jpg").read_text() == "mine"
    assert (kept / "b" / "p-1.jpg").read_text() == "changed since"
    (tmp_path / "elsewhere").mkdir()
    (kept / "c").symlink_to(tmp_path / "elsewhere")
    reply = send(client, "/corrections", content, **{"class": "c"})
    assert reply.status_code == 422 and "is a link" in reply.json()["detail"]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("label", ["..", "../x", "a/b", ".x", "", "test", "B", "a\nb", "x" * 300])
def test_classes_that_no_folder_may_have(
    client: TestClient, bundles: Path, tmp_path: Path, label: str
) -> None:
    reply = send(client, "/corrections", photo(bundles).read_bytes(), **{"class": label})
    assert reply.status_code == 422, reply.text
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../up.jpg", "up.jpg"),
        ("C:\\x\\y.JPG", "y.JPG"),
        (".hidden.jpg", "hidden.jpg"),
        ("labels.csv", "labels_csv.jpg"),
        ("x.tar.gz", "x_tar_gz.jpg"),
        ("..", "picture.jpg"),
        ("what?.png", "what_.png"),
        ("é 火.webp", "é 火.webp"),
    ],
)
def test_names_of_files(
    client: TestClient, bundles: Path, tmp_path: Path, sent: str, kept: str
) -> None:
    reply = send(client, "/corrections", photo(bundles).read_bytes(), sent, **{"class": "a"})
    assert reply.json()["place"] == str(tmp_path / "kept" / "a" / kept)
    assert [path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()] == [kept]


def test_what_is_no_picture_is_not_kept(client: TestClient, tmp_path: Path) -> None:
    for content in (b"hello", b"\xff\xd8torn", b""):
        assert send(client, "/corrections", content, **{"class": "a"}).status_code == 422
    assert not (tmp_path / "kept").exists()


def test_limits_hold_for_corrections(bundles: Path, tmp_path: Path) -> None:
    content = photo(bundles).read_bytes()
    with shown(bundles, tmp_path / "kept", "two", body=2000, pixels=10**6) as client:
        assert send(client, "/corrections", bytes(3000), **{"class": "a"}).status_code == 413
    with shown(bundles, tmp_path / "kept", "two", pixels=100) as client:
        assert send(client, "/corrections", content, **{"class": "a"}).status_code == 422
    with shown(bundles, tmp_path / "kept", "two") as client:
        two = [("image", ("1.jpg", content)), ("image", ("2.jpg", content))]
        assert client.post("/corrections?class=a", files=two).status_code == 422
    with shown(bundles, None, "two") as client:
        assert send(client, "/corrections", content, **{"class": "a"}).status_code == 403
        assert client.get("/demo").json()["adapters"][0]["corrections"] == ""
    assert not (tmp_path / "kept").exists()


def test_what_takes_too_long_is_said(bundles: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Corrections, "keep", lambda *_: time.sleep(2))
    with shown(bundles, tmp_path / "kept", "two", seconds=1.0) as client:
        reply = send(client, "/corrections", photo(bundles).read_bytes(), **{"class": "a"})
        assert reply.status_code == 504 and "no answer within 1 s" in reply.json()["detail"]
        assert client.get("/health").json()["waiting"] == 0


def test_an_adapter_may_be_called_like_a_split(bundles: Path, tmp_path: Path) -> None:
    for _ in range(2):
        kept = Corrections(tmp_path, ["test", "other"])
        place = kept.keep(Upload("p.jpg", b"x"), "test", "a", ("a", "b")).place
        assert place == tmp_path / "test" / "a" / "p.jpg"


def test_each_of_several_adapters_has_its_own_corrections(bundles: Path, tmp_path: Path) -> None:
    content = photo(bundles).read_bytes()
    with shown(bundles, tmp_path, "two", "three") as client:
        said = send(client, "/corrections", content, adapter="three", **{"class": "<y>"})
        assert said.json()["place"] == str(tmp_path / "three" / "<y>" / "p.jpg")
        assert send(client, "/corrections", content, **{"class": "a"}).status_code == 422


def test_a_folder_that_cannot_be_used_is_refused_at_the_start(
    bundles: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for below in (".", "a/b"):
        with pytest.raises(UsageError, match=r"--corrections: '.*/file' is a file; exp"):
            vitlora.demo(bundles / "two", corrections=tmp_path / "file" / below)
    (tmp_path / "val").mkdir()
    with pytest.raises(UsageError, match=r"--corrections '.*' has the split val"):
        vitlora.demo(bundles / "two", corrections=tmp_path)
    with pytest.raises(UsageError, match="--corrections is empty; expected a path"):
        vitlora.demo(bundles / "two", corrections="")
    with pytest.raises(UsageError, match="--port is -1; expected 0 to 65535"):
        vitlora.demo(bundles / "two", port=-1)


def test_the_command_opens_the_page_and_says_what_to_do_next(
    bundles: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setenv("BROWSER", "some")
    monkeypatch.setenv("VITLORA_TOKEN", f"Z%#{TOKEN}")
    monkeypatch.chdir(tmp_path)

    def run(app: Any, listening: Any, patience: float) -> None:
        host, port = listening.getsockname()
        with TestClient(app, base_url=f"http://{host}:{port}") as client:
            client.headers["Authorization"] = f"Bearer Z%#{TOKEN}"
            content = photo(bundles).read_bytes()
            assert send(client, "/predict", content).status_code == 200
            assert send(client, "/corrections", content, **{"class": "b"}).status_code == 201

    monkeypatch.setattr("vitlora.serving.running.run", run)
    done = vitlora.demo(bundles / "two")
    assert isinstance(done, Demonstrated)
    assert done.to_text().splitlines() == [
        "stopped; 1 picture answered",
        "1 correction in corrections; add old pictures of each class, so that it forgets none, "
        f"then train: vitlora fit --from {bundles / 'two'} --data corrections",
    ]
    assert re.fullmatch(rf"http://127.0.0.1:\d+/#Z%25%23{TOKEN}", opened[0])
    vitlora.demo(bundles / "two", no_browser=True)
    assert len(opened) == 1


def test_nobody_in_the_network_corrects_by_a_random_token(
    bundles: Path, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    said: list[Any] = []

    def run(app: Any, *_: Any) -> None:
        with TestClient(app) as client:
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            content = photo(bundles).read_bytes()
            said.append(send(client, "/predict", content).status_code)
            said.append(send(client, "/corrections", content, **{"class": "a"}).status_code)

    monkeypatch.setattr("vitlora.serving.running.run", run)
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: TOKEN)
    monkeypatch.delenv("VITLORA_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    words: dict[str, Any] = {"host": "0.0.0.0", "no_browser": True}
    done = vitlora.demo(bundles / "two", **words)
    assert said == [200, 403] and "corrections are off on --host 0.0.0.0" in caplog.text
    assert done.to_json() == {"pictures": 1, "corrected": []}
    monkeypatch.setenv("VITLORA_TOKEN", TOKEN)
    vitlora.demo(bundles / "two", **words)
    assert said[2:] == [200, 201]
