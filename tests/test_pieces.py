"""Batches in pieces against whole ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from runs import BACKBONE, micro

from benchmarks.plan import measure
from vitlora import pieces as module
from vitlora.adapters import FullFineTuning, Lora
from vitlora.adapters.variants import init_eva
from vitlora.backbones import features_and_logits, tokens_of
from vitlora.backbones.backbone import at_once
from vitlora.memory import footprint
from vitlora.pieces import differentiated, pictures_at_once, pieces
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier
from vitlora.training.loss import summed_loss

LABELS = torch.tensor([0, 1, 2, 1, -100, 0, 2])  # one picture does not count
IMAGES = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a CPU compute at most three of 32-pixel pictures at once (17 tokens each)."""
    monkeypatch.setattr(module, "TOKENS", 3 * 17 / torch.get_num_threads())


def test_a_cpu_computes_as_many_pictures_at_once_as_have_few_enough_tokens() -> None:
    threads = torch.get_num_threads()
    assert pictures_at_once("cpu", 1_600 * threads) == 1
    assert pictures_at_once("cpu", 200) == 8 * threads
    assert pictures_at_once("cpu", 10**9) == 1
    assert pictures_at_once("cuda", 197) is None and pictures_at_once("mps", 197) is None


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [3]), (4, [2, 2]), (7, [3, 2, 2])])
def test_pieces_are_equal_but_for_one_picture_and_keep_the_order(
    few: None, count: int, sizes: list[int]
) -> None:
    parts = pieces(IMAGES[:count], 17)
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat(parts), IMAGES[:count])


def test_a_batch_that_fits_is_not_copied() -> None:
    assert pieces(IMAGES, 17)[0] is IMAGES


def _trained(adapter: Any, precision: str = "32-true", **options: Any) -> Classifier:
    model = Classifier(3, BACKBONE, "none", 32, adapter=adapter, **options)
    torch.manual_seed(0)
    model.build(torch.device("cpu"), precision)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # LoRA's B and the head begin with 0
                parameter.normal_(std=0.2)
    return model.train()


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 3.0])])
@pytest.mark.parametrize("adapter", [Lora(4), Lora(4, variant="dora"), FullFineTuning()])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("size", [1, 3])  # of one picture, gradients may be views of each other
def test_loss_logits_and_gradients_are_those_of_the_whole_batch(
    adapter: Any, weights: torch.Tensor | None, precision: str, size: int
) -> None:
    model = _trained(adapter, precision)
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = partial(summed_loss, weights=weights, smoothing=0.1)
    found = []
    for parts in ((IMAGES,), IMAGES.split(size)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            summed, logits = differentiated(model, loss, parts, LABELS, trained)
        (summed * 0.5).backward()
        found.append((summed.detach(), logits.detach(), [p.grad for p in trained]))
    (loss_1, logits_1, gradients_1), (loss_2, logits_2, gradients_2) = found
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "32-true" else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(loss_2, loss_1, **near)
    torch.testing.assert_close(logits_2, logits_1, **near)
    for one, other in zip(gradients_1, gradients_2, strict=True):
        assert one is not None and other is not None and one.abs().max() > 0
        assert (one - other).norm() <= near["rtol"] * one.norm()


def _fitted(accumulate: int, **options: Any) -> list[torch.Tensor]:
    model = _trained(Lora(4), optimizer="sgd", lr=0.01, **options)
    data = torch.utils.data.TensorDataset(IMAGES, LABELS.clamp(min=0))
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        precision="32-true",
        cache="off",
        enable_progress_bar=False,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
    ).fit(model, torch.utils.data.DataLoader(data, batch_size=4))
    return [p.detach() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_in_pieces_ends_with_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, accumulate: int, checkpointing: bool
) -> None:
    monkeypatch.setattr(Classifier, "on_fit_start", lambda self: None)
    whole = _fitted(accumulate, checkpointing=checkpointing)
    start = [p.detach() for p in _trained(Lora(4)).parameters() if p.requires_grad]
    monkeypatch.setattr(module, "TOKENS", 1)  # a picture at a time
    parts = _fitted(accumulate, checkpointing=checkpointing)
    for one, other, first in zip(parts, whole, start, strict=True):
        assert (other - first).norm() > 0
        assert (one - other).norm() < 1e-3 * (other - first).norm()


