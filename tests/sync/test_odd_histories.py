"""Odd but possible histories of orders: whatever the order and repetition of what is told, the books end alike."""

from __future__ import annotations

import uuid
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.protocol import LineState, OrderDeleted, OrderState, RefundedUnits, RefundMade, Restock
from locations.routing import Routing
from sync.decide import IGNORED, Envelope, Level, Line, ListingFacts, Named, Outcome, Verdict, World, decide, listing_of
from sync.register import effect, parts
from tests.factories import NOON, later

MUG, TEE, SET = 1, 2, 3
NEAR, FAR = 11, 12
FLOOR, ATTIC, YARD = 31, 32, 33
Told = OrderState | RefundMade | OrderDeleted


def world(recipe: dict[int, int] | None = None) -> World:
    """A store that draws on two warehouses and sells a bundle (variant S) and one of its components (variant M).

    Its attic draws on the same warehouses, its yard on the far one alone.
    """
    stock_levels = {(MUG, NEAR): 101, (MUG, FAR): 102, (TEE, NEAR): 103, (TEE, FAR): 104}
    return World(
        listings_by_variant={(1, "S"): ListingFacts(21, SET), (1, "M"): ListingFacts(22, MUG)},
        listings_by_item={},
        location_ids={(1, "floor"): FLOOR, (1, "attic"): ATTIC, (1, "yard"): YARD},
        default_locations={1: FLOOR},
        warehouses={FLOOR: (NEAR, FAR), ATTIC: (NEAR, FAR), YARD: (FAR,)},
        parts={SET: recipe or {MUG: 2, TEE: 1}, MUG: {MUG: 1}},
        bundles={MUG: (SET,), TEE: (SET,)},
        counted_from={1: None},
        stock_level_ids=stock_levels,
        available={101: 5, 102: 4, 103: 2, 104: 9},
        levels={
            (listing, place): Level(10 * listing + place, 0, None, None, None, None, None)
            for listing in (21, 22)
            for place in (FLOOR, ATTIC, YARD)
        },
        lines={},
    )


def refund(refund_id: str, line_id: str, quantity: int, restock: Restock, place: str | None = None) -> RefundedUnits:
    return RefundedUnits(refund_id, line_id, quantity, restock, place, later(20))


def order(
    at: int,
    ordered: int,
    *,
    current: int | None = None,
    shipped: int = 0,
    cancelled: bool = False,
    refunds: tuple[RefundedUnits, ...] = (),
    place: str | None = None,
    shipped_from: str | None = None,
    lines: str = "SM",
    is_test: bool = False,
) -> OrderState:
    told = tuple(
        LineState(
            line,
            line,
            line,
            ordered,
            current,
            shipped,
            place,
            shipped_from=((shipped_from, shipped),) if shipped_from else (),
        )
        for line in lines
    )
    return OrderState("O", "#1", later(at), NOON, later(at) if cancelled else None, is_test, told, refunds)


def say(place: World, *history: Told) -> list[Verdict]:
    """Decide event by event."""
    return [decide(event, Envelope(n, 1, uuid.uuid4(), NOON), place, Outcome()) for n, event in enumerate(history)]


def reported(place: World, listing: int) -> dict[int, int]:
    """What each location of the store must show of a listing, from zero."""
    return {where: level.reported for (of, where), level in place.levels.items() if of == listing and level.reported}


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


def of_ours(line: Line | None) -> tuple[int, int]:
    """What the line must do to stock, committed and on hand, but for places that nobody has mapped."""
    found = parts(line.register, effect(line.register)) if line is not None else ()
    mapped = [part for where, part in found if where != "elsewhere"]
    return sum(part.committed for part in mapped), sum(part.on_hand for part in mapped)


