"""A run on several devices is the run on one: its losses, its scores, its files.

Two processes train one run after the other, as torchrun would have started them, while this one
trains the same on its own.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ranks import SRUN, start_ranks
from runs import MICRO
from safetensors.torch import load_file

from vitlora.bundle.checkpoint import load_bundle
from vitlora.cli.main import main

# name -> options of a run of two epochs over 15 pictures of three classes
RUNS: dict[str, list[str]] = {
    # 7, 7 and 1 picture: the last batch leaves one process without any
    "lora, augmented": ["--data.batch_size", "7", "--data.augment", "medium"],
    "accumulated, weights of classes": [
        *("--data.batch_size", "4", "--trainer.accumulate_grad_batches", "3"),
        *("--model.class_weights", "true", "--model.checkpointing", "true"),
    ],
    "cache": [
        *("--model.adapter.last_blocks", "2", "--trainer.cache", "memory"),
        *("--data.batch_size", "4", "--data.augment", "light"),
    ],
    "probe, sgd": ["--model.adapter", "LinearProbe", "--model.optimizer", "sgd"],
    "full": ["--model.adapter", "FullFineTuning", "--model.lr", "1e-3", "--data.batch_size", "5"],
    "eva": ["--model.adapter.variant", "eva", "--model.adapter.rank", "4", "--data.batch_size=6"],
    "nf4": ["--model.quantization", "nf4", "--data.num_workers", "1", "--data.batch_size", "8"],
    "early stopping": ["--trainer.early_stopping", "1", "--model.lr", "1e-7"],
    "pieces": [  # of 8 and 7 pictures in one process
        *("--model.image_size", "96", "--data.batch_size", "15", "--model.optimizer", "sgd"),
    ],
    "fsdp": ["--trainer.strategy", "fsdp", "--data.batch_size", "6"],
}
# trains all of RUNS, then one that is interrupted, and goes on
RANKS = """
import json, os, shutil, sys
from pathlib import Path
import torch
from vitlora.cli.main import main
from vitlora.training import run_state

runs, pictures, rank = json.loads(sys.argv[1]), sys.argv[2], os.environ["RANK"]
sent, broadcast = [], torch.distributed._broadcast_coalesced  # what DDP starts with
def counted(group, tensors, *more):
    sent.append(sum(tensor.nbytes for tensor in tensors))
    return broadcast(group, tensors, *more)
torch.distributed._broadcast_coalesced = counted
for name, words in runs.items():
    assert main([*words, "--data", pictures, "--output", f"two/{name}"]) == 0, name
    Path(f"two/{name}.sent").write_text(str(sum(sent)))
    sent.clear()
    assert main(["test", f"two/{name}", "--data", pictures, "--json", f"two/{name}.json"]) == 0

run_state._EVERY = run_state._WORTH = 0.0  # saves before every step
save = run_state.RunState._save
def save_and_copy(self, trainer, module):
    save(self, trainer, module)
    if trainer.global_step == 5 and rank == "0" and not Path("killed").exists():
        shutil.copytree(self.file.parent, "killed")
run_state.RunState._save = save_and_copy
words = [*runs["lora, augmented"], "--model.adapter.dropout", "0.2", "--model.patch_drop", "0.5"]
assert main([*words, "--data.batch_size", "4", "--data", pictures, "--output", "whole"]) == 0
if rank == "0":
    shutil.copytree("killed", "left")
assert main(["fit", "--resume", "--output", "killed"]) == 0
"""


def words_of(name: str) -> list[str]:
    options = {**MICRO, "trainer.precision": "32-true", "trainer.log_every_n_steps": "1"}
    options |= {"trainer.max_epochs": "2", "model.lr": "1e-2"}
    fixed = [word for option, value in options.items() for word in (f"--{option}", value)]
    return ["fit", *fixed, "--data.augment", "none", *RUNS[name]]


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]
) -> Iterator[Path]:
    """A folder with the runs of two processes in two/, and of one in one/."""
    folder = tmp_path_factory.mktemp("devices")
    make_folder(folder / "pictures", ("a", "b", "c"), ("train", "val", "test"), 5)
    for path in ("train/a/0.jpg", "val/b/0.jpg"):  # classes of different sizes
        to = path.replace("a/0", "c/9").replace("b/0", "a/9")
        (folder / "pictures" / path).rename(folder / "pictures" / to)
    before = Path.cwd()
    os.chdir(folder)
    try:
        runs = json.dumps({name: words_of(name) for name in RUNS})
        said = start_ranks(folder, RANKS, runs, "pictures")
        assert not said[1]  # only the first one prints
        for name in RUNS:
            words = [word for word in words_of(name) if word not in ("--trainer.strategy", "fsdp")]
            assert main([*words, "--data", "pictures", "--output", f"one/{name}"]) == 0
            target = f"one/{name}.json"
            assert main(["test", f"one/{name}", "--data", "pictures", "--json", target]) == 0
        yield folder
    finally:
        os.chdir(before)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_follow_the_losses_and_scores_of_one(home: Path, name: str):
    one, two = metrics(Path("one", name)), metrics(Path("two", name))
    assert len(one) == len(two) > 5
    for row, other in zip(one, two, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            if value or other[key]:
                assert float(other[key]) == pytest.approx(float(value), abs=1e-5), (key, row)
    alone, shared = (
        json.loads(Path(where, f"{name}.json").read_text()) for where in ("one", "two")
    )
    assert shared["images"] == alone["images"] == 15  # none twice
    assert shared["accuracy"] == alone["accuracy"]
    assert shared["loss"] == pytest.approx(alone["loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_leave_the_bundle_of_one(home: Path, name: str):
    one, two = (load_bundle(Path(where, name)) for where in ("one", "two"))
    assert one.record.classes == two.record.classes and one.record.split == two.record.split
    assert one.record.base_digest == two.record.base_digest
    assert one.tensors.keys() == two.tensors.keys()
    for key, tensor in one.tensors.items():
        # a twentieth of a step: where a gradient is nearly 0, Adam divides rounding by rounding
        assert torch.allclose(tensor, two.tensors[key], atol=5e-4), key
    assert not list(Path("two").rglob("*.pending*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_processes_start_with_what_is_trained_alone(home: Path, name: str):
    trained = sum(tensor.nbytes for tensor in load_bundle(Path("two", name)).tensors.values())
    assert int(Path("two", f"{name}.sent").read_text()) == trained


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_to_the_last_bit(home: Path):
    assert metrics(Path("whole")) == metrics(Path("killed"))
    for file in ("adapter_model.safetensors", "reference.safetensors"):
        whole, killed = (load_file(Path(where, file)) for where in ("whole", "killed"))
        assert all(torch.equal(tensor, killed[key]) for key, tensor in whole.items())
    assert not Path("killed/last.ckpt").exists()


# the gradient of a batch that two processes share, and that of the whole batch by torch alone
GRADIENT = """
import os
import torch, torch.nn.functional as F
from torch import distributed
from vitlora.training import ranks
from vitlora.training.loss import shared_loss, summed_loss

