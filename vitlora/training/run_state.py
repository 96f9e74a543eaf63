"""The state of a run, saved so that the run goes on after any kill as if nothing had happened.

A state is taken between two batches, when nothing is half done: the optimiser has stepped, the logs
are written, a validation is over. Order and augmentation of the pictures need no state, because
they depend on the seed, the epoch and the picture alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vitlora.bundle.folder import STATE
from vitlora.data.dataset import PictureLoader
from vitlora.data.order import SharedBatches
from vitlora.notes import note, tell
from vitlora.training import ranks
from vitlora.training.classifier import Classifier
from vitlora.training.identity import check_alike, check_identity, identity_of
from vitlora.training.interruption import Interruption
from vitlora.training.run_folder import resume_command
from vitlora.training.state_file import StateError, write_state
from vitlora.training.state_shape import check_optimizer, check_shape

# a kill costs at most so many seconds of work, and saving at most a fiftieth of the time
_EVERY, _WORTH = 60.0, 50.0
_SIZES = ("batch_size", "accumulate")


class RunState(Callback):
    """Writes ``last.ckpt`` now and then, and makes a run go on from one.

    Args:
        folder: Folder of the run.
        options: Returns the options of the run, as plain values.
        interruption: Signals to obey between two batches.
        parent: Start of the digest of the bundle that training continues from, if any.
        found: What ``read_state`` returned, for a run that goes on.
    """

    def __init__(
        self,
        folder: Path,
        options: Callable[[], dict[str, Any]],
        interruption: Interruption,
        parent: str | None = None,
        found: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    ) -> None:
        self.file = folder / STATE
        self._options = cache(options)  # they do not change
        self._interruption, self._parent = interruption, parent
        self._found = found
        self._identity: dict[str, Any] = {}
        self._saved, self._cost = -float("inf"), 0.0  # when; the seconds that it took
        self._told = False

    def settle(self, data: Any, trainer: Any) -> None:
        """Gives a run that goes on the batches that it had settled on.

        Args:
            data: The ``FolderData``.
            trainer: Lightning's trainer.

        Raises:
            StateError: The state does not say them.
        """
        if self._found is None:
            return
        known = self._found[0].get("identity")
        sizes = [known.get(key) if isinstance(known, dict) else None for key in _SIZES]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise self._unfit("it does not say how large a batch is")
        data.auto_batch = False
        data.batch_size, trainer.accumulate_grad_batches = sizes

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the state of a run that goes on in place, but its random numbers.

        Raises:
            StateError: It is not a state of this run.
        """
        module = cast(Classifier, pl_module)
        self._identity = identity_of(trainer, module, self._parent)
        check_alike(self._identity)
        if self._found is None:
            return
        about, state = self._found
        check_identity(self.file, about.get("identity"), self._identity)
        with self._explained():
            self._restore(trainer, module, state)
        module.resumed = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the first epoch begin where it was left; from now on, states are saved."""
        module = cast(Classifier, pl_module)
        module.between_batches = lambda: self._between(trainer, module)
        self._interruption.listen()
        self._interruption.waits = True
        if self._found is None:
            return
        epoch, done = _place(trainer)
        loader: Any = trainer.train_dataloader
        batches = loader.batch_sampler if isinstance(loader, PictureLoader) else None
        if not isinstance(batches, SharedBatches):
            raise StateError(
                f"{self.file} cannot be resumed, because the training batches come from a "
                f"{type(loader).__name__} whose order is not known"
            )
        batches.sampler.go_on(epoch, done * batches.batch_size)
        steps = f"step {trainer.global_step:,} of {int(trainer.estimated_stepping_batches):,}"
        tell(f"resuming from {self.file}: epoch {epoch + 1}, {steps}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves no more states."""
        cast(Classifier, pl_module).between_batches = None
        self._interruption.waits = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Saves no more states."""
        self.on_train_end(trainer, pl_module)

    def finish(self) -> None:
        """Removes the state of a run that has ended."""
        if ranks.rank() == 0:
            self.file.unlink(missing_ok=True)

    def _between(self, trainer: Any, module: Classifier) -> None:
        """Restores random numbers first; then saves if it is time, and ends if a signal came."""
        if self._found is not None:
            with self._explained():
                self._enter(trainer, module, self._found[1])
            self._found, self._saved = None, time.monotonic()
        if module.accumulation.begun:
            return
        passed = time.monotonic() - self._saved
        begins = not trainer.fit_loop.epoch_loop.batch_progress.current.ready
        due = passed > max(0.0 if begins else _EVERY, _WORTH * self._cost)
        # all processes save and end after the same step, whichever of them was told to
        asked, due = ranks.largest(self._interruption.asked or 0, due and ranks.rank() == 0)
        if asked:  # else a signal may have come while this process waited for the others
            self._interruption.asked = asked
        if asked or due:
            self._save(trainer, module)
        if asked:
            raise self._interruption.end(
                f"{self.file} has the state after step {trainer.global_step:,}; resume with: "
                f"{resume_command(self.file.parent)}"
            )

    def _save(self, trainer: Any, module: Classifier) -> None:
        start = time.monotonic()
        random = ranks.at_first(_random_of(module))
        if random is None:
            return
        about = {
            "steps": trainer.global_step,
            "options": self._options(),
            "identity": self._identity,
        }
        try:
            write_state(self.file, about, {**_state_of(trainer, module), "random": random})
        except (OSError, TypeError) as error:
            if not self._told:
                reason = (
                    error.strerror if isinstance(error, OSError) else f"callback state: {error}"
                )
                note(f"{self.file} cannot be written ({reason}): a kill would lose the run")
            self._told = True
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _restore(self, trainer: Any, module: Classifier, state: Mapping[str, Any]) -> None:
        """Puts weights, optimiser, schedule, loops and callbacks in place."""
        (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
        fresh = _state_of(trainer, module)
        for name in ("weights", "schedule", "precision", "loop"):
            check_shape(state[name], fresh[name], name)
        check_optimizer(state["optimizer"], optimizer)
        with torch.no_grad():
            for name, parameter in _trained(module).items():
                parameter.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        schedule.scheduler.load_state_dict(state["schedule"])
        trainer.precision_plugin.load_state_dict(state["precision"])
        trainer.fit_loop.load_state_dict(state["loop"])
        # until Lightning has fetched the batch again, or an epoch of one batch would be over
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
        check_shape(state["means"], module.means.sums, "means")
        module.means.sums = state["means"]
        if other := state["callbacks"].keys() ^ fresh["callbacks"].keys():
            raise ValueError(f"trainer.callbacks differ by {', '.join(sorted(map(str, other)))}")
        for callback in trainer.callbacks:
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])

    def _enter(self, trainer: Any, module: Classifier, state: Mapping[str, Any]) -> None:
        """Takes over what Lightning changes when it starts; checks that this is the right place."""
        loop, metrics = trainer.fit_loop, trainer._logger_connector._callback_metrics
        loop.epoch_loop._batches_that_stepped = _stepped(state["loop"])  # it may count one twice
        if loop.state_dict() != state["loop"]:
            raise ValueError("the training loop did not come back to its place")
        trainer.should_stop = bool(state["should_stop"])
        metrics.update({name: value.to(module.device) for name, value in state["metrics"].items()})
        for name, numbers in state["random"][ranks.rank()].items():
            _generator_of(name).set_rng_state(numbers)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the errors that a foreign state leads to into one line."""
        try:
            yield
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise self._unfit(f"{type(error).__name__}: {error}") from None

    def _unfit(self, reason: str) -> StateError:
        return StateError(
            f"{self.file} does not fit this run ({' '.join(reason.split())[:200]}); use the "
            "vitlora that wrote it, or remove it to start the run anew"
        )


