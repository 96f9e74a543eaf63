"""Tests of torchvision's Vision Transformers against torchvision itself."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torchvision.models import get_model, get_model_weights
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from vitlora.backbones import load_backbone, torchvision
from vitlora.backbones.backbone import find_source
from vitlora.errors import BackboneError

NAMES = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
CLASSES = 5
# a prime, so that no two tensors line up; far cheaper than drawing 632 million numbers
POOL = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))


def randomise(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Fills every tensor, also those that start at zero, with noise that fp16 holds exactly.

    Returns:
        The module's state in fp16.
    """
    state, offset = {}, 0
    for name, tensor in module.state_dict().items():
        count = tensor.numel()
        values = POOL.roll(-offset).repeat(math.ceil(count / len(POOL)))[:count]
        values = values.view(tensor.shape) / math.sqrt(tensor[0].numel() if tensor.ndim > 1 else 9)
        norm = "ln" in name and name.endswith("weight")
        state[name] = (values + 1 if norm else values).half()
        offset = (offset + count) % len(POOL)
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return state


def torchvision_model(name: str, image_size: int):
    """Returns torchvision's own model, filled with noise, and its state in fp16."""
    with torch.device("meta"):
        model = get_model(name, image_size=image_size, num_classes=CLASSES)
    state = randomise(model)
    return model.eval(), state


def noise(count: int, size: int) -> torch.Tensor:
    """Returns normalised pictures, (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Returns the largest difference in units of the largest value."""
    return float((got - want).abs().max() / want.abs().max())


@pytest.mark.parametrize(
    ("name", "tag", "size", "count"),
    [
        ("vit_b_16", "IMAGENET1K_V1", 224, 2),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", 384, 1),
        ("vit_b_32", "IMAGENET1K_V1", 224, 2),
        ("vit_l_32", "IMAGENET1K_V1", 224, 2),
        pytest.param("vit_l_16", "IMAGENET1K_V1", 224, 1, marks=pytest.mark.slow),
        pytest.param("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1", 224, 1, marks=pytest.mark.slow),
    ],
)
def test_logits_are_torchvisions_own(tmp_path, name, tag, size, count):
    model, state = torchvision_model(name, size)
    images = noise(count, size)
    with torch.inference_mode():
        want = model(images)
    assert want.std() > 0.1
    if count > 1:  # the oracle looks at the picture
        assert relative_error(want[0], want[1]) > 0.01
    del model
    save_file(state, tmp_path / "model.safetensors")
    backbone = load_backbone(f"torchvision/{name}.{tag}", CLASSES, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert backbone.id == f"torchvision/{name}.{tag}"
    with torch.inference_mode():
        backbone.module.head.weight.copy_(state["heads.head.weight"])
        backbone.module.head.bias.copy_(state["heads.head.bias"])
        got = backbone.module.eval()(images)
    assert got.shape == (count, CLASSES)
    assert relative_error(got, want) <= 1e-5


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_old_names_and_pickled_files_load_the_same(tmp_path, suffix):
    _, state = torchvision_model("vit_b_32", 224)
    save_file(state, tmp_path / "new.safetensors")
    want = load_backbone("torchvision/vit_b_32", 2, tmp_path / "new.safetensors")
    old = {_old_name(name): tensor for name, tensor in state.items()}
    assert sum("linear_1" in name for name in old) == 2 * 12
    file = tmp_path / f"old{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(old, file)
    got = load_backbone("torchvision/vit_b_32", 2, file)
    assert got.digest == want.digest
    assert got.weights == file
    tensors = want.module.state_dict()
    for name, tensor in got.module.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def _old_name(name: str) -> str:
    return name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


@pytest.mark.parametrize("old", [False, True])
def test_renaming_covers_every_tensor_and_changes_no_value(old):
    theirs = TorchvisionViT(32, 8, 3, 4, 64, 128, num_classes=CLASSES).eval()
    state = {name: tensor.float() for name, tensor in randomise(theirs).items()}
    ours = TimmViT(32, 8, depth=3, num_heads=4, embed_dim=64, mlp_ratio=2, num_classes=CLASSES)
    renamed = torchvision.to_timm({_old_name(k) if old else k: v for k, v in state.items()})
    ours.load_state_dict(renamed)
    assert {t.data_ptr() for t in renamed.values()} == {t.data_ptr() for t in state.values()}
    images = noise(4, 32)
    with torch.inference_mode():
        assert relative_error(ours.eval()(images), theirs(images)) <= 1e-5
    assert torchvision.to_timm(renamed) == renamed


@pytest.mark.parametrize("name", ["fc.weight", "encoder.layers.encoder_layer_0.mlp.1.weight"])
def test_foreign_tensor_is_named(name):
    with pytest.raises(BackboneError, match=rf"tensor '{name}' is not one of torchvision's"):
        torchvision.to_timm({name: torch.zeros(1)})


def test_weights_of_another_size_are_refused(tmp_path):
    theirs = TorchvisionViT(32, 8, 3, 4, 64, 128, num_classes=CLASSES)
    save_file(theirs.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(BackboneError, match=r"small\.safetensors does not hold .* missing"):
        load_backbone("torchvision/vit_b_16", 2, tmp_path / "small.safetensors")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_b_61", r"expected one of vit_b_16, .*did you mean 'vit_b_16'"),
        ("resnet50", r"expected one of vit_b_16, vit_b_32, vit_l_16, vit_l_32, vit_h_14$"),
        ("swin_t", r"expected one of vit_b_16"),
        ("", r"expected one of vit_b_16"),
        (
            "vit_b_32.IMAGENET1K_V2",
            r"no weights are named 'IMAGENET1K_V2'; torchvision has: .*you mean 'IMAGENET1K_V1'",
        ),
        ("vit_h_14.IMAGENET1K_V1", r"torchvision has: IMAGENET1K_SWAG_E2E_V1, .*SWAG_LINEAR_V1"),
    ],
)
def test_unknown_name_is_refused_with_the_known_ones(name, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"torchvision/{name}", 2)


