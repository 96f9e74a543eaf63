"""The best trial and the configuration without changes, trained again with other seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitlora.studies.comparison import Failure, Row, Run
from vitlora.studies.comparison import compare as side_by_side
from vitlora.studies.runs import Runs
from vitlora.studies.search.training import strip
from vitlora.studies.study import Study

OWN = "config"  # the configuration without changes, as a method


@dataclass(frozen=True)
class Retrainings(Study):
    """Runs of resolved configurations, which only keep their records and logs.

    Attributes:
        configs: Resolved configuration of each method.
    """

    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def settings(self, method: str) -> dict[str, Any]:
        """Returns the resolved configuration of a method."""
        return self.configs[method]

    def run(self, method: str, seed: int) -> Run | Failure:
        """Trains and scores a method, keeps the validation scores, and removes the bundle."""
        found, bundle = super().run(method, seed), self.path(method, seed)
        if isinstance(found, Run):
            record = (bundle / "vitlora.json").read_text("utf-8")
            self.path(method, seed, ".val.json").write_text(
                json.dumps(json.loads(record)["metrics"]), "utf-8"
            )
        strip(bundle)
        return found

    def validated(self, method: str, seed: int, goal: str) -> float:
        """Returns a score of a run's bundle on the validation pictures."""
        return json.loads(self.path(method, seed, ".val.json").read_text("utf-8"))[goal]


@dataclass(frozen=True)
class Again:
    """What training again says about the best trial.

    Attributes:
        split: The split that the rows are scored on.
        rows: The best trial and the configuration, each over all seeds.
        failures: Runs that failed.
        goal: Name of the score that the search went by.
        found: The best trial's score in the search.
        scores: Its scores on the same pictures with the new seeds.
    """

    split: str
    rows: Sequence[Row]
    failures: Sequence[Failure]
    goal: str
    found: float
    scores: Sequence[float]

    @property
    def optimism(self) -> float | None:
        """How much worse the best trial is with new seeds, in the score's unit; None if unknown."""
        if not self.scores:
            return None
        gap = self.found - statistics.fmean(self.scores)
        return -gap if self.goal == "loss" else gap

    def to_json(self) -> dict[str, object]:
        """Returns every number."""
        return {
            "split": self.split,
            "rows": [row.to_json() for row in self.rows],
            "failures": [vars(failure) for failure in self.failures],
            "objective": self.goal,
            "found": self.found,
            "scores": list(self.scores),
            "optimism": self.optimism,
        }


def train_again(
    study: Retrainings, best: str, seeds: Sequence[int], goal: str, found: float
) -> Again:
    """Trains the best trial and the configuration with each seed.

    Args:
        study: Their configurations and their folder.
        best: Name of the best trial among them.
        seeds: Seeds that the search did not use.
        goal: Name of the score that the search went by.
        found: The best trial's score in the search.
    """
    runs = Runs(study, seeds, len(seeds) * len(study.configs))
    runs.add(list(study.configs))
    seen = [run.seed for run in runs.finished if run.method == best]
    scores = [study.validated(best, seed, goal) for seed in seen]
    return Again(study.split, side_by_side(runs.finished), runs.failed, goal, found, scores)