def _state_of(trainer: Any, module: Classifier) -> dict[str, Any]:
    """Returns everything that a run needs in order to go on."""
    (optimizer,), (schedule,) = trainer.optimizers, trainer.lr_scheduler_configs
    callbacks = {each.state_key: each.state_dict() for each in trainer.callbacks}
    return {
        "weights": _trained(module),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.scheduler.state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
        "loop": trainer.fit_loop.state_dict(),
        "callbacks": {key: state for key, state in callbacks.items() if state},
        "metrics": dict(trainer.callback_metrics),
        "means": module.means.sums,
        "should_stop": trainer.should_stop,
    }


def _random_of(module: Classifier) -> dict[str, torch.Tensor]:
    """Returns the states of this process's random numbers."""
    return {name: _generator_of(name).get_rng_state() for name in {"cpu", module.device.type}}


def _trained(module: Classifier) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _generator_of(name: str) -> Any:
    """Returns torch's module with the random numbers of a device."""
    if name == "cpu":
        return torch.random
    if name in ("cuda", "mps"):
        return getattr(torch, name)
    raise ValueError(f"no random numbers are known for {name!r}")


def _place(trainer: Any) -> tuple[int, int]:
    """Returns the epoch, from 0, and the number of its batches that are done."""
    loop = trainer.fit_loop
    return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.completed


def _stepped(loop: Mapping[str, Any]) -> int:
    return loop["epoch_loop.state_dict"]["_batches_that_stepped"]
