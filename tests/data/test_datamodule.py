"""Tests of batches from folders."""

from __future__ import annotations

from functools import partial
from multiprocessing.context import ForkProcess, SpawnProcess
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vitlora.data import datamodule, inspection
from vitlora.data.augmentation import Augmentation
from vitlora.data.datamodule import FolderData
from vitlora.data.dataset import PictureLoader
from vitlora.data.duplicates import fingerprints
from vitlora.data.preprocessing import Preprocessing
from vitlora.errors import DataError, UsageError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
PREPROCESSING = Preprocessing(32, 0.9, MEAN, STD, "bilinear")


def ready(root, **options) -> FolderData:
    """Returns a data module as the trainer would have it before the first batch."""
    data = FolderData(str(root), **{"batch_size": 4, "num_workers": 0, **options})
    data.preprocessing = PREPROCESSING
    return data


def one_picture_many_times(root, count=4):
    """Fills class folders with copies of one picture: what differs then is the augmentation."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


def images_of(loader) -> list[torch.Tensor]:
    """Returns the pictures of one epoch, one tensor each."""
    return [image for images, _ in loader for image in images]


def epoch_of(loader, epoch: int) -> list[torch.Tensor]:
    """Returns the pictures of an epoch, which Lightning chooses in the same way."""
    loader.batch_sampler.sampler.set_epoch(epoch)
    return images_of(loader)


def distinct(images) -> int:
    """Returns how many different tensors there are."""
    return len({image.numpy().tobytes() for image in images})


def test_batches_have_the_size_asked_and_every_picture_once(make_folder, tmp_path):
    data = ready(make_folder(tmp_path, classes=("a", "b", "c"), count=5), augment="none")
    data.setup("fit")
    assert data.num_classes == 3
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = list(loader)
        assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 32, 32)] * 3 + [
            (3, 3, 32, 32)
        ]
        labels = torch.cat([labels for _, labels in batches])
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [5, 5, 5]
        assert distinct(images_of(loader)) == 15


def test_validation_is_in_order_and_preprocessed_as_the_weights_ask(make_folder, tmp_path):
    data = ready(make_folder(tmp_path, splits=("train", "val", "test"), size=300, count=2))
    for loader, split in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        ((images, labels),) = list(loader)
        assert labels.tolist() == [0, 0, 1, 1]
        files = [tmp_path / split / name / f"{i}.jpg" for name in "ab" for i in (0, 1)]
        for image, file in zip(images, files, strict=True):
            # floor(32 / 0.9) = 35, then the middle 32: (35 - 32) / 2 rounds to 2
            resized = Image.open(file).resize((35, 35), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized.crop((2, 2, 34, 34)), dtype=np.float64) / 255
            want = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1).float()
            torch.testing.assert_close(image, want, rtol=0, atol=1e-5)


def test_training_order_changes_every_epoch_and_follows_the_seed(make_folder, tmp_path):
    make_folder(tmp_path, count=10)
    orders = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        loader = ready(tmp_path, augment="none").train_dataloader()
        orders.append([epoch_of(loader, 0), epoch_of(loader, 1)])
    first, same, other = orders
    for one, two in ((0, 0), (1, 1)):
        assert all(map(torch.equal, first[one], same[two]))
    assert not all(map(torch.equal, first[0], first[1]))
    assert not all(map(torch.equal, first[0], other[0]))


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_follows_the_seed_with_any_number_of_workers(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(
        datamodule,
        "PictureLoader",
        partial(PictureLoader, multiprocessing_context="fork" if workers else None),
    )
    one_picture_many_times(tmp_path)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        loader = ready(tmp_path, num_workers=workers).train_dataloader()
        runs.append(epoch_of(loader, 0) + epoch_of(loader, 1))
        assert all(isinstance(w, ForkProcess) for w in _workers(loader))
        assert len(_workers(loader)) == workers
    assert [distinct(images) for images in runs] == [16, 16, 16]
    assert all(map(torch.equal, runs[0], runs[1]))
    assert distinct(runs[0] + runs[2]) == 32


def test_spawned_workers_draw_different_augmentations_in_every_epoch(tmp_path, monkeypatch):
    """Windows and macOS start workers afresh: everything must survive pickling."""
    monkeypatch.setattr(
        datamodule, "PictureLoader", partial(PictureLoader, multiprocessing_context="spawn")
    )
    one_picture_many_times(tmp_path)
    data = ready(tmp_path, num_workers=2, augment="strong")
    torch.manual_seed(0)
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)
        epochs.append(list(loader))
    assert [type(worker) for worker in _workers(loader)] == [SpawnProcess] * 2
    images = [image for epoch in epochs for images, _ in epoch for image in images]
    assert len(images) == 16 and distinct(images) == 16
    for epoch in epochs:
        assert torch.cat([labels for _, labels in epoch]).bincount().tolist() == [4, 4]


def _workers(loader) -> list:
    return getattr(loader._iterator, "_workers", [])


def test_workers_are_no_more_than_batches(make_folder, tmp_path):
    data = ready(make_folder(tmp_path), batch_size=5, num_workers=9)
    assert data.train_dataloader().num_workers == 2  # 8 pictures


def test_augmentation_is_for_training_only(make_folder, tmp_path):
    data = ready(make_folder(tmp_path), augment="strong")
    assert isinstance(data.train_dataloader().dataset.transform, Augmentation)
    loader = data.val_dataloader()
    assert all(map(torch.equal, images_of(loader), images_of(loader)))


def test_preprocessing_comes_from_the_models_backbone(make_folder, tmp_path):
    data = FolderData(str(make_folder(tmp_path)), num_workers=0)
    with pytest.raises(UsageError, match="no preprocessing yet"):
        data.train_dataloader()
    backbone = SimpleNamespace(preprocessing=PREPROCESSING.at(48))
    module = SimpleNamespace(backbone=backbone)
    data.trainer = SimpleNamespace(lightning_module=module, global_rank=0, world_size=1)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 48, 48)
    assert next(iter(data.val_dataloader()))[0].shape == (8, 3, 48, 48)


def test_unreadable_pictures_stop_training_and_are_all_named(make_folder, tmp_path):
    make_folder(tmp_path, splits=("train", "val", "test"))
    (tmp_path / "train" / "a" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "train" / "b" / "void.png").touch()
    (tmp_path / "val" / "a" / "torn.jpg").touch()
    (tmp_path / "test" / "a" / "torn.jpg").touch()
    data = ready(tmp_path)
    with pytest.raises(DataError) as raised:
        data.setup("fit")
    message = str(raised.value)
    assert message.startswith("4 of 28 pictures cannot be read:")
    assert "train/a/torn.jpg: " in message and "train/b/void.png: the file is empty" in message
    assert "val/a/torn.jpg: " in message and "test/a/torn.jpg: " in message
    assert "0.jpg" not in message
    assert "data.skip_unreadable" in message


def test_each_stage_checks_its_own_splits(make_folder, tmp_path):
    make_folder(tmp_path, splits=("train", "val", "test"))
    (tmp_path / "test" / "a" / "torn.jpg").touch()
    data = ready(tmp_path)
    data.setup("fit")
    data.setup("validate")
    with pytest.raises(DataError, match=r"1 of 9 test pictures"):
        data.setup("test")
    (tmp_path / "val" / "a" / "torn.jpg").touch()
    with pytest.raises(DataError, match=r"1 of 9 val pictures"):
        ready(tmp_path).setup("validate")


def test_a_split_is_checked_once(make_folder, tmp_path, monkeypatch):
    checked = []

    def counting(paths, *more):
        checked.append(len(paths := [*paths]))
        return fingerprints(paths, *more)

    monkeypatch.setattr(inspection, "fingerprints", counting)
    data = ready(make_folder(tmp_path))
    for stage in ("fit", "validate", "fit"):
        data.setup(stage)
    assert checked == [8, 8, 0]  # no test pictures are left to compare with


def in_a_large_folder(make_folder, root, monkeypatch):
    monkeypatch.setattr(inspection, "MANY", 17)
    return make_folder(root, count=5)  # 20 pictures


def test_of_a_large_folder_only_files_that_look_wrong_are_decoded(
    make_folder, tmp_path, monkeypatch, capsys
):
    root, decoded = in_a_large_folder(make_folder, tmp_path, monkeypatch), []

    def counting(paths, *more):
        decoded.extend(paths := [*paths])
        return fingerprints(paths, *more)

    monkeypatch.setattr(inspection, "fingerprints", counting)
    Image.new("RGB", (40, 40)).save(root / "train" / "a" / "0.webp")
    Image.new("I;16", (40, 40), 9).save(root / "train" / "a" / "deep.png")
    data = ready(root)
    data.setup("fit")
    assert [path.name for path in decoded] == ["0.webp", "deep.png"]
    assert capsys.readouterr().err.count("only the beginning and end of each of ") == 1
    for options in ({"check_copies": True}, {"skip_unreadable": True}):
        decoded.clear()
        ready(root, **options).setup("fit")
        assert len(decoded) == 22


@pytest.mark.parametrize("kept", [0, 2, 200, -1])
def test_files_cut_off_are_named_in_a_large_folder_too(make_folder, tmp_path, monkeypatch, kept):
    root = in_a_large_folder(make_folder, tmp_path, monkeypatch)
    file = root / "train" / "a" / "0.jpg"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"1 of 20 pictures cannot be read:\n.*a/0\.jpg: "):
        ready(root).setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_damaged_in_the_middle_is_named_when_it_is_loaded(
    make_folder, tmp_path, monkeypatch, workers
):
    root = in_a_large_folder(make_folder, tmp_path, monkeypatch)
    file = root / "train" / "a" / "0.jpg"
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + whole[-2:])
    data = ready(root, num_workers=workers)
    data.setup("fit")
    with pytest.raises(DataError) as raised:
        list(data.train_dataloader())
    assert str(raised.value).startswith(f"{file}: damaged picture (")
    assert str(raised.value).endswith("or set data.skip_unreadable to true")
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None
    with pytest.raises(DataError, match="1 of 20 pictures cannot be read"):
        ready(root, check_copies=True).setup("fit")


def test_the_bundle_of_a_large_folder_knows_its_pictures(make_folder, tmp_path, monkeypatch):
    root = make_folder(tmp_path, count=5)
    usual = ready(root)
    usual.setup("fit")
    monkeypatch.setattr(inspection, "MANY", 17)
    large = ready(root)
    large.setup("fit")
    assert large.usage() == usual.usage()
    assert len(large.usage().train) > 1


def test_skip_unreadable_trains_without_them_and_says_so(make_folder, tmp_path, capsys):
    make_folder(tmp_path)
    (tmp_path / "train" / "a" / "torn.jpg").touch()
    data = ready(tmp_path, skip_unreadable=True)
    assert data.folder.counts("train") == [5, 4]
    data.setup("fit")
    assert data.folder.counts("train") == [4, 4]
    assert len(images_of(data.train_dataloader())) == 8
    printed = capsys.readouterr().err
    assert "skipping 1 unreadable train picture:" in printed and "torn.jpg" in printed


def test_skip_unreadable_refuses_a_class_left_with_nothing(make_folder, tmp_path):
    make_folder(tmp_path, count=1)
    (tmp_path / "train" / "b" / "0.jpg").write_text("no picture")
    with pytest.raises(DataError, match="1 class without a readable picture in train: 'b'"):
        ready(tmp_path, skip_unreadable=True).setup("fit")


@pytest.mark.parametrize(
    ("splits", "stage", "message"),
    [
        (("train", "val"), "test", r"no test split, only train/ and val/; add a test/ folder"),
        (
            (),
            "test",
            r"only train and val; train with data.test_fraction above 0, or test on all of",
        ),
        (
            ("val", "test"),
            "fit",
            r"only val/ and test/; add a train/ folder with pictures of each class$",
        ),
    ],
)
def test_missing_split_is_explained(make_folder, tmp_path, splits, stage, message):
    data = ready(make_folder(tmp_path, splits=splits))
    with pytest.raises(DataError, match=message):
        data.setup(stage)


def test_class_folders_are_split_as_asked(make_folder, tmp_path):
    make_folder(tmp_path, splits=(), count=10)
    data = ready(tmp_path, val_fraction=0.3, test_fraction=0.1, split_seed=4)
    for stage in ("fit", "test"):
        data.setup(stage)
    assert {part: data.folder.counts(part) for part in data.folder.splits} == {
        "train": [6, 6],
        "val": [3, 3],
        "test": [1, 1],
    }
    assert data.record()["drawn"] == {"seed": 4, "val": 0.3, "test": 0.1}


def test_found_splits_are_not_drawn_again(make_folder, tmp_path):
    data = ready(make_folder(tmp_path, count=4), val_fraction=0.5)
    assert data.folder.counts("train") == [4, 4]
    assert "drawn" not in data.record()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size is 0; expected at least 1"),
        ({"num_workers": -1}, r"data\.num_workers is -1; expected 0 or more"),
        ({"val_fraction": 0.0}, r"expected 0 < val"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, r"val \+ test < 1"),
        ({"test_fraction": -0.1}, r"0 <= test"),
    ],
)
def test_impossible_option_is_refused(make_folder, tmp_path, option, message):
    with pytest.raises(UsageError, match=message):
        FolderData(str(make_folder(tmp_path)), **option)


def test_unknown_recipe_is_refused_before_the_first_batch(make_folder, tmp_path):
    with pytest.raises(UsageError, match=r"data\.augment is 'heavy'"):
        ready(make_folder(tmp_path), augment="heavy").train_dataloader()


def grouped_csv(root, file, size=2):
    """Lists the pictures below a folder in groups of `size` neighbours."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))
    rows = [f"{name},g{index // size}" for index, name in enumerate(names)]
    file.write_text("\n".join(["file,group", *rows]), "utf-8")
    return str(file)


