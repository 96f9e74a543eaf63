from collections.abc import Iterator
from copy import deepcopy
from functools import cache

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitlora.adapters import Lora
from vitlora.backbones import Backbone, load_backbone
from vitlora.errors import UsageError
from vitlora.quantization import (
    BLOCK_SIZES,
    Storage,
    dequantize,
    four_bit,
    freeze,
    frozen_bytes,
    pack_layer,
    plain_weight,
)
from vitlora.quantization.four_bit import FourBitLinear, round_trip

LAYER = "blocks.1.mlp.fc1"


@cache
def fresh() -> Backbone:
    made = load_backbone("vitlora/vit_micro_patch8_96", 3, "none", 32)
    made.module.blocks = made.module.blocks[:2]  # pyright: ignore
    torch.manual_seed(0)
    with torch.no_grad():  # biases start at zero and would hide a lost one
        for name, parameter in made.module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return made


def backbone() -> Backbone:
    return deepcopy(fresh())


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """bitsandbytes hands large blocks and odd widths to torch.compile, which takes seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


def randomise(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():  # LoRA's B and the head start at zero
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    return network


def autocast(dtype: torch.dtype, device: str = "cpu") -> torch.autocast:
    half = dtype if dtype != torch.float32 else torch.bfloat16
    return torch.autocast(device, half, enabled=dtype != torch.float32)


def gradients(
    network: nn.Module, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    network.train()
    network.zero_grad()
    with autocast(dtype, device):
        loss = network(images().to(device)).float().square().sum()
    loss.backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def around_evaluation(
    storage: Storage, device: str = "cpu"
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns each gradient, and the logits, before and after an evaluation forward."""
    made, dtype = backbone(), storage.torch_dtype
    freeze(made.module, storage)
    network = randomise(Lora(rank=4).inject(made, "full")).to(device)
    before = gradients(network, dtype, device)
    network.eval()
    with torch.no_grad(), autocast(dtype, device):
        first = network(images().to(device))
        second = network(images().to(device))
    after = gradients(network, dtype, device)
    assert len(before) > 10
    assert before.keys() == after.keys()
    assert all(gradient.norm() > 0 for gradient in before.values())
    return [(first, second), *((before[name], after[name]) for name in before)]


KEPT = [("none", 64), ("nf4", 64), ("nf4", 128), ("fp4", 64), ("fp4", 128)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("quantization", "block_size"), KEPT)
def test_gradients_are_identical_before_and_after_an_evaluation_forward(
    quantization: str, block_size: int, dtype: str
) -> None:
    for before, after in around_evaluation(Storage(quantization, dtype, block_size)):  # pyright: ignore
        assert torch.equal(before, after)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("quantization", "block_size"), KEPT)
def test_gradients_on_cuda_agree_before_and_after_an_evaluation_forward(
    quantization: str, block_size: int, dtype: str
) -> None:
    for before, after in around_evaluation(Storage(quantization, dtype, block_size), "cuda"):  # pyright: ignore
        # sums run in any order there
        assert (before - after).norm() <= 1e-2 * before.norm()


@pytest.mark.parametrize(("quantization", "block_size"), KEPT[1:])
def test_gradients_through_four_bits_equal_those_through_the_dequantised_weights(
    quantization: str, block_size: int
) -> None:
    storage = Storage(quantization, "float32", block_size)  # pyright: ignore
    quantised, plain = backbone(), backbone()
    freeze(quantised.module, storage)
    dequantize(plain.module, storage)
    got, expected = (
        gradients(randomise(Lora(rank=4).inject(made, "full"))) for made in (quantised, plain)
    )
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02


def by_the_library(
    weight: torch.Tensor, quantization: str, block_size: int, double: bool = True
) -> torch.Tensor:
    packed = bnb.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=double, quant_type=quantization
    )
    return bnb.dequantize_4bit(*packed)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_the_round_trip_is_the_librarys_to_the_bit(quantization: str, block_size: int) -> None:
    for rows, width in ((48, block_size), (5, 3 * block_size), (1, 2 * block_size)):
        weight = weights(rows, width)
        got = round_trip(weight, quantization, block_size)
        assert torch.equal(got, by_the_library(weight, quantization, block_size))
        single = by_the_library(weight, quantization, block_size, double=False)
        # a scale keeps 8 bits of its distance from the mean scale
        assert (got - single).norm() <= 0.01 * single.norm()
        assert rows == 1 or not torch.equal(got, single)


