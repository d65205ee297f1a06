"""Odd but possible histories of orders: whatever the order and repetition of what is told, the books end alike."""

from __future__ import annotations

import uuid
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.protocol import LineState, OrderState, RefundedUnits, RefundMade, Restock
from sync.decide import Envelope, Level, ListingFacts, Outcome, World, decide
from sync.register import effect
from tests.factories import NOON, later

MUG, TEE, SET = 1, 2, 3
NEAR, FAR = 11, 12
Told = OrderState | RefundMade


def world(parts: dict[int, int] | None = None) -> World:
    """A store that draws on two warehouses and sells a bundle (variant S) and one of its components (variant M)."""
    stock_levels = {(MUG, NEAR): 101, (MUG, FAR): 102, (TEE, NEAR): 103, (TEE, FAR): 104}
    return World(
        listings_by_variant={(1, "S"): ListingFacts(21, SET), (1, "M"): ListingFacts(22, MUG)},
        listings_by_item={},
        location_ids={(1, "floor"): 31},
        default_locations={1: 31},
        warehouses={31: (NEAR, FAR)},
        parts={SET: parts or {MUG: 2, TEE: 1}, MUG: {MUG: 1}},
        bundles={MUG: (SET,), TEE: (SET,)},
        counted_from={1: None},
        stock_level_ids=stock_levels,
        available={101: 5, 102: 4, 103: 2, 104: 9},
        levels={
            (21, 31): Level(41, 0, None, None, None, None, None),
            (22, 31): Level(42, 0, None, None, None, None, None),
        },
        lines={},
    )


def refund(refund_id: str, line_id: str, quantity: int, restock: Restock) -> RefundedUnits:
    return RefundedUnits(refund_id, line_id, quantity, restock, None, later(20))


def order(
    at: int,
    ordered: int,
    *,
    current: int | None = None,
    shipped: int = 0,
    cancelled: bool = False,
    refunds: tuple[RefundedUnits, ...] = (),
) -> OrderState:
    lines = tuple(LineState(line, line, line, ordered, current, shipped, None) for line in ("S", "M"))
    return OrderState("O", "#1", later(at), NOON, later(at) if cancelled else None, False, lines, refunds)


def live_through(history: list[Told], place: World) -> dict[int, tuple[int, int]]:
    """Decide event by event; returns committed and on-hand units per SKU."""
    booked: dict[int, tuple[int, int]] = {MUG: (0, 0), TEE: (0, 0)}
    sku_of = {level: sku for (sku, _), level in place.stock_level_ids.items()}
    committed_at = dict.fromkeys(sku_of, 0)
    for line in place.lines.values():
        for level, taken in line.taken_from.items():
            committed_at[level] += taken.committed
    for number, event in enumerate(history):
        outcome = Outcome()
        decide(event, Envelope(number, 1, uuid.uuid4(), NOON), place, outcome)
        for entry in outcome.entries:
            committed, on_hand = booked[sku_of[entry.stock_level_id]]
            booked[sku_of[entry.stock_level_id]] = committed + entry.committed, on_hand + entry.on_hand
            committed_at[entry.stock_level_id] += entry.committed
            assert committed_at[entry.stock_level_id] >= 0
    return booked


restocks = st.sampled_from(list(Restock))
refunds = st.lists(
    st.builds(refund, st.sampled_from("abc"), st.sampled_from("SM"), st.integers(1, 4), restocks), max_size=3
).map(tuple)
events = st.one_of(
    st.builds(
        order,
        st.integers(0, 3),
        st.integers(0, 6),
        current=st.none() | st.integers(0, 6),
        shipped=st.integers(0, 6),
        cancelled=st.booleans(),
        refunds=refunds,
    ),
    refunds.filter(bool).map(lambda made: RefundMade("O", made)),
)


@given(st.lists(events, min_size=1, max_size=4))
def test_any_history_in_any_order_moves_what_its_register_says(history: list[Told]) -> None:
    ends = set()
    for arrival in permutations(history):
        place = world()
        booked = live_through([*arrival, *arrival[:2]], place)
        effects = {key[2]: effect(line.register) for key, line in place.lines.items()}
        sets, mugs = effects.get("S"), effects.get("M")
        units = (sets.committed if sets else 0, sets.on_hand if sets else 0)
        alone = (mugs.committed if mugs else 0, mugs.on_hand if mugs else 0)
        assert booked == {MUG: (2 * units[0] + alone[0], 2 * units[1] + alone[1]), TEE: units}
        ends.add(tuple(booked.values()))

    assert len(ends) == 1


def test_a_return_told_before_its_sale_and_its_shipment_moves_nothing_from_sale() -> None:
    history: list[Told] = [RefundMade("O", (refund("a", "M", 3, Restock.RETURN),)), order(1, 3)]

    place = world()
    live_through(history, place)

    assert place.available[101] + place.available[102] == 9 - 2 * 3


@pytest.mark.parametrize("parts", [{MUG: 2}, {MUG: 3, TEE: 1}, {TEE: 1}])
def test_a_bundle_whose_components_changed_gives_back_what_it_took(parts: dict[int, int]) -> None:
    place = world()
    live_through([order(1, 3)], place)
    place.parts = {SET: parts, MUG: {MUG: 1}}

    live_through([order(2, 3, current=0)], place)

    assert place.available == {101: 5, 102: 4, 103: 2, 104: 9}
