"""Tests of the routes: who may ask, what is refused and how it is said."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving.servers import TOKEN, served

from benchmarks.hostile import encoded, hostile, png


def test_a_bad_picture_is_its_own_error_and_not_its_neighbours(client: TestClient) -> None:
    files = [("f", ("a.png", encoded("PNG"))), ("f", ("b.png", b"no")), ("f", ("c", b""))]
    answer = client.post("/predict?adapter=two", files=files)
    assert answer.status_code == 200
    good, bad, empty = answer.json()["results"]
    assert good["path"] == "a.png" and good["class"] in "ab"
    assert bad == {
        "path": "b.png",
        "status": 422,
        "detail": "b.png: not a picture, whatever its name says",
    }
    assert empty["detail"] == "c: the file is empty"
    alone = client.post("/predict?adapter=two", files=files[1:2])
    assert (alone.status_code, alone.json()["detail"]) == (422, bad["detail"])
    none = client.post("/predict?adapter=two", files=files[1:])
    assert none.status_code == 422 and len(none.json()["results"]) == 2


@pytest.mark.parametrize(
    ("url", "body", "status", "detail"),
    [
        ("", encoded("PNG"), 422, "adapter is missing; expected one of two, three, new"),
        ("?adapter=tow", encoded("PNG"), 404, r"no adapter is named 'tow' \(did you mean 'two'"),
        ("?adapter=two&topk=1", encoded("PNG"), 422, r"no parameter 'topk' \(did you mean 'top_k'"),
        (
            "?adapter=two&top_k=0",
            encoded("PNG"),
            422,
            "top_k is '0': .* greater than or equal to 1",
        ),
        ("?adapter=two&top_k=x", encoded("PNG"), 422, "top_k is 'x': .*valid integer"),
        ("?adapter=two", b"", 422, "the request has no picture; send one as its body"),
        ("?adapter=two", b"text", 422, "picture: not a picture"),
        (
            "?adapter=two",
            png(10**5, 10**5),
            422,
            "picture: too large to open safely: more than 178",
        ),
        (
            "?adapter=two",
            png(9000, 9000),
            422,
            "picture: too large to open safely: more than 50 mi",
        ),
        ("?adapter=two", bytes(32_000_001), 413, "more than 32,000,000 bytes"),
    ],
)
def test_mistakes_are_one_clear_line(
    client: TestClient, url: str, body: bytes, status: int, detail: str
) -> None:
    answer = client.post(f"/predict{url}", content=body)
    said = answer.json()["detail"]
    assert answer.status_code == status and re.match(f".*{detail}", said), said
    assert "\n" not in said


def test_who_brings_no_token_learns_nothing(bundles: Path) -> None:
    with served(bundles, TOKEN, bundles) as (client, _):
        for method, path in (
            ("POST", "/predict?adapter=tow"),
            ("POST", "/predict?top_k=x"),
            ("GET", "/adapters"),
            ("POST", "/adapters"),
            ("DELETE", "/adapters/two"),
            ("GET", "/metrics"),
        ):
            for header in (None, "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"):
                headers = {"authorization": header.encode("latin-1")} if header else {}
                answer = client.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, header)
                assert answer.headers["www-authenticate"] == "Bearer"
        known = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/adapters", headers=known).status_code == 200
        assert client.get("/health").json() == {"status": "ok", "adapters": 3, "waiting": 0}


def test_pages_of_other_sites_do_not_reach_a_local_server_by_another_name(bundles: Path) -> None:
    with served(bundles, below=bundles, local=True) as (client, service):

        def status(method: str, path: str, host: str, **options: Any) -> int:
            return client.request(method, path, headers={"host": host}, **options).status_code

        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.x"):
            assert status("GET", "/adapters", host) == 403
            assert status("DELETE", "/adapters/two", host) == 403
            assert status("POST", "/predict?adapter=two", host, content=encoded("PNG")) == 403
            new = {"name": "n", "path": "three"}
            assert status("POST", "/adapters", host, json=new) == 403
        assert service.pool.names == ("two", "three", "new")
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000"):
            assert status("GET", "/adapters", host) == 200
    with served(bundles, TOKEN, local=True) as (client, _):  # the token says who asks
        headers = {"host": "photos.example", "authorization": f"Bearer {TOKEN}"}
        assert client.get("/adapters", headers=headers).status_code == 200


def test_adapters_come_and_go(bundles: Path, tmp_path: Path) -> None:
    with served(bundles, below=bundles) as (client, service):

        def load(**fields: Any) -> tuple[int, str]:
            answer = client.post("/adapters", json=fields)
            return answer.status_code, answer.json().get("detail", "")

        assert load(name="again", path="three") == (201, "")
        assert load(name="again", path="three")[0] == 409
        assert [one["name"] for one in client.get("/adapters").json()] == [*service.pool.names]
        assert client.get("/adapters").json()[-1]["classes"] == ["x", "y", "z"]
        answers = [
            client.post(f"/predict?adapter={name}", content=encoded("PNG")).json()
            for name in ("three", "again")
        ]
        assert answers[0] == answers[1]
        assert client.delete("/adapters/again").status_code == 200
        assert client.delete("/adapters/again").status_code == 404
        (bundles / "link").unlink(missing_ok=True)
        (bundles / "link").symlink_to(tmp_path)
        for path in ("..", "/etc", "link", "three/../../x", str(tmp_path)):
            assert load(name="n", path=path)[0] == 403, path
        said = {"gone": "checkpoint 'gone': no such folder"}
        said |= dict.fromkeys((".", "kinds"), "holds no vitlora bundle")
        for path, message in {**said, "a\0b": "embedded null"}.items():
            status, text = load(name="n", path=path)
            assert status == 422 and message in text and str(bundles) not in text
        for name in ("", "a/b", "x" * 101, "a\nb"):
            assert load(name=name, path="three")[0] == 422
        assert load(name="n")[1] == "path: Field required"
        assert load(name="n", path="three", weights="x")[0] == 422
        page = {"content-type": "text/plain"}  # what a page of another site may send
        body = b'{"name": "n", "path": "three"}'
        assert client.post("/adapters", content=body, headers=page).status_code == 415
        assert service.pool.names == ("two", "three", "new")
        for name in service.pool.names:
            assert client.delete(f"/adapters/{name}").status_code == 200
        none = client.post("/predict", content=encoded("PNG"))
        assert none.status_code == 404 and none.json()["detail"] == "no adapter is loaded"
    with served(bundles) as (client, service):
        assert client.post("/adapters", json={"name": "n", "path": "three"}).status_code == 403
        assert client.delete("/adapters/two").status_code == 403


def test_the_document_describes_every_answer(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {(path, method) for path in paths for method in paths[path]} == {
        ("/health", "get"),
        ("/predict", "post"),
        ("/adapters", "get"),
        ("/adapters", "post"),
        ("/adapters/{name}", "delete"),
        ("/metrics", "get"),
    }
    schema = paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = client.post("/predict?adapter=two", content=encoded("PNG")).json()["results"][0]
    described = schema["properties"]["results"]["items"]["anyOf"][0]
    assert list(described["properties"]) == described["required"] == list(answer)
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_nothing_hostile_gets_another_answer_than_its_own(bundles: Path, tmp_path: Path) -> None:
    """Broken pictures and requests, seeded; good ones between them are answered all along."""
    rng, good = random.Random(2), encoded("PNG")
    files = set(tmp_path.parent.rglob("*"))
    with served(bundles) as (client, service):
        want = client.post("/predict?adapter=two", content=good).json()
        for content, _ in zip(hostile(3), range(50), strict=False):
            if rng.random() < 0.5:
                answer = client.post("/predict?adapter=two", content=content)
            else:
                files_ = [("f", ("x", content)), ("f", ("good", good))]
                answer = client.post("/predict?adapter=two", files=files_)
                assert answer.status_code == 200
                assert answer.json()["results"][1] == {**want["results"][0], "path": "good"}
            assert answer.status_code in (200, 422)
        assert client.post("/predict?adapter=two", content=good).json() == want
        assert service.waiting == 0
    assert set(tmp_path.parent.rglob("*")) == files
