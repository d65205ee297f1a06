"""What a change of configuration or of stock by hand does to marks and levels."""

from __future__ import annotations

import uuid
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
        ON CONFLICT DO NOTHING
        """,
        [merchant_id],
    )
