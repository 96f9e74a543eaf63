"""What a server has done, in the text format of Prometheus (version 0.0.4)."""

from collections import Counter
from collections.abc import Iterator, Mapping

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class Counts:
    """Counts pictures, requests and batches; for one event loop."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._pictures: Counter[int] = Counter()
        self._seconds = _Histogram(_SECONDS)
        self._sizes = _Histogram(_SIZES)

    def request(self, status: int) -> None:
        """Counts a request that was answered with a status."""
        self._requests[status] += 1

    def picture(self, status: int, seconds: float) -> None:
        """Counts a picture: 200 if it got a prediction, and how long that took."""
        self._pictures[status] += 1
        self._seconds.add(seconds)

    def batch(self, size: int) -> None:
        """Counts a batch of so many pictures."""
        self._sizes.add(size)

    @property
    def answered(self) -> int:
        """Pictures that got a prediction."""
        return self._pictures[200]

    def to_text(self, now: Mapping[str, int]) -> str:
        """Returns all of it.

        Args:
            now: Name -> value of what is not counted but is so at the moment.
        """
        return "".join(f"{line}\n" for line in self._lines(now))

    def _lines(self, now: Mapping[str, int]) -> Iterator[str]:
        for what, counter in (("requests", self._requests), ("pictures", self._pictures)):
            yield f"# HELP vitlora_{what}_total Answered {what}, by HTTP status."
            yield f"# TYPE vitlora_{what}_total counter"
            for status, count in sorted(counter.items()):
                yield f'vitlora_{what}_total{{status="{status}"}} {count}'
        yield "# HELP vitlora_picture_seconds From the picture's arrival to its answer."
        yield from self._seconds.lines("vitlora_picture_seconds")
        yield "# HELP vitlora_batch_pictures Pictures in one forward pass."
        yield from self._sizes.lines("vitlora_batch_pictures")
        for name, value in now.items():
            yield f"# TYPE vitlora_{name} gauge"
            yield f"vitlora_{name} {value}"


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._within = bounds, [0] * len(bounds)
        self._count, self._sum = 0, 0.0

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        for number, bound in enumerate(self._bounds):
            self._within[number] += value <= bound

    def lines(self, name: str) -> Iterator[str]:
        yield f"# TYPE {name} histogram"
        for bound, count in zip(self._bounds, self._within, strict=True):
            yield f'{name}_bucket{{le="{bound:g}"}} {count}'
        yield f'{name}_bucket{{le="+Inf"}} {self._count}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {self._count}"
