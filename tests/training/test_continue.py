"""Going on from a bundle: the same network at step 0, the same classes first, what is forgotten."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import BACKBONE, train

from vitlora.adapters import FullFineTuning, LinearProbe, Lora
from vitlora.bundle.checkpoint import Bundle, load_bundle, save_bundle
from vitlora.bundle.merging import merged_network
from vitlora.cli.main import main
from vitlora.errors import AdapterError, BundleError, UsageError
from vitlora.prediction.predictor import Predictor
from vitlora.training import Trainer
from vitlora.training.classifier import Classifier
from vitlora.training.continued import options_of, start

QV = ["attention.q", "attention.v"]
# options of the run, how it is written in config.yaml
METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "lora": ({"rank": 3, "alpha": 5}, ""),
    "ranks": ({"rank": 2, "ranks": {"mlp.fc1": 3}, "last_blocks": 2}, ""),
    "qlora": ({"rank": 4}, "nf4"),
    "dora": ({"rank": 4, "variant": "dora"}, ""),
    "rslora": ({"rank": 4, "variant": "rslora"}, ""),
    "pissa": ({"rank": 4, "variant": "pissa", "ranks": {"blocks.1": 2}}, ""),
    "loftq": ({"rank": 4, "variant": "loftq"}, "nf4"),
    "q and v": ({"rank": 4, "targets": QV}, ""),
    "norms, biases": ({"rank": 4, "norms": True, "biases": True}, ""),
    "LoRA head": ({"rank": 4}, "head"),
    "LinearProbe": ({}, ""),
    "FullFineTuning": ({}, ""),
}
CLASSES = {"LinearProbe": LinearProbe, "FullFineTuning": FullFineTuning}


def options(method: str) -> dict[str, Any]:
    """Returns what `Classifier` is given."""
    init, kind = METHODS[method]
    return {
        "adapter": CLASSES.get(method, Lora)(**init),
        "head": "lora" if kind == "head" else "full",
        "quantization": "nf4" if kind == "nf4" else "none",
    }


def first(root: Path, output: Path, method: str, precision: str = "32-true") -> Bundle:
    """Returns a bundle trained as the command line does it, which writes its config.yaml."""
    train(root, output, precision, **options(method))
    bundle = load_bundle(output)
    name = method if method in CLASSES else "Lora"
    adapter = {"class_path": f"vitlora.adapters.{name}", "init_args": METHODS[method][0]}
    run = {"data": {}, "model": {"backbone": BACKBONE, "adapter": adapter}}
    save_bundle(output, bundle.record, bundle.tensors, bundle.peft, yaml.safe_dump(run))
    return load_bundle(output)


def at_step_zero(bundle: Bundle, classes: int, precision: Any = "32-true") -> Classifier:
    """Returns what training by the bundle's options begins with."""
    found = options_of(bundle, [], [])
    adapter = found["model.adapter"]
    method = {**CLASSES, "Lora": Lora}[adapter["class_path"]]
    names = ("backbone", "weights", "head", "quantization")
    model: dict[str, Any] = {name: found[f"model.{name}"] for name in names}
    size, made = found["model.image_size"], method(**adapter["init_args"])
    classifier = Classifier(classes, image_size=size, adapter=made, **model)
    start(classifier, bundle)
    classifier.trainer = Trainer(precision=precision, accelerator="cpu")
    classifier.configure_model()
    return classifier.eval()


def go_on(folder: Path, root: Path, *words: str) -> int:
    fixed = ["--trainer.accelerator", "cpu", "--data.num_workers", "0", "--data.augment", "none"]
    fixed += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    if "--trainer.precision" not in words:
        fixed += ["--trainer.precision", "32-true"]
    output = [] if "--output" in words else ["--output", str(folder.parent / "new")]
    return main(["fit", "--from", str(folder), "--data.root", str(root), *fixed, *output, *words])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: Any, make_folder: Any) -> Path:
    """Three classes: the bundles know b and c, a is new and sorts before them."""
    root = tmp_path_factory.mktemp("data")
    make_folder(root / "new", ("a", "b", "c"), ("train", "val", "test"))
    shutil.copytree(root / "new", root / "old")
    for split in ("train", "val", "test"):
        shutil.rmtree(root / "old" / split / "a")
    return root


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: Any) -> Bundle:
    return first(pictures / "old", tmp_path_factory.mktemp("trained"), "lora")


