"""Tests of training augmentation."""

from __future__ import annotations

import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vitlora.data.augmentation import Augmentation
from vitlora.data.images import open_image
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import UsageError

RECIPES = ["light", "medium", "strong"]
RANDOM = RECIPES
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PREPROCESSING = Preprocessing(image_size=32, crop_pct=0.9, mean=MEAN, std=STD)
BORDER = PREPROCESSING.seeing("border")


def noise(width: int, height: int) -> Image.Image:
    """Returns coloured noise."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels_of(tensor: torch.Tensor) -> np.ndarray:
    """Returns the 0..255 values, (H, W, 3), that normalisation with MEAN and STD came from."""
    return (tensor.permute(1, 2, 0).numpy().astype(np.float64) * STD + MEAN) * 255


def draws(recipe, seed, count=8, picture=None, preprocessing=PREPROCESSING):
    """Returns `count` augmentations of one picture, (count, 3, 32, 32)."""
    augmentation = Augmentation(recipe, preprocessing)
    augmentation.seed(seed)
    return torch.stack([augmentation(picture or noise(50, 40)) for _ in range(count)])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(3, 200), (200, 3), (1, 1), (32, 32), (1600, 1200), (1, 9999)])
@pytest.mark.parametrize("preprocessing", [PREPROCESSING, BORDER], ids=["center", "border"])
def test_every_recipe_takes_pictures_of_any_size(recipe, size, preprocessing):
    count = 4 if max(size) > 999 else 40
    tensors = draws(recipe, 0, count, noise(*size), preprocessing)
    assert tensors.shape[1:] == (3, 32, 32)
    assert tensors.dtype == torch.float32
    assert tensors[0].is_contiguous()
    for tensor in tensors:
        values = pixels_of(tensor)
        assert values.min() > -0.01 and values.max() < 255.01


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_a_grey_picture_once_opened(tmp_path, recipe):
    noise(50, 40).convert("L").save(tmp_path / "grey.png")
    assert draws(recipe, 0, picture=open_image(tmp_path / "grey.png")).isfinite().all()


def test_normalisation_is_that_of_the_weights():
    picture = Image.new("RGB", (32, 32), (255, 0, 51))
    got = Augmentation("light", PREPROCESSING)(picture)
    want = [(1 - 0.4) / 0.2, (0 - 0.5) / 0.25, (0.2 - 0.6) / 0.3]
    torch.testing.assert_close(got, torch.tensor(want)[:, None, None].expand(3, 32, 32))


def test_light_only_crops_and_flips():
    grid = np.zeros((64, 64, 3), np.uint8)
    grid[..., 0] = np.linspace(0, 255, 64)[None, :]  # red says how far right, green how far down
    grid[..., 1] = np.linspace(0, 255, 64)[:, None]
    flipped = 0
    for tensor in draws("light", 0, count=200, picture=Image.fromarray(grid)):
        values = pixels_of(tensor)
        across = np.diff(values[..., 0].mean(axis=0))
        flipped += across.sum() < 0
        assert (np.diff(values[..., 1].mean(axis=1)) > 0).all()  # never upside down
        share = abs(across.sum()) * np.diff(values[..., 1].mean(axis=1)).sum() / 255**2
        assert 0.4 < share < 1.01  # of the picture's area, between 0.5 and 1
        assert values[..., 2].max() < 0.5  # colours as they were
    assert 70 < flipped < 130


@pytest.mark.parametrize("size", [(1200, 400), (300, 900), (500, 400)])
def test_border_crops_as_center_does_and_keeps_the_shape_of_the_picture(size):
    width, height = size
    grid = np.zeros((height, width, 3), np.uint8)
    grid[..., 0] = np.linspace(0, 255, width)[None, :]  # red says how far right, green how far down
    grid[..., 1] = np.linspace(0, 255, height)[:, None]
    grid[..., 2] = 255
    shown = round(64 * min(size) / max(size))
    areas, stretched = [], []
    for tensor in draws("light", 0, 200, Image.fromarray(grid), BORDER.at(64)):
        values = pixels_of(tensor if width > height else tensor.transpose(1, 2))
        inside = values[..., 2] > 254
        top = (64 - shown) // 2
        assert inside[top : top + shown].all() and inside.sum() == shown * 64
        assert np.abs(values[~inside] - [102, 128, 153]).max() < 0.01  # MEAN, in 8 bits
        long, short = (0, 1) if width > height else (1, 0)
        part = values[top : top + shown]
        along = np.ptp(part[shown // 2, :, long]) / 255
        across = np.ptp(part[:, 32, short]) / 255
        areas.append(along * across)
        stretched.append(along / across)
    assert 0.45 < min(areas) < 0.6 and 0.9 < max(areas) <= 1
    assert 0.7 < min(stretched) < 0.85 and 1.15 < max(stretched) < 1.45  # 3/4 to 4/3, as center's


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_square_picture_is_the_same_under_border_and_center(recipe):
    square = noise(50, 50)
    plain, border = (draws(recipe, 5, 20, square, p) for p in (PREPROCESSING, BORDER))
    assert torch.equal(plain, border)


@pytest.mark.parametrize("recipe", RECIPES)
def test_borders_are_the_mean_whatever_the_recipe_does(recipe):
    for tensor in draws(recipe, 1, 40, noise(64, 32), BORDER):
        for rows in (tensor[:, :8], tensor[:, 24:]):
            assert rows.abs().max() < 0.5 / 255 / min(STD) + 1e-6  # MEAN's rounding


@pytest.mark.parametrize("recipe", RECIPES)
def test_border_draws_by_its_seed_alone(recipe):
    first, again, other = (draws(recipe, seed, preprocessing=BORDER) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("recipe", RANDOM)
def test_one_seed_one_result_other_seed_other_result(recipe):
    assert torch.equal(draws(recipe, 3), draws(recipe, 3))
    same = [torch.equal(a, b) for a, b in zip(draws(recipe, 3), draws(recipe, 4), strict=True)]
    assert not any(same)


def leaves(step):
    """Returns the steps that change pictures, in order, those of nested ones too."""
    if hasattr(step, "apply_with_params"):
        return [step]
    return [leaf for part in step.transforms for leaf in leaves(part)]


def numbers_of(step, parameters, picture):
    """Returns what a step drew, as one number: where or how much it changes the picture."""
    match type(step).__name__:
        case "RandomResizedCrop":
            left, top, right, bottom = parameters["crop_coords"]
            return (right - left) * (bottom - top) / (picture.shape[0] * picture.shape[1])
        case "Rotate":
            return parameters["matrix"][0, 1]  # the sine of the angle
        case "ColorJitter":
            return parameters["brightness"]
        case "RandomGamma":
            return parameters["gamma"]
        case "CoarseDropout":
            return len(parameters["holes"])
        case "ImageCompression":
            return parameters["quality"]
        case "GaussianBlur" | "MotionBlur":
            return parameters["kernel"].max()
    return 1.0  # a flip is a flip


def joint_draws(recipe, seeds):
    """Returns the names of the steps and what each drew, `(pictures, steps)`; NaN if it slept.

    `seeds` has an entry for each picture: what to seed with before it, None to draw on.
    """
    augmentation = Augmentation(recipe, PREPROCESSING)
    steps = leaves(augmentation._compose)
    names = [type(step).__name__ for step in steps]
    row: dict[str, float] = {}

    def listen(step, name):
        apply = step.apply_with_params

        def spy(params, *args, **kwargs):
            row[name] = numbers_of(step, params, kwargs["image"])
            return apply(params, *args, **kwargs)

        step.apply_with_params = spy

    for step, name in zip(steps, names, strict=True):
        listen(step, name)
    picture, rows = noise(50, 40), []
    for seed in seeds:
        if seed is not None:
            augmentation.seed(*seed)
        row.clear()
        augmentation(picture)
        rows.append([row.get(name, np.nan) for name in names])
    return names, np.array(rows, dtype=np.float64)


COUNT = 2000
REGIMES = {  # how training seeds: once for a whole worker, or anew for each cached view
    "a worker's": [(1234567890123,)] + [None] * (COUNT - 1),
    "one view of each picture": [(42, 0, index) for index in range(COUNT)],
    "many views of one picture": [(42, view, 7) for view in range(COUNT)],
    "one picture under many seeds": [(seed, 0, 0) for seed in range(COUNT)],
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("recipe", RANDOM)
def test_steps_draw_independently_of_each_other(recipe, regime):
    names, drawn = joint_draws(recipe, REGIMES[regime])
    alternatives = {"GaussianBlur", "MotionBlur", "ImageCompression"}  # of which one is taken
    awake = ~np.isnan(drawn)
    for one in range(len(names)):
        for other in range(one + 1, len(names)):
            if {names[one], names[other]} <= alternatives:
                continue
            pair = f"{names[one]}, {names[other]}"
            if awake[:, one].std() and awake[:, other].std():
                # five standard errors: 0.11
                assert abs(np.corrcoef(awake[:, one], awake[:, other])[0, 1]) < 0.11, pair
                joint = set(zip(awake[:, one].tolist(), awake[:, other].tolist(), strict=True))
                assert len(joint) == 4, pair
            both = awake[:, one] & awake[:, other]
            values = drawn[both][:, [one, other]].T
            if both.sum() > 50 and values.std(axis=1).min() > 0:
                assert abs(np.corrcoef(values)[0, 1]) < 5 / np.sqrt(both.sum()), pair
            for sleeper, value in ((one, other), (other, one)):
                there = awake[:, value]
                states, amounts = awake[there, sleeper], drawn[there, value]
                if states.std() and amounts.std():
                    limit = 5 / np.sqrt(there.sum())
                    assert abs(np.corrcoef(states, amounts)[0, 1]) < limit, pair


@pytest.mark.parametrize("recipe", RANDOM)
def test_no_step_repeats_itself_from_one_picture_or_view_to_the_next(recipe):
    for regime in REGIMES.values():
        names, drawn = joint_draws(recipe, regime)
        awake = ~np.isnan(drawn)
        for index, name in enumerate(names):
            states = awake[:, index]
            if states.std():
                assert abs(np.corrcoef(states[1:], states[:-1])[0, 1]) < 0.11, name


def test_strong_leaves_one_picture_in_so_many_with_the_crop_alone():
    """Every step but the crop sleeps as often as their chances say: 0.5 * 0.5 * 0.3 * ..."""
    names, drawn = joint_draws("strong", REGIMES["one view of each picture"])
    crop_alone = np.isnan(np.delete(drawn, names.index("RandomResizedCrop"), axis=1)).all(axis=1)
    chance = 0.5 * 0.5 * 0.3 * 0.7 * 0.7 * 0.6  # flip, turn, colour, blur, gamma, holes
    assert abs(crop_alone.mean() - chance) < 5 * np.sqrt(chance / COUNT)


def test_every_number_of_the_seed_counts():
    seeds = [(1,), (2,), (1, 0, 1), (1, 1, 0), (2, 1, 0), (2**32, 1, 0), (2**63, 1, 0)]
    results = []
    for seed in seeds:
        augmentation = Augmentation("light", PREPROCESSING)
        augmentation.seed(*seed)
        results.append(torch.stack([augmentation(noise(50, 40)) for _ in range(8)]))
    assert len({result.numpy().tobytes() for result in results}) == len(seeds)


@pytest.mark.parametrize("recipe", RANDOM)
def test_successive_draws_differ(recipe):
    tensors = draws(recipe, 0, count=6)
    assert len({tensor.numpy().tobytes() for tensor in tensors}) == 6


def test_global_random_state_is_neither_read_nor_moved():
    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()
        results.append(draws("strong", 5))
        after = random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()
        assert after == before
    assert torch.equal(*results)


@pytest.mark.parametrize("recipe", RECIPES[1:])
def test_each_recipe_goes_further_than_the_one_before(recipe):
    """Compares each recipe with the plain picture on a smooth one, where every change shows."""
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([x * 2 + 60, y * 2 + 60, (x + y) + 60], axis=-1).astype(np.uint8)
    plain = cv2.resize(smooth, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    change = {
        name: np.mean(
            [
                np.abs(pixels_of(tensor) - plain).mean()
                for tensor in draws(name, 0, count=150, picture=Image.fromarray(smooth))
            ]
        )
        for name in RECIPES
    }
    previous = RECIPES[RECIPES.index(recipe) - 1]
    assert change[recipe] > 1.02 * change[previous]


@pytest.mark.parametrize("recipe", RECIPES)
def test_pickling_keeps_the_recipe_and_its_randomness(recipe):
    augmentation = Augmentation(recipe, PREPROCESSING)
    copy = pickle.loads(pickle.dumps(augmentation))
    results = []
    for each in (augmentation, copy):
        each.seed(11)
        results.append(torch.stack([each(noise(50, 40)) for _ in range(4)]))
    assert torch.equal(*results)


def test_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"data\.augment is 'heavy'.*none, light, medium, strong"):
        Augmentation("heavy", PREPROCESSING)  # pyright: ignore[reportArgumentType]
