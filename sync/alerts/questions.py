"""What the rules ask of the database, each in one place. Reads only.

A question names the subjects of which there is anything to say, with a number each; a subject it does not name is well. All
are bounded: partial indexes that hold only open work, or the newest rows of a merchant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from inventory.reordering import to_order
from merchants.models import TargetState
from sync.alerts import supply
from sync.alerts.rules import MEMBERS_MAX, Part
from synctec.lib import sql

#: Nobody is interested in how much more there is.
COUNTED_MAX: Final = 10_000
#: So many measurements are needed before a percentile says anything.
LATENCIES_MIN: Final = 20
LATENCY_WINDOW: Final = timedelta(minutes=10)
#: Numbers that changed so recently are on their way, and neither right nor wrong.
ON_ITS_WAY: Final = timedelta(minutes=1)
#: A worker that has been silent for so long is gone for good.
FORGOTTEN_AFTER: Final = timedelta(hours=1)
#: Growth below this is no news, however small the database is.
GROWTH_BYTES_MIN: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Observed:
    """What the process that evaluates can see by itself, asked before the database is."""

    machine: str = ""
    clock_ahead_seconds: float = 0.0
    is_broker_away: bool = False
    redis_bytes: int | None = None
    redis_bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a question says of one subject."""

    subject: str
    merchant_id: int | None
    value: float
    who: str = ""
    channel_id: int | None = None
    members: tuple[Part, ...] = ()
    detail: str = ""
    #: A notification target that would not get to hear of it.
    target_id: int | None = None


INSTALLATION: Final = "installation"
Question = Callable[[datetime, Observed], list[Finding]]


def _channels(statement: LiteralString, parameters: list[Any]) -> list[Finding]:
    """Findings about channels: rows of merchant, channel, name, value and, if there is one, a detail."""
    return [
        Finding(
            f"channel:{channel}", merchant, float(value), who=name, channel_id=channel, detail=(more or [""])[0] or ""
        )
        for merchant, channel, name, value, *more in sql.rows(statement, parameters)
    ]


def _installation(value: float | None, *, members: tuple[Part, ...] = ()) -> list[Finding]:
    return [] if value is None else [Finding(INSTALLATION, None, float(value), members=members[:MEMBERS_MAX])]


# --- the installation ---------------------------------------------------------------------------------------


def broker_away(now: datetime, observed: Observed) -> list[Finding]:
    """Whether the broker did not answer the process that asks."""
    return _installation(1 if observed.is_broker_away else None)


