"""What a sweep says, on made-up runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import BROWSER, chromium

from vitlora.studies.comparison import Run, compare
from vitlora.studies.search.again import OWN, Again
from vitlora.studies.search.page import page
from vitlora.studies.search.result import Swept
from vitlora.studies.search.space import Choices, Range, Space
from vitlora.studies.search.trials import Trial

LAYERS = '["attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2"]'
SPACE = Space({"model.lr": Range(0.001, 0.1, True), "model.adapter.targets": Choices(("a", "b"))})


def trial(number: int, score: float | None, size: float = 1e3, **more: Any) -> Trial:
    point = {"model.lr": 0.001 * (number + 1), "model.adapter.targets": "ab"[number % 2]}
    measured = {"macro_f1": score, "size": size, "seconds": 60.0} if score else {}
    values = (score, size) if score else None
    options: dict[str, Any] = {"state": "complete", "attempt": number, "attempts": 1, **more}
    return Trial(number, point, values=values, measured=measured, **options)  # type: ignore[arg-type]


def run(method: str, seed: int, right: int) -> Run:
    answers = (1,) * right + (0,) * (100 - right)
    return Run(
        *(method, seed, (1,) * 100, answers, 0.01, "bfloat16", 5, 1.0, 2, None, 1.0, 3),
        *("cpu", "32-true"),
    )


def again(best: list[int], own: list[int], scores: list[float], split: str = "test") -> Again:
    runs = [run("trial-1", n, right) for n, right in enumerate(best)]
    runs += [run(OWN, n, right) for n, right in enumerate(own)]
    return Again(split, compare(runs), [], "macro_f1", 0.9, scores)


def swept(trials: list[Trial], front: list[int], found: Again | None = None) -> Swept:
    config = {"data": {"root": "x/photos"}, "model": {"backbone": "vitlora/micro"}}
    setup = {"config": config, "objectives": ["macro_f1", "size"], "space": {}}
    return Swept(Path("sweeps/x"), setup, SPACE, trials, front, found, Path("sweeps/x/trial-0001"))


TRIALS = [
    trial(0, 0.8, 1e2),
    trial(1, 0.9, attempts=3, attempt=7),
    trial(2, None, state="pruned", curve={1: 0.1, 2: 0.2}),
    trial(3, None, state="failed", error="rank is 0"),
    trial(4, None, state="failed", error="rank is 0"),
]


def test_the_table_has_the_unbeaten_first_and_says_what_became_of_the_others() -> None:
    found = swept(TRIALS, [1, 0])
    text = found.to_text()
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line[:2] == "| "]
    assert rows == ["trial", "1", "0", "2", "3", "4"]
    for said in ("best", "unbeaten", "pruned after epoch 2", "failed"):
        assert said in text
    assert "5 trials: 2 complete, 1 pruned, 2 failed; 2 attempts of killed processes" in text
    assert "failed: 3, 4: rank is 0" in text
    assert "--checkpoint sweeps/x/trial-0001" in text
    assert found.status == 0


def test_the_optimism_is_what_new_seeds_lose() -> None:
    found = again([80, 82], [60, 62], [0.85, 0.87])
    assert found.optimism == pytest.approx(0.9 - 0.86)
    said = "\n".join(swept(TRIALS, [1, 0], found).verdict())
    assert "0.900 in the search, 0.860 with 2 new seeds (0.850 to 0.870)" in said
    assert "made it look 0.040 better than it is" in said
    assert "100 test pictures: 0.810, and 0.610 of the configuration" in said
    assert "+20.0 points (" in said and "It is clearly better." in said


@pytest.mark.parametrize(("best", "own", "sign"), [(60, 80, "-20.0"), (80, 78, "+2.0")])
def test_the_difference_lies_within_its_interval(best: int, own: int, sign: str) -> None:
    (said,) = [
        line
        for line in swept(TRIALS, [1], again([best] * 2, [own] * 2, [0.95] * 2)).verdict()
        if "points (" in line
    ]
    low, high = (float(end) for end in said.split("points (")[1].split(")")[0].split(" to "))
    assert f"which is {sign} points" in said and low < float(sign) < high


def test_scores_that_new_seeds_confirm_and_a_missing_test_split() -> None:
    said = swept(TRIALS, [1], again([80], [80], [0.95], "val")).verdict()
    assert "0.950 with 1 new seed. New seeds confirm it." in said[0]
    assert "no test split" in said[-1]


def test_without_a_complete_trial_nothing_is_best() -> None:
    found = swept(TRIALS[2:], [])
    assert found.status == 1 and "No trial is complete" in found.to_text()
    assert "<circle" not in page(found)


def test_the_page_shows_each_complete_trial_in_each_chart_and_runs_nothing() -> None:
    html = page(swept(TRIALS, [1, 0], again([80], [60], [0.8])))
    assert html.count("<circle") == 2 * 4  # by trial, against size, by two options
    assert html.count('class="front"') == 2 * 4
    assert "<script" not in html and "http" not in html


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: scripts/install-chromium")
def test_no_table_needs_sideways_scrolling(tmp_path: Path) -> None:
    names = ("model.adapter.targets", "data.augment", "model.adapter.last_blocks", "model.lr")
    space = Space({name: Choices((LAYERS, "strong")) for name in names})
    trials = [replace(each, point=dict.fromkeys(names, LAYERS)) for each in TRIALS]
    found = replace(swept(trials, [1, 0], again([80, 82], [60, 62], [0.8, 0.81])), space=space)
    (tmp_path / "sweep.html").write_text(page(found), "utf-8")
    with chromium() as tab:
        for width, scrolling in ((1280, 0), (1024, 0), (390, 1)):  # a phone: that of all trials
            tab.look(width)
            tab.open(tmp_path / "sweep.html")
            wide = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > "
            assert tab.run(f"{wide}e.clientWidth).length") == scrolling
            assert tab.run("document.documentElement.scrollWidth <= innerWidth")
