"""What the plan says of several devices, against real runs and sums by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import start_ranks
from runs import BACKBONE, MICRO

from vitlora import plan
from vitlora.adapters import Lora
from vitlora.errors import UsageError
from vitlora.memory import devices as hardware
from vitlora.memory.devices import Devices, devices_of
from vitlora.memory.footprint import Footprint, footprint
from vitlora.memory.room import Room
from vitlora.memory.table import Way, pick
from vitlora.training.classifier import Classifier

TINY = {
    **MICRO,
    "model.backbone": "timm/vit_tiny_patch16_224",
    "model.image_size": "64",
    "trainer.precision": "32-true",
    "trainer.max_steps": "3",
    "trainer.devices": "2",
    "data.batch_size": "16",
}
ADAPTER = ("model.adapter",)  # set by the method of a plan
RUNS: dict[str, dict[str, str]] = {
    "ddp": {},
    "ddp, all weights": {"model.adapter": "FullFineTuning"},
    "fsdp": {"trainer.strategy": "fsdp"},
    "fsdp, checkpointed": {"trainer.strategy": "fsdp", "model.checkpointing": "true"},
}
# trains all of RUNS; writes what each process holds before its third step, and that step's peak:
# in the second, DDP arranges its buckets anew
RANKS = """
import gc, json, os, sys, time
from pathlib import Path
import torch
from torch.distributed import Work
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from benchmarks.plan import highest
from vitlora.cli.main import main
from vitlora.training.classifier import Classifier

def storages(tensors):
    plain = (t._local_tensor if isinstance(t, DTensor) else t for t in tensors)
    found = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in plain)}
    return sum(found.values())

def start(module, batch, index):
    if index == 2:
        gc.collect()
        network = module.backbone.module
        lora = [p for n, p in network.named_parameters() if "lora_" in n or "head" in n]
        base = {*network.parameters(), *network.buffers()} - set(lora if "all" not in name else ())
        alive = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
        module.held = storages(base), storages(t for t in alive if not t.is_meta)
        module.seen = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        module.seen.__enter__()

def end(module, outputs, batch, index):
    if index == 2:
        module.seen.__exit__(None, None, None)
        base, alive = module.held
        said = {"base": base, "peak": alive + highest(module.seen)}
        Path(f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(said))

wait = Work.wait
def patient(work, *args):  # gloo's thread lets go of what it gathered a moment after it is there
    done = wait(work, *args)
    time.sleep(0.03)
    return done

Work.wait = patient
Classifier.on_train_batch_start, Classifier.on_train_batch_end = start, end
for name, words in json.loads(sys.argv[1]).items():
    assert main(["fit", *words, "--output", f"out/{name}"]) == 0, name
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> Path:
    """A folder with what the processes of each run held."""
    folder = tmp_path_factory.mktemp("devices")
    make_folder(folder / "pictures", ("a", "b", "c"), ("train", "val"), 16)
    words = {
        name: [w for key, value in options.items() for w in (f"--{key}", value)]
        for name, run in RUNS.items()
        for options in [{**TINY, **run, "data.root": str(folder / "pictures")}]
    }
    start_ranks(folder, RANKS, json.dumps(words))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_each_process_takes_what_the_plan_says(home: Path, name: str) -> None:
    options: dict[str, Any] = {k: v for k, v in {**TINY, **RUNS[name]}.items() if k not in ADAPTER}
    made = plan(data=home / "pictures", methods=["full" if "all" in name else "lora"], **options)
    (counted,) = (w.counted for w in made.ways if w.checkpointing == ("checkpointed" in name))
    for rank in range(2):
        held = json.loads((home / f"{name}.{rank}.json").read_text())
        assert held["base"] == pytest.approx(counted.base, rel=0.01)
        assert 0.95 * counted.total(8) < held["peak"] < 1.01 * counted.total(8)


