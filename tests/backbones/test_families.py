"""Tests of every supported family against timm itself; all others are refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from backbones.families import FAMILIES, loaded, shrunk, small, theirs
from safetensors.torch import save_file
from torch import nn

from vitlora.backbones import BLOCK_ROLES, ROLES, load_backbone
from vitlora.backbones import timm as our_timm
from vitlora.errors import BackboneError

CLASSES = 3
SPLIT = {"eva02-split", "eva02-clip", "sapiens2"}  # a layer each for q, k and v
GATED = {"dinov3-plus", "eva02-split", "eva02-clip", "aimv2"}  # a layer each for gate and value
BYPASSING = {"eva", "eva02-fused", "eva02-post-norm", "dinov3-bias", "beit", "beitv2"}
NAMED = {family: (name, kwargs) for family, name, kwargs in FAMILIES}

every_family = pytest.mark.parametrize("family", NAMED)
State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Makes any download fail the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("tried to download")

    monkeypatch.setattr(our_timm, "hf_hub_download", refuse)
    monkeypatch.setattr(our_timm.socket, "getaddrinfo", refuse)


def noise(size: int) -> torch.Tensor:
    """Returns two normalised pictures, (2, 3, size, size)."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def with_head_of(backbone, module: Any) -> Any:
    """Returns the backbone's module with the other's head, which loading leaves out."""
    assert not backbone.module.head.weight.any() and not backbone.module.head.bias.any()
    backbone.module.head.load_state_dict(module.head.state_dict())
    return backbone.module.eval()


def assert_same_answers(got: nn.Module, want: nn.Module, size: int, share: float = 1e-5) -> None:
    """Compares logits, in units of the largest, of two pictures that differ."""
    with torch.inference_mode():
        ours, timms = got(noise(size)), want(noise(size))
    largest = float(timms.abs().max())
    assert 0.01 < largest < 1e4  # also no NaN
    assert float((timms[0] - timms[1]).abs().max()) > 0.01 * largest
    torch.testing.assert_close(ours, timms, rtol=0, atol=share * largest)


def assert_same_buffers(got: nn.Module, want: nn.Module) -> None:
    """Compares what no file holds: rotary angles, indices of relative positions, key biases."""
    buffers = dict(got.named_buffers())
    assert buffers.keys() == dict(want.named_buffers()).keys()
    for name, buffer in want.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, msg=name)


@every_family
def test_logits_are_timms_own(family):
    name, kwargs = NAMED[family]
    backbone, module = small(name, kwargs, CLASSES), theirs(name, kwargs, CLASSES)
    assert backbone.id == f"timm/{name}"
    assert backbone.preprocessing.image_size == kwargs["img_size"]
    for key, tensor in [*backbone.module.named_parameters(), *backbone.module.named_buffers()]:
        assert tensor.device.type == "cpu", key
    assert_same_buffers(backbone.module, module)
    assert_same_answers(with_head_of(backbone, module), module, kwargs["img_size"])


@every_family
def test_another_image_size_is_timms_own(family, tmp_path):
    name, kwargs = NAMED[family]
    size = kwargs["img_size"] * 3 // 2
    state = theirs(name, kwargs, CLASSES).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    module = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "a.safetensors"), "num_classes": CLASSES},
        num_classes=CLASSES,
        **{**kwargs, "img_size": size},
    ).eval()
    backbone = small(name, kwargs, CLASSES, size)
    assert backbone.preprocessing.image_size == size
    assert_same_buffers(backbone.module, module)
    assert_same_answers(with_head_of(backbone, module), module, size, share=1e-4)


@every_family
def test_random_start_is_finite_and_answers_the_picture(family):
    name, kwargs = NAMED[family]
    with shrunk(name, kwargs):
        module: Any = load_backbone(f"timm/{name}", CLASSES, "none").module.eval()
    module.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = module(noise(kwargs["img_size"]))
    assert torch.isfinite(logits).all() and not torch.equal(logits[0], logits[1])


@every_family
def test_roles_name_each_linear_layer_of_the_blocks_once_and_each_is_called(family):
    name, kwargs = NAMED[family]
    backbone = small(name, kwargs, CLASSES)
    q, k, v = (f"attn.{part}_proj" if family in SPLIT else "attn.qkv" for part in "qkv")
    paths = {
        "attention.qkv": dict.fromkeys((q, k, v)),
        "attention.q": (q,),
        "attention.k": (k,),
        "attention.v": (v,),
        "attention.proj": ("attn.proj",),
        "mlp.fc1": ("mlp.fc1_g", "mlp.fc1_x") if family in GATED else ("mlp.fc1",),
        "mlp.fc2": ("mlp.fc2",),
    }
    assert paths.keys() == ROLES.keys() - {"head"}
    for role, names in paths.items():
        want = [f"blocks.{index}.{name}" for index in (0, 1) for name in names]
        assert backbone.layers(role) == want
        assert backbone.layers(role, last_blocks=1) == want[len(names) :]
    assert backbone.layers("head") == ["head"]
    modules = backbone.module.named_modules()
    linear = {n for n, m in modules if isinstance(m, nn.Linear) and n.startswith("blocks.")}
    found = [layer for role in BLOCK_ROLES for layer in backbone.layers(role)]
    assert len(found) == len(linear) and set(found) == linear
    called = []
    for path in found:
        layer = backbone.module.get_submodule(path)
        layer.register_forward_hook(lambda *_, path=path: called.append(path))
    with torch.inference_mode():
        backbone.module(noise(kwargs["img_size"]))
    assert sorted(called) == sorted(found)


