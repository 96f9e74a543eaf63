"""Tests of the line about work that takes long."""

from __future__ import annotations

import sys
from itertools import count

import pytest

from vitlora.data import waiting
from vitlora.data.waiting import in_threads, shown


@pytest.fixture
def seconds(monkeypatch):
    """Lets every look at the clock find it a second later."""
    clock = count()
    monkeypatch.setattr(waiting.time, "monotonic", lambda: float(next(clock)))


def test_quick_work_is_not_talked_about(capsys):
    assert list(shown(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("seconds")
def test_long_work_is_said_once_in_a_file_and_counted_on_a_terminal(capsys, monkeypatch):
    assert list(shown(range(10), 10, "reading 10 pictures")) == list(range(10))
    assert capsys.readouterr().err == "reading 10 pictures …\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(shown(range(10), 10, "reading")) == list(range(10))
    err = capsys.readouterr().err
    assert "\rreading: 40%" in err and "\rreading: 100%" in err
    assert err.rpartition("\r")[2] == "" and "\n" not in err


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_threads_return_results_in_order(count):
    assert list(in_threads(lambda n: n * n, range(count), "counting")) == [
        n * n for n in range(count)
    ]


def test_an_error_in_a_thread_is_raised():
    def half(number: int) -> float:
        return 1 / (number - 40)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(half, range(100), "dividing"))
