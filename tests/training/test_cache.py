"""The cache of what frozen blocks make of the pictures: the same training, started later."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from backbones.families import FAMILIES, small
from lightning.pytorch import Callback
from runs import BACKBONE
from torch.utils.data import DataLoader

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.backbones import PatchDrop
from vitlora.data.datamodule import FolderData
from vitlora.errors import UsageError
from vitlora.training import RunFolder, Trainer
from vitlora.training.cache import features as features_module
from vitlora.training.cache import prefix_cache as cache_module
from vitlora.training.cache.features import Features
from vitlora.training.cache.prefix import Prefix
from vitlora.training.cache.prefix_cache import PrefixCache, pays, usual_views
from vitlora.training.cache.shelf import Shelf
from vitlora.training.classifier import Classifier

LAST: dict[str, Any] = {"last_blocks": 2, "rank": 2}  # of the micro-ViT's six


class Losses(Callback):
    """Keeps the loss of every step and the scores of every epoch."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.train.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.val.append(float(trainer.callback_metrics["val/loss"]))


class Whole(Prefix):
    """Skips nothing: what is kept of a picture is the picture, and the rest is the network."""

    @torch.no_grad()
    def look(self, images):
        return images

    def before(self, images):
        return images

    def after(self, kept):
        return self.module(kept)


def fit(root: Path, output: Path | None = None, **options: Any) -> tuple[Classifier, Losses]:
    """Trains three epochs of three steps on the micro-ViT at random, 32 px."""
    torch.manual_seed(options.pop("seed", 0))
    trainer = {key: options.pop(key) for key in list(options) if key.startswith("cache")}
    trainer |= options.pop("trainer", {})
    adapter = options.pop("adapter", None)
    data = FolderData(str(root), **{"batch_size": 2, "num_workers": 0, **options.pop("data", {})})
    model: dict[str, Any] = {"backbone": BACKBONE, "weights": "none", "image_size": 32}
    classifier = Classifier(
        data.num_classes,
        **{**model, "lr": 0.02, "adapter": adapter or Lora(**LAST), **options},
    )
    losses = Losses()
    callbacks: list[Callback] = [losses]
    if output is not None:
        callbacks.append(RunFolder(output, lambda: "model: {}\n", logs=False))
    Trainer(
        **{
            "max_epochs": 3,
            "precision": "32-true",
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": callbacks,
            "logger": False,
            **trainer,
        }
    ).fit(classifier, datamodule=data)
    return classifier, losses


@pytest.fixture(scope="module")
def root(make_folder, tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("cache"), ("a", "b", "c"), count=2, size=48)


def whole(root: Path, **options: Any) -> tuple[Classifier, Losses]:
    """Trains on the same views without skipping anything."""
    with patch.object(cache_module, "Prefix", Whole):
        return fit(root, **options)


def trained(model: Classifier) -> dict[str, torch.Tensor]:
    assert model.network is not None
    return {n: p.detach().clone() for n, p in model.network.named_parameters() if p.requires_grad}


def assert_same(one: tuple[Classifier, Losses], other: tuple[Classifier, Losses]) -> None:
    """Bit for bit: a view is computed in batches as large as those of training."""
    assert len(one[1].train) >= 6 and len(set(one[1].train)) > 1
    assert one[1].train == other[1].train
    assert one[1].val == other[1].val
    theirs = trained(other[0])
    for name, tensor in trained(one[0]).items():
        assert torch.equal(tensor, theirs[name]), name


METHODS: dict[str, dict[str, Any]] = {
    "probe": {"adapter": LinearProbe()},
    "lora head": {"adapter": Lora(targets=[], rank=2), "head": "lora"},
    "last blocks": {},
    "dora, class weights": {"adapter": Lora(variant="dora", **LAST), "class_weights": True},
    "eva, two classes": {
        "adapter": Lora(variant="eva", **LAST),
        "data": {"classes": ["c", "a"], "batch_size": 2},
    },
    "qlora, checkpointing": {"quantization": "nf4", "checkpointing": True},
    "no augmentation": {"data": {"augment": "none"}},
    "dropout, accumulated": {
        "adapter": Lora(dropout=0.3, **LAST),
        "trainer": {"accumulate_grad_batches": 2},
    },
}


