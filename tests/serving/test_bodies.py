"""Tests of bodies: forms, and the memory that they may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from serving.servers import served

from benchmarks.hostile import encoded


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


def test_memory_for_bodies_is_limited_together_and_given_back(bundles: Path) -> None:
    with served(bundles, held=1000, body=5000) as (client, _):
        for _ in range(3):
            answer = client.post("/predict?adapter=two", content=bytes(2000))
            assert answer.status_code == 503 and "memory for bodies" in answer.json()["detail"]
        assert client.post("/predict?adapter=two", content=bytes(500)).status_code == 422
