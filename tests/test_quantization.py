import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitlora.adapters import Lora
from vitlora.backbones import Backbone, load_backbone
from vitlora.errors import UsageError
from vitlora.nf4 import Nf4Linear, round_trip
from vitlora.quantization import Storage, dequantize, freeze, frozen_bytes

LAYER = "blocks.1.mlp.fc1"


def backbone() -> Backbone:
    made = load_backbone("vitlora/vit_micro_patch8_96", 3, "none", 32)
    torch.manual_seed(0)
    with torch.no_grad():  # biases start at zero and would hide a lost one
        for name, parameter in made.module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return made


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def gradients(network: nn.Module, autocast: bool) -> dict[str, torch.Tensor]:
    network.train()
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        network(images()).float().square().sum().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_gradients_are_identical_before_and_after_an_evaluation_forward(
    quantization: str, dtype: torch.dtype
) -> None:
    autocast = dtype == torch.bfloat16
    made = backbone()
    freeze(made.module, Storage(quantization, str(dtype)[6:]), dtype)  # pyright: ignore
    network = Lora(rank=4).inject(made, "full")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    before = gradients(network, autocast)
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        first = network(images())
        second = network(images())
    after = gradients(network, autocast)
    assert torch.equal(first, second)
    assert len(before) > 10
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        assert gradient.norm() > 0
        assert torch.equal(gradient, after[name]), name


def test_gradients_through_nf4_equal_those_through_the_dequantised_weights() -> None:
    quantised, plain = backbone(), backbone()
    freeze(quantised.module, Storage("nf4"), torch.float32)
    dequantize(plain.module, Storage("nf4"))
    networks = [Lora(rank=4).inject(b, "full") for b in (quantised, plain)]
    for network in networks:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.1)
    got, expected = (gradients(network, autocast=False) for network in networks)
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def nf4_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """Reads the packed bytes with the QLoRA paper's table, block after block, in float64."""
    codes, state = bnb.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    packed = codes.flatten().long()
    levels = state.code.double()[torch.stack([packed >> 4, packed & 15], 1).flatten()]
    scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return (levels * scales.double().repeat_interleave(64)[: levels.numel()]).view(weight.shape)


@pytest.mark.parametrize("shape", [(64, 192), (100, 160), (160, 640), (48, 72), (32, 4304)])
def test_nf4_reads_its_own_codes_whatever_the_width(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    expected = nf4_by_hand(weight)
    got = round_trip(weight)
    assert (got - expected).norm() <= 1e-6 * expected.norm()
    assert 0.08 < (got - weight).norm() / weight.norm() < 0.11


@pytest.mark.parametrize("width", [128, 160])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_nf4_layer_computes_the_product_with_the_weights_it_keeps(
    width: int, dtype: torch.dtype
) -> None:
    linear = nn.Linear(width, 96)
    expected_weight = nf4_by_hand(linear.weight.data)
    layer = Nf4Linear.from_linear(linear, dtype)
    x = torch.randn(7, width, requires_grad=True)
    expected = F.linear(x.double(), expected_weight, linear.bias.double())
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for mode in (True, False, True):
        got = layer.train(mode)(x)
        assert got.dtype == x.dtype
        assert (got - expected).norm() <= bound * expected.norm()
        (gradient,) = torch.autograd.grad(got.sum(), x)
        by_hand = expected_weight.sum(0).expand(7, -1)
        assert (gradient - by_hand).norm() <= bound * by_hand.norm()


def test_the_head_the_patch_embedding_and_the_norms_are_not_quantised() -> None:
    made = backbone()
    before = {n: p.detach().clone() for n, p in made.module.named_parameters()}
    freeze(made.module, Storage("nf4"), torch.float32)
    for name, parameter in made.module.named_parameters():
        packed = hasattr(parameter, "quant_state")
        assert packed == (
            name.startswith("blocks.")
            and name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        )
        assert packed or torch.equal(parameter, before[name])


def test_frozen_nf4_takes_about_four_bits_a_weight() -> None:
    made = backbone()
    linears = sum(
        layer.weight.numel()
        for name, layer in made.module.named_modules()
        if isinstance(layer, nn.Linear) and name != "head"
    )
    freeze(made.module, Storage("none"), torch.float32)
    full = frozen_bytes(made.module)
    assert full == sum(p.numel() * 4 for p in made.module.parameters())
    made = backbone()
    freeze(made.module, Storage("nf4"), torch.float32)
    saved = full - frozen_bytes(made.module)
    bits = 32 - 8 * saved / linears
    # 4 bits, 8 for each scale of 64 weights, 32 for each of 256 scales, and small tables a layer
    assert 4 + 8 / 64 < bits < 4.6


def test_bias_rounds_to_bf16_as_the_bundle_says_and_stays_there() -> None:
    made = backbone()
    bias = made.module.get_submodule(LAYER).bias.detach().clone()
    freeze(made.module, Storage("nf4", "bfloat16"), torch.float32)
    layer = made.module.get_submodule(LAYER)
    layer(torch.randn(2, 160))
    assert layer.bias.dtype == torch.float32
    assert torch.equal(layer.bias, bias.bfloat16().float())


def test_freeze_in_fp32_reproduces_a_base_that_was_kept_in_bf16() -> None:
    kept, again, plain = backbone(), backbone(), backbone()
    storage = Storage("none", "bfloat16")
    freeze(kept.module, storage, torch.bfloat16)
    freeze(again.module, storage, torch.float32)
    dequantize(plain.module, storage)
    a = kept.module.get_submodule(LAYER).weight.float()
    b = again.module.get_submodule(LAYER).weight
    assert b.dtype == torch.float32
    assert torch.equal(a, b)
    assert torch.equal(b, plain.module.get_submodule(LAYER).weight)
    assert not torch.equal(b, backbone().module.get_submodule(LAYER).weight)


@pytest.mark.parametrize("fields", [{"quantization": "int3"}, {"dtype": "float8"}])
def test_unknown_storage_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Storage(**fields)  # pyright: ignore
