"""Tests of how commands end when they are told to."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

import vitlora
from vitlora.cli.main import main
from vitlora.files import draft


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [(signal.SIGTERM, 143, "stopped\n"), (signal.SIGINT, 130, "\nstopped\n")],
)
def test_a_command_that_is_told_to_end_leaves_no_draft_and_says_so(
    sent: signal.Signals,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def configs(name: str | None = None) -> None:
        with draft(tmp_path / "answer") as new:
            new.write_text("half of")
            signal.raise_signal(sent)

    monkeypatch.setattr(vitlora, "configs", configs)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["configs"]) == status
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", ["validate", "test"])
def test_lightnings_own_end_is_told_too(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> int:
        raise SIGTERMException

    monkeypatch.setattr("vitlora.cli.training.run", run)
    assert main([command]) == 143
    assert capsys.readouterr().err == "stopped\n"