def test_batches_of_somebody_elses_are_not_kept(root):
    """Their pictures are not known, so ``auto`` leaves them alone and a wish is refused."""

    class Own(FolderData):
        def train_dataloader(self) -> Any:
            return DataLoader(super().train_dataloader().dataset, batch_size=2)

    with patch.dict(globals(), FolderData=Own):
        fit(root, adapter=LinearProbe(), cache="auto")
        with pytest.raises(UsageError, match="batches come from a DataLoader of your own"):
            fit(root, adapter=LinearProbe(), cache="memory")


@pytest.mark.parametrize("method", METHODS)
def test_trains_as_without_on_the_same_views(method, root):
    options = {"cache": "memory", "cache_views": 2, **METHODS[method]}
    one, other = fit(root, **options), whole(root, **options)
    # the head's input comes from another product than in a whole step, so its last bit may differ
    assert one[1].train == pytest.approx(other[1].train, rel=1e-6)
    assert one[1].val == pytest.approx(other[1].val, rel=1e-6)
    theirs = trained(other[0])
    for name, tensor in trained(one[0]).items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)


def test_disk_trains_as_memory_and_as_before(root, tmp_path):
    disk = {"cache": "disk", "cache_views": 2, "cache_folder": str(tmp_path)}
    first = fit(root, **disk)
    assert_same(first, fit(root, cache="memory", cache_views=2))
    with computed() as parts:
        assert_same(first, fit(root, **disk))
    assert parts == []