@pytest.mark.parametrize("name", NAMES)
def test_default_weights_are_imagenets_else_torchvisions_default(name):
    tag = "IMAGENET1K_SWAG_E2E_V1" if name == "vit_h_14" else "IMAGENET1K_V1"
    source = find_source(f"torchvision/{name}")
    assert source.id == f"torchvision/{name}.{tag}"
    assert source.url == get_model_weights(name)[tag].url
    assert find_source(f"torchvision/{name}.{tag}").id == source.id


@pytest.mark.parametrize(
    ("name", "size"), [("vit_b_16", 384), ("vit_l_16", 512), ("vit_h_14", 518)]
)
def test_end_to_end_swag_weights_are_built_at_their_own_size(name, size):
    source = find_source(f"torchvision/{name}.IMAGENET1K_SWAG_E2E_V1")
    assert source.preprocessing.image_size == size
    assert source.preprocessing.crop_pct == 1 and source.preprocessing.interpolation == "bicubic"
    with torch.device("meta"):
        ours, theirs = source.build(CLASSES), get_model(name, image_size=size)
    assert ours.pos_embed.shape == theirs.encoder.pos_embedding.shape


def test_downloaded_file_is_verified_kept_and_not_fetched_twice(tmp_path, monkeypatch):
    calls = []

    def download(url, file, hash_prefix):
        calls.append((url, hash_prefix))
        save_file({"fc": torch.zeros(1)}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    source = find_source("torchvision/vit_b_16")
    first, second = source.fetch(), source.fetch()
    assert first == second and first.parent == tmp_path / "hub" / "checkpoints"
    assert calls == [(source.url, "c867db91")]  # the digits in the published name
    assert first.name == "vit_b_16-c867db91.pth"
