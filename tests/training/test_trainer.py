"""Tests of the trainer's defaults."""

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitlora.errors import UsageError
from vitlora.training import Trainer
from vitlora.training.progress import Progress


def test_a_list_of_callbacks_is_read_and_not_added_to() -> None:
    mine: list[Callback] = [Callback()]
    trainer = Trainer(accelerator="cpu", callbacks=mine)
    assert len(mine) == 1
    assert mine[0] in trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


SLURM = {
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "x",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "n1",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize("variables", [SLURM, TORCHRUN], ids=["slurm", "torchrun"])
def test_one_device_trains_among_the_tasks_of_a_cluster_as_anywhere(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it from them
    trainer = Trainer(accelerator="cpu", devices=1)
    assert trainer.world_size == 1
    assert trainer.is_global_zero
    # else no logs are written
    assert rank_zero_only.rank == 0  # pyright: ignore[reportFunctionMemberAccess]
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)


def test_a_cluster_that_was_named_is_taken():
    trainer = Trainer(accelerator="cpu", plugins=[SLURMEnvironment(auto_requeue=False)])
    assert isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment)


def test_a_subclass_of_a_refused_callback_is_refused():
    class Mine(EMAWeightAveraging):
        pass

    with pytest.raises(UsageError, match=r"trainer\.callbacks has Mine"):
        Trainer(accelerator="cpu", callbacks=Mine())


def test_another_progress_bar_takes_the_place_of_ours():
    trainer = Trainer(accelerator="cpu", callbacks=[TQDMProgressBar()])
    assert not any(isinstance(one, Progress) for one in trainer.callbacks)  # pyright: ignore


def test_checkpoints_are_written_where_a_callback_asks_for_them(tmp_path):
    trainer = Trainer(accelerator="cpu", callbacks=[ModelCheckpoint(tmp_path)])
    assert len(trainer.checkpoint_callbacks) == 1
    assert Trainer(accelerator="cpu").checkpoint_callbacks == []


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:7", "mps", "hpu", "tpu", "nonsense"])
def test_an_accelerator_that_is_not_here_is_called_by_its_option(name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(UsageError, match=rf"^--trainer\.accelerator '{name}' is"):
        Trainer(accelerator=name)
