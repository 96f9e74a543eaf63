"""Lightning's Trainer with defaults for fine-tuning, and automatic device and precision."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch.callbacks as lightnings
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy

from vitlora.errors import UsageError, nearest
from vitlora.hardware import Precision, pick_device, pick_precision
from vitlora.processes import Devices, Place, device_count, joined
from vitlora.training.cache.prefix_cache import PrefixCache, Where
from vitlora.training.divergence import Divergence
from vitlora.training.progress import Progress
from vitlora.training.strategies import environment_of, strategy_of
from vitlora.training.time_budget import MOST_EPOCHS
from vitlora.units import seconds_of

# Callbacks that would break what a run records, saves or counts -> the reason.
_REFUSED: dict[type[Callback], str] = {
    lightnings.WeightAveraging: "the scores would be those of averaged weights, which the bundle "
    "does not have",
    lightnings.StochasticWeightAveraging: "it averages at the end of training, after the best "
    "epoch was saved",
    lightnings.ModelPruning: "it replaces the weights that a bundle saves by masks",
    lightnings.BaseFinetuning: "model.adapter chooses what is trained, with last_blocks or "
    "FullFineTuning",
    lightnings.BatchSizeFinder: "use data.batch_size auto instead",
    lightnings.LearningRateFinder: "the bundle's config.yaml would record another model.lr than "
    "the one used",
    lightnings.GradientAccumulationScheduler: "the learning rate schedule counts the steps of "
    "trainer.accumulate_grad_batches",
}
_AT_ONCE = (lightnings.DeviceStatsMonitor, lightnings.ThroughputMonitor)  # need a logger early


class Trainer(LightningTrainer):
    """Runs the epochs; every other option of Lightning's Trainer works too.

    Args:
        max_epochs: Passes over the training pictures.
        time: Time for the whole run, such as 90s, 5m or 1h30m, which then decides the number of
            epochs; auto trains until the validation has settled. null for max_epochs.
        precision: auto (bf16 if the chip has it, else fp16 on older CUDA cards, else fp32),
            32-true, bf16-mixed or 16-mixed.
        accelerator: auto, cpu, cuda or mps.
        devices: Number of devices to train on, each in a process of its own; or numbers of GPUs,
            such as [0,2]; auto for all GPUs; null for those that torchrun started, else 1.
        num_nodes: Number of machines, each with so many devices; start vitlora on all of them with
            torchrun or srun.
        strategy: How several devices share the work: ddp (auto) gives each the whole base, fsdp a
            part of the frozen weights, for a base too large for one.
        early_stopping: Stop after this many epochs without a better validation macro-F1, and keep
            the best epoch; null to run them all.
        accumulate_grad_batches: Number of batches for each optimiser step.
        gradient_clip_val: Largest norm of the gradient; null for no clipping.
        cache: Compute the frozen first blocks of the network once and reuse their outputs. auto
            caches in memory if only the head is trained and it saves time and fits; memory and disk
            always cache (other runs can reuse the disk); off never does.
        cache_views: Number of augmented views of each training picture to cache, which the epochs
            use in turn; null for half the number of epochs, from 2 to 6.
        cache_gb: Largest size of the cache in GB (10^9 bytes); on disk, of all runs together.
        cache_folder: Folder of the cache on disk; null for ~/.cache/vitlora/features.
        log_every_n_steps: Steps between two lines of the logs.
        num_sanity_val_steps: Validation batches to run before training.
        enable_model_summary: Print Lightning's table of layers.
        enable_checkpointing: Also save Lightning's full checkpoints, which vitlora does not need.
        logger: A Lightning logger; null for CSV and TensorBoard files in logs/ inside the bundle,
            false for none.
        callbacks: Lightning callbacks, each as a class_path.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = 6,
        time: str | None = None,
        precision: Precision = "auto",
        accelerator: str = "auto",
        devices: int | str | list[int] | None = None,
        num_nodes: int = 1,
        strategy: str | Strategy = "auto",
        early_stopping: int | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = 1.0,
        cache: Where = "auto",
        cache_views: int | None = None,
        cache_gb: float = 4.0,
        cache_folder: str | None = None,
        log_every_n_steps: int | None = 10,
        num_sanity_val_steps: int | None = 0,
        enable_model_summary: bool | None = False,
        enable_checkpointing: bool | None = False,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | str | None = None,  # a str is refused by name
        **kwargs: Any,
    ) -> None:
        if early_stopping is not None and early_stopping < 1:
            raise UsageError(
                f"trainer.early_stopping is {early_stopping}; expected at least 1 epoch, or null"
            )
        if accumulate_grad_batches < 1:
            raise UsageError(
                f"trainer.accumulate_grad_batches is {accumulate_grad_batches}; expected at least 1"
            )
        self.seconds = None if time in (None, "auto") else seconds_of(time, "trainer.time")
        self.timed = time is not None
        if self.timed:
            max_epochs = MOST_EPOCHS  # until the first steps are measured
            _check_timed(kwargs)
        _check_length(max_epochs, kwargs.get("max_steps", -1))
        if num_nodes < 1:
            raise UsageError(f"trainer.num_nodes is {num_nodes}; expected at least 1")
        device = pick_device(accelerator, "--trainer.accelerator")
        place = joined(devices, num_nodes, device.type)
        devices, num_nodes = _settled(devices, num_nodes, device, place)
        every = _checked(callbacks, bool(logger) and logger is not True)
        if kwargs.get("enable_progress_bar") is not False and not _any(every, ProgressBar):
            every.append(Progress())
        every.append(Divergence())
        if early_stopping is not None:
            every.append(EarlyStopping("val/macro_f1", mode="max", patience=early_stopping))
        if strategy == "fsdp":
            _check_sharded(self.timed, cache)
        elif cache != "off":
            every.append(PrefixCache(cache, cache_views, cache_gb, cache_folder))
        plugins = kwargs.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            plugins = [*plugins, environment_of(place)]
        kwargs["plugins"] = plugins
        try:
            super().__init__(
                max_epochs=max_epochs,
                precision=pick_precision(device, precision),  # pyright: ignore[reportArgumentType]
                accelerator=device.type,
                devices=devices,  # pyright: ignore[reportArgumentType]
                num_nodes=num_nodes,
                strategy=strategy_of(strategy, place),
                use_distributed_sampler=False,  # the data shares each batch
                inference_mode=strategy != "fsdp",  # whose weights come and go
                callbacks=every,
                accumulate_grad_batches=accumulate_grad_batches,
                gradient_clip_val=gradient_clip_val,
                log_every_n_steps=log_every_n_steps,
                num_sanity_val_steps=num_sanity_val_steps,
                enable_model_summary=enable_model_summary,
                enable_checkpointing=enable_checkpointing or _any(every, Checkpoint),
                logger=False if logger in (None, True) else logger,
                **kwargs,
            )
        except (ValueError, MisconfigurationException, ModuleNotFoundError) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from None
        # or all wait for their devices before each batch, to hear of a SIGTERM; RunState does that
        self.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None