restocks = st.sampled_from(list(Restock))
put_back_at = st.sampled_from([None, "floor", "yard", "elsewhere"])
refunds = st.lists(
    st.builds(refund, st.sampled_from("abc"), st.sampled_from("SM"), st.integers(1, 4), restocks, put_back_at),
    max_size=3,
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
        place=st.sampled_from([None, "floor", "attic", "yard"]),
        shipped_from=st.sampled_from([None, "floor", "yard"]),
    ),
    refunds.filter(bool).map(lambda made: RefundMade("O", made)),
    st.just(OrderDeleted("O")),
)


# An example is lived through in each of its 24 orders.
@settings(max_examples=settings().max_examples // 4)
@given(st.lists(events, min_size=1, max_size=4), st.sampled_from(Routing), st.booleans())
def test_any_history_in_any_order_moves_what_its_register_says(
    history: list[Told], rule: Routing, is_split: bool
) -> None:
    ends = set()
    for arrival in permutations(history):
        place = world()
        place.routing = {FLOOR: rule, ATTIC: rule}
        place.split_shipment = (FLOOR,) if is_split else ()
        booked = live_through([*arrival, *arrival[:2]], place)
        units, alone = (of_ours(place.lines.get((1, "O", line_id))) for line_id in "SM")
        assert booked == {MUG: (2 * units[0] + alone[0], 2 * units[1] + alone[1]), TEE: units}
        assert sum(reported(place, 21).values()) == units[1] - units[0]
        assert sum(reported(place, 22).values()) == alone[1] - alone[0]
        ends.add((*booked.values(), *reported(place, 21).items(), *reported(place, 22).items()))

    assert len(ends) == 1


def test_a_return_told_before_its_sale_and_its_shipment_moves_nothing_from_sale() -> None:
    history: list[Told] = [RefundMade("O", (refund("a", "M", 3, Restock.RETURN),)), order(1, 3)]

    place = world()
    live_through(history, place)

    assert place.available[101] + place.available[102] == 9 - 2 * 3


@pytest.mark.parametrize("recipe", [{MUG: 2}, {MUG: 3, TEE: 1}, {TEE: 1}])
def test_a_bundle_whose_components_changed_gives_back_what_it_took(recipe: dict[int, int]) -> None:
    place = world()
    live_through([order(1, 3)], place)
    place.parts = {SET: recipe, MUG: {MUG: 1}}

    live_through([order(2, 3, current=0)], place)

    assert place.available == {101: 5, 102: 4, 103: 2, 104: 9}


# --- which location ships ----------------------------------------------------------------------------------------


def test_units_that_another_location_is_to_ship_leave_one_counter_for_the_other_and_the_pool_alone() -> None:
    place = world()

    say(place, order(1, 3, place="floor", lines="M"), order(2, 3, place="attic", lines="M"))

    assert reported(place, 22) == {ATTIC: -3}
    assert place.available == {101: 2, 102: 4, 103: 2, 104: 9}
    say(place, order(3, 3, current=0, place="attic", lines="M"))
    assert reported(place, 22) == {}
    assert place.available == {101: 5, 102: 4, 103: 2, 104: 9}


def test_a_location_with_another_warehouse_takes_the_units_from_there() -> None:
    place = world()

    say(place, order(1, 3, place="floor", lines="M"), order(2, 3, place="yard", lines="M"))

    assert reported(place, 22) == {YARD: -3}
    assert (place.available[101], place.available[102]) == (5, 1)


def test_what_was_shipped_before_the_move_stays_with_the_warehouse_that_shipped_it() -> None:
    place = world()

    say(place, order(1, 3, place="floor", lines="M"), order(2, 3, shipped=1, place="floor", lines="M"))
    say(place, order(3, 3, shipped=1, place="yard", shipped_from="floor", lines="M"))

    assert (place.available[101], place.available[102]) == (4, 2)


def test_units_that_an_unmapped_location_is_to_ship_are_not_ours_until_it_is_mapped() -> None:
    place = world()
    place.warehouses = {FLOOR: (NEAR, FAR)}
    history = [order(1, 3, place="floor", lines="M"), order(2, 3, place="attic", lines="M")]

    say(place, *history)

    assert reported(place, 22) == {}
    assert place.available == {101: 5, 102: 4, 103: 2, 104: 9}
    place.warehouses = {FLOOR: (NEAR, FAR), ATTIC: (NEAR, FAR)}
    say(place, *history)
    assert reported(place, 22) == {ATTIC: -3}
    assert place.available == {101: 2, 102: 4, 103: 2, 104: 9}


def test_a_location_that_has_lost_its_warehouse_ships_and_gives_back_what_it_took() -> None:
    place = world()
    say(place, order(1, 3, place="yard", lines="M"))
    place.warehouses = {FLOOR: (NEAR, FAR), ATTIC: (NEAR, FAR)}

    say(place, order(2, 3, shipped=1, place="yard", lines="M"))
    say(place, order(3, 3, shipped=1, current=2, place="yard", lines="M"))
    [more] = say(place, order(4, 4, shipped=1, place="yard", lines="M"))

    assert (reported(place, 22), place.available[102]) == ({YARD: -2}, 2)
    assert more == Verdict(IGNORED, f"unmapped location without a warehouse: {YARD}")


# --- bundles and routing -----------------------------------------------------------------------------------------


def test_a_bundle_is_packed_in_one_warehouse_though_one_of_its_parts_would_be_nearer() -> None:
    place = world()
    place.available |= {103: 0}

    say(place, order(1, 2, lines="S"))

    assert place.available == {101: 5, 102: 0, 103: 0, 104: 7}


def test_the_parts_of_a_bundle_come_from_several_warehouses_where_that_is_allowed() -> None:
    place = world()
    place.split_shipment = {FLOOR}
    place.available |= {101: 0, 104: 0}

    say(place, order(1, 2, lines="S"))

    assert place.available == {101: 0, 102: 0, 103: 0, 104: 0}
    say(place, order(2, 2, current=0, lines="S"))
    assert place.available == {101: 0, 102: 4, 103: 2, 104: 0}


def test_by_most_stock_a_sale_leaves_from_the_fullest_warehouse() -> None:
    place = world()
    place.routing = {FLOOR: Routing.MOST_STOCK}
    place.available |= {101: 4, 102: 7}

    say(place, order(1, 3, lines="M"))

    assert (place.available[101], place.available[102]) == (4, 4)


def test_a_returned_bundle_restores_its_components() -> None:
    place = world()

    say(place, order(1, 2, lines="S"), order(2, 2, shipped=2, lines="S"))
    say(place, RefundMade("O", (refund("r", "S", 1, Restock.RETURN),)))

    assert place.available == {101: 3, 102: 4, 103: 1, 104: 9}


# --- odd orders --------------------------------------------------------------------------------------------------


def test_a_test_order_takes_from_the_counter_of_its_store_and_counts_like_any_other() -> None:
    place = world()

    say(place, order(1, 3, lines="M", is_test=True))

    assert reported(place, 22) == {FLOOR: -3}
    assert place.available[101] == 2


def test_an_order_older_than_the_connection_gives_back_what_is_put_back_later() -> None:
    place = world()
    place.counted_from = {1: later(10)}

    [seen] = say(place, order(1, 3, lines="M"))
    [cancelled] = say(
        place, order(30, 3, current=0, cancelled=True, refunds=(refund("r", "M", 3, Restock.CANCEL),), lines="M")
    )

    assert (seen.state, cancelled.state) == (IGNORED, "applied")
    assert "opening stock" in seen.reason
    assert reported(place, 22) == {FLOOR: 3}
    assert place.available[101] == 8


def test_a_sale_that_was_booked_stays_one_though_the_connection_is_dated_later() -> None:
    place = world()
    say(place, order(1, 3, lines="M"))
    place.counted_from = {1: later(10)}

    say(place, order(2, 3, shipped=3, lines="M"))

    assert place.available[101] == 2


def test_a_line_whose_variant_was_deleted_since_is_still_what_it_was() -> None:
    place = world()
    gone = OrderState("O", "#1", later(5), NOON, None, False, (LineState("M", "", "MUG", 3, 1, 0, None),))

    say(place, order(1, 3, lines="M"), gone)

    assert place.available[101] == 4


def test_a_line_whose_variant_was_gone_before_we_heard_of_it_is_of_the_listing_with_its_sku() -> None:
    place = world()
    place.listings_by_code = {(1, "MUG"): ListingFacts(22, MUG)}
    gone = OrderState("O", "#1", later(5), NOON, None, False, (LineState("M", "", "MUG", 3, 1, 0, None),))

    say(place, gone)
    assert place.available[101] == 4
    say(place, order(1, 3, lines="M"))
    assert place.available[101] == 4


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([], None),
        ([Named(1, MUG, True, True), Named(2, MUG, True, False)], ListingFacts(1, MUG)),
        ([Named(1, MUG, True, True), Named(3, MUG, True, True)], ListingFacts(3, MUG)),
        ([Named(1, MUG, False, True), Named(2, TEE, True, False)], ListingFacts(2, TEE)),
        ([Named(1, MUG, True, True), Named(2, TEE, True, True)], None),
    ],
    ids=["none", "rather one that is gone", "the newest", "rather one that carries the code itself", "no guess"],
)
def test_a_code_means_one_listing_or_none(named: list[Named], expected: ListingFacts | None) -> None:
    assert listing_of(named) == expected


