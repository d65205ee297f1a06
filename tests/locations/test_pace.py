"""How fast things sell, how fast news travels, and the threshold that follows."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locations.pace import (
    LARGEST_SECONDS,
    LONGEST_PROPAGATION_SECONDS,
    PROPAGATION_HALF_LIFE_SECONDS,
    RUSH_SECONDS,
    UNKNOWN_PROPAGATION_SECONDS,
    Propagation,
    Velocity,
    burst,
    grows_materially,
    threshold,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("mean", "at_a_thousandth", "at_a_millionth"),
    [(0.05, 2, 3), (0.2, 3, 5), (0.5, 4, 7), (1, 5, 9), (2, 8, 12), (5, 13, 19)],
)
def test_a_burst_is_that_of_the_table(mean: float, at_a_thousandth: int, at_a_millionth: int) -> None:
    assert burst(mean / 10, 10, risk=1e-3, floor=0) == at_a_thousandth
    assert burst(mean, 1, risk=1e-6, floor=0) == at_a_millionth


def test_what_does_not_sell_has_the_least_burst() -> None:
    assert burst(0, 60) == 2
    assert burst(0, 60, floor=5) == 5


@given(st.floats(0, 2000), st.floats(0, 2000), st.sampled_from([1e-3, 1e-6]))
def test_more_sales_never_lower_the_burst(mean: float, more: float, risk: float) -> None:
    assert burst(mean, 1, risk=risk) <= burst(mean + more, 1, risk=risk)


def test_a_large_burst_is_near_the_normal_one() -> None:
    mean = 10_000
    usual = mean + 3.7 * math.sqrt(mean)

    assert usual <= burst(mean, 1, risk=1e-4) <= usual + 0.01 * mean


@given(
    st.floats(1e-9, 20),
    st.integers(1, 50),
    st.sampled_from([1e-2, 1e-4, 1e-6]),
)
def test_a_burst_of_sales_of_one_size_is_no_larger_but_for_the_risk(sales: float, lot: int, risk: float) -> None:
    units = burst(sales * lot, 1, lot=lot, risk=risk)

    within = math.fsum(math.exp(-sales + k * math.log(sales) - math.lgamma(k + 1)) for k in range(units // lot + 1))
    assert 1 - within < risk * (1 + 1e-6)


def test_one_sale_as_large_as_any_does_not_exceed_the_threshold_however_seldom() -> None:
    assert burst(20 / 86_400 / 365, 60, lot=20) == 20


@pytest.mark.parametrize(
    ("window", "seen", "units"),
    [(0.5, 0, 2), (5, 0, 4), (60, 0, 17), (120, 0, 29), (0.5, 10, 4), (60, 10, 44)],
)
def test_the_threshold_follows_the_news_even_of_what_has_not_sold(window: float, seen: int, units: int) -> None:
    assert threshold(seen / RUSH_SECONDS, window) == units


@given(
    st.floats(0, 400).filter(lambda seen: seen == 0 or seen > 1e-6),
    st.floats(0.01, 600),
    st.sampled_from([1e-2, 1e-4, 1e-6]),
)
def test_sales_at_a_pace_that_was_only_seen_do_not_exceed_the_threshold_but_for_the_risk(
    seen: float, window: float, risk: float
) -> None:
    units = threshold(seen / RUSH_SECONDS, window, risk=risk, floor=0)

    shape, share = seen + 0.5, window / (window + RUSH_SECONDS)
    within = math.fsum(
        math.exp(
            math.lgamma(k + shape)
            - math.lgamma(shape)
            - math.lgamma(k + 1)
            + k * math.log(share)
            + shape * math.log1p(-share)
        )
        for k in range(units + 1)
    )
    assert 1 - within < risk * (1 + 1e-6) + 1e-11


@given(st.floats(0, 100), st.floats(0, 1000), st.integers(1, 50))
def test_the_threshold_is_never_less_than_the_burst(pace: float, window: float, lot: int) -> None:
    assert threshold(pace, window, lot=lot) >= burst(pace, window, lot=lot)


@given(st.floats(0, 100), st.floats(0, 1000), st.floats(0, 1000))
def test_slower_news_never_lowers_the_threshold(pace: float, window: float, more: float) -> None:
    assert threshold(pace, window) <= threshold(pace, window + more)


def test_what_is_not_measured_is_taken_to_be_slow() -> None:
    assert Propagation().seconds == UNKNOWN_PROPAGATION_SECONDS
    assert 0.2 < Propagation().observed(0.2, NOON).seconds < UNKNOWN_PROPAGATION_SECONDS


def test_slow_news_counts_at_once_and_wholly() -> None:
    assert Propagation(0.5, NOON).observed(200, later(1)).seconds == 200
    assert Propagation().observed(200, NOON).seconds == 200


def test_only_what_changes_an_estimate_is_written_down() -> None:
    usual = Propagation(1.0, NOON)

    assert Propagation().is_worth_noting(usual, NOON)
    assert usual.is_worth_noting(usual.observed(2.0, later(1)), later(1))
    assert not usual.is_worth_noting(usual.observed(0.5, later(1)), later(1))
    assert usual.is_worth_noting(usual.observed(0.5, later(60)), later(60))


def test_slow_news_is_forgotten_with_time_and_not_with_traffic() -> None:
    slow = Propagation(100, NOON)
    rush = slow
    for millisecond in range(1000):
        rush = rush.observed(0.1, later(millisecond / 1000))
    later_on = slow.observed(0.1, later(PROPAGATION_HALF_LIFE_SECONDS))

    assert rush.seconds > 99
    assert later_on.seconds == pytest.approx(50)
    assert slow.observed(0.1, later(86_400)).seconds == pytest.approx(50), "silence proves nothing"


@given(st.lists(st.tuples(st.floats(-5, 1e6), st.floats(-100, 1e5)), min_size=1))
def test_an_estimate_stays_within_what_can_be(observations: list[tuple[float, float]]) -> None:
    estimate = Propagation()
    for seconds, moment in observations:
        estimate = estimate.observed(seconds, later(moment))

    assert 0 < estimate.seconds <= LONGEST_PROPAGATION_SECONDS


@pytest.mark.parametrize(
    ("before", "after", "is_material"),
    [(2, 4, True), (3.9, 4.1, True), (4.1, 7.9, False), (4, 4, False), (9, 5, False), (0.3, 0.6, True), (0, 0.1, True)],
)
def test_news_that_becomes_slower_matters_where_it_crosses_a_power_of_two(
    before: float, after: float, is_material: bool
) -> None:
    assert grows_materially(before, after) is is_material


def test_a_rush_is_expected_to_go_on_for_a_while_only() -> None:
    velocity = Velocity()
    for second in range(60):
        velocity = velocity.sold(1, later(second))

    at_once = velocity.units_per_second(later(60))
    assert at_once == pytest.approx(1 - math.exp(-60 / RUSH_SECONDS), rel=0.1)
    assert velocity.units_per_second(later(7200)) < at_once / 50
    assert velocity.weight(later(7200)) > 50


def test_a_large_order_is_expected_again_after_any_silence() -> None:
    velocity = Velocity().sold(20, NOON)

    assert velocity.lot == 20
    assert velocity.sold(1, later(1)).lot == 20
    assert velocity.sold(3, later(LARGEST_SECONDS)).lot == 8


def test_of_sales_that_are_told_together_the_largest_counts() -> None:
    assert Velocity().sold(12, NOON, largest=5).lot == 5
    assert Velocity().lot == 1


def test_what_never_sold_weighs_something() -> None:
    assert Velocity().units_per_second(NOON) == 0
    assert Velocity().weight(NOON) == 1
