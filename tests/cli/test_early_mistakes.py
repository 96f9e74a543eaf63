"""Help and mistakes that show in the words typed come before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from vitlora.bundle.merged_file import BASES
from vitlora.cli.main import COMMANDS, ON_LIGHTNING, function_of
from vitlora.cli.parser import CommandLine
from vitlora.commands.predict import predict
from vitlora.exporting.exported import ExportPrecision
from vitlora.prediction.predictor import Predictor
from vitlora.quantization import Quantization

OURS = [name for name in COMMANDS if name not in ON_LIGHTNING]
ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "timm", "peft", "lightning", "scipy", "matplotlib", "safetensors")
ENDED = f"""
import sys
from vitlora.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(status, *(name for name in {HEAVY} if name in sys.modules))
"""


def end(folder: Path, *words: str) -> tuple[list[str], str, str]:
    """Returns a command's exit status with the heavy modules it loaded, its output, its errors."""
    done = subprocess.run(
        [sys.executable, "-c", ENDED, *words],
        capture_output=True,
        encoding="utf-8",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    *lines, last = done.stdout.splitlines()
    return last.split(), "\n".join(lines), done.stderr


def test_vitlora_itself_is_light(tmp_path: Path) -> None:
    code = f"import sys, vitlora; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["", *OURS])
def test_help_needs_no_torch(command: str, tmp_path: Path) -> None:
    ended, out, _ = end(tmp_path, *[command] if command else [], "--help")
    assert ended == ["0"]
    assert out.startswith(("usage: ", "vitlora "))


NOTHING = {
    "report": ["nowhere"],
    "drift": ["nowhere", "--data", "."],
    "sort": ["nowhere", "--data", "."],
    "merge": ["nowhere", "out.safetensors"],
    "export": ["nowhere", "out.onnx"],
    "page": ["nowhere", "out.html"],
    "serve": ["nowhere"],
    "demo": ["nowhere"],
    "calibrate": ["nowhere"],
    "push": ["nowhere", "owner/name"],
    "predict": ["x.jpg", "--checkpoint", "nowhere"],
}


@pytest.mark.parametrize("command", NOTHING)
def test_a_missing_bundle_is_told_at_once(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    ended, _, error = end(tmp_path, command, *NOTHING[command])
    assert ended == ["1"]
    assert error == "vitlora: checkpoint 'nowhere': no such folder\n"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_no_bundle_at_all_is_told_at_once(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    ended, _, error = end(tmp_path, command, *(["x.jpg"] if command == "predict" else []))
    assert ended == ["1"]
    assert "no trained adapter under" in error


@pytest.mark.parametrize("command", OURS)
def test_an_unknown_option_is_told_at_once(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    words = {
        **NOTHING,
        "configs": [],
        "fetch": ["trashnet"],
        "doctor": ["--data", "."],
        "plan": [],
        "compare": [],
        "sweep": ["--sweep", "bad.yaml"],
        "adopt": [".", "--classes", "a,b", "--backbone", "timm/x"],
    }
    ended, _, error = end(tmp_path, command, *words[command], "--no-such-option")
    assert ended == ["2"]
    assert "--no-such-option" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "x", "--split", "all of it"], "expected one of train, val, test, all"),
        (["merge", "x", "y.safetensors", "--base", "half"], "expected one of trained, full"),
        (
            ["adopt", "x", "--classes", "a,b", "--backbone", "y", "--quantization", "q"],
            "--quantization is 'q'; expected one of none, nf4, fp4",
        ),
        (
            ["adopt", "x", "--classes", "a,b", "--backbone", "y", "--image-size", "big"],
            "--image-size is 'big'; expected a whole number",
        ),
        (["adopt", "x"], "adopt needs --classes and --backbone"),
        (["report"], "report needs CHECKPOINT"),
        (["merge", "x"], "merge needs OUTPUT"),
        (["serve", "x", "--decoders", "100000"], "--decoders is 100000; expected 1 to"),
        (["export", "x"], "export needs CHECKPOINT and OUTPUT"),
        (["export", "b", "out.bin"], "expected a name that ends in .onnx"),
        (["export", "x", "y.onnx", "--precision", "4"], "expected one of 32, fp16, int8"),
        (
            ["predict", "b/vitlora.json", "--checkpoint", "no.onnx"],
            "checkpoint 'no.onnx': no such file",
        ),
        (["push"], "push needs CHECKPOINT and REPOSITORY"),
        (["plan", "--methods", "lara"], "lara"),
        (["plan", "--classes", "few"], "--classes is 'few'; expected a whole number"),
        (["plan", "--png", "no/x.png"], "its folder does not exist"),
        (["predict", "b", "--precision", "16"], "expected one of 32, bf16, auto"),
        (["predict", "b", "--top-k", "0"], "--top-k is 0; expected at least 1"),
        (
            ["predict", "b", "--output", "bad.yaml"],
            "expected a file name that ends in .parquet, .jsonl or .csv",
        ),
        (["predict", "b", "--output", "/dev/null"], "expected a file that ends in .parquet"),
        (["predict", "b", "--shard", "1/2"], "name it with --output"),
        (["predict", "b", "--output", "a.csv", "--shard", "0/2"], "expected K/N"),
        (["predict", "b", "--output", "a.csv", "--show"], "do not go together"),
        (["predict", "nope", "--output", "a.csv"], "nope: no such file"),
        (["predict", "b", "--data.label_column", "x"], "predict does not use data.label_column"),
        (["predict", "b", "--json=bad.yaml"], "expected a file name that ends in .json"),
        (["doctor", "nowhere"], "--data 'nowhere': no such folder"),
        (["doctor", ".", "--seed", "x"], "--seed is 'x'; expected a whole number"),
        (["fetch", "trashnot"], "did you mean 'trashnet'"),
        (["predict"], "predict needs IMAGES"),
        (["doctor"], "doctor needs DATA"),
        (["fetch"], "fetch needs DATASET"),
        (["compare", "--methods", "lara"], "lara"),
        (["compare"], "compare needs --config FILE"),
        (["sweep"], "sweep needs --sweep"),
        (["sweep", "--sweep", "x", "--workers", "two"], "--workers is 'two'; expected a whole"),
        (["fit"], "fit needs --config FILE or --data FOLDER"),
        (["fit", "--config", "nowhere.yaml"], "no such file"),
        (["fit", "--config", "bad.yaml"], "is not YAML"),
        (["fit", "--config", "list.yaml"], "has no keys"),
        (["fit", "--data.root", ".", "--from", "nowhere"], "checkpoint 'nowhere': no such folder"),
        (["fit", "--data.root", ".", "--modle.lr", "1"], "(did you mean 'model.lr'?)"),
        (["fit", "--data.root", ".", "--trainr.max_epochs=1"], "'trainer.max_epochs'"),
        (["fit", "--config", "misspelt.yaml"], "unknown key 'modle' (did you mean 'model'?)"),
        (["plan", "--config", "misspelt.yaml"], "unknown key 'modle' (did you mean 'model'?)"),
        (["validate", "--checkpoint", "nowhere"], "checkpoint 'nowhere': no such folder"),
        (["validate", "--checkpoint"], "--checkpoint needs a value"),
        (["test", "--from", "x"], "are for fit"),
        (["test", "--model.lr", "1"], "test does not accept --model.lr"),
        (["test", "--unsure.coverage", "0.5"], "test does not accept --unsure.coverage"),
        (["test", "--config", "number.yaml"], "checkpoint '7': no such folder"),
        (["fitt"], "did you mean 'fit'"),
        (["fit", "--resume", "x"], "unexpected argument 'x'; expected CONFIG.yaml"),
        (["fit", "--data.root", "nowhere"], "--data.root 'nowhere': no such folder"),
        (["fit", "--data", "nowhere"], "--data 'nowhere': no such folder"),
        (["fit", "--data=nowhere"], "--data 'nowhere': no such folder"),
        (["fit", "--data", ".", "--checkpoint", "b"], "--checkpoint is for validate and test"),
        (["fit", "--config", "nopics.yaml"], "data.root 'gone': no such folder"),
        (["merge", "b", "out.bin"], "expected a name that ends in .safetensors"),
        (["merge", "b", "mine.safetensors"], "already exists; choose another OUTPUT"),
        (["report", "b", "--output", "x.txt"], "expected a file name that ends in .html"),
        (["report", "b", "--output", "mine.html"], "exists and was not written by vitlora"),
        (["report", "b", "--output", "b/r.html"], "inside a bundle"),
        (["report", "b", "--data", "gone"], "--data 'gone': no such folder"),
        (["merge", "b", "new.safetensors", "--data", "gone"], "--data 'gone': no such folder"),
        (["push", "b", "waste"], "REPOSITORY is 'waste'; expected OWNER/NAME"),
        (["push", "b", "jane/waste", "again"], "push: unexpected argument 'again'"),
        (["drift", "b", "--data", "nowhere"], "nowhere: no such file"),
        (
            ["drift", "b", "--data", ".", "--json=bad.yaml"],
            "expected a file name that ends in .json",
        ),
        (
            ["adopt", ".", "--classes", "a", "--backbone", "timm/x"],
            "expected at least 2",
        ),
        (
            ["adopt", "nowhere", "--classes", "a,b", "--backbone", "timm/x"],
            "adapter_config.json",
        ),
        (["adopt", "b", "--classes", "a,b", "--backbone", "timm/x"], "is already a bundle"),
        (["calibrate", "b", "--max-error", "2"], "max_error is 2.0; expected 0 < max_error < 1"),
        (["calibrate", "b", "--coverage", "0"], "coverage is 0.0; expected 0 < coverage <= 1"),
    ],
)
def test_mistakes_are_told_before_torch(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: [")
    (tmp_path / "nopics.yaml").write_text("data: {root: gone}")
    (tmp_path / "b").mkdir()
    for name in ("b/vitlora.json", "mine.html", "mine.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "misspelt.yaml").write_text("modle: {lr: 1}")
    (tmp_path / "number.yaml").write_text("checkpoint: 7")
    ended, _, error = end(tmp_path, *words)
    assert ended[1:] == []
    assert ended[0] in ("1", "2")
    assert message in error and error.count("\n") == 1


def test_choices_are_those_of_what_they_choose() -> None:
    def choices(command: str, name: str) -> list[str]:
        return list(get_args(CommandLine(command, function_of(command)).hints[name]))

    assert choices("adopt", "quantization") == list(get_args(Quantization))
    assert choices("merge", "base") == list(BASES)
    assert choices("export", "precision") == list(get_args(ExportPrecision))


def test_the_precisions_of_predict_are_those_of_the_predictor() -> None:
    asked = get_type_hints(Predictor.__init__)["precision"]
    assert get_args(CommandLine("predict", predict).hints["precision"]) == get_args(asked)
