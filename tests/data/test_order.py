"""The order of an epoch depends on the seed and the epoch alone."""

from __future__ import annotations

from collections import Counter

from vitlora.data.order import Order, view_and_index


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
    assert view_and_index(5) == (0, 5) and view_and_index((3, 5)) == (3, 5)
