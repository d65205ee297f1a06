"""How long what is over is kept: once a day, rows that nothing needs any more are deleted, some hundred at a time.

What the books stand on stays for ever: events, movements, order lines, confirmed writes, and findings by which stock was
changed. What is open stays, however old: a letter that lives, a question, a hold of changes. What something else
still names stays until that is gone. So whatever `sync.invariants` asks for is there, before and after.

Each batch is a transaction of its own that waits for nobody's row: two at work at once share what there is to do, and
one that is killed has done what it has done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, LiteralString, NamedTuple

import structlog
from django.conf import settings
from django.db import transaction

from sync.models import DailyReport
from synctec.lib import sql
from synctec.lib.alone import alone

log = structlog.get_logger(__name__)

#: Rows deleted with one transaction.
BATCH: Final = 500
#: A day's deleting ends after this long; the next one goes on.
SECONDS_MAX: Final = 240

#: Deletes up to so many rows that were over before a moment; returns how many.
Forget = Callable[[datetime, int], int]


class Kept(NamedTuple):
    """Rows of one kind, and the setting that says for how many days they are kept (0: for ever; "": not at all)."""

    what: str
    setting: str
    forget: Forget


def forget(*, now: datetime) -> dict[str, int]:
    """Delete what was kept long enough, each kind on its own; returns how many rows of which."""
    ends_at = time.monotonic() + SECONDS_MAX
    done = {}
    for kept in KEPT:
        days = getattr(settings, kept.setting) if kept.setting else 0
        if kept.setting and not days:
            continue
        before = now - timedelta(days=days)
        rows = alone(f"forget {kept.what}", partial(_forget_kind, kept, before, ends_at)) or 0
        if rows:
            log.info("retention.forgotten", what=kept.what, rows=rows, before=before.isoformat(timespec="seconds"))
            done[kept.what] = rows
    return done


def reaches(moment: datetime, *, now: datetime) -> bool:
    """Whether all that was found at that moment is kept yet, so that a report of it may be computed anew."""
    return not settings.FINDING_DAYS or moment >= now - timedelta(days=settings.FINDING_DAYS)


def facts_reach_back(days: int) -> int:
    """So many days of these can be computed anew: what happened in earlier ones is partly forgotten."""
    kept = [setting for setting in (settings.TRAFFIC_DAYS, settings.FINDING_DAYS) if setting]
    return min([days, *(setting - 1 for setting in kept)])


def _forget_kind(kept: Kept, before: datetime, ends_at: float) -> int:
    rows = 0
    while time.monotonic() < ends_at and (deleted := kept.forget(before, BATCH)):
        rows += deleted
    return rows


def _by(statement: LiteralString) -> Forget:
    def delete(before: datetime, limit: int) -> int:
        return sql.execute(statement, [before, limit])

    return delete


# --- what people did about failures -------------------------------------------------------------------------------

_LETTERS: LiteralString = """
    DELETE FROM sync_deadletter WHERE id = ANY(ARRAY(
        SELECT id FROM sync_deadletter WHERE ended_at < %s ORDER BY ended_at LIMIT %s FOR UPDATE SKIP LOCKED))
"""
#: A letter names the job that tried it again.
_JOBS: LiteralString = """
    DELETE FROM sync_job WHERE id = ANY(ARRAY(
        SELECT job.id FROM sync_job job
        WHERE job.finished_at < %s
            AND NOT EXISTS (SELECT 1 FROM sync_deadletter letter WHERE letter.retried_by_job_id = job.id)
        ORDER BY job.id LIMIT %s FOR UPDATE OF job SKIP LOCKED))
"""

# --- what was found -----------------------------------------------------------------------------------------------

#: What was taken over explains movements (`no_reading_raises_the_pool`), and what is asked waits for somebody.
_FINDINGS: LiteralString = """
    DELETE FROM sync_drift WHERE id = ANY(ARRAY(
        SELECT old.id FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT id FROM sync_drift drift
            WHERE drift.merchant_id = merchant.id AND drift.found_at < %s AND drift.action IN ('explained', 'overridden')
            ORDER BY drift.found_at FOR UPDATE SKIP LOCKED) old
        LIMIT %s))
"""
#: The latest of each kind that was done says when the next one is due.
_PASSES: LiteralString = """
    DELETE FROM sync_reconcilerun WHERE id = ANY(ARRAY(
        SELECT run.id FROM sync_reconcilerun run
        WHERE run.finished_at < %s
            AND EXISTS (SELECT 1 FROM sync_reconcilerun newer
                WHERE newer.channel_id = run.channel_id AND newer.kind = run.kind AND newer.id > run.id
                    AND newer.state = 'done')
            AND NOT EXISTS (SELECT 1 FROM sync_drift drift WHERE drift.run_id = run.id)
            AND NOT EXISTS (SELECT 1 FROM sync_difference found WHERE found.run_id = run.id)
        ORDER BY run.id LIMIT %s FOR UPDATE OF run SKIP LOCKED))
"""
_COMPARISONS: LiteralString = """
    DELETE FROM sync_shadowreport WHERE id = ANY(ARRAY(
        SELECT id FROM sync_shadowreport WHERE compared_at < %s ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED))
"""
_HELD_LEVELS: LiteralString = """
    DELETE FROM sync_heldlevel WHERE id = ANY(ARRAY(
        SELECT held.id FROM sync_pushhold hold JOIN sync_heldlevel held ON held.hold_id = hold.id
        WHERE hold.state <> 'held' AND hold.decided_at < %s AND held.state NOT IN ('watched', 'held')
        LIMIT %s FOR UPDATE OF held SKIP LOCKED))
