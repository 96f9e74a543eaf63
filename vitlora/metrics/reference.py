"""Where the training pictures lie in feature space, and how far a new picture is from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Reference:
    """A summary of the training pictures in feature space.

    A random projection from D to K dimensions roughly preserves distances (Achlioptas 2003). In the
    projection, each class has a mean, and all classes share one covariance. The distance of a
    picture is its smallest Mahalanobis distance to a class (Lee et al. 2018,
    https://arxiv.org/abs/1807.03888).

    Attributes:
        means: Means of the classes, ``(C, K)``, fp16.
        whitening: ``(K, K)``, lower triangular, fp16: it gives differences unit covariance.
        scale: Projected features are divided by it, so that they fit into fp16.
    """

    means: torch.Tensor
    whitening: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, labels: torch.Tensor, dimensions: int) -> "Reference":
        """Returns the reference of training pictures.

        Args:
            features: Inputs of the head, ``(N, D)``.
            labels: ``(N,)``; a class without pictures has no mean.
            dimensions: K.
        """
        projected = _projected(features, dimensions)
        scale = projected.std(correction=0).clamp(min=1e-12)
        projected = projected / scale
        present, index = labels.unique(return_inverse=True)
        means = torch.stack([projected[labels == label].mean(0) for label in present])
        around = projected - means[index]
        covariance = around.T @ around / len(around)
        # with few or equal pictures, some directions have no variance
        ridge = max(1e-3 * float(covariance.trace()) / dimensions, 1e-6)
        covariance += ridge * torch.eye(dimensions)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
        # contiguous, as it will be read back: another memory layout would round differently
        return cls(means.half(), whitening.half().contiguous(), scale)

    def distances(self, features: torch.Tensor) -> torch.Tensor:
        """Returns how far pictures are from the training pictures, ``(N,)``, >= 0.

        Args:
            features: Inputs of the head, ``(N, D)``.
        """
        places, means = self.whitened(features)
        return torch.cdist(places, means, compute_mode="donot_use_mm_for_euclid_dist").amin(1)

    def whitened(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns pictures ``(N, K)`` and classes ``(C, K)`` where distances are Euclidean.

        Args:
            features: Inputs of the head, ``(N, D)``.
        """
        whitening = self.whitening.float()
        places = _projected(features, len(whitening)) / self.scale
        centre = self.means.float().mean(0)  # differences of smaller numbers are more exact
        white, means = ((x - centre) @ whitening.T for x in (places, self.means.float()))
        return white, means

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns the tensors for a bundle: about K * (C + K / 2) numbers in fp16."""
        rows, columns = torch.tril_indices(*self.whitening.shape)
        return {
            "means": self.means,
            "whitening": self.whitening[rows, columns],
            "scale": self.scale,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> "Reference":
        """Returns the reference with these ``tensors``, which are checked.

        Raises:
            KeyError, ValueError, RuntimeError: They are not the tensors of a reference.
        """
        means, packed, scale = tensors["means"], tensors["whitening"], tensors["scale"]
        kinds = {t.dtype for t in (means, packed, scale)}
        if not kinds <= {torch.float16, torch.float32} or means.dtype != packed.dtype:
            raise ValueError("the reference's numbers are not fp16 or fp32")
        rows, size = means.shape if means.ndim == 2 else (0, 0)
        if not rows * size or packed.shape != (size * (size + 1) // 2,) or scale.shape != ():
            raise ValueError("the reference's shapes do not fit each other")
        if not all(t.isfinite().all() for t in (means, packed, scale)) or not scale > 0:
            raise ValueError("the reference is not finite")
        whitening = torch.zeros(size, size, dtype=means.dtype)
        rows, columns = torch.tril_indices(size, size)
        whitening[rows, columns] = packed
        return cls(means, whitening, scale)


def _projected(features: torch.Tensor, dimensions: int) -> torch.Tensor:
    """Returns features projected to ``(N, K)``; numpy's RandomState is the same everywhere."""
    signs = np.random.RandomState(0).randint(0, 2, (features.shape[1], dimensions)) * 2 - 1
    return features @ torch.from_numpy(signs / math.sqrt(dimensions)).float()
