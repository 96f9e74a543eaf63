"""Every variant against its paper's formula, the merge, the bundle and plain PEFT."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runs import micro as backbone
from torch import nn

from vitlora.adapters import Lora, count_trainable, gradient_self_test
from vitlora.backbones import Backbone
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.merging import merge_into
from vitlora.bundle.record import Record
from vitlora.errors import BundleError, UsageError, VitloraError
from vitlora.quantization import Storage, dequantize, freeze

LAYER = "blocks.1.attn.qkv"
PATH = f"base_model.model.{LAYER}"

# name -> options of Lora, storage, head
CASES: dict[str, tuple[dict[str, Any], Storage, Any]] = {
    "lora": ({}, Storage(), "full"),
    "rslora": ({"variant": "rslora"}, Storage(), "full"),
    "dora": ({"variant": "dora"}, Storage(), "full"),
    "pissa": ({"variant": "pissa"}, Storage(), "full"),
    "olora": ({"variant": "olora"}, Storage(), "full"),
    "eva": ({"variant": "eva"}, Storage(), "full"),
    "loftq": ({"variant": "loftq"}, Storage("nf4"), "full"),
    "nf4": ({}, Storage("nf4"), "full"),
    "rslora nf4": ({"variant": "rslora"}, Storage("nf4"), "full"),
    "q and v": ({"targets": ["attention.q", "attention.v"]}, Storage(), "full"),
    "rslora q, k and v": (
        {"targets": ["attention.q", "attention.k", "attention.v"], "variant": "rslora"},
        Storage(),
        "full",
    ),
    "q and v nf4": ({"targets": ["attention.q", "attention.v"]}, Storage("nf4"), "full"),
    "ranks": (
        {"ranks": {"mlp.fc1": 2, "blocks.1": 5, "blocks.2.attention.proj": 7}},
        Storage(),
        "full",
    ),
    "rslora ranks": ({"ranks": {"mlp.fc1": 2}, "variant": "rslora"}, Storage(), "full"),
    "pissa ranks": ({"ranks": {"mlp.fc1": 2}, "variant": "pissa"}, Storage(), "full"),
    "eva ranks": ({"ranks": {"mlp.fc1": 2}, "variant": "eva"}, Storage(), "full"),
    "norms": ({"norms": True}, Storage(), "full"),
    "biases": ({"biases": True}, Storage(), "full"),
    "norms and biases": ({"norms": True, "biases": True}, Storage(), "full"),
    "dora norms": ({"variant": "dora", "norms": True}, Storage(), "full"),
    "norms nf4": ({"norms": True}, Storage("nf4"), "full"),
    "biases, head": ({"biases": True}, Storage(), "lora"),
    "norms, biases, head": ({"norms": True, "biases": True}, Storage(), "lora"),
    "rslora head": ({"variant": "rslora", "norms": True}, Storage(), "lora"),
    "last block": ({"last_blocks": 1, "variant": "pissa"}, Storage(), "full"),
    "lora on the head alone": ({"targets": []}, Storage("nf4"), "lora"),
}


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def loader() -> list[Any]:
    return [(torch.cat([images(i), images(i + 9)]), torch.zeros(8)) for i in range(12)]


def build(name: str) -> tuple[Lora, Backbone, nn.Module]:
    """Returns a freshly injected network, on a fresh head of zeros."""
    options, storage, head = CASES[name]
    adapter, made = Lora(rank=4, **options), backbone()
    if head == "lora":
        nn.init.zeros_(made.module.head.weight)
        nn.init.zeros_(made.module.head.bias)
    adapter.check(made, head, storage)
    base = {n: p.detach().clone() for n, p in made.module.named_parameters()}
    freeze(made.module, storage)
    torch.manual_seed(1)
    network = adapter.inject(made, head)
    if adapter.needs_base:
        adapter.init_loftq(network, base)
    adapter.init_from_data(network, loader)
    return adapter, made, network


def trained(name: str) -> tuple[Lora, Backbone, nn.Module]:
    """Returns the network after a few large steps: nothing trainable stays at its start."""
    adapter, made, network = build(name)
    parameters = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=0.02)
    torch.manual_seed(2)
    for _ in range(3):
        for parameter in parameters:  # the zeros of B hide A from the gradient
            parameter.grad = 0.2 * torch.randn_like(parameter)
            for hook in (parameter._backward_hooks or {}).values():
                parameter.grad = hook(parameter.grad)
        optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    return adapter, made, network.eval()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((got.double() - expected.double()).norm() / expected.double().norm()).detach())


def write(folder: Path, name: str, adapter: Lora, made: Backbone, network: nn.Module) -> Bundle:
    _, storage, head = CASES[name]
    record = Record(
        backbone=made.id,
        base_digest=made.digest,
        weights="none",
        storage=storage,
        method="Lora",
        head=head,
        classes=("a", "b", "c"),
        preprocessing=made.preprocessing,
        split={"root": "", "counts": {}, "digests": {}},
        metrics={},
    )
    save_bundle(folder, record, adapter.tensors(network), adapter.config(network), "model: {}\n")
    return load_bundle(folder)


@pytest.mark.parametrize("name", CASES)
def test_the_bundle_merged_into_the_plain_base_gives_the_trained_network(
    name: str, tmp_path: Path
) -> None:
    adapter, made, network = trained(name)
    bundle = write(tmp_path / "bundle", name, adapter, made, network)
    merged = merge_into(backbone(), bundle).eval()
    with torch.no_grad():
        expected = network(images())
        assert relative(merged(images()), expected) <= 1e-5
        plain = backbone()
        dequantize(plain.module, CASES[name][1])
        if CASES[name][0].get("targets") != []:  # the head alone does not make the difference
            plain.module.head = merged.head
        assert relative(plain.module.eval()(images()), expected) > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_plain_peft_opens_the_bundle_on_the_plain_model(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter, made, network = trained(name)
    write(tmp_path / "bundle", name, adapter, made, network)
    plain = backbone()
    dequantize(plain.module, CASES[name][1])
    nn.init.normal_(plain.module.head.weight)  # as random as a plain timm model's
    opened = PeftModel.from_pretrained(plain.module, str(tmp_path / "bundle")).eval()
    with torch.no_grad():
        assert relative(opened(images()), network(images())) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_every_trainable_tensor_is_reached_and_no_other_is_trained(name: str) -> None:
    _adapter, _made, network = trained(name)
    assert gradient_self_test(network, images()) > 1
    options, _, _head = CASES[name]
    for path, parameter in network.named_parameters():
        adapted = "lora_" in path
        whole = ".modules_to_save." in path
        bias = bool(options.get("biases")) and path.endswith("bias")
        twin = "original_module" in path
        assert parameter.requires_grad == ((adapted or whole or bias) and not twin), path


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "pissa", "olora", "eva", "q and v"])
def test_a_fresh_adapter_changes_nothing(name: str) -> None:
    _adapter, _made, network = build(name)
    with torch.no_grad():
        expected = backbone().module.eval()(images())
        assert relative(network.eval()(images()), expected) <= 2e-6


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    _, _, network = trained("rslora")
    layer: Any = network.get_submodule(PATH)
    x = torch.randn(5, 160)
    delta = layer.lora_B.default.weight.double() @ layer.lora_A.default.weight.double()
    expected = layer.base_layer(x).double() + 16 / 4**0.5 * x.double() @ delta.T
    assert relative(layer(x), expected) <= 1e-6


def test_dora_gives_each_row_its_own_length() -> None:
    _, _, network = trained("dora")
    layer: Any = network.get_submodule(PATH)
    base = layer.base_layer
    delta = layer.lora_B.default.weight.double() @ layer.lora_A.default.weight.double()
    direction = base.weight.double() + 16 / 4 * delta
    magnitude = layer.lora_magnitude_vector.default.weight.double()
    weight = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    x = torch.randn(5, 160)
    expected = F.linear(x.double(), weight, base.bias.double())
    assert relative(layer(x), expected) <= 1e-6


def test_pissa_takes_the_largest_singular_directions_out_of_the_base() -> None:
    weight: Any = backbone().module.get_submodule(LAYER).weight.detach()
    _, _, network = build("pissa")
    layer: Any = network.get_submodule(PATH)
    u, s, vh = torch.linalg.svd(weight.double())
    best = u[:, :4] * s[:4] @ vh[:4]
    start = 16 / 4 * layer.lora_B.default.weight @ layer.lora_A.default.weight
    assert relative(start, best) <= 1e-3
    assert relative(layer.base_layer.weight, weight - best) <= 1e-3


def test_eva_points_a_at_what_the_layer_sees() -> None:
    _, _, network = build("eva")
    plain, seen = backbone(), []
    layer = plain.module.get_submodule(LAYER)
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for batch, _ in loader():
            plain.module(batch)
    handle.remove()
    x = torch.cat([tokens.flatten(0, 1) for tokens in seen]).double()
    x = x - x.mean(0)
    a: Any = network.get_submodule(PATH).lora_A.default.weight.double()  # pyright: ignore
    caught = (x @ torch.linalg.qr(a.T)[0]).norm() ** 2 / x.norm() ** 2
    best = torch.linalg.svdvals(x)[:4].norm() ** 2 / x.norm() ** 2
    assert caught > 0.9 * best
    assert caught > 3 * 4 / 160


def test_loftq_undoes_a_part_of_the_rounding() -> None:
    weight: Any = backbone().module.get_submodule(LAYER).weight.detach()
    errors = {}
    for name in ("nf4", "loftq"):
        _, _, network = build(name)
        layer: Any = network.get_submodule(PATH)
        with torch.no_grad():
            effective = layer(torch.eye(160)) - layer(torch.zeros(1, 160))
        errors[name] = relative(effective.T, weight)
    s = torch.linalg.svdvals(weight - effective_nf4(weight))
    assert errors["loftq"] < 0.98 * errors["nf4"]
    best = float(s[4:].norm() / weight.norm())
    assert abs(errors["loftq"] - best) <= 1e-3


def effective_nf4(weight: torch.Tensor) -> torch.Tensor:
    plain = backbone()
    dequantize(plain.module, Storage("nf4"))
    return plain.module.get_submodule(LAYER).weight  # pyright: ignore


def test_q_and_v_alone_equal_lora_on_separate_projections() -> None:
    """Trains both for three steps of AdamW from the same start and compares what they compute."""
    _adapter, _, network = build("q and v")
    fused: Any = network.get_submodule(PATH)
    a, b = fused.lora_A.default.weight, fused.lora_B.default.weight
    rows = [slice(0, 160), slice(320, 480)]
    separate = [
        (a[4 * i : 4 * i + 4].detach().clone(), torch.zeros(160, 4)) for i in range(len(rows))
    ]
    for pair in separate:
        for factor in pair:
            factor.requires_grad_()
    mine = torch.optim.AdamW([a, b], lr=0.01, weight_decay=0.0)
    theirs = torch.optim.AdamW([f for pair in separate for f in pair], lr=0.01, weight_decay=0.0)
    x, target = torch.randn(8, 160), torch.randn(8, 480)

    def forward() -> torch.Tensor:
        out = fused.base_layer(x)
        for (down, up), part in zip(separate, rows, strict=True):
            delta = torch.zeros_like(out)
            delta[:, part] = 16 / 4 * x @ down.T @ up.T
            out = out + delta
        return out

    for _ in range(3):
        for optimizer, output in ((mine, fused(x)), (theirs, forward())):
            optimizer.zero_grad()
            (output - target).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        change = fused(x) - fused.base_layer(x)
        assert relative(change, forward() - fused.base_layer(x)) <= 1e-5
        assert torch.equal(change[:, 160:320], torch.zeros(8, 160))
        assert change[:, :160].norm() > 0.1 and change[:, 320:].norm() > 0.1
    counted = count_trainable(network) - 160 * 3 - 3
    assert counted == 6 * 2 * (4 * 160 + 160 * 4)  # blocks, projections, A and B


@pytest.mark.parametrize("name", ["ranks", "pissa ranks", "eva ranks"])
def test_layers_have_the_ranks_that_were_asked_for(name: str) -> None:
    _, _, network = trained(name)
    special = CASES[name][0]["ranks"]
    for path, layer in network.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        role = "mlp.fc1" if path.endswith("fc1") else ""
        expected = special.get(role, 4)
        if name == "ranks" and "blocks.1." in path:
            expected = 5
        if name == "ranks" and path.endswith("blocks.2.attn.proj"):
            expected = 7
        assert layer.lora_A.default.weight.shape[0] == expected, path  # pyright: ignore
        assert layer.scaling["default"] == pytest.approx(16 / expected)  # pyright: ignore


def test_lora_plus_gives_b_the_higher_rate() -> None:
    adapter = Lora(lr_ratio=16)
    assert adapter.rate(f"{PATH}.lora_B.default.weight") == 16
    assert adapter.rate(f"{PATH}.lora_A.default.weight") == 1
    assert adapter.rate("head.weight") == 1


@pytest.mark.parametrize(
    ("options", "storage", "head", "message"),
    [
        ({"variant": "pissa"}, Storage("nf4"), "full", "pissa, which changes the frozen layers"),
        ({"variant": "olora"}, Storage("nf4"), "full", "olora, which changes"),
        ({"biases": True}, Storage("nf4"), "full", "biases are trained, which changes"),
        ({"variant": "loftq"}, Storage(), "full", "set model.quantization to nf4"),
        ({"variant": "dora"}, Storage("nf4"), "full", "attn.qkv is not a multiple of 64 wide"),
        ({"variant": "dora"}, Storage(), "lora", "the head has none yet"),
        ({"variant": "eva"}, Storage(), "lora", "the head has none yet"),
        ({"rank": 161}, Storage(), "full", "rank is 161 for blocks.0.attn.qkv, which is 160 wide"),
        ({"rank": 161, "targets": []}, Storage(), "lora", "rank is 161 for head"),
        ({"ranks": {"mlp.fc1": 200}}, Storage(), "full", "rank is 200 for blocks.0.mlp.fc1"),
        (
            {"targets": ["attention.q", "attention.v"], "ranks": {"attention.q": 2}},
            Storage(),
            "full",
            "gives parts of blocks.0.attn.qkv different ranks",
        ),
        ({"ranks": {"mlp.fc3": 2}}, Storage(), "full", "'mlp.fc3', which names no adapted layer"),
        ({"ranks": {"blocks.9": 2}}, Storage(), "full", "'blocks.9', which names no adapted layer"),
    ],
)
def test_pairs_that_cannot_be_right_are_refused_before_training(
    options: dict[str, Any], storage: Storage, head: Any, message: str
) -> None:
    with pytest.raises(VitloraError, match=message):
        Lora(**options).check(backbone(), head, storage)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "dorra"}, "variant is dorra; expected one of lora, rslora, dora"),
        ({"lr_ratio": 0}, "lr_ratio is 0"),
        ({"ranks": {"mlp.fc1": 0}}, "mlp.fc1: 0; expected at least 1"),
        ({"targets": ["attention.qkv", "attention.q"]}, "and its part attention.q"),
        ({"targets": ["attention.v"], "variant": "dora"}, "a part of one"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Lora(**options)


def test_a_bundle_must_have_what_its_config_says_was_trained(tmp_path: Path) -> None:
    adapter, made, network = trained("norms and biases")
    write(tmp_path / "bundle", "norms and biases", adapter, made, network)
    read = load_bundle(tmp_path / "bundle")
    for end in ("blocks.1.norm1.weight", "norm.bias", "blocks.0.attn.proj.base_layer.bias"):
        tensors = {n: t for n, t in read.tensors.items() if not n.endswith(f"model.{end}")}
        assert len(tensors) == len(read.tensors) - 1
        with pytest.raises(BundleError, match="lacks 1 tensors, first for"):
            merge_into(backbone(), replace(read, tensors=tensors))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": "(("}, r"target_modules is '\(\('; expected names"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; expected a number"),
    ],
)
def test_a_config_of_nonsense_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    adapter, made, network = trained("lora")
    read = write(tmp_path / "bundle", "lora", adapter, made, network)
    with pytest.raises(BundleError, match=message):
        merge_into(backbone(), replace(read, peft={**(read.peft or {}), **change}))


def test_eva_decomposes_in_fp32_whatever_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA has no QR decomposition in bf16, to which autocast brings the products before it."""
    found: list[bool] = []
    real = torch.svd_lowrank

    def svd(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(torch.is_autocast_enabled("cpu"))
        return real(x, *args, **kwargs)

    monkeypatch.setattr(torch, "svd_lowrank", svd)
    with torch.autocast("cpu", torch.bfloat16):
        build("eva")
    assert found and not any(found)


def test_eva_ends_at_any_rank_and_says_when_there_are_too_few_tokens() -> None:
    made = backbone()
    adapter = Lora(rank=160, variant="eva", targets=["attention.qkv"])
    network = adapter.inject(made, "full")
    adapter.init_from_data(network, loader)
    a: Any = network.get_submodule(PATH).lora_A.default.weight  # pyright: ignore
    assert relative(a @ a.T, torch.eye(160)) <= 1e-4
    with pytest.raises(UsageError, match="too few for rank 160"):
        adapter.init_from_data(network, lambda: [(images()[:1], None)])


def test_dora_starts_at_the_rows_true_lengths_on_a_rounded_base() -> None:
    made = backbone()
    freeze(made.module, Storage("none", "bfloat16"))
    network = Lora(rank=4, variant="dora").inject(made, "full")
    layer: Any = network.get_submodule(PATH)
    lengths = layer.base_layer.weight.float().norm(dim=1)
    assert relative(layer.lora_magnitude_vector.default.weight, lengths) <= 1e-6
