from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitlora.cli.main import main
from vitlora.commands.configs import configs
from vitlora.errors import UsageError

SHIPPED = sorted((Path(__file__).parents[2] / "vitlora/configs").glob("*.yaml"))


def test_every_config_is_listed_with_what_it_is():
    lines = configs().to_text().splitlines()
    assert [line.split()[0] for line in lines[: lines.index("")]] == [p.name for p in SHIPPED]
    assert lines[0].endswith("  The demo: LoRA on the micro-ViT that ships with vitlora, on "
                             "pictures drawn by code")  # fmt: skip
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines[: len(SHIPPED)])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_config_is_printed_as_it_is(path, capsys):
    assert main(["configs", path.name]) == 0
    text = path.read_text("utf-8")
    assert capsys.readouterr().out == text and configs(path.name).texts == {path.name: text}


def test_an_unknown_name_is_one_line():
    with pytest.raises(UsageError, match=r"did you mean 'waste5\.yaml'.*demo\.yaml"):
        configs("waste.yaml")


def test_it_needs_no_torch():
    line = "import sys; from vitlora.cli.main import main; main(['configs'])"
    check = "assert not {'torch', 'cv2', 'timm'} & set(sys.modules)"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", f"{line}; {check}"], check=True, env={"PYTHONPATH": root})
