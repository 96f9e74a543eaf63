"""Tests of loading weights, wherever they come from."""

from __future__ import annotations

import pickle
import random
import urllib.error

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from vitlora.backbones import ROLES, load_backbone
from vitlora.backbones.backbone import find_source
from vitlora.backbones.weights import Tensors, open_weights
from vitlora.errors import BackboneError

NAME = "timm/test_vit.r160_in1k"  # 6 blocks of 64 channels, patches of 16 pixels
SOURCES = [NAME, "torchvision/vit_b_32", "vitlora/vit_micro_patch8_96"]


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Noise in the shapes of the small ViT's tensors, exact in fp16."""
    generator = torch.Generator().manual_seed(0)
    tensors = timm.create_model("test_vit", num_classes=3).state_dict()
    return {
        name: torch.randn(tensor.shape, generator=generator).mul(0.1).half().float()
        for name, tensor in tensors.items()
    }


def digest_of(state, tmp_path) -> str:
    """Returns the digest of weights saved to a file and loaded from it."""
    save_file(state, tmp_path / "digest.safetensors")
    return load_backbone(NAME, 2, tmp_path / "digest.safetensors").digest


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_224", r"expected source/model\.tag with a source of timm, torchvision"),
        ("hub/vit_tiny_patch16_224", r"expected source/model\.tag"),
        ("", r"model\.backbone '': expected source"),
        ("/", r"expected source"),
        ("vitlora/vit_small", r"'vitlora/vit_small': vitlora ships one ViT, 'vit_micro_patch8_96'"),
    ],
)
def test_name_without_a_known_source_is_refused(name, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(name, 2)


@pytest.mark.parametrize("name", SOURCES)
def test_random_start_is_the_same_every_time_and_leaves_the_generator_alone(name):
    torch.manual_seed(1)
    first = load_backbone(name, 2, "none")
    drawn = torch.rand(1)
    again = load_backbone(name, 7, "None")
    assert first.digest == again.digest
    assert first.weights is None
    torch.manual_seed(1)
    assert drawn == torch.rand(1)
    weight = first.module.blocks[0].attn.qkv.weight
    assert 0.001 < weight.std() < 1


@pytest.mark.parametrize("name", SOURCES)
def test_fresh_head_is_all_zeros(name):
    head = load_backbone(name, 7, "none").module.head
    assert head.weight.shape[0] == 7
    assert not head.weight.any() and not head.bias.any()


def test_every_tensor_is_real_fp32_and_trainable_again(tmp_path, state):
    save_file({name: tensor.half() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    module = load_backbone(NAME, 2, tmp_path / "a.safetensors").module
    for tensor in [*module.parameters(), *module.buffers()]:
        assert tensor.device.type == "cpu" and tensor.dtype == torch.float32
    module(torch.zeros(1, 3, 160, 160)).sum().backward()
    assert module.head.weight.grad.any()
    for name, tensor in module.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(tensor, state[name]), name


def test_digest_ignores_the_head_and_nothing_else(tmp_path, state):
    first = digest_of(state, tmp_path)
    assert len(first) == 64
    other_head = {k: v + 1 if k.startswith("head.") else v for k, v in state.items()}
    assert digest_of(other_head, tmp_path) == first
    more_classes = {**state, "head.weight": torch.ones(9, 64), "head.bias": torch.ones(9)}
    assert digest_of(more_classes, tmp_path) == first
    without_head = {k: v for k, v in state.items() if not k.startswith("head.")}
    assert digest_of(without_head, tmp_path) == first
    module = load_backbone(NAME, 2, tmp_path / "digest.safetensors").module
    assert module.state_dict().keys() - without_head.keys() == {"head.weight", "head.bias"}
    for name, tensor in without_head.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 0.001
        assert digest_of({**state, name: changed}, tmp_path) != first, name


def test_digest_is_of_values_not_of_how_they_are_stored(tmp_path, state):
    first = digest_of(state, tmp_path)
    assert digest_of({k: v.half() for k, v in state.items()}, tmp_path) == first
    assert digest_of({k: v.double() for k, v in state.items()}, tmp_path) == first
    assert digest_of({k: v.bfloat16() for k, v in state.items()}, tmp_path) != first  # rounded
    torch.save(dict(reversed(state.items())), tmp_path / "a.pth")
    assert load_backbone(NAME, 2, tmp_path / "a.pth").digest == first


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_state_dict_inside_a_training_checkpoint_is_found(tmp_path, state, wrapper):
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "a.pth")
    assert load_backbone(NAME, 2, tmp_path / "a.pth").digest == digest_of(state, tmp_path)


def test_home_folder_is_expanded(tmp_path, state, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state, tmp_path / "a.safetensors")
    assert load_backbone(NAME, 2, "~/a.safetensors").weights == tmp_path / "a.safetensors"


def test_missing_file_names_the_option_and_what_it_should_hold(tmp_path):
    message = r"--weights '.*gone\.safetensors': no such file; download https://huggingface"
    with pytest.raises(BackboneError, match=message):
        load_backbone(NAME, 2, tmp_path / "gone.safetensors")
    message = r"the folder has neither model\.safetensors\.index\.json nor model\.safetensors"
    with pytest.raises(BackboneError, match=message):
        load_backbone(NAME, 2, tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("damage", ["empty", "text", "torn", "flipped", "html"])
def test_damaged_file_is_named_in_one_line(tmp_path, state, suffix, damage):
    file = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, file)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "text": b"These are not weights.\n",
            "torn": whole[: len(whole) // 2],
            "flipped": bytes(255 - byte for byte in whole[:2000]) + whole[2000:],
            "html": b"<!DOCTYPE html>\n<title>404</title>",
        }[damage]
    )
    with pytest.raises(BackboneError) as raised:
        load_backbone(NAME, 2, file)
    line = str(raised.value)
    assert line.startswith(f"{file} cannot be read as weights") and "\n" not in line


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["safetensors", "archive", "legacy archive"])
def test_any_damage_is_refused_or_harmless(tmp_path, form):
    """Bytes changed at random: each either goes unnoticed or is a BackboneError, nothing else."""
    state = torch.nn.Linear(8, 8).state_dict()
    file = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file(dict(state), file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "archive")
    whole, rng, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(min(len(whole), 800))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            dict(Tensors(open_weights(file)))
        except BackboneError as error:
            refused += 1
            assert str(error).startswith(str(file)) and "\n" not in str(error)
    assert 30 < refused < 300