def workers_silent(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds since any worker ended a task; before the first one did, since anybody asked."""
    [(seconds,)] = sql.rows(
        """
        SELECT extract(epoch FROM %s - coalesce(
            (SELECT max(progressed_at) FROM sync_processbeat),
            (SELECT first_asked_at FROM sync_rulecheck WHERE name = 'workers_silent'), %s))
        """,
        [now, now],
    )
    return _installation(seconds)


def beat_silent(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds since beat handed out a message; before it ever did, since anybody asked."""
    [(seconds,)] = sql.rows(
        """
        SELECT extract(epoch FROM %s - coalesce(
            (SELECT beat_at FROM sync_heartbeat WHERE name = 'beat'),
            (SELECT first_asked_at FROM sync_rulecheck WHERE name = 'beat_silent'), %s))
        """,
        [now, now],
    )
    return _installation(seconds)


def worker_silent(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds since each worker ended a task that should, because others have."""
    rows = sql.rows(
        """
        SELECT name, extract(epoch FROM %s - progressed_at) FROM sync_processbeat process
        WHERE stopped_at IS NULL AND progressed_at > %s AND EXISTS (
            SELECT 1 FROM sync_processbeat other WHERE other.name <> process.name AND other.progressed_at > %s)
        """,
        [now, now - FORGOTTEN_AFTER, now - timedelta(seconds=60)],
    )
    return [Finding(f"worker:{name}", None, float(seconds), who=name) for name, seconds in rows]


def rules_not_asked(now: datetime, observed: Observed) -> list[Finding]:
    """Rules whose question failed when it was last asked."""
    rows = sql.rows("SELECT name, error FROM sync_rulecheck WHERE failing_since IS NOT NULL ORDER BY name")
    return _installation(len(rows) or None, members=tuple(rows))


def clock_differs(now: datetime, observed: Observed) -> list[Finding]:
    """By how many seconds each machine's clock differs from the database's."""
    rows = sql.rows(
        "SELECT name, abs(clock_ahead_seconds) FROM sync_processbeat WHERE stopped_at IS NULL AND progressed_at > %s",
        [now - timedelta(minutes=10)],
    )
    seen = {name: seconds for name, seconds in rows if seconds >= 1}
    if observed.machine and abs(observed.clock_ahead_seconds) >= 1:
        seen[observed.machine] = abs(observed.clock_ahead_seconds)
    return [Finding(f"clock:{name}", None, seconds, who=name) for name, seconds in seen.items()]


def invariant_broken(now: datetime, observed: Observed) -> list[Finding]:
    """The invariants that the auditor found broken. Whose rows they are is not said: everybody may read this."""
    rows = sql.rows("SELECT name FROM sync_auditresult WHERE broken_since IS NOT NULL ORDER BY name")
    return _installation(len(rows) or None, members=tuple((name, "does not hold") for (name,) in rows))


def audit_overdue(now: datetime, observed: Observed) -> list[Finding]:
    """Hours since the invariant was asked that was not asked for longest."""
    [(hours,)] = sql.rows("SELECT extract(epoch FROM %s - min(checked_at)) / 3600 FROM sync_auditresult", [now])
    return _installation(hours)


def database_growth(now: datetime, observed: Observed) -> list[Finding]:
    """By how many percent the database grew in a day."""
    rows = sql.rows(
        """
        SELECT 100.0 * (latest.database_bytes - earlier.database_bytes) / earlier.database_bytes
        FROM (SELECT database_bytes FROM sync_sizesample ORDER BY taken_at DESC LIMIT 1) latest,
            (SELECT database_bytes FROM sync_sizesample WHERE taken_at BETWEEN %s AND %s
                ORDER BY taken_at DESC LIMIT 1) earlier
        WHERE latest.database_bytes - earlier.database_bytes >= %s
        """,
        [now - timedelta(hours=36), now - timedelta(hours=24), GROWTH_BYTES_MIN],
    )
    return _installation(rows[0][0] if rows else None)


def backlog_growth(now: datetime, observed: Observed) -> list[Finding]:
    """How much more waits than a quarter of an hour ago."""
    rows = sql.rows(
        """
        SELECT latest.inbox_waiting + latest.outbox_waiting - earlier.inbox_waiting - earlier.outbox_waiting
        FROM (SELECT * FROM sync_sizesample ORDER BY taken_at DESC LIMIT 1) latest,
            (SELECT * FROM sync_sizesample WHERE taken_at BETWEEN %s AND %s ORDER BY taken_at DESC LIMIT 1) earlier
        """,
        [now - timedelta(minutes=40), now - timedelta(minutes=15)],
    )
    return _installation(rows[0][0] if rows and rows[0][0] > 0 else None)


def redis_memory(now: datetime, observed: Observed) -> list[Finding]:
    """How full Redis is, in percent, where it has a limit."""
    rows = sql.rows(
        """
        SELECT 100.0 * redis_bytes / redis_bytes_max FROM sync_sizesample
        WHERE redis_bytes_max > 0 AND taken_at > %s ORDER BY taken_at DESC LIMIT 1
        """,
        [now - timedelta(minutes=20)],
    )
    return _installation(rows[0][0] if rows else None)


# --- channels -----------------------------------------------------------------------------------------------


def authorization(now: datetime, observed: Observed) -> list[Finding]:
    """Channels that refuse us."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, 1, channel.state_reason
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        WHERE channel.state IN ('needs_auth', 'uninstalled') AND merchant.is_active
        """,
        [],
    )


def channel_outage(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds since each channel that does not answer did."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, extract(epoch FROM %s - channel.failing_since),
            channel.last_error
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        WHERE channel.state = 'active' AND channel.failing_since IS NOT NULL AND merchant.is_active
        """,
        [now],
    )


def token_expiring(now: datetime, observed: Observed) -> list[Finding]:
    """Hours until each token ends that cannot be renewed by itself."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name,
            extract(epoch FROM credential.access_token_expires_at - %s) / 3600
        FROM channels_credential credential JOIN channels_channel channel ON channel.id = credential.channel_id
        JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        WHERE credential.access_token_expires_at < %s
            -- A refresh token renews it, or a secret of the store's own app.
            AND credential.sealed_refresh_token = '' AND credential.sealed_client_secret = ''
            AND channel.state IN ('active', 'paused') AND merchant.is_active
        """,
        [now, now + timedelta(days=30)],
    )


