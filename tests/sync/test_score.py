"""Facts add up, and figures say what they mean."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import score
from sync.score import NOTHING, Attended, Facts, Figure, Standing, Waits, from_json, judge, latency_class, percentile

COUNTS = st.integers(0, 1000)


@st.composite
def some_facts(draw: st.DrawFn) -> Facts:
    """Facts as a span of time could have them."""
    return Facts(
        latency=draw(st.dictionaries(st.integers(0, 400), st.integers(1, 50), max_size=5)),
        still_waiting=draw(COUNTS),
        levels_compared=draw(COUNTS),
        levels_differing=draw(COUNTS),
        drifts=draw(COUNTS),
        units_sold=draw(COUNTS),
        units_short=draw(COUNTS),
        events=draw(COUNTS),
        attended=draw(
            st.dictionaries(st.sampled_from(["receiver", "workers"]), st.builds(Attended, COUNTS, COUNTS), max_size=2)
        ),
        channel_seconds=draw(st.none() | COUNTS),
        calls=draw(st.none() | COUNTS),
        buffer_hours=draw(COUNTS),
        buffer_levels=draw(COUNTS),
        buffer_used=draw(COUNTS),
        buffer_size=draw(COUNTS),
    )


def figure(facts: Facts, key: str, *, waits: Waits | None = None, days: float = 1.0) -> Figure:
    return next(one for one in judge(facts, waits, days=days) if one.key == key)


@given(some_facts(), some_facts(), some_facts())
def test_days_add_up_to_the_same_month_in_any_order(one: Facts, two: Facts, three: Facts) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + NOTHING == one


@given(some_facts())
def test_facts_are_kept_whole(facts: Facts) -> None:
    assert from_json(json.loads(json.dumps(facts.as_json()))) == facts


def test_facts_that_a_newer_version_kept_are_left_out() -> None:
    assert from_json({"events": 3, "of_tomorrow": 1}) == Facts(events=3)


@given(st.lists(st.floats(0.001, 100_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_is_never_too_low_and_five_percent_too_high_at_most(seconds: list[float], share: float) -> None:
    counted: dict[int, int] = {}
    for one in seconds:
        counted[latency_class(one)] = counted.get(latency_class(one), 0) + 1
    ordered = sorted(seconds)
    exact = ordered[max(0, -int(-(share * len(ordered)) // 1) - 1)]

    found = percentile(counted, share)

    assert found is not None
    assert exact * (1 - 1e-6) <= found <= exact * score.LATENCY_STEP * (1 + 1e-6)


def test_nothing_that_was_not_measured_is_shown_as_good() -> None:
    figures = {one.key: one for one in judge(NOTHING, Waits())}

    unknown = {key for key, one in figures.items() if one.standing is Standing.UNKNOWN}
    assert unknown == set(figures) - {"overselling", "queue_lag", "dead_letters"}
    assert {figures[key].standing_said for key in unknown} == {"not measured yet"}


@pytest.mark.parametrize(
    ("seconds", "standing"),
    [(0.8, Standing.OK), (29, Standing.OK), (45, Standing.INVESTIGATE), (90, Standing.BAD)],
)
def test_latency_is_judged_by_its_target(seconds: float, standing: Standing) -> None:
    found = figure(Facts(latency={latency_class(seconds): 1}), "latency_p99")

    assert found.standing is standing
    assert bool(found.advice) is (standing is not Standing.OK)


def test_a_sale_that_is_still_on_its_way_is_told() -> None:
    assert "2 still on the way" in figure(Facts(latency={10: 5}, still_waiting=2), "latency_p50").detail


@pytest.mark.parametrize(("differing", "standing"), [(5, Standing.OK), (6, Standing.INVESTIGATE), (21, Standing.BAD)])
def test_accuracy_is_the_share_of_compared_levels_that_were_right(differing: int, standing: Standing) -> None:
    found = figure(Facts(levels_compared=1000, levels_differing=differing), "accuracy")

    assert found.value == pytest.approx(1 - differing / 1000)
    assert found.standing is standing
    assert found.detail == f"{differing} of 1\u202f000 levels differed"


def test_a_single_wrong_level_in_a_million_is_not_rounded_away() -> None:
    assert figure(Facts(levels_compared=1_000_000, levels_differing=1), "accuracy").said == "over 99.99 %"
    assert figure(Facts(events=1_000_000, events_dead=1), "errors").said == "under 0.01 %"


def test_units_sold_beyond_stock_are_bad_while_they_lack_and_worth_a_look_afterwards() -> None:
    lacking = Facts(units_sold=200, units_short=1, units_short_open=1, shortages=1)

    assert figure(lacking, "overselling").standing is Standing.BAD
    assert figure(lacking, "overselling").said == "0.5 %"
    assert figure(replace(lacking, units_short_open=0), "overselling").standing is Standing.INVESTIGATE
    assert figure(Facts(units_sold=200), "overselling").standing is Standing.OK


@pytest.mark.parametrize(("up", "standing"), [(1440, Standing.OK), (1430, Standing.INVESTIGATE), (1400, Standing.BAD)])
def test_uptime_is_minutes_present_of_minutes_watched(up: int, standing: Standing) -> None:
    found = figure(Facts(attended={"workers": Attended(up, 1440)}), "uptime_workers")

    assert found.standing is standing
    assert figure(Facts(attended={"workers": Attended(up, 1440)}), "uptime_beat").standing is Standing.UNKNOWN


def test_a_buffer_says_whether_it_is_too_small() -> None:
    facts = Facts(
        buffer_hours=24, buffer_levels=3, buffer_entered=12, buffer_below_zero=2, buffer_used=5, buffer_size=5
    )

    found = figure(facts, "buffers")

    assert found.said == "too small: ate into it 12 times, went below 0 twice"
    assert found.standing is Standing.INVESTIGATE


def test_a_buffer_is_called_too_large_only_after_a_week() -> None:
    facts = Facts(buffer_hours=720, buffer_levels=3, buffer_entered=1, buffer_used=1, buffer_size=5)

    assert figure(facts, "buffers", days=30).said == "too large: never used more than 1 of 5 in 30 days"
    assert figure(facts, "buffers", days=1).standing is Standing.OK
    assert figure(replace(facts, buffer_used=0, buffer_entered=0), "buffers", days=30).said == (
        "too large: never used any of it in 30 days"
    )
    assert figure(replace(facts, buffer_used=3), "buffers", days=30).said == "right: ate into it once, 3 of 5 at most"


def test_the_queue_is_as_late_as_its_oldest_part() -> None:
    waits = Waits(oldest_event=2.0, oldest_write=75.0, pending_events=1)

    found = figure(NOTHING, "queue_lag", waits=waits)

    assert (found.value, found.standing) == (75.0, Standing.BAD)
    assert found.detail == "the oldest is a write; 1 event waits"


@pytest.mark.parametrize(("count", "standing"), [(0, Standing.OK), (3, Standing.INVESTIGATE), (10, Standing.BAD)])
def test_dead_letters_are_counted(count: int, standing: Standing) -> None:
    assert figure(NOTHING, "dead_letters", waits=Waits(dead_letters=count)).standing is standing


def test_calls_and_breakers_are_judged_once_they_are_measured() -> None:
    facts = Facts(channel_seconds=86_400, channel_down_seconds=10, breaker_seconds=5, calls=1000, calls_throttled=20)

    assert figure(facts, "uptime_connector").standing is Standing.OK
    assert figure(facts, "rate_limits").standing is Standing.INVESTIGATE
    assert figure(facts, "breaker").said == "5.00 s"
    assert figure(facts, "breaker").standing is Standing.INVESTIGATE


def test_the_gravest_standing_is_the_verdict() -> None:
    assert score.gravest([Standing.OK, Standing.BAD, Standing.UNKNOWN]) is Standing.BAD
    assert score.gravest([Standing.UNKNOWN, Standing.OK]) is Standing.OK
    assert score.gravest([]) is Standing.UNKNOWN
