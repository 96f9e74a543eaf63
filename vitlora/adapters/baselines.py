"""The two baselines LoRA stands between: the head alone, and everything."""

from torch import nn

from vitlora.adapters.adapter import Adapter, HeadMode
from vitlora.backbones import Backbone
from vitlora.errors import UsageError
from vitlora.quantization import Storage


class _WithoutLora(Adapter):
    def check(self, backbone: Backbone, head: HeadMode, storage: Storage) -> None:
        """Refuses a head trained as LoRA."""
        if head != "full":
            raise UsageError(
                f"model.head is {head}; {type(self).__name__} trains the head in full: set it to "
                "full, or use the Lora adapter"
            )


class LinearProbe(_WithoutLora):
    """Linear probe: the backbone stays frozen, only the head is trained."""

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone with nothing but its head trainable."""
        backbone.module.requires_grad_(False)
        backbone.module.head.requires_grad_(True)  # pyright: ignore[reportArgumentType]
        return backbone.module


class FullFineTuning(_WithoutLora):
    """Full fine-tuning: every weight is trained, and the bundle holds the whole network."""

    freezes_base = False

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone with everything trainable."""
        return backbone.module.requires_grad_(True)
