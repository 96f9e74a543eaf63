"""Checks a bundle's ``adapter_config.json``, which may come from anywhere. Imports no PEFT.

PEFT accepts any regular expression as the name of a layer, and some take forever to match. A bundle
may only use the simple ones that vitlora writes: letters, ``.`` and alternatives.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vitlora.errors import shown

# PEFT's options that vitlora reads, and those that have no effect after training, or while the
# options they belong to are off. All others, of any version of PEFT, must be off.
READ = (
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)
OVER = (
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
)
_Value = TypeVar("_Value")
_CHARACTER = r"(?:[\w-]|\\[.-])"
_GROUP = rf"\({_CHARACTER}+(?:\|{_CHARACTER}+)*\)"
_NAME = rf"\^?(?:\.\*)?(?:{_CHARACTER}|\.|{_GROUP}|\[\^?[\w.-]+\])+\$?"
_PATTERN = re.compile(rf"{_NAME}(?:\|{_NAME})*")
_MOST_IN_GROUP = 256
_MOST_GROUPS = 2  # in one alternative; each multiplies the ways to match
_MOST_CHARACTERS = 2**14  # in the patterns of one option


@dataclass(frozen=True)
class LoraOptions:
    """The options of a bundle's low-rank updates.

    Attributes:
        rank: Rank of the layers that ``ranks`` does not name.
        alpha: Alpha of the layers that ``alphas`` does not name.
        ranks: Pattern of layers -> their rank.
        alphas: Pattern of layers -> their alpha.
        targets: Pattern that the paths of all adapted layers match.
        whole: Ends of the names of modules that were trained in full.
        bias: Which biases were trained: ``none``, ``all``, ``lora_only``.
        dora: Whether the lengths of the weights' rows are trained separately (DoRA).
        rslora: Whether alpha is divided by the root of the rank.
    """

    rank: int
    alpha: float
    ranks: dict[re.Pattern[str], int]
    alphas: dict[re.Pattern[str], float]
    targets: re.Pattern[str]
    whole: tuple[str, ...]
    bias: str
    dora: bool
    rslora: bool

    @classmethod
    def from_json(cls, config: object) -> "LoraOptions":
        """Reads the JSON that PEFT's ``save_pretrained`` writes.

        Raises:
            ValueError: An option has the wrong type, or belongs to something other than LoRA.
        """
        if not isinstance(config, Mapping):
            raise ValueError(f"holds {shown(config)}; expected PEFT's options")
        if (kind := config.get("peft_type")) != "LORA":
            raise ValueError(f"peft_type is {shown(kind)}; expected LORA (LoRA, rsLoRA or DoRA)")
        check_known(config)
        if (bias := config.get("bias", "none")) not in ("none", "all", "lora_only"):
            raise ValueError(f"bias is {shown(bias)}; expected none, all or lora_only")
        return cls(
            rank=_rank("r", config.get("r")),
            alpha=_number("lora_alpha", config.get("lora_alpha")),
            ranks=_patterns("rank_pattern", config.get("rank_pattern"), _rank),
            alphas=_patterns("alpha_pattern", config.get("alpha_pattern"), _number),
            targets=compiled("target_modules", config.get("target_modules")),
            whole=_names("modules_to_save", config.get("modules_to_save")),
            bias=bias,
            dora=_switch("use_dora", config.get("use_dora")),
            rslora=_switch("use_rslora", config.get("use_rslora")),
        )

    def adapts(self, path: str) -> bool:
        """Returns whether a layer is adapted."""
        return self.targets.fullmatch(path) is not None

    def rank_of(self, path: str) -> int:
        """Returns a layer's rank as PEFT does: by the first pattern that its path ends with."""
        return next((v for p, v in self.ranks.items() if p.match(path)), self.rank)

    def scaling_of(self, path: str, rank: int) -> float:
        """Returns the factor on ``B A`` for a layer of this rank."""
        alpha = next((v for p, v in self.alphas.items() if p.match(path)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def check_known(config: Mapping[str, object]) -> None:
    """Refuses options that are on but unknown to vitlora.

    Raises:
        ValueError: There is such an option.
    """
    for name in sorted(config.keys() - {*READ, *OVER}):
        if config[name] not in (None, [], {}) and config[name] is not False:
            raise ValueError(
                f"has {shown(name)}, which this vitlora does not know; expected LoRA, rsLoRA or "
                "DoRA without it"
            )


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
        return float(value)
    raise ValueError(f"{name} is {shown(value)}; expected a number")


def _rank(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"{name} is {shown(value)}; expected a whole number, 1 or more")


def _switch(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ValueError(f"{name} is {shown(value)}; expected true or false")


def _names(name: str, value: object) -> tuple[str, ...]:
    value = [] if value is None else value
    if isinstance(value, list) and all(isinstance(part, str) and part for part in value):
        return tuple(value)
    raise ValueError(f"{name} is {shown(value)}; expected a list of names")


def _patterns(
    name: str, value: object, read: Callable[[str, object], _Value]
) -> dict[re.Pattern[str], _Value]:
    value = {} if value is None else value
    if not isinstance(value, dict) or sum(len(str(key)) for key in value) > _MOST_CHARACTERS:
        raise ValueError(f"{name} is {shown(value)}; expected names of layers, each with a value")
    # as PEFT 0.21.2 looks for them, in get_pattern_key
    return {
        compiled(name, k, r"(.*\.)?({})$"): read(f"{name} {shown(k)}", v) for k, v in value.items()
    }


def compiled(name: str, pattern: object, within: str = "{}") -> re.Pattern[str]:
    """Compiles an untrusted pattern that cannot take long to match.

    Args:
        name: Name of the option.
        pattern: The pattern.
        within: A larger pattern, which has ``{}`` in its place.

    Raises:
        ValueError: It is not a pattern, or may take long to match.
    """
    if (
        not isinstance(pattern, str)
        or len(pattern) > _MOST_CHARACTERS
        or not _PATTERN.fullmatch(pattern)
    ):
        raise ValueError(
            f"{name} is {shown(pattern)}; expected names of layers as vitlora writes them, such "
            r"as blocks\.(0|1)\.attn\.qkv"
        )
    for group in re.findall(_GROUP, pattern):
        names = group[1:-1].split("|")
        if not len(set(names)) == len(names) <= _MOST_IN_GROUP:
            raise ValueError(
                f"{name} is {shown(pattern)}; expected at most {_MOST_IN_GROUP} names in a group, "
                "each once"
            )
    for alternative in re.sub(_GROUP, "()", pattern).split("|"):
        if alternative.count("()") > _MOST_GROUPS:
            raise ValueError(f"{name} is {shown(pattern)}; expected at most {_MOST_GROUPS} groups")
    try:
        return re.compile(within.replace("{}", pattern))
    except re.error as error:
        raise ValueError(f"{name} is {shown(pattern)}, which is not a pattern ({error})") from None
