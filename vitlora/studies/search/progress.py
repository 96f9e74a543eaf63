"""Says how the trials of a sweep ended, on whatever machine."""

from vitlora.errors import counted
from vitlora.notes import tell
from vitlora.studies.search.goals import GOALS
from vitlora.studies.search.search import Search
from vitlora.studies.search.trials import Trial
from vitlora.units import clock


class Progress:
    """Says once of each trial how it ended.

    Args:
        search: The search.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._told = {trial.number for trial in search.trials() if trial.settled}
        if self._told:
            tell(f"{counted(len(self._told), 'trial')} from before")

    def tell(self) -> None:
        """Says which trials ended since the last time, and which is the best."""
        new = [trial for trial in self._search.trials() if trial.settled]
        new = [trial for trial in new if trial.number not in self._told]
        best = [trial.number for trial in self._search.front()][:1]
        for trial in new:
            self._told.add(trial.number)
            mark = " (the best so far)" if [trial.number] == best else ""
            number = f"{len(self._told)}/{self._search.target}"
            tell(f"{number}  trial {trial.number}, {self._end(trial)}{mark}")

    def kept(self) -> str:
        """Returns how many trials are settled, of how many."""
        done = sum(trial.settled for trial in self._search.trials())
        return f"{done} of {counted(self._search.target, 'trial')}"

    def _end(self, trial: Trial) -> str:
        point = self._search.space.say(trial.point)
        if trial.state == "pruned":
            return f"{point}: pruned after epoch {max(trial.curve, default=0)}"
        if trial.values is None:
            return f"{point}: failed: {trial.error}"
        goals = [GOALS[name] for name in self._search.goals]
        values = zip(goals, trial.values, strict=True)
        said = ", ".join(f"{goal.label} {goal.say(value)}" for goal, value in values)
        tried = f", attempt {trial.attempts}" if trial.attempts > 1 else ""
        if "seconds" not in self._search.goals:
            said += f", trained in {clock(trial.measured['seconds'])}"
        return f"{point}: {said}{tried}"
