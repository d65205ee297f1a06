import json
from datetime import timedelta
from functools import reduce
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.protocol import LineState, OrderState, RefundedUnits, Restock, UnitsAt
from sync.register import Effect, Register, effect, from_json, join, of_order, of_refunds, parts, taken_since, to_json
from tests.factories import NOON, later


def refund(refund_id: str, quantity: int, restock: Restock, place: str | None = None) -> RefundedUnits:
    return RefundedUnits(refund_id, "L", quantity, restock, place, later(20))


def told(
    at: float,
    ordered: int,
    *,
    current: int | None = None,
    shipped: int = 0,
    cancelled: bool = False,
    refunds: tuple[RefundedUnits, ...] = (),
    read: float | None = None,
    places: UnitsAt = (),
    shipped_from: UnitsAt = (),
) -> Register:
    line = LineState("L", "V", "MUG", ordered, current, shipped, None, places, shipped_from)
    order = OrderState(
        "O",
        "#1",
        later(at),
        NOON,
        later(at) if cancelled else None,
        False,
        (line,),
        refunds,
        None if read is None else later(read),
    )
    return of_order(order, line)


def test_a_sale_is_committed() -> None:
    assert effect(told(1, 3)) == Effect(committed=3)


def test_shipping_moves_units_out_of_the_warehouse() -> None:
    assert effect(told(2, 3, shipped=2)) == Effect(committed=1, on_hand=-2)


def test_an_edit_that_removes_units_gives_them_back() -> None:
    assert effect(told(2, 3, current=1)) == Effect(committed=1)


def test_a_refund_of_unshipped_units_with_restock_gives_them_back() -> None:
    assert effect(told(2, 3, current=2, refunds=(refund("r", 1, Restock.CANCEL),))) == Effect(committed=2)


def test_a_refund_without_restock_writes_unshipped_units_off() -> None:
    assert effect(told(2, 3, current=2, refunds=(refund("r", 1, Restock.NONE),))) == Effect(committed=2, on_hand=-1)


def test_a_refund_without_restock_of_shipped_units_moves_nothing() -> None:
    assert effect(told(2, 3, current=2, shipped=3, refunds=(refund("r", 1, Restock.NONE),))) == Effect(on_hand=-3)


def test_returned_units_are_on_hand_again() -> None:
    assert effect(told(3, 3, current=2, shipped=3, refunds=(refund("r", 1, Restock.RETURN),))) == Effect(on_hand=-2)


def test_a_cancelled_order_whose_units_were_put_back_does_nothing() -> None:
    restocked = (refund("r", 3, Restock.CANCEL),)

    assert effect(told(3, 3, current=0, cancelled=True, refunds=restocked)) == Effect()


def test_a_unit_that_an_edit_put_back_stays_so_when_the_rest_is_cancelled() -> None:
    edited = told(2, 4, current=3)
    cancelled = told(3, 4, current=0, cancelled=True, refunds=(refund("r", 3, Restock.CANCEL),))

    assert effect(cancelled) == Effect()
    assert effect(join(edited, cancelled)) == Effect()


def test_a_refund_told_ahead_of_the_edit_and_the_order_it_belongs_to_gives_back_both() -> None:
    early = of_refunds((refund("r", 1, Restock.CANCEL),))

    assert effect(join(told(2, 4, current=3), early)) == Effect(committed=2)


def test_a_return_told_ahead_of_its_shipment_says_that_the_units_had_left() -> None:
    early = of_refunds((refund("r", 1, Restock.RETURN),))

    assert effect(join(told(2, 3), early)) == Effect(committed=2)
    assert effect(join(told(4, 3, current=2, shipped=3, refunds=early.refunds), early)) == Effect(on_hand=-2)


def test_an_old_kind_of_refund_puts_back_what_had_not_left_and_then_what_had() -> None:
    old = (refund("r", 2, Restock.LEGACY),)

    assert effect(told(2, 3, current=1, refunds=old)) == Effect(committed=1)
    assert effect(told(2, 3, current=1, shipped=1, refunds=old)) == Effect(on_hand=-1)
    assert effect(told(2, 3, current=1, shipped=3, refunds=old)) == Effect(on_hand=-1)


