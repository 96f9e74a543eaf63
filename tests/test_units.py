import pytest

from vitlora.units import clock, size


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
