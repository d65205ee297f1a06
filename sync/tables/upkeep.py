"""What a change of configuration or of stock by hand does to marks and levels."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sync.tables.stock import load_bundles
from synctec.lib import sql


def mark_dirty(*, merchant_id: int, sku_ids: Collection[int] | None, correlation_id: uuid.UUID, now: datetime) -> None:
    """Mark SKUs for publishing in the caller's transaction, with every bundle that contains them. None: all mapped SKUs."""
    if sku_ids is None:
        sql.execute(
            """
            INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
            SELECT DISTINCT merchant_id, sku_id, %s::uuid, %s::timestamptz FROM channels_listing
            WHERE merchant_id = %s AND sku_id IS NOT NULL
            """,
            [correlation_id, now, merchant_id],
        )
        return
    _, bundles = load_bundles(merchant_id, sku_ids)
    sql.execute(
        """
        INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
        SELECT %s, sku, %s, %s FROM unnest(%s::bigint[]) AS sku
        """,
        [
            merchant_id,
            correlation_id,
            now,
            sorted({*sku_ids, *(bundle for containing in bundles.values() for bundle in containing)}),
        ],
    )


def mark_each_dirty(*, merchant_id: int, changes: Collection[tuple[int, uuid.UUID]], now: datetime) -> None:
    """As `mark_dirty`, for many changes at once: each SKU with the correlation id of what changed it."""
    sql.execute(
        """
        WITH RECURSIVE told (sku, correlation_id) AS (
            SELECT * FROM unnest(%s::bigint[], %s::uuid[])
        ), above (origin, sku) AS (
            SELECT DISTINCT sku, sku FROM told UNION
            SELECT above.origin, line.bundle_id FROM above JOIN inventory_bomline line ON line.component_id = above.sku)
        INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
        SELECT DISTINCT %s::bigint, above.sku, told.correlation_id, %s::timestamptz
        FROM told JOIN above ON above.origin = told.sku
        """,
        [[sku for sku, _ in changes], [correlation for _, correlation in changes], merchant_id, now],
    )


def add_missing_levels(*, merchant_id: int) -> int:
    """Give every mapped listing a level at each mapped location of its channel; new ones are read before all else."""
    return sql.execute(
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
        ORDER BY listing.id, location.id
        ON CONFLICT DO NOTHING
        """,
        [merchant_id],
    )


def withdraw_unmapped(*, listing_ids: Collection[int]) -> None:
    """What those of the listings show that have no SKU is not ours to say."""
    sql.execute(
        """
        WITH unmapped AS (
            SELECT level.id FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
            WHERE listing.id = ANY(%s::bigint[]) AND listing.sku_id IS NULL ORDER BY level.id FOR NO KEY UPDATE OF level
        )
        UPDATE channels_listinglevel level SET desired = NULL FROM unmapped WHERE level.id = unmapped.id
        """,
        [sorted(listing_ids)],
    )


def doubt_places_that_become_ours(*, merchant_id: int) -> int:
    """Have the levels read of places that draw on a warehouse and were never written to: what webhooks told of them was set
    aside."""
    return sql.execute(
        """
        WITH doubted AS (
            SELECT level.id FROM channels_storelocation place
            JOIN channels_listinglevel level ON level.store_location_id = place.id
            JOIN channels_listing listing ON listing.id = level.listing_id
            WHERE place.merchant_id = %s AND listing.sku_id IS NOT NULL AND level.suspect_since IS NULL
                AND EXISTS (SELECT 1 FROM locations_mapping mapping WHERE mapping.store_location_id = place.id)
                AND NOT EXISTS (
                    SELECT 1 FROM channels_listinglevel written
                    WHERE written.store_location_id = place.id AND written.desired IS NOT NULL)
            ORDER BY level.id FOR NO KEY UPDATE OF level
        )
        UPDATE channels_listinglevel level SET suspect_since = now(), suspect_reason = 'mapped', next_check_at = now()
        FROM doubted WHERE level.id = doubted.id
        """,
        [merchant_id],
    )


def waits_for_places(*, merchant_id: int) -> set[tuple[int, str]]:
    """What order lines have waited for that can be placed at the merchant's locations by now (`sync.decide`)."""
    return {
        (channel, wait)
        for channel, place, remote_id in sql.rows(
            """
            SELECT channel_id, id, remote_id FROM channels_storelocation place
            WHERE merchant_id = %s
                AND EXISTS (SELECT 1 FROM locations_mapping mapping WHERE mapping.store_location_id = place.id)
            """,
            [merchant_id],
        )
        for wait in ("location of the sale", f"location {remote_id}", f"location without a warehouse: {place}")
    }


def take_up(*, waits: Collection[tuple[int, str]]) -> int:
    """Have events applied again that were set aside for want of one of these, and the latest of each order line that waits
    for one; returns how many.

    What another transaction is at work on is left to the sweep.
    """
    by_channel: dict[int, list[str]] = defaultdict(list)
    for channel, wait in sorted(waits):
        by_channel[channel].append(wait)
    # What is waited for is told as values: most of what was ever set aside may wait for one and the same thing, and a plan
    # that does not know for which reads all of it.
    return sum(
        sql.execute(
            """
            UPDATE channels_inboxevent
            SET state = 'pending', reason = '', attempts = 0, settled_at = NULL, next_attempt_at = now()
            WHERE id = ANY(ARRAY(
                SELECT id FROM channels_inboxevent WHERE state IN ('applied', 'ignored') AND id = ANY(ARRAY(
                    SELECT latest_event_id FROM sync_orderline
                    WHERE channel_id = %s AND waiting_for = ANY(%s::text[]) AND waiting_for <> ''
                    UNION
                    SELECT id FROM channels_inboxevent
                    WHERE channel_id = %s AND reason = ANY(%s::text[]) AND state = 'ignored' AND reason LIKE 'unmapped %%'
                        AND topic NOT LIKE 'inventory%%'
                )) ORDER BY id FOR UPDATE SKIP LOCKED
            ))
            """,
            [channel, [wait[:120] for wait in told], channel, [f"unmapped {wait}" for wait in told]],
        )
        for channel, told in by_channel.items()
    )
