from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.residue import Reading, Ruling, Suspect, judge
from tests.factories import NOON, later

LAG = timedelta(seconds=60)
LEVEL = Suspect(
    reported=10,
    version=7,
    is_first_reading=False,
    sample=None,
    sample_version=None,
    sampled_at=None,
    open_delta=None,
    is_bundle=False,
)


def read(available: int | None, *, version: int = 7, is_stocked: bool = True) -> Reading:
    return Reading(available, is_stocked, version)


def sampled(available: int) -> Suspect:
    """A level whose reading has stood since noon."""
    return replace(LEVEL, sample=available, sample_version=7, sampled_at=NOON)


def test_a_level_that_shows_what_it_must_is_explained() -> None:
    assert judge(LEVEL, read(10), now=NOON, orders_read_at=None, lag=LAG).ruling is Ruling.EXPLAINED


def test_a_reading_during_which_orders_were_booked_says_nothing() -> None:
    ruling = judge(LEVEL, read(8, version=6), now=NOON, orders_read_at=later(1000), lag=LAG)

    assert ruling.ruling is Ruling.MOVED


def test_missing_units_are_held_at_once() -> None:
    judgement = judge(LEVEL, read(7), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.hold) == (Ruling.WAIT, 3)


def test_extra_units_never_raise_anything() -> None:
    judgement = judge(LEVEL, read(14), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.hold) == (Ruling.WAIT, 0)


@pytest.mark.parametrize("orders_read_at", [None, NOON, later(59)])
def test_nothing_is_settled_before_the_order_list_is_complete(orders_read_at: object) -> None:
    judgement = judge(sampled(7), read(7), now=later(100), orders_read_at=orders_read_at, lag=LAG)  # type: ignore[arg-type]

    assert judgement.ruling is Ruling.WAIT


def test_a_loss_that_no_order_explains_is_adopted() -> None:
    judgement = judge(sampled(7), read(7), now=later(100), orders_read_at=later(60), lag=LAG)

    assert (judgement.ruling, judgement.residue) == (Ruling.ADOPT, -3)


def test_a_gain_that_no_order_explains_is_overridden() -> None:
    judgement = judge(sampled(12), read(12), now=later(100), orders_read_at=later(60), lag=LAG)

    assert (judgement.ruling, judgement.residue) == (Ruling.OVERRIDE, 2)


def test_a_loss_of_a_bundle_is_overridden_because_it_has_no_stock_of_its_own() -> None:
    bundle = replace(sampled(7), is_bundle=True)

    assert judge(bundle, read(7), now=later(100), orders_read_at=later(60), lag=LAG).ruling is Ruling.OVERRIDE


def test_a_first_reading_becomes_the_base() -> None:
    first = replace(LEVEL, reported=0, is_first_reading=True)

    judgement = judge(first, read(25), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.residue, judgement.hold) == (Ruling.FIRST, 25, 0)


def test_a_write_without_an_answer_is_found_applied() -> None:
    level = replace(LEVEL, open_delta=-4)

    judgement = judge(level, read(6), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.push_applied) == (Ruling.EXPLAINED, True)


def test_a_write_without_an_answer_is_found_not_applied() -> None:
    level = replace(LEVEL, open_delta=-4)

    judgement = judge(level, read(10), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.push_applied) == (Ruling.EXPLAINED, False)


def test_a_sale_on_top_of_a_write_without_an_answer_waits_for_its_order() -> None:
    level = replace(LEVEL, open_delta=-4)

    judgement = judge(level, read(5), now=NOON, orders_read_at=None, lag=LAG)

    assert (judgement.ruling, judgement.hold) == (Ruling.WAIT, 1)


def test_an_item_the_store_does_not_count_there_is_unstocked() -> None:
    assert judge(LEVEL, read(None), now=NOON, orders_read_at=None, lag=LAG).ruling is Ruling.UNSTOCKED
    assert judge(LEVEL, read(3, is_stocked=False), now=NOON, orders_read_at=None, lag=LAG).ruling is Ruling.UNSTOCKED


@given(st.integers(-20, 40), st.none() | st.integers(-20, 20), st.booleans())
def test_no_reading_ever_raises_the_pool(available: int, open_delta: int | None, is_settled: bool) -> None:
    level = replace(sampled(available) if is_settled else LEVEL, open_delta=open_delta)

    judgement = judge(level, read(available), now=later(100), orders_read_at=later(60), lag=LAG)

    assert judgement.hold >= 0
    assert judgement.ruling is not Ruling.ADOPT or judgement.residue < 0
