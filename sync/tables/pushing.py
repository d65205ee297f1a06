"""Writes under way: batches, their rows, and what they do to the levels."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import LiteralString

import structlog
from django.db import transaction

from channels.protocol import QuantityChange
from channels.writing import STOP_LOCK
from sync.ports import (
    CLOCK_STEP,
    DOUBTFUL,
    DOUBTFUL_LOWERS,
    OUTAGE_FAILURES,
    SELLS_NOW,
    STORY_EVENTS,
    WAITED_LONG,
    Batch,
    ChannelRef,
    GivenBack,
    Picked,
    Row,
)
from sync.tables import letters, stock
from sync.tables.propagation import note_lag
from synctec.lib import sql
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: Class of the advisory locks that put the claims of a channel in line.
CLAIM_LOCK = 7002

#: What is put off comes nearer by an interval, and doubts are as old as they were. When samples were taken, and how far order
#: lists were read, nobody can tell any more.
_BRING_NEARER: tuple[LiteralString, ...] = (
    """
    UPDATE channels_inboxevent SET next_attempt_at = next_attempt_at - %s
    WHERE state = 'pending' AND next_attempt_at > now()
    """,
    """
    UPDATE channels_channel
    SET next_call_at = CASE WHEN next_call_at > now() THEN next_call_at - %s ELSE next_call_at END, orders_read_at = NULL
    """,
    """
    UPDATE channels_listinglevel
    SET next_push_at = CASE WHEN next_push_at > now() THEN next_push_at - step.by ELSE next_push_at END,
        next_check_at = CASE WHEN next_check_at > now() THEN next_check_at - step.by ELSE next_check_at END,
        sample = NULL, since_sample = NULL, sample_pushed = NULL, sampled_from = NULL, sampled_until = NULL,
        sampled_ahead = NULL, doubtful_from = doubtful_from - step.by,
        doubtful_lowers_at = ARRAY(SELECT opened_at - step.by FROM unnest(doubtful_lowers_at) AS written (opened_at))
    FROM (SELECT %s::interval AS by) step
    WHERE next_push_at > now() OR next_check_at > now() OR sample IS NOT NULL OR doubtful_from IS NOT NULL
        OR doubtful_lowers <> '{}'
    """,
    """
    UPDATE channels_pushbatch SET next_attempt_at = next_attempt_at - %s
    WHERE state IN ('intent', 'unknown') AND next_attempt_at > now()
    """,
)


class PushTables:
    """One open push per level, whatever the locks do: a unique index says so."""

    def claim_repeat(self, channel_id: int, lease: timedelta) -> Batch | None:
        with transaction.atomic():
            _keep_switch_waiting(channel_id)
            found = sql.rows(
                """
                WITH due AS (
                    SELECT batch.id FROM channels_pushbatch batch
                    JOIN channels_channel channel ON channel.id = batch.channel_id
                    WHERE batch.channel_id = %s AND batch.state IN ('intent', 'unknown')
                        AND batch.next_attempt_at <= now() AND channel.next_call_at <= now() AND channel.state = 'active'
                        AND NOT channels_writing_is_stopped(channel.merchant_id)
                        AND NOT channel.is_shadow
                    ORDER BY batch.next_attempt_at, batch.id LIMIT 1 FOR UPDATE OF batch SKIP LOCKED
                )
                UPDATE channels_pushbatch batch
                SET lease_token = nextval('channels_lease_token'), attempts = batch.attempts + 1, sent_at = now(),
                    next_attempt_at = now() + %s
                FROM due WHERE batch.id = due.id RETURNING batch.id, batch.lease_token, batch.attempts, batch.created_at
                """,
                [channel_id, lease],
            )
            if not found:
                return None
            batch_id, token, attempts, opened_at = found[0]
            rows = _rows_of(batch_id)
            return Batch(batch_id, token, attempts, is_repeat=True, rows=rows, opened_at=opened_at)

    def lock_claims(self, channel_id: int) -> None:
        _keep_switch_waiting(channel_id)
        # A second claim, begun before this one commits, would not see its open pushes.
        sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [CLAIM_LOCK, channel_id % 2**31])

    def out_of_sync(self, channel_id: int, limit: int) -> list[Picked]:
        return [
            Picked(*row)
            for row in sql.rows(
                """
                SELECT level.id, listing.inventory_item_id, location.remote_id, level.shown, level.desired,
                    level.push_failures
                FROM channels_listinglevel level
                JOIN channels_listing listing ON listing.id = level.listing_id
                JOIN channels_storelocation location ON location.id = level.store_location_id
                JOIN channels_channel channel ON channel.id = level.channel_id
                WHERE level.channel_id = %s AND channel.state = 'active' AND NOT channel.is_shadow
                    AND channel.next_call_at <= now() AND NOT channels_writing_is_stopped(channel.merchant_id)
                    AND level.is_out_of_sync AND level.next_push_at <= now()
                    -- So much differs in this store that nobody knows what a raise would be on top of.
                    AND (level.desired < level.shown OR channel.raises_paused_at IS NULL)
                    -- A raise that was given up may still come true: it is not asked for again on top of that.
                    AND (level.desired < level.shown OR level.doubtful_by IS NULL OR level.doubtful_by = 0)
                    AND (level.suspect_since IS NULL OR (level.desired < level.shown
                        AND (level.since_sample IS NOT NULL OR level.suspect_available IS NOT NULL)))
                    AND level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL
                    AND NOT EXISTS (
                        SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.state = 'open')
                ORDER BY level.desired > level.shown, coalesce(level.waiting_since, now()) > now() - %s,
                    CASE WHEN coalesce(level.waiting_since, now()) > now() - %s AND level.sold_at > now() - %s
                        THEN -level.rush_units ELSE 0 END,
                    level.waiting_since NULLS LAST, level.id
                LIMIT %s FOR NO KEY UPDATE OF level SKIP LOCKED
                """,
                [channel_id, WAITED_LONG, WAITED_LONG, SELLS_NOW, limit],
            )
        ]

    def open_batch(self, channel: ChannelRef, batch_id: uuid.UUID, chosen: Sequence[Picked], lease: timedelta) -> Batch:
        written = sql.rows(
            """
            WITH batch AS (
                INSERT INTO channels_pushbatch (id, merchant_id, channel_id, state, lease_token, attempts, next_attempt_at,
                    sent_at, created_at)
                VALUES (%s, %s, %s, 'intent', nextval('channels_lease_token'), 1, now() + %s, now(), now())
                RETURNING lease_token
            ), push AS (
                INSERT INTO channels_push (merchant_id, channel_id, batch_id, position, listing_level_id, from_quantity,
                    to_quantity, correlation_ids, caused_at)
                SELECT level.merchant_id, level.channel_id, %s, told.position, level.id, told.from_quantity,
                    told.to_quantity, level.waiting_correlation_ids, level.waiting_since
                FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[]) AS told (id, position, from_quantity, to_quantity)
                JOIN channels_listinglevel level ON level.id = told.id
                RETURNING id, listing_level_id
            ), emptied AS (
                UPDATE channels_listinglevel level SET waiting_correlation_ids = '{}', waiting_since = NULL
                FROM push WHERE level.id = push.listing_level_id
            )
            SELECT batch.lease_token, push.id, push.listing_level_id FROM batch, push
            """,
            [
                batch_id,
                channel.merchant_id,
                channel.channel_id,
                lease,
                batch_id,
                [pick.level_id for pick in chosen],
                list(range(len(chosen))),
                [pick.shown for pick in chosen],
                [pick.desired for pick in chosen],
            ],
        )
        push_ids = {level_id: push_id for _, push_id, level_id in written}
        rows = tuple(
            Row(
                push_ids[pick.level_id],
                pick.level_id,
                QuantityChange(pick.inventory_item_id, pick.location_id, pick.shown, pick.desired),
            )
            for pick in chosen
        )
        return Batch(batch_id, written[0][0], 1, is_repeat=False, rows=rows)

    def fence(self, batch: Batch, state: str, error: str, next_attempt: timedelta | None) -> bool:
        is_ours = bool(
            sql.rows(
                """
                UPDATE channels_pushbatch SET state = %s, error = %s, next_attempt_at = now() + %s,
                    answered_at = CASE WHEN %s THEN clock_timestamp() END
                WHERE id = %s AND lease_token = %s AND state IN ('intent', 'unknown') RETURNING id
                """,
                [state, error[:500], next_attempt, state != "unknown", batch.id, batch.lease_token],
            )
        )
        if is_ours and error:
            letters.note_batch_attempt(batch.id, error)
        return is_ours

    def uncount_attempt(self, batch: Batch) -> None:
        sql.execute("UPDATE channels_pushbatch SET attempts = attempts - 1 WHERE id = %s", [batch.id])

    def lock_level_rows(self, level_ids: Iterable[int]) -> None:
        stock.lock_level_rows(level_ids)

    def confirm(self, push_ids: Sequence[int], source_at: datetime | None) -> None:
        confirmed = sql.rows(
            """
            WITH confirmed AS (
                UPDATE channels_push SET state = 'confirmed', settled_at = clock_timestamp()
                WHERE id = ANY(%s::bigint[]) AND state = 'open'
                RETURNING listing_level_id, to_quantity - from_quantity AS delta, correlation_ids, caused_at
            ), moved AS (
                UPDATE channels_listinglevel level
                SET pushed = level.pushed + confirmed.delta, version = level.version + 1,
                    since_sample = level.since_sample + confirmed.delta,
                    source_at = greatest(level.source_at, %s), confirmed_at = clock_timestamp(),
                    push_failures = 0, last_error = ''
                FROM confirmed WHERE level.id = confirmed.listing_level_id
                RETURNING level.id, level.channel_id, level.merchant_id, level.listing_id, level.store_location_id,
                    confirmed.delta, confirmed.correlation_ids, confirmed.caused_at
            ), freed AS (
                -- Units were taken from a store: another one may have them now, where units are divided.
                INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
                SELECT moved.merchant_id, listing.sku_id, coalesce(moved.correlation_ids[1], gen_random_uuid()),
                    coalesce(moved.caused_at, now())
                FROM moved
                JOIN channels_listing listing ON listing.id = moved.listing_id
                JOIN locations_grouplocation member ON member.store_location_id = moved.store_location_id
                JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
                WHERE moved.delta < 0 AND listing.sku_id IS NOT NULL AND shelf_group.policy <> 'shared'
            )
            SELECT channel_id, extract(epoch FROM max(clock_timestamp() - caused_at))::float8, clock_timestamp()
            FROM moved WHERE caused_at IS NOT NULL GROUP BY channel_id
            """,
            [list(push_ids), source_at],
        )
        for channel_id, seconds, now in confirmed:
            note_lag("outbound", {channel_id: seconds}, now)

    def give_back(self, rows: Sequence[GivenBack]) -> None:
        if rows:
            sql.execute(
                """
                WITH rejected AS (
                    UPDATE channels_push push
                    SET state = 'rejected', settled_at = clock_timestamp(), error_code = told.code, error = told.message
                    FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::interval[], %s::int[], %s::timestamptz[],
                            %s::bool[])
                        AS told (id, code, message, pause, failures, doubtful_until, may_be_applied),
                        channels_pushbatch batch
                    WHERE push.id = told.id AND push.state = 'open' AND batch.id = push.batch_id
                    RETURNING push.listing_level_id, push.correlation_ids, push.caused_at, told.pause, told.failures,
                        told.code, told.message, told.doubtful_until, batch.created_at AS opened_at,
                        greatest(0, push.to_quantity - push.from_quantity) AS raised_by,
                        CASE WHEN told.may_be_applied THEN greatest(0, push.from_quantity - push.to_quantity) ELSE 0 END
                            AS lowered_by
                ), moved AS (
                    UPDATE channels_listinglevel level
                    SET waiting_correlation_ids = (level.waiting_correlation_ids || rejected.correlation_ids)[1:%s],
                        waiting_since = least(level.waiting_since, rejected.caused_at),
                        next_push_at = now() + rejected.pause, push_failures = level.push_failures + rejected.failures,
                        last_error = left(concat_ws(': ', nullif(rejected.code, ''), rejected.message), 500),
                        doubtful_by = CASE WHEN rejected.doubtful_until IS NULL THEN level.doubtful_by
                            ELSE coalesce(level.doubtful_by, 0) + rejected.raised_by END,
                        doubtful_from = CASE WHEN rejected.doubtful_until IS NULL THEN level.doubtful_from
                            ELSE least(level.doubtful_from, rejected.opened_at) END,
                        doubtful_until = greatest(level.doubtful_until, rejected.doubtful_until),
                        doubtful_lowers = CASE WHEN rejected.lowered_by > 0
                            THEN (rejected.lowered_by || level.doubtful_lowers)[1:%s] ELSE level.doubtful_lowers END,
                        doubtful_lowers_at = CASE WHEN rejected.lowered_by > 0
                            THEN (rejected.opened_at || level.doubtful_lowers_at)[1:%s] ELSE level.doubtful_lowers_at END
                    FROM rejected WHERE level.id = rejected.listing_level_id
                    RETURNING level.merchant_id, level.listing_id, level.store_location_id, rejected.raised_by,
                        rejected.correlation_ids, rejected.caused_at
                )
                -- A raise that did not come about leaves units to others, where units are divided.
                INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
                SELECT moved.merchant_id, listing.sku_id, coalesce(moved.correlation_ids[1], gen_random_uuid()),
                    coalesce(moved.caused_at, now())
                FROM moved
                JOIN channels_listing listing ON listing.id = moved.listing_id
                JOIN locations_grouplocation member ON member.store_location_id = moved.store_location_id
                JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
                WHERE moved.raised_by > 0 AND listing.sku_id IS NOT NULL AND shelf_group.policy <> 'shared'
                """,
                [
                    [row.push_id for row in rows],
                    [row.code[:80] for row in rows],
                    [row.message[:500] for row in rows],
                    [row.pause for row in rows],
                    [row.failures for row in rows],
                    [row.is_doubtful_until for row in rows],
                    [row.may_be_applied for row in rows],
                    STORY_EVENTS,
                    DOUBTFUL_LOWERS,
                    DOUBTFUL_LOWERS,
                ],
            )

    def mind_clock(self) -> None:
        with transaction.atomic():
            found = sql.rows(
                """
                UPDATE sync_heartbeat clock SET beat_at = now()
                FROM (SELECT name, beat_at FROM sync_heartbeat WHERE name = 'clock' FOR UPDATE) before
                WHERE clock.name = before.name RETURNING before.beat_at - clock.beat_at
                """
            )
            if not found:
                sql.execute("INSERT INTO sync_heartbeat (name, beat_at) VALUES ('clock', now()) ON CONFLICT DO NOTHING")
            elif found[0][0] > CLOCK_STEP:
                log.warning("clock.set_back", seconds=found[0][0].total_seconds())
                for statement in _BRING_NEARER:
                    sql.execute(statement, found[0])
            # By whatever clock they were dated.
            sql.execute(
                "UPDATE channels_listinglevel SET doubtful_until = now() + %s WHERE doubtful_until > now() + %s",
                [DOUBTFUL, DOUBTFUL],
            )

    def end_doubts(self) -> None:
        sql.execute(
            """
            WITH due AS (
                SELECT id, coalesce(doubtful_by, 0) = 0 AS is_over FROM channels_listinglevel
                WHERE doubtful_until <= now() AND (suspect_since IS NULL OR doubtful_by = 0)
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
            ), asked AS (
                UPDATE channels_listinglevel level
                SET suspect_since = now(), suspect_reason = 'a raise that was given up may have come true',
                    next_check_at = now()
                FROM due WHERE level.id = due.id AND NOT due.is_over
            ), ended AS (
                UPDATE channels_listinglevel level SET doubtful_by = NULL, doubtful_from = NULL, doubtful_until = NULL
                FROM due, channels_listing listing
                WHERE level.id = due.id AND due.is_over AND listing.id = level.listing_id
                RETURNING level.merchant_id, listing.sku_id
            )
            INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
            SELECT merchant_id, sku_id, %s, now() FROM ended WHERE sku_id IS NOT NULL
            """,
            [uuid7()],
        )

    def suspect(self, level_ids: Collection[int], reason: str, check_after: timedelta) -> None:
        sql.execute(
            """
            UPDATE channels_listinglevel
            SET suspect_since = coalesce(suspect_since, now()), suspect_reason = %s, suspect_available = NULL,
                since_sample = NULL, next_check_at = now() + %s
            WHERE id = ANY(%s::bigint[])
            """,
            [reason, check_after, sorted(level_ids)],
        )

    def channel_answered(self, channel_id: int) -> int:
        ended = sql.rows(
            """
            WITH failing AS (
                SELECT id, failures FROM channels_channel WHERE id = %s AND failures > 0 FOR NO KEY UPDATE
            )
            UPDATE channels_channel channel SET failures = 0, failing_since = NULL, failing_cause = '',
                last_error = ''
            FROM failing WHERE channel.id = failing.id RETURNING failing.failures
            """,
            [channel_id],
        )
        return int(ended[0][0]) if ended else 0

    def mark_shelves_dirty(self, channel: ChannelRef, now: datetime) -> None:
        sql.execute(
            """
            INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
            SELECT DISTINCT listing.merchant_id, listing.sku_id, %s::uuid, %s::timestamptz
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN locations_grouplocation member ON member.store_location_id = level.store_location_id
            JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
            WHERE level.channel_id = %s AND listing.sku_id IS NOT NULL AND shelf_group.policy <> 'shared'
            """,
            [uuid7(), now, channel.channel_id],
        )

    def count_failure(self, channel_id: int, cause: str, error: str) -> int:
        [(failures,)] = sql.rows(
            """
            UPDATE channels_channel
            SET failures = failures + 1, failing_since = coalesce(failing_since, now()), failing_cause = %s, last_error = %s
            WHERE id = %s RETURNING failures
            """,
            [cause, error[:500], channel_id],
        )
        return int(failures)

    def note_outage(self, channel_id: int, cause: str, error: str) -> bool:
        return bool(
            sql.rows(
                """
                UPDATE channels_channel
                SET failures = %s, failing_since = coalesce(failing_since, now()), failing_cause = %s, last_error = %s
                WHERE id = %s AND failures < %s RETURNING id
                """,
                [OUTAGE_FAILURES, cause, error[:500], channel_id, OUTAGE_FAILURES],
            )
        )

    def rest_channel(self, channel_id: int, wait: timedelta, error: str) -> None:
        sql.execute(
            "UPDATE channels_channel SET next_call_at = now() + %s, last_error = %s WHERE id = %s",
            [wait, error[:500], channel_id],
        )


def _keep_switch_waiting(channel_id: int) -> None:
    """Keep the kill switch from committing before this transaction has; from here on it is seen whether it is on."""
    sql.rows(
        """
        SELECT pg_advisory_xact_lock_shared(%s, 0), pg_advisory_xact_lock_shared(%s, (merchant_id %% 2147483648)::int)
        FROM channels_channel WHERE id = %s
        """,
        [STOP_LOCK, STOP_LOCK, channel_id],
    )


def _rows_of(batch_id: uuid.UUID) -> tuple[Row, ...]:
    return tuple(
        Row(push_id, level_id, QuantityChange(item, location, from_quantity, to_quantity))
        for push_id, level_id, item, location, from_quantity, to_quantity in sql.rows(
            """
            SELECT push.id, push.listing_level_id, listing.inventory_item_id, location.remote_id, push.from_quantity,
                push.to_quantity
            FROM channels_push push
            JOIN channels_listinglevel level ON level.id = push.listing_level_id
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE push.batch_id = %s ORDER BY push.position
            """,
            [batch_id],
        )
    )
