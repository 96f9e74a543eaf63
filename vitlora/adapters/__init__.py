"""What is trained: LoRA, or one of two baselines."""

from vitlora.adapters.adapter import Adapter, count_trainable
from vitlora.adapters.baselines import FullFineTuning, LinearProbe
from vitlora.adapters.lora import Lora
from vitlora.adapters.self_test import gradient_self_test

__all__ = [
    "Adapter",
    "FullFineTuning",
    "LinearProbe",
    "Lora",
    "count_trainable",
    "gradient_self_test",
]
