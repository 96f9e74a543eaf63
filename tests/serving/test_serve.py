"""Tests of ``vitlora serve``: its answers are predict's, and its limits hold."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from runs import train

import vitlora
from benchmarks.hostile import encoded, hostile, png
from vitlora.backbones import features_and_logits
from vitlora.bundle.checkpoint import load_bundle, save_bundle
from vitlora.errors import UsageError
from vitlora.metrics.confidence import Confidence
from vitlora.metrics.reference import Reference
from vitlora.prediction.pool import AdapterPool
from vitlora.prediction.predictor import Predictor
from vitlora.serving.app import application
from vitlora.serving.limits import Limits
from vitlora.serving.service import Service

TOKEN = "0123456789abcdef"
GAP = 2e-6  # between the confidence of a mixed batch and of predict's merged network


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: Any, make_folder: Any) -> Path:
    """Folder of three bundles on one base: two calibrated ones, with other classes, and a new."""
    root = tmp_path_factory.mktemp("bundles")
    for name, classes in {"two": ("a", "b"), "three": ("x", "y", "z"), "new": ("a", "b")}.items():
        train(make_folder(root / f"{name} photos", classes), root / name)
    calibrate(root / "two", 3.0)
    calibrate(root / "three", 0.5)
    return root


def calibrate(folder: Path, temperature: float) -> None:
    """Writes into a bundle what validation might have taught it; its marks are half and half."""
    bundle = load_bundle(folder)
    predictor = Predictor(bundle, device="cpu")
    seen = [predictor.preprocessing.open(file).image for file in photos(folder.parent)]
    images = torch.stack([predictor.preprocessing.transform()(image) for image in seen])
    with torch.inference_mode():
        features, logits = features_and_logits(predictor.network, images)
    labels = torch.arange(len(features)) % len(bundle.record.classes)
    reference = Reference.of(features, labels, dimensions=8)
    known = Confidence(
        temperature=temperature,
        unsure_below=amid((logits / temperature).softmax(1).amax(1)),
        chosen_for={"max_error": 0.05},
        coverage=0.9,
        error=0.04,
        calibration_error=(0.2, 0.1),
        unfamiliar_above=amid(reference.distances(features)),
        images=100,
        confidences=tuple(torch.linspace(0.3, 1, 11).tolist()),
        distances=tuple(torch.linspace(1, 2, 11).tolist()),
    )
    record = replace(bundle.record, confidence=known)
    save_bundle(folder, record, bundle.tensors, bundle.peft, "", reference=reference)


def amid(values: torch.Tensor) -> float:
    """Returns the middle of the widest gap between values, which rounding does not cross."""
    ordered = values.double().sort().values
    gap = int(ordered.diff().argmax())
    return float(ordered[gap : gap + 2].mean())


def photos(root: Path) -> list[Path]:
    """Returns pictures of all kinds, familiar and not."""
    folder = root / "kinds"
    if not folder.exists():
        folder.mkdir()
        for number in range(12):
            noise = Image.effect_noise((70, 40 + 5 * number), 10 * number)
            kind = ("png", "jpg", "webp")[number % 3]
            noise.convert("RGB").save(folder / f"{number:02}.{kind}")
        Image.effect_noise((1500, 1400), 60).save(folder / "large.jpg", quality=40)
        Image.fromarray(torch.arange(0, 65536, 16).reshape(64, 64).numpy().astype("uint16")).save(
            folder / "deep.png"
        )
    return [*sorted(root.glob("* photos/val/*/0.jpg")), *sorted(folder.iterdir())]


@contextmanager
def served(
    bundles: Path,
    token: str | None = None,
    below: Path | None = None,
    local: bool = False,
    **limits: Any,
) -> Iterator[tuple[TestClient, Service]]:
    pool = AdapterPool({name: bundles / name for name in ("two", "three", "new")}, device="cpu")
    service = Service(pool, Limits(**limits), 2, below)
    with TestClient(application(service, token, local)) as client:
        yield client, service


@pytest.fixture(scope="module")
def client(bundles: Path) -> Iterator[TestClient]:
    with served(bundles) as (client, _):
        yield client


def sent(files: list[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (str(file), file.read_bytes())) for file in files]


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    """Checks that only confidences differ, by no more than the gap."""
    assert list(got) == list(want)
    for key in want.keys() - {"confidence", "top_k"}:
        assert got[key] == want[key], key
    assert [one["class"] for one in got["top_k"]] == [one["class"] for one in want["top_k"]]
    for one, other in zip([got, *got["top_k"]], [want, *want["top_k"]], strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=GAP)


def test_answers_are_those_of_predict(client: TestClient, bundles: Path) -> None:
    files, marks = photos(bundles), set[tuple[str, str, bool]]()
    for name in ("two", "three", "new"):
        predictor = Predictor(bundles / name, device="cpu")
        for top_k in (1, 2, 10**30):
            want = [one.to_json() for one in predictor.predict(files, min(top_k, 9))]
            got = client.post(f"/predict?adapter={name}&top_k={top_k}", files=sent(files))
            assert got.status_code == 200
            for one, other in zip(got.json()["results"], want, strict=True):
                assert_same(one, other)
                marks |= {(name, k, one[k]) for k in ("unsure", "unfamiliar", "outside")}
    for name in ("two", "three"):  # each mark was given and not given
        assert {mark[1:] for mark in marks if mark[0] == name} == {
            (key, given) for key in ("unsure", "unfamiliar", "outside") for given in (True, False)
        }


def test_the_command_line_says_the_same(
    client: TestClient, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vitlora.cli.main import main

    file = photos(bundles)[0]
    assert main(["predict", str(file), "--checkpoint", str(bundles / "two"), "--json"]) == 0
    want = json.loads(capsys.readouterr().out)
    body = client.post("/predict?adapter=two", content=file.read_bytes()).json()
    assert_same(body["results"][0], {**want, "path": "picture"})


def test_many_at_once_by_mixed_adapters_each_get_their_own(
    client: TestClient, bundles: Path
) -> None:
    files = photos(bundles)[:8]
    asks = [(name, file) for file in files for name in ("two", "three", "new")]
    random.Random(0).shuffle(asks)
    want = {
        (name, file): next(predictor.predict(file)).to_json()  # pyright: ignore
        for name in ("two", "three", "new")
        for predictor in [Predictor(bundles / name, device="cpu")]
        for file in files
    }
    got: dict[Any, Any] = {}

    def ask(name: str, file: Path) -> None:
        answer = client.post(f"/predict?adapter={name}", content=file.read_bytes()).json()
        got[name, file] = answer["results"][0]

    threads = [threading.Thread(target=ask, args=one) for one in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ask_ in asks:
        assert_same(got[ask_], {**want[ask_], "path": "picture"})
    text = client.get("/metrics").text
    batches = {
        line.split()[0]: float(line.split()[1]) for line in text.splitlines() if "#" not in line
    }
    assert batches["vitlora_batch_pictures_sum"] > batches["vitlora_batch_pictures_count"]


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
        ("?adapter=two", bytes(33 << 20), 413, "more than 32,000,000 bytes"),
    ],
)
def test_mistakes_are_one_clear_line(
    client: TestClient, url: str, body: bytes, status: int, detail: str
) -> None:
    import re

    answer = client.post(f"/predict{url}", content=body)
    said = answer.json()["detail"]
    assert answer.status_code == status and re.match(f".*{detail}", said), said
    assert "\n" not in said


def test_mistakes_in_forms(client: TestClient) -> None:
    def post(**options: Any) -> tuple[int, str]:
        answer = client.post("/predict?adapter=two", **options)
        return answer.status_code, answer.json()["detail"]

    picture = ("f", ("a", encoded("PNG")))
    status, said = post(data={"image": "photo.jpg"}, files=[picture])
    assert status == 422 and "field 'image' of the form is no file; " in said
    status, said = post(files=[picture] * 33)
    assert (status, said) == (413, "the form: Too many files. Maximum number of files is 32.")
    form = {"content-type": "multipart/form-data"}
    status, said = post(content=b"x", headers=form)
    assert (status, said) == (400, "the form: Missing boundary in multipart.")
    status, said = post(
        content=b"--b\r\n" * 9, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert status == 400
    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    cut = part + encoded("PNG")  # no boundary at its end
    status, said = post(content=cut, headers={"content-type": "multipart/form-data; boundary=b"})
    assert status == 422 and "no picture" in said


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


def slowly(service: Service, wait: Callable[[], object]) -> None:
    """Makes every batch wait before it is computed."""
    judge = service.pool.judge
    service.pool.judge = lambda *batch: (wait(), judge(*batch))[1]  # type: ignore[method-assign]


def test_removing_waits_for_what_is_under_way_and_takes_nothing_new(bundles: Path) -> None:
    free, begun = threading.Event(), threading.Event()
    with served(bundles, below=bundles) as (client, service):
        slowly(service, lambda: (begun.set(), free.wait(20)))
        got: dict[str, Any] = {}

        def ask(name: str, **request: Any) -> threading.Thread:
            def run() -> None:
                got[name] = client.request(**request)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        picture = encoded("PNG")
        first = ask("first", method="POST", url="/predict?adapter=two", content=picture)
        assert begun.wait(20)
        gone = ask("gone", method="DELETE", url="/adapters/two")
        while "two" in service.pool.names:
            time.sleep(0.01)
        late = client.post("/predict?adapter=two", content=picture)
        assert late.status_code == 404
        time.sleep(0.1)
        assert "gone" not in got and "first" not in got
        free.set()
        first.join()
        gone.join()
        assert got["first"].status_code == got["gone"].status_code == 200
        assert service.waiting == 0


def test_too_many_are_refused_and_too_slow_ones_told(bundles: Path) -> None:
    free = threading.Event()
    with served(bundles, waiting=2, seconds=1.0) as (client, service):
        slowly(service, lambda: free.wait(20))
        picture, got = encoded("PNG"), list[int]()

        def ask() -> None:
            got.append(client.post("/predict?adapter=two", content=picture).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        while service.waiting < 2:
            time.sleep(0.01)
        refused = client.post("/predict?adapter=two", content=picture)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert "busy: 2 pictures of 2 are waiting" in refused.json()["detail"]
        for thread in threads:
            thread.join()
        assert got == [504, 504] and service.waiting == 0
        many = [("f", ("a", picture))] * 3
        assert client.post("/predict?adapter=two", files=many).status_code == 503
        free.set()
        service.limits = replace(service.limits, seconds=60.0)
        assert client.post("/predict?adapter=two", content=picture).status_code == 200


def test_memory_for_bodies_is_limited_together_and_given_back(bundles: Path) -> None:
    with served(bundles, held=1000, body=5000) as (client, _):
        for _ in range(3):
            answer = client.post("/predict?adapter=two", content=bytes(2000))
            assert answer.status_code == 503 and "memory for bodies" in answer.json()["detail"]
        assert client.post("/predict?adapter=two", content=bytes(500)).status_code == 422


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


def test_threads_compute_as_the_main_thread_does(bundles: Path) -> None:
    before, seen = torch.get_num_threads(), list[Any]()
    torch.set_num_threads(3)
    try:
        with served(bundles) as (client, service):
            network = service.pool._network
            network.register_forward_hook(
                lambda *_: seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
            )
            client.post("/predict?adapter=two", content=encoded("PNG"))
    finally:
        torch.set_num_threads(before)
    assert seen == [(3, True)]


def test_nothing_hostile_gets_another_answer_than_its_own(bundles: Path, tmp_path: Path) -> None:
    """Broken pictures and requests, seeded; good ones between them are answered all along."""
    rng, good = random.Random(2), encoded("PNG")
    files = set(tmp_path.parent.rglob("*"))
    with served(bundles) as (client, service):
        want = client.post("/predict?adapter=two", content=good).json()
        for content, _ in zip(hostile(3), range(150), strict=False):
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


# --- with a socket, as a process


@contextmanager
def process(bundles: Path, *options: str, **env: str) -> Iterator[tuple[Any, int]]:
    """Runs the command; yields the process and its port."""
    running = subprocess.Popen(
        [sys.executable, "-m", "vitlora", "serve", str(bundles / "two"), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        line = running.stdout.readline()  # pyright: ignore
        assert "answers for two" in line, running.communicate()
        port = int(line.split()[0].rpartition(":")[2])
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield running, port
    finally:
        running.kill()
        running.communicate()


def raw(port: int, data: bytes, hold: bool = False) -> Any:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(data)
    if hold:
        return connection
    return received(connection)


def received(connection: socket.socket) -> bytes:
    """Returns what comes until the other side closes the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_signal_answers_what_was_accepted_then_ends_with_0(bundles: Path) -> None:
    picture = encoded("PNG")
    for one in (signal.SIGTERM, signal.SIGINT):
        with process(bundles) as (running, port):
            head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
                picture
            )
            connection = raw(port, head + picture[:100], hold=True)
            time.sleep(0.3)
            running.send_signal(one)
            time.sleep(0.3)
            assert running.poll() is None
            connection.sendall(picture[100:])
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 200") and b'"top_k"' in answer
            out, err = running.communicate(timeout=20)
            assert (running.returncode, err) == (0, "")
            assert out == "stopped; 1 picture answered\n"


