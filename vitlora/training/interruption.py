"""Signals that end a training: Ctrl-C, SIGTERM, and SLURM's signal before a job's time is up."""

import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from vitlora.errors import VitloraError
from vitlora.notes import tell, warn
from vitlora.training import ranks

_REQUEUE = getattr(signal, "SIGUSR1", None)  # Windows has none
_SIGNALS = tuple(s for s in (signal.SIGINT, signal.SIGTERM, _REQUEUE) if s is not None)
_JOB = "SLURM_JOB_ID"
_PATIENCE = 60  # seconds that scontrol may take


class EndedError(VitloraError):
    """A signal ended the training.

    Args:
        signum: The signal.
        text: What is saved, and how to go on.
    """

    def __init__(self, signum: int, text: str) -> None:
        super().__init__(f"ended by {signal.Signals(signum).name}; {text}")
        self.exit_status = 128 + signum


class Interruption:
    """Lets a training save its state before a signal ends it; see ``asked``.

    A second Ctrl-C ends it at once. On ``SIGUSR1`` SLURM's job is queued again, which then goes on
    with ``--resume``; SLURM sends it some time before the end if the job has ``--signal=USR1@90``.
    ``SIGTERM`` also comes from ``scancel``, so after it the job is not queued.

    Args:
        resumes: Whether the command has ``--resume``.

    Attributes:
        asked: The signal that came, and is to be obeyed between two batches; None if none did.
        waits: Whether there will be such a moment; otherwise, a signal ends the run at once.
    """

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes
        self.asked: int | None = None
        self.waits = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        if self.asked == _REQUEUE and _JOB in os.environ and ranks.rank() == 0:
            self._requeue(os.environ[_JOB])

    def listen(self) -> None:
        """Takes over the signals, also from Lightning, which handles SIGTERM when it starts."""
        for number, handler in self._before.items():
            if number != signal.SIGINT or handler is not signal.SIG_IGN:  # a shell's background job
                signal.signal(number, self._on_signal)

    def end(self, text: str) -> BaseException:
        """Returns what to raise, for the signal that came.

        Args:
            text: What is saved, and how to go on.
        """
        self.waits = False
        if self.asked in (None, signal.SIGINT):
            return KeyboardInterrupt()
        return EndedError(self.asked, text)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked is not None, signum
        if not self.waits or (again and signum == signal.SIGINT):
            raise self.end("no state was saved")
        if signum == signal.SIGINT:
            try:
                tell(
                    "\nstopping after this step, or this validation; press Ctrl-C again to stop now"
                )
            except RuntimeError:  # it came while something was printed
                return

    def _requeue(self, job: str) -> None:
        if not self.resumes:
            warn(
                f"job {job} is not queued again, because it would start over: add --resume to its "
                "command"
            )
            return
        command = ["scontrol", "requeue", job]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            warn(f"'{' '.join(command)}' failed ({' '.join(said.split())}); queue the job by hand")
        else:
            tell(f"job {job} is queued again")
