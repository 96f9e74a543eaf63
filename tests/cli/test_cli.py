import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vitlora.bundle.checkpoint import bundle_bytes, load_bundle
from vitlora.cli.main import main
from vitlora.cli.scoring import failed
from vitlora.metrics.scores import Scores

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "vitlora/configs").rglob("*.yaml"))
MICRO = [
    "--model.backbone",
    "vitlora/vit_micro_patch8_96",
    "--model.weights",
    "none",
    "--model.image_size",
    "32",
    "--trainer.accelerator",
    "cpu",
    "--data.num_workers",
    "0",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path / "photos", splits=("train", "val", "test"))


def fit(photos: Path, *words: str) -> int:
    return main(["fit", "--data.root", str(photos), *MICRO, "--trainer.max_epochs", "1", *words])


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitlora", *words],
        capture_output=True,
        text=True,
        check=False,
        encoding=env.pop("encoding", "utf-8"),
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def test_there_are_configs() -> None:
    assert {path.name for path in CONFIGS} >= {
        "demo.yaml",
        "waste5.yaml",
        "waste5-qlora.yaml",
        "waste5-head.yaml",
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs_two_steps_and_leaves_a_small_bundle(
    config: Path, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    photos = make_folder(tmp_path / "five", classes=("a", "b", "c", "d", "e"))
    words = ["fit", "--config", config.name, "--data.root", str(photos), "--data.num_workers", "0"]
    words += ["--model.weights", "none", "--model.image_size", "32"]  # a ViT-B in seconds
    words += ["--data.batch_size", "2", "--trainer.limit_train_batches", "2"]
    assert main([*words, "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]) == 0
    folder = tmp_path / "checkpoints" / config.stem
    bundle = load_bundle(folder)
    assert bundle.record.classes == ("a", "b", "c", "d", "e")
    trained = {n: t for n, t in bundle.tensors.items() if ".base_layer." not in n}
    assert any(tensor.abs().sum() > 0 for name, tensor in trained.items() if "lora_B" in name)
    assert bundle_bytes(folder) <= 1.05 * sum(4 * t.numel() for t in trained.values()) + 10 * 1024


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_opens_with_its_command_and_what_to_expect(config: Path) -> None:
    head = config.read_text("utf-8").split("\ndata:")[0]
    assert f"#   vitlora fit --config {config.name}\n" in head
    assert "Expected: " in head
    assert "@" not in head
    assert config.read_text("utf-8").isascii()  # so that every shell copies it as it is


def test_fit_tells_what_it_trains_and_what_to_type_next(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "checkpoints/mine") == 0
    out = capsys.readouterr().out
    for needed in (
        r"parameters   [\d,]+ total, [\d,]+ trainable \(\d+\.\d+%\)",
        r"frozen base  [\d,]+ bytes",
        r"image size   32 px",
        r"a\s+4\s+4\s+4\n",
        r"gradient self-test: all \d+ trainable tensors are reached",
        r"epoch 1/1 \[#+\] loss \d.\d+ acc \d.\d+ \d+ img/s, 0:00 left \| val acc",
        r"accuracy \d\.\d+  95% interval \d\.\d+ to \d\.\d+   macro-F1 \d\.\d+",
        r"always unsure: \d+ validation pictures cannot show that at most 5.0% of the answers",
        r"bundle   checkpoints.mine  \([\d,]+ bytes\)",
        r"predict  vitlora predict IMAGE.jpg --checkpoint checkpoints.mine",
    ):
        assert re.search(needed, out), needed
    assert out.isascii()
    logs = Path("checkpoints/mine/logs")
    assert "val/macro_f1" in (logs / "metrics.csv").read_text()
    assert list(logs.glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("switch", "shown"), [("true", True), ("false", False)])
def test_the_progress_line_can_be_turned_off(
    switch: str, shown: bool, photos: Path, capsys: Any
) -> None:
    assert fit(photos, "--output", "x", "--trainer.enable_progress_bar", switch) == 0
    assert ("img/s" in capsys.readouterr().out) == shown


def test_a_second_fit_moves_the_first_bundle_aside(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "out") == 0
    first = Path("out/vitlora.json").read_bytes()
    assert fit(photos, "--output", "out", "--seed_everything", "1") == 0
    assert Path("out-1/vitlora.json").read_bytes() == first
    assert "the earlier bundle in out is now out-1" in capsys.readouterr().out
    load_bundle("out-1")


def test_a_folder_of_other_things_is_never_written_into(photos: Path, capsys: Any) -> None:
    Path("out").mkdir()
    Path("out/config.yaml").write_text("mine")
    (photos / "train" / "a" / "torn.jpg").write_bytes(b"")  # found later: the folder comes first
    assert fit(photos, "--output", "out") == 2
    assert "holds something else than a bundle" in capsys.readouterr().err
    assert [p.name for p in Path("out").iterdir()] == ["config.yaml"]


def test_validate_repeats_the_numbers_of_training(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    metrics = load_bundle("checkpoints/x").record.metrics
    capsys.readouterr()
    assert main(["validate", "--json", "v.json"]) == 0
    text = capsys.readouterr().out
    numbers = json.loads(Path("v.json").read_text("utf-8"))
    assert numbers["accuracy"] == metrics["accuracy"]
    assert numbers["macro_f1"] == metrics["macro_f1"]
    assert main(["predict", str(photos / "val"), "--json", "--top-k", "9"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    surprise = [
        -math.log(found["confidence"])
        for line in lines
        for found in line["top_k"]
        if found["class"] == Path(line["path"]).parent.name
    ]
    assert numbers["loss"] == pytest.approx(sum(surprise) / 8, rel=0.02)  # bf16, fp32
    assert f"accuracy {metrics['accuracy']:.3f}" in text
    assert sum(map(sum, numbers["confusion"]["counts"])) == metrics["images"] == 8


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--model.quantization", "nf4"],
        ["--model.adapter", "FullFineTuning"],
        ["--model.adapter", "LinearProbe"],
    ],
    ids=["lora", "qlora", "full", "probe"],
)
def test_test_agrees_with_predicting_each_picture(
    words: list[str], photos: Path, capsys: Any
) -> None:
    assert (
        fit(
            photos,
            "--output",
            "checkpoints/x",
            "--model.lr",
            "0.02",
            "--trainer.precision",
            "32-true",
            *words,
        )
        == 0
    )
    capsys.readouterr()
    assert main(["test", "--json", "-"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert main(["predict", str(photos / "test"), "--json", "--top-k", "9"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = torch.zeros(2, 2, dtype=torch.long)
    for line in lines:
        counts["ab".index(Path(line["path"]).parent.name), "ab".index(line["class"])] += 1
    assert len(lines) == 8
    assert counts.tolist() == numbers["confusion"]["counts"]
    assert numbers["per_class"][0]["images"] == 4


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_crop_mode_is_kept_by_the_bundle_and_seen_by_prediction(photos: Path, mode: str) -> None:
    from PIL import Image

    from vitlora.prediction.predictor import Predictor

    assert fit(photos, "--output", "checkpoints/x", "--model.crop_mode", mode) == 0
    kept = load_bundle("checkpoints/x").record.preprocessing
    assert (kept.crop_mode, kept.crop_pct) == (mode, 1.0)
    assert main(["test"]) == 0  # not told again how pictures are seen
    wide = Image.new("RGB", (200, 40), "grey")
    edge = wide.copy()
    edge.paste((255, 0, 0), (0, 0, 30, 40))  # a centre crop would not reach it
    plain, marked = Predictor("checkpoints/x", device="cpu").logits([wide, edge])
    assert not torch.equal(plain, marked)


def test_a_bundle_is_scored_as_it_predicts(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    for words in (["--model.crop_mode", "squash"], ["--model.image_size", "40"]):
        capsys.readouterr()
        assert main(["test", *words]) == 1
        assert "was trained with 32 px, center" in capsys.readouterr().err


def test_a_split_drawn_by_seed_is_drawn_again_and_guarded(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    photos = make_folder(tmp_path / "flat", splits=(), count=10)
    assert fit(photos, "--output", "checkpoints/x", "--data.test_fraction", "0.2") == 0
    record = load_bundle("checkpoints/x").record
    assert record.split["counts"] == {"train": [6, 6], "val": [2, 2], "test": [2, 2]}
    assert record.split["drawn"] == {"seed": 0, "val": 0.2, "test": 0.2}
    assert main(["validate"]) == 0
    assert main(["test"]) == 0
    capsys.readouterr()
    assert main(["test", "--data.split_seed", "1"]) == 1
    assert "not the one of training" in capsys.readouterr().err


def test_every_picture_of_new_class_folders_can_be_tested(
    photos: Path, tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    new = make_folder(tmp_path / "new", splits=(), count=3)
    for words in ([], ["--data.test_fraction", "1"]):
        capsys.readouterr()
        assert main(["test", "--data.root", str(new), *words, "--json", "t.json"]) == 0
        assert (
            "new is not the folder of training: scoring all 6 pictures" in capsys.readouterr().err
        )
        assert json.loads(Path("t.json").read_text())["images"] == 6


def test_other_classes_are_left_out_and_other_weights_refused(
    photos: Path, tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    other = make_folder(tmp_path / "other", classes=("a", "c"))
    assert main(["validate", "--data.root", str(other)]) == 0
    said = capsys.readouterr()
    assert "left out classes that the bundle does not have: c" in said.err
    assert "measured on 1 of 2 classes; no images of b" in said.out
    close = make_folder(tmp_path / "close", classes=("a", "bb"))
    assert main(["validate", "--data.root", str(close)]) == 1
    assert "but checkpoints/x has no such class (did you mean 'b'?)" in capsys.readouterr().err
    strange = make_folder(tmp_path / "strange", classes=("c", "d"))
    assert main(["validate", "--data.root", str(strange)]) == 1
    assert "has no pictures of a, b; found c, d" in capsys.readouterr().err
    assert main(["validate", "--weights", "nope.safetensors"]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--model.adapter.rank", "0"], 2, "rank is 0; expected at least 1"),
        (["--model.adapter.targets", "[attention.qvk]"], 2, "did you mean 'attention.qkv'"),
        (["--model.adapter.rnk", "4"], 2, "did you mean 'model.adapter.rank'"),
        (["--model.bckbone", "x"], 2, "did you mean 'model.backbone'"),
        (["--trainer.max_epoch", "3"], 2, "did you mean 'trainer.max_epochs'"),
        (["--modle.lr", "1"], 2, "did you mean 'model.lr'"),
        (["--outpt", "x"], 2, "did you mean 'output'"),
        (["--model.adapter", "Lorra"], 2, "did you mean 'Lora'"),
        (["--trainer.max_epochs", "0"], 2, "trainer.max_epochs is 0"),
        (["--trainer.devices", "two"], 2, "trainer.devices is two"),
        (["--epochs", "3"], 2, "did you mean 'trainer.max_epochs'"),
        (["--rank", "3"], 2, "did you mean 'model.adapter.rank'"),
        (["--trainer.max_stps", "3"], 2, "did you mean 'trainer.max_steps'"),
        (["--trainer.max_epochs", "three"], 2, "is 'three'; expected a whole number or null"),
        (["--trainer.callbacks", "foo"], 2, "trainer.callbacks has 'foo'"),
        (["--model.adapter.rank", "x"], 2, "model.adapter.rank is 'x'; expected a whole number"),
        (["--data.classes", "a"], 2, "data.classes is 'a'; expected list[str] or null"),
        (["--output="], 2, "output is empty"),
        (["--model.lr", "fast"], 2, "model.lr is 'fast'; expected a number"),
        (["--model.lr", "-1"], 2, "model.lr is -1.0; expected more than 0"),
        (
            ["--model.crop_mode", "zoom"],
            2,
            "model.crop_mode is 'zoom'; expected one of 'center', 'squash', 'border'",
        ),
        (["--model.quantization", "nf5"], 2, "is 'nf5'; expected one of 'none', 'nf4'"),
        (
            ["--model.adapter", "FullFineTuning", "--model.quantization", "nf4"],
            2,
            "trains the base",
        ),
        (["--model.adapter", "LinearProbe", "--model.head", "lora"], 2, "model.head is lora"),
        (
            ["--model.block_size", "128"],
            2,
            "model.block_size is 128, but model.quantization is none",
        ),
        (["--model.adapter.targets", "[]"], 2, "nothing to adapt"),
        (["--model.backbone", "timm/resnet18"], 1, "is not supported (it has timm's ResNet)"),
        (["--model.backbone", "vit_b_16"], 1, "expected source/model.tag"),
        (["--model.image_size", "33"], 1, "multiples of its 8-pixel patch"),
        (["--data.batch_size", "0"], 2, "data.batch_size is 0"),
        (["--data.classes", "[a, q]"], 2, "data.classes has 'q'"),
        (["--data.root", "nowhere"], 1, "data.root 'nowhere': no such folder"),
        (["--config", "waste6.yaml"], 2, "did you mean 'waste5.yaml'"),
        (["--checkpoint", "x"], 2, "is for validate and test"),
        (["--trainer.early_stopping", "0"], 2, "early_stopping is 0"),
    ],
)
def test_a_mistake_is_one_clear_line(
    words: list[str], status: int, message: str, photos: Path, capsys: Any
) -> None:
    assert fit(photos, "--output", "out", *words) == status
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("vitlora: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_adapter_options_in_the_wrong_place_are_told_where_to_go(
    photos: Path, tmp_path: Path, capsys: Any
) -> None:
    config = tmp_path / "flat.yaml"
    config.write_text("model: {adapter: {class_path: Lora, rank: 4}}")
    assert fit(photos, "--config", str(config)) == 2
    assert "model.adapter takes class_path and init_args" in capsys.readouterr().err


def test_a_bundle_runs_no_code_of_its_own(photos: Path, capsys: Any) -> None:
    from vitlora.bundle.checkpoint import save_bundle

    assert fit(photos, "--output", "checkpoints/x") == 0
    bundle = load_bundle("checkpoints/x")
    Path("evil.py").write_text("open('ran', 'w').close()\nclass Evil: pass\n")
    text = Path("checkpoints/x/config.yaml").read_text()
    text = text.replace("class_path: vitlora.adapters.Lora", "class_path: evil.Evil")
    text = text.replace("trainer:\n", "trainer:\n  callbacks: [{class_path: evil.Evil}]\n")
    assert "evil" in text
    kept = bundle.record, bundle.tensors, bundle.peft
    save_bundle(Path("checkpoints/x"), *kept, text, reference=bundle.reference)
    for command in ("validate", "test"):
        assert main([command]) == 0
    assert not Path("ran").exists()


def test_weights_are_found_again_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "vitlora/backbones/vit_micro_patch8_96.safetensors", "w.safetensors")
    assert fit(photos, "--output", "checkpoints/x", "--model.weights", "w.safetensors") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    bundle = load_bundle("../checkpoints/x")
    assert bundle.weights == str((tmp_path / "w.safetensors").resolve())
    assert main(["validate", "--checkpoint", "../checkpoints/x"]) == 0
    (tmp_path / "w.safetensors").unlink()
    assert load_bundle("../checkpoints/x").weights is None


def test_limits_of_the_training_run_do_not_limit_scoring(photos: Path) -> None:
    assert (
        fit(
            photos,
            "--output",
            "checkpoints/x",
            "--trainer.limit_val_batches",
            "1",
            "--data.batch_size",
            "2",
        )
        == 0
    )
    assert main(["validate", "--json", "v.json"]) == 0
    assert json.loads(Path("v.json").read_text())["images"] == 8


def test_a_run_that_blows_up_stops_and_keeps_no_such_epoch(photos: Path, capsys: Any) -> None:
    words = ("--model.lr", "1e20", "--model.warmup", "0", "--trainer.max_epochs", "3")
    assert fit(photos, "--output", "out", *words) == 1
    said = capsys.readouterr()
    assert "training diverged in epoch" in said.err
    assert "resume" not in said.out + said.err  # it would diverge again
    assert not Path("out/vitlora.json").exists() or load_bundle("out").record.metrics["loss"] < 1e9


def test_a_run_without_validation_still_leaves_a_bundle(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "out", "--trainer.limit_val_batches", "0") == 0
    assert "no epoch was validated; the last weights are saved in out" in capsys.readouterr().out
    assert load_bundle("out").record.metrics == {}


def test_steps_after_the_last_validation_are_said_to_be_lost(photos: Path, capsys: Any) -> None:
    words = ("--data.batch_size", "4", "--trainer.max_epochs", "3")
    every = ("--trainer.check_val_every_n_epoch", "2")
    assert fit(photos, "--output", "out", *words, *every) == 0
    assert "the bundle does not include the 2 steps after the last" in capsys.readouterr().err


def test_the_last_of_max_steps_is_validated(photos: Path, capsys: Any) -> None:
    words = ("--data.batch_size", "4", "--trainer.max_epochs", "null", "--trainer.max_steps", "3")
    assert fit(photos, "--output", "out", *words) == 0
    said = capsys.readouterr()
    assert "epoch 2/2 " in said.out and "does not include" not in said.err


def test_scoring_after_skipping_unreadable_pictures(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    flat = make_folder(tmp_path / "flat", splits=(), count=10)
    for picture in flat.glob("*/*.jpg"):
        if int(picture.stem) % 3 == 0:
            picture.write_bytes(picture.read_bytes()[:300])
    words = ["--data.skip_unreadable", "true", "--data.val_fraction", "0.5"]
    assert fit(flat, "--output", "checkpoints/x", *words) == 0
    assert main(["validate"]) == 0


def test_output_of_a_config_is_kept_unless_another_is_given(photos: Path) -> None:
    Path("mine.yaml").write_text("output: here\n")
    assert fit(photos, "--config", "mine.yaml") == 0
    load_bundle("here")
    assert fit(photos, "--config", "mine.yaml", "--output", "there") == 0
    load_bundle("there")


def test_every_picture_of_same_named_files_is_shown(photos: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    assert fit(photos, "--output", "checkpoints/x") == 0
    assert main(["predict", str(photos / "val"), "--show"]) == 0
    assert len(list(Path("predictions").glob("*.png"))) == 8


def test_a_mistake_costs_no_earlier_bundle(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "out") == 0
    (photos / "train/a/0.jpg").write_text("not a picture")
    assert fit(photos, "--output", "out") == 1
    assert "0.jpg: not a picture" in capsys.readouterr().err
    assert not Path("out-1").exists()
    load_bundle("out")
    assert fit(photos, "--output", "out", "--data.skip_unreadable", "true") == 0
    assert "skipping 1 unreadable" in capsys.readouterr().err


def test_several_configs_merge_and_print_config_shows_the_result(photos: Path) -> None:
    Path("a.yaml").write_text("model: {adapter: {rank: 3}, lr: 0.1}\n")
    Path("b.yaml").write_text("model: {lr: 0.2}\n")
    done = run(
        "fit",
        "--config",
        "waste5.yaml",
        "--config",
        "a.yaml",
        "--config",
        "b.yaml",
        "--print_config",
    )
    assert done.returncode == 0
    for line in (
        "rank: 3",
        "alpha: 32",
        "lr: 0.2",
        "root: datasets/waste5",
        "output: checkpoints/b",
    ):
        assert line in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_config_is_utf_8_whatever_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["Água", "Conservas de café", "缶 😀", "1e3", "no"]
    classes = json.dumps(names, ensure_ascii=False)
    text = f"data: {{root: C:\\fotos, classes: {classes}}}\nmodel: {{lr: 1e-3}}\n"
    Path("a.yaml").write_text(mark + text, encoding="utf-8")
    c = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    done = run("fit", "--config", "a.yaml", "--print_config", **c, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["data"]["classes"] == names and config["data"]["root"] == "C:\\fotos"
    assert config["model"]["lr"] == 1e-3 and config["output"] == "checkpoints/a"
    assert "config" not in config


def test_help_reads_well() -> None:
    done = run("fit", "--help")
    assert done.returncode == 0
    order = [
        done.stdout.index(key)
        for key in ("--data.root", "--model.backbone", "--trainer.max_epochs")
    ]
    assert order == sorted(order)
    assert "Trains an adapter on a folder of pictures" in done.stdout
    assert "--trainer.max_epochs" in done.stdout
    assert "--trainer.overfit_batches" not in done.stdout  # Lightning's, known to its users
    adapter = run("fit", "--model.adapter.help", "Lora")
    assert adapter.returncode == 0
    assert adapter.stdout.startswith("usage: vitlora fit [--model.adapter.rank")
    top = run("--help")
    assert top.returncode == 0
    assert "vitlora fit --config waste5.yaml" in top.stdout


def test_output_survives_a_cp1252_console(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    photos = make_folder(tmp_path / "fotos", classes=("Conservas de café", "缶"))
    words = [
        "fit",
        "--data.root",
        str(photos),
        *MICRO,
        "--trainer.max_epochs",
        "1",
        "--output",
        "out",
    ]
    done = run(*words, PYTHONIOENCODING="cp1252", PYTHONUTF8="0", encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert "Conservas de café" in done.stdout
    assert load_bundle("out").record.classes == ("Conservas de café", "缶")
    picture = str(next(iter(photos.glob("val/缶/*"))))
    done = run(
        "predict",
        picture,
        "--checkpoint",
        "out",
        PYTHONIOENCODING="cp1252",
        PYTHONUTF8="0",
        encoding="cp1252",
    )
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows delivers Ctrl-C to the whole console")
def test_ctrl_c_leaves_a_usable_bundle_and_says_so(photos: Path) -> None:
    words = [
        sys.executable,
        "-u",
        "-m",
        "vitlora",
        "fit",
        "--data.root",
        str(photos),
        *MICRO,
        "--trainer.max_epochs",
        "100000",
        "--output",
        "out",
    ]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # a shell's background jobs, and so their children, start with Ctrl-C ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/") or "epoch      2/" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"stopped; epoch \d+ is saved in out", rest), rest
    assert "Traceback" not in rest
    assert main(["predict", str(photos / "test/a/0.jpg"), "--checkpoint", "out"]) == 0


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_a_file_that_cannot_be_written_is_said_before_the_work(
    option: str, photos: Path, capsys: Any
) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    command = ["predict", str(photos / "val")] if option == "--output" else ["validate"]
    name = "no/where.csv" if option == "--output" else "no/where.json"
    assert main([*command, option, name]) == 2
    assert f"{option} '{name}': its folder does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: {root: caf\xe9}\n", "c.yaml is not UTF-8; save it as UTF-8"),
        (b"", "c.yaml has no keys"),
        (b"- a\n- b\n", "c.yaml has no keys"),
        (b"data: [\n", "c.yaml is not YAML"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(content: bytes, message: str, capsys: Any) -> None:
    Path("c.yaml").write_bytes(content)
    assert main(["fit", "--config", "c.yaml"]) == 2
    assert message in capsys.readouterr().err


def test_fit_without_anything_says_what_it_needs(capsys: Any) -> None:
    assert main(["fit"]) == 2
    assert "fit needs --config FILE or --data FOLDER" in capsys.readouterr().err
    assert main(["fit", "photos"]) == 2
    assert (
        "unexpected argument 'photos'; expected CONFIG.yaml, or --data" in capsys.readouterr().err
    )


def test_csv_holds_the_runners_up(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "checkpoints/x") == 0
    assert main(["predict", str(photos / "val"), "--csv", "a.csv", "--top-k", "2"]) == 0
    assert "--csv is now called --output" in capsys.readouterr().err
    assert len(list(photos.glob("val/*/*.jpg"))) == 8
    header, *rows = Path("a.csv").read_text("utf-8-sig").splitlines()
    assert header == "path,class,confidence,unsure,unfamiliar,outside,class_2,confidence_2,error"
    assert len(rows) == 8
    for row in rows:
        _, first, p, _, _, _, second, q, error = row.split(",")
        assert not error
        assert {first, second} == {"a", "b"}
        assert float(p) + float(q) == pytest.approx(1, abs=1e-5)


def test_scoring_another_folder_warns_of_copies(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    flat = make_folder(tmp_path / "flat", splits=(), count=10)
    assert fit(flat, "--output", "checkpoints/x") == 0
    shutil.copytree(flat, tmp_path / "copy")
    capsys.readouterr()
    assert main(["validate"]) == 0
    assert "note:" not in capsys.readouterr().err
    copy = ["--data.root", str(tmp_path / "copy")]
    assert main(["validate", *copy]) == 0  # drawn alike, and known by content
    assert capsys.readouterr().err == ""
    assert main(["test", *copy, "--data.test_fraction", "1"]) == 0
    assert "16 of 20 pictures (80%) are copies of training pictures" in capsys.readouterr().err


def test_stopping_before_the_first_validation_puts_the_earlier_bundle_back(
    photos: Path, capsys: Any, monkeypatch: Any
) -> None:
    from vitlora.training.classifier import Classifier

    assert fit(photos, "--output", "out") == 0
    first = Path("out/vitlora.json").read_bytes()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "training_step", stop)
        assert fit(photos, "--output", "out") == 130
        assert "the earlier bundle is out" in capsys.readouterr().out
        assert Path("out/vitlora.json").read_bytes() == first
        assert not Path("out-1").exists()
        assert fit(photos, "--output", "new") == 130
        assert "before the first step; nothing is saved" in capsys.readouterr().out
        assert not Path("new/vitlora.json").exists()
    # with nothing to put back, the weights as they are after some steps are kept
    monkeypatch.setattr(Classifier, "validation_step", stop)
    assert fit(photos, "--output", "new") == 130
    assert main(["predict", str(photos / "val/a/0.jpg"), "--checkpoint", "new"]) == 0
    assert "was never validated" in capsys.readouterr().err


def test_a_traceback_is_there_for_those_who_ask(photos: Path, monkeypatch: Any) -> None:
    from vitlora.errors import DataError

    monkeypatch.setenv("VITLORA_DEBUG", "1")
    with pytest.raises(DataError):
        fit(photos, "--data.root", "nowhere")


def test_what_is_typed_counts_more_than_a_config_wherever_it_stands(
    photos: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "run.yaml").write_text(f"data:\n  root: {photos.as_posix()}\nmodel:\n  lr: 0.5\n")
    for words in (["--model.lr", "0.25", "--config", "run.yaml"], ["--config=run.yaml"]):
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
    first, second = capsys.readouterr().out.split("seed_everything")[1:]
    assert "lr: 0.25" in first
    assert "lr: 0.5" in second


@pytest.mark.parametrize("words", [["--model.quantization", "nf4"], ["--model.lr=1"]])
def test_training_options_are_refused_in_scoring(words: list[str], capsys: Any) -> None:
    assert main(["validate", "--checkpoint", "x", *words]) == 2
    assert "scores the bundle as it was trained" in capsys.readouterr().err


def test_an_option_of_lora_is_explained_to_a_probe(photos: Path, capsys: Any) -> None:
    words = ["--model.adapter", "LinearProbe", "--model.adapter.variant", "dora"]
    assert fit(photos, "--output", "out", *words) == 2
    assert "model.adapter.variant is an option of Lora" in capsys.readouterr().err


def test_a_run_that_diverged_says_so() -> None:
    labels = torch.tensor([1, 0])
    assert failed(Scores(("a", "b"), torch.eye(2), labels)) is None  # a loss of 1.31
    assert "the loss is 632, far above that of guessing (0.69)" in str(
        failed(Scores(("a", "b"), 632 * torch.eye(2), labels))
    )
    assert "the loss is nan" in str(failed(Scores(("a", "b"), torch.nan * torch.eye(2), labels)))


def test_a_network_that_gives_all_pictures_one_class_is_named() -> None:
    always = torch.tensor([[0.0, 1.0]] * 20)
    for wrong, named in ((0, False), (4, False), (5, True), (20, True)):
        labels = torch.tensor([0] * wrong + [1] * (20 - wrong))
        said = failed(Scores(("a", "b"), always, labels)) or ""
        assert said.startswith("all 20 validation pictures get the class 'b': ") is named
    assert failed(Scores(("a",), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))) is None


@pytest.mark.parametrize(
    ("sure", "named"), [(0.0, True), (0.02, True), (1.0, False), (-1.0, False)]
)
def test_a_network_that_learnt_nothing_is_named(sure: float, named: bool) -> None:
    labels = torch.tensor([0, 1] * 5)
    logits = (
        sure * torch.nn.functional.one_hot(labels, 2)
        + torch.eye(2)[[0, 1, 1, 0] + [0, 1] * 3] * 1e-3
    )
    said = failed(Scores(("a", "b"), logits, labels)) or ""
    assert ("as that of guessing (0.69): the network learnt next to nothing" in said) is named


def test_a_finished_training_does_not_fail_for_its_calibration(
    photos: Path, capsys: Any, monkeypatch: Any
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("vitlora.cli.calibrating.calibrate", full)
    assert fit(photos, "--output", "out") == 0
    assert "not calibrated (the device is full)" in capsys.readouterr().err
    assert load_bundle("out").record.confidence is None
    assert main(["predict", str(photos / "val"), "--checkpoint", "out"]) == 0
    assert "is not calibrated, so its confidence may mislead" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "status"), [("fit", 1), ("configs", 0)])
def test_a_pipe_that_closes_ends_a_training_with_a_line(
    command: str, status: int, photos: Path
) -> None:
    words = ["--data", str(photos), *MICRO, "--trainer.max_epochs", "1"] if command == "fit" else []
    process = subprocess.Popen(
        [sys.executable, "-m", "vitlora", command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as head -0 does
    error = process.stderr.read()
    assert process.wait() == status
    assert ("fit stopped, because the program that read its output has ended" in error) == status
    assert "Traceback" not in error


def test_training_pictures_that_are_gone_are_said_to_be(photos: Path, capsys: Any) -> None:
    assert fit(photos, "--output", "b") == 0
    photos.rename("elsewhere")
    for command in ("test", "validate"):
        assert main([command, "b"]) == 1
        line = f"the pictures that b was trained on are no longer at {photos.resolve()}; name a"
        assert line in capsys.readouterr().err
    assert main(["test", "b", "--data", "elsewhere", "--trainer.accelerator", "cpu"]) == 0