def test_an_epoch_takes_the_next_view_and_begins_again(root):
    served: list[list[torch.Tensor]] = []

    class Listen(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            served.append([])

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            served[-1] += batch[0]

        def on_train_epoch_end(self, trainer, pl_module):
            self.views = trainer.train_dataloader._kept.dataset.views

    listen = Listen()
    trainer = {"max_epochs": 5, "callbacks": [listen]}
    fit(root, cache="memory", cache_views=2, adapter=LinearProbe(), trainer=trainer)
    epochs = [{row.numpy().tobytes() for row in epoch} for epoch in served]
    first, second = ({row.numpy().tobytes() for row in view} for view in listen.views)
    assert not first & second and epochs == [first, second, first, second, first]
    assert len({torch.stack(epoch).numpy().tobytes() for epoch in served}) == 5  # other orders


def test_with_a_view_for_each_epoch_it_is_the_run_without_a_cache(root):
    """The cached view of a number is the augmentation of the epoch of that number."""
    options: dict[str, Any] = {"data": {"augment": "strong"}, "optimizer": "sgd"}
    cached = fit(root, cache="memory", cache_views=3, **options)[1]
    plain = fit(root, cache="off", **options)[1]
    assert cached.train == pytest.approx(plain.train, rel=1e-5)
    assert cached.val == pytest.approx(plain.val, rel=1e-5)


def test_without_augmentation_it_is_the_run_without_a_cache(root):
    data = {"augment": "none", "batch_size": 6}  # whatever the order
    options: dict[str, Any] = {"data": data, "optimizer": "sgd"}
    options["trainer"] = {"num_sanity_val_steps": 1}
    cached = fit(root, cache="memory", **options)[1]
    plain = fit(root, cache="off", **options)[1]
    assert cached.train == pytest.approx(plain.train, rel=1e-5)
    assert cached.val == pytest.approx(plain.val, rel=1e-5)


def test_the_bundle_is_that_of_a_run_without(root, tmp_path):
    options = {"cache": "memory", "cache_views": 2}
    fit(root, tmp_path / "cached", **options)
    whole(root, output=tmp_path / "plain", **options)
    names = sorted(file.name for file in (tmp_path / "plain").iterdir())
    assert len(names) >= 4
    for name in names:
        ours, theirs = ((tmp_path / run / name).read_bytes() for run in ("cached", "plain"))
        if name == "vitlora.json":  # says when it was made, and carries a digest of all it says
            fields = [json.loads(text) for text in (ours, theirs)]
            ours, theirs = ({**f, "created": "", "digest": ""} for f in fields)
        assert ours == theirs, name


@contextmanager
def computed():
    """Lists the parts that are computed, not found."""
    parts: list[tuple[str, int]] = []
    own = Features.batches

    def batches(self, split, view):
        parts.append((split, view))
        return own(self, split, view)

    with patch.object(Features, "batches", batches):
        yield parts


def probe(root: Path, folder: Path, **options: Any) -> list[tuple[str, int]]:
    """Trains a linear probe with a cache on disk; returns what had to be computed."""
    disk = {"cache": "disk", "cache_views": 2, "cache_folder": str(folder)}
    with computed() as parts:
        fit(root, **{**disk, "adapter": LinearProbe(), "trainer": {"max_epochs": 2}, **options})
    return parts


EVERYTHING = [("train", 0), ("train", 1), ("val", 0)]
TRAIN = EVERYTHING[:2]
CHANGES: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "nothing": ({}, []),
    "rate": ({"lr": 0.5}, []),
    "batch": ({"data": {"batch_size": 3}}, []),
    "more views": ({"cache_views": 3, "trainer": {"max_epochs": 3}}, [("train", 2)]),
    "seed": ({"seed": 1}, TRAIN),
    "recipe": ({"data": {"augment": "medium"}}, TRAIN),
    "no augmentation": ({"data": {"augment": "none"}}, [("train", 0)]),
    "size": ({"image_size": 40}, EVERYTHING),
    "view of the picture": ({"crop_mode": "squash"}, EVERYTHING),
    "storage": ({"quantization": "nf4"}, EVERYTHING),
    "scales": ({"quantization": "nf4", "block_size": 128}, EVERYTHING),
    "precision": ({"trainer": {"precision": "bf16-mixed", "max_epochs": 2}}, EVERYTHING),
    "blocks": ({"adapter": Lora(**LAST)}, EVERYTHING),
    "weights": ({"weights": None, "image_size": 32}, EVERYTHING),
    "classes": ({"data": {"classes": ["a", "b"]}}, EVERYTHING),
}