def test_a_deleted_order_takes_no_unit_more_and_gives_none_back() -> None:
    deleted = join(told(2, 3, shipped=1), Register(is_deleted=True))

    assert effect(deleted) == Effect(on_hand=-3)


def test_what_an_edit_put_back_stays_so_when_the_empty_order_is_cancelled() -> None:
    edited = told(3, 1, current=0)
    cancelled = told(4, 1, current=0, cancelled=True)

    assert effect(join(cancelled, edited)) == Effect()
    assert taken_since(join(edited, cancelled), later(5), later(5)) == (0, False)


def test_a_cancelled_order_whose_units_were_not_put_back_leaves_them_out_of_sale() -> None:
    assert effect(told(3, 3, current=0, cancelled=True)) == Effect(on_hand=-3)


def test_only_refunds_known_do_nothing_until_the_order_is() -> None:
    early = of_refunds((refund("r", 1, Restock.CANCEL),))

    assert effect(early) == Effect()
    assert effect(join(early, told(2, 3, current=2, refunds=early.refunds))) == Effect(committed=2)


def test_an_older_version_changes_nothing() -> None:
    newer = told(5, 3, current=1)

    joined = join(newer, told(2, 3))

    assert (joined.said, effect(joined)) == (newer.said, effect(newer))


def test_the_register_survives_storage() -> None:
    register = join(told(5, 3, current=1, refunds=(refund("r", 1, Restock.NONE),)), told(2, 3, cancelled=True))

    assert from_json(json.loads(json.dumps(to_json(register)))) == register


restocks = st.sampled_from(list(Restock))
put_back_at = st.sampled_from([None, "1", "2", "9"])
refunds = st.lists(st.builds(refund, st.sampled_from("abc"), st.integers(1, 3), restocks, put_back_at), max_size=3).map(
    tuple
)
units_at = st.sampled_from([(), (("1", 2),), (("1", 1), ("2", 2)), (("2", 3), ("3", 0))])
readings = st.none() | st.integers(0, 6)
registers = st.one_of(
    st.builds(
        told,
        st.integers(0, 3),
        st.integers(0, 5),
        current=st.none() | st.integers(0, 5),
        shipped=st.integers(0, 5),
        cancelled=st.booleans(),
        refunds=refunds,
        read=readings,
        places=units_at,
        shipped_from=units_at,
    ),
    refunds.map(of_refunds),
    st.just(Register(is_deleted=True)),
    st.builds(lambda at: Register(counted_at=later(at)), st.integers(0, 3)),
)


@given(st.lists(registers, min_size=1, max_size=4))
def test_any_order_and_repetition_of_events_ends_in_the_same_register(events: list[Register]) -> None:
    outcomes = set()
    for arrival in permutations(events):
        register = Register()
        for event in (*arrival, *arrival[:2]):
            register = join(register, event)
        outcomes.add(register)

    assert len(outcomes) == 1


@given(registers, registers, registers)
def test_joining_is_associative_commutative_and_idempotent(a: Register, b: Register, c: Register) -> None:
    assert join(a, join(b, c)) == join(join(a, b), c)
    assert join(a, b) == join(b, a)
    assert join(a, a) == join(a, Register())


@given(st.lists(registers, max_size=3))
def test_any_register_survives_storage(events: list[Register]) -> None:
    register = reduce(join, events, Register())

    assert from_json(json.loads(json.dumps(to_json(register)))) == register


def test_a_register_of_before_lines_could_be_at_several_places_is_read_and_joined() -> None:
    stored = {"says": [[3, 0, 0, later(2).isoformat()]], "located": [later(2).isoformat(), "41"]}

    old = from_json(stored)
    joined = join(old, told(5, 3, places=(("41", 2), ("42", 1))))

    assert parts(old, effect(old)) == (("41", Effect(committed=3)),)
    assert parts(joined, effect(joined)) == (("41", Effect(committed=2)), ("42", Effect(committed=1)))