distributed.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
ranks._TOGETHER.set(True)
torch.manual_seed(1)
pictures, labels = torch.randn(7, 5), torch.tensor([0, 2, 1, 1, 0, 2, 2])
for weights in (None, torch.tensor([0.2, 3.0, 1.0])):
    for parts in ([[0, 1, 2], [3, 4, 5, 6]], [[0, 1, 2, 3, 4, 5, 6], [-1]]):
        one = torch.randn(5, 3, requires_grad=True)
        two = one.detach().clone().requires_grad_()
        whole = F.cross_entropy(pictures @ one, labels, weights, label_smoothing=0.1)
        whole.backward()
        own = torch.tensor(parts[ranks.rank()])
        mine = torch.where(own >= 0, labels[own], -100)
        logits = pictures[own] @ two
        summed = summed_loss(logits, mine, weights, 0.1)
        loss, tally = shared_loss(summed, logits, mine, weights)
        loss.backward()
        distributed.all_reduce(two.grad)
        assert torch.allclose(two.grad / 2, one.grad, atol=1e-6), (parts, weights)
        assert torch.allclose(tally.loss, whole, atol=1e-6)
        hits = ((pictures @ one).argmax(1) == labels).sum()
        assert tally.hits == hits and tally.pictures == 7
"""
# a loss that is not a number, in a step of one process alone
NAN = """
import os, sys
from vitlora.cli.main import main
from vitlora.training.classifier import Classifier

own = Classifier.forward
def forward(self, images):
    spoilt = os.environ["RANK"] == "1" and self._trainer and self.trainer.global_step == 2
    return own(self, images) * (float("nan") if spoilt else 1.0)
Classifier.forward = forward
sys.exit(main(sys.argv[1:]))
"""
# other options in one process than in the other
OTHER = """
import os, sys
from vitlora.cli.main import main
sys.exit(main([*sys.argv[1:], "--model.lr", f"1e-{os.environ['RANK']}"]))
"""
PYTHON = """
import vitlora
options = {"model.backbone": "vitlora/vit_micro_patch8_96", "model.weights": "none"}
options |= {"model.image_size": 32, "trainer.max_epochs": 1, "data.num_workers": 0}
fitted = vitlora.fit(data="pictures", output="python", device="cpu", **options)
assert fitted.scores.images == 15 and fitted.epoch == 1
assert vitlora.test("python", device="cpu").scores.images == 15
"""


@pytest.mark.slow
def test_the_gradient_of_a_shared_batch_is_that_of_the_whole(tmp_path: Path):
    start_ranks(tmp_path, GRADIENT)


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_all_by_its_name(home: Path):
    words = [*words_of("early stopping"), "--data", "pictures", "--output", "nan"]
    first, second = start_ranks(home, NAN, *words, "--data.batch_size", "4", status=1)
    assert "the training loss of step 3 is not a number" in first
    assert "the training loss of step 3 is not a number" in second  # later, if nothing ends it


@pytest.mark.slow
def test_processes_with_other_options_are_refused(home: Path):
    words = [*words_of("early stopping"), "--data", "pictures", "--output", "other"]
    first, _ = start_ranks(home, OTHER, *words, status=None)
    assert "process 1 differs from process 0: it has other options" in first


@pytest.mark.slow
def test_every_process_of_torchrun_gets_the_result_in_python(home: Path):
    start_ranks(home, PYTHON)


@pytest.mark.slow
def test_tasks_of_srun_train_together_if_they_are_asked_to(home: Path):
    script = "import sys; from vitlora.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [*words_of("probe, sgd"), "--data", "pictures", "--output", "srun"]
    said = start_ranks(home, script, *words, "--devices", "2", by=SRUN)
    assert said[0].count("bundle   srun") == 1 and not said[1]
    one, two = (load_bundle(Path(where)).tensors for where in ("one/probe, sgd", "srun"))
    assert all(torch.allclose(tensor, two[key], atol=1e-6) for key, tensor in one.items())


@pytest.mark.slow
def test_a_run_of_two_devices_does_not_go_on_with_one(home: Path, capsys: pytest.CaptureFixture):
    assert main(["fit", "--resume", "--output", "left"]) == 1
    assert "the run is on another number of devices: 2, not 1" in capsys.readouterr().err
