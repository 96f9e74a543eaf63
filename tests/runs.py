"""Small real trainings for the tests: the micro-ViT's architecture from a random start, 32 px."""

from pathlib import Path
from typing import Any

import torch

from vitlora.backbones import Backbone, load_backbone
from vitlora.data.datamodule import FolderData
from vitlora.training import RunFolder, Summary, Trainer
from vitlora.training.classifier import Classifier

BACKBONE = "vitlora/vit_micro_patch8_96"
# the options of a fit that takes a second
MICRO = {
    "model.backbone": BACKBONE,
    "model.weights": "none",
    "model.image_size": "32",
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": "1",
    "trainer.enable_progress_bar": "false",
    "data.num_workers": "0",
}


def micro(num_classes: int = 3) -> Backbone:
    """Returns a random micro-ViT for 32 px whose biases and head are not zero."""
    made = load_backbone(BACKBONE, num_classes, "none", 32)
    torch.manual_seed(0)
    with torch.no_grad():
        made.module.head.weight.normal_()  # pyright: ignore
        for name, parameter in made.module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return made


def train(
    root: Path,
    output: Path,
    precision: Any = "32-true",
    seed: int = 0,
    **model: Any,
) -> Classifier:
    """Trains an epoch at a high rate, so that nothing stays near its start; writes a bundle."""
    torch.manual_seed(seed)
    data = FolderData(str(root), batch_size=4, num_workers=0)
    options: dict[str, Any] = {
        "backbone": BACKBONE,
        "weights": "none",
        "image_size": 32,
        "lr": 0.05,
        "warmup": 0.0,
    }
    classifier = Classifier(data.num_classes, **{**options, **model})
    trainer = Trainer(
        max_epochs=1,
        precision=precision,
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[Summary(), RunFolder(output, lambda: "model: {}\n", logs=False)],
    )
    trainer.fit(classifier, datamodule=data)
    classifier.cpu().eval()
    return classifier
