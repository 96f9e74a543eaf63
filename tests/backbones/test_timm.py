"""Tests of timm's Vision Transformers against timm itself."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from vitlora.backbones import load_backbone
from vitlora.backbones import timm as our_timm
from vitlora.backbones.backbone import find_source
from vitlora.backbones.source import on_meta
from vitlora.errors import BackboneError

# timm's own models for testing: class token; average; attention pooling; four registers
TINY = ["test_vit.r160_in1k", "test_vit2.r160_in1k", "test_vit3.r160_in1k", "test_vit4.r160_in1k"]
CLASSES = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Makes any download fail the test."""
    refuse = lambda *_, **__: pytest.fail("tried to download")  # noqa: E731
    monkeypatch.setattr(our_timm, "hf_hub_download", refuse)
    monkeypatch.setattr(our_timm.socket, "getaddrinfo", refuse)


def randomised(name: str, **options) -> torch.nn.Module:
    """Returns timm's own model with noise in every tensor, also in those that start at 0 or 1."""
    module = timm.create_model(name, num_classes=CLASSES, **options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.2 * noise if parameter.ndim < 2 else 0.05 * noise)
    return module


def saved(module: torch.nn.Module, file):
    """Writes a module's tensors and returns the file."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)
    return file


def with_head_of(backbone, module: torch.nn.Module) -> torch.nn.Module:
    """Returns the backbone's module with the other's head, which loading leaves out."""
    backbone.module.head.load_state_dict(module.head.state_dict())
    return backbone.module.eval()


def noise(size: int) -> torch.Tensor:
    """Returns two normalised pictures, (2, 3, size, size)."""
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*TINY, "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_logits_are_timms_own(tmp_path, name):
    theirs = randomised(name)
    size = timm.get_pretrained_cfg(name).input_size[-1]
    backbone = load_backbone(f"timm/{name}", CLASSES, saved(theirs, tmp_path / "a.safetensors"))
    assert backbone.id == f"timm/{name}" and backbone.preprocessing.image_size == size
    with torch.inference_mode():
        assert torch.equal(backbone.module.eval()(noise(size)), torch.zeros(2, CLASSES))
        want = theirs(noise(size))
        got = with_head_of(backbone, theirs)(noise(size))
    assert (want[0] - want[1]).abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [96, 224])
def test_another_image_size_resamples_positions_as_timm_does(tmp_path, name, size):
    file = saved(randomised(name), tmp_path / "a.safetensors")
    theirs = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": CLASSES},
        img_size=size,
        num_classes=CLASSES,
    ).eval()
    backbone = load_backbone(f"timm/{name}", CLASSES, file, image_size=size)
    assert backbone.preprocessing.image_size == size
    torch.testing.assert_close(backbone.module.pos_embed, theirs.pos_embed, rtol=0, atol=1e-6)
    with torch.inference_mode():
        want = theirs(noise(size))
        got = with_head_of(backbone, theirs)(noise(size))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max()))


def test_positions_really_are_resampled(tmp_path):
    file = saved(randomised(TINY[0]), tmp_path / "a.safetensors")
    own, small = (load_backbone(f"timm/{TINY[0]}", 2, file, image_size=size) for size in (None, 96))
    assert own.module.pos_embed.shape[1] == 10 * 10 + 1
    assert small.module.pos_embed.shape[1] == 6 * 6 + 1
    assert own.digest == small.digest  # of the weights as they came


def test_name_without_a_tag_gets_timms_default():
    source = find_source("timm/vit_tiny_patch16_224")
    assert source.id == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert source.url == (
        "https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        "/resolve/main/model.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch16_242", r"timm has no 'vit_tiny_patch16_242' .*'vit_tiny_patch16_224'"),
        ("qqqqqqqq", r"timm has no 'qqqqqqqq'$"),
        ("", r"timm has no ''"),
        (
            "vit_tiny_patch16_224.augreg_in21k_ft_in2k",
            r"no weights are tagged 'augreg_in21k_ft_in2k' \(did you mean 'augreg_in21k_ft_in1k'"
            r"\?\); timm has: .*augreg_in21k",
        ),
        ("vit_tiny_patch16_224.a.b", r"no weights are tagged 'a\.b'"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(name, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(f"timm/{name}", 2)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_384", "vit_small_patch16_36x1_224"])
def test_an_id_leads_back_to_the_same_source(name):
    source = find_source(f"timm/{name}")  # the second has no published weights
    assert source.id != f"timm/{name}"
    assert find_source(source.id).id == source.id


def test_weights_of_another_patch_size_are_refused_not_resampled(tmp_path):
    file = saved(timm.create_model(TINY[0], patch_size=32), tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"patches of 32 pixels; timm/test_vit.* of 16"):
        load_backbone(f"timm/{TINY[0]}", 2, file)


def test_weights_of_another_width_are_refused(tmp_path):
    module = timm.create_model(TINY[0], embed_dim=32, num_heads=2)
    file = saved(module, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"a\.safetensors does not hold .* is .*, expected \("):
        load_backbone(f"timm/{TINY[0]}", 2, file)
    module.pos_embed.data = torch.zeros(1, 100, 64)  # no square: timm cannot even resample it
    with pytest.raises(BackboneError, match=r"the file of --weights does not fit timm/test_vit"):
        load_backbone(f"timm/{TINY[0]}", 2, saved(module, file))


def test_weights_of_another_depth_are_refused(tmp_path):
    file = saved(timm.create_model(TINY[0], depth=7), tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"does not hold .*12 unexpected \(blocks\.6\."):
        load_backbone(f"timm/{TINY[0]}", 2, file)
    file = saved(timm.create_model(TINY[0], depth=5), tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"does not hold .*12 missing \(blocks\.5\."):
        load_backbone(f"timm/{TINY[0]}", 2, file)


def test_first_weights_are_drawn_as_timm_draws_them_and_not_at_all_where_there_is_no_memory():
    ours, theirs = [], []
    for made, build in ((ours, our_timm._build), (theirs, timm.create_model)):
        torch.manual_seed(0)
        made += build(TINY[0], num_classes=2).state_dict().items()
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    before = torch.get_rng_state()
    with on_meta():
        bare = our_timm._build(TINY[0], num_classes=2).state_dict()
    assert {k: v.shape for k, v in bare.items()} == {k: v.shape for k, v in ours}
    assert all(v.is_meta for v in bare.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_cached_file_is_taken_without_asking_the_network(tmp_path, monkeypatch):
    file, asked = saved(randomised(TINY[0]), tmp_path / "a.safetensors"), []

    def cached(*args, **options):
        asked.append((args, options))
        return str(file)

    monkeypatch.setattr(our_timm, "hf_hub_download", cached)
    backbone = load_backbone(f"timm/{TINY[0]}", 2)
    name = ("timm/test_vit.r160_in1k", "model.safetensors")
    assert asked == [(name, {"local_files_only": True})]
    assert backbone.weights == file


def test_file_that_is_not_cached_is_downloaded(tmp_path, monkeypatch):
    file = saved(randomised(TINY[0]), tmp_path / "a.safetensors")

    def hub(*_, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(file)

    monkeypatch.setattr(our_timm, "hf_hub_download", hub)
    monkeypatch.setattr(our_timm.socket, "getaddrinfo", lambda *_: [])
    assert load_backbone(f"timm/{TINY[0]}", 2).weights == file


def test_offline_without_a_cached_file_says_where_to_get_it_and_how_to_pass_it(monkeypatch):
    def not_cached(*_, local_files_only=False):
        assert local_files_only, "the hub's own client would try for half a minute"
        raise LocalEntryNotFoundError("not cached")

    def no_network(*_):
        raise socket.gaierror("no such host")

    monkeypatch.setattr(our_timm, "hf_hub_download", not_cached)
    monkeypatch.setattr(our_timm.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(our_timm, "getproxies", dict)
    with pytest.raises(BackboneError) as raised:
        load_backbone(f"timm/{TINY[0]}", 2)
    line = str(raised.value)
    assert "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors" in line
    assert "pass --weights FILE" in line and "\n" not in line
