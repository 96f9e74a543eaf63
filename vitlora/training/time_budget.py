"""Chooses the length of a training by the time there is for it."""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import chain, repeat
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from vitlora.errors import UsageError, counted
from vitlora.notes import note, tell
from vitlora.training import ranks
from vitlora.training.cache.prefix import Prefix
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import WarmupCosine
from vitlora.units import clock

# Choices, not measurements; docs/time.md says what is known.
MOST_EPOCHS = 30
_FEW = 3  # epochs with all patches; of fewer, more with half of them are tried instead
_SETTLED = 5  # epochs without a better validation after which a run only cools down
# First guesses; the run corrects all but the last as it goes on.
_HALF = 0.55  # of the time of a step, with half of the patches; loading stays as it is
_FORWARD = 0.45  # of a step's time, for a batch that is only validated
_IN_FP32 = 1.5  # times as long, for a batch that is answered as in prediction
_OFF = 0.03  # share by which the number of steps may be off before it is corrected
_LATE = 0.02  # share of the time by which a plan may be too long
_WARM_UP, _MEASURED = 2, 8  # steps
_MEASURING = 0.05  # share of the time after which measuring ends
_KEPT = ("steps", "dropped", "_validated", "_best_epoch", "_settled", "_news")  # as they are


@dataclass(frozen=True)
class Pace:
    """How long the parts of a run take, in seconds.

    Attributes:
        step: A step of the optimiser, with the loading of its pictures.
        validation: One validation.
        after: What follows the training, such as calibration.
        epoch: Number of steps in an epoch.
    """

    step: float
    validation: float
    after: float
    epoch: int

    def steps_within(self, seconds: float) -> int:
        """Returns how many steps fit, with a validation after each epoch and after the last step.

        Args:
            seconds: The time there is, from now.
        """
        left = seconds - self.after
        each = self.epoch * self.step + self.validation
        whole = max(int(left // each), 0)
        rest = left - whole * each - self.validation
        return whole * self.epoch + max(int(rest // self.step), 0)

    def seconds_of(self, steps: int) -> float:
        """Returns how long steps take, with all that belongs to them."""
        return steps * self.step + math.ceil(steps / self.epoch) * self.validation + self.after


class TimeBudget(Callback):
    """Plans a training for the time there is, corrects the plan on the way, and ends in time.

    Before the first step it measures a few, which leave no trace. The learning rate falls to 0 at
    the end of the plan, also when the plan changes.

    Args:
        seconds: Time for the whole run; None for as long as the validation gets better.
        started: ``time.monotonic()`` when the run began.
        after: Pictures that are answered after the training.
        drops: Whether patches may be left out in training if few epochs fit.

    Attributes:
        steps: Length of the plan; 0 before there is one.
        dropped: Share of the patches that the plan leaves out; None to keep the run's own.
    """

    def __init__(self, seconds: float | None, started: float, after: int, drops: bool) -> None:
        self.seconds, self.started, self._after, self._drops = seconds, started, after, drops
        self.steps, self.dropped = 0, cast(float | None, None)
        self._pace = Pace(0.0, 0.0, 0.0, 1)
        self._trained, self._since = 0.0, cast(float | None, None)  # None: before the first step
        self._validated = 0  # steps at the last validation
        self._best, self._best_epoch = (-math.inf, -math.inf), 0
        self._settled, self._news = False, ""

    def state_dict(self) -> dict[str, Any]:
        """Returns the plan and the time that is spent, for a run that goes on."""
        now = time.monotonic()
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "pace": asdict(self._pace),
            "best": list(self._best),
            "spent": now - self.started,
            "trained": self._trained + self._passed(now),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a plan; the time in which the run did not go on does not count."""
        for name in _KEPT:
            setattr(self, name, state_dict[name])
        self._pace, self._trained = Pace(**state_dict["pace"]), state_dict["trained"]
        self._best = (state_dict["best"][0], state_dict["best"][1])
        self.started -= state_dict["spent"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, plans and tells the plan, unless there is one.

        Raises:
            UsageError: Not one step fits.
        """
        module = cast(Classifier, pl_module)
        if self.steps:
            if self.dropped is not None:
                module.drop_patches(self.dropped)
            self._lengthen(trainer, self.steps)
            return
        self._pace = pace = ranks.of_first(self._measured(trainer, module))
        most, left = MOST_EPOCHS * pace.epoch, ranks.of_first(self._left())
        steps = most if self.seconds is None else pace.steps_within(left)
        if steps < _FEW * pace.epoch and self._drops and may_drop(module):
            self.dropped = 0.5
            module.drop_patches(self.dropped)
            self._pace = pace = replace(pace, step=_HALF * pace.step)
            steps = pace.steps_within(left)
        steps = min(steps, most)
        if steps < 1:
            needed = time.monotonic() - self.started + pace.seconds_of(pace.epoch)
            raise UsageError(
                f"--time is {self.seconds:g}s, too short for a single step; expected "
                f"{math.ceil(needed)}s or more, which is enough for one epoch"
            )
        self._lengthen(trainer, steps)
        tell(f"{'time':<12} {self._said()}\n")
        if steps < pace.epoch:
            note("less than an epoch fits into the time: training does not see every picture")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Starts the clock of the steps, after the cache is filled; says why training will end."""
        if self._since is None:
            self._since = time.monotonic()
        if self._news and not batch_idx:  # below the line of the last epoch
            note(self._news)
            self._news = ""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Corrects the plan by the time that the steps took."""
        done, now = trainer.global_step, time.monotonic()
        if self.seconds is None or self._settled or done < min(2 * _MEASURED, self.steps / 2):
            return
        self._pace = replace(self._pace, step=(self._trained + self._passed(now)) / done)
        self._pace, left = ranks.of_first((self._pace, self._left()))
        begun = done - self._validated  # the validation of these steps is still to come
        left += begun * self._pace.step
        steps = done - begun + self._pace.steps_within(left)
        steps = max(min(steps, MOST_EPOCHS * self._pace.epoch), done)
        late = (self.steps - steps) * self._pace.step > _LATE * self.seconds
        if late or abs(steps - self.steps) > max(_OFF * self.steps, 1):
            self._lengthen(trainer, steps)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of the steps."""
        now = time.monotonic()
        self._trained, self._since = self._trained + self._passed(now), now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes how long it took; lets a run that no longer gets better end with one more epoch."""
        now = time.monotonic()
        if trainer.sanity_checking or not self.steps:
            return
        took = self._passed(now)
        after = _IN_FP32 * took * self._after / _held_out(trainer) * ranks.count()
        self._validated = trainer.global_step
        self._pace = replace(self._pace, validation=took, after=after)
        self._since = now
        metrics = trainer.callback_metrics
        scores = float(metrics["val/macro_f1"]), -float(metrics["val/loss"])
        epoch = trainer.current_epoch + 1
        if scores > self._best:
            self._best, self._best_epoch = scores, epoch
        ending = trainer.global_step + self._pace.epoch
        if not self._settled and epoch - self._best_epoch >= _SETTLED and ending < self.steps:
            self._settled = True
            self._lengthen(trainer, ending)
            self._news = (
                f"no epoch since {self._best_epoch} was better in validation; this one is the last"
            )

    def tell(self) -> None:
        """Tells how long the run took so far, if there was a limit."""
        if self.seconds is not None:
            took = clock(time.monotonic() - self.started)
            tell(f"{'time':<12} {took} of {clock(self.seconds)}")

    def _lengthen(self, trainer: Any, steps: int) -> None:
        """Makes the run ``steps`` long, from its first step."""
        self.steps = steps
        trainer.fit_loop.max_epochs = math.ceil(steps / self._pace.epoch)
        trainer.fit_loop.epoch_loop.max_steps = steps
        for each in trainer.lr_scheduler_configs:
            cast(WarmupCosine, each.scheduler).lengthen(steps)

    def _passed(self, now: float) -> float:
        """Returns the seconds since the last validation, or since the first step."""
        return 0.0 if self._since is None else now - self._since

    def _left(self) -> float:
        return math.inf if self.seconds is None else self.started + self.seconds - time.monotonic()

    def _measured(self, trainer: Trainer, module: Classifier) -> Pace:
        """Returns the pace of a few steps on real batches, which leave no trace in the training."""
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        most = math.inf if self.seconds is None else _MEASURING * self.seconds
        with isolate_rng():
            picture = _seconds_per_picture(trainer, module, data.train_dataloader(), most)
        batches = int(trainer.num_training_batches)
        epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        trained = min(batches * data.batch_size, len(data.folder.splits["train"]))
        shared = picture / ranks.count()  # what follows the training is not
        return Pace(
            shared * trained / epoch,
            _FORWARD * shared * _held_out(trainer),
            _FORWARD * picture * self._after * _IN_FP32,
            epoch,
        )

    def _said(self) -> str:
        pace = self._pace
        epochs = f"{self.steps / pace.epoch:.3g} epochs of {counted(pace.epoch, 'step')}"
        if self.seconds is None:
            about = clock(pace.seconds_of(self.steps))
            return f"until validation settles, at most {epochs}, in about {about}"
        half = " on half of the patches, because few epochs fit" if self.dropped else ""
        return f"{clock(self.seconds)} for the run: {epochs}{half}, {pace.step:.2g} s each"


def may_drop(module: Classifier) -> bool:
    """Returns whether leaving out patches would make the steps of a built classifier shorter."""
    cached = Prefix(module.backbone.module).pooled
    return not (module.patch_drop or module.compile_blocks or cached)


def _held_out(trainer: Any) -> int:
    """Returns the number of pictures in a validation."""
    data = trainer.datamodule
    return min(sum(trainer.num_val_batches) * data.batch_size, len(data.folder.splits["val"])) or 1


def _seconds_per_picture(
    trainer: Trainer, module: Classifier, loader: Iterable[Any], most: float
) -> float:
    """Returns the time of a training step's forward and backward pass, and of loading, a picture.

    Args:
        trainer: Its precision counts.
        module: Keeps its weights; has no gradients afterwards.
        loader: Batches ``(B, 3, H, W)`` and ``(B,)``; begun anew when it ends.
        most: Seconds after which to stop, after the first step at the earliest.
    """
    synchronize = getattr(torch, module.device.type).synchronize
    began = start = time.monotonic()
    seen = 0
    for number, (images, labels) in enumerate(chain.from_iterable(repeat(loader))):
        with trainer.precision_plugin.forward_context():
            loss, _ = module.differentiated(images.to(module.device), labels.to(module.device))
        loss.backward()
        module.zero_grad(set_to_none=True)
        synchronize()
        now, seen = time.monotonic(), seen + len(labels)
        over = now - began > most
        if over or number + 1 == _WARM_UP + _MEASURED:
            break
        if number + 1 == _WARM_UP:
            start, seen = now, 0
    return (time.monotonic() - start) / seen
