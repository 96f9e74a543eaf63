"""The network that is exported: 8-bit squares -> probabilities, features, distances."""

import torch
from torch import nn

from vitlora.backbones import at_once
from vitlora.data.preprocessing import Preprocessing
from vitlora.exporting.targets.target import DISTANCES, FEATURES, PROBABILITIES
from vitlora.metrics.judge import Judge


class AnsweringNetwork(nn.Module):
    """A plain ViT with all that comes before and after it, in operators of tensors.

    The names of the buffers must be unlike those of operators: onnxscript 0.7 gives a folded
    operator's result the operator's name, and refuses a second ``mean``.

    Args:
        network: timm's ViT, the adapter merged, in evaluation mode, on the CPU.
        preprocessing: The bundle's.
        judge: The bundle's.
        dtype: What the ViT computes in; the rest computes in fp32.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        judge: Judge,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self._judge, self._dtype = judge, dtype
        self.register_buffer("colour_mean", torch.tensor(preprocessing.mean))
        self.register_buffer("colour_std", torch.tensor(preprocessing.std))
        self.colour_mean: torch.Tensor
        self.colour_std: torch.Tensor
        self.eval().requires_grad_(False)

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns probabilities ``(B, C)``, features ``(B, D)`` and, if calibrated, distances.

        Args:
            pictures: RGB ``(B, H, W, 3)``, uint8, as Pillow, numpy and canvases have them.
        """
        images = (pictures.float() / 255 - self.colour_mean) / self.colour_std
        images = images.permute(0, 3, 1, 2).to(self._dtype)
        features, logits = at_once(self.network, images)
        probabilities = self._judge.calibrated(logits).softmax(1)
        if self._judge.confidence is None or self._judge.reference is None:
            return {PROBABILITIES: probabilities, FEATURES: features}
        places, means = self._judge.reference.whitened(features)
        # ONNX has no operator for torch's cdist
        distances = (places[:, None] - means).square().sum(2).sqrt().amin(1)
        return {PROBABILITIES: probabilities, FEATURES: features, DISTANCES: distances}
