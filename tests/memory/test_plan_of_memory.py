"""The plan's figures against what torch's allocator reports of the real step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.plan import measure
from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.backbones import load_backbone
from vitlora.errors import UsageError
from vitlora.memory import footprint, parse_size, pick, room_of
from vitlora.memory.footprint import Footprint
from vitlora.memory.ledger import PICTURES
from vitlora.memory.room import Room
from vitlora.memory.table import Way, bars, table
from vitlora.quantization import Storage, freeze, frozen_bytes
from vitlora.training.classifier import Classifier
from vitlora.training.optimizers import make_optimizer, state_bytes

MICRO: dict[str, Any] = {"backbone": "vitlora/vit_micro_patch8_96", "image_size": 64}
WAYS: dict[str, Callable[[], dict[str, Any]]] = {
    "linear": lambda: {"adapter": LinearProbe()},
    "lora": lambda: {"adapter": Lora(8)},
    "parts": lambda: {"adapter": Lora(4, targets=["attention.q", "attention.v"], last_blocks=2)},
    "dora": lambda: {"adapter": Lora(8, variant="dora", dropout=0.1)},
    "norms": lambda: {"adapter": Lora(8, norms=True, biases=True), "head": "full"},
    "head": lambda: {"adapter": Lora(2, targets=[]), "head": "lora"},
    "qlora": lambda: {"adapter": Lora(8), "quantization": "nf4"},
    "half the patches": lambda: {"adapter": Lora(8), "patch_drop": 0.5},
    "a quarter, checkpointed": lambda: {
        "adapter": Lora(8),
        "patch_drop": 0.75,
        "checkpointing": True,
    },
    "full": lambda: {"adapter": FullFineTuning()},
    "checkpointed": lambda: {"adapter": Lora(8), "checkpointing": True},
    "qlora, checkpointed": lambda: {
        "adapter": Lora(8),
        "quantization": "nf4",
        "checkpointing": True,
    },
    "full, checkpointed": lambda: {"adapter": FullFineTuning(), "checkpointing": True},
}
CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("way", WAYS)
def test_predicted_peak_is_within_ten_percent_of_the_allocators(way: str, precision: str) -> None:
    counted = footprint({**MICRO, **WAYS[way]()}, 5, "cpu", precision)
    measured = measure({**MICRO, **WAYS[way]()}, CPU, precision, 8)
    assert counted.total(8) == pytest.approx(measured, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("way", WAYS)
def test_predicted_peak_is_within_ten_percent_on_a_gpu(way: str) -> None:
    model = {"backbone": "timm/vit_base_patch16_224", **WAYS[way]()}
    measured = measure(dict(model), torch.device("cuda"), "bf16-mixed", 16)
    counted = footprint({**model, **WAYS[way]()}, 5, "cuda", "bf16-mixed")
    assert counted.total(16) == pytest.approx(measured, rel=0.1)


def test_saved_bytes_are_those_of_real_saved_tensors() -> None:
    module = Classifier(5, weights="none", **MICRO, **WAYS["lora"]())
    module.build(CPU, "32-true")
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}

    def saved(batch: int) -> int:
        seen: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = module.train()(torch.zeros(batch, 3, 64, 64))
            torch.nn.functional.cross_entropy(
                logits, torch.zeros(batch, dtype=torch.long), label_smoothing=0.1
            )
        return sum(storage.nbytes() for storage in seen.values())

    counted = footprint({**MICRO, **WAYS["lora"]()}, 5, "cpu", "32-true")
    assert counted.saved == saved(3) - saved(2)


@pytest.mark.parametrize("way", ["lora", "qlora", "full", "linear"])
def test_weights_are_those_of_the_real_network(way: str) -> None:
    module = Classifier(5, weights="none", **MICRO, **WAYS[way]())
    module.build(CPU, "bf16-mixed")
    network: Any = module.network
    trained = sum(4 * p.numel() for p in network.parameters() if p.requires_grad)
    counted = footprint({**MICRO, **WAYS[way]()}, 5, "cpu", "bf16-mixed")
    assert counted.base + counted.adapters == frozen_bytes(network) + trained
    assert counted.gradients == trained and counted.optimizer == 2 * trained
    assert counted.parameters == sum(p.numel() for p in load_backbone(
        MICRO["backbone"], 5, "none", 64).module.parameters())  # fmt: skip


@pytest.mark.parametrize("kept", [Storage("nf4", "bfloat16"), Storage("none", "bfloat16")])
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_base_of_another_precision_is_counted_as_it_will_be_kept(
    kept: Storage, precision: str
) -> None:
    """A bundle's base keeps its values: unpacked to fp32 where products run in another dtype."""
    options = {**MICRO, "quantization": kept.quantization}
    model = Classifier(5, **options)
    model.keep_as(kept)
    model.build(torch.device("cpu"), precision)
    assert model.network is not None
    expected = frozen_bytes(model.network)
    got = footprint(options, 5, "cpu", precision, kept=kept).base
    assert got == expected
    assert (got > 6_000_000) == (precision == "16-mixed")


