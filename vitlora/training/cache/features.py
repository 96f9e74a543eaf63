"""The outputs of the frozen part of a network for the pictures of a run.

Each of several processes has those of its own pictures.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from typing import Any

import torch
from lightning.pytorch import Trainer

from vitlora.data.archives import size_and_time
from vitlora.data.datamodule import FolderData
from vitlora.training.cache.prefix import Prefix
from vitlora.training.classifier import Classifier

# libraries that decode, augment or compute; another version may give other numbers
_LIBRARIES = ("torch", "timm", "albumentations", "opencv-python-headless", "pillow")
# increased whenever vitlora reads or augments pictures differently
REVISION = 3


class Features:
    """The outputs of a frozen prefix: a tensor for each view of a split, a row for each picture.

    Args:
        trainer: Lightning's trainer, with data and precision set up.
        module: A configured ``Classifier`` on its device.
        prefix: Its network in two parts.

    Attributes:
        shape: Shape of a row: ``(N, D)`` tokens, or ``(D,)`` if only the head is trained.
        dtype: bf16 if training computes in it, else the dtype of the network's output.
    """

    def __init__(self, trainer: Trainer, module: Classifier, prefix: Prefix) -> None:
        self.data: FolderData = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.share = self.data.share
        self._module = module
        self._context = trainer.precision_plugin.forward_context
        self._precision = str(trainer.precision)
        self.prefix = prefix
        side = module.backbone.preprocessing.image_size
        # a full batch, because compiled blocks compile again for another number of pictures
        images = torch.zeros(self.data.batch_size, 3, side, side, device=module.device)
        row = self._without_training(self.prefix.look, images)
        self.shape = tuple(row.shape[1:])
        self.dtype = torch.bfloat16 if self._precision == "bf16-mixed" else row.dtype

    @property
    def augmented(self) -> bool:
        """Whether one view of a training picture differs from another."""
        return self.data.augment != "none"

    def rows(self, split: str) -> int:
        """Returns the number of pictures of a split, of all processes."""
        return len(self.data.folder.splits[split])

    def own_rows(self, split: str) -> int:
        """Returns the number of pictures of a split that are this process's own."""
        return self.share.rows(self.rows(split))

    def size(self, split: str) -> int:
        """Returns the bytes of one view of a split, of all processes."""
        return self.rows(split) * torch.Size(self.shape).numel() * self.dtype.itemsize

    def labels(self, split: str) -> torch.Tensor:
        """Returns the labels ``(N,)`` of its own pictures of a split."""
        own = self.data.folder.splits[split][self.share.rank :: self.share.of]
        return torch.tensor([sample.label for sample in own])

    def batches(self, split: str, view: int) -> Iterator[torch.Tensor]:
        """Computes one view of its own pictures of a split, in order; yields ``(B, *shape)``."""
        for images, _ in self.data.view_dataloader(split, view):
            rows = self._without_training(self.prefix.before, images.to(self._module.device))
            yield rows.to(self.dtype).cpu()

    def key(self, split: str, view: int) -> dict[str, Any]:
        """Returns everything that one view of a split depends on."""
        pictures = hashlib.sha256()
        for sample in self.data.folder.splits[split]:
            size, written = size_and_time(sample.path)
            line = f"{sample.path.absolute()}\n{size}\n{written}\n"
            pictures.update(line.encode("utf-8", "surrogateescape"))
        drawn = split == "train" and self.augmented
        return {
            "pictures": pictures.hexdigest(),
            "transform": asdict(self._module.backbone.preprocessing),
            "augment": self.data.augment if drawn else "none",
            "seed": self.data.seed if drawn else None,
            "view": view,
            **({"share": [self.share.rank, self.share.of]} if self.share.of > 1 else {}),
            "backbone": self._module.backbone.id,
            "blocks": self.prefix.blocks,
            "pooled": self.prefix.pooled,
            "weights": self._weights,
            "dtype": str(self.dtype),
            "precision": self._precision,
            "device": self._module.device.type,
            "versions": {name: version(name) for name in _LIBRARIES},
            "revision": REVISION,
        }

    @cached_property
    def _weights(self) -> str:
        return self.prefix.digest()

    def _without_training(
        self, half: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
    ) -> torch.Tensor:
        network = self._module.built_network()
        training = network.training
        network.eval()
        try:
            with self._context():
                return half(images)
        finally:
            network.train(training)