@pytest.fixture(scope="module")
def filled(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    assert probe(root, folder) == EVERYTHING
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_depends_on_a_change_is_computed_again(change, root, filled, tmp_path):
    shutil.copytree(filled, tmp_path / "cache")
    options, expected = CHANGES[change]
    assert probe(root, tmp_path / "cache", **options) == expected


def test_what_an_older_vitlora_kept_is_computed_again(root, filled, tmp_path):
    shutil.copytree(filled, tmp_path / "cache")
    with patch.object(features_module, "REVISION", features_module.REVISION + 1):
        assert probe(root, tmp_path / "cache") == EVERYTHING


def test_a_changed_picture_is_seen(root, filled, tmp_path):
    shutil.copytree(filled, tmp_path / "cache")
    picture = root / "train" / "a" / "0.jpg"
    before = picture.stat()
    try:
        os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
        assert probe(root, tmp_path / "cache") == TRAIN
    finally:
        os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "cut": ("bin", _cut),
    "one bit": ("bin", _flip),
    "no numbers": ("bin", Path.unlink),
    "no marker": ("json", Path.unlink),
    "marker cut": ("json", _cut),
    "marker of something else": (
        "json",
        lambda file: file.write_text('{"dtype": "torch.float32"}'),
    ),
    "marker is a list": ("json", lambda file: file.write_text("[1]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_torn_is_computed_again(damage, root, filled, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    suffix, harm = DAMAGES[damage]
    harm(sorted(folder.glob(f"*.{suffix}"))[0])
    assert len(probe(root, folder)) == 1
    assert probe(root, folder) == []


def test_an_interruption_leaves_nothing_half_written(root, tmp_path, capsys):
    folder, own = tmp_path / "cache", Features.batches

    def interrupted(self, split, view):
        for number, rows in enumerate(own(self, split, view)):
            if view == 1 and number == 1:
                raise KeyboardInterrupt
            yield rows

    with (
        patch.object(Features, "batches", interrupted),
        pytest.raises((SystemExit, KeyboardInterrupt)),
    ):
        probe(root, folder)
    assert sorted(file.suffix for file in folder.iterdir()) == [".bin", ".json"]
    assert probe(root, folder) == EVERYTHING[1:]


def test_what_was_unused_longest_makes_room(root, filled, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder)
    size = 3 * 6 * 160 * 4  # views, pictures, width, bytes
    assert sum(file.stat().st_size for file in folder.glob("*.bin")) == size
    for file in folder.glob("*.json"):
        if json.loads(file.read_text())["key"]["view"] == 1:
            os.utime(file, (1, 1))
    bound = {"cache_gb": size * 4 / 3 / 1e9}
    assert probe(root, folder, seed=1, cache_views=1, **bound) == TRAIN[:1]
    assert len(list(folder.glob("*.bin"))) == 4
    assert probe(root, folder, seed=2, cache_views=1, **bound) == TRAIN[:1]
    assert len(list(folder.glob("*.bin"))) == len(list(folder.glob("*.json"))) == 4
    assert probe(root, folder, cache_views=1, **bound) == []  # its second view had to go
    with pytest.raises(UsageError, match=r"cache_gb allows 11 kB"):
        probe(root, folder, cache_gb=11e-6)


def test_litter_is_swept_and_other_files_are_not(tmp_path):
    shelf = Shelf(tmp_path, 100)
    old, young = (f".{digit * 32}.bin.1.new" for digit in "ab")
    theirs = ["model.bin", "model.json", "notes.new", "pytorch_model.bin"]
    for name in (old, young, f"{'c' * 32}.bin", *theirs):
        (tmp_path / name).write_bytes(b"0" * 50)
        if name != young:
            os.utime(tmp_path / name, (1, 1))
    shelf.make_room(90)
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([young, *theirs])


def test_a_full_disk_is_one_line(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written \(.*cache_folder"):
        probe(root, tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("adapter", "blocks", "pooled"),
    [
        (LinearProbe(), 6, True),
        (Lora(last_blocks=1), 5, False),
        (Lora(targets=["mlp.fc2"], last_blocks=4), 2, False),
        (Lora(), 0, False),
        (Lora(last_blocks=1, norms=True), 0, False),
        (Lora(last_blocks=1, biases=True), 0, False),
        (FullFineTuning(), 0, False),
    ],
)
def test_what_is_trained_decides_where_the_prefix_ends(adapter, blocks, pooled):
    model = Classifier(3, BACKBONE, "none", 32, adapter=adapter)
    adapter.inject(model.backbone, "full")
    prefix = Prefix(model.backbone.module)
    assert (prefix.blocks, prefix.pooled, prefix.total) == (blocks, pooled, 6)


def test_auto_keeps_what_pays_and_says_so(root, capsys):
    fit(root, cache="auto", adapter=LinearProbe(), trainer={"max_epochs": 6})
    assert "cache        6 of 6 blocks, 3 views of 6 pictures for 6 epochs: 15.4 kB in memory" in (
        capsys.readouterr().out
    )
    for quiet in (
        {"trainer": {"max_epochs": 1}, "adapter": LinearProbe()},
        {"trainer": {"limit_train_batches": 2}, "adapter": LinearProbe()},
        {"adapter": Lora(rank=2)},
        {"trainer": {"max_epochs": 6}, "adapter": Lora(rank=2, last_blocks=1)},
        {"cache": "off", "adapter": LinearProbe()},
    ):
        with computed() as parts:
            fit(root, **{"cache": "auto", **quiet})
        assert parts == [] and "cache" not in capsys.readouterr().out


def test_auto_says_what_does_not_fit(root, capsys):
    with computed() as parts:
        fit(root, cache="auto", cache_gb=1e-6, adapter=LinearProbe())
    assert parts == []
    assert (
        "off: 6 of 6 blocks, 2 views of 6 pictures for 3 epochs: 11.5 kB, but trainer.cache_gb "
        "allows 1 kB" in capsys.readouterr().out
    )


def test_memory_that_is_not_there_is_refused(root):
    with (
        patch("psutil.virtual_memory") as memory,
        pytest.raises(UsageError, match="has room for 50 B"),
    ):
        memory.return_value.available = 100
        fit(root, cache="memory", adapter=LinearProbe())


@pytest.mark.parametrize("adapter", [Lora(rank=2), FullFineTuning()])
def test_nothing_to_keep_is_refused_where_it_was_asked_for(adapter, root):
    with pytest.raises(UsageError, match="is trained, and no block comes before it; set"):
        fit(root, cache="memory", adapter=adapter)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("ram", None, 4.0, None),
            "trainer.cache is 'ram'; expected one of auto, off, memory, disk",
        ),
        (("auto", 0, 4.0, None), "trainer.cache_views is 0; expected at least 1, or null"),
        (("auto", 1, 0.0, None), "trainer.cache_gb is 0.0; expected more than 0"),
    ],
)
def test_values_that_cannot_be(arguments, complaint):
    with pytest.raises(UsageError, match=complaint):
        PrefixCache(*arguments)


def test_it_pays_by_the_blocks_that_are_spared():
    backbone = Classifier(3, BACKBONE, "none", 32, adapter=Lora()).backbone
    prefix = Prefix(Lora(last_blocks=2).inject(backbone, "full").base_model.model)  # pyright: ignore
    assert prefix.blocks == 4
    # 4 blocks there, 2 there and back: 8 a picture; kept, 4 an epoch and 4 a view
    assert pays(prefix, views=1, epochs=2)  # 12 of 16
    assert not pays(prefix, views=2, epochs=2)  # 16 of 16
    assert pays(prefix, views=4, epochs=6)  # 40 of 48
    assert not pays(prefix, views=5, epochs=6)  # 44 of 48


def test_usual_views_are_half_as_many_as_epochs_from_two_to_six():
    found = [usual_views(epochs) for epochs in (1, 2, 3, 4, 6, 7, 11, 12, 13, 100)]
    assert found == [2, 2, 2, 2, 3, 4, 6, 6, 6, 6]


@pytest.mark.parametrize(("family", "name", "kwargs"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_halves_make_the_whole_in_every_family(family, name, kwargs):
    for adapter, expected in ((Lora(last_blocks=1), (1, False)), (LinearProbe(), (2, True))):
        backbone = small(name, kwargs, 3)
        torch.manual_seed(0)
        network = adapter.inject(backbone, "full").train()
        for key, parameter in network.named_parameters():
            if parameter.requires_grad and not key.endswith("bias"):
                torch.nn.init.normal_(parameter)
        prefix = Prefix(backbone.module)
        if family == "sapiens2":  # moves its rotary angles at random in training
            assert (prefix.blocks, prefix.obstacle) == (0, "rope is random in training")
            continue
        assert (prefix.blocks, prefix.pooled) == expected
        side = kwargs["img_size"]
        images = torch.randn(3, 3, side, side)
        prefix.look(torch.zeros(1, 3, side, side))
        weights = [p for p in network.parameters() if p.requires_grad]
        ours = prefix.after(prefix.before(images))
        theirs = network(images)
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs)
        gradients = (torch.autograd.grad(y.square().sum(), weights) for y in (ours, theirs))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "name", "kwargs"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_kept_patches_are_dropped_by_the_rest_of_the_blocks(family, name, kwargs):
    backbone = small(name, kwargs, 3)
    network = Lora(last_blocks=1).inject(backbone, "full").train()
    torch.nn.init.normal_(backbone.module.head.weight)
    drop, prefix = PatchDrop(backbone.module, 0.5), Prefix(backbone.module)
    if family == "sapiens2":
        return
    drop.first = prefix.blocks
    images = torch.randn(3, 3, kwargs["img_size"], kwargs["img_size"])
    network.eval()
    prefix.look(torch.zeros_like(images[:1]))
    kept = prefix.before(images)
    network.train()
    torch.manual_seed(1)
    ours = prefix.after(kept)
    torch.manual_seed(1)
    theirs = network(images)
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, network(images), rtol=1e-3)  # other patches


def test_a_layer_that_drops_at_random_is_an_obstacle_before_the_first_trained_block():
    model = Classifier(3, BACKBONE, "none", 32, adapter=Lora(last_blocks=2))
    module: Any = model.backbone.module
    model.adapter.inject(model.backbone, "full")
    module.blocks[4].mlp.drop1.p = 0.5
    assert Prefix(module).blocks == 4
    module.blocks[3].mlp.drop1.p = 0.5
    assert Prefix(module).obstacle == "blocks.3.mlp.drop1 is random in training"


def _keep(folder: Path, value: float, size: int = 6) -> torch.Tensor:
    rows = (torch.full((1, 4), value) for _ in range(size))
    return Shelf(folder, 10**6).keep({"what": "features"}, rows, (size, 4))


def test_two_runs_that_compute_the_same_do_not_disturb_each_other(tmp_path):
    first = iter(_interleaved(tmp_path))
    kept = next(first)
    assert torch.equal(kept, torch.full((6, 4), 2.0))  # of the run that finished meanwhile
    late = next(first)
    assert torch.equal(late, torch.full((6, 4), 1.0))
    assert torch.equal(kept, torch.full((6, 4), 2.0))  # nobody wrote into its file
    found = Shelf(tmp_path, 10**6).find({"what": "features"})
    assert found is not None and torch.equal(found, late)


def _interleaved(folder):
    """Yields what a second run keeps while a first one is writing the same, then the first's."""
    kept = []

    def rows():
        for index in range(6):
            if index == 3:
                kept.append(_keep(folder, 2.0))
            yield torch.full((1, 4), 1.0)

    late = Shelf(folder, 10**6).keep({"what": "features"}, rows(), (6, 4))
    yield kept[0]
    yield late


def test_a_run_goes_on_where_only_later_ones_cannot_find_its_features(
    tmp_path, monkeypatch, capsys
):
    def fail(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitlora.training.cache.shelf.write_whole", fail)
    assert torch.equal(_keep(tmp_path, 3.0), torch.full((6, 4), 3.0))
    assert "later runs cannot reuse it: No space left" in capsys.readouterr().out


def test_features_of_an_older_version_are_found(tmp_path):
    _keep(tmp_path, 5.0)
    (about,), (numbers,) = tmp_path.glob("*.json"), tmp_path.glob("*.bin")
    fields = json.loads(about.read_text())
    del fields["file"]
    about.write_text(json.dumps(fields))
    numbers.rename(about.with_suffix(".bin"))
    found = Shelf(tmp_path, 10**6).find({"what": "features"})
    assert found is not None and torch.equal(found, torch.full((6, 4), 5.0))


def test_features_that_no_file_names_are_swept_after_an_hour(tmp_path):
    _keep(tmp_path, 1.0)
    (old,) = tmp_path.glob("*.bin")
    _keep(tmp_path, 2.0)
    Shelf(tmp_path, 10**6).make_room(0)
    assert len(list(tmp_path.glob("*.bin"))) == 2
    os.utime(old, (1, 1))
    Shelf(tmp_path, 10**6).make_room(0)
    assert len(list(tmp_path.glob("*.bin"))) == 1 and not old.exists()
