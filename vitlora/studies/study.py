"""The folder of a comparison: the bundle, the log and the record of each run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitlora import yaml_text
from vitlora.errors import UsageError
from vitlora.files import check_writable, write_json, write_whole
from vitlora.studies.bases import file_name, parted
from vitlora.studies.comparison import Failure, Run
from vitlora.studies.methods import configure

SETUP = "setup.json"  # the runs' common setup; marks the folder of a comparison


@dataclass(frozen=True)
class Study:
    """Runs of several methods and seeds on one configuration; each runs only once.

    Attributes:
        folder: Folder for all files.
        base: The user's resolved configuration.
        split: The split to score: ``test`` or ``val``.
        same_rate: Whether all methods get the configuration's learning rate.
        bases: File of the weights of each base that is compared, by name; empty for the one of the
            configuration.
    """

    folder: Path
    base: dict[str, Any]
    split: str
    same_rate: bool
    bases: Mapping[str, str | None] = field(default_factory=dict)

    def path(self, method: str, seed: int, suffix: str = "") -> Path:
        """Returns the bundle of a run, or a file next to it."""
        return self.folder / f"{file_name(method)}-{seed}{suffix}"

    def take(self, setup: dict[str, Any]) -> None:
        """Records the runs' common setup, or checks that earlier runs had the same.

        Args:
            setup: JSON values. ``bases``, digests of weights by name, may have others than before,
                but not with other weights.

        Raises:
            UsageError: Earlier runs had another setup; the message names the first difference.
        """
        file = self.folder / SETUP
        known = json.loads(file.read_text("utf-8")) if file.is_file() else setup
        earlier, bases = known.get("bases", {}), setup.get("bases", {})
        setup = {**setup, "bases": earlier | bases}
        if change := difference({**known, "bases": bases | earlier}, setup):
            raise UsageError(
                f"{self.folder} has runs with another configuration ({change}); choose another "
                "--output, or delete that folder"
            )
        write_json(setup, str(file))

    def finished(self, method: str, seed: int) -> Run | None:
        """Returns an earlier run; None if there is none."""
        record = self.path(method, seed, ".json")
        if not record.is_file():
            return None
        fields = json.loads(record.read_text("utf-8"))
        lists = {name: tuple(fields[name]) for name in ("labels", "answers")}
        return Run(**{**fields, **lists})

    def run(self, method: str, seed: int) -> Run | Failure:
        """Trains and scores a method with a seed, each in its own process."""
        log = self.path(method, seed, ".log")
        answers, scores = (self.path(method, seed, end) for end in (".answers", ".scores.json"))
        with log.open("wb") as file:
            for words in (self._fit(method, seed), self._score(method, seed, answers, scores)):
                done = run_vitlora(words, stdout=file, stderr=subprocess.STDOUT)
                if status := done.returncode:
                    return Failure(
                        method, seed, last_words(log.read_text("utf-8", "replace"), status)
                    )
        bundle = self.path(method, seed)
        cost = json.loads((bundle / "logs" / "cost.json").read_text("utf-8"))
        scored = json.loads(answers.read_text("utf-8"))
        scored["seen_in_training"] = json.loads(scores.read_text("utf-8"))["seen_in_training"]
        record = json.loads((bundle / "vitlora.json").read_text("utf-8"))
        fields = {
            "method": method,
            "seed": seed,
            **cost,
            **scored,
            "bundle_bytes": bundle_size(bundle),
        }
        fields["validated"] = record["metrics"].get("macro_f1")
        write_json(fields, str(self.path(method, seed, ".json")))
        answers.unlink()
        scores.unlink()
        run = self.finished(method, seed)
        assert run is not None  # it was just written
        return run

    def settings(self, method: str) -> dict[str, Any]:
        """Returns the resolved configuration of a method."""
        name, base = parted(method)
        return configure(
            self.base, name, self.same_rate, (base, self.bases[base]) if base else None
        )

    def _fit(self, method: str, seed: int) -> list[str]:
        config = self.folder / f"{file_name(method)}.yaml"
        write_whole(config, yaml_text.write(self.settings(method)))
        words = ["fit", "--config", str(config), "--output", str(self.path(method, seed))]
        words += ["--seed_everything", str(seed)]
        return [*words, "--trainer.callbacks+", "vitlora.training.Cost"]

    def _score(self, method: str, seed: int, answers: Path, scores: Path) -> list[str]:
        command = "test" if self.split == "test" else "validate"
        words = [command, "--checkpoint", str(self.path(method, seed)), f"--json={scores}"]
        words += ["--trainer.accelerator", str(self.base["trainer"]["accelerator"])]
        words += ["--trainer.callbacks+", "vitlora.training.RecordAnswers"]
        return [*words, "--trainer.callbacks.file", str(answers)]


class Refusal(NamedTuple):
    """Why ``fit`` refuses options.

    Attributes:
        reason: In one line.
        unread: Whether an option or a value cannot be read; otherwise it could be right with other
            options.
    """

    reason: str
    unread: bool


def bundle_size(bundle: Path) -> int:
    """Returns a bundle's bytes, like ``bundle_bytes`` but without importing torch."""
    files = json.loads((bundle / "vitlora.json").read_text("utf-8"))["files"]
    return sum((bundle / name).stat().st_size for name in ("vitlora.json", *files))


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns the first difference between two setups in words; empty if there is none.

    Args:
        before: JSON values, perhaps nested; ``pictures`` is a digest of the pictures.
        now: The same.
    """
    before, now = yaml_text.flat(before), yaml_text.flat(now)
    for key in {**before, **now}:
        if before.get(key) == now.get(key):
            continue
        if key.startswith("bases."):
            return f"the weights of {key.removeprefix('bases.')} changed"
        change = f"{key.removeprefix('config.')} was {before.get(key)}, is now {now.get(key)}"
        return "the pictures changed" if key == "pictures" else change
    return ""


def check_ours(folder: Path, kind: str) -> None:
    """Refuses a folder that holds anything but a study of a kind.

    Args:
        folder: The folder; it may be missing.
        kind: ``comparison`` or ``sweep``, for the message.

    Raises:
        UsageError: It does, it is a file, or it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output is '{folder}', a file; expected a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETUP).is_file():
        raise UsageError(
            f"--output is '{folder}', which holds something else than a {kind}; choose another"
        )
    check_writable("--output", folder)


