"""The LightningModule, the trainer and its callbacks."""

from vitlora.training.measures import Cost, EpochScores, RecordAnswers
from vitlora.training.progress import Progress
from vitlora.training.run_folder import RunFolder
from vitlora.training.summary import Summary
from vitlora.training.trainer import Trainer

__all__ = ["Cost", "EpochScores", "Progress", "RecordAnswers", "RunFolder", "Summary", "Trainer"]
