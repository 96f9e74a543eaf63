"""Suggestions in messages."""

from __future__ import annotations

import pytest

from vitlora.errors import nearest

METHODS = ("linear", "lora", "qlora", "full", "dora", "olora")


def test_a_name_that_begins_alike_may_differ_more() -> None:
    assert "'--seeds'" in nearest("--seed_everything", ("--seeds", "--methods"))
    assert not nearest("everything_seed", ("--seeds", "--methods"))


@pytest.mark.parametrize(
    ("typed", "meant"), [("lorra", "lora"), ("ful", "full"), ("foo", None), ("bar", None)]
)
def test_only_a_similar_name_is_suggested(typed: str, meant: str | None) -> None:
    assert nearest(typed, METHODS) == (f" (did you mean '{meant}'?)" if meant else "")