def test_groups_are_kept_together_and_recorded(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", splits=(), count=10)
    file = grouped_csv(root, tmp_path / "g.csv")
    data = FolderData(str(root), test_fraction=0.2, groups=file)
    for samples in data.folder.splits.values():
        numbers = [int(s.path.stem) // 2 for s in samples]
        assert all(numbers.count(n) % 2 == 0 for n in numbers)
    record = data.record()
    assert record["drawn"] == {"val": 0.2, "test": 0.2, "seed": 0, "groups": file}
    assert record["grouping"] == data.division.grouping
    plain = FolderData(str(root), test_fraction=0.2).record()
    assert set(plain) == {"root", "counts", "digests", "drawn", "reading"}
    assert plain["reading"] == {"layout": "folders"}
    assert set(plain["drawn"]) == {"val", "test", "seed"}


def test_groups_far_from_the_shares_asked_say_so(make_folder, tmp_path, capsys):
    root = make_folder(tmp_path / "photos", splits=(), count=10)
    FolderData(str(root), groups=grouped_csv(root, tmp_path / "g.csv"))
    assert "note" not in capsys.readouterr().err
    FolderData(str(root), groups=grouped_csv(root, tmp_path / "g.csv", size=5))
    assert "val holds 50% of the pictures where 20% was asked" in capsys.readouterr().err


def test_found_splits_are_pooled_only_when_asked(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", splits=("train", "val", "test"), count=10)
    file = grouped_csv(root, tmp_path / "g.csv")
    for option in ({"groups": file}, {"groups": "duplicates"}, {"folds": 3}):
        with pytest.raises(UsageError, match=r"is split into train/, val/, test/ already; s"):
            FolderData(str(root), **option)
    data = FolderData(str(root), resplit=True, groups=file, test_fraction=0.1)
    for label in (0, 1):
        counts = [data.folder.counts(part)[label] for part in ("train", "val", "test")]
        assert sum(counts) == 30 and counts[1:] in ([6, 2], [6, 4])  # of 6 and 3, in pairs
    assert data.record()["drawn"]["resplit"] is True
    assert len({s.path for part in data.folder.splits.values() for s in part}) == 60


def test_a_fold_is_validated_on_and_recorded(make_folder, tmp_path):
    root = make_folder(tmp_path, splits=(), count=10)
    runs = [FolderData(str(root), folds=5, fold=fold, val_fraction=0.9) for fold in range(5)]
    held = [s.path for data in runs for s in data.folder.splits["val"]]
    assert sorted(held) == sorted(root.rglob("*.jpg"))
    assert runs[3].record()["drawn"] == {"val": 0.9, "test": 0.0, "seed": 0, "folds": 5, "fold": 3}
    assert "test" not in runs[0].folder.splits


def test_everything_can_be_tested_whatever_was_drawn_in_training(make_folder, tmp_path):
    root = make_folder(tmp_path, splits=(), count=3)
    data = FolderData(str(root), groups="gone.csv", folds=5, fold=4, test_fraction=1)
    assert data.folder.counts("test") == [3, 3]
    assert "groups" not in data.record()["drawn"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"folds": 1}, r"data\.folds is 1; expected 2 or more, or null"),
        ({"folds": 5, "fold": 5}, r"data\.fold is 5; expected 0 to 4, as data\.folds is 5"),
        ({"folds": 5, "fold": -1}, r"data\.fold is -1; expected 0 to 4"),
        ({"fold": 2}, r"data\.fold is 2, but data\.folds is null"),
        ({"folds": 5, "test_fraction": 1.5}, r"data\.test_fraction is 1\.5"),
    ],
)
def test_impossible_fold_is_refused(make_folder, tmp_path, option, message):
    with pytest.raises(UsageError, match=message):
        FolderData(str(make_folder(tmp_path, splits=())), **option)