"""
_HOLDS: LiteralString = """
    DELETE FROM sync_pushhold WHERE id = ANY(ARRAY(
        SELECT hold.id FROM sync_pushhold hold
        WHERE hold.state <> 'held' AND hold.decided_at < %s
            AND NOT EXISTS (SELECT 1 FROM sync_heldlevel held WHERE held.hold_id = hold.id)
        ORDER BY hold.id LIMIT %s FOR UPDATE OF hold SKIP LOCKED))
"""
_ALERTS: LiteralString = """
    DELETE FROM sync_alert WHERE id = ANY(ARRAY(
        SELECT id FROM sync_alert WHERE state = 'recovered' AND recovered_at < %s
        ORDER BY recovered_at LIMIT %s FOR UPDATE SKIP LOCKED))
"""

# --- how the traffic went -----------------------------------------------------------------------------------------


@transaction.atomic
def _refused_pushes(before: datetime, limit: int) -> int:
    """Confirmed ones stay: what a level shows is their sum. A batch goes with the last of its pushes."""
    batches = sql.rows(
        """
        SELECT id FROM channels_pushbatch WHERE state IN ('done', 'unresolved') AND id = ANY(ARRAY(
            SELECT batch_id FROM channels_push WHERE state = 'rejected' AND settled_at < %s ORDER BY settled_at LIMIT %s))
        ORDER BY id FOR UPDATE SKIP LOCKED
        """,
        [before, limit],
    )
    emptied = [batch for (batch,) in batches]
    deleted = sql.execute(
        "DELETE FROM channels_push WHERE batch_id = ANY(%s::uuid[]) AND state = 'rejected' AND settled_at < %s",
        [emptied, before],
    )
    sql.execute(
        """
        DELETE FROM channels_pushbatch batch WHERE batch.id = ANY(%s::uuid[])
            AND NOT EXISTS (SELECT 1 FROM channels_push push WHERE push.batch_id = batch.id)
            AND NOT EXISTS (SELECT 1 FROM sync_attempt attempt WHERE attempt.batch_id = batch.id)
        """,
        [emptied],
    )
    return deleted


_CALLS: LiteralString = """
    DELETE FROM channels_callhour WHERE id = ANY(ARRAY(
        SELECT old.id FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT id FROM channels_callhour hour WHERE hour.merchant_id = merchant.id AND hour.hour < %s
            ORDER BY hour.hour FOR UPDATE SKIP LOCKED) old
        LIMIT %s))
"""
_OUTAGES: LiteralString = """
    DELETE FROM channels_outage WHERE id = ANY(ARRAY(
        SELECT id FROM channels_outage WHERE ended_at < %s ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED))
"""
_BUFFERS: LiteralString = """
    DELETE FROM sync_bufferuse WHERE id = ANY(ARRAY(
        SELECT old.id FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT id FROM sync_bufferuse used WHERE used.merchant_id = merchant.id AND used.hour < %s
            ORDER BY used.hour FOR UPDATE SKIP LOCKED) old
        LIMIT %s))
"""

# --- what days came to --------------------------------------------------------------------------------------------

_DAYS: LiteralString = """
    DELETE FROM sync_scorecardday WHERE id = ANY(ARRAY(
        SELECT old.id FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT id FROM sync_scorecardday kept
            WHERE kept.merchant_id = merchant.id AND kept.day < (%s::timestamptz AT TIME ZONE 'UTC')::date
            ORDER BY kept.day FOR UPDATE SKIP LOCKED) old
        LIMIT %s))
"""


def _reports(before: datetime, limit: int) -> int:
    """With the mails by which they were sent."""
    old = DailyReport.objects.filter(day__lt=before.date()).order_by("pk").values_list("pk", flat=True)[:limit]
    return DailyReport.objects.filter(pk__in=list(old)).delete()[0]


_SESSIONS: LiteralString = """
    DELETE FROM django_session WHERE session_key = ANY(ARRAY(
        SELECT session_key FROM django_session WHERE expire_date < %s LIMIT %s FOR UPDATE SKIP LOCKED))
"""

#: In this order: what names something else goes before it.
KEPT: Final = (
    Kept("dead letters that ended", "REPAIR_DAYS", _by(_LETTERS)),
    Kept("jobs that ended", "REPAIR_DAYS", _by(_JOBS)),
    Kept("findings that changed no stock", "FINDING_DAYS", _by(_FINDINGS)),
    Kept("reconciliations", "FINDING_DAYS", _by(_PASSES)),
    Kept("comparisons in shadow mode", "FINDING_DAYS", _by(_COMPARISONS)),
    Kept("levels whose hold was decided", "FINDING_DAYS", _by(_HELD_LEVELS)),
    Kept("holds that were decided", "FINDING_DAYS", _by(_HOLDS)),
    Kept("alerts that recovered", "FINDING_DAYS", _by(_ALERTS)),
    Kept("refused pushes", "TRAFFIC_DAYS", _refused_pushes),
    Kept("hours of calls", "TRAFFIC_DAYS", _by(_CALLS)),
    Kept("outages", "TRAFFIC_DAYS", _by(_OUTAGES)),
    Kept("hours of buffers", "TRAFFIC_DAYS", _by(_BUFFERS)),
    Kept("days of the scorecard", "SCORE_DAYS", _by(_DAYS)),
    Kept("daily reports", "SCORE_DAYS", _reports),
    Kept("sessions that expired", "", _by(_SESSIONS)),
)
