"""What the scorecard learns of outages and calls, and what it says where they are not kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from channels.models import Channel
from sync import outages, scorecard
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db

#: In the connection's own schema, which is looked into first: whether the installation keeps them or not.
TABLES = """
    CREATE TEMPORARY TABLE channels_outage (channel_id bigint, began_at timestamptz, ended_at timestamptz, cause text);
    CREATE TEMPORARY TABLE channels_callhour (channel_id bigint, hour timestamptz, calls int, throttled int)
"""


@pytest.fixture
def trade() -> Trade:
    trade = make_trade()
    Channel.objects.update(created_at=timezone.now() - timedelta(days=1))
    return trade


def test_nothing_is_said_of_what_is_not_kept(trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_TABLES", "SELECT false")
    now = timezone.now()

    assert outages.answering([trade.merchant.pk], since=now - timedelta(hours=1), until=now) == {}


def test_outages_and_calls_of_the_span_add_up(trade: Trade) -> None:
    now = timezone.now()
    since = now - timedelta(hours=10)
    north, south = trade.shops["north"].channel, trade.shops["south"].channel
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        for began, ended, cause in (
            (11, 9.5, "server_error"),  # half an hour of it
            (5, 4, "closed"),
            (0.25, None, "no_answer"),  # still going on
            (20, 15, "no_answer"),
        ):
            cursor.execute(
                "INSERT INTO channels_outage VALUES (%s, %s, %s, %s)",
                [
                    north.pk,
                    now - timedelta(hours=began),
                    None if ended is None else now - timedelta(hours=ended),
                    cause,
                ],
            )
        for hours, calls, throttled in ((3, 100, 2), (2, 50, 1), (30, 999, 999)):
            cursor.execute(
                "INSERT INTO channels_callhour VALUES (%s, %s, %s, %s)",
                [north.pk, now - timedelta(hours=hours), calls, throttled],
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