def test_a_custom_item_moves_nothing_waits_for_nothing_and_says_so() -> None:
    place = world()
    tip = OrderState("O", "#1", later(5), NOON, None, False, (LineState("tip", "", "", 1, 1, 0, None),))

    verdicts = say(place, tip, tip)

    assert {verdict.state for verdict in verdicts} == {IGNORED}
    assert all(verdict.reason.startswith("custom item") for verdict in verdicts)
    assert place.lines[1, "O", "tip"].waiting_for == ""


def test_an_order_with_a_custom_item_beside_goods_is_applied() -> None:
    place = world()
    lines = (LineState("a", "M", "MUG", 2, 2, 0, None), LineState("tip", "", "", 1, 1, 0, None))

    [verdict] = say(place, OrderState("O", "#1", later(1), NOON, None, False, lines))

    assert verdict == Verdict("applied")
    assert place.available[101] == 3


def test_a_line_that_names_no_variant_and_no_known_sku_waits_and_says_so() -> None:
    place = world()
    gone = OrderState("O", "#1", later(5), NOON, None, False, (LineState("M", "", "MUG", 3, 1, 0, None),))

    [verdict] = say(place, gone)

    assert verdict == Verdict(IGNORED, "unmapped SKU MUG")


def test_the_same_sku_on_two_lines_is_taken_twice_and_given_back_once() -> None:
    place = world()
    lines = (LineState("a", "M", "MUG", 2, 2, 0, None), LineState("b", "M", "MUG", 1, 1, 0, None))

    say(place, OrderState("O", "#1", later(1), NOON, None, False, lines))
    say(place, RefundMade("O", (refund("r", "b", 1, Restock.CANCEL),)))

    assert place.available[101] == 3


def test_two_versions_of_one_second_put_the_order_on_the_list_to_be_read() -> None:
    place, outcome = world(), Outcome()
    envelope = Envelope(1, 1, uuid.uuid4(), NOON)

    decide(order(1, 3, lines="M"), envelope, place, outcome)
    assert not outcome.orders_to_read
    decide(order(1, 3, current=1, lines="M"), envelope, place, outcome)

    assert outcome.orders_to_read == {(1, "O"): envelope}


def test_a_bundle_of_more_units_than_an_account_holds_moves_nothing_and_waits_for_its_recipe() -> None:
    place = world(recipe={MUG: 1000, TEE: 1})

    [verdict] = say(place, order(1, 1_000_000, lines="S"))

    assert verdict.state == IGNORED
    assert "bundle: 1000000000 units of a component" in verdict.reason
    assert place.available == {101: 5, 102: 4, 103: 2, 104: 9}