def test_copies_in_two_splits_or_classes_are_said_once_before_training(tmp_path, capsys):
    data = ready(one_picture_many_times(tmp_path))
    data.setup("fit")
    data.setup("fit")
    err = capsys.readouterr().err
    assert err.count("\n") == 3
    assert "warning: 1 scene is in two or more splits, such as train/a/0.png and val/a/" in err
    assert "warning: 1 scene is in two or more classes, such as train/a/0.png and" in err
    assert "data.groups duplicates" in err and f"vitlora doctor --data {tmp_path}" in err


def test_the_search_for_copies_can_be_switched_off(tmp_path, capsys):
    one_picture_many_times(tmp_path)
    data = ready(tmp_path, check_copies=False)
    with patch("vitlora.data.inspection.leak_notes", side_effect=AssertionError):
        data.setup("fit")
        data.setup("fit")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert (
        "vitlora does not look for copies in two splits or classes, because data.check_copies is"
        in err
    )


def test_copies_of_test_pictures_count_but_torn_ones_do_not_stop_training(
    make_folder, tmp_path, capsys
):
    make_folder(tmp_path, splits=("train", "val", "test"))
    ready(tmp_path).setup("fit")
    assert "scene" not in capsys.readouterr().err  # of copies; work that takes long has a line, too
    (tmp_path / "test/a/torn.jpg").touch()
    pixels = np.random.default_rng(5).integers(80, 180, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((90, 90), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "train/a/x.png")
    picture.resize((70, 70)).save(tmp_path / "test/a/x.png")
    ready(tmp_path).setup("fit")
    assert "train/a/x.png and test/a/x.png" in capsys.readouterr().err


def test_views_are_decided_by_seed_view_and_picture_alone(tmp_path):
    one_picture_many_times(tmp_path)
    torch.manual_seed(5)
    data = ready(tmp_path)
    first, again, other = (images_of(data.view_dataloader("train", view)) for view in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert distinct(first + other) == 2 * len(first)
    alone = data.view_dataloader("train", 1).dataset
    assert torch.equal(alone[1, 3][0], other[3])  # whatever came before
    torch.manual_seed(6)
    assert distinct(other + images_of(data.view_dataloader("train", 1))) == 2 * len(first)
    val = (images_of(data.view_dataloader("val", view)) for view in (0, 1))
    assert all(map(torch.equal, *val))


def test_what_is_kept_is_served_even_to_an_epoch_asked_for_before(tmp_path):
    loader = PictureLoader([0, 1], num_workers=2, persistent_workers=True)
    assert [int(batch) for batch in loader] == [0, 1]
    workers = _workers(loader)
    assert len(workers) == 2 and all(worker.is_alive() for worker in workers)
    asked = iter(loader)
    loader.keep(DataLoader([5, 6]))
    assert int(next(asked)) == 5 and not any(worker.is_alive() for worker in workers)
    assert [int(batch) for batch in asked] == [6]
    assert [int(batch) for batch in loader] == [5, 6] and _workers(loader) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(make_folder, tmp_path, workers):
    make_folder(tmp_path, count=9)
    epochs = []
    for number in (0, workers):
        torch.manual_seed(5)
        loader = ready(tmp_path, augment="strong", num_workers=number).train_dataloader()
        for epoch in (0, 3):
            loader.batch_sampler.sampler.set_epoch(epoch)
            epochs.append(list(loader))
    first, second, *again = epochs
    assert distinct(images_of(first + second)) == 36
    for batches, same in zip((first, second), again, strict=True):
        for one, other in zip(batches, same, strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_an_epoch_entered_in_the_middle_goes_on_as_the_whole_one(make_folder, tmp_path):
    make_folder(tmp_path, count=9)
    whole, rest = (ready(tmp_path, augment="strong").train_dataloader() for _ in range(2))
    whole.batch_sampler.sampler.set_epoch(2)
    rest.batch_sampler.sampler.go_on(2, 2 * 4)
    rest.batch_sampler.sampler.set_epoch(2)  # as Lightning does
    for one, other in zip(list(whole)[2:], rest, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    for loader in (whole, rest):
        loader.batch_sampler.sampler.set_epoch(3)
    assert all(map(torch.equal, images_of(whole), images_of(rest)))


def test_loaders_leave_the_random_numbers_of_training_alone(make_folder, tmp_path):
    make_folder(tmp_path)
    before = torch.get_rng_state()
    for workers in (0, 1):
        data = ready(tmp_path, num_workers=workers)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_drawn_from_train_and_test_is_never_touched(make_folder, tmp_path):
    root = make_folder(tmp_path, splits=("train", "test"), count=10)
    data = FolderData(str(root), val_fraction=0.2)
    assert data.drawn and data.folder.counts("train") == [8, 8]
    assert data.folder.counts("val") == [2, 2] and data.folder.counts("test") == [10, 10]
    assert all(sample.path.parts[-3] == "test" for sample in data.folder.splits["test"])
    assert data.record()["drawn"] == {"val": 0.2, "test": 0.0, "seed": 0}
    again = FolderData(str(root), val_fraction=0.2)
    assert again.record()["digests"] == data.record()["digests"]
    more = FolderData(str(root), resplit=True, test_fraction=0.1)
    assert sum(more.folder.counts("test")) == 4
    fold = FolderData(str(root), folds=5, fold=1)
    assert fold.folder.counts("val") == [2, 2] and fold.folder.counts("test") == [10, 10]
    tested = FolderData(str(root), test_fraction=1)
    assert tested.folder.counts("test") == [10, 10] and list(tested.folder.splits) == ["test"]


def test_groups_of_train_stay_whole_where_test_is_there_already(make_folder, tmp_path):
    root = make_folder(tmp_path / "photos", splits=("train", "test"), count=10)
    file = tmp_path / "g.csv"
    rows = [f"train/{name}/{n}.jpg,{name}{n // 2}" for name in ("a", "b") for n in range(10)]
    file.write_text("\n".join(["file,group", *rows]))
    data = FolderData(str(root), groups=str(file))
    numbers = [int(s.path.stem) // 2 for s in data.folder.splits["val"]]
    assert numbers and all(numbers.count(n) % 2 == 0 for n in numbers)
    assert data.folder.counts("test") == [10, 10]


def test_a_share_for_testing_is_refused_where_test_is_there_already(make_folder, tmp_path):
    root = make_folder(tmp_path, splits=("train", "test"))
    with pytest.raises(UsageError, match=r"data.test_fraction 0.1: .* has test pictures already"):
        FolderData(str(root), test_fraction=0.1)


def test_what_was_understood_is_said_first_and_what_is_not_measured(tmp_path, capsys):
    for place, count in (("train/a", 4), ("train/b", 4), ("train/c", 1), ("val/a", 2)):
        (tmp_path / place).mkdir(parents=True)
        for number in range(count):
            colour = (number * 60, len(place), ord(place[-1]))
            Image.new("RGB", (40, 40), colour).save(tmp_path / place / f"{number}.png")
    data = ready(tmp_path, check_copies=False)
    data.setup("fit")
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == (
        "data: 11 pictures in 3 classes, labels from class folders; train 9, val 2"
    )
    assert "val has no picture of 2 of 3 classes ('b', 'c'): what is measured" in said.err


def test_the_advice_on_copies_can_be_followed(make_folder, tmp_path, capsys):
    for name, splits, advice in (
        ("drawn", (), "; data.groups duplicates keeps"),
        ("halfway", ("train", "test"), "; data.resplit true with data.groups duplicates keeps"),
        ("given", ("train", "val"), "; data.resplit true with data.groups duplicates keeps"),
    ):
        root = make_folder(tmp_path / name, splits=splits, count=8)
        folders = [p for p in root.rglob("*") if p.is_dir() and p.name in "ab"]
        for index, folder in enumerate(folders):  # one scene everywhere, at another quality
            pixels = np.random.default_rng(5).integers(80, 180, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((90 - index, 90 - index), Image.BICUBIC)
            for number in range(8 // len(folders) * 2):
                picture.save(folder / f"same-{number}.png")
        ready(root).setup("fit")
        assert advice in capsys.readouterr().err, name
