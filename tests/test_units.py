import pytest

from vitlora.errors import UsageError
from vitlora.units import clock, seconds_of, size


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (9_512_345, "9.51 MB"),
        (10**9, "1 GB"),
        (343 * 10**6, "343 MB"),
        (999_400_000, "999 MB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_sizes_are_in_powers_of_a_thousand(count: float, expected: str) -> None:
    assert size(count) == expected
    assert len(size(count)) <= 7


def test_clock() -> None:
    assert (clock(59.6), clock(61), clock(3725)) == ("1:00", "1:01", "1:02:05")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5m", 90), (" 2h ", 7200), ("1m30s", 90)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text, "--time") == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5 m", "5m1h", "1e3s", "5min", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time is '.*'; expected a duration such as 90s, 5m"):
        seconds_of(text, "--time")
