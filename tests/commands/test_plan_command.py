"""What a user sees of the plan."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vitlora import plan
from vitlora.cli.main import main
from vitlora.cli.resolved import resolve
from vitlora.cli.run_options import run_options
from vitlora.studies.methods import METHODS, configure

ROOT = Path(__file__).parents[2]
MICRO = ["--model.backbone", "vitlora/vit_micro_patch8_96", "--model.image_size", "32"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vitlora"])
    return tmp_path


def test_a_config_without_its_pictures_is_planned(capsys: Any) -> None:
    assert main(["plan", "--config", "demo.yaml", "--vram", "6GB", "--png", "plan.png"]) == 0
    said = capsys.readouterr().out
    assert "10 classes: assumed, no datasets/waste5-drawn" in said
    assert "room  5.6 GB given, after 0.4 GB for CUDA (assumed)" in said
    rows = [line.split()[:2] for line in said.splitlines() if line[:6].strip() in ROWS]
    assert rows[:4] == [["linear", "off"], ["lora", "off"], ["lora", "on"], ["qlora", "off"]]
    assert "Take lora, 16 at once: " in said
    assert "fit   vitlora fit --config demo.yaml --data.batch_size 16" in said
    assert max(map(len, said.splitlines())) <= 80
    assert said.isascii() and Image.open("plan.png").width > 500


ROWS = {"linear", "lora", "qlora", "full"}


def test_json_has_every_number_and_no_text(capsys: Any) -> None:
    words = ["--methods", "lora", "--batches", "2,7", "--vram", "2GiB", "--classes", "3", "--json"]
    assert main(["plan", *MICRO, *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == 3 and said["room"]["bytes"] == 2 * 2**30 - 400_000_000
    assert [way["checkpointing"] for way in said["ways"]] == [False, True]
    assert all(set(way["totals"]) == {"2", "7"} for way in said["ways"])
    plain, checkpointed = said["ways"]
    assert plain["saved_per_image"] > checkpointed["saved_per_image"]
    assert plain["totals"]["7"] > plain["totals"]["2"] > plain["base"]
    assert said["pick"] == {"method": "lora", "checkpointing": False} and said["batch"] == 32


def test_the_folder_says_how_many_classes_and_a_probe_how_fast(
    capsys: Any, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    photos = make_folder(tmp_path / "photos", classes=("a", "b", "c"))
    words = ["--data.root", str(photos), "--measure", "--methods", "linear,qlora"]
    assert main(["plan", *MICRO, *words, "--trainer.accelerator", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"3 classes: {photos}" in said and "an epoch of 12 pictures" in said
    assert said.count(" images/s, ") == 3


def test_too_small_a_card_is_said(capsys: Any) -> None:
    assert main(["plan", *MICRO, "--vram", "410MB", "--methods", "full"]) == 0
    said = capsys.readouterr().out
    assert "Nothing fits: full" in said and "none" in said and "\nfit " not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vram", "6"], "--vram is '6'; expected a size such as 6GB, 6GiB or 6144MB"),
        (["--methods", "lorra"], "--methods has 'lorra'"),
        (["--methods", "lora,lora"], "--methods has 'lora' twice"),
        (["--batches", "0"], "--batches has 0; expected numbers from 1"),
        (["--batches", "1,x"], "--batches is '1,x'; expected a whole number each"),
        (["--classes", "1"], "--classes is 1; expected at least 2"),
        (["--config", "none.yaml"], "--config 'none.yaml': no such file"),
        (["--model.lrr", "1"], "unknown key 'model.lrr'"),
        (["--model.quantization", "nf4"], "is set by each method"),
        (["--model.backbone", "timm/vit_basse"], "timm has no 'vit_basse'"),
        (["--png", "no/where.png"], "--png 'no/where.png': its folder does not exist"),
        (["photos"], "--config 'photos': no such file"),
        (["--from", "x"], "plan does not accept --from"),
        (["--print_config"], "plan does not accept --print_config"),
        (["--trainer.callbacks+", "A", "--trainer.callbacks+=B"], "got --trainer.callbacks+ twice"),
        pytest.param(
            ["--vram", "6GB", "--measure"],
            "--measure times this machine, which has no cuda",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Any) -> None:
    assert main(["plan", *words]) != 0
    error = capsys.readouterr().err.strip("\r \n").splitlines()
    assert len(error) == 1 and message in error[0]


def test_a_console_of_windows_shows_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitlora", "plan", *MICRO, "--vram", "6GB", "--methods", "lora"],
        capture_output=True,
        env={"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"Take lora" in done.stdout


@pytest.mark.parametrize("method", [name for name in METHODS if name != "eva"])
def test_what_it_tells_to_type_is_what_it_counted(method: str, capsys: Any) -> None:
    args = ["--config", "demo.yaml", *MICRO, "--model.checkpointing", "true"]
    assert main(["plan", *args, "--vram", "6GB", "--methods", method]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    before, after = (
        resolve(*run_options("fit", words, run=False)) for words in (args, shlex.split(last)[3:])
    )
    counted = configure(before, method)["model"]
    typed = after["model"]
    own = typed["adapter"].get("init_args") or {}
    assert typed["adapter"]["class_path"].endswith(counted["adapter"]["class_path"])
    for key, value in (counted["adapter"].get("init_args") or {}).items():
        assert own[key] == value, key
    for key in ("head", "quantization", "block_size", "lr"):
        assert typed[key] == counted[key], key
    assert typed["checkpointing"] is False  # as lora without it fits, so does each of these


def test_the_function_takes_values_and_tells_nothing(capsys: Any) -> None:
    options = {"model.backbone": MICRO[1], "model": {"image_size": 32, "checkpointing": True}}
    made = plan("demo.yaml", vram="6GB", methods=["lora"], batches=[2], **options)
    assert capsys.readouterr().out == ""
    way, batch, why = made.pick
    assert way is not None and (way.method, batch) == ("lora", 16) and why in made.to_json()["why"]
    assert list(made.to_json()["ways"][0]["totals"]) == ["2"]
    assert made.command is not None
    assert "--model.image_size 32" in made.command
    assert made.command.count("--model.checkpointing") == 1
    assert made.command.endswith("--data.batch_size 16 --model.checkpointing false")


def test_what_to_type_is_quoted(capsys: Any) -> None:
    assert main(["plan", *MICRO, "--data", "my photos", "--vram", "6GB", "--methods", "lora"]) == 0
    assert 'vitlora fit --data.root "my photos" ' in capsys.readouterr().out


def test_method_is_the_old_name_of_methods(capsys: Any) -> None:
    assert main(["plan", "--method", "lorra"]) == 2
    said = capsys.readouterr().err
    assert "note: --method is now called --methods; the old name still works\n" in said


def test_nothing_is_made_or_seeded_to_read_a_configuration() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    resolved = resolve(*run_options("fit", ["--model.lr", "1e-3"], run=False))
    assert torch.rand(1) == expected
    assert resolved["model"]["lr"] == 1e-3 and resolved["data"]["root"] == "PHOTOS"


def test_on_several_devices_every_number_is_for_one(capsys: Any) -> None:
    words = ["--config", "demo.yaml", *MICRO, "--devices", "4", "--vram", "6GB"]
    assert main(["plan", *words, "--methods", "lora"]) == 0
    said = capsys.readouterr().out
    assert "4 devices (ddp), each: the whole base, 4 of the 16 pictures in a step. All\n" in said
    assert "numbers below are for one device.\nroom  5.6 GB given" in said
    assert "batch 1 batch 4 batch 8" in said and "\nbatch 4 in 5.6 GB: " in said
    assert "Take lora, 4 at once on each of 4 devices, 16 in all: it takes" in said
    assert f"fit   vitlora fit --config demo.yaml {' '.join(MICRO)}" in said
    assert said.endswith(" --trainer.devices 4 --data.batch_size 16\n")
    assert max(map(len, said.splitlines()[:-1])) <= 80


def test_what_does_not_fit_on_several_devices_is_accumulated() -> None:
    options = {"model.backbone": MICRO[1], "trainer.devices": "2", "trainer.num_nodes": 2}
    options |= {"data.batch_size": "512", "trainer.accumulate_grad_batches": "2"}
    made = plan(vram="450MB", methods=["lora"], batches=[3], **options)
    said, (way, _) = made.to_json(), made.ways
    most = way.counted.largest_batch(0.9 * 50e6)
    assert said["devices"] == 4 and said["machines"] == 2 and said["strategy"] == "ddp"
    assert said["batch"] == 4 * said["batch_per_device"] < 512
    assert said["batch_per_device"] <= most < 2 * said["batch_per_device"]
    assert made.command is not None and made.command.endswith(
        f" --data.batch_size {said['batch']} --trainer.accumulate_grad_batches "
        f"{2 * 512 // said['batch']}"
    )


def test_fsdp_spreads_the_base_and_leaves_out_what_it_cannot_train(capsys: Any) -> None:
    words = ["plan", *MICRO, "--devices", "2", "--vram", "6GB", "--trainer.strategy", "fsdp"]
    assert main(words) == 0
    said = capsys.readouterr()
    out = "note: fsdp spreads frozen weights that are not in 4 bits, so the plan leaves out qlora"
    assert f"{out} and full\n" in said.err
    assert "2 devices (fsdp), each: 1/2 of the blocks' frozen weights, two whole blocks" in said.out
    rows = [line.split()[0] for line in said.out.splitlines() if line[:6].strip() in ROWS]
    assert set(rows) == {"linear", "lora"}
    assert "fit   vitlora fit --data PHOTOS " in said.out  # or fit would not start
    assert "--trainer.strategy fsdp --data.batch_size 32" in said.out
    assert main([*words, "--methods", "qlora"]) == 2
    assert "it does not train qlora; set trainer.strategy to ddp" in capsys.readouterr().err
    assert main([*words, "--trainer.accelerator", "cpu", "--measure"]) == 2
    assert "--measure times one device, on which fsdp spreads" in capsys.readouterr().err


def test_one_of_several_devices_is_timed(capsys: Any) -> None:
    words = ["--devices", "2", "--measure", "--methods", "linear", "--trainer.accelerator", "cpu"]
    assert main(["plan", *MICRO, *words]) == 0
    said = capsys.readouterr().out
    assert "measured on one device, not 2, on random pictures, without loading; " in said
    assert " free on this machine, no GPU; 10% of it is left alone" in said