def test_the_library_takes_these_block_sizes_and_no_others() -> None:
    for block_size in (8, 16, 48, 96, 8192):
        assert block_size not in BLOCK_SIZES
        with pytest.raises(ValueError, match="blocksize"):
            round_trip(weights(2, 64), "nf4", block_size)


def normal_float() -> torch.Tensor:
    """The 16 levels of QLoRA's appendix E: quantiles of a normal distribution, scaled to [-1, 1].

    Half of the widest tail on either side keeps the outermost at a finite quantile.
    """
    tail = 1 - 0.5 * (1 / 32 + 1 / 30)
    above = torch.special.ndtri(torch.linspace(0.5, tail, 9, dtype=torch.float64))
    below = -torch.special.ndtri(torch.linspace(0.5, tail, 8, dtype=torch.float64))
    levels = torch.cat([below.flip(0), above[1:]])
    return levels / levels.max()


def four_bit_float() -> torch.Tensor:
    """A sign, two bits of exponent, one of mantissa: in units of a twelfth of the largest."""
    positive = torch.tensor([0, 0.0625, 2, 3, 4, 6, 8, 12], dtype=torch.float64) / 12
    return torch.cat([-positive.flip(0), positive])


@pytest.mark.parametrize(
    ("quantization", "levels"), [("nf4", normal_float()), ("fp4", four_bit_float())]
)
def test_each_weight_goes_to_the_nearest_level_of_the_paper(
    quantization: str, levels: torch.Tensor
) -> None:
    weight = weights(64, 192)
    blocks = weight.double().view(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scales)[..., None] - levels).abs().argmin(-1)
    expected = (levels[nearest] * scales).view(64, 192)
    single = by_the_library(weight, quantization, 64, double=False)
    assert (single - expected).norm() <= 1e-5 * expected.norm()
    got = round_trip(weight, quantization, 64)
    assert (got - expected).norm() <= 0.01 * expected.norm()


def by_hand(weight: torch.Tensor, quantization: str = "nf4", block_size: int = 64) -> torch.Tensor:
    """Reads the packed bytes code by code, block after block, in float64."""
    codes, state = bnb.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=True, quant_type=quantization
    )
    packed, count = codes.flatten().long(), weight.numel()
    levels = state.code.double()[torch.stack([packed >> 4, packed & 15], 1).flatten()]
    outer = state.state2.absmax.double().repeat_interleave(256)[: state.absmax.numel()]
    scales = state.state2.code.double()[state.absmax.long()] * outer + state.offset.double()
    return (levels[:count] * scales.repeat_interleave(block_size)[:count]).view(weight.shape)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_four_bits_are_read_right_whatever_the_width(quantization: str, block_size: int) -> None:
    for shape in ((64, 192), (100, 160), (48, 72), (32, 4304), (3, 35)):
        weight = weights(*shape)
        expected = by_hand(weight, quantization, block_size)
        got = round_trip(weight, quantization, block_size)
        assert (got - expected).norm() <= 1e-6 * expected.norm()
        assert 0.07 < (got - weight).norm() / weight.norm() < 0.18


def test_a_transposed_weight_is_read_as_it_is_indexed() -> None:
    weight = weights(160, 96).T
    assert not weight.is_contiguous()
    assert torch.equal(round_trip(weight, "nf4", 64), round_trip(weight.contiguous(), "nf4", 64))


@pytest.mark.parametrize(("width", "block_size"), [(128, 64), (160, 64), (192, 128), (192, 256)])
@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_computes_the_product_with_the_weights_it_keeps(
    width: int, block_size: int, quantization: str, dtype: torch.dtype
) -> None:
    linear = nn.Linear(width, 96)
    expected_weight = by_hand(linear.weight.data, quantization, block_size)
    layer = FourBitLinear.from_linear(linear, dtype, quantization, block_size)
    x = torch.randn(width, 7).T.requires_grad_()  # not contiguous
    expected = F.linear(x.double(), expected_weight, linear.bias.double())
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for mode in (True, False, True):
        got = layer.train(mode)(x)
        assert layer.training is mode
        assert got.dtype == x.dtype
        assert (got - expected).norm() <= bound * expected.norm()
        (gradient,) = torch.autograd.grad(got.sum(), x)
        columns = expected_weight.sum(0).expand(7, -1)
        assert (gradient - columns).norm() <= bound * columns.norm()


