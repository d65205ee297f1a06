"""Checking suspect levels: reading them again, and settling what is not explained.

A reading is taken without locks and judged under them, against a version that must not have moved meanwhile (see
`sync.residue`). The reading itself is durable (`sample`), so a crash costs one more reading at most.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction

from channels.models import Channel
from channels.protocol import Connector, LevelState
from inventory import stock
from inventory.ledger import Entry
from inventory.models import Cause
from sync import publish, push
from sync.models import Drift, DriftAction
from sync.residue import Judgement, Reading, Ruling, Suspect, judge
from synctec.lib import sql
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: While a level is being read nobody else reads it.
READ_LEASE = timedelta(seconds=15)
LOOK_AGAIN = timedelta(seconds=1)
LOOK_AGAIN_AT_ONCE = timedelta(milliseconds=200)


UNSETTLED = frozenset({Ruling.MOVED, Ruling.WAIT})


@dataclass(frozen=True, slots=True)
class Due:
    """A suspect level that is to be read now."""

    level_id: int
    inventory_item_id: str
    location_id: str
    version: int


@dataclass(slots=True)
class Checked:
    """What a run came to."""

    read: int = 0
    explained: int = 0
    waiting: int = 0
    adopted: int = 0
    overridden: int = 0
    needs_orders: bool = False  # samples wait for the order list to be read


def check_channel(*, channel: Channel, connector: Connector, now: datetime) -> Checked:
    """Read the channel's due suspects once and settle what can be settled.

    Raises:
        ChannelError: the channel could not be asked; the levels stay suspect.
    """
    due = _claim(channel.pk, connector.capabilities.levels_per_read)
    done = Checked(read=len(due))
    if not due:
        return done
    items = sorted({level.inventory_item_id for level in due})
    found = {(state.inventory_item_id, state.location_id): state for state in connector.read_levels(items)}
    missing = LevelState("", "", None, is_stocked=False, source_at=None)
    readings = {
        level.level_id: (level, found.get((level.inventory_item_id, level.location_id), missing)) for level in due
    }
    settle_readings(channel=channel, readings=readings, now=now, done=done)
    return done


def _claim(channel_id: int, limit: int) -> list[Due]:
    return [
        Due(*row)
        for row in sql.rows(
            """
            WITH due AS (
                SELECT id FROM channels_listinglevel
                WHERE channel_id = %s AND suspect_since IS NOT NULL AND next_check_at <= now()
                ORDER BY next_check_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE channels_listinglevel level SET next_check_at = now() + %s
            FROM due, channels_listing listing, channels_storelocation location
            WHERE level.id = due.id AND listing.id = level.listing_id AND location.id = level.store_location_id
            RETURNING level.id, listing.inventory_item_id, location.remote_id, level.version
            """,
            [channel_id, limit, READ_LEASE],
        )
    ]


@dataclass(frozen=True, slots=True)
class _Locked:
    """A suspect under its lock, with what settling it may touch."""

    level_id: int
    suspect: Suspect
    sku_id: int | None
    held: int
    held_at: int | None
    hold_at: int | None  # stock level where units would be held
    confirmed_at: datetime | None
    open_push_id: int | None


@transaction.atomic
def settle_readings(
    *, channel: Channel, readings: dict[int, tuple[Due, LevelState]], now: datetime, done: Checked
) -> None:
    """Judge readings under the locks of their levels and write what follows."""
    sql.forgo_flush()  # without this, the levels are suspect still
    lag = timedelta(seconds=settings.AUDIT_LAG_SECONDS)
    orders_read_at = _orders_applied_since(channel)
    correlation_id = uuid7()
    hold_at = _hold_places(readings)
    balances = stock.lock_balances(level for level in hold_at.values() if level is not None)
    entries: list[Entry] = []
    drifts: list[Drift] = []
    dirty: set[int] = set()
    for locked in _lock(readings, hold_at):
        due, state = readings[locked.level_id]
        reading = Reading(state.available, state.is_stocked, due.version)
        judgement = judge(locked.suspect, reading, now=now, orders_read_at=orders_read_at, lag=lag)
        if locked.hold_at is None:
            # Not mapped to any stock: nothing of ours is missing.
            judgement = replace(judgement, hold=0)
        if judgement.push_applied is not None and judgement.ruling not in UNSETTLED:
            _settle_push(locked, judgement.push_applied)
        entries += _entries(locked, judgement, correlation_id, now)
        _write(locked, judgement, state, now)
        drift = _drift(channel, locked, judgement, state, correlation_id, now)
        if drift is not None:
            drifts.append(drift)
        if locked.sku_id is not None and (judgement.ruling not in UNSETTLED or judgement.hold != locked.held):
            dirty.add(locked.sku_id)
        _count(judgement, locked, orders_read_at, lag, now, done)
    stock.post(merchant_id=channel.merchant_id, balances=balances, entries=entries, now=now)
    Drift.objects.bulk_create(drifts)
    if dirty:
        publish.mark_dirty(
            merchant_id=channel.merchant_id, sku_ids=sorted(dirty), correlation_id=correlation_id, now=now
        )


def _orders_applied_since(channel: Channel) -> datetime | None:
    """When the latest complete poll of the channel's orders began, if all that it found is applied by now."""
    [(orders_read_at, has_pending)] = sql.rows(
        """
        SELECT channel.orders_read_at, EXISTS (
            SELECT 1 FROM channels_inboxevent event
            WHERE event.merchant_id = channel.merchant_id AND event.channel_id = channel.id AND event.state = 'pending'
                AND (event.topic LIKE 'orders/%%' OR event.topic LIKE 'refunds/%%'))
        FROM channels_channel channel WHERE channel.id = %s
        """,
        [channel.pk],
    )
    return None if has_pending else orders_read_at


def _hold_places(level_ids: Iterable[int]) -> dict[int, int | None]:
    """Per level, the stock level where units missing there are held: where they are already, or the first it draws on."""
    found = sql.rows(
        """
        SELECT level.id, coalesce(level.held_at_id, (
            SELECT stock_level.id FROM locations_mapping mapping
            JOIN inventory_stocklevel stock_level
                ON stock_level.warehouse_id = mapping.warehouse_id AND stock_level.sku_id = listing.sku_id
            WHERE mapping.store_location_id = level.store_location_id ORDER BY mapping.priority LIMIT 1))
        FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE level.id = ANY(%s::bigint[])
        """,
        [sorted(level_ids)],
    )
    return dict(found)


def _lock(level_ids: Iterable[int], hold_at: dict[int, int | None]) -> list[_Locked]:
    locked = []
    for row in sql.rows(
        """
        SELECT level.id, level.reported, level.version, level.confirmed_at IS NULL OR NOT level.is_stocked,
            level.sample, level.sample_version, level.sampled_at, push.id, push.to_quantity - push.from_quantity,
            batch.state, coalesce(sku.kind = 'bundle', false), listing.sku_id, level.held, level.held_at_id,
            level.confirmed_at
        FROM channels_listinglevel level
        JOIN channels_listing listing ON listing.id = level.listing_id
        LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
        LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'open'
        LEFT JOIN channels_pushbatch batch ON batch.id = push.batch_id
        WHERE level.id = ANY(%s::bigint[]) AND level.suspect_since IS NOT NULL
        ORDER BY level.id FOR NO KEY UPDATE OF level
        """,
        [sorted(level_ids)],
    ):
        if row[9] in ("intent", "unknown"):
            # A write is under way, or will be sent again: what the level shows cannot be judged before it is answered.
            continue
        suspect = Suspect(
            reported=row[1],
            version=row[2],
            is_first_reading=row[3],
            sample=row[4],
            sample_version=row[5],
            sampled_at=row[6],
            open_delta=row[8],
            is_bundle=row[10],
            held=row[12],
        )
        locked.append(_Locked(row[0], suspect, row[11], row[12], row[13], hold_at[row[0]], row[14], row[7]))
    return locked


def _settle_push(locked: _Locked, was_applied: bool) -> None:
    """The store has told what became of the write."""
    if locked.open_push_id is None:
        return
    if was_applied:
        push.confirm([locked.open_push_id], None)
    else:
        push.give_back(
            [locked.open_push_id],
            codes=["NOT_FOUND_APPLIED"],
            messages=["no answer came, and the store shows that it was not applied"],
            pauses=[timedelta(0)],
            failures=[0],
        )


def _entries(locked: _Locked, judgement: Judgement, correlation_id: uuid.UUID, now: datetime) -> list[Entry]:
    """Ledger entries: units held or released while a loss is unexplained, and a loss taken over."""
    loss = judgement.residue if judgement.ruling is Ruling.ADOPT else 0
    change = judgement.hold - locked.held
    if locked.hold_at is None or (not change and not loss):
        return []
    return [
        Entry(
            stock_level_id=locked.hold_at,
            cause=Cause.CHANNEL_EDIT if loss else Cause.CHECK,
            key=f"check:{correlation_id}:{locked.level_id}",
            reference=f"level {locked.level_id}",
            correlation_id=correlation_id,
            effective_at=now,
            on_hand=loss,
            held=change,
        )
    ]


def _write(locked: _Locked, judgement: Judgement, state: LevelState, now: datetime) -> None:
    held_at = locked.hold_at if judgement.hold else None
    with sql.cursor() as cursor:
        if judgement.ruling is Ruling.MOVED:
            cursor.execute(
                "UPDATE channels_listinglevel SET next_check_at = %s WHERE id = %s",
                [now + LOOK_AGAIN_AT_ONCE, locked.level_id],
            )
            return
        if judgement.ruling is Ruling.WAIT:
            same = locked.suspect.sample == state.available and locked.suspect.sample_version == locked.suspect.version
            cursor.execute(
                """
                UPDATE channels_listinglevel
                SET sample = %s, sample_version = version, sampled_at = CASE WHEN %s THEN sampled_at ELSE %s END,
                    suspect_available = NULL, held = %s, held_at_id = %s, next_check_at = %s
                WHERE id = %s
                """,
                [state.available, same, now, judgement.hold, held_at, now + LOOK_AGAIN, locked.level_id],
            )
            return
        cursor.execute(
            """
            UPDATE channels_listinglevel
            SET base = base + %s, version = version + 1, is_stocked = %s, sample = NULL, sample_version = NULL,
                sampled_at = NULL, suspect_since = NULL, suspect_reason = '', suspect_available = NULL,
                next_check_at = NULL, held = 0, held_at_id = NULL, confirmed_at = %s,
                source_at = greatest(source_at, %s)
            WHERE id = %s
            """,
            [judgement.residue, judgement.ruling is not Ruling.UNSTOCKED, now, state.source_at, locked.level_id],
        )


def _drift(
    channel: Channel, locked: _Locked, judgement: Judgement, state: LevelState, correlation_id: uuid.UUID, now: datetime
) -> Drift | None:
    actions = {Ruling.ADOPT: DriftAction.ADOPTED, Ruling.OVERRIDE: DriftAction.OVERRIDDEN}
    action = actions.get(judgement.ruling)
    if action is None or state.available is None:
        return None
    return Drift(
        merchant_id=channel.merchant_id,
        channel_id=channel.pk,
        listing_level_id=locked.level_id,
        expected=state.available - judgement.residue,
        actual=state.available,
        action=action,
        explanation="no order, refund or push of ours explains it: changed in the store by hand",
        is_ambiguous=judgement.is_ambiguous,
        previous_confirmed_at=locked.confirmed_at,
        correlation_id=correlation_id,
        found_at=now,
    )


def _count(
    judgement: Judgement,
    locked: _Locked,
    orders_read_at: datetime | None,
    lag: timedelta,
    now: datetime,
    done: Checked,
) -> None:
    if judgement.ruling in UNSETTLED:
        done.waiting += 1
        sampled_at = locked.suspect.sampled_at
        if sampled_at is not None and now >= sampled_at + lag and (orders_read_at or sampled_at) < sampled_at + lag:
            done.needs_orders = True
    elif judgement.ruling is Ruling.ADOPT:
        done.adopted += 1
    elif judgement.ruling is Ruling.OVERRIDE:
        done.overridden += 1
    else:
        done.explained += 1


def add_missing_levels(*, merchant_id: int) -> int:
    """Give every mapped listing a level at each mapped location of its channel; new ones are read before all else."""
    return len(
        sql.rows(
            """
            INSERT INTO channels_listinglevel (merchant_id, channel_id, listing_id, store_location_id, suspect_since,
                suspect_reason, next_check_at)
            SELECT listing.merchant_id, listing.channel_id, listing.id, location.id, now(), 'never read', now()
            FROM channels_listing listing
            JOIN channels_storelocation location ON location.channel_id = listing.channel_id
            WHERE listing.merchant_id = %s AND listing.sku_id IS NOT NULL AND listing.deleted_at IS NULL
                AND EXISTS (SELECT 1 FROM locations_mapping mapping WHERE mapping.store_location_id = location.id)
                AND NOT EXISTS (
                    SELECT 1 FROM channels_listinglevel level
                    WHERE level.listing_id = listing.id AND level.store_location_id = location.id)
            ON CONFLICT DO NOTHING RETURNING id
            """,
            [merchant_id],
        )
    )


def suspect_levels(level_ids: Sequence[int], *, reason: str, now: datetime) -> None:
    """Have these levels read again as soon as possible."""
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_listinglevel
            SET suspect_since = coalesce(suspect_since, %s), suspect_reason = %s, next_check_at = %s
            WHERE id = ANY(%s::bigint[]) AND suspect_since IS NULL
            """,
            [now, reason, now, list(level_ids)],
        )
