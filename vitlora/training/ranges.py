"""Values that the numeric options of a model accept."""

from collections.abc import Callable

from vitlora.errors import UsageError

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "num_classes": (lambda count: count >= 2, "at least 2"),
    "lr": (lambda rate: rate > 0, "more than 0"),
    "weight_decay": (lambda decay: decay >= 0, "0 or more"),
    "warmup": (lambda share: 0 <= share < 1, "0 <= warmup < 1"),
    "label_smoothing": (lambda share: 0 <= share < 1, "0 <= label_smoothing < 1"),
    "patch_drop": (lambda share: 0 <= share <= 0.75, "0 to 0.75"),
}


def check_ranges(**options: float) -> None:
    """Refuses values out of range.

    Raises:
        UsageError: A value is out of its range; the message names the option.
    """
    for name, value in options.items():
        fits, expected = _RANGES[name]
        if not fits(value):
            raise UsageError(f"model.{name} is {value}; expected {expected}")
