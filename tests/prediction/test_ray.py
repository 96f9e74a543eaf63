"""A bundle in Ray Data's actors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import train

from vitlora.commands.predict import predict
from vitlora.errors import UsageError

ray: Any = pytest.importorskip("ray", reason="needs ray: pip install 'vitlora[ray]'")
pytest.importorskip("ray.data", reason="needs ray[data]: pip install 'vitlora[ray]'")

from vitlora.prediction.ray import RayPredictor  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_folder: Callable[..., Path]) -> Path:
    """A bundle, 16 pictures and one that is none, and their answers as the command writes them."""
    home = tmp_path_factory.mktemp("trained")
    train(make_folder(home / "data"), home / "bundle")
    (home / "data/bad.jpg").write_text("no picture")
    predict(home / "data", checkpoint=home / "bundle", output=home / "x.jsonl", device="cpu")
    return home


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 starves on a busy machine
    # one CPU for reading: actors that hold all of them would wait for ever
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.wait_for_min_actors_s = False, 300
    yield
    ray.shutdown()


def expected(home: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (home / "x.jsonl").read_text().splitlines()]
    return {row["path"]: (row["class"], row["unsure"], row["error"]) for row in rows}


def of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["path"]: (row["class"], row["unsure"], row["error"]) for row in rows}


def test_a_batch_gets_the_answers_of_the_command(trained: Path) -> None:
    files = sorted((trained / "data").rglob("*.jpg"))
    stage = RayPredictor(trained / "bundle", device="cpu", keep=["site"])
    names, contents = [*map(str, files)], [file.read_bytes() for file in files]
    for batch in ({"path": names}, {"path": names, "bytes": contents}):
        table = stage({**batch, "site": range(len(files))})
        assert of(table.to_pylist()) == expected(trained)
        assert table["site"].to_pylist() == [*range(len(files))]
    assert stage({"path": [], "site": []}).num_rows == 0
    unnamed = stage({"bytes": contents, "site": range(len(files))}).to_pylist()
    assert [row["class"] for row in unnamed] == [row["class"] for row in table.to_pylist()]
    assert {row["path"] for row in unnamed} == {""}
    with pytest.raises(UsageError, match="keep has class, which are columns of the answers"):
        RayPredictor(trained / "bundle", device="cpu", keep=["class"])


@pytest.mark.slow
def test_two_actors_on_a_local_ray(trained: Path, cluster: None) -> None:
    class Counted(RayPredictor):
        def __call__(self, batch: Any) -> Any:
            import torch

            table = super().__call__(batch)
            for name, value in (("pid", os.getpid()), ("threads", torch.get_num_threads())):
                table = table.append_column(name, [[value] * table.num_rows])
            return table

    pictures = ray.data.read_binary_files(str(trained / "data"), include_paths=True)
    answers = pictures.repartition(8).map_batches(
        Counted,
        fn_constructor_kwargs={"checkpoint": str(trained / "bundle"), "device": "cpu"},
        batch_size=4,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    rows = answers.take_all()
    assert of(rows) == expected(trained)
    assert len({row["pid"] for row in rows}) <= 2  # the one that is ready first may take all
    assert {row["threads"] for row in rows} == {1}