def subscription_lost(now: datetime, observed: Observed) -> list[Finding]:
    """Webhook subscriptions that were found missing, until they are there and the orders of the gap have been read."""
    rows = sql.rows(
        """
        SELECT found.merchant_id, found.channel_id, channel.name, found.missing, found.error
        FROM channels_subscriptioncheck found JOIN channels_channel channel ON channel.id = found.channel_id
        JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        WHERE merchant.is_active AND channel.state = 'active' AND (found.error <> ''
            OR (found.repaired_at IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM sync_reconcilerun run
                WHERE run.channel_id = found.channel_id AND run.state = 'done' AND run.started_at >= found.repaired_at)))
        """
    )
    return [
        Finding(
            f"channel:{channel}",
            merchant,
            len(missing) or 1,
            who=name,
            channel_id=channel,
            members=tuple((topic, topic) for topic in missing[:MEMBERS_MAX]),
            detail=error,
        )
        for merchant, channel, name, missing, error in rows
    ]


def writing_stopped(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds that the oldest change has waited for each channel."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, extract(epoch FROM %s - waiting.since), channel.state_reason
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        CROSS JOIN LATERAL (
            SELECT min(level.waiting_since) AS since FROM (
                SELECT waiting_since FROM channels_listinglevel level
                WHERE level.channel_id = channel.id AND level.is_out_of_sync ORDER BY level.next_push_at LIMIT %s) level
        ) waiting
        WHERE channel.state IN ('active', 'paused', 'needs_auth') AND NOT channel.is_shadow AND waiting.since IS NOT NULL
            AND merchant.is_active
        """,
        [now, COUNTED_MAX],
    )


def reconcile_overdue(now: datetime, observed: Observed) -> list[Finding]:
    """Hours since each channel was last compared whole; since it was connected, if it never was."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name,
            extract(epoch FROM %s - coalesce(run.finished_at, channel.created_at)) / 3600
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        LEFT JOIN LATERAL (
            SELECT finished_at FROM sync_reconcilerun run
            WHERE run.channel_id = channel.id AND run.state = 'done' ORDER BY run.id DESC LIMIT 1) run ON true
        WHERE channel.state = 'active' AND merchant.is_active
        """,
        [now],
    )


def drift_alarm(now: datetime, observed: Observed) -> list[Finding]:
    """What share of the levels differed, in percent, of each channel where nothing is raised since a pass was alarming."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, coalesce(run.share, 100), channel.raises_paused_reason
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        LEFT JOIN LATERAL (
            SELECT 100.0 * levels_suspect / greatest(levels_read, 1) AS share FROM sync_reconcilerun run
            WHERE run.channel_id = channel.id AND run.is_alarming ORDER BY run.id DESC LIMIT 1) run ON true
        WHERE channel.raises_paused_at IS NOT NULL AND channel.state IN ('active', 'paused') AND merchant.is_active
        """,
        [],
    )


def changes_held(now: datetime, observed: Observed) -> list[Finding]:
    """Levels of each channel whose change waits until somebody has confirmed it."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, held.levels, hold.reason
        FROM sync_pushhold hold JOIN channels_channel channel ON channel.id = hold.channel_id
        JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        CROSS JOIN LATERAL (
            SELECT count(*) AS levels FROM sync_heldlevel level WHERE level.hold_id = hold.id AND level.state = 'held') held
        WHERE hold.state = 'held' AND hold.kind = 'big_run' AND merchant.is_active AND held.levels > 0
        """,
        [],
    )


# --- keeping step -------------------------------------------------------------------------------------------


def dead_letters(now: datetime, observed: Observed) -> list[Finding]:
    """Dead letters of each channel that nobody has dismissed."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, count(*), left(max(letter.said), 200)
        FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT channel_id, said FROM sync_deadletter letter
            WHERE letter.merchant_id = merchant.id AND letter.ended_at IS NULL AND letter.state <> 'dismissed'
            LIMIT %s) letter
        JOIN channels_channel channel ON channel.id = letter.channel_id
        WHERE merchant.is_active
        GROUP BY channel.id
        """,
        [COUNTED_MAX],
    )


def queue_lag(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds that the oldest event of each channel has waited."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, extract(epoch FROM %s - min(event.received_at)),
            left(max(event.reason), 200)
        FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT channel_id, received_at, reason FROM channels_inboxevent event
            WHERE event.merchant_id = merchant.id AND event.state = 'pending' ORDER BY event.id LIMIT %s) event
        JOIN channels_channel channel ON channel.id = event.channel_id
        WHERE merchant.is_active
        GROUP BY channel.id
        """,
        [now, COUNTED_MAX],
    )


