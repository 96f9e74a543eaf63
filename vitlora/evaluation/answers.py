"""A network's answers to picture files: logits, and the features that its head reads."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from vitlora.backbones import features_and_logits
from vitlora.data.folder import Sample
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError
from vitlora.metrics.scores import Scores

_Seen = tuple[Sample, torch.Tensor | DataError, bool]  # tensor, whether its values are outside


@dataclass(frozen=True)
class Answers:
    """A network's answers to N pictures.

    Attributes:
        samples: The N pictures that could be read.
        logits: ``(N, C)``, fp32, on the CPU.
        features: ``(N, D)``, the head's inputs, fp32, on the CPU.
        unreadable: The other pictures, each with the reason in one line.
        outside: Those of the N with values outside the range of training; see ``Opened``.
    """

    samples: tuple[Sample, ...]
    logits: torch.Tensor
    features: torch.Tensor
    unreadable: dict[Path, str]
    outside: tuple[Path, ...] = ()

    @property
    def labels(self) -> torch.Tensor:
        """The true classes, ``(N,)``."""
        return torch.tensor([sample.label for sample in self.samples], dtype=torch.long)

    def scores(self, classes: tuple[str, ...], temperature: float = 1.0) -> Scores:
        """Returns the scores of these answers.

        Args:
            classes: Names, in the order of the logits.
            temperature: Divides the logits.
        """
        return Scores(classes, self.logits / temperature, self.labels)


@torch.inference_mode()
def answer(
    network: nn.Module,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int = 32,
) -> Answers:
    """Returns a plain ViT's answers; lists the pictures that cannot be read.

    Args:
        network: A plain ViT in evaluation mode, on the device to run on.
        samples: Picture files and classes.
        preprocessing: The network's.
        batch_size: Pictures in one forward pass.

    Raises:
        DataError: No picture can be read.
    """
    device = next(network.parameters()).device
    features: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    readable: list[Sample] = []
    unreadable: dict[Path, str] = {}
    outside: list[Path] = []
    for group in _opened(samples, preprocessing, batch_size):
        unreadable |= {s.path: str(x) for s, x, _ in group if isinstance(x, DataError)}
        outside += [s.path for s, _, strange in group if strange]
        pairs = [(s, x) for s, x, _ in group if isinstance(x, torch.Tensor)]
        if pairs:
            images = torch.stack([x for _, x in pairs]).to(device)
            inputs, outputs = features_and_logits(network, images)
            features.append(inputs.cpu())
            logits.append(outputs.cpu())
            readable += [s for s, _ in pairs]
    if not readable:
        first = next(iter(unreadable.values()), "")
        raise DataError(f"no picture can be read, of {len(samples):,}; the first: {first}")
    return Answers(
        tuple(readable), torch.cat(logits), torch.cat(features), unreadable, tuple(outside)
    )


def _opened(
    samples: Sequence[Sample], preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[_Seen]]:
    """Yields batches of pictures; threads read the next one while the caller uses this one."""
    transform = preprocessing.transform()

    def opened(sample: Sample) -> _Seen:
        try:
            opened = preprocessing.open(sample.path)
            return sample, transform(opened.image), opened.outside
        except DataError as error:
            return sample, error, False

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        groups = [samples[i : i + batch_size] for i in range(0, len(samples), batch_size)]
        ahead: Iterator[_Seen] = iter(())
        for group in groups:
            now, ahead = list(ahead), pool.map(opened, group)
            if now:
                yield now
        yield list(ahead)
