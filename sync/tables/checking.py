"""Suspects, samples and what they come to."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sync import register
from sync.models import Drift
from sync.ports import LOOK_AGAIN, ChannelRef, DriftFound, Due, Edits, Finding, LockedSuspect
from sync.tables.stock import load_bundles
from synctec.lib import sql


class CheckTables:
    """Readings are durable, so a crash costs one more reading at most."""

    def claim_suspects(self, channel_id: int, limit: int, lease: timedelta) -> list[Due]:
        return [
            Due(*row)
            for row in sql.rows(
                """
                WITH due AS (
                    SELECT id FROM channels_listinglevel
                    WHERE channel_id = %s AND suspect_since IS NOT NULL AND next_check_at <= now()
                    ORDER BY next_check_at, id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
                )
                UPDATE channels_listinglevel level SET next_check_at = now() + %s
                FROM due, channels_listing listing, channels_storelocation location
                WHERE level.id = due.id AND listing.id = level.listing_id AND location.id = level.store_location_id
                RETURNING level.id, listing.inventory_item_id, location.remote_id, level.version, level.pushed
                """,
                [channel_id, limit, lease],
            )
        ]

    def orders_applied_since(self, channel_id: int) -> datetime | None:
        [(orders_read_at, has_pending)] = sql.rows(
            """
            SELECT CASE WHEN channel.orders_read_at <= now() THEN channel.orders_read_at END, EXISTS (
                SELECT 1 FROM channels_inboxevent event
                WHERE event.merchant_id = channel.merchant_id AND event.channel_id = channel.id
                    AND event.state = 'pending' AND (event.topic LIKE 'orders/%%' OR event.topic LIKE 'refunds/%%'))
            FROM channels_channel channel WHERE channel.id = %s
            """,
            [channel_id],
        )
        return None if has_pending else orders_read_at

    def edits(self, channel_id: int) -> Edits:
        [row] = sql.rows("SELECT on_loss, on_gain FROM channels_channel WHERE id = %s", [channel_id])
        return Edits(*row)

    def hold_places(self, level_ids: Collection[int]) -> dict[int, int | None]:
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

    def lock_suspects(self, level_ids: Collection[int]) -> list[LockedSuspect]:
        return [
            LockedSuspect(*row)
            for row in sql.rows(
                """
                SELECT level.id, listing.sku_id, coalesce(sku.kind = 'bundle', false), level.base, level.order_effects,
                    level.pushed, level.version, level.confirmed_at IS NULL OR NOT level.is_stocked, level.sample,
                    level.sampled_from, level.sampled_until, level.sample_pushed, level.held, level.held_at_id,
                    level.confirmed_at, push.id, push.to_quantity - push.from_quantity, batch.sent_at,
                    level.doubtful_until IS NOT NULL, level.doubtful_lowers
                FROM channels_listinglevel level
                JOIN channels_listing listing ON listing.id = level.listing_id
                LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
                LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'open'
                LEFT JOIN channels_pushbatch batch ON batch.id = push.batch_id
                WHERE level.id = ANY(%s::bigint[]) AND level.suspect_since IS NOT NULL
                    -- A write is under way, or will be sent again: what the level shows says nothing before its answer.
                    AND (batch.state IS NULL OR batch.state NOT IN ('intent', 'unknown'))
                ORDER BY level.id FOR NO KEY UPDATE OF level
                """,
                [sorted(level_ids)],
            )
        ]

    def taken_since(self, level_id: int, since: datetime, until: datetime) -> tuple[int, bool]:
        taken, is_ambiguous = 0, False
        for (facts,) in sql.rows(
            """
            SELECT facts FROM sync_orderline WHERE listing_level_id = %s AND updated_at >= %s - interval '1 hour'
            """,
            [level_id, since],
        ):
            units, is_unclear = register.taken_since(register.from_json(json.loads(facts)), since, until)
            taken += units
            is_ambiguous = is_ambiguous or is_unclear
        return taken, is_ambiguous

    def write_findings(self, findings: Sequence[Finding], now: datetime) -> None:
        settled = [finding for finding in findings if finding.is_settled]
        sampled = [finding for finding in findings if not finding.is_settled and finding.sample is not None]
        unknown = [finding for finding in findings if not finding.is_settled and finding.sample is None]
        if settled:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET base = level.base + told.residue, version = level.version + 1, is_stocked = told.is_stocked,
                    sample = NULL, since_sample = NULL, sample_pushed = NULL, sampled_from = NULL, sampled_until = NULL,
                    suspect_since = NULL, suspect_reason = '', suspect_available = NULL, next_check_at = NULL, held = 0,
                    held_at_id = NULL, doubtful_lowers = '{}', confirmed_at = %s,
                    source_at = greatest(level.source_at, told.source_at)
                FROM unnest(%s::bigint[], %s::int[], %s::bool[], %s::timestamptz[])
                    AS told (id, residue, is_stocked, source_at)
                WHERE level.id = told.id
                """,
                [
                    now,
                    [finding.level_id for finding in settled],
                    [finding.residue for finding in settled],
                    [finding.is_stocked for finding in settled],
                    [finding.source_at for finding in settled],
                ],
            )
        if sampled:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET base = level.base + told.residue, version = level.version + (told.residue <> 0)::int,
                    sample = told.sample, since_sample = told.since_sample, sample_pushed = told.sample_pushed,
                    sampled_from = told.sampled_from, sampled_until = told.sampled_until, suspect_available = NULL,
                    held = told.held, held_at_id = told.held_at, next_check_at = least(told.next_check_at, now() + %s),
                    doubtful_lowers = CASE WHEN told.is_audited THEN '{}' ELSE level.doubtful_lowers END
                FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[],
                        %s::int[], %s::bigint[], %s::timestamptz[], %s::bool[])
                    AS told (id, residue, sample, since_sample, sample_pushed, sampled_from, sampled_until, held, held_at,
                        next_check_at, is_audited)
                WHERE level.id = told.id
                """,
                [
                    LOOK_AGAIN,
                    [finding.level_id for finding in sampled],
                    [finding.residue for finding in sampled],
                    [finding.sample for finding in sampled],
                    [finding.since_sample for finding in sampled],
                    [finding.sample_pushed for finding in sampled],
                    [finding.sampled_from for finding in sampled],
                    [finding.sampled_until for finding in sampled],
                    [finding.held for finding in sampled],
                    [finding.held_at for finding in sampled],
                    [finding.next_check_at for finding in sampled],
                    [finding.is_audited for finding in sampled],
                ],
            )
        if unknown:
            sql.execute(
                """
                UPDATE channels_listinglevel level SET next_check_at = least(told.next_check_at, now() + %s)
                FROM unnest(%s::bigint[], %s::timestamptz[]) AS told (id, next_check_at) WHERE level.id = told.id
                """,
                [
                    LOOK_AGAIN,
                    [finding.level_id for finding in unknown],
                    [finding.next_check_at for finding in unknown],
                ],
            )

    def add_drifts(self, channel: ChannelRef, drifts: Sequence[DriftFound]) -> None:
        Drift.objects.bulk_create(
            Drift(
                merchant_id=channel.merchant_id,
                channel_id=channel.channel_id,
                listing_level_id=drift.level_id,
                expected=drift.expected,
                actual=drift.actual,
                action=drift.action,
                explanation=drift.explanation,
                is_ambiguous=drift.is_ambiguous,
                previous_confirmed_at=drift.previous_confirmed_at,
                correlation_id=drift.correlation_id,
                found_at=drift.found_at,
                held=drift.held,
                held_at_id=drift.held_at,
            )
            for drift in drifts
        )

    def bundles_with(self, merchant_id: int, sku_ids: Collection[int]) -> set[int]:
        _, bundles = load_bundles(merchant_id, sku_ids)
        return {*sku_ids, *(bundle for containing in bundles.values() for bundle in containing)}

    def suspect_unsuspected(self, level_ids: Collection[int], reason: str, now: datetime) -> None:
        sql.execute(
            """
            WITH unsuspected AS (
                SELECT id FROM channels_listinglevel WHERE id = ANY(%s::bigint[]) AND suspect_since IS NULL
                ORDER BY id FOR NO KEY UPDATE
            )
            UPDATE channels_listinglevel level SET suspect_since = %s, suspect_reason = %s, next_check_at = least(%s, now())
            FROM unsuspected WHERE level.id = unsuspected.id
            """,
            [sorted(level_ids), now, reason, now],
        )