@pytest.mark.parametrize("family", sorted(BYPASSING))
def test_timm_alone_reads_qkv_past_its_layer_with_the_same_result(family):
    """Holds the reason for `qkv_bias_separate`: it can go once timm's layer is called."""
    name, kwargs = NAMED[family]
    module, separate = theirs(name, kwargs, CLASSES), small(name, kwargs, CLASSES)
    called = []
    for block in module.blocks:
        block.attn.qkv.register_forward_hook(lambda *_: called.append(True))
    assert_same_answers(with_head_of(separate, module), module, kwargs["img_size"], share=2e-6)
    assert not called


@pytest.mark.parametrize(
    "family", ["siglip", "dinov3", "eva02-fused", "eva02-split", "rope-mixed", "sapiens2", "beit"]
)
def test_checkpointing_and_plain_attention_change_no_gradient(family):
    name, kwargs = NAMED[family]
    gradients = []
    for checkpointing in (False, True):
        backbone = small(name, kwargs, CLASSES)
        module = with_head_of(backbone, theirs(name, kwargs, CLASSES)).train()
        module.set_grad_checkpointing(checkpointing)
        for block in module.blocks:
            assert block.attn.fused_attn
            block.attn.fused_attn = not checkpointing
        torch.manual_seed(0)  # some rotary angles are shaken while training
        module(noise(kwargs["img_size"])).square().sum().backward()
        gradients.append({n: p.grad for n, p in module.named_parameters()})
    for key, want in gradients[0].items():
        assert want is not None and torch.isfinite(want).all(), key
        scale = max(float(want.abs().max()), 1e-3)
        torch.testing.assert_close(gradients[1][key], want, rtol=0, atol=1e-3 * scale, msg=key)


@pytest.mark.parametrize("family", ["beit", "eva02-fused", "eva02-split", "dinov3-bias"])
def test_bf16_autocast_is_near_fp32(family):
    name, kwargs = NAMED[family]
    module = with_head_of(small(name, kwargs, CLASSES), theirs(name, kwargs, CLASSES))
    images = noise(kwargs["img_size"])
    with torch.inference_mode():
        want = module(images)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(images).float()
    assert got.isfinite().all()
    got.square().sum().backward()
    assert module.blocks[0].attn.proj.weight.grad.isfinite().all()
    torch.testing.assert_close(got.detach(), want, rtol=0, atol=0.1 * float(want.abs().max()))


def _renamed(state: State, *pairs: tuple[str, str]) -> State:
    for pattern, name in pairs:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return state


def _dinov2_with_registers(state: State) -> State:
    position = torch.full_like(state["cls_token"], 0.3)
    state = _renamed(state, ("reg_token", "register_tokens"), ("mlp.fc1", "mlp.w12"))
    return _renamed(state, ("mlp.fc2", "mlp.w3")) | {
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], 1),
        "mask_token": torch.ones(1, 32),
    }


def _dinov3(state: State) -> State:
    state = _renamed(state, ("reg_token", "storage_tokens"), ("gamma_(.)", r"ls\1.gamma"))
    for key in [key for key in state if key.endswith("q_bias")]:
        q, v = state.pop(key), state.pop(key.replace("q_bias", "v_bias"))
        state[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.ones_like(q), v])
        state[key.replace("q_bias", "qkv.bias_mask")] = torch.ones(3 * len(q))
    return state | {"rope_embed.periods": torch.ones(4), "mask_token": torch.ones(1, 32)}


