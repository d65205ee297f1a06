"""The days of the scorecard: a row per merchant, channel and day, so that a month costs thirty rows to show.

A day is the merchant's own, by its clock. It is written when it is over, and written again while late writes and
coverings may still change it; anybody may have it written anew for as long as its facts exist.

Invariant: a day is a function of stored facts, so writing it twice changes nothing; one whose events are partly gone already
never replaces one that has seen them.
"""

from __future__ import annotations

import enum
import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Final

from merchants.access import clock_of
from merchants.models import Merchant
from sync import retention, scorecard
from sync.models import ScorecardDay
from sync.score import NOTHING, Facts, Figure, Waits, from_json, judge
from synctec.lib import sql
from synctec.lib.alone import alone

#: So far back days that are missing are written.
KEPT_BACK_DAYS: Final = 30
#: A day is read again so often, until this long after its end.
AGAIN_EVERY: Final = timedelta(hours=6)
SETTLED_AFTER: Final = scorecard.LATEST_WRITE


class Period(enum.StrEnum):
    """How far back the scorecard looks."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"

    @property
    def said(self) -> str:
        return {"hour": "last hour", "day": "last day", "week": "7 days", "month": "30 days"}[self]

    @property
    def days(self) -> float:
        return {"hour": 1 / 24, "day": 1.0, "week": 7.0, "month": 30.0}[self]


@dataclass(frozen=True, slots=True)
class Look:
    """A period of a merchant as it was found: its facts by channel (`None`: the whole), and since when."""

    card: scorecard.Card
    since: datetime
    until: datetime
    days_missing: int = 0


def look(merchant: Merchant, period: Period, *, now: datetime) -> Look:
    """A merchant's facts of a period that ends now. Hours and a day are read; of more days those that are over are rows.

    Raises:
        OperationalError: the database is away.
    """
    if period in (Period.HOUR, Period.DAY):
        since = now - timedelta(days=period.days)
        return Look(scorecard.facts([merchant.pk], since=since, until=now), since, now)
    today = local_day(merchant, now)
    first = today - timedelta(days=round(period.days) - 1)
    since, begun = begin_of(merchant, first), begin_of(merchant, today)
    kept = days(merchant, first=first, last=today - timedelta(days=1))
    card: dict[int | None, Facts] = defaultdict(lambda: NOTHING)
    for channels in (*kept.values(), scorecard.facts([merchant.pk], since=begun, until=now)):
        for channel, facts in channels.items():
            card[channel] += facts
    lived = max(0, (today - max(first, local_day(merchant, merchant.created_at))).days)
    return Look(dict(card), since, now, days_missing=max(0, lived - len(kept)))


def figures(merchant: Merchant, period: Period, *, channel_id: int | None = None, now: datetime) -> tuple[Figure, ...]:
    """Every figure of a merchant, or of one of its channels, over a period that ends now."""
    found = look(merchant, period, now=now).card.get(channel_id, NOTHING)
    waits = scorecard.waits([merchant.pk], now=now)
    return judge(found, waits.get(channel_id, Waits()), days=period.days)


def days(merchant: Merchant, *, first: date, last: date) -> dict[date, dict[int | None, Facts]]:
    """What is kept of these days (both included), by day and channel."""
    kept: dict[date, dict[int | None, Facts]] = defaultdict(dict)
    for row in ScorecardDay.objects.filter(merchant=merchant, day__gte=first, day__lte=last).order_by("day"):
        kept[row.day][row.channel_id] = from_json(row.facts)
    return dict(kept)


def keep_days(*, now: datetime, back: int = KEPT_BACK_DAYS, anew: bool = False) -> int:
    """Write the days that are over and not kept yet, or not for good; `anew`: all of them. Returns how many."""
    written = 0
    for merchant in Merchant.objects.order_by("pk"):
        for day in _wanted(merchant, now, back, anew):
            written += alone("keep a day", partial(_keep, merchant, day, now), merchant_id=merchant.pk) or 0
    return written


def _wanted(merchant: Merchant, now: datetime, back: int, anew: bool) -> list[date]:
    today = local_day(merchant, now)
    first = max(today - timedelta(days=retention.facts_reach_back(back)), local_day(merchant, merchant.created_at))
    over = [first + timedelta(days=number) for number in range(max(0, (today - first).days))]
    if anew:
        return over
    kept: Mapping[date, datetime] = dict(
        ScorecardDay.objects.filter(merchant=merchant, channel=None, day__gte=first).values_list("day", "computed_at")
    )
    return [day for day in over if day not in kept or _is_due(end_of(merchant, day), kept[day], now)]


def _is_due(ended_at: datetime, computed_at: datetime, now: datetime) -> bool:
    """Whether a day that is kept may have changed since."""
    return computed_at < ended_at + SETTLED_AFTER and now - computed_at >= AGAIN_EVERY


def _keep(merchant: Merchant, day: date, now: datetime) -> int:
    card = scorecard.facts([merchant.pk], since=begin_of(merchant, day), until=end_of(merchant, day))
    channels: Collection[int | None] = sorted(card, key=lambda channel: channel or 0)
    sql.execute(
        """
        INSERT INTO sync_scorecardday (merchant_id, channel_id, day, facts, computed_at)
        SELECT %s, told.channel, %s, told.facts, %s FROM unnest(%s::bigint[], %s::jsonb[]) AS told (channel, facts)
        ON CONFLICT (merchant_id, day, channel_id) DO UPDATE SET facts = excluded.facts, computed_at = excluded.computed_at
        WHERE coalesce((excluded.facts ->> 'events')::bigint, 0)
            >= coalesce((sync_scorecardday.facts ->> 'events')::bigint, 0)
        """,
        [merchant.pk, day, now, list(channels), [json.dumps(card[channel].as_json()) for channel in channels]],
    )
    return 1


def local_day(merchant: Merchant, moment: datetime) -> date:
    """Which day it is for the merchant then."""
    return moment.astimezone(clock_of(merchant)).date()


def begin_of(merchant: Merchant, day: date) -> datetime:
    """When a day begins for the merchant."""
    return datetime.combine(day, time.min, tzinfo=clock_of(merchant))


def end_of(merchant: Merchant, day: date) -> datetime:
    """When a day ends for the merchant: where clocks change it is an hour longer or shorter."""
    return begin_of(merchant, day + timedelta(days=1))
