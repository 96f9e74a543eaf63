import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from runs import BACKBONE
from safetensors.torch import save_file

from vitlora.bundle.checkpoint import bundle_bytes, load_bundle
from vitlora.cli import checked
from vitlora.cli.main import main
from vitlora.commands import compare as command
from vitlora.data.datamodule import FolderData
from vitlora.errors import DataError, UsageError
from vitlora.prediction.predictor import Predictor
from vitlora.studies import study
from vitlora.studies.advice import can_tell
from vitlora.studies.bases import weights_digest
from vitlora.studies.methods import METHODS
from vitlora.studies.pictures import pictures_of

ROOT = Path(__file__).parents[2]
WORDS = ["--model.backbone", BACKBONE, "--model.weights", "none", "--model.image_size", "32"]
WORDS += ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--model.lr", "0.05"]
WORDS += ["--data.num_workers", "0", "--data.batch_size", "4"]


class Processes:
    """Stands in for ``subprocess.run``: the same command in this process, which is faster.

    Attributes:
        commands: What was run, in order: the first word, then the bundle's folder.
        before: Called before each; a status other than 0 stands for the command's. May raise.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []
        self.before: Callable[[list[str]], int] = lambda words: 0

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command == [sys.executable, "-m", "vitlora.cli.checked"]:
            out = io.StringIO()
            with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out):
                patched.setattr(sys, "stdin", io.StringIO(options["input"]))
                checked.main()
            return subprocess.CompletedProcess(command, 0, out.getvalue(), "")
        assert command[:3] == [sys.executable, "-m", "vitlora"]
        words = command[3:]
        where = next((b for a, b in pairwise(words) if a in _NAMED), "")
        if "--print_config" not in words:
            self.commands.append((words[0], Path(where).name))
            if status := self.before(words):
                return subprocess.CompletedProcess(command, status)
        log = options.get("stdout")
        out, err = (Path(f"{name}.captured") for name in ("out", "err"))
        with (
            out.open("w") as o,
            err.open("w") as e,
            contextlib.redirect_stdout(o),
            contextlib.redirect_stderr(e),
        ):
            try:
                status = main(words)
            except SystemExit as end:
                status = int(end.code or 0)
        said = out.read_text(), err.read_text()
        if hasattr(log, "write"):
            log.write("".join(said).encode())  # pyright: ignore
            log.flush()  # pyright: ignore
        return subprocess.CompletedProcess(command, status, *said)


_NAMED = ("--output", "--checkpoint")


@pytest.fixture(autouse=True)
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    made = Processes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    monkeypatch.setattr(subprocess, "run", made)
    yield made


@pytest.fixture
def photos(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path / "photos", splits=("train", "val", "test"))


def compare(photos: Path, *words: str) -> int:
    return main(["compare", "--data.root", str(photos), *WORDS, *words])


def test_table_holds_what_the_bundles_say_and_a_second_time_runs_nothing(
    photos: Path, processes: Processes, capsys: Any
) -> None:
    Path("configs").mkdir()
    Path("configs/mine.yaml").write_text("model: {adapter: {class_path: Lora}}\n")
    words = ["--config", "mine.yaml", "--methods", "linear,qlora", "--model.adapter.rank", "2"]
    assert compare(photos, *words) == 0
    folder = Path("comparisons/mine")
    assert processes.commands == [
        ("fit", "linear-0"),
        ("test", "linear-0"),
        ("fit", "qlora-0"),
        ("test", "qlora-0"),
    ]
    printed = capsys.readouterr().out
    assert printed.isascii()
    fields = json.loads((folder / "comparison.json").read_text())
    assert fields["split"] == "test"
    for row in fields["rows"]:
        bundle, run = folder / f"{row['method']}-0", row["runs"][0]
        predictor = Predictor(bundle, device="cpu")
        hits = 0
        for name in ("a", "b"):
            paths = sorted((photos / "test" / name).iterdir())
            hits += sum(p.label == name for p in predictor.predict(paths))  # pyright: ignore
        assert row["accuracy"] == hits / 8
        assert run["bundle_bytes"] == bundle_bytes(bundle)
        assert "vitlora.training" not in (bundle / "config.yaml").read_text()  # what measured it
        numbers = load_bundle(bundle).tensors.values()
        assert run["trainable"] == sum(tensor.numel() for tensor in numbers)
        assert run["lr"] == 0.05 and run["device_bytes"] is None
        assert 0 < run["milliseconds"] < 1000 and run["seconds"] > 0
        assert f"| {row['method']} " in printed and f"{row['accuracy']:.3f} (" in printed
    assert [row["runs"][0]["base"] for row in fields["rows"]][1] == "nf4"
    assert load_bundle(folder / "qlora-0").peft["r"] == 2  # pyright: ignore
    assert fields["advice"] in printed and fields["advice"] in _page(folder)
    with Image.open(folder / "comparison.png") as picture:
        assert picture.format == "PNG" and picture.width > 800

    processes.commands.clear()
    assert compare(photos, *words) == 0
    assert processes.commands == []
    assert "from an earlier run" in capsys.readouterr().out
    assert json.loads((folder / "comparison.json").read_text()) == fields

    assert compare(photos, *words, "--trainer.max_epochs", "2") == 2
    assert "trainer.max_epochs was 1, is now 2" in capsys.readouterr().err
    (photos / "val" / "a" / "0.jpg").unlink()
    assert compare(photos, *words) == 2
    assert "the pictures changed" in capsys.readouterr().err
    assert processes.commands == []


def _page(folder: Path) -> str:
    return (folder / "comparison.md").read_text("utf-8")


BASES = (BACKBONE, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")  # with random weights


def bases(photos: Path, *words: str) -> int:
    left = [word for word in WORDS if word not in ("--model.backbone", BACKBONE)]
    left = [word for word in left if word not in ("--model.weights", "none")]
    named = ",".join(f"{name}=none" for name in BASES)
    return main(["compare", "--data.root", str(photos), "--backbones", named, *left, *words])


def test_bases_are_ranked_by_validation_and_the_best_are_fine_tuned(
    photos: Path, processes: Processes, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bases(photos, "--best", "1", "--seeds", "0,1") == 0
    folder = Path("comparisons/run")
    fields = json.loads((folder / "comparison.json").read_text())
    linear = {row["method"].partition("@")[2]: row["runs"] for row in fields["rows"][:2]}
    assert tuple(linear) == BASES
    for base, runs in linear.items():
        for run in runs:
            bundle = load_bundle(folder / f"linear@{base.replace('/', '_')}-{run['seed']}")
            assert bundle.record.backbone == base
            assert run["validated"] == bundle.record.metrics["macro_f1"]
    means = {base: sum(run["validated"] for run in runs) for base, runs in linear.items()}
    best = max(BASES, key=lambda base: means[base])
    assert [row["method"] for row in fields["rows"][2:]] == [f"lora@{best}"]
    printed = capsys.readouterr().out
    assert f"lora on {best}\n" in printed and f"linear@{BACKBONE}, seed 1: accuracy" in printed
    assert "| backbone " in printed and "chosen by the macro-F1 of their frozen features" in printed
    processes.commands.clear()
    assert bases(photos, "--best", "2", "--seeds", "0,1") == 0
    assert {name for _, name in processes.commands if name != ""} == {
        f"lora@{base.replace('/', '_')}-{seed}" for base in BASES if base != best for seed in (0, 1)
    }
    both = json.loads((folder / "comparison.json").read_text())["rows"]
    processes.commands.clear()
    capsys.readouterr()
    assert bases(photos, "--best", "1", "--seeds", "0,1") == 0
    other = next(base for base in BASES if base != best)
    assert f"but kept in the table: lora@{other}\n" in capsys.readouterr().out
    assert json.loads((folder / "comparison.json").read_text())["rows"] == both
    assert not processes.commands
    assert bases(photos, "--best", "1", "--seeds", "0,1,2") == 0  # of its seeds one is missing
    rows = json.loads((folder / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows[2:]] == [f"lora@{best}"]


def test_other_weights_of_a_base_are_another_comparison(tmp_path: Path) -> None:
    made = study.Study(tmp_path / "out", {}, "test", False)
    made.take({"vitlora": "1", "bases": {"a": None, "b": "digest"}})
    made.take({"vitlora": "1", "bases": {"c": None, "b": "digest"}})
    with pytest.raises(UsageError, match=r"the weights of b changed"):
        made.take({"vitlora": "1", "bases": {"b": "other"}})
    with pytest.raises(UsageError, match=r"the weights of a changed"):
        made.take({"vitlora": "1", "bases": {"a": "digest"}})


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    file, moved = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    file.write_bytes(b"1")
    before = weights_digest("x", str(file))
    moved.write_bytes(b"1")
    assert before == weights_digest("x", str(moved))
    file.write_bytes(b"2")
    assert before != weights_digest("x", str(file))
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("model-1-of-2.safetensors", "model-2-of-2.safetensors"):
        (folder / name).write_bytes(name.encode())
    (folder / "model.safetensors.index.json").write_text("{}")
    whole = weights_digest("x", str(folder))
    assert whole == weights_digest("x", str(folder / "model.safetensors.index.json"))
    (folder / "model-2-of-2.safetensors").write_bytes(b"other")
    assert whole != weights_digest("x", str(folder))
    assert weights_digest("x", None) is None and weights_digest("x", "none") == "none"


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("timm/vit_tini_patch16_224=none", "did you mean"),
        ("vit_tiny_patch16_224", "expected source/model.tag"),
        ("timm/vit_tiny_patch16_224=gone.safetensors", "gone.safetensors: no such file"),
        (
            "timm/vit_tiny_patch16_224=torn.safetensors",
            "torn.safetensors cannot be read as weights",
        ),
        ("timm/vit_tiny_patch16_224=other.safetensors", "does not hold the weights of timm/vit_t"),
        ("timm/vit_tiny_patch16_224=photos", "--backbones timm/vit_tiny_patch16_224=FILE 'photos'"),
    ],
)
def test_what_is_no_base_is_told_before_any_training(
    base: str, said: str, photos: Path, capsys: Any
) -> None:
    Path("torn.safetensors").write_bytes(b"torn")
    save_file({"blocks.0.norm1.weight": torch.zeros(192)}, "other.safetensors")
    words = ["--trainer.accelerator", "cpu", "--backbones", f"{BACKBONE}=none,{base}"]
    assert main(["compare", "--data.root", str(photos), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.strip().splitlines()) == 1
    assert not Path("comparisons").exists()


def test_a_method_that_fails_becomes_a_row_and_the_others_go_on(
    photos: Path, processes: Processes, capsys: Any
) -> None:
    words = ["--methods", "lora,linear", "--output", "out", "--model.adapter.rank", "9999"]
    assert compare(photos, *words) == 1
    out = capsys.readouterr().out
    assert "lora, seed 0: failed: model.adapter rank is 9999" in out
    assert "| lora   | " in out and " failed " in out
    assert "Only linear finished" in out
    assert [name for _, name in processes.commands] == ["lora-0", "linear-0", "linear-0"]
    processes.commands.clear()
    assert compare(photos, *words) == 1  # a failed run is tried again, the other is not
    assert processes.commands == [("fit", "lora-0")]
    fields = json.loads(Path("out/comparison.json").read_text())
    assert fields["failures"][0]["method"] == "lora"
    assert fields["failures"][0]["error"].startswith("model.adapter rank is 9999")


def test_interrupted_says_how_to_go_on_and_goes_on(
    photos: Path, processes: Processes, capsys: Any
) -> None:
    def stop(words: list[str]) -> int:
        if "linear-1" in " ".join(words):
            raise KeyboardInterrupt
        return 0

    processes.before = stop
    words = ["--methods", "linear", "--seeds", "0,1", "--output", "out"]
    assert compare(photos, *words) == 130
    out, err = capsys.readouterr()
    assert "1 of 2 runs kept; the same command continues" in out and "stopped" in err
    processes.before = lambda words: 0
    processes.commands.clear()
    assert compare(photos, *words) == 0
    assert processes.commands == [("fit", "linear-1"), ("test", "linear-1")]
    row = json.loads(Path("out/comparison.json").read_text())["rows"][0]
    assert len(row["accuracy_by_seed"]) == 2
    assert "seeds" in capsys.readouterr().out
    for seed in (0, 1):
        config = yaml.safe_load(Path(f"out/linear-{seed}/config.yaml").read_text())
        assert config["seed_everything"] == seed


def test_killed_run_says_so(photos: Path, processes: Processes, capsys: Any) -> None:
    processes.before = lambda words: -9
    assert compare(photos, "--methods", "linear", "--output", "out") == 1
    assert "failed: killed by SIGKILL; out of memory?" in capsys.readouterr().out


def test_without_a_test_split_validation_is_scored_and_said(
    tmp_path: Path, make_folder: Callable[..., Path], processes: Processes, capsys: Any
) -> None:
    photos = make_folder(tmp_path / "some", splits=())
    assert compare(photos, "--methods", "linear", "--output", "out") == 0
    out = capsys.readouterr().out
    assert "2 val pictures" in out and "There is no test split" in out
    assert processes.commands[1] == ("validate", "linear-0")
    answers = json.loads(Path("out/linear-0.json").read_text())
    assert sorted(answers["labels"]) == [0, 1] and len(answers["answers"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "linar"], "did you mean 'linear'"),
        (["--methods", ""], "--methods has ''; expected some of linear"),
        (["--methods", "lora,"], "--methods has ''; expected some of linear"),
        (["--methods", "lora,full,lora"], "--methods has 'lora' twice"),
        (["--seeds", "0,one"], "--seeds is '0,one'; expected a whole number each"),
        (["--seeds", "-1"], "--seeds has -1; expected whole numbers from 0"),
        (["--seeds", "4294967296"], "--seeds has 4294967296; expected whole numbers from 0"),
        (["--seeds", "1,1"], "--seeds has 1 twice"),
        (["--margin", "1"], "--margin is 1.0; expected 0 <= margin < 1"),
        (["--margin", "much"], "--margin is 'much'; expected a number"),
        (["--data", "elsewhere"], "--data.root is given twice"),
        (["--from", "x"], "compare does not accept --from"),
        (["--model.quantization", "nf4"], "--model.quantization is set by each method"),
        (["--model.adapter=Lora"], "--model.adapter is set by each method"),
        (["--seed_everything", "3"], "did you mean '--seeds'"),
        (["--print_config"], "compare does not accept --print_config"),
        (["--model.lrr", "1"], "did you mean 'model.lr'"),
        (["--trainer.max_epochs", "x"], "trainer.max_epochs is 'x'"),
        (["--config", "none.yaml"], "no such file"),
        (["--backbones", "vitlora/vit_micro,a,"], "--backbones has ''; expected NAME or NAME=FILE"),
        (["--backbones", "a=none,a"], "--backbones has 'a' twice; give it once"),
        (["--backbones", "a="], "--backbones has 'a='; expected NAME or NAME=FILE"),
        (["--backbones", BACKBONE], "--model.backbone and --backbones do not go together"),
        (["--best", "0"], "--best is 0; expected at least 1"),
        (["--output", "full"], "holds something else than a comparison"),
        (["--output", "full/file"], "a file; expected a folder"),
    ],
)
def test_mistakes_are_one_line_before_any_training(
    words: list[str], said: str, photos: Path, processes: Processes, capsys: Any
) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    assert compare(photos, *words) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.strip().splitlines()) == 1
    assert processes.commands == [] and not Path("comparisons").exists()


def test_without_pictures_nothing_starts(capsys: Any) -> None:
    assert main(["compare", "--methods", "lora"]) == 2
    assert "compare needs --config FILE or --data FOLDER" in capsys.readouterr().err
    assert main(["compare", "none.yaml"]) == 2
    assert "--config 'none.yaml': no such file" in capsys.readouterr().err


def test_nothing_to_choose_the_epoch_by_is_refused(
    tmp_path: Path, make_folder: Callable[..., Path], capsys: Any
) -> None:
    assert compare(make_folder(tmp_path / "some", splits=("val",))) == DataError.exit_status
    assert "has no train split" in capsys.readouterr().err


def test_a_record_of_another_version_is_not_reused(tmp_path: Path) -> None:
    made = study.Study(tmp_path / "out", {}, "test", False)
    made.take({"vitlora": "1", "config": {"a": {"b": 1}}})
    made.take({"vitlora": "1", "config": {"a": {"b": 1}}})
    with pytest.raises(UsageError, match=r"a\.b was 1, is now 2"):
        made.take({"vitlora": "1", "config": {"a": {"b": 2}}})
    with pytest.raises(UsageError, match="vitlora was 1, is now 2"):
        made.take({"vitlora": "2", "config": {"a": {"b": 1}}})


def test_importing_the_command_leaves_torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a process of its own
    code = "import vitlora.commands.compare, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_pictures_are_split_as_fit_splits_them(photos: Path, tmp_path: Path) -> None:
    shares = {"val_fraction": 0.25, "test_fraction": 0.0, "split_seed": 0, "classes": None}
    split, count, _ = pictures_of({"root": str(photos), **shares, "resplit": True}, "compare")
    data = FolderData(str(photos), val_fraction=0.25, resplit=True)
    assert (split, count) == ("val", len(data.folder.splits["val"]))
    assert pictures_of({"root": str(photos), **shares}, "compare")[0] == "test"
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    rows = [f"{name},{index // 2}" for index, name in enumerate(names)]
    (tmp_path / "g.csv").write_text("\n".join(["file,group", *rows]))
    more = {"resplit": True, "groups": str(tmp_path / "g.csv"), "folds": 3, "fold": 1}
    split, count, _ = pictures_of({"root": str(photos), **shares, **more}, "compare")
    data = FolderData(str(photos), **more)
    assert (split, count) == ("val", len(data.folder.splits["val"]))


@pytest.mark.parametrize(
    ("pictures", "seeds", "margin", "said"),
    [
        (
            40,
            1,
            0.02,
            "40 test pictures cannot show differences below about 18 points; showing "
            "that a cheaper method is within 2 points of the best takes about 2,000 pictures "
            "(assuming that two methods disagree on one picture in ten)",
        ),
        (
            9000,
            3,
            0.01,
            "9,000 test pictures cannot show differences below about 0.8 points; they "
            "usually show that a cheaper method is within 1 point of the best if both are equally "
            "good (assuming that two methods disagree on one picture in ten; the spread of the "
            "seeds adds to this)",
        ),
        (40, 1, 0.0, "40 test pictures cannot show differences below about 18 points"),
    ],
)
def test_what_the_pictures_can_show_is_said_before(
    pictures: int, seeds: int, margin: float, said: str
) -> None:
    assert can_tell(pictures, "test", 3, seeds, margin) == said


def test_the_function_returns_the_rows_and_the_folder_may_be_its_data(
    photos: Path, processes: Processes
) -> None:
    options = {
        word.removeprefix("--"): value for word, value in zip(WORDS[::2], WORDS[1::2], strict=True)
    }
    found = command.compare(data=photos, methods=["linear"], output="out", **options)
    assert found.status == 0 and [row.method for row in found.rows] == ["linear"]
    assert json.loads(json.dumps(found.to_json())) == json.loads(
        Path("out/comparison.json").read_text()
    )
    assert found.advice in found.to_text() and found.advice in _page(Path("out"))
    assert processes.commands == [("fit", "linear-0"), ("test", "linear-0")]


def test_help_says_what_each_method_is() -> None:
    said = " ".join(str(command.compare.__doc__).split())
    assert all(f"{name} ({method.says})" in said for name, method in METHODS.items())
