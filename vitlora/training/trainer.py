"""Lightning's Trainer with the defaults of fine-tuning, its device and precision chosen for you."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import Logger

from vitlora.errors import UsageError
from vitlora.hardware import Precision, pick_device, pick_precision
from vitlora.training.cache import PrefixCache, Where
from vitlora.training.progress import Progress


class Trainer(LightningTrainer):
    """Runs the epochs; every other option of Lightning's Trainer works too.

    Args:
        max_epochs: Passes over the training pictures.
        precision: auto (bf16 where the chip has it, else fp16 on older CUDA, else fp32), 32-true,
            bf16-mixed or 16-mixed.
        accelerator: auto, cpu, cuda or mps.
        devices: One; training on several at once is not offered.
        early_stopping: Stop after this many epochs without a better validation macro-F1; null to
            run them all.
        accumulate_grad_batches: Batches whose gradients are summed before each step.
        gradient_clip_val: Largest norm of the gradient; null not to clip.
        cache: Compute only once what no training changes, where the first blocks, or all, are
            frozen; every epoch then starts behind them. auto does so in memory where the head alone
            is trained, and it pays and fits; memory and disk insist, and disk serves later runs
            too; off.
        cache_views: Differently augmented views of each training picture that are cached, which
            the epochs take in turn; null for half as many as epochs, from 2 to 6.
        cache_gb: Most that is cached, in 10^9 bytes; on disk, in all runs together.
        cache_folder: Where disk keeps it; null for ~/.cache/vitlora/features.
        log_every_n_steps: Steps between two lines of the logs.
        num_sanity_val_steps: Validation batches before training.
        enable_model_summary: Lightning's own table of layers.
        enable_checkpointing: Lightning's own full checkpoints; the adapter bundle needs none.
        logger: A Lightning logger; null for CSV and TensorBoard files in logs/ beside the bundle,
            false for none.
        callbacks: Lightning callbacks, each as a class_path.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = 6,
        precision: Precision = "auto",
        accelerator: str = "auto",
        devices: int = 1,
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
        if max_epochs is not None and max_epochs < 1:
            raise UsageError(f"trainer.max_epochs is {max_epochs}; expected at least 1")
        if devices != 1:
            raise UsageError(f"trainer.devices is {devices}; vitlora trains on 1 device")
        device = pick_device({"gpu": "cuda"}.get(accelerator, accelerator))
        given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        for callback in given:
            if not isinstance(callback, Callback):
                raise UsageError(
                    f"trainer.callbacks has {callback!r}; expected Lightning callbacks"
                )
        every = [callback for callback in given if isinstance(callback, Callback)]
        if kwargs.get("enable_progress_bar") is not False:
            every.append(Progress())
        if early_stopping is not None:
            every.append(EarlyStopping("val/macro_f1", mode="max", patience=early_stopping))
        if cache != "off":
            every.append(PrefixCache(cache, cache_views, cache_gb, cache_folder))
        super().__init__(
            max_epochs=max_epochs,
            precision=pick_precision(device, precision),  # pyright: ignore[reportArgumentType]
            accelerator=device.type,
            devices=devices if device.index is None else [device.index],
            callbacks=every,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            log_every_n_steps=log_every_n_steps,
            num_sanity_val_steps=num_sanity_val_steps,
            enable_model_summary=enable_model_summary,
            enable_checkpointing=enable_checkpointing,
            logger=False if logger in (None, True) else logger,
            **kwargs,
        )
