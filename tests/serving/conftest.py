"""Bundles and a server that the tests of serving share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from runs import train
from serving.servers import calibrate, served


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: Any, make_folder: Any) -> Path:
    """Folder of three bundles on one base: two calibrated ones, with other classes, and a new."""
    root = tmp_path_factory.mktemp("bundles")
    for name, classes in {"two": ("a", "b"), "three": ("x", "y", "z"), "new": ("a", "b")}.items():
        train(make_folder(root / f"{name} photos", classes), root / name)
    calibrate(root / "two", 3.0)
    calibrate(root / "three", 0.5)
    return root


@pytest.fixture(scope="module")
def client(bundles: Path) -> Iterator[TestClient]:
    with served(bundles) as (client, _):
        yield client
