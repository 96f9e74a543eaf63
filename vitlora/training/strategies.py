"""Lightning's strategy for a run on several devices, and what starts its processes."""

from datetime import timedelta
from typing import Any

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import distributed
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel

from vitlora.backbones import as_vit
from vitlora.errors import UsageError
from vitlora.processes import Place

# A process that has ended is noticed by its closed connections. The first one may take long alone:
# for very many pictures that it reads, or old ones that it answers.
_PATIENCE = timedelta(days=1)
_TO_MEET = timedelta(minutes=5)
_DDP = ("auto", "ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")  # the processes are there already


class Ddp(DDPStrategy):
    """DDP that sends around only what is trained.

    torch broadcasts all parameters and buffers when it wraps a network, the frozen ones, too. Each
    process has read these from the same file, which is checked.

    Args:
        shards: Spread the frozen weights of the blocks over the devices, as FSDP does. A block's
            weights are put together when it is computed, forwards and backwards. What is trained
            stays whole on each device, so that it is saved, clipped and resumed as ever.
    """

    def __init__(self, shards: bool = False) -> None:
        self.shards = shards
        # numbers between steps go through gloo, so that no process waits for its GPU
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        super().__init__(
            process_group_backend=backend,
            timeout=_TO_MEET,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def setup_distributed(self) -> None:
        """Waits for the others to join for minutes, and later for as long as it takes.

        Raises:
            UsageError: They do not join, or cannot be reached.
        """
        try:
            super().setup_distributed()
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"the processes of the run could not connect: {' '.join(str(error).split())[:300]}"
            ) from None
        # torch before 2.14 has only the private name
        prolong = getattr(distributed, "set_timeout", distributed_c10d._set_pg_timeout)
        prolong(_PATIENCE)

    def setup(self, trainer: Any) -> None:
        """Leaves out all that is frozen.

        Raises:
            UsageError: There are no frozen weights to spread, or they are in 4 bits.
        """
        network: Any = self.model
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        every = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            network, sorted(every - trained) if trainer.training else sorted(every)
        )
        if self.shards and trainer.training:
            self._shard(network)
        super().setup(trainer)

    def _shard(self, network: Any) -> None:
        # here, because no other run needs these slow imports
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if network.storage.quantization != "none":
            raise UsageError(
                f"trainer.strategy is fsdp, but model.quantization {network.storage.quantization} "
                "keeps several weights in a byte, which FSDP would tear apart; set it to none, or "
                "use ddp, with which each device keeps all of them"
            )
        trained = {p for p in network.parameters() if p.requires_grad}
        blocks = list(as_vit(network.backbone.module).blocks)
        if not any(p not in trained for block in blocks for p in block.parameters()):
            raise UsageError(
                "trainer.strategy is fsdp, which spreads frozen weights, but all weights are "
                "trained; use ddp, or train an adapter"
            )
        network.at_once = True  # a backward pass for each piece would need the others' weights, too
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in blocks:
            # True, because torch otherwise keeps the weights of a block that is in no larger part
            fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)


def strategy_of(asked: Any, place: Place | None) -> str | Strategy:
    """Returns the strategy to train with.

    Args:
        asked: ``trainer.strategy``: a name, or one of Lightning's.
        place: This process among those of the run; None if it is the only one.

    Raises:
        UsageError: vitlora does not support it.
    """
    if isinstance(asked, Strategy):
        if isinstance(asked, DDPStrategy | SingleDeviceStrategy):
            return asked
        asked = type(asked).__name__
    check_strategy(asked, 1 if place is None else place.of)
    return "auto" if place is None else Ddp(shards=asked == "fsdp")


def check_strategy(asked: str, devices: int) -> None:
    """Refuses strategies that vitlora does not support, or that have nothing to share.

    Raises:
        UsageError: It is one of these.
    """
    if asked not in (*_DDP, "fsdp"):
        raise UsageError(f"trainer.strategy is {asked}; expected auto, ddp or fsdp")
    if asked == "fsdp" and devices == 1:
        raise UsageError(
            "trainer.strategy is fsdp, which spreads the base over several devices, but the run "
            "has one; add trainer.devices, or leave it out"
        )


def environment_of(place: Place | None) -> ClusterEnvironment:
    """Returns what tells Lightning about the processes of a run.

    Without it, Lightning would expect several devices wherever torchrun or SLURM could start
    processes.

    Args:
        place: This process among them; None if it is the only one.

    Raises:
        UsageError: SLURM's variables do not say enough.
    """
    if place is None:
        rank_zero_only.rank = 0  # pyright: ignore[reportFunctionMemberAccess] - or no logs
        return LightningEnvironment()
    if place.by != "srun":
        return TorchElasticEnvironment()
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # such as --ntasks where it needs --ntasks-per-node
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None
