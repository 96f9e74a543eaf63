"""What a server does not do for a request, and how it says so."""

from dataclasses import dataclass

from vitlora.errors import VitloraError, shown

_LONGEST = 100  # characters of an adapter's name


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body: Bytes of one request.
        held: Bytes of all requests that are being read or answered.
        pictures: Pictures in one request.
        pixels: Pixels to decode of one picture.
        waiting: Pictures that are being answered.
        batch: Pictures in one forward pass.
        decoding: Seconds for decoding one picture.
        seconds: Seconds for a request to arrive, and again for its pictures to be answered.
    """

    body: int = 32_000_000
    held: int = 256_000_000
    pictures: int = 32
    pixels: int = 50_000_000
    waiting: int = 256
    batch: int = 32
    decoding: float = 10.0
    seconds: float = 30.0


class Refusal(VitloraError):  # noqa: N818 - also an answer
    """An answer in place of a prediction.

    Args:
        status: HTTP's number for it.
        text: One line.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def check_name(name: str) -> None:
    """Refuses a name that is no part of a URL.

    Raises:
        Refusal: It is empty, too long, or has characters that do not print.
    """
    if not 0 < len(name) <= _LONGEST or not name.isprintable() or {*name} & {*"/\\?#"}:
        raise Refusal(
            422,
            f"name is {shown(name)}; expected up to {_LONGEST} characters without / \\ ? #",
        )
