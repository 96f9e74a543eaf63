"""Tests of evaluation preprocessing against those who trained the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import get_pretrained_cfg
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import Compose, Normalize, ToTensor

from vitlora.backbones.backbone import find_source
from vitlora.data.preprocessing import Preprocessing

# every resizing rule among timm's plain ViTs: crop 0.9 and 1.0, squash, bilinear, two means
TIMM = [
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "deit_tiny_patch16_224.fb_in1k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_base_patch16_clip_384.openai_ft_in12k_in1k",
    "vit_base_patch16_224.mae",
    "vit_base_patch16_clip_224.openai",
    "vit_base_patch16_224_miil.in21k_ft_in1k",
]
TORCHVISION = [
    (name, tag)
    for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
    for tag in get_model_weights(name).__members__
]
SIZES = [(640, 480), (333, 517), (61, 200), (224, 224), (30, 31)]
# 1:1, 2:1, 1:3, odd, tiny, and the thinnest that timm takes
SHAPES = [(400, 400), (512, 256), (200, 600), (317, 211), (223, 225), (3, 2), (1, 1), (1, 447)]
HALVES = (0.5, 0.5, 0.5)


def photo(width: int, height: int) -> Image.Image:
    """Returns a picture with smooth shades, hard edges and noise."""
    rng = np.random.default_rng(width * 10007 + height)
    y, x = np.mgrid[:height, :width]
    shades = np.stack([x / width, y / height, (x + y) / (width + height)], axis=-1) * 160
    edges = 60 * (((x // 17) + (y // 11)) % 2)[..., None]
    pixels = shades + edges + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", TIMM)
def test_transform_is_timms_own_to_the_last_bit(name):
    config = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    theirs = create_transform(**config, is_training=False)
    ours = find_source(f"timm/{name}").preprocessing.transform()
    for size in SIZES:
        picture = photo(*size)
        assert torch.equal(ours(picture), theirs(picture)), size


def test_timm_configurations_differ_enough_to_tell_them_apart():
    found = [find_source(f"timm/{name}").preprocessing for name in TIMM]
    for field in ("image_size", "crop_pct", "mean", "interpolation", "crop_mode"):
        assert len({getattr(preprocessing, field) for preprocessing in found}) > 1, field


@pytest.mark.parametrize(("name", "tag"), TORCHVISION)
def test_transform_is_torchvisions_preset(name, tag):
    theirs = get_model_weights(name)[tag].transforms()
    source = find_source(f"torchvision/{name}.{tag}")
    ours = source.preprocessing.transform()
    for size in SIZES:
        picture = photo(*size)
        got, want = ours(picture), theirs(picture)
        assert got.shape == want.shape == (3, *[theirs.crop_size[0]] * 2)
        # the same arithmetic on the same 8-bit pixels: only the last bits of fp32 may differ,
        # while one step of a pixel's 256 is 0.017
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "tag"), TORCHVISION)
def test_image_size_is_the_one_the_torchvision_weights_were_trained_at(name, tag):
    size = get_model_weights(name)[tag].meta["min_size"][0]
    assert find_source(f"torchvision/{name}.{tag}").preprocessing.image_size == size
    with torch.device("meta"):
        assert get_model(name, image_size=size).image_size == size


def test_another_image_size_keeps_the_rest():
    preprocessing = find_source("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k").preprocessing
    config = resolve_data_config(
        {"img_size": 96},
        pretrained_cfg=get_pretrained_cfg("vit_tiny_patch16_224.augreg_in21k_ft_in1k").to_dict(),
    )
    theirs = create_transform(**config, is_training=False)
    picture = photo(333, 517)
    assert torch.equal(preprocessing.at(96).transform()(picture), theirs(picture))


def test_squash_sees_the_whole_picture_as_timm_does():
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    weights = get_pretrained_cfg(name).to_dict()
    config = resolve_data_config(
        {"crop_mode": "squash", "crop_pct": 1.0}, pretrained_cfg=weights, use_test_size=True
    )
    theirs = create_transform(**config, is_training=False)
    own = find_source(f"timm/{name}").preprocessing
    ours = own.seeing("squash").transform()
    for size in SIZES:
        picture = photo(*size)
        assert torch.equal(ours(picture), theirs(picture)), size
    bright_edge = photo(640, 480)
    bright_edge.paste((255, 255, 255), (0, 0, 40, 480))
    assert not torch.equal(ours(bright_edge), ours(photo(640, 480)))
    center = own.transform()
    assert torch.equal(center(bright_edge), center(photo(640, 480)))  # it lies outside the crop
    assert own.seeing("center") == own


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("name", TIMM)
def test_border_is_timms_own_to_the_last_bit(name, crop_pct):
    weights = get_pretrained_cfg(name).to_dict()
    asked = {"crop_mode": "border", "crop_pct": crop_pct}
    theirs = create_transform(
        **resolve_data_config(asked, pretrained_cfg=weights, use_test_size=True), is_training=False
    )
    ours = replace(find_source(f"timm/{name}").preprocessing.seeing("border"), crop_pct=crop_pct)
    for size in SHAPES:
        picture = photo(*size)
        assert torch.equal(ours.transform()(picture), theirs(picture)), size


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (90, 30), (30, 90)])
def test_border_shows_the_whole_picture_between_borders_of_the_mean_colour(size):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    seen = Preprocessing(224, 0.9, mean, std).seeing("border")
    assert (seen.crop_mode, seen.crop_pct) == ("border", 1.0)
    got = seen.transform()(Image.new("RGB", size, "white"))
    white = torch.tensor([(1 - m) / s for m, s in zip(mean, std, strict=True)])[:, None, None]
    if size[0] < size[1]:
        got = got.transpose(1, 2)
    # 224 x 75 pixels, 74 and 75 above and below
    assert torch.allclose(got[:, 74:149], white.expand(3, 75, 224), atol=1e-5)
    for border in (got[:, :74], got[:, 149:]):  # 0 but for the mean's rounding to 8 bits
        assert (border.abs() <= 0.5 / 255 / min(std) + 1e-6).all()


@pytest.mark.parametrize("size", [(1, 448), (448, 1), (1, 5000), (5000, 2)])
def test_border_keeps_a_pixel_of_the_thinnest_picture(size):
    seen = Preprocessing(224, 1.0, HALVES, HALVES, crop_mode="border")
    got = seen.transform()(Image.new("RGB", size, "white"))
    rows, columns = (got[0] == 1).nonzero(as_tuple=True)
    sides = {len(rows.unique()), len(columns.unique())}
    assert sides == {1, 224}


def test_json_brings_everything_back():
    preprocessing = Preprocessing(
        image_size=96,
        crop_pct=224 / 242,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        interpolation="bilinear",
        crop_mode="squash",
    )
    assert Preprocessing.from_json(json.loads(json.dumps(asdict(preprocessing)))) == preprocessing


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
def test_normalisation_is_torchvisions_to_the_last_bit(mean):
    std = (0.229, 0.224, 0.225)
    values = np.random.default_rng(0).permuted(np.arange(256, dtype=np.uint8).repeat(6))
    pixels = values.reshape(16, 32, 3)  # all values
    plain = Compose([ToTensor(), Normalize(mean, std)])
    normalise = Preprocessing(16, 1.0, mean, std).normalisation()
    for given in (pixels, pixels[:, ::-1], Image.fromarray(pixels)):
        got = normalise(given)
        assert torch.equal(got, plain(Image.fromarray(np.asarray(given))))
        assert got.is_contiguous()


@pytest.mark.parametrize(
    ("size", "crop", "want"),
    [(224, 1.0, 672), (32, 0.9, 672), (224, 0.9, 747), (518, 1.0, 1554)],  # 747 is 3 * 249
)
def test_three_times_what_is_needed_is_decoded_and_never_less_than_half_a_camera_photo(
    size, crop, want
):
    assert Preprocessing(size, crop, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).at_least == want


@pytest.mark.parametrize(
    ("mode", "size", "decoded"),
    [
        ("center", (2700, 1350), (1350, 675)),  # 672 are enough of the side that is scaled to 224
        ("squash", (2700, 1350), (1350, 675)),
        ("border", (2680, 1340), (1340, 670)),  # a quarter would be 670 pixels long
        ("border", (2700, 1350), (675, 338)),
        ("border", (1400, 2800), (350, 700)),
        ("border", (1340, 400), (1340, 400)),
        ("border", (5600, 16), (700, 2)),
    ],
)
def test_side_that_decides_the_scale_decides_how_many_pixels_are_decoded(
    tmp_path, mode, size, decoded
):
    Image.new("RGB", size, "white").save(tmp_path / "a.jpg")
    seen = Preprocessing(224, 1.0, HALVES, HALVES).seeing(mode)
    assert seen.open(tmp_path / "a.jpg").image.size == decoded


@pytest.mark.parametrize("size", [(3000, 1500), (1500, 3000), (2900, 700)])
def test_border_sees_a_drafted_jpeg_as_it_sees_all_pixels(tmp_path, size):
    smooth = photo(300, 150).resize(size, Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    seen = Preprocessing(224, 1.0, HALVES, HALVES).seeing("border")
    drafted, whole = seen.open(tmp_path / "a.jpg").image, Image.open(tmp_path / "a.jpg")
    assert max(drafted.size) < max(whole.size)
    difference = seen.transform()(drafted) - seen.transform()(whole)
    assert difference.abs().mean() < 0.01  # 1.3 of 255


def test_a_crop_mode_that_is_not_known_is_refused():
    fields = asdict(Preprocessing(16, 1.0, HALVES, HALVES))
    with pytest.raises(ValueError, match="'zoom'"):
        Preprocessing.from_json(fields | {"crop_mode": "zoom"})
