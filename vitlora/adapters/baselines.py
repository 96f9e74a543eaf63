"""The two baselines for LoRA: training only the head, and training everything."""

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
    """Linear probe: only the head is trained; the backbone stays frozen."""

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone with only its head trainable."""
        backbone.module.requires_grad_(False)
        backbone.module.get_submodule("head").requires_grad_(True)
        return backbone.module


class FullFineTuning(_WithoutLora):
    """Full fine-tuning: every weight is trained, and the bundle holds the whole network."""

    freezes_base = False

    def inject(self, backbone: Backbone, head: HeadMode) -> nn.Module:
        """Returns the backbone with all parameters trainable."""
        return backbone.module.requires_grad_(True)