def _eva02(state: State) -> State:
    return _renamed(
        state,
        (r"mlp\.norm", "mlp.ffn_ln"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        (r"mlp\.fc2", "mlp.w3"),
        (r"(q|v)_proj\.bias", r"\1_bias"),
        (r"^fc_norm", "norm"),
    ) | {"rope.freqs_cos": torch.ones(2), "mask_token": torch.ones(1, 1, 32)}


def _openai_clip(state: State) -> State:
    state = _renamed(
        state,
        (r"patch_embed\.proj", "conv1"),
        ("pos_embed", "positional_embedding"),
        ("cls_token", "class_embedding"),
        (r"norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"norm(\d)", r"ln_\1"),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj", "attn.out_proj"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        (r"^blocks", "transformer.resblocks"),
        ("^", "visual."),
    )
    for key in ("visual.positional_embedding", "visual.class_embedding"):
        state[key] = state[key].squeeze(0)
    state["visual.class_embedding"] = state["visual.class_embedding"].squeeze(0)
    return state | {"visual.proj": torch.ones(32, 8), "token_embedding.weight": torch.ones(9, 8)}


def _open_clip(state: State) -> State:
    return _renamed(state, ("^", "visual.trunk.")) | {
        "visual.head.proj.weight": torch.ones(8, 32),
        "text.token_embedding.weight": torch.ones(9, 8),
        "logit_scale": torch.ones(1),
    }


def _beit(state: State) -> State:
    index = {f"blocks.{i}.attn.relative_position_index": torch.ones(17, 17) for i in (0, 1)}
    return state | index


ORIGINALS: dict[str, Callable[[State], State]] = {
    "deit3": lambda state: _renamed(state, (r"ls(\d)\.gamma", r"gamma_\1")),
    "dinov2-registers": _dinov2_with_registers,
    "dinov2-giant": _dinov2_with_registers,
    "dinov3": _dinov3,
    "dinov3-bias": _dinov3,
    "eva02-split": _eva02,
    "beit": _beit,
    "clip": _openai_clip,
    "siglip": _open_clip,
    "so400m": _open_clip,
}


@pytest.mark.parametrize("family", ORIGINALS)
def test_files_of_the_first_authors_load_the_same(family):
    name, kwargs = NAMED[family]
    state = theirs(name, kwargs, CLASSES).state_dict()
    original = {k: v for k, v in state.items() if not k.startswith("head.")}
    got = loaded(name, kwargs, ORIGINALS[family](original), CLASSES).module.state_dict()
    assert got.keys() == state.keys()
    for key, tensor in original.items():
        torch.testing.assert_close(got[key], tensor, msg=key)


def test_pooling_that_a_model_leaves_out_is_left_out_of_its_file():
    name, kwargs = NAMED["siglip-average"]
    state = theirs(*NAMED["siglip"], CLASSES).state_dict()
    assert any(key.startswith("attn_pool.") for key in state)
    want = theirs(name, kwargs, CLASSES)
    backbone = loaded(name, kwargs, state, CLASSES)
    assert backbone.digest == small(name, kwargs, CLASSES).digest
    assert_same_answers(with_head_of(backbone, want), want, kwargs["img_size"])


def test_clip_of_another_patch_size_is_refused_not_resampled():
    name, kwargs = NAMED["clip"]
    state = _openai_clip(theirs(name, {**kwargs, "patch_size": 32}, CLASSES).state_dict())
    with pytest.raises(BackboneError, match=r"patches of 32 pixels; timm/vit_base.* of 16"):
        loaded(name, kwargs, state, CLASSES)


@pytest.mark.parametrize("family", ["eva02-clip", "dinov3", "beit", "siglip"])
def test_weights_of_another_family_are_refused(family):
    with pytest.raises(BackboneError, match=r"does not (hold the weights of|fit) timm/"):
        loaded(*NAMED[family], theirs(*NAMED["augreg"], CLASSES).state_dict(), CLASSES)


def test_buffer_that_nothing_fills_is_named(monkeypatch):
    name, kwargs = NAMED["augreg"]
    build = our_timm._build

    def with_buffer(*args: Any, **options: Any) -> nn.Module:
        module = build(*args, **options)
        module.get_submodule("blocks.1").register_buffer("odd", torch.empty(2), persistent=False)
        return module

    monkeypatch.setattr(our_timm, "_build", with_buffer)
    with pytest.raises(BackboneError, match=r"timm/vit_tiny.* do not contain 'blocks\.1\.odd'"):
        small(name, kwargs, CLASSES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("swinv2_tiny_window8_256", "SwinTransformerV2"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed"),
        ("convnext_atto", "ConvNeXt"),
        ("xcit_nano_12_p16_224", "Xcit"),
        ("vit_relpos_small_patch16_224", "VisionTransformerRelPos"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock"),
        ("vit_pwee_patch16_reg1_gap_256", "ParallelScalingBlock"),
        ("naflexvit_base_patch16_gap", "NaFlexVit"),
        ("samvit_base_patch16", "VisionTransformerSAM"),
        ("resnet18", "ResNet"),
    ],
)
def test_other_families_are_refused_by_name_before_any_download(name, kind):
    with pytest.raises(BackboneError) as raised:
        load_backbone(f"timm/{name}", CLASSES)
    line = str(raised.value)
    assert line.startswith(f"model.backbone 'timm/{name}") and "\n" not in line
    assert f"timm's {kind})" in line and "is not supported" in line
    assert all(word in line for word in ("vit_*", "DINOv3", "deit3_*", "beit_*", "eva02_*"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("beit_base_patch16_242", "beit_base_patch16_224"),
        ("eva02_tiny_patch14_242", "eva02_tiny_patch14_224"),
        ("deit3_smal_patch16_224", "deit3_small_patch16_224"),
    ],
)
def test_misspelt_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(BackboneError, match=rf"timm has no '{typed}' .*'{meant}'"):
        load_backbone(f"timm/{typed}", CLASSES)
