"""Starts a process for each device, each of which runs the same command, and watches them.

Here nothing is computed, so that what the processes need can always be done: handing on signals,
ending all of them when one has ended, saying which one that was. Needs no torch.
"""

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from vitlora.cli.words import given
from vitlora.errors import UsageError, VitloraError, counted
from vitlora.notes import LOG, note, tell, warn
from vitlora.processes import OURS, Place, device_count, joined

_RESULT = "VITLORA_RESULT"  # file that takes the result of the first process
_LEFT = 75  # exit status of a process that the others have left: EX_TEMPFAIL
_BEFORE = 3.0  # seconds in which the first process tells an error that all have
_TO_HEAR = 5.0  # seconds in which a second signal has to be obeyed
_TIME_TO_END = (60.0, 30.0)  # seconds before SIGTERM, then before SIGKILL
_HANDED_ON = ("SIGINT", "SIGTERM", "SIGUSR1")
_PEER_LOST = ("gloo", "Connection closed by peer", "Connection reset", "NCCL", "TCPStore")


def place_of(words: Sequence[str], inherited: Mapping[str, Any]) -> tuple[Place | None, int]:
    """Returns which process of its run this is, or None if it is alone; and how many to start.

    Args:
        words: The arguments, with configs as YAML text.
        inherited: Values of options that they do not set.

    Raises:
        UsageError: The number of devices is none, or another one than was started.
    """
    options: dict[str, Any] = {**inherited, **dict(given(words))}
    asked = [options.get(f"trainer.{name}") for name in ("devices", "num_nodes", "accelerator")]
    devices, machines, accelerator = (None if one == "null" else one for one in asked)
    accelerator = str(accelerator or "auto")
    machines = int(str(machines)) if str(machines).isdecimal() else 1  # else it is refused later
    place = joined(devices, machines, accelerator)
    asks = any(word.startswith(("--help", "-h", "--print_config")) for word in words)
    start = 1 if place or machines != 1 or asks else device_count(devices, accelerator)
    if start > 1 and sys.platform == "win32":
        raise UsageError(f"trainer.devices is {start}; on Windows, vitlora trains on one device")
    if start > (cores := os.cpu_count() or 1):
        raise UsageError(
            f"trainer.devices is {start}, but this machine has {counted(cores, 'core')}; expected "
            "at most a process for each"
        )
    return place, start


@contextmanager
def as_one_of(place: Place | None) -> Iterator[None]:
    """Lets only the first process print; another one prints only an error that is its own.

    Args:
        place: This process; None if it is the only one.
    """
    if place is None:
        yield
        return
    if place.by == "vitlora":
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _silently() if place.rank else ExitStack():
            yield
    except KeyboardInterrupt as end:
        if not place.rank:
            raise
        ctrl_c = type(end) is KeyboardInterrupt
        raise SystemExit(128 + (signal.SIGINT if ctrl_c else signal.SIGTERM)) from None
    except Exception as error:
        who = f"process {place.rank} of {place.of}"
        if _lost_others(error) and os.environ.get("VITLORA_DEBUG") != "1":
            if place.by == "vitlora":
                raise SystemExit(_LEFT) from None  # which says which one has ended
            _wait(2 * _BEFORE)
            raise VitloraError(f"{who} ends, because another one has ended") from None
        if place.rank and isinstance(error, VitloraError):
            if error.exit_status > 128:  # a signal, of which the first process tells
                raise SystemExit(error.exit_status) from None
            _wait(_BEFORE)
            raise VitloraError(f"{who}: {error}") from None
        raise


def hand_over(result: object) -> None:
    """Gives the result of a command to the process that started this one, if it waits for it."""
    if file := os.environ.get(_RESULT):
        Path(file).write_bytes(pickle.dumps(result))


def run_processes(command: str, words: Sequence[str], count: int) -> int:
    """Runs a command in several processes; returns the exit status.

    Args:
        command: Such as ``fit``.
        words: The arguments after it, as they were typed.
        count: Number of processes.

    Raises:
        VitloraError: One of them was killed.
    """
    return _Processes(command, words, count, {}).wait()


