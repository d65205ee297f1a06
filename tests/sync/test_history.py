"""What is kept of days gone by."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from channels.models import InboxEvent
from merchants.models import Merchant
from sync import history, scorecard
from sync.history import Period, keep_days, look
from sync.models import ScorecardDay
from sync.score import Facts
from tests.factories import Trade, make_trade
from tests.sync.happened import event

pytestmark = pytest.mark.django_db

#: A quarter past midnight in Berlin, when it is still the day before in UTC.
NOW = datetime(2126, 7, 15, 22, 15, tzinfo=UTC)
DAY = date(2126, 7, 15)


@pytest.fixture
def trade() -> Trade:
    trade = make_trade()
    Merchant.objects.update(timezone="Europe/Berlin", created_at=NOW - timedelta(days=3))
    trade.merchant.refresh_from_db()
    return trade


def events_of(trade: Trade, day: date) -> dict[int | None, int]:
    kept = history.days(trade.merchant, first=day, last=day)
    return {channel: facts.events for channel, facts in kept.get(day, {}).items() if facts.events}


def test_a_day_is_the_merchants_own_and_kept_by_channel_once_it_is_over(trade: Trade) -> None:
    north, south = trade.shops["north"], trade.shops["south"]
    for shop, hours in ((north, 0.5), (north, 24.2), (south, 1), (north, 24.3), (south, 0.1)):
        event(shop, NOW - timedelta(hours=hours))

    assert keep_days(now=NOW) == 3

    assert events_of(trade, DAY) == {None: 3, north.channel.pk: 2, south.channel.pk: 1}
    assert events_of(trade, DAY - timedelta(days=1)) == {None: 1, north.channel.pk: 1}
    assert events_of(trade, DAY + timedelta(days=1)) == {}


def test_a_day_whose_facts_are_partly_forgotten_is_not_written_anew(trade: Trade, settings: Any) -> None:
    Merchant.objects.update(created_at=NOW - timedelta(days=200))
    settings.TRAFFIC_DAYS = 40

    assert keep_days(now=NOW, back=100, anew=True) == 39
    settings.TRAFFIC_DAYS = settings.FINDING_DAYS = 0
    assert keep_days(now=NOW, back=100, anew=True) == 100


def test_keeping_days_again_changes_nothing(trade: Trade) -> None:
    event(trade.shops["north"], NOW - timedelta(hours=5))
    keep_days(now=NOW)
    before = list(ScorecardDay.objects.order_by("pk").values())

    assert keep_days(now=NOW) == 0
    assert list(ScorecardDay.objects.order_by("pk").values()) == before
    assert keep_days(now=NOW, anew=True) == 3
    assert list(ScorecardDay.objects.order_by("pk").values()) == before


def test_a_day_is_read_again_while_late_facts_may_change_it(trade: Trade) -> None:
    keep_days(now=NOW)
    event(trade.shops["north"], NOW - timedelta(hours=5))

    assert keep_days(now=NOW + timedelta(hours=1)) == 0
    assert keep_days(now=NOW + timedelta(hours=7)) == 2
    assert events_of(trade, DAY)[None] == 1
    assert keep_days(now=NOW + timedelta(days=40)) > 0
    event(trade.shops["north"], NOW - timedelta(hours=6))
    keep_days(now=NOW + timedelta(days=40, hours=8))
    assert events_of(trade, DAY)[None] == 1, "its time is over"


def test_a_day_whose_events_are_gone_is_not_forgotten(trade: Trade) -> None:
    event(trade.shops["north"], NOW - timedelta(hours=5))
    keep_days(now=NOW)
    InboxEvent.objects.all().delete()

    keep_days(now=NOW, anew=True)

    assert events_of(trade, DAY)[None] == 1


def test_a_week_is_its_days_and_what_today_has_brought(trade: Trade) -> None:
    for hours in (0.1, 1, 25, 49):
        event(trade.shops["north"], NOW - timedelta(hours=hours))
    keep_days(now=NOW)
    event(trade.shops["south"], NOW - timedelta(hours=30))  # after its day was kept

    week = look(trade.merchant, Period.WEEK, now=NOW)

    assert week.card[None].events == 4
    assert week.days_missing == 0
    ScorecardDay.objects.filter(day=DAY).delete()
    assert look(trade.merchant, Period.WEEK, now=NOW).days_missing == 1
    assert look(trade.merchant, Period.DAY, now=NOW).card[None].events == 2


def test_one_merchant_that_fails_keeps_no_other_from_its_days(trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_trade("Birch").merchant
    Merchant.objects.filter(pk=other.pk).update(created_at=NOW - timedelta(days=1))
    read = scorecard.facts

    def broken(merchants: list[int], *, since: datetime, until: datetime) -> dict[int | None, Facts]:
        if trade.merchant.pk in merchants:
            raise ArithmeticError("as the test wants it")
        return read(merchants, since=since, until=until)

    monkeypatch.setattr(scorecard, "facts", broken)

    assert keep_days(now=NOW) == 1
    assert set(ScorecardDay.objects.values_list("merchant_id", flat=True)) == {other.pk}