def _latency(now: datetime, percentile: float) -> list[Finding]:
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name,
            percentile_cont(%s) WITHIN GROUP (ORDER BY extract(epoch FROM push.settled_at - push.caused_at))
        FROM merchants_merchant merchant CROSS JOIN LATERAL (
            SELECT channel_id, state, caused_at, settled_at FROM channels_push push
            WHERE push.merchant_id = merchant.id ORDER BY push.id DESC LIMIT %s) push
        JOIN channels_channel channel ON channel.id = push.channel_id
        WHERE merchant.is_active AND push.state = 'confirmed' AND push.caused_at IS NOT NULL AND push.settled_at > %s
        GROUP BY channel.id HAVING count(*) >= %s
        """,
        [percentile, COUNTED_MAX, now - LATENCY_WINDOW, LATENCIES_MIN],
    )


def sync_latency(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds from an event to the number in the store, of the slowest twentieth of late."""
    return _latency(now, 0.95)


def sync_latency_worst(now: datetime, observed: Observed) -> list[Finding]:
    """The same of the slowest hundredth."""
    return _latency(now, 0.99)


def accuracy(now: datetime, observed: Observed) -> list[Finding]:
    """What share of each channel's published levels is right, in percent."""
    return _channels(
        """
        SELECT channel.merchant_id, channel.id, channel.name, 100.0 - 100.0 * (behind.levels + doubted.levels) / whole.levels
        FROM channels_channel channel JOIN merchants_merchant merchant ON merchant.id = channel.merchant_id
        CROSS JOIN LATERAL (
            SELECT count(*) AS levels FROM channels_listinglevel level
            WHERE level.channel_id = channel.id AND level.is_stocked AND level.desired IS NOT NULL) whole
        CROSS JOIN LATERAL (
            SELECT count(*) AS levels FROM channels_listinglevel level
            WHERE level.channel_id = channel.id AND level.is_out_of_sync AND level.is_stocked
                AND (level.waiting_since IS NULL OR level.waiting_since < %s)) behind
        CROSS JOIN LATERAL (
            SELECT count(*) AS levels FROM channels_listinglevel level
            WHERE level.channel_id = channel.id AND level.suspect_since < %s AND level.is_stocked
                AND level.desired IS NOT NULL AND NOT level.is_out_of_sync) doubted
        WHERE channel.state IN ('active', 'paused') AND NOT channel.is_shadow AND merchant.is_active AND whole.levels > 0
        """,
        [now - ON_ITS_WAY, now - ON_ITS_WAY],
    )