def result_of_processes(command: str, words: Sequence[str], count: int) -> Any:
    """Runs a command in several processes, logs what they print, and returns its result.

    Args:
        command: Such as ``fit``.
        words: The arguments after it, as they were typed.
        count: Number of processes.

    Raises:
        VitloraError: The command failed; the message is what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result"
        running = _Processes(command, words, count, {_RESULT: str(file)}, listens=True)
        status = running.wait()
        if status == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if status:
            kind = UsageError if status == UsageError("").exit_status else VitloraError
            raise kind(running.said or f"the processes ended with status {status}")
        return pickle.loads(file.read_bytes())  # which our own process wrote


class _Processes:
    """Processes of one command, one for each device.

    Attributes:
        said: The first error message, if ``listens``.
    """

    def __init__(
        self,
        command: str,
        words: Sequence[str],
        count: int,
        environment: Mapping[str, str],
        listens: bool = False,
    ) -> None:
        self.said = ""
        self._threads: list[threading.Thread] = []
        self._signalled: int | None = None
        self._until = math.inf  # when what still runs is killed
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        same = {
            "OMP_NUM_THREADS": str(max(1, cores // count)),
            **{name: text for name, text in os.environ.items() if "TORCHELASTIC" not in name},
            **environment,
            OURS: "1",
            "TORCHELASTIC_RUN_ID": "vitlora",  # the names are torchrun's
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        output = subprocess.PIPE if listens else None
        self._all = [
            subprocess.Popen(
                [sys.executable, "-m", "vitlora", command, *words],
                env={**same, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                stdout=output,
                stderr=output,
                text=True,
                errors="replace",
                start_new_session=True,  # a terminal's Ctrl-C comes here alone, and is handed on
            )
            for rank in range(count)
        ]
        for process in self._all if listens else ():
            for stream in (process.stdout, process.stderr):
                self._threads.append(threading.Thread(target=self._log, args=(stream,)))
                self._threads[-1].start()

    def wait(self) -> int:
        """Waits for all processes, and returns the exit status of the one that decided it.

        Raises:
            VitloraError: A process was killed.
        """
        with ExitStack() as held:
            held.callback(self._end)
            if threading.current_thread() is threading.main_thread():
                for name in _HANDED_ON:
                    if number := getattr(signal, name, None):
                        before = signal.signal(number, self._hand_on)
                        held.callback(signal.signal, number, before or signal.SIG_DFL)
            while not self._failed() and self._running() and time.monotonic() < self._until:
                time.sleep(0.1)
            time.sleep(0.1 if self._failed() else 0.0)  # what fails with it is seen with it
            rank, code = next(iter(self._failed()), (0, 0))
            if rank != 0 or code == _LEFT or self._signalled:
                self._let_end()  # the first process tidies up, and says how to go on
        for thread in self._threads:
            thread.join()
        if self._signalled and code != -signal.SIGKILL:
            return 128 + self._signalled if self._failed() else 0
        if code == _LEFT:  # each of them thinks so
            raise VitloraError(
                f"the {len(self._all)} processes lost each other; VITLORA_DEBUG=1 shows how"
            )
        if code >= 0:
            return code
        name = signal.Signals(-code).name
        why = ", usually because memory ran out" if name == "SIGKILL" else ""
        raise VitloraError(
            f"process {rank} of {len(self._all)} (from 0) was ended by {name}{why}. An epoch that "
            "was saved before is kept; 'vitlora fit --resume' goes on from the last state, if any"
        )

    def _running(self) -> bool:
        return any(process.poll() is None for process in self._all)

    def _failed(self) -> list[tuple[int, int]]:
        """Returns rank and status of those that have failed; last, those that others have left."""
        ended = [(rank, code) for rank, p in enumerate(self._all) if (code := p.poll())]
        return sorted(ended, key=lambda each: each[1] == _LEFT)

    def _let_end(self) -> None:
        """Lets the processes end on their own; those that do not are ended after a while."""
        for seconds, name in zip(_TIME_TO_END, ("SIGTERM", "SIGKILL"), strict=True):
            until = time.monotonic() + seconds
            # what was asked to end saves its state first, however long that takes
            while self._running() and (not self._failed() or time.monotonic() < until):
                if time.monotonic() > self._until:
                    return
                time.sleep(0.05)
            for process in self._all:
                process.send_signal(getattr(signal, name, signal.SIGTERM))

    def _end(self) -> None:
        for process in self._all:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()

    def _hand_on(self, number: int, frame: object) -> None:
        if self._signalled:  # a process that hangs would not hear it a second time either
            self._until = time.monotonic() + _TO_HEAR
        self._signalled = number
        for process in self._all:
            if process.poll() is None:
                process.send_signal(number)

    def _log(self, stream: TextIO) -> None:
        """Logs what a process prints, as it would have been logged here."""
        for line in stream:
            text = line.rstrip("\n")
            if text.startswith("vitlora: "):
                self.said = self.said or text.removeprefix("vitlora: ")
            elif text.startswith("note: "):
                note(text.removeprefix("note: "))
            elif text.startswith("warning: "):
                warn(text.removeprefix("warning: "))
            else:
                tell(text)


@contextmanager
def _silently() -> Iterator[None]:
    """Prints and logs nothing."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        before, LOG.disabled = LOG.disabled, True
        try:
            with warnings.catch_warnings(action="ignore"):
                yield
        finally:
            LOG.disabled = before


def _lost_others(error: BaseException) -> bool:
    """Returns whether an error says that another process is gone."""
    kind = f"{type(error).__module__}.{type(error).__name__}"
    known = kind.startswith("torch.distributed") or type(error).__name__.startswith("Dist")
    return known or (
        isinstance(error, RuntimeError)
        and not isinstance(error, VitloraError)
        and any(text in str(error) for text in _PEER_LOST)
    )


def _wait(seconds: float) -> None:
    """Waits, so that what started the processes can end this one before it prints its error."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(seconds)


def _end_with_parent() -> None:
    """Ends this process, as SIGTERM does, when the one that started it has ended."""
    with suppress(OSError):
        os.read(0, 1)  # not by sys.stdin, whose lock a forked loader process would wait for
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(sum(_TIME_TO_END))
    os._exit(128 + signal.SIGTERM)  # it waits for others in C, where no signal is heard


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