def test_file_of_something_else_is_refused(tmp_path):
    for content in ([1, 2], {"epoch": 3}, {"state_dict": {"a": "b"}}, torch.zeros(3)):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(BackboneError, match="no state dict of plain tensors"):
            load_backbone(NAME, 2, tmp_path / "a.pth")


@pytest.mark.parametrize("name", SOURCES)
def test_weights_of_another_model_are_refused(tmp_path, name):
    save_file({"layer1.0.weight": torch.zeros(2, 2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(BackboneError, match=r"layer1\.0\.weight|missing"):
        load_backbone(name, 2, tmp_path / "resnet.safetensors")


def test_missing_and_unexpected_tensors_are_counted_and_named(tmp_path, state):
    state["extra"] = torch.zeros(1)
    del state["cls_token"], state["norm.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError) as raised:
        load_backbone(NAME, 2, tmp_path / "a.safetensors")
    assert str(raised.value) == (
        f"{tmp_path / 'a.safetensors'} does not hold the weights of {NAME}: "
        "2 missing (cls_token, …); 1 unexpected (extra); name its own file"
    )


def test_wrong_shape_names_the_tensor_and_both_shapes(tmp_path, state):
    state["norm.bias"] = torch.zeros(65)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"norm\.bias is \(65,\), expected \(64,\)"):
        load_backbone(NAME, 2, tmp_path / "a.safetensors")


class Malice:
    """Pickles into code that creates a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["archive", "legacy archive", "pickle"])
def test_code_in_a_pickled_file_is_never_run(tmp_path, state, form):
    mark, file = tmp_path / "mark", tmp_path / "a.pth"
    content = {**state, "surprise": Malice(mark)}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(BackboneError, match=r"a\.pth cannot be read as weights"):
        load_backbone(NAME, 2, file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malice(mark))).close()  # the trap does spring when it is run
    assert mark.exists()


@pytest.mark.parametrize("kind", [urllib.error.URLError("no network"), TimeoutError(), OSError()])
def test_offline_message_names_the_url_and_the_option(tmp_path, monkeypatch, kind):
    def offline(*_, **__):
        raise kind

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(BackboneError) as raised:
        load_backbone("torchvision/vit_b_16", 2)
    line = str(raised.value)
    assert "https://download.pytorch.org/models/vit_b_16-c867db91.pth" in line
    assert "pass --weights FILE" in line and "\n" not in line


@pytest.mark.parametrize("size", [161, 8, 15, 1, -16])
def test_image_size_that_no_patches_fill_is_refused(tmp_path, state, size):
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=rf"model\.image_size is {size}; .* 16-pixel patch"):
        load_backbone(NAME, 2, tmp_path / "a.safetensors", image_size=size)


@pytest.mark.parametrize("name", SOURCES)
def test_another_image_size_is_taken_by_every_source(name):
    backbone = load_backbone(name, 3, "none", image_size=64)
    assert backbone.preprocessing.image_size == 64
    with torch.inference_mode():
        assert backbone.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("name", SOURCES)
def test_roles_lead_to_every_linear_layer_of_the_blocks_in_order(name):
    backbone = load_backbone(name, 3, "none")
    paths = {
        "attention.qkv": "attn.qkv",
        "attention.proj": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for role, path in paths.items():
        want = [f"blocks.{index}.{path}" for index in range(backbone.num_blocks)]
        assert backbone.layers(role) == want
        assert backbone.layers(role, last_blocks=2) == want[-2:]
        assert backbone.layers(role, last_blocks=backbone.num_blocks) == want
    assert backbone.layers("head") == backbone.layers("head", last_blocks=1) == ["head"]
    linear = {n for n, m in backbone.module.named_modules() if isinstance(m, torch.nn.Linear)}
    assert {layer for role in ROLES for layer in backbone.layers(role)} == linear


def test_last_blocks_of_twelve_are_counted_not_spelled():
    backbone = load_backbone("torchvision/vit_b_32", 2, "none")
    want = ["blocks.9.mlp.fc1", "blocks.10.mlp.fc1", "blocks.11.mlp.fc1"]
    assert backbone.layers("mlp.fc1", last_blocks=3) == want


def test_unknown_role_is_refused_with_the_nearest():
    backbone = load_backbone(NAME, 2, "none")
    with pytest.raises(BackboneError, match=r"role 'atention\.qkv'.*did you mean 'attention\.qkv'"):
        backbone.layers("atention.qkv")


def test_role_that_nothing_plays_is_refused():
    backbone = load_backbone(NAME, 2, "none")
    backbone.module.head = torch.nn.Identity()
    with pytest.raises(BackboneError, match=r"no linear layer in the role 'head'"):
        backbone.layers("head")


def test_micro_vit_ships_with_the_package():
    source = find_source("vitlora/vit_micro_patch8_96")
    file = source.fetch()
    assert file.is_file()
    backbone = load_backbone("vitlora/vit_micro_patch8_96", 4)
    assert backbone.weights == file
    # bundles are tied to it
    assert backbone.digest == "421000380a0f8627cc9d61b9654b034d6cda89c414beaf8553e08cafe2ed861f"
    stored = load_file(file)["blocks.0.attn.qkv.weight"].float()
    assert torch.equal(backbone.module.blocks[0].attn.qkv.weight, stored)
    assert backbone.digest != load_backbone("vitlora/vit_micro_patch8_96", 4, "none").digest