@pytest.fixture
def bundle(trained: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(trained.folder, tmp_path / "first")
    return load_bundle(tmp_path / "first")


@pytest.mark.parametrize("method", METHODS)
def test_training_begins_with_exactly_the_bundles_network(
    method: str, pictures: Path, tmp_path: Path
) -> None:
    bundle = first(pictures / "old", tmp_path / "first", method)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = Predictor(bundle, device="cpu").network(x)
        model = at_step_zero(bundle, 3)
        got = model(x)
    assert expected.std() > 0.1
    assert got.shape == (3, 3)
    assert (got[:, :2] - expected).norm() <= 1e-5 * expected.norm()
    assert got[:, 2].abs().max() == 0  # the new class knows nothing
    assert model.storage == bundle.record.storage
    assert type(model.adapter).__name__ == bundle.record.method


@pytest.mark.parametrize(("then", "now"), [("bf16-mixed", "32-true"), ("32-true", "bf16-mixed")])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_bases_rounding_stays_the_bundles(
    method: str, then: str, now: str, pictures: Path, tmp_path: Path
) -> None:
    bundle = first(pictures / "old", tmp_path / "first", method, then)
    model = at_step_zero(bundle, 2, now)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, got = merged_network(bundle)(x), model(x)
    assert (got - expected).norm() <= 1e-5 * expected.norm()
    assert model.storage == bundle.record.storage


def test_the_command_line_trains_on_from_there(
    bundle: Bundle, pictures: Path, monkeypatch: Any
) -> None:
    seen: list[torch.Tensor] = []
    x = torch.randn(3, 3, 32, 32)

    def look(self: Classifier, *_: Any) -> None:
        with torch.no_grad():
            seen.append(self.eval()(x))
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "training_step", look)
    assert go_on(bundle.folder, pictures / "new") == 130
    expected = merged_network(bundle)(x).detach()
    assert (seen[0][:, :2] - expected).norm() <= 1e-5 * expected.norm()


def test_parts_of_a_fused_layer_stay_parts(pictures: Path, tmp_path: Path) -> None:
    bundle = first(pictures / "old", tmp_path / "first", "q and v")
    assert go_on(bundle.folder, pictures / "new", "--model.lr", "0.05") == 0
    old, new = bundle.tensors, load_bundle(tmp_path / "new").tensors
    name = next(name for name in old if name.endswith("qkv.lora_B.weight"))
    assert not torch.equal(old[name], new[name])
    width = len(old[name]) // 3
    assert new[name][width : 2 * width].abs().max() == 0  # k
    assert new[name][:width, 4:].abs().max() == 0  # q has the first half of the rank