def resolved(words: Sequence[str]) -> dict[str, Any]:
    """Returns the whole configuration as ``fit`` reads it, which also checks it.

    Args:
        words: The arguments of ``fit``.

    Raises:
        UsageError: An option is wrong.
    """
    done = run_vitlora(["fit", *words, "--print_config"], capture_output=True)
    if done.returncode:
        raise UsageError(last_words(done.stderr))
    config = yaml.safe_load(done.stdout)
    for name in ("output", "checkpoint", "json", "seed_everything"):
        config.pop(name, None)
    return config


def refusals(runs: Sequence[Sequence[str]]) -> list[Refusal | None]:
    """Returns why ``fit`` refuses runs before it looks at a picture; None for those it takes.

    Args:
        runs: The arguments of ``fit`` for each.

    Raises:
        UsageError: They cannot be checked.
    """
    streams = {"input": json.dumps(list(map(list, runs))), "capture_output": True}
    done = run_vitlora([], "vitlora.cli.checked", **streams)
    if done.returncode:
        raise UsageError(last_words(done.stderr, done.returncode))
    found = map(json.loads, done.stdout.splitlines()[-len(runs) :])
    return [one and Refusal(*one) for one in found]


def run_vitlora(
    words: Sequence[str], module: str = "vitlora", **streams: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command of vitlora in a new process, with UTF-8 output.

    Args:
        words: The arguments after ``vitlora``.
        module: What runs instead of ``vitlora``.
        streams: Options of ``subprocess.run`` that redirect its output.
    """
    command = [sys.executable, "-m", module, *words]
    env = {**os.environ, "PYTHONUTF8": "1"}
    streams = {"encoding": "utf-8", "errors": "replace", **streams}
    return subprocess.run(command, env=env, check=False, **streams)


def last_words(text: str, status: int = 1) -> str:
    """Returns why a command failed: vitlora's error line, else the last line of its output.

    Args:
        text: The output of the command.
        status: Its exit status; a negative one is the signal that killed it.
    """
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no output"]
    ours = [line.removeprefix("vitlora: ") for line in lines if line.startswith("vitlora: ")]
    return (ours or lines)[-1]
