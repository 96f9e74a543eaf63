"""The example of docs/sweep.md runs: another tool passes flags and reads JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import MICRO

pytest.importorskip("ray.tune", reason="needs ray[tune]")

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_ray_tune_searches_with_fit(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    text = (ROOT / "docs" / "sweep.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    options = [word for name, value in MICRO.items() for word in (f"--{name}", value)]
    start = (
        "import ray\n"
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        f"PHOTOS, OPTIONS = {str(make_folder(tmp_path / 'photos'))!r}, {options!r}\n"
    )
    (tmp_path / "search.py").write_text(start + code)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_AIR_NEW_OUTPUT": "0",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "search.py"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    best = json.loads(done.stdout.strip().splitlines()[-1])
    assert 0 <= best["macro_f1"] <= 1 and best["model.adapter.rank"] in (2, 4)
    assert 1e-3 <= best["model.lr"] <= 1e-1
