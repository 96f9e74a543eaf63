"""Shares of several processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from vitlora.errors import UsageError
from vitlora.prediction.shard import Shard


@pytest.mark.parametrize("of", [1, 2, 3, 16])
def test_shards_are_disjoint_complete_and_about_equal_in_any_order(of: int) -> None:
    names = [f"cat/{number}.jpg" for number in range(4000)]
    shuffled = random.Random(0).sample(names, len(names))
    shards = [Shard(number, of) for number in range(1, of + 1)]
    parts = [{name for name in shuffled if shard.takes(name)} for shard in shards]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert all(0.8 * 4000 / of < len(part) < 1.2 * 4000 / of for part in parts)
    assert parts[0] == {name for name in names if shards[0].takes(name)}


def test_a_new_picture_moves_no_other() -> None:
    assert [n for n in range(1, 6) if Shard(n, 5).takes("cat/1.jpg")] == [5]  # for ever


def test_what_is_typed() -> None:
    assert Shard.read("2/4") == Shard(2, 4)
    for text in ("0/4", "5/4", "2", "a/b", "-1/4", "1/0", "1/4/2", ""):
        with pytest.raises(UsageError, match="expected K/N"):
            Shard.read(text)


def test_every_shard_has_a_file() -> None:
    assert Shard(2, 16).file(Path("x/a.parquet")) == Path("x/a-02-of-16.parquet")
    assert Shard().file(Path("x/a.parquet")) == Path("x/a.parquet")


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ({}, Shard()),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Shard()),
        ({"RANK": "7"}, Shard()),  # somebody's own
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, Shard(4, 4)),
        # the script of a job, which srun did not start
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Shard()),
        # torchrun inside of a step of SLURM
        (
            {
                "RANK": "5",
                "WORLD_SIZE": "8",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            Shard(6, 8),
        ),
    ],
)
def test_launchers_say_which_shard(variables: dict[str, str], shard: Shard) -> None:
    found, names = Shard.launched(variables)
    assert found == shard
    assert bool(names) == (shard != Shard())


@pytest.mark.parametrize(("rank", "count"), [("x", "4"), ("5", "2"), ("2", "2"), ("-1", "2")])
def test_a_rank_that_is_none_is_refused(rank: str, count: str) -> None:
    with pytest.raises(UsageError, match=f"RANK is '{rank}' and WORLD_SIZE is '{count}'; exp"):
        Shard.launched({"RANK": rank, "WORLD_SIZE": count})