def target_failing(now: datetime, observed: Observed) -> list[Finding]:
    """Seconds since each notification target took what it was told."""
    rows = sql.rows(
        """
        SELECT target.merchant_id, target.id, target.name, extract(epoch FROM %s - target.failing_since), message.answer
        FROM merchants_notificationtarget target JOIN merchants_merchant merchant ON merchant.id = target.merchant_id
        LEFT JOIN LATERAL (
            SELECT answer FROM merchants_notificationmessage message
            WHERE message.target_id = target.id ORDER BY message.id DESC LIMIT 1) message ON true
        WHERE target.failing_since IS NOT NULL AND target.state <> %s AND merchant.is_active
        """,
        [now, TargetState.OFF],
    )
    return [
        Finding(f"target:{target}", merchant, float(seconds), who=name, detail=answer or "", target_id=target)
        for merchant, target, name, seconds, answer in rows
    ]


# --- stock --------------------------------------------------------------------------------------------------


def shortage(now: datetime, observed: Observed) -> list[Finding]:
    """Units that were sold beyond stock and are not covered, per merchant."""
    rows = sql.rows(
        """
        SELECT shortage.merchant_id, shortage.id, sku.code, warehouse.name,
            shortage.quantity - shortage.quantity_covered, shortage.reference
        FROM inventory_shortage shortage JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
        JOIN inventory_sku sku ON sku.id = level.sku_id
        JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
        JOIN merchants_merchant merchant ON merchant.id = shortage.merchant_id
        WHERE shortage.covered_at IS NULL AND merchant.is_active
        ORDER BY shortage.id DESC LIMIT %s
        """,
        [COUNTED_MAX],
    )
    units: dict[int, int] = {}
    members: dict[int, list[Part]] = {}
    for merchant, pk, code, warehouse, short, reference in rows:
        units[merchant] = units.get(merchant, 0) + short
        said = f"{code}: {short} short in {warehouse}{f', {reference}' if reference else ''}"
        members.setdefault(merchant, []).append((str(pk), said))
    return [_of_merchant(merchant, units[merchant], members[merchant]) for merchant in units]


def _of_merchant(merchant_id: int, value: float, members: list[Part]) -> Finding:
    return Finding(f"merchant:{merchant_id}", merchant_id, value, members=tuple(members[:MEMBERS_MAX]))


def low_stock(now: datetime, observed: Observed) -> list[Finding]:
    """SKUs of which as few are available as their merchants want to hear of, the scarcest first."""
    found = []
    for merchant_id, supplies in supply.watched(now):
        low = sorted(
            ((code, known) for code, known in supplies.items() if known.is_low),
            key=lambda pair: (pair[1].available - (pair[1].low_stock_at or 0), pair[0]),
        )
        if low:
            members = [
                (code, f"{code}: {known.available} available, low at {known.low_stock_at}") for code, known in low
            ]
            found.append(_of_merchant(merchant_id, len(low), members))
    return found


def reorder(now: datetime, observed: Observed) -> list[Finding]:
    """SKUs to be ordered now, with how many."""
    found = []
    for merchant_id, supplies in supply.watched(now):
        due = [(code, known, order) for code, known in sorted(supplies.items()) if (order := to_order(known))]
        if due:
            members = [
                (code, f"{code}: order {order.quantity} ({known.available} available, to be ordered at {order.point})")
                for code, known, order in due
            ]
            found.append(_of_merchant(merchant_id, len(due), members))
    return found


QUESTIONS: Final[Mapping[str, Question]] = {
    question.__name__: question
    for question in (
        broker_away, workers_silent, beat_silent, worker_silent, rules_not_asked, clock_differs, invariant_broken,
        audit_overdue, database_growth, backlog_growth, redis_memory, authorization, channel_outage, token_expiring,
        subscription_lost, writing_stopped, reconcile_overdue, drift_alarm, changes_held, dead_letters, queue_lag,
        sync_latency, sync_latency_worst, accuracy, shortage, low_stock, reorder, target_failing,
    )
}  # fmt: skip