@pytest.mark.parametrize("devices", [2, 3])
def test_a_device_keeps_the_first_rows_of_each_frozen_weight_of_the_blocks(devices: int) -> None:
    options: dict[str, Any] = {"backbone": BACKBONE, "image_size": 64, "adapter": Lora(8)}
    module = Classifier(5, weights="none", **options)
    module.build(torch.device("cpu"), "bf16-mixed")
    frozen = {n: p for n, p in module.backbone.module.named_parameters() if not p.requires_grad}
    inside = {n: p for n, p in frozen.items() if "blocks." in n}
    kept = [(p.chunk(devices)[0] if n in inside else p) for n, p in frozen.items()]
    first = [p for n, p in inside.items() if "blocks.0." in n]
    one, each = (footprint(options, 5, "cpu", "bf16-mixed", spread_over=n) for n in (1, devices))
    assert each.base == sum(p.numel() * p.element_size() for p in kept)
    assert one.base == sum(p.numel() * p.element_size() for p in frozen.values())
    assert each.gathered == 2 * sum(p.numel() * p.element_size() for p in first)
    assert torch.equal(each.moments[:, 0], one.moments[:, 0] + each.gathered)
    assert (one.gathered, each.adapters, each.saved) == (0, one.adapters, one.saved)


def way(size: int, gathered: int = 0) -> Way:
    """A way that takes so much for each picture, and nothing else."""
    moments = torch.tensor([[0.0, size]])
    return Way("lora", False, Footprint(0, 0, 0, 0, 0, 0, moments, 64, 1, gathered))


@pytest.mark.parametrize(
    ("size", "most", "devices", "batch", "each"),
    [
        (10, 32, 4, 32, 8),
        (10, 30, 4, 30, 8),  # the user's number, though one device has fewer
        (200, 32, 4, 16, 4),
        (90, 32, 3, 16, 6),  # 10 fit: 30 in all, of which 16 divide 32
        (900, 32, 3, 3, 1),
        (900, 2, 4, 2, 1),
    ],
)
def test_the_pick_names_the_batch_of_all_devices(
    size: int, most: int, devices: int, batch: int, each: int
) -> None:
    picked, got, why = pick([way(size)], Room(1000, "given"), most, devices)
    assert picked is not None and got == batch
    start = f"Take lora, {each} at once on each of {devices} devices, {batch} in all: it takes "
    assert why.startswith(f"{start}{each * size} B of 1 kB")


def test_only_what_may_help_is_advised() -> None:
    room = Room(1000, "given")
    for devices, gathered, end in (
        (1, 0, "smaller model.backbone."),
        (2, 0, "smaller model.backbone, or --trainer.strategy fsdp."),
        (2, 1, "smaller model.backbone."),
    ):
        assert pick([way(2000, gathered)], room, 32, devices)[2].endswith(end)
    assert "NF4 and checkpointing" in pick([way(1)], room, 32, 2)[2]
    assert "so checkpointing, which costs time, is not" in pick([way(1, 1)], room, 32, 2)[2]


TRAINER = {"devices": 4, "num_nodes": 1, "strategy": "auto", "accelerator": "auto"}


def test_processes_of_one_machine_share_its_memory() -> None:
    cpu = {**TRAINER, "num_nodes": 2, "accelerator": "cpu"}
    devices, room = devices_of(cpu, "8GB")
    assert (devices.count, devices.own(100), devices.strategy) == (8, 13, "ddp")
    assert room == Room(2 * 10**9, "of 8 GB given")
    assert devices_of({**TRAINER, "devices": None}, "8GB")[0] == Devices("cuda")
    assert devices_of(TRAINER, "8GB")[1].free == 8 * 10**9 - 400_000_000  # of each GPU


def test_the_gpu_with_the_least_free_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda": 9, "cuda:0": 9, "cuda:1": 5, "cuda:2": 7}
    monkeypatch.setattr(hardware, "pick_device", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(hardware, "room_here", lambda gpu: Room(free[str(gpu)], "free"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for asked, least in ((2, 5), ([0, 2], 7), ("auto", 5), (1, 9)):
        assert devices_of({**TRAINER, "devices": asked}, None)[1].free == least
    with pytest.raises(UsageError, match="devices is 4, but this machine has 3 GPUs; add --vram"):
        devices_of(TRAINER, None)
    with pytest.raises(UsageError, match=r"devices is \[1, 3\], but this machine has 3 GPUs"):
        devices_of({**TRAINER, "devices": [1, 3]}, None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"devices": 0}, "trainer.devices is 0; expected a number from 1, auto"),
        ({"devices": "x"}, "trainer.devices is x; expected a number from 1, auto"),
        ({"num_nodes": 0}, "trainer.num_nodes is 0; expected at least 1"),
        ({"strategy": "deepspeed"}, "trainer.strategy is deepspeed; expected auto, ddp or fsdp"),
    ],
)
def test_what_fit_would_refuse_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        devices_of({**TRAINER, **changed}, "8GB")
