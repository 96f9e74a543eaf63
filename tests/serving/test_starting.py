"""Tests of what ``vitlora serve`` checks before it starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from serving.servers import TOKEN

import vitlora
from vitlora.errors import UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoints": "nowhere"}, "checkpoint 'nowhere': no such folder"),
        ({"port": 70000}, "--port is 70000; expected 0 to 65535"),
        ({"batch_size": 0}, "--batch-size is 0; expected at least 1"),
        ({"timeout": 0.0}, "--timeout is 0; expected more than 0 seconds"),
        ({"adapters": "nowhere"}, "--adapters 'nowhere' is no folder"),
        ({"adapters": ""}, "--adapters is empty; expected a path"),
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
