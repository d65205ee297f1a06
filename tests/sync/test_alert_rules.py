"""How an alert comes about and ends, without a database."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merchants.models import NoticeKind, Severity
from sync.alerts.questions import QUESTIONS
from sync.alerts.rules import (
    BY_NAME,
    CALM,
    NO_CAUSE,
    RELIEF,
    RULES,
    About,
    Cause,
    News,
    Phase,
    Reading,
    Rule,
    Standing,
    Unit,
    limits_of,
    problem_with,
    step,
)
from synctec.local.datafolder import PROJECT
from tests.factories import NOON, later

LAG = Rule(
    name="lag",
    label="Lag",
    kind="sync",
    about=About.CHANNEL,
    unit=Unit.SECONDS,
    raise_at=60,
    clear_at=10,
    critical_at=600,
    hold=timedelta(seconds=30),
    again=timedelta(hours=1),
    title="{value}",
    means="",
    next_step="",
)
LIMITS = limits_of(LAG, None)


def play(
    *readings: tuple[float, float | None], rule: Rule = LAG, standing: Standing | None = None, cause: Cause = NO_CAUSE
) -> tuple[Standing | None, list[News]]:
    """Steps of (second, value), and what was told."""
    told = []
    for second, value in readings:
        reading = None if value is None else Reading(value)
        standing, news = step(rule, limits_of(rule, None), standing, reading, cause=cause, now=later(second))
        told.append(news)
    return standing, told


def test_what_passes_within_the_hold_time_is_no_alert() -> None:
    standing, told = play((0, 70), (20, 70), (29, 5))

    assert standing is None
    assert told == [News.NONE] * 3


def test_what_lasts_is_raised_once() -> None:
    standing, told = play((0, 70), (30, 90), (60, 80), (90, 75))

    assert standing is not None
    assert (standing.phase, standing.since, standing.raised_at) == (Phase.FIRING, NOON, later(30))
    assert (standing.value, standing.worst) == (75, 90)
    assert told == [News.NONE, News.RAISED, News.NONE, News.NONE]


def test_between_the_two_thresholds_nothing_changes() -> None:
    standing, told = play((0, 70), (30, 70), *[(60 + 30 * turn, 59 if turn % 2 else 61) for turn in range(100)])

    assert standing is not None
    assert standing.phase is Phase.FIRING
    assert told.count(News.RAISED) == 1
    assert News.RECOVERED not in told


def test_it_ends_when_it_has_been_better_for_a_while_without_a_break() -> None:
    calm = CALM.total_seconds()
    firing, _ = play((0, 70), (30, 70), (60, 5), (60 + calm - 1, 30), (60 + calm, 5))
    ended, told = play((60 + 2 * calm - 1, 5), (60 + 2 * calm, 5), standing=firing)

    assert firing is not None
    assert firing.phase is Phase.FIRING
    assert ended is not None
    assert (ended.phase, told) == (Phase.RECOVERED, [News.NONE, News.RECOVERED])


def test_a_subject_that_is_not_named_any_more_is_well() -> None:
    standing, told = play((0, 70), (30, 70), (60, None), (60 + CALM.total_seconds(), None))

    assert standing is not None
    assert (standing.phase, told[-1]) == (Phase.RECOVERED, News.RECOVERED)


def test_becoming_critical_is_told_even_if_somebody_has_acknowledged_it() -> None:
    firing, _ = play((0, 70), (30, 70))
    assert firing is not None

    standing, told = play((60, 600), (90, 700), standing=replace(firing, phase=Phase.ACKNOWLEDGED))

    assert standing is not None
    assert (standing.severity, told) == ("critical", [News.AGAIN, News.NONE])


def test_a_severity_does_not_fall_while_the_alert_is_open() -> None:
    standing, told = play((0, 600), (30, 600), (60, 70), (90, 601))

    assert standing is not None
    assert standing.severity == "critical"
    assert told.count(News.AGAIN) == 0


class TestGrowth:
    HOUR = 3600.0

    def test_what_has_grown_is_told_again_after_a_while(self) -> None:
        _, told = play((0, 70), (30, 70), (60, 90), (self.HOUR, 95), (self.HOUR + 31, 95), (2 * self.HOUR, 99))

        assert told == [News.NONE, News.RAISED, News.NONE, News.NONE, News.AGAIN, News.NONE]

    def test_what_has_not_grown_is_not(self) -> None:
        _, told = play((0, 70), (30, 70), (self.HOUR * 5, 70))

        assert told[-1] is News.NONE

    def test_a_new_part_counts_as_growth_and_a_changed_word_does_not(self) -> None:
        rule = LAG
        standing: Standing | None = None
        told = []
        for second, members in (
            (0, (("MUG", "2 left"),)),
            (30, (("MUG", "2 left"),)),
            (4000, (("MUG", "1 left"),)),
            (4030, (("TEE", "1 left"),)),
        ):
            standing, news = step(rule, LIMITS, standing, Reading(70, members), cause=NO_CAUSE, now=later(second))
            told.append(news)

        assert told == [News.NONE, News.RAISED, News.NONE, News.AGAIN]

    def test_an_acknowledged_one_is_not_told_again(self) -> None:
        firing, _ = play((0, 70), (30, 70))
        assert firing is not None
        known = replace(firing, phase=Phase.ACKNOWLEDGED)

        _, told = play((self.HOUR * 5, 500), standing=known)

        assert told == [News.NONE]


class TestSnooze:
    def test_nothing_is_told_until_then_and_what_is_left_is_told_then(self) -> None:
        firing, _ = play((0, 70), (30, 70))
        assert firing is not None
        snoozed = replace(firing, snoozed_until=later(1000))

        _, told = play((60, 700), (999, 700), (1000, 80), (1030, 80), standing=snoozed)

        assert told == [News.NONE, News.NONE, News.AGAIN, News.NONE]


class TestCauses:
    def test_what_follows_from_another_alert_is_told_to_nobody(self) -> None:
        standing, told = play((0, 70), (30, 70), (5000, 900), cause=Cause("outage channel:1"))

        assert standing is not None
        assert (standing.phase, standing.cause) == (Phase.FIRING, "outage channel:1")
        assert set(told) == {News.NONE}

    def test_it_waits_while_a_cause_may_come(self) -> None:
        standing, _ = play((0, 70), (300, 70), cause=Cause(may_come=True))

        assert standing is not None
        assert standing.phase is Phase.PENDING

    def test_what_outlasts_its_cause_is_told_after_some_relief(self) -> None:
        under, _ = play((0, 70), (30, 70), cause=Cause("outage channel:1"))
        relief = RELIEF.total_seconds()

        standing, told = play((100, 70), (100 + relief - 1, 70), (100 + relief, 70), standing=under)

        assert standing is not None
        assert standing.cause == ""
        assert told == [News.NONE, News.NONE, News.RAISED]

    def test_what_ends_with_its_cause_says_nothing_of_its_end(self) -> None:
        under, _ = play((0, 70), (30, 70), cause=Cause("outage channel:1"))

        standing, told = play((100, 5), (100 + CALM.total_seconds(), 5), standing=under)

        assert standing is not None
        assert (standing.phase, set(told)) == (Phase.RECOVERED, {News.NONE})


def test_a_rule_that_is_switched_off_ends_without_a_word() -> None:
    firing, _ = play((0, 70), (30, 70))

    standing, news = step(LAG, limits_of(LAG, {"is_on": False}), firing, Reading(70), cause=NO_CAUSE, now=later(60))

    assert standing is not None
    assert (standing.phase, news) == (Phase.RECOVERED, News.NONE)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.one_of(st.none(), st.floats(0, 1000))), max_size=60),
    st.sampled_from([LAG, BY_NAME["accuracy"], BY_NAME["token_expiring"]]),
)
def test_people_hear_of_beginning_and_end_in_turn(steps: list[tuple[int, float | None]], rule: Rule) -> None:
    """Raised, perhaps again, recovered, and from the beginning; and the same reading twice changes nothing."""
    standing: Standing | None = None
    second, is_told = 0, False
    for pause, value in steps:
        second += pause
        reading = None if value is None else Reading(value)
        if standing is not None and standing.phase is Phase.RECOVERED:
            standing = None
        standing, news = step(rule, limits_of(rule, None), standing, reading, cause=NO_CAUSE, now=later(second))
        if standing is not None and standing.phase is not Phase.RECOVERED:
            assert step(rule, limits_of(rule, None), standing, reading, cause=NO_CAUSE, now=later(second)) == (
                standing,
                News.NONE,
            )
        assert news is not News.RAISED or not is_told
        assert news not in (News.AGAIN, News.RECOVERED) or is_told
        is_told = news is News.RAISED or (is_told and news is not News.RECOVERED)


class TestLimits:
    def test_a_merchants_wishes_go_before_what_is_shipped(self) -> None:
        limits = limits_of(LAG, {"raise_at": 120, "clear_at": None, "hold_seconds": 0})

        assert (limits.raise_at, limits.clear_at, limits.hold) == (120, 10, timedelta(0))

    @pytest.mark.parametrize(
        ("override", "field"),
        [({"clear_at": 60}, "clear_at"), ({"clear_at": 90}, "clear_at"), ({"critical_at": 30}, "critical_at")],
    )
    def test_senseless_ones_are_named(self, override: dict[str, float], field: str) -> None:
        problem = problem_with(LAG, limits_of(LAG, override))

        assert problem is not None
        assert problem[0] == field

    def test_where_small_numbers_are_bad_it_is_the_other_way_round(self) -> None:
        accuracy = BY_NAME["accuracy"]

        assert problem_with(accuracy, limits_of(accuracy, {"clear_at": 99})) is not None
        assert problem_with(accuracy, limits_of(accuracy, {"critical_at": 99.9})) is not None
        assert problem_with(accuracy, limits_of(accuracy, {"raise_at": 98, "clear_at": 99})) is None


class TestShipped:
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_a_rule_is_whole(self, rule: Rule) -> None:
        assert rule.name in QUESTIONS
        assert problem_with(rule, limits_of(rule, None)) is None
        assert rule.kind in NoticeKind.values
        assert rule.severity in Severity.values
        assert rule.title.format(who="x", value="1")
        assert rule.means
        assert rule.next_step
        earlier = {other.name for other in RULES[: RULES.index(rule)]}
        assert set(rule.causes) <= earlier, "causes come before what follows from them"

    def test_every_question_has_its_rule(self) -> None:
        assert set(QUESTIONS) == set(BY_NAME)

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    def test_the_runbook_says_what_to_do(self, rule: Rule) -> None:
        runbook = (PROJECT / "docs/runbook.md").read_text()
        headings = re.findall(r"^#+ (.+)$", runbook, re.MULTILINE)

        assert rule.anchor in {re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-")) for heading in headings}
