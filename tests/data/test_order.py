"""The order of an epoch depends on the seed and the epoch alone."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from vitlora.data.order import Order, Share, SharedBatches, view_index_counts


def shown(order: Order) -> list[int]:
    return [index for _, index in order]


def test_each_epoch_shows_each_picture_once_in_an_order_of_its_own():
    order, orders = Order(7, 3, shuffle=True), []
    for epoch in range(5):
        order.set_epoch(epoch)
        draws = list(order)
        assert {view for view, _ in draws} == {epoch} and len(order) == 7
        orders.append(tuple(index for _, index in draws))
    assert all(sorted(each) == list(range(7)) for each in orders) and len(set(orders)) == 5
    again, other = Order(7, 3, shuffle=True, view=4), Order(7, 4, shuffle=True, view=4)
    assert tuple(shown(again)) == orders[4] != tuple(shown(other))


def test_every_order_is_as_likely_as_the_others():
    counts = Counter(tuple(shown(Order(3, 0, shuffle=True, view=view))) for view in range(1200))
    assert len(counts) == 6 and min(counts.values()) > 140 and max(counts.values()) < 260


def test_without_shuffling_pictures_keep_their_order():
    assert list(Order(3, 9, shuffle=False, view=2)) == [(2, 0), (2, 1), (2, 2)]


def test_going_on_leaves_out_pictures_of_that_epoch_alone():
    order = Order(6, 1, shuffle=True, view=2)
    whole = shown(order)
    order.go_on(2, 4)
    assert shown(order) == whole[4:]
    order.set_epoch(2)
    assert shown(order) == whole[4:]
    order.set_epoch(3)
    assert sorted(shown(order)) == list(range(6))
    order.set_epoch(2)
    assert shown(order) == whole


def test_a_seed_may_have_64_bits():
    assert shown(Order(9, 2**64 - 1, shuffle=True)) != shown(Order(9, 2**63, shuffle=True))


def test_an_index_alone_is_that_of_view_0():
    assert view_index_counts(5) == (0, 5, True)
    assert view_index_counts((3, 5)) == (3, 5, True)


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("of", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [5, 6, 11, 12, 30])
def test_processes_share_each_batch_without_a_picture_twice_or_missing(length, of, owned):
    order = Order(length, 7, shuffle=True, view=3)
    batches = [shown(order)[at : at + 4] for at in range(0, length, 4)]
    shares = [
        list(SharedBatches(Order(length, 7, shuffle=True, view=3), 4, Share(rank, of), owned))
        for rank in range(of)
    ]
    assert all(len(share) == len(batches) for share in shares)
    for batch, parts in zip(batches, zip(*shares, strict=True), strict=True):
        assert all(parts)  # nobody stands aside in a step
        read = [[view_index_counts(draw) for draw in part] for part in parts]
        counted = [[index for _, index, counts in part if counts] for part in read]
        together = list(chain.from_iterable(counted))
        assert sorted(together) == sorted(batch)
        if owned:
            assert all(index % of == rank for rank, part in enumerate(read) for _, index, _ in part)
        else:
            assert together == batch
            assert max(map(len, counted)) - min(map(len, counted)) <= 1


def test_the_rows_that_processes_own_are_all_rows():
    for length, of in [(7, 2), (6, 3), (5, 4), (9, 1)]:
        assert sum(Share(rank, of).rows(length) for rank in range(of)) == length
    assert [Share(rank, 3).rows(7) for rank in range(3)] == [3, 2, 2]