@pytest.mark.slow
def test_slow_and_strange_senders_are_let_go_of(bundles: Path) -> None:
    with process(bundles, "--timeout", "4") as (running, port):
        started = time.monotonic()
        silent = raw(port, b"", hold=True)
        half = raw(port, b"POST /predict HT", hold=True)
        assert silent.recv(10) == b"" and half.recv(10) == b""  # closed
        slow = raw(
            port,
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nabc",
            True,
        )
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 40
        assert raw(port, b"\x16\x03\x01 no HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
        no_chunks = b"HEAD /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n"
        assert raw(port, no_chunks).startswith(b"HTTP/1.1 4")
        long_head = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000
        assert raw(port, long_head + b"\r\n").startswith(b"HTTP/1.1 4")
        left = raw(
            port,
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nabc",
            True,
        )
        left.close()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/predict", encoded("PNG"))
        assert connection.getresponse().status == 200
        running.terminate()
        _, err = running.communicate(timeout=20)
        assert running.returncode == 0 and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": "nowhere"}, "checkpoint 'nowhere': no such folder"),
        ({"port": 70000}, "--port is 70000; expected 0 to 65535"),
        ({"batch_size": 0}, "--batch-size is 0; expected at least 1"),
        ({"timeout": 0.0}, "--timeout is 0; expected more than 0 seconds"),
        ({"adapters": "nowhere"}, "--adapters 'nowhere' is no folder"),
        ({"adapters": ""}, "--adapters '' is no folder"),
        ({"host": "0.0.0.0", "adapters": "."}, "would let everyone load adapters; set a token"),
        ({"host": "192.0.2.1"}, "cannot serve on --host 192.0.2.1 --port 8000: "),
        ({"token_file": "nowhere"}, "--token-file nowhere: No such file"),
    ],
)
def test_early_mistakes(bundles: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(vitlora.VitloraError, match=message):
        vitlora.serve(**{"checkpoints": bundles / "two", **options})


def test_names_and_tokens(bundles: Path, monkeypatch: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"two bundles are named 'two', .* write NAME=DIR"):
        vitlora.serve([bundles / "two", f"two={bundles / 'three'}"])
    monkeypatch.setenv("VITLORA_TOKEN", "short")
    with pytest.raises(UsageError, match="VITLORA_TOKEN has 5 characters; expected at least 16"):
        vitlora.serve(bundles / "two")
    with pytest.raises(UsageError, match=r"name is 'a/b'; expected .* write NAME=DIR"):
        vitlora.serve(f"a/b={bundles / 'two'}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("VITLORA_TOKEN", TOKEN)
        with pytest.raises(
            UsageError, match=r"cannot serve on .*[Aa]ddress already in use; --port 0 takes"
        ):
            vitlora.serve(bundles / "two", port=taken.getsockname()[1])
    monkeypatch.setattr("vitlora.serving.starting.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"serve needs fastapi and .*: pip install 'vitlora\[ser"):
        vitlora.serve(bundles / "two")