def test_old_classes_come_first_and_the_bundle_says_what_it_came_from(
    bundle: Bundle, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    before = {path: path.read_bytes() for path in bundle.folder.iterdir()}
    assert go_on(bundle.folder, pictures / "new") == 0
    new = load_bundle(tmp_path / "new")
    assert new.record.classes == ("b", "c", "a")
    record = json.loads((bundle.folder / "vitlora.json").read_text())
    assert new.record.parent == record["digest"][:16] == bundle.digest[:16]
    assert bundle.record.parent is None and "parent" not in record
    assert {path: path.read_bytes() for path in bundle.folder.iterdir()} == before
    capsys.readouterr()
    for command in ("validate", "test"):
        words = ["--checkpoint", str(new.folder), "--trainer.accelerator", "cpu"]
        assert main([command, *words, "--data.num_workers", "0"]) == 0
    assert capsys.readouterr().out.count("12 images") == 2
    # the run's own config goes on from the same bundle, and so does the new bundle
    words = ["--config", str(new.folder / "config.yaml"), "--output", str(tmp_path / "again")]
    assert main(["fit", *words]) == 0
    assert load_bundle(tmp_path / "again").record.parent == new.record.parent
    assert go_on(new.folder, pictures / "old", "--output", str(tmp_path / "third")) == 0
    third = load_bundle(tmp_path / "third")
    assert third.record.classes == ("b", "c", "a")
    assert third.record.parent == new.digest[:16]


def test_an_old_class_without_a_folder_keeps_its_output(
    bundle: Bundle, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(pictures / "new", tmp_path / "some")
    for split in ("train", "val", "test"):
        shutil.rmtree(tmp_path / "some" / split / "b")
    assert go_on(bundle.folder, tmp_path / "some", "--model.class_weights", "true") == 0
    said = capsys.readouterr()
    assert "has no training pictures of b, so the network may forget" in said.err
    assert load_bundle(tmp_path / "new").record.classes == ("b", "c", "a")
    assert "the old test set, 8 pictures, before -> after: accuracy" in said.out
    words = ["--checkpoint", str(tmp_path / "new"), "--trainer.accelerator", "cpu"]
    assert main(["test", *words]) == 0
    # class folders alone are drawn, without the class that has none
    shutil.copytree(tmp_path / "some/train", tmp_path / "alone")
    assert go_on(bundle.folder, tmp_path / "alone", "--output", str(tmp_path / "drawn")) == 0
    counts = load_bundle(tmp_path / "drawn").record.split["counts"]
    assert counts == {"train": [0, 4, 3], "val": [0, 0, 1]}  # all of c were trained on before


def test_what_is_forgotten_is_counted_on_pictures_not_trained_on(
    bundle: Bundle, pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(pictures / "new", tmp_path / "leaky")
    shutil.copy(pictures / "old/test/b/0.jpg", tmp_path / "leaky/train/c/corrected.jpg")
    assert go_on(bundle.folder, tmp_path / "leaky", "--model.lr", "0.05") == 0
    out = capsys.readouterr().out
    assert "the old test set, 8 pictures" in out  # what was held out is not trained on
    assert "exact McNemar test" in out
    root = tmp_path / "copy"
    shutil.copytree(pictures / "old/test", root)
    words = ["--old-data", str(root), "--output", str(tmp_path / "two")]
    assert go_on(bundle.folder, pictures / "new", *words) == 0
    assert f"{root}, split test (8 of 8" not in (out := capsys.readouterr().out)
    assert f"{root}, split test, 8 pictures" in out


def test_class_folders_are_drawn_as_for_the_bundle(
    pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(pictures / "old/train", tmp_path / "mine")
    adapter = {"class_path": "LinearProbe"}
    run = {"backbone": BACKBONE, "weights": "none", "image_size": 32, "adapter": adapter}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": run, "trainer": {"max_epochs": 1}}))
    draw = ["--data.test_fraction", "0.25", "--data.split_seed", "5", "--output", "first"]
    fixed = ["--config", "mine.yaml", "--data.root", "mine", "--trainer.accelerator", "cpu"]
    assert main(["fit", *fixed, *draw]) == 0
    assert main(["fit", *fixed, "--from", "first", "--output", "new"]) == 0
    assert "the old test set, 2 pictures" in capsys.readouterr().out
    assert load_bundle("new").record.split == load_bundle("first").record.split
    words = ["--data.test_fraction", "0", "--output", "other"]
    assert main(["fit", *fixed, "--from", "first", *words]) == 0
    said = capsys.readouterr()
    assert "the old test set, 2 pictures" in said.out  # held out once, held out for good
    assert load_bundle("other").record.split["counts"]["test"] == [1, 1]


def test_the_threshold_is_chosen_as_the_bundles_was(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    def chosen(name: str, parent: Path, *words: str) -> dict[str, float]:
        assert go_on(parent, pictures / "new", "--output", name, *words) == 0
        learnt = load_bundle(name).record.confidence
        assert learnt is not None
        return learnt.chosen_for

    assert chosen("second", bundle.folder, "--unsure.coverage", "0.7") == {"coverage": 0.7}
    assert chosen("third", tmp_path / "second") == {"coverage": 0.7}
    words = ("--unsure.max_error", "0.2")
    assert chosen("fourth", tmp_path / "second", *words) == {"max_error": 0.2, "certainty": 0.9}


def test_old_pictures_that_are_gone_are_a_note(pictures: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(pictures / "old", tmp_path / "old")
    bundle = first(tmp_path / "old", tmp_path / "first", "LinearProbe")
    (tmp_path / "old/test/b/0.jpg").unlink()
    (tmp_path / "old/val/b/0.jpg").unlink()
    assert go_on(bundle.folder, pictures / "new") == 0
    assert "have changed; pass --old-data DIR" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "old")
    assert go_on(bundle.folder, pictures / "new") == 0
    assert "are gone; pass --old-data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.backbone", BACKBONE], "--model.backbone cannot be combined with --from"),
        (["--model.adapter.rank", "2"], "--model.adapter.rank cannot be combined"),
        (["--model.quantization=nf4"], "--model.quantization cannot be combined"),
        (["--data.classes", "[c,b,a]"], "expected it to begin with the classes known already"),
        (["--data.classes", "[b,a]"], "begin with the classes known already, in their order: b, c"),
        (["--output", "first"], "--output and --from are both first"),
        (["--old-data", "nowhere"], "'nowhere': no such folder"),
        (["--config", "other.yaml"], "sets model.adapter to LinearProbe, but first has Lora"),
        (["--config", "rank.yaml"], "sets model.adapter.rank to 16, but first has 3"),
        (["--config", "wider.yaml"], "sets model.image_size to 64, but"),
    ],
)
def test_what_contradicts_the_bundle_is_refused_in_one_line(
    words: list[str], message: str, bundle: Bundle, pictures: Path, capsys: Any
) -> None:
    Path("other.yaml").write_text("model: {adapter: {class_path: LinearProbe}}")
    rank = {"class_path": "Lora", "init_args": {"alpha": 5, "rank": 16}}
    Path("rank.yaml").write_text(yaml.safe_dump({"model": {"adapter": rank}}))
    Path("wider.yaml").write_text("model: {image_size: 64}")
    before = (bundle.folder / "vitlora.json").read_bytes()
    assert go_on(Path("first"), pictures / "new", *words) != 0
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
    assert (bundle.folder / "vitlora.json").read_bytes() == before


def test_the_config_of_the_first_run_may_be_used_again(
    pictures: Path, tmp_path: Path, capsys: Any
) -> None:
    bundle = first(pictures / "old", tmp_path / "first", "pissa")
    init = METHODS["pissa"][0]
    run = {"model": {"backbone": BACKBONE, "adapter": {"class_path": "Lora", "init_args": init}}}
    Path("mine.yaml").write_text(yaml.safe_dump({**run, "trainer": {"max_epochs": 1}}))
    assert go_on(bundle.folder, pictures / "new", "--config", "mine.yaml") == 0
    assert main(["fit", "--from", "first", "--data.root", "nowhere"]) == 1
    assert main(["validate", "--from", "first"]) == 2
    assert main(["fit", "--old-data", "x", "--data.root", str(pictures / "old"), "--output", "y"])


def test_the_default_output_is_named_after_the_bundle(
    bundle: Bundle, pictures: Path, capsys: Any
) -> None:
    words = ["--from", "first", "--data.root", str(pictures / "new"), "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", *words])
    run = yaml.safe_load(capsys.readouterr().out)
    assert Path(run["output"]) == Path("checkpoints/first-continued")
    assert run["model"]["adapter"]["init_args"]["rank"] == 3
    assert run["model"]["backbone"] == BACKBONE
    assert run["data"]["known_classes"] == ["b", "c"]


