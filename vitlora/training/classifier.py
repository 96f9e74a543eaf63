"""The LightningModule: a backbone, an adapter, a head, and the loss."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from vitlora.adapters import Adapter, Lora, gradient_self_test
from vitlora.adapters.adapter import HeadMode, PeftConfig
from vitlora.backbones import (
    PatchDrop,
    answer_from_class_token,
    as_vit,
    open_backbone,
    stream_in_bf16,
    tokens_of,
)
from vitlora.data.preprocessing import CropMode
from vitlora.errors import UsageError
from vitlora.hardware import check_compiles, compile_blocks, storage_dtype
from vitlora.metrics.scores import Scores
from vitlora.notes import tell
from vitlora.pieces import differentiated, joined, pieces
from vitlora.quantization import Quantization, Storage
from vitlora.training import ranks
from vitlora.training.accumulation import Accumulation
from vitlora.training.divergence import check_validation
from vitlora.training.epoch_means import EpochMeans
from vitlora.training.frozen_base import asked_storage, check_device, choose_attention, load_frozen
from vitlora.training.loss import class_weights, gathered, shared_loss, summed_loss
from vitlora.training.optimizers import OptimizerName, parameter_groups, scheduled
from vitlora.training.ranges import check_ranges


class Classifier(LightningModule):
    """A Vision Transformer that learns your classes.

    Args:
        backbone: Base to adapt, as source/model.tag: timm/..., torchvision/... or
            vitlora/vit_micro_patch8_96.
        num_classes: Number of classes; the command line counts the folder's.
        weights: The base's weights: a .safetensors or .pth file, the folder of a sharded one, none
            for a random start, null for the published ones.
        image_size: Side of the input in pixels; null for that of the weights.
        crop_mode: How evaluation and prediction make a picture square: center crops it, squash
            resizes it, border shrinks it and adds borders (in training, too); null for that of the
            weights, usually center.
        adapter: What to train: Lora, LinearProbe or FullFineTuning. Lora takes
            --model.adapter.rank, alpha, targets, variant and more: see --model.adapter.help Lora.
        head: Train the head in full, or as lora.
        quantization: Keep the frozen blocks unquantised (none) or in 4 bits (nf4, for QLoRA; fp4).
        block_size: Number of weights that share a scale in 4 bits; fewer are more exact but take
            more memory.
        optimizer: adamw, adamw8bit (state in 8 bits), paged_adamw8bit (state in 8 bits, moved to
            the host when the GPU is full), sgd (momentum 0.9) or lion.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices trained in full. LoRA's matrices, biases, norms and
            what timm exempts (position embeddings, class and register tokens) never decay.
        warmup: Share of all steps in which the learning rate rises; it then falls along a cosine.
        label_smoothing: Share of each label that is spread over all classes.
        class_weights: Weight classes by the inverse of their frequency in the training set.
        patch_drop: Share of each picture's patches, 0 to 0.75, that a training step leaves out at
            random. Half of them take half of the time. Evaluation uses all patches.
        checkpointing: Recompute the blocks in the backward pass: less memory, more time.
        compile: Compile the blocks with torch.compile; needs a C++ compiler.
    """

    load = staticmethod(open_backbone)  # the memory plan replaces it by one without weights

    def __init__(
        self,
        num_classes: int,
        backbone: str = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
        weights: str | None = None,
        image_size: int | None = None,
        crop_mode: CropMode | None = None,
        adapter: Adapter = Lora(),  # noqa: B008 - it has no state
        head: HeadMode = "full",
        quantization: Quantization = "none",
        block_size: int = 64,
        optimizer: OptimizerName = "adamw",
        lr: float = 2e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        class_weights: bool = False,
        patch_drop: float = 0.0,
        checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_ranges(num_classes=num_classes, lr=lr, weight_decay=weight_decay, warmup=warmup)
        check_ranges(label_smoothing=label_smoothing, patch_drop=patch_drop)
        self.adapter = adapter
        self.storage = asked_storage(quantization, block_size, adapter)  # the dtype is yet to come
        self.head_mode: HeadMode = head
        self.optimizer: OptimizerName = optimizer
        self.lr, self.weight_decay, self.warmup = lr, weight_decay, warmup
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        self.patch_drop = patch_drop
        self.checkpointing, self.compile_blocks = checkpointing, compile
        self.backbone = self.load(backbone, num_classes, weights, image_size)
        # counted before quantisation packs two of them into a byte and adapters are added
        self.base_parameters = sum(p.numel() for p in self.backbone.module.parameters())
        if crop_mode is not None:
            self.backbone.preprocessing = self.backbone.preprocessing.seeing(crop_mode)
        self.adapter.check(self.backbone, head, self.storage)
        self.network: nn.Module | None = None
        self.dropped: PatchDrop | None = None
        # cached features -> logits, while the cache is in use
        self.cached_forward: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.answers = torch.empty(0), torch.empty(0)  # logits and labels of the last evaluation
        self._start: tuple[Mapping[str, torch.Tensor], PeftConfig | None] | None = None
        self.given_storage: Storage | None = None  # that of the bundle to continue from
        self._check_base: Callable[[str], None] = lambda digest: None
        self.loss_weight: torch.Tensor | None = None
        self.accumulation, self.means = Accumulation(), EpochMeans()
        self.at_once = False  # whether a CPU, too, computes all pictures of a batch together
        self.resumed = False  # whether it has weights of a run that goes on
        self.between_batches: Callable[[], None] | None = None

    def start_from(
        self,
        storage: Storage,
        tensors: Mapping[str, torch.Tensor],
        config: PeftConfig | None,
        check_base: Callable[[str], None],
    ) -> None:
        """Makes training continue from a bundle; call it before training starts.

        Args:
            storage: How the bundle's frozen base was kept.
            tensors: Adapter and head.
            config: The bundle's ``adapter_config.json``; None if there is none.
            check_base: Raises if a digest is not that of the bundle's base weights.
        """
        self._start, self._check_base = (tensors, config), check_base
        self.keep_as(storage)

    def keep_as(self, storage: Storage) -> None:
        """Rounds the frozen base as a bundle does, whatever the precision of this run."""
        self.storage = self.given_storage = storage

    def release(self) -> None:
        """Frees the memory of the network, which cannot be used afterwards."""
        self.network = None
        self.backbone.module = nn.Module()
        gc.collect()  # PEFT's parts refer to each other

    def configure_model(self) -> None:
        """Freezes, quantises and adapts the backbone once the precision is known."""
        if self.network is None:  # else it is a bundle's network to be scored
            with torch.device("cpu"):  # Lightning makes tensors on the GPU here
                self.build(self.trainer.strategy.root_device, str(self.trainer.precision))

    def build(self, root: torch.device, precision: str) -> None:
        """Builds the network to train.

        Args:
            root: The device to train on.
            precision: Lightning's name of the precision.
        """
        module = self.backbone.module
        check_device(self.storage, root.type)
        if self.adapter.freezes_base:
            compute = torch.float32 if self.adapter.moves_base else storage_dtype(precision)
            if self.given_storage is None:
                self.storage = replace(self.storage, dtype=str(compute).removeprefix("torch."))
            # a run that recomputes blocks is short of memory
            load_frozen(self.backbone, self.storage, compute, scarce=self.checkpointing)
        else:
            self.backbone.load()
        self._check_base(self.backbone.digest)
        bf16 = storage_dtype(precision) == torch.bfloat16
        choose_attention(module, root.type, bf16)
        as_vit(module).set_grad_checkpointing(self.checkpointing)
        self.network = self.adapter.inject(self.backbone, self.head_mode)
        answer_from_class_token(module)
        if self.patch_drop:
            self.drop_patches(self.patch_drop)
        if bf16:
            stream_in_bf16(module)
        if self.adapter.needs_base:
            self.adapter.init_loftq(self.network, self.backbone.original())
        if self._start is not None:
            self.adapter.start_from(self.network, *self._start)
        if self.compile_blocks:
            check_compiles(root)

    def drop_patches(self, share: float) -> None:
        """Leaves out a share of the patches in the training steps from now on."""
        self.patch_drop = share
        self.dropped = PatchDrop(self.backbone.module, share)

    @property
    def tokens(self) -> int:
        """The number of tokens that a picture has in a training step."""
        every = tokens_of(self.backbone.module)
        return every if self.dropped is None else self.dropped.kept(every)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits ``(B, classes)`` of images ``(B, 3, H, W)``, normalised.

        With a cache, ``images`` may also be tokens ``(B, N, D)`` or features ``(B, D)``.
        """
        if self.cached_forward is not None and images.ndim < 4:
            return self.cached_forward(images)
        return self.built_network()(images)

    def built_network(self) -> nn.Module:
        """Returns the network.

        Raises:
            UsageError: It is not built yet.
        """
        if self.network is None:
            raise UsageError(
                "the network is built when a Trainer starts; for use without one see "
                "vitlora.prediction.predictor.Predictor"
            )
        return self.network

    def on_fit_start(self) -> None:
        """Initialises the adapter from the data, and runs the gradient self-test."""
        size = self.backbone.preprocessing.image_size
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with self.trainer.precision_plugin.forward_context():
            if not self.resumed:
                self.adapter.init_from_data(self.built_network(), self._whole_batches)
                ranks.align([p for p in self.parameters() if p.requires_grad])
            reached = gradient_self_test(self, images.to(self.device))
        tell(f"gradient self-test: all {reached} trainable tensors are reached")
        if self.compile_blocks:
            compile_blocks(self.backbone.module)
        if self.class_weights:
            folder = getattr(self._data, "folder", None)
            if folder is None:
                raise UsageError(
                    "model.class_weights counts the pictures of a FolderData; pass one"
                )
            self.loss_weight = class_weights(folder.counts("train")).to(self.device)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def _whole_batches(self) -> Any:
        """Returns training batches; those of a ``FolderData`` are not yet shared by processes."""
        if self._data is None:
            raise UsageError(
                "the adapter starts from the training pictures; pass fit a LightningDataModule"
            )
        return getattr(self._data, "whole_batches", self._data.train_dataloader)()

    def on_train_start(self) -> None:
        """Gives each process random numbers of its own; until here, so that all start alike."""
        ranks.vary_random_numbers()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Returns the batch; first calls ``between_batches`` if all about the last one is done."""
        if self.between_batches is not None and self.trainer.training:
            self.between_batches()
        return batch

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        """Returns the loss of a batch of images and labels."""
        images, labels = batch
        if self.trainer.accumulate_grad_batches == 1:
            self.zero_grad()  # Lightning does it after the forward pass, which has no use for them
        summed, logits = self.differentiated(images, labels)
        loss, tally = shared_loss(summed, logits, labels, self.loss_weight)
        self.log_dict(self.means.add(tally.loss, tally.hits, tally.pictures))
        if self.trainer.accumulate_grad_batches == 1:
            return loss
        return self.accumulation.weighed(loss, tally.weight)

    def differentiated(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the summed loss of a batch, to differentiate, and its logits, fp32."""
        trained = [p for p in self.parameters() if p.requires_grad]
        loss = partial(summed_loss, weights=self.loss_weight, smoothing=self.label_smoothing)
        return differentiated(self, loss, self._pieces(images), labels, trained)

    def _pieces(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the parts of a batch to compute one after the other; see ``pieces``."""
        if self.at_once or images.ndim == 2:  # features, for the head alone
            return (images,)
        return pieces(images, self.tokens if self.training else tokens_of(self.backbone.module))

    def on_train_epoch_start(self) -> None:
        """Discards batches of an interrupted training that did not complete a step."""
        self.accumulation.forget()

    def on_train_epoch_end(self) -> None:
        """Logs the means of the epoch; callbacks know them by their short names, too."""
        means = self.means.take()
        self.log_dict(means, logger=False)
        self.log_dict({f"{name}_epoch": mean for name, mean in means.items()})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turns an accumulated gradient into the mean over its pictures, before it is clipped."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.accumulation.rescale(gradients, self.trainer.accumulate_grad_batches)

    def on_validation_epoch_start(self) -> None:
        """Discards the results of the last evaluation."""
        self._seen = []

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        """Keeps the logits and labels of a batch, on the device, so no step waits for a copy."""
        logits = [self(some).float() for some in self._pieces(batch[0])]
        self._seen.append((joined(logits), batch[1]))

    def on_validation_epoch_end(self) -> None:
        """Logs accuracy, macro-F1 and loss of the whole split."""
        stage = "test" if self.trainer.testing else "val"
        parts, numbers = ranks.at_first([(a.cpu(), b.cpu()) for a, b in self._seen]), {}
        if parts is not None:
            self.answers = gathered(parts)
            scores = self.scores(tuple(map(str, range(self.answers[0].shape[1]))))
            numbers = {"acc": scores.accuracy, "macro_f1": scores.macro_f1, "loss": scores.loss}
        numbers = ranks.of_first(numbers)
        if self.trainer.state.fn == "fit":
            check_validation(self.trainer, numbers["loss"])
        self.log_dict({f"{stage}/{name}": number for name, number in numbers.items()})

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def scores(self, classes: tuple[str, ...]) -> Scores:
        """Returns the scores of the last evaluation, with the classes' names, to rank 0."""
        return Scores(classes, *self.answers)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Returns the optimiser with warm-up and cosine decay, stepped every batch."""
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        groups = parameter_groups(
            trained, self.lr, self.weight_decay, self.adapter.rate, self.backbone.never_decayed()
        )
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        return scheduled(self.optimizer, groups, self.device, self.warmup, steps)