def test_half_of_the_patches_make_pieces_of_twice_as_many_pictures(few: None) -> None:
    model = _trained(Lora(4), patch_drop=0.5)
    assert model.tokens == 9 and tokens_of(model.backbone.module) == 17
    counted = footprint(
        {"backbone": BACKBONE, "image_size": 32, "patch_drop": 0.5}, 3, "cpu", "32-true"
    )
    assert counted.at_once == 6


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_computes_pieces_of_every_batch_and_needs_no_old_gradients(
    few: None, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    monkeypatch.setattr(Classifier, "on_fit_start", lambda self: None)
    model = _trained(Lora(4), optimizer="sgd")
    seen: dict[bool, list[int]] = {True: [], False: []}

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[module.training].append(len(inputs[0]))
        if module.training and sum(seen[True]) % 7 <= 3:  # the first piece of a batch
            assert all(p.grad is None for p in model.parameters())

    network, pictures = model.built_network(), IMAGES
    network.register_forward_pre_hook(watch)
    if cached:  # tokens instead of pictures
        tokens = model.backbone.module.patch_embed(IMAGES).detach()  # pyright: ignore
        pictures = torch.cat([tokens[:, :1], tokens], 1)
        model.cached_forward = lambda some: network(IMAGES[: len(some)])
    data = torch.utils.data.TensorDataset(pictures, LABELS.clamp(min=0))
    loader = torch.utils.data.DataLoader(data, batch_size=7)
    options: dict[str, Any] = {"enable_progress_bar": False, "precision": "32-true"}
    Trainer(max_epochs=2, accelerator="cpu", cache="off", **options).fit(model, loader, loader)
    assert seen == {True: [3, 2, 2] * 2, False: [3, 2, 2] * 2}


def test_sharded_weights_are_computed_with_all_pictures_at_once(few: None) -> None:
    model = _trained(Lora(4))
    assert [len(part) for part in model._pieces(IMAGES)] == [3, 2, 2]
    model.at_once = True
    assert [len(part) for part in model._pieces(IMAGES)] == [7]
    counted = footprint({"backbone": BACKBONE, "image_size": 32}, 3, "cpu", "32-true",
                        spread_over=2)  # fmt: skip
    assert counted.at_once is None


def test_eva_looks_at_pieces(few: None) -> None:
    model = _trained(Lora(4, variant="eva"))
    network, seen = model.built_network(), list[int]()
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    init_eva(network, lambda: [(IMAGES, LABELS)])
    assert seen == [3, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_in_pieces_are_those_of_the_whole_batch(few: None, dtype: torch.dtype) -> None:
    network = micro().module.eval().to(dtype)
    with torch.inference_mode():
        parts = features_and_logits(network, IMAGES.to(dtype))
        whole = at_once(network, IMAGES.to(dtype))
    near = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, **near)


@pytest.mark.parametrize(
    ("way", "share"), [("lora", 0.6), ("full", 0.8), ("full, checkpointed", 0.9)]
)
def test_the_plan_knows_that_memory_holds_one_piece(
    monkeypatch: pytest.MonkeyPatch, way: str, share: float
) -> None:
    adapter = Lora(8) if way == "lora" else FullFineTuning()
    options = {"backbone": BACKBONE, "image_size": 64, "adapter": adapter}
    options["checkpointing"] = "checkpointed" in way
    measured = measure(dict(options), torch.device("cpu"), "32-true", 32)
    monkeypatch.setattr(module, "TOKENS", 8 * 65 / torch.get_num_threads())
    counted = footprint(options, 5, "cpu", "32-true")
    in_pieces = measure(dict(options), torch.device("cpu"), "32-true", 32)
    assert counted.total(32) == pytest.approx(in_pieces, rel=0.1)
    assert in_pieces < share * measured
    accumulated = footprint(options, 5, "cpu", "32-true", accumulates=True)
    in_batches = measure(dict(options), torch.device("cpu"), "32-true", 32, 2)
    assert accumulated.total(32) == pytest.approx(in_batches, rel=0.1)
    most = counted.largest_batch(counted.total(40))
    assert most in (39, 40) and counted.largest_batch(counted.total(8)) == 8
    assert counted.largest_batch(counted.total(3)) == 3
