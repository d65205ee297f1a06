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
            WHERE level.suspect_since IS NOT NULL OR level.is_out_of_sync)
"""
#: Quiet for this long is quiet: a webhook may still be on its way when the tables are empty.
STILL_SECONDS = 1.0


def open_work() -> int:
    """How many rows wait for the engine."""
    return int(sql.rows(OPEN_WORK, [])[0][0])


def wait(*, timeout_seconds: float) -> bool:
    """Wait until there has been nothing to do for a moment; False when that did not come in time."""
    deadline = time.monotonic() + timeout_seconds
    still_since: float | None = None
    while time.monotonic() < deadline:
        if open_work():
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
            return wait(timeout_seconds=deadline - time.monotonic())
        for channel_id in set(channels) - done - under_way:
            tasks.ring_reconcile(channel_id)
        time.sleep(1.0)
    return False