@given(registers)
def test_the_parts_of_a_register_add_up_to_its_effect(register: Register) -> None:
    found = [part for _, part in parts(register, effect(register))]

    assert sum(part.committed for part in found) == effect(register).committed
    assert sum(part.on_hand for part in found) == effect(register).on_hand
    assert all(part.committed >= 0 for part in found)


@given(registers)
def test_an_effect_never_commits_less_than_nothing(register: Register) -> None:
    assert effect(register).committed >= 0


def test_versions_are_compared_as_moments_not_as_text() -> None:
    utc = told(10, 3)
    elsewhere = of_order(
        OrderState(
            "O",
            "#1",
            later(9).astimezone(tz=(NOON + timedelta()).astimezone().tzinfo),
            NOON,
            None,
            False,
            (LineState("L", "V", "MUG", 5, None, 0, None),),
        ),
        LineState("L", "V", "MUG", 5, None, 0, None),
    )

    assert join(utc, elsewhere).said == utc.said


def test_two_versions_of_one_second_are_to_be_read_and_the_greater_counts_meanwhile() -> None:
    placed, edited = told(2, 3), told(2, 3, current=1)

    both = join(placed, edited)

    assert both.needs_reading
    assert effect(both) == Effect(committed=3)
    assert not join(both, told(2, 3, current=1, read=5)).needs_reading
    assert effect(join(both, told(2, 3, current=1, read=5))) == Effect(committed=1)
    assert join(both, told(2, 3, current=1, read=2.5)).needs_reading, "read within that very second"
    assert not join(both, told(3, 3, current=1)).needs_reading


@pytest.mark.parametrize(
    ("register", "moment", "units", "is_uncertain"),
    [
        (told(1, 3), 5, 0, False),
        (told(1, 3), -5, 3, False),
        (told(9, 3), 5, 0, True),
        (told(1, 3, refunds=(refund("r", 1, Restock.CANCEL),)), 10, -1, False),
        (told(1, 3, refunds=(refund("r", 1, Restock.CANCEL),)), 20, 0, True),
        (told(1, 3, refunds=(refund("r", 1, Restock.NONE),)), 20, 0, False),
        (join(told(1, 3), told(8, 3, current=1)), 5, 0, True),
        (join(told(1, 3), told(8, 3, current=1)), 10, 0, False),
        (reduce(join, [told(1, 3), told(6, 3), told(8, 3, current=1)]), 5, -2, False),
        (reduce(join, [told(1, 3), told(6, 5), told(8, 5, current=4)]), 4, 1, True),
        (join(told(1, 3), told(1, 3, current=1)), 5, 0, False),
        (of_refunds((refund("r", 1, Restock.CANCEL),)), 5, 0, False),
    ],
    ids=[
        "placed before",
        "placed after",
        "first told later, so perhaps added by an edit",
        "put back after",
        "put back just then",
        "refunded without being put back",
        "edited before or after",
        "edited before",
        "edited after",
        "edited around it",
        "contested, but whichever holds held before",
        "order not known",
    ],
)
def test_what_a_line_took_after_a_moment(register: Register, moment: float, units: int, is_uncertain: bool) -> None:
    assert taken_since(register, later(moment - 1), later(moment)) == (units, is_uncertain)


def test_an_order_older_than_the_first_count_does_what_happened_to_it_since() -> None:
    counted = Register(counted_at=later(10))
    placed, shipped = told(1, 3), told(30, 3, shipped=3)
    put_back = told(30, 3, current=2, refunds=(refund("r", 1, Restock.CANCEL),))

    assert effect(join(counted, placed)) == Effect()
    assert effect(join(counted, shipped)) == Effect()
    assert effect(join(counted, put_back)) == Effect(on_hand=1)
    assert effect(join(counted, told(30, 3, current=2))) == Effect(), "edited before or after: nobody can tell"
    assert effect(reduce(join, [counted, told(11, 3), told(30, 3, current=2)])) == Effect(on_hand=1)
