from datetime import timedelta
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from channels.protocol import LineState, OrderState, RefundedUnits, Restock
from sync.register import Effect, Register, effect, from_json, join, of_order, of_refunds, to_json
from tests.factories import NOON, later


def refund(refund_id: str, quantity: int, restock: Restock) -> RefundedUnits:
    return RefundedUnits(refund_id, "L", quantity, restock, None, later(20))


def told(
    at: float,
    ordered: int,
    *,
    current: int | None = None,
    shipped: int = 0,
    cancelled: bool = False,
    refunds: tuple[RefundedUnits, ...] = (),
) -> Register:
    line = LineState("L", "V", "MUG", ordered, current, shipped, None)
    order = OrderState("O", "#1", later(at), NOON, later(at) if cancelled else None, False, (line,), refunds)
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


def test_a_cancelled_order_whose_units_were_not_put_back_leaves_them_out_of_sale() -> None:
    assert effect(told(3, 3, current=0, cancelled=True)) == Effect(on_hand=-3)


def test_only_refunds_known_do_nothing_until_the_order_is() -> None:
    early = of_refunds((refund("r", 1, Restock.CANCEL),))

    assert effect(early) == Effect()
    assert effect(join(early, told(2, 3, current=2))) == Effect(committed=2)


def test_an_older_version_changes_nothing() -> None:
    newer = told(5, 3, current=1)

    assert join(newer, told(2, 3)) == newer


def test_the_register_survives_storage() -> None:
    register = join(told(5, 3, current=1, refunds=(refund("r", 1, Restock.NONE),)), told(2, 3, cancelled=True))

    assert from_json(to_json(register)) == register


restocks = st.sampled_from(list(Restock))
refunds = st.lists(st.builds(refund, st.sampled_from("abc"), st.integers(1, 3), restocks), max_size=3).map(tuple)
registers = st.one_of(
    st.builds(
        told,
        st.integers(0, 3),
        st.integers(0, 5),
        current=st.none() | st.integers(0, 5),
        shipped=st.integers(0, 5),
        cancelled=st.booleans(),
        refunds=refunds,
    ),
    refunds.map(of_refunds),
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