def test_a_class_named_by_a_bundle_is_not_imported(bundle: Bundle, tmp_path: Path) -> None:
    for path in ("os.Lora", "subprocess.Popen", "LinearProbe"):
        run = {"model": {"adapter": {"class_path": path, "init_args": {"rank": 3, "args": "x"}}}}
        record = bundle.record
        save_bundle(tmp_path / "odd", record, bundle.tensors, bundle.peft, yaml.safe_dump(run))
        odd = load_bundle(tmp_path / "odd")
        if not path.endswith("Lora"):
            with pytest.raises(BundleError, match="does not say how its adapter was made"):
                options_of(odd, [], [])
            continue
        adapter = options_of(odd, [], [])["model.adapter"]
        assert adapter["class_path"] == "Lora" and adapter["init_args"]["rank"] == 3
        assert "args" not in adapter["init_args"]


def test_a_bundle_whose_config_tells_another_adapter_is_refused(bundle: Bundle) -> None:
    for adapter in (Lora(rank=2), Lora(rank=3), Lora(rank=3, alpha=5, last_blocks=1)):
        model = Classifier(2, BACKBONE, "none", 32, adapter=adapter)
        network = adapter.inject(model.backbone, "full")
        with pytest.raises(AdapterError, match="not the one its config"):
            adapter.start_from(network, bundle.tensors, bundle.peft)


def test_rows_are_added_to_the_head_alone(bundle: Bundle) -> None:
    adapter = Lora(rank=3, alpha=5)
    network = adapter.inject(Classifier(2, BACKBONE, "none", 32, adapter=adapter).backbone, "full")
    name = next(name for name in bundle.tensors if name.endswith("qkv.lora_B.weight"))
    cut = {**bundle.tensors, name: bundle.tensors[name][:-1]}
    with pytest.raises(AdapterError, match=r"qkv.lora_B.weight of the bundle is \("):
        adapter.start_from(network, cut, bundle.peft)


def test_an_adapter_of_unknown_making_is_refused(bundle: Bundle, pictures: Path) -> None:
    save_bundle(Path("adopted"), bundle.record, bundle.tensors, bundle.peft, "model: {}\n")
    with pytest.raises(BundleError, match="does not say how its adapter was made"):
        options_of(load_bundle("adopted"), [], [])
    with pytest.raises(UsageError, match="has full"):
        options_of(bundle, [{"model": {"head": "lora"}}], [])
