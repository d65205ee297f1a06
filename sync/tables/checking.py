"""Suspects, samples and what they come to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from locations.routing import in_use
from sync import register
from sync.models import Cause, Drift
from sync.ports import LOOK_AGAIN, ChannelRef, DriftFound, Due, Edits, Finding, LockedSuspect, held_first
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
                    -- Of what is gone there is nothing to learn but that its orders are known.
                    ORDER BY gone_at IS NOT NULL, next_check_at, id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
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
        [row] = sql.rows(
            """
            SELECT CASE WHEN is_shadow THEN 'override' ELSE on_loss END, CASE WHEN is_shadow THEN 'override' ELSE on_gain END
            FROM channels_channel WHERE id = %s
            """,
            [channel_id],
        )
        return Edits(*row)

    def hold_places(self, level_ids: Collection[int]) -> dict[int, tuple[int, ...]]:
        held_at: dict[int, int | None] = {}
        drawn_on: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for level, holds, stock_level, is_on in sql.rows(
            """
            SELECT level.id, level.held_at_id, drawn_on.id, drawn_on.is_active
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            LEFT JOIN inventory_stocklevel holding ON holding.id = level.held_at_id
            LEFT JOIN LATERAL (
                SELECT stock_level.id, warehouse.is_active, mapping.priority FROM locations_mapping mapping
                JOIN inventory_warehouse warehouse ON warehouse.id = mapping.warehouse_id
                JOIN inventory_stocklevel stock_level ON stock_level.warehouse_id = warehouse.id
                    AND stock_level.sku_id = coalesce(holding.sku_id, listing.sku_id)
                WHERE mapping.store_location_id = level.store_location_id) drawn_on ON true
            WHERE level.id = ANY(%s::bigint[]) ORDER BY level.id, drawn_on.priority
            """,
            [sorted(level_ids)],
        ):
            held_at[level] = holds
            if stock_level is not None:
                drawn_on[level].append((stock_level, is_on))
        return {level: held_first(held_at[level], in_use(drawn_on[level])) for level in held_at}

    def lock_suspects(self, level_ids: Collection[int]) -> list[LockedSuspect]:
        return [
            LockedSuspect(*row)
            for row in sql.rows(
                """
                SELECT level.id, listing.sku_id, coalesce(sku.kind = 'bundle', false), level.base, level.order_effects,
                    level.pushed, level.version,
                    level.confirmed_at IS NULL OR NOT level.is_stocked OR level.gone_at IS NOT NULL, level.gone_at,
                    level.sample, level.sampled_from, level.sampled_until, level.sample_pushed, level.sampled_ahead,
                    level.held, level.held_at_id, level.confirmed_at, push.id, push.to_quantity - push.from_quantity,
                    batch.sent_at,
                    coalesce(level.doubtful_from <= coalesce(level.sampled_until, now()), false),
                    CASE WHEN level.doubtful_by > 0 THEN level.doubtful_until END,
                    level.doubtful_lowers, level.doubtful_lowers_at
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

    def taken_since(self, level_id: int, since: datetime, until: datetime, known_since: datetime) -> tuple[int, bool]:
        found = [
            register.taken_since(register.from_json(json.loads(facts)), since, until)
            for (facts,) in sql.rows(
                """
                SELECT facts FROM sync_orderline line
                WHERE listing_level_id = %s AND updated_at >= %s - interval '1 hour'
                    AND NOT EXISTS (SELECT 1 FROM sync_placement placed WHERE placed.order_line_id = line.id)
                """,
                [level_id, known_since],
            )
        ]
        found += [
            register.taken_elsewhere_since(register.from_json(json.loads(facts)), units, until)
            for facts, units in sql.rows(
                """
                SELECT line.facts, placed.committed - placed.on_hand FROM sync_placement placed
                JOIN sync_orderline line ON line.id = placed.order_line_id
                WHERE placed.listing_level_id = %s AND placed.changed_at >= %s
                UNION ALL
                -- First heard of since, and at another place: nobody tells whether it was here before.
                SELECT facts, 0 FROM sync_orderline
                WHERE listing_level_id = ANY(ARRAY(
                        SELECT other.id FROM channels_listinglevel level
                        JOIN channels_listinglevel other ON other.listing_id = level.listing_id AND other.id <> level.id
                        WHERE level.id = %s))
                    AND created_at >= %s AND updated_at >= %s - interval '1 hour'
                UNION ALL
                SELECT line.facts, 0 FROM channels_listinglevel level
                JOIN sync_orderline line ON line.channel_id = level.channel_id AND line.waiting_for <> ''
                WHERE level.id = %s AND line.listing_id = level.listing_id AND line.listing_level_id IS NULL
                    AND line.created_at >= %s
                """,
                [level_id, known_since, level_id, known_since, known_since, level_id, known_since],
            )
        ]
        return sum(units for units, _ in found), any(is_unclear for _, is_unclear in found)

    def write_findings(self, findings: Sequence[Finding], now: datetime) -> None:
        settled = [finding for finding in findings if finding.is_settled]
        sampled = [finding for finding in findings if not finding.is_settled and finding.sample is not None]
        unknown = [finding for finding in findings if not finding.is_settled and finding.sample is None]
        if settled:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET base = level.base + told.residue, version = level.version + 1,
                    is_stocked = told.is_stocked, gone_at = NULL,
                    sample = NULL, since_sample = NULL, sample_pushed = NULL, sampled_from = NULL, sampled_until = NULL,
                    sampled_ahead = NULL, suspect_since = NULL, suspect_reason = '', suspect_available = NULL,
                    next_check_at = NULL, held = 0, held_at_id = NULL, doubtful_lowers = '{}', doubtful_lowers_at = '{}',
                    doubtful_by = CASE WHEN NOT told.ends_doubt THEN level.doubtful_by END,
                    doubtful_from = CASE WHEN NOT told.ends_doubt THEN level.doubtful_from END,
                    doubtful_until = CASE WHEN NOT told.ends_doubt THEN level.doubtful_until END,
                    confirmed_at = %s, source_at = greatest(level.source_at, told.source_at)
                FROM unnest(%s::bigint[], %s::int[], %s::bool[], %s::timestamptz[], %s::bool[])
                    AS told (id, residue, is_stocked, source_at, ends_doubt)
                WHERE level.id = told.id
                """,
                [
                    now,
                    [finding.level_id for finding in settled],
                    [finding.residue for finding in settled],
                    [finding.is_stocked for finding in settled],
                    [finding.source_at for finding in settled],
                    [finding.ends_doubt for finding in settled],
                ],
            )
        if sampled:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET base = level.base + told.residue, version = level.version + (told.residue <> 0)::int,
                    sample = told.sample, since_sample = told.since_sample, sample_pushed = told.sample_pushed,
                    sampled_from = told.sampled_from, sampled_until = told.sampled_until, sampled_ahead = told.sampled_ahead,
                    suspect_available = NULL, held = told.held, held_at_id = told.held_at,
                    next_check_at = least(told.next_check_at, now() + %s),
                    -- What was opened after the sample that is settled may be in the newest.
                    doubtful_lowers = CASE WHEN told.is_audited THEN ARRAY(
                        SELECT units
                        FROM unnest(level.doubtful_lowers, level.doubtful_lowers_at) AS written (units, opened_at)
                        WHERE opened_at > level.sampled_until) ELSE level.doubtful_lowers END,
                    doubtful_lowers_at = CASE WHEN told.is_audited THEN ARRAY(
                        SELECT opened_at FROM unnest(level.doubtful_lowers_at) AS written (opened_at)
                        WHERE opened_at > level.sampled_until) ELSE level.doubtful_lowers_at END,
                    doubtful_by = CASE WHEN NOT told.ends_doubt THEN level.doubtful_by END,
                    doubtful_from = CASE WHEN NOT told.ends_doubt THEN level.doubtful_from END,
                    doubtful_until = CASE WHEN NOT told.ends_doubt THEN level.doubtful_until END
                FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[], %s::timestamptz[], %s::timestamptz[],
                        %s::interval[], %s::int[], %s::bigint[], %s::timestamptz[], %s::bool[], %s::bool[])
                    AS told (id, residue, sample, since_sample, sample_pushed, sampled_from, sampled_until, sampled_ahead,
                        held, held_at, next_check_at, is_audited, ends_doubt)
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
                    [finding.sampled_ahead for finding in sampled],
                    [finding.held for finding in sampled],
                    [finding.held_at for finding in sampled],
                    [finding.next_check_at for finding in sampled],
                    [finding.is_audited for finding in sampled],
                    [finding.ends_doubt for finding in sampled],
                ],
            )
        if unknown:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET next_check_at = least(told.next_check_at, now() + %s), gone_at = coalesce(told.gone_at, level.gone_at),
                    is_stocked = level.is_stocked AND told.gone_at IS NULL,
                    version = level.version + (told.gone_at IS NOT NULL AND level.gone_at IS NULL)::int,
                    suspect_available = CASE WHEN told.gone_at IS NULL THEN level.suspect_available ELSE told.shows END
                FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[], %s::int[])
                    AS told (id, next_check_at, gone_at, shows)
                WHERE level.id = told.id
                """,
                [
                    LOOK_AGAIN,
                    [finding.level_id for finding in unknown],
                    [finding.next_check_at for finding in unknown],
                    [finding.gone_at for finding in unknown],
                    [finding.shows for finding in unknown],
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
                cause=Cause.AMBIGUOUS if drift.is_ambiguous else Cause.BY_HAND,
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
