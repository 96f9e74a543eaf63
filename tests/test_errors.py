"""Suggestions in messages."""

from __future__ import annotations

import pytest

from vitlora.errors import nearest

METHODS = ("linear", "lora", "qlora", "full", "dora", "olora")


@pytest.mark.parametrize(
    ("typed", "meant"), [("lorra", "lora"), ("ful", "full"), ("foo", None), ("bar", None)]
)
def test_only_a_similar_name_is_suggested(typed: str, meant: str | None) -> None:
    assert nearest(typed, METHODS) == (f" (did you mean '{meant}'?)" if meant else "")
