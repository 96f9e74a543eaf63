"""The order in which pictures are asked for."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from vitlora.labelling import ranking as module
from vitlora.labelling.ranking import doubts, ranking


def none(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def greedy(features: torch.Tensor, doubt: torch.Tensor) -> list[int]:
    """Facility location by its definition, every gain computed anew, in float64."""
    x = features.double() - features.double().mean(0)
    x /= x.norm(dim=1, keepdim=True)
    squares = torch.tensor([[float((a - b).square().sum()) for b in x] for a in x])
    near = torch.exp(-squares / (0.25 * squares.median()))
    left, order = set(range(len(x))), list[int]()
    while left:
        covered = near[order].amax(0) if order else torch.zeros(len(x))
        gains = {j: float(((near[j] - covered).clamp(min=0) * doubt).sum()) for j in left}
        order.append(max(gains, key=lambda j: (gains[j], -j)))
        left.remove(order[-1])
    return order


def test_lazy_order_is_the_greedy_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 8, generator=generator)
    probabilities = torch.randn(40, 3, generator=generator).softmax(1)
    top = probabilities.sort(dim=1, descending=True).values
    expected = greedy(features, 1 - (top[:, 0] - top[:, 1]))
    # behind the first ones hardly anything is left to cover, and rounding decides
    assert [*ranking(features, probabilities, none(40))][:25] == expected[:25]


def test_a_burst_of_one_scene_costs_one_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = torch.randn(10, 16, generator=generator)
    burst = scenes[:1] + 0.01 * torch.randn(20, 16, generator=generator)
    probabilities = torch.full((30, 4), 0.25)
    order = [*ranking(torch.cat([scenes, burst]), probabilities, none(30))]
    of_the_burst = [index for index in order[:10] if index == 0 or index >= 10]
    assert len(of_the_burst) == 1


def test_doubt_is_the_margin_and_unfamiliar_is_most_doubtful() -> None:
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]])
    unfamiliar = torch.tensor([False, False, True])
    assert doubts(probabilities, unfamiliar).tolist() == pytest.approx([1, 0.2, 1])


def test_sure_answers_come_last() -> None:
    features = torch.eye(6)
    probabilities = torch.tensor([[0.99, 0.01]] * 3 + [[0.5, 0.5]] * 3)
    assert {*islice(ranking(features, probabilities, none(6)), 3)} == {3, 4, 5}


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_picture_is_ranked_once(count: int) -> None:
    probabilities = torch.full((count, 3), 1 / 3)
    order = ranking(torch.ones(count, 4), probabilities, none(count))  # all of them equal
    assert sorted(order) == list(range(count))


def test_more_pictures_than_are_compared_follow_by_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    first = torch.tensor([0.9, 0.6, 0.8, 0.7, 0.55])
    order = [*ranking(torch.randn(5, 4), torch.stack([first, 1 - first], 1), none(5))]
    assert set(order[:3]) == {4, 1, 3} and order[3:] == [2, 0]
