"""Judging readings: what they explain, what is held, and whose the rest is."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.residue import (
    Audit,
    Judgement,
    Lower,
    Reading,
    Ruling,
    Sample,
    Suspect,
    is_known_up_to,
    judge,
    offset_of_clock,
)
from tests.factories import NOON, later

LAG = timedelta(seconds=60)
LEVEL = Suspect(base=10, order_effects=0, pushed=0, version=7, is_first_reading=False, is_bundle=False)
NOTHING_SINCE = Audit(taken_since=0, is_ambiguous=False)


def read(available: int | None, *, version: int = 7, pushed: int = 0, is_stocked: bool = True) -> Reading:
    return Reading(available, is_stocked, later(99), later(100), version, pushed)


def sampled(available: int, level: Suspect = LEVEL) -> Suspect:
    return replace(level, sample=Sample(available, NOON, later(1), level.pushed))


def rule(
    level: Suspect, reading: Reading, audit: Audit | None = None, *, on_loss: str = "adopt", on_gain: str = "override"
) -> Judgement:
    return judge(level, reading, audit, on_loss=on_loss, on_gain=on_gain)


def test_a_reading_that_shows_what_it_must_explains_itself() -> None:
    assert rule(LEVEL, read(10)).ruling is Ruling.EXPLAINED


def test_a_push_confirmed_during_the_reading_makes_it_worthless() -> None:
    level = replace(LEVEL, pushed=-2, version=8, held=3)

    judgement = rule(level, read(10))

    assert (judgement.ruling, judgement.hold) == (Ruling.MOVED, 3)


def test_an_order_booked_during_the_reading_leaves_it_as_a_sample() -> None:
    judgement = rule(replace(LEVEL, order_effects=-2, version=8), read(8))

    assert judgement.ruling is Ruling.SAMPLED
    assert judgement.sample == Sample(8, later(99), later(100), 0)


def test_what_is_missing_is_held_at_once() -> None:
    judgement = rule(LEVEL, read(7))

    assert (judgement.ruling, judgement.hold) == (Ruling.SAMPLED, 3)


def test_what_is_too_much_is_not_for_sale() -> None:
    judgement = rule(LEVEL, read(14))

    assert (judgement.ruling, judgement.hold) == (Ruling.SAMPLED, 0)


def test_a_sample_waits_for_the_order_list_and_stays_the_same() -> None:
    judgement = rule(sampled(7), read(6))

    assert (judgement.ruling, judgement.hold) == (Ruling.WAIT, 4)
    assert judgement.sample == Sample(7, NOON, later(1), 0)


@pytest.mark.parametrize(("orders_read_at", "expected"), [(None, False), (later(60), False), (later(61), True)])
def test_orders_must_be_read_a_lag_after_the_moment(orders_read_at: object, expected: bool) -> None:
    assert is_known_up_to(later(1), orders_read_at, LAG) is expected  # type: ignore[arg-type]


def test_a_loss_is_adopted() -> None:
    judgement = rule(sampled(7), read(7), NOTHING_SINCE)

    assert (judgement.ruling, judgement.residue, judgement.hold, judgement.sample) == (Ruling.ADOPT, -3, 0, None)


def test_a_gain_is_overridden() -> None:
    judgement = rule(sampled(12), read(12), NOTHING_SINCE)

    assert (judgement.ruling, judgement.residue) == (Ruling.OVERRIDE, 2)


def test_orders_after_the_sample_do_not_explain_it() -> None:
    """Four were sold after the sample of 7; three were taken by hand before it."""
    level = sampled(7, replace(LEVEL, order_effects=-4, version=11))

    judgement = rule(level, read(3, version=11), Audit(taken_since=4, is_ambiguous=False))

    assert (judgement.ruling, judgement.residue, judgement.sample) == (Ruling.ADOPT, -3, None)


def test_orders_before_the_sample_explain_it_while_later_ones_keep_coming() -> None:
    level = sampled(7, replace(LEVEL, order_effects=-5, version=12))

    judgement = rule(level, read(5, version=12), Audit(taken_since=2, is_ambiguous=False))

    assert judgement.ruling is Ruling.EXPLAINED


def test_what_differs_since_the_sample_is_sampled_anew() -> None:
    judgement = rule(sampled(7), read(5), NOTHING_SINCE)

    assert (judgement.ruling, judgement.residue, judgement.hold) == (Ruling.ADOPT, -3, 2)
    assert judgement.sample == Sample(5, later(99), later(100), 0)


def test_an_order_within_the_second_of_the_sample_makes_a_new_one() -> None:
    judgement = rule(sampled(7), read(7), Audit(taken_since=0, is_ambiguous=True))

    assert (judgement.ruling, judgement.sample) == (Ruling.SAMPLED, Sample(7, later(99), later(100), 0))


def test_the_merchant_may_want_losses_overridden_and_gains_adopted() -> None:
    assert rule(sampled(7), read(7), NOTHING_SINCE, on_loss="override").ruling is Ruling.OVERRIDE
    assert rule(sampled(12), read(12), NOTHING_SINCE, on_gain="adopt").ruling is Ruling.ADOPT


def test_asking_keeps_what_is_missing_out_of_the_pool() -> None:
    loss = rule(sampled(7), read(7), NOTHING_SINCE, on_loss="ask")
    gain = rule(sampled(12), read(12), NOTHING_SINCE, on_gain="ask")

    assert (loss.ruling, loss.asked, loss.hold) == (Ruling.ASK, 3, 0)
    assert (gain.ruling, gain.asked, gain.hold) == (Ruling.ASK, 0, 0)


def test_a_bundle_has_no_stock_of_its_own() -> None:
    bundle = replace(LEVEL, is_bundle=True)

    assert rule(bundle, read(7)).hold == 0
    assert rule(sampled(7, bundle), read(7), NOTHING_SINCE).ruling is Ruling.OVERRIDE


def test_the_first_reading_becomes_the_base() -> None:
    first = replace(LEVEL, base=0, is_first_reading=True)

    judgement = rule(first, read(25))

    assert (judgement.ruling, judgement.residue, judgement.hold) == (Ruling.FIRST, 25, 0)


def test_no_plain_reading_tells_what_became_of_a_write() -> None:
    """Six may be ten less a lower by four, or ten less four sold that nobody has told of."""
    judgement = rule(replace(LEVEL, open_delta=-4), read(6))

    assert (judgement.ruling, judgement.push_applied, judgement.hold) == (Ruling.SAMPLED, None, 0)


def test_an_audit_tells_that_a_write_was_applied() -> None:
    judgement = rule(sampled(6, replace(LEVEL, open_delta=-4)), read(6), NOTHING_SINCE)

    assert (judgement.ruling, judgement.push_applied) == (Ruling.EXPLAINED, True)


def test_an_audit_tells_that_a_write_was_not_applied() -> None:
    judgement = rule(sampled(10, replace(LEVEL, open_delta=-4)), read(10), NOTHING_SINCE)

    assert (judgement.ruling, judgement.push_applied) == (Ruling.EXPLAINED, False)


@pytest.mark.parametrize(("open_delta", "residue"), [(-1, -2), (1, -3)])
def test_what_an_edit_beside_a_write_may_be_is_taken_for_what_leaves_less(open_delta: int, residue: int) -> None:
    judgement = rule(sampled(8, replace(LEVEL, open_delta=open_delta)), read(8), NOTHING_SINCE)

    assert (judgement.residue, judgement.is_ambiguous) == (residue, True)


def test_a_gain_that_a_write_of_ours_could_be_is_not_adopted() -> None:
    level = sampled(17, replace(LEVEL, open_delta=5))

    assert rule(level, read(17), NOTHING_SINCE, on_gain="adopt").ruling is Ruling.OVERRIDE


def test_only_what_a_write_cannot_explain_is_held() -> None:
    judgement = rule(replace(LEVEL, open_delta=-4), read(5))

    assert (judgement.ruling, judgement.hold) == (Ruling.SAMPLED, 1)


@pytest.mark.parametrize("reading", [read(None), read(3, is_stocked=False)])
def test_an_item_that_is_not_counted_there_has_nothing_to_judge_once_its_orders_are_known(reading: Reading) -> None:
    level = replace(LEVEL, held=2)

    assert rule(level, reading) == Judgement(Ruling.GONE, hold=2)
    assert rule(replace(level, is_gone=True), reading) == Judgement(Ruling.GONE, hold=2)
    assert rule(replace(level, is_gone=True, is_told=True), reading) == Judgement(Ruling.UNSTOCKED)
    assert rule(replace(LEVEL, is_first_reading=True), reading) == Judgement(Ruling.UNSTOCKED)


def test_an_item_that_is_back_waits_for_the_orders_of_before_too() -> None:
    level = replace(LEVEL, is_gone=True, is_first_reading=True)

    assert rule(level, read(4)).ruling is Ruling.GONE
    assert rule(replace(level, is_told=True), read(4)) == Judgement(Ruling.FIRST, residue=-6)


quantities = st.integers(-50, 50)


@given(
    sample=quantities,
    available=quantities,
    effects=quantities,
    since=quantities,
    open_delta=st.none() | quantities,
    moved=st.booleans(),
)
def test_no_reading_raises_the_pool_by_itself(
    sample: int, available: int, effects: int, since: int, open_delta: int | None, moved: bool
) -> None:
    level = sampled(sample, replace(LEVEL, order_effects=effects, open_delta=open_delta))
    audit = Audit(since, is_ambiguous=False)

    judgement = rule(level, read(available, version=6 if moved else 7), audit)

    assert judgement.hold >= 0
    assert judgement.asked >= 0
    assert judgement.ruling is not Ruling.ADOPT or judgement.residue < 0


@given(edits=quantities, sold_before=st.integers(0, 20), sold_since=st.integers(0, 20), pushed=quantities)
def test_the_residue_is_what_was_edited(edits: int, sold_before: int, sold_since: int, pushed: int) -> None:
    """Whatever was sold before and after the sample, and pushed before it: what remains is the edit."""
    sample = 10 + pushed - sold_before + edits
    level = sampled(sample, replace(LEVEL, pushed=pushed, order_effects=-sold_before - sold_since, version=7))

    judgement = rule(level, read(sample - sold_since, pushed=pushed), Audit(sold_since, is_ambiguous=False))

    assert judgement.residue == edits or (edits == 0 and judgement.ruling is Ruling.EXPLAINED)


# --- writes of unknown outcome that a plain reading tells of ------------------------------------------------------


@pytest.mark.parametrize(
    ("delta", "shown", "expected"),
    [
        (-3, 10, (Ruling.EXPLAINED, False)),  # applied, it would show 7 at most
        (-3, 7, (Ruling.SAMPLED, None)),  # applied, or three sold
        (-3, 9, (Ruling.SAMPLED, None)),
        (3, 13, (Ruling.EXPLAINED, True)),  # not applied, it would show 10 at most
        (3, 10, (Ruling.SAMPLED, None)),  # not applied, or three sold
    ],
)
def test_a_plain_reading_settles_a_write_only_where_sales_cannot_look_so(
    delta: int, shown: int, expected: tuple[Ruling, bool | None]
) -> None:
    judgement = rule(replace(LEVEL, open_delta=delta), read(shown))

    assert (judgement.ruling, judgement.push_applied) == expected


@pytest.mark.parametrize(
    ("shown", "ruling", "residue"),
    [
        (10, Ruling.EXPLAINED, 0),
        (7, Ruling.EXPLAINED, -3),
        (5, Ruling.EXPLAINED, -5),
        (2, Ruling.EXPLAINED, -8),
        (6, Ruling.ADOPT, -4),
        (1, Ruling.ADOPT, -9),
    ],
)
def test_a_lower_that_was_refused_the_second_time_may_have_been_applied(
    shown: int, ruling: Ruling, residue: int
) -> None:
    level = replace(sampled(shown), doubtful_lowers=(Lower(3, NOON), Lower(5, later(1))))

    judgement = rule(level, read(shown), NOTHING_SINCE)

    assert (judgement.ruling, judgement.residue) == (ruling, residue)


def test_what_such_lowers_may_have_taken_is_not_held() -> None:
    level = replace(LEVEL, doubtful_lowers=(Lower(3, later(90)),))

    assert rule(level, read(7)).hold == 0
    assert rule(level, read(5)).hold == 2


def test_a_lower_that_was_opened_after_the_sample_is_not_in_it() -> None:
    level = replace(sampled(7), doubtful_lowers=(Lower(3, later(1000)),))

    judgement = rule(level, read(7), NOTHING_SINCE)

    assert (judgement.ruling, judgement.residue) == (Ruling.ADOPT, -3)


# --- the store's clock --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "ahead"),
    [
        (None, 0),
        (later(100), 0),
        (later(99), -1.0),
        (later(105), 5.0),
        (later(90), -10.0),
    ],
)
def test_a_clock_is_wrong_when_it_must_be(told: datetime | None, ahead: float) -> None:
    """Asked at 100 and answered at 101."""
    assert offset_of_clock(told, later(100), later(101)) == timedelta(seconds=ahead)
