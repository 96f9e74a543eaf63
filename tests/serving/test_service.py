"""Tests of the service: its answers are those of predict, for many callers at once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from serving.servers import photos, served, until

from benchmarks.hostile import encoded
from vitlora.prediction.predictor import Predictor
from vitlora.serving.limits import Refusal
from vitlora.serving.service import Service

GAP = 2e-6  # between the confidence of a mixed batch and of predict's merged network


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
        until(lambda: "two" not in service.pool.names)
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
        until(lambda: service.waiting == 2)
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


def test_a_decoder_that_is_lost_costs_one_picture(bundles: Path, monkeypatch: Any) -> None:
    with served(bundles) as (client, service):
        right = service._decoders.open

        async def open_(name: str, *rest: Any) -> Any:
            if name == "lost":
                raise Refusal(503, "no decoder can be started")
            return await right(name, *rest)

        monkeypatch.setattr(service._decoders, "open", open_)
        files = [("f", (name, encoded("PNG"))) for name in ("lost", "good")]
        lost, good = client.post("/predict?adapter=two", files=files).json()["results"]
        assert lost["status"] == 503 and good["class"] in "ab"
        assert client.post("/predict?adapter=two", files=files[:1]).status_code == 503


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
