"""The methods of a comparison: each makes one change to the same configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitlora.errors import UsageError, nearest
from vitlora.shell import long_name, option_words


@dataclass(frozen=True)
class Method:
    """What a method sets; all other options are those of the configuration.

    Attributes:
        says: Description, for the help.
        adapter: Class of the adapter.
        options: Options of ``Lora``, which override those of the configuration.
        four_bit: Whether the frozen base is kept in 4 bits.
        rate: Learning rate divided by LoRA's, > 0; from benchmarks/trashnet.py.
    """

    says: str
    adapter: str = "Lora"
    options: dict[str, Any] = field(default_factory=dict)
    four_bit: bool = False
    rate: float = 1.0


METHODS = {
    "linear": Method("the head alone, on a frozen base", "LinearProbe", rate=2.5),
    "lora": Method("low-rank updates of a frozen base"),
    "qlora": Method("LoRA on a base kept in 4 bits", four_bit=True),
    "full": Method("every weight; the bundle holds the whole network", "FullFineTuning", rate=0.1),
    "dora": Method("LoRA, direction and length of each row apart", options={"variant": "dora"}),
    "rslora": Method("LoRA scaled by alpha / sqrt(rank)", options={"variant": "rslora"}),
    "pissa": Method("starts at the largest singular vectors", options={"variant": "pissa"}),
    "olora": Method("starts at the QR factors", options={"variant": "olora"}),
    "eva": Method("starts at your pictures' activations", options={"variant": "eva"}),
    "loftq": Method(
        "QLoRA that starts by undoing the rounding", options={"variant": "loftq"}, four_bit=True
    ),
    "lora+": Method("B learns 4 times as fast as A", options={"lr_ratio": 4.0}, rate=0.5),
    "qv": Method("LoRA on q and v alone", options={"targets": ["attention.q", "attention.v"]}),
}

# The options that methods set, so the user cannot.
SET_BY_METHOD = (
    "--model.adapter",
    "--model.adapter.class_path",
    "--model.adapter.variant",
    "--model.adapter.lr_ratio",
    "--model.quantization",
)

_RATE_OF = {"LinearProbe": METHODS["linear"].rate, "FullFineTuning": METHODS["full"].rate}


def check_methods(names: Sequence[str]) -> list[str]:
    """Returns the names of methods as a list, after checking them.

    Raises:
        UsageError: A name is unknown or appears twice, or there is none.
    """
    for name in names:
        if name not in METHODS:
            raise UsageError(
                f"--methods has '{name}'; expected some of {', '.join(METHODS)}"
                f"{nearest(name, METHODS)}"
            )
        if list(names).count(name) > 1:
            raise UsageError(f"--methods has '{name}' twice; give it once")
    if not names:
        raise UsageError(f"--methods is empty; expected some of {', '.join(METHODS)}")
    return list(names)


def fit_words(
    config: Sequence[str | Path] | str | Path,
    data: str | Path | None,
    options: Mapping[str, object],
    set_by_method: Sequence[str] = SET_BY_METHOD,
) -> list[str]:
    """Returns the arguments of ``vitlora fit`` for the configuration that all runs share.

    Args:
        config: One file or several.
        data: Folder of pictures, if it is given besides the options.
        options: Dotted name -> text or value; or groups, such as ``{"model": {"lr": 0.001}}``.
        set_by_method: Options that are refused.

    Raises:
        UsageError: An option is unknown, is given twice, or is one that the methods set.
    """
    for name in options:
        if long_name(f"--{name}")[2:].partition(".")[0] not in (
            "data",
            "model",
            "trainer",
            "unsure",
        ):
            raise UsageError(
                f"'{name}' is not an option of fit; expected data., model., trainer. or unsure.NAME"
            )
    words = option_words(config, {} if data is None else {"data": {"root": data}}, options)
    for name in set_by_method:
        if name in words:
            raise UsageError(f"{name} is set by each method; leave it out, and choose --methods")
    return words


def configure(
    base: dict[str, Any],
    name: str,
    same_rate: bool = False,
    backbone: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Returns the user's configuration with the changes of a method.

    The configuration's learning rate is assumed to suit its adapter. A method with another kind of
    adapter gets that rate times the ratio of the usual rates of the two.

    Args:
        base: The resolved configuration of ``fit``.
        name: One of ``METHODS``.
        same_rate: Give all methods the configuration's learning rate.
        backbone: Another base than the configuration's, and the file of its weights.
    """
    method, model = METHODS[name], dict(base["model"])
    if backbone is not None:
        model["backbone"], model["weights"] = backbone
    adapter = model["adapter"]
    kind = adapter["class_path"].rpartition(".")[2]
    if method.adapter == "Lora":
        own = adapter.get("init_args", {}) if kind == "Lora" else {}
        options = {**own, "variant": "lora", "lr_ratio": 1.0, **method.options}
        model["adapter"] = {"class_path": "Lora", "init_args": options}
    else:
        model["adapter"] = {"class_path": method.adapter}
        model["head"] = "full"
    if not method.four_bit:
        model |= {"quantization": "none", "block_size": 64}
    elif model["quantization"] == "none":
        model["quantization"] = "nf4"
    if not same_rate:
        model["lr"] = float(f"{model['lr'] * method.rate / _RATE_OF.get(kind, 1.0):.4g}")
    return {**base, "model": model}