def test_nothing_of_the_count_stays_behind_in_bitsandbytes() -> None:
    footprint({**MICRO, **WAYS["qlora"]()}, 5, "cpu", "32-true")
    made = load_backbone(MICRO["backbone"], 5, "none", 64)
    freeze(made.module, Storage("nf4"))
    assert torch.isfinite(made.module(torch.zeros(1, 3, 64, 64))).all()


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "sgd", "lion"])
def test_optimizer_state_is_that_of_the_real_one(name: Any) -> None:
    parameters = [torch.zeros(n, requires_grad=True) for n in (100, 4096, 5001, 70_000)]
    optimizer = make_optimizer(name, [{"params": parameters, "lr": 0.1}], CPU)
    sum(p.sum() for p in parameters).backward()  # pyright: ignore
    optimizer.step()
    shared = {"qmap1", "qmap2"}  # one table for all
    real = sum(
        t.numel() * t.element_size()
        for state in optimizer.state.values()
        for key, t in state.items()
        if torch.is_tensor(t) and t.numel() > 1 and key not in shared
    )
    assert state_bytes(name, parameters) == real


def lines(*moments: tuple[float, float], base: int = 0, stepping: int = 0) -> Footprint:
    table = torch.tensor(moments, dtype=torch.float64)
    return Footprint(base, 0, 0, 0, 10, stepping, table, 64, 1)


def test_the_peak_is_the_highest_moment_and_the_largest_batch_the_last_that_fits() -> None:
    counted = lines((100, 1), (0, 10), base=1000, stepping=120)
    assert [counted.total(batch) for batch in (1, 12, 20)] == [1120, 1120, 1200]
    for room in (1120, 1155, 1200, 2000):
        most = counted.largest_batch(room)
        assert counted.total(most) <= room < counted.total(most + 1)
    assert counted.largest_batch(1119) == 0


def test_no_tensor_of_a_vit_without_pictures_is_a_multiple_of_the_prime() -> None:
    assert all(PICTURES % n for n in range(2, PICTURES))
    for name in ("timm/vit_base_patch16_224", "timm/vit_7b_patch16_dinov3"):
        from vitlora.backbones import outline

        sizes = [p.numel() for p in outline(name, 5).module.parameters()]
        assert all(size % PICTURES for size in sizes)


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("6 GiB", 6 * 2**30), ("6144MB", 6144 * 10**6), ("0.5gb", 5 * 10**8)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["6", "GB", "-6GB", "0GB", "6 bananas", "6GBs", "", "99999999TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--vram is .* 6GB, 6GiB or 6144MB"):
        parse_size(text)


def ways(lora: float, lora_ckpt: float, qlora: float, linear: float) -> list[Way]:
    each = {"lora": lora, "qlora": qlora, "linear": linear}
    made = [Way(name, False, lines((0, size))) for name, size in each.items()]
    return [*made, Way("lora", True, lines((0, lora_ckpt)))]


@pytest.mark.parametrize(
    ("sizes", "method", "checkpointing", "batch"),
    [
        ((1, 1, 1, 1), "lora", False, 32),
        ((100, 1, 1, 1), "lora", False, 8),
        ((400, 10, 1, 1), "lora", True, 32),
        ((400, 400, 100, 1), "qlora", False, 8),
        ((800, 600, 500, 1), "lora", False, 1),
        ((9000, 9000, 9000, 1), "linear", False, 32),
    ],
)
def test_the_pick_costs_time_only_where_memory_asks_for_it(
    sizes: Any, method: str, checkpointing: bool, batch: int
) -> None:
    way, pictures, why = pick(ways(*sizes), Room(1000, "given"), 32)
    assert way is not None and (way.method, way.checkpointing) == (method, checkpointing)
    assert pictures == batch and way.counted.total(pictures) <= Room(1000, "given").usable
    assert why.startswith(f"Take {way.name}, {batch} at once: ") and why.endswith(".")


def test_where_nothing_fits_the_least_is_named() -> None:
    way, batch, why = pick(ways(9000, 8000, 9000, 9000), Room(1000, "given"), 32)
    assert way is None and not batch
    assert why.startswith("Nothing fits: lora with checkpointing takes least")


def test_table_and_bars_are_ascii_of_eighty_columns() -> None:
    made = [Way("lora", True, lines((1e9, 1e8), base=3 * 10**9)),
            Way("full", False, lines((9e9, 1e9), base=27 * 10**9))]  # fmt: skip
    room = room_of(6 * 10**9, "cuda")
    text = f"{table(made, room, (1, 8, 32))}\n{bars(made, room, 8)}"
    assert text.isascii() and max(map(len, text.splitlines())) <= 80
    small, large = bars(made, room, 8).splitlines()[-2:]
    assert small.index("]") == large.index(">")
    bar = small.partition("[")[2].partition("]")[0]
    assert bar.count("B") == round(44 * 3 / 5.6) and bar.count(".") == 44 - round(44 * 4.8 / 5.6)
    assert "." not in large.partition(">")[0]


@pytest.mark.parametrize(
    ("each", "shown"), [(10, "90"), (900, "1"), (9000, "none"), (0.01, "10,000+")]
)
def test_the_most_pictures_are_shown_up_to_what_a_step_may_have(each: float, shown: str) -> None:
    row = table([Way("lora", False, lines((0, each)))], Room(1000, "given"), (1,)).splitlines()[1]
    assert row.split()[-1] == shown
