"""Waiting until the engine has nothing left to do: for the auditor, the measurements and the tests of whole journeys."""

from __future__ import annotations

import time

from django.db.models import Max

from channels.models import Channel, ChannelState
from sync import tasks
from sync.models import ReconcileRun, RunState
from synctec.lib import sql

#: Counts the rows that wait for the engine.
OPEN_WORK = """
    SELECT (SELECT count(*) FROM channels_inboxevent WHERE state = 'pending')
        + (SELECT count(*) FROM sync_dirtysku)
        + (SELECT count(*) FROM channels_push WHERE state = 'open')
        + (SELECT count(*) FROM channels_listinglevel level
            JOIN channels_channel channel ON channel.id = level.channel_id AND channel.state = 'active'
            WHERE level.suspect_since IS NOT NULL OR (level.is_out_of_sync AND NOT channel.is_shadow))
"""
#: Counts those of them that wait for time alone: a raise that was given up may still come true, is not asked for on top, and
#: is audited once it cannot; after an alarm raises wait for a clean reconciliation.
IN_DOUBT = """
    SELECT count(*) FROM channels_listinglevel level
    JOIN channels_channel channel ON channel.id = level.channel_id AND channel.state = 'active'
    WHERE level.is_out_of_sync AND NOT channel.is_shadow AND level.suspect_since IS NULL AND level.desired > level.shown
            AND (level.doubtful_by > 0 OR channel.raises_paused_at IS NOT NULL)
        OR level.suspect_since IS NOT NULL AND level.doubtful_by > 0 AND level.doubtful_until <= now()
"""
#: Quiet for this long is quiet: a webhook may still be on its way when the tables are empty.
STILL_SECONDS = 1.0


def open_work() -> int:
    """How many rows wait for the engine."""
    return int(sql.rows(OPEN_WORK, [])[0][0])


def in_doubt() -> int:
    """How many of them wait for the end of a doubt (some minutes) and for nothing else."""
    return int(sql.rows(IN_DOUBT, [])[0][0])


def wait(*, timeout_seconds: float, but_for_doubts: bool = False) -> bool:
    """Wait until there has been nothing to do for a moment; False when that did not come in time."""
    deadline = time.monotonic() + timeout_seconds
    still_since: float | None = None
    while time.monotonic() < deadline:
        if open_work() - (in_doubt() if but_for_doubts else 0) > 0:
            still_since = None
        elif still_since is None:
            still_since = time.monotonic()
        elif time.monotonic() - still_since >= STILL_SECONDS:
            return True
        time.sleep(0.2)
    return False


def reconcile_all_now(*, timeout_seconds: float) -> bool:
    """Have every active channel reconciled by the workers and wait for it; False when one did not finish in time."""
    channels = list(Channel.objects.filter(state=ChannelState.ACTIVE).values_list("id", flat=True))
    newest = ReconcileRun.objects.aggregate(newest=Max("id"))["newest"] or 0
    deadline = time.monotonic() + timeout_seconds
    done: set[int] = set()
    while time.monotonic() < deadline:
        runs = ReconcileRun.objects.filter(id__gt=newest, channel_id__in=channels)
        done = set(runs.filter(state=RunState.DONE).values_list("channel_id", flat=True))
        under_way = set(runs.filter(state=RunState.RUNNING).values_list("channel_id", flat=True))
        if done.issuperset(channels):
            return wait(timeout_seconds=deadline - time.monotonic(), but_for_doubts=True)
        for channel_id in set(channels) - done - under_way:
            tasks.ring_reconcile(channel_id)
        time.sleep(1.0)
    return False
