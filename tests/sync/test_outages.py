"""What the scorecard learns of outages and calls."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from channels.models import CallHour, Channel, Outage
from sync import outages, scorecard
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def trade() -> Trade:
    trade = make_trade()
    Channel.objects.update(created_at=timezone.now() - timedelta(days=1))
    return trade


def test_outages_and_calls_of_the_span_add_up(trade: Trade) -> None:
    now = timezone.now()
    since = now - timedelta(hours=10)
    north, south = trade.shops["north"].channel, trade.shops["south"].channel
    for began, ended, cause in (
        (20, 15, "no_answer"),
        (11, 9.5, "server_error"),  # half an hour of it
        (5, 4, "closed"),
        (0.25, None, "no_answer"),  # still going on
    ):
        Outage.objects.create(
            merchant=trade.merchant,
            channel=north,
            began_at=now - timedelta(hours=began),
            ended_at=None if ended is None else now - timedelta(hours=ended),
            cause=cause,
        )
    for hours, calls, throttled in ((3, 100, 2), (2, 50, 1), (30, 999, 999)):
        CallHour.objects.create(
            merchant=trade.merchant,
            channel=north,
            hour=now - timedelta(hours=hours),
            urgency=0,
            calls=calls,
            throttled=throttled,
        )

    told = outages.answering([trade.merchant.pk], since=since, until=now)

    of_north = told[north.pk]
    assert of_north.seconds == pytest.approx(36_000, abs=1)
    assert of_north.down_seconds == pytest.approx(1800 + 3600 + 900, abs=1)
    assert of_north.breaker_seconds == pytest.approx(1800 + 900, abs=1)
    assert (of_north.calls, of_north.calls_throttled) == (150, 3)
    assert (told[south.pk].down_seconds, told[south.pk].calls) == (0, 0)
    whole = scorecard.facts([trade.merchant.pk], since=since, until=now)[None]
    assert whole.channel_seconds == pytest.approx(72_000, abs=2)
    assert (whole.calls, whole.calls_throttled) == (150, 3)