class Products(TorchDispatchMode):
    """Writes down the dtype of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # pyright: ignore
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            self.dtypes += [arg.dtype for arg in args if isinstance(arg, torch.Tensor)]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("inputs", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_both_products_run_in_the_compute_dtype(
    compute: torch.dtype, inputs: torch.dtype, bias: bool
) -> None:
    linear = nn.Linear(160, 96, bias=bias)
    layer = FourBitLinear.from_linear(linear, compute, "nf4", 64)
    x = torch.randn(2, 7, 160).to(inputs).requires_grad_()
    with Products() as products:
        got = layer(x)
        got.sum().backward()
    assert len(products.dtypes) >= 4  # two factors forward, two backward
    assert set(products.dtypes) == {compute}
    weight = round_trip(linear.weight.data, "nf4", 64).to(compute)
    expected = F.linear(x.to(compute), weight, linear.bias.to(compute) if bias else None)
    assert torch.equal(got, expected.to(inputs))
    assert got.dtype == inputs
    assert x.grad is not None
    assert x.grad.dtype == inputs


def test_a_layer_keeps_no_plain_weight_for_the_backward_pass() -> None:
    layer = FourBitLinear.from_linear(nn.Linear(160, 96), torch.float32, "nf4", 64)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(7, 160, requires_grad=True))
    assert sum(tensor.numel() for tensor in kept) < 96 * 160


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_prediction_rounds_the_base_to_the_bits_that_training_saw(dtype: str) -> None:
    storage = Storage("fp4", dtype, 128)
    trained, predicting = backbone(), backbone()
    freeze(trained.module, storage)
    dequantize(predicting.module, storage)
    seen = dict(trained.module.named_modules())
    for name, layer in predicting.module.named_modules():
        if isinstance(layer, nn.Linear) and name != "head":
            assert type(layer) is nn.Linear
            assert torch.equal(layer.weight, plain_weight(seen[name]))


def test_the_head_the_patch_embedding_and_the_norms_are_not_quantised() -> None:
    made = backbone()
    before = {n: p.detach().clone() for n, p in made.module.named_parameters()}
    freeze(made.module, Storage("fp4", block_size=32))
    for name, parameter in made.module.named_parameters():
        packed = hasattr(parameter, "quant_state")
        assert packed == (
            name.startswith("blocks.")
            and name.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        )
        assert packed or torch.equal(parameter, before[name])


@pytest.mark.parametrize(("quantization", "block_size"), KEPT[1:])
def test_frozen_bytes_are_four_bits_a_weight_a_byte_a_scale_and_small_tables(
    quantization: str, block_size: int
) -> None:
    made = backbone()
    linears = [
        layer.weight.numel()
        for name, layer in made.module.named_modules()
        if isinstance(layer, nn.Linear) and name != "head"
    ]
    freeze(made.module, Storage("none"))
    full = frozen_bytes(made.module)
    assert full == sum(p.numel() * 4 for p in made.module.parameters())
    made = backbone()
    freeze(made.module, Storage(quantization, "float32", block_size))  # pyright: ignore
    expected = 0
    for count in linears:
        blocks = -(-count // block_size)
        # codes, scales, their scales, 16 fp32 levels, 256 fp32 levels of a scale, an offset
        expected += -(-count // 2) + blocks + 4 * -(-blocks // 256) + 16 * 4 + 256 * 4 + 4
    assert full - frozen_bytes(made.module) == 4 * sum(linears) - expected


def test_a_vit_b_in_nf4_takes_49_mib() -> None:
    made = load_backbone("timm/vit_base_patch16_224", 2, "none").module
    linears = [p for n, p in made.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    freeze(made, Storage("nf4", "bfloat16"))
    count = sum(p.numel() for p in linears)
    assert (len(linears), count) == (48, 12 * 12 * 768**2)
    # codes, scales, their scales; tables: 16 + 256 levels and an offset in fp32 for each layer
    packed = count // 2 + count // 64 + count // 64 // 64 + 48 * (16 + 256 + 1) * 4
    biases = 12 * (3 + 1 + 4 + 1) * 768
    patches = 768 * 3 * 16 * 16 + 768
    exact = (197 + 1) * 768 + 25 * 2 * 768 + 2 * 768 + 2  # positions, token, norms, the head
    assert frozen_bytes(made) == packed + 2 * (biases + patches) + 4 * exact
    assert frozen_bytes(made) <= 1.05 * 49 * 2**20


@pytest.mark.parametrize(("quantization", "block_size"), KEPT[1:])
def test_codes_and_scales_are_the_librarys_across_slices(
    quantization: str, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(four_bit, "_SLICE", 4 * block_size)
    for shape in ((48, 2 * block_size), (7, 3 * block_size + 5), (1, 3)):
        weight = weights(*shape)
        weight.view(-1)[:block_size] = 0  # a block without a scale
        codes, state = four_bit._quantized(weight, quantization, block_size)
        expected, theirs = bnb.quantize_4bit(
            weight, blocksize=block_size, compress_statistics=True, quant_type=quantization
        )
        assert torch.equal(codes, expected)
        for name, tensor in theirs.as_dict().items():
            own = state.as_dict()[name]
            assert torch.equal(own, tensor) if torch.is_tensor(tensor) else own == tensor, name


def test_a_layer_packed_for_prediction_computes_in_fp32_with_the_weights_of_training() -> None:
    storage = Storage("nf4", "bfloat16")
    packed, merged = backbone(), backbone()
    for path, _ in list(packed.module.named_modules()):
        pack_layer(packed.module, storage, path)
    dequantize(merged.module, storage)
    seen = dict(packed.module.named_modules())
    for name, layer in merged.module.named_modules():
        if isinstance(layer, nn.Linear) and name != "head":
            assert torch.equal(plain_weight(seen[name]), layer.weight)
            assert torch.equal(seen[name].bias, layer.bias)  # pyright: ignore
    with torch.no_grad(), Products() as products:
        got, expected = packed.module(images()), merged.module(images())
    assert set(products.dtypes) == {torch.float32}
    assert torch.equal(got, expected)


def test_bias_rounds_to_bf16_as_the_bundle_says_and_stays_there() -> None:
    made = backbone()
    bias = made.module.get_submodule(LAYER).bias.detach().clone()
    dequantize(made.module, Storage("nf4", "bfloat16"))
    layer = made.module.get_submodule(LAYER)
    layer(torch.randn(2, 160))
    assert layer.bias.dtype == torch.float32
    assert torch.equal(layer.bias, bias.bfloat16().float())


def test_dequantize_in_fp32_reproduces_a_base_that_was_kept_in_bf16() -> None:
    kept, plain = backbone(), backbone()
    storage = Storage("none", "bfloat16")
    freeze(kept.module, storage)
    dequantize(plain.module, storage)
    a = kept.module.get_submodule(LAYER).weight.float()
    b = plain.module.get_submodule(LAYER).weight
    assert b.dtype == torch.float32
    assert torch.equal(a, b)
    assert not torch.equal(b, backbone().module.get_submodule(LAYER).weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization": "int3"}, "model.quantization is 'int3'; expected one of none, nf4, fp4"),
        ({"quantization": "int8"}, "model.quantization is 'int8'; expected one of none, nf4, fp4"),
        (
            {"quantization": "nf4", "block_size": 48},
            "model.block_size is 48; expected one of 32, 64, 128, 256, 512, 1024, 2048, 4096",
        ),
        (
            {"quantization": "fp4", "block_size": 0},
            "model.block_size is 0; expected one of 32, 64, 128, 256, 512, 1024, 2048, 4096",
        ),
        ({"dtype": "float8"}, "dtype is 'float8'; expected one of float32, bfloat16, float16"),
    ],
)
def test_unknown_storage_is_refused_in_one_line(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Storage(**fields)  # pyright: ignore
    assert str(caught.value) == message


def test_the_record_of_an_older_bundle_means_blocks_of_64() -> None:
    old = Storage(**{"quantization": "nf4", "dtype": "bfloat16"})  # pyright: ignore
    assert old == Storage("nf4", "bfloat16", 64)


def test_a_block_size_without_quantization_changes_nothing() -> None:
    a, b = backbone(), backbone()
    freeze(a.module, Storage("none", block_size=128))
    freeze(b.module, Storage("none"))
    for x, y in zip(a.module.parameters(), b.module.parameters(), strict=True):
        assert torch.equal(x, y)
