"""Which channels are to be reconciled now, found by SQL: whoever looks, and however often, finds the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings
from django_celery_beat.models import PeriodicTask

from sync import rounds
from sync.models import RunKind, RunState
from synctec.lib import sql

#: The row in the admin whose interval says how often every channel is reconciled; switched off: none is by itself.
SCHEDULE = "sync.tasks.reconcile_all"
#: So many run at once, that the other work of all channels is not kept waiting.
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Due:
    """A channel to be reconciled, and how."""

    channel_id: int
    kind: RunKind


def due(*, now: datetime) -> list[Due]:
    """Passes to go on with, then those to begin, those first that have waited longest."""
    every = interval()
    going_on: list[Due] = []
    beginning: list[tuple[datetime, Due]] = []
    at_work = 0
    for row in sql.rows(
        """
        SELECT channel.id, merchant.quiet_hour, merchant.timezone, last.kind, last.state, last.is_alarming, last.started_at,
            last.finished_at, last.leased_until <= now(), full_sync.started_at
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        LEFT JOIN LATERAL (
            SELECT * FROM sync_reconcilerun run WHERE run.channel_id = channel.id ORDER BY run.id DESC LIMIT 1
        ) last ON true
        LEFT JOIN LATERAL (
            SELECT run.started_at FROM sync_reconcilerun run WHERE run.channel_id = channel.id AND run.kind = 'full'
            ORDER BY run.id DESC LIMIT 1
        ) full_sync ON true
        WHERE channel.state = 'active' AND channel.next_call_at <= now() AND merchant.is_active
        """
    ):
        channel, quiet_hour, clock, kind, state, is_alarming, began_at, ended_at, is_free, full_at = row
        if state == RunState.RUNNING:
            if is_free:
                going_on.append(Due(channel, RunKind(kind)))
            else:
                at_work += 1
            continue
        last = None
        if began_at is not None:
            last = rounds.Last(began_at, ended_at, is_bad=is_alarming or state == RunState.FAILED)
        longest_ago = began_at or datetime.min.replace(tzinfo=UTC)
        if last is not None and rounds.is_full_sync_due(channel, full_at, quiet_hour, _zone(clock), now):
            beginning.append((longest_ago, Due(channel, RunKind.FULL)))
        elif every is not None and rounds.is_due(channel, last, every, now):
            beginning.append((longest_ago, Due(channel, RunKind.PASS)))
    beginning.sort(key=lambda found: (found[0], found[1].channel_id))
    room = max(0, AT_ONCE - at_work - len(going_on))
    return [*going_on, *(found for _, found in beginning[:room])]


def interval() -> timedelta | None:
    """How often every channel is reconciled, as the schedule in the admin says; None: it is switched off."""
    row = PeriodicTask.objects.filter(task=SCHEDULE).select_related("interval").order_by("-enabled", "id").first()
    if row is not None and not row.enabled:
        return None
    if row is not None and row.interval is not None:
        every: timedelta = row.interval.schedule.run_every
        return max(timedelta(seconds=1), every)
    return timedelta(seconds=settings.RECONCILE_EVERY_SECONDS)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