def _check_timed(options: Mapping[str, Any]) -> None:
    """Refuses what would end a timed run otherwise, or leave its last steps without validation."""
    for name, unset in (("max_steps", -1), ("max_time", None)):
        if options.get(name, unset) != unset:
            raise UsageError(f"trainer.time and trainer.{name} are both set; leave one of them out")
    if (every := options.get("check_val_every_n_epoch", 1)) != 1:
        raise UsageError(
            f"trainer.check_val_every_n_epoch is {every}, but trainer.time needs a validation "
            "after each epoch; leave one of them out"
        )


def _check_sharded(timed: bool, cache: Where) -> None:
    """Refuses what lets a process compute without the others, which FSDP does not allow."""
    said = "trainer.strategy is fsdp, with which all devices compute the same number of batches"
    if timed:
        raise UsageError(f"{said}; set trainer.max_epochs instead of trainer.time")
    if cache in ("memory", "disk"):
        raise UsageError(f"{said}; set trainer.cache to off")


def _check_length(max_epochs: int | None, max_steps: int) -> None:
    """Refuses a run without an end: the learning rate schedule needs its length."""
    if max_steps != -1 and max_steps < 1:
        raise UsageError(f"trainer.max_steps is {max_steps}; expected at least 1, or -1 for no end")
    if max_epochs is None and max_steps == -1:
        raise UsageError(
            "trainer.max_epochs is null, but the learning rate schedule needs the run's length; "
            "set trainer.max_epochs or trainer.max_steps (trainer.max_time may end it sooner)"
        )
    if max_epochs is not None and max_epochs < 1:
        raise UsageError(
            f"trainer.max_epochs is {max_epochs}; expected at least 1, or null where "
            "trainer.max_steps is given"
        )


def _checked(callbacks: list[Callback] | Callback | str | None, logged: bool) -> list[Callback]:
    """Returns the callbacks as a new list; refuses those that do not work here.

    Args:
        callbacks: The user's callbacks.
        logged: Whether the user chose a logger.
    """
    checked: list[Callback] = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else ():
        if not isinstance(callback, Callback):
            raise UsageError(
                f"trainer.callbacks has {callback!r}, which was not found; expected a class of "
                "lightning.pytorch.callbacks, or package.Class"
                f"{nearest(str(callback), lightnings.__all__)}"
            )
        has = f"trainer.callbacks has {type(callback).__name__}, which"
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise UsageError(f"{has} vitlora does not support: {reason}")
        if isinstance(callback, _AT_ONCE) and not logged:
            raise UsageError(
                f"{has} needs a logger of its own; add --trainer.logger CSVLogger "
                "--trainer.logger.save_dir DIR"
            )
        checked.append(callback)
    return checked


def _any(callbacks: Iterable[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _settled(
    devices: Devices, machines: int, device: torch.device, place: Place | None
) -> tuple[Devices, int]:
    """Returns the devices of each machine and the number of machines, as Lightning takes them.

    Raises:
        UsageError: Nothing started the processes that are asked for.
    """
    if device.type != "cuda" and str(devices).startswith("["):
        raise UsageError(
            f"trainer.devices is {devices}, which are numbers of GPUs, but the run is on "
            f"{device.type}; give the number of processes instead"
        )
    if place is not None:
        if device.type == "mps":
            raise UsageError("MPS is a single device; leave trainer.devices out")
        count = device_count(devices, device.type)
        one = devices in (None, "auto", "-1", -1) or count == 1
        return (place.here if one else devices), place.machines
    if machines != 1:
        raise UsageError(
            f"trainer.num_nodes is {machines}, but nothing started this process on {machines} "
            "machines: start it with torchrun or srun on all of them"
        )
    if (count := device_count(devices, device.type)) > 1:
        raise UsageError(
            f"trainer.devices is {devices}, but nothing started {count} processes; use "
            "'vitlora fit', vitlora.fit or torchrun"
        )
    alone = devices in (None, "auto", "-1", -1, 1, "1")
    return ([device.index] if device.index is not None else 1) if alone else devices, 1
