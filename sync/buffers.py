"""How buffers are used, read from the ledger once an hour: every dip is there to be found, and no sale pays for it.

The stock behind a listing level is that of its SKU in the warehouses its location draws on. What was available after each
transaction follows from what is available now, less what later movements did; the ledger's sequence has no gaps, so each
level is walked back movement by movement, and exactly as far as is needed.

Buffers in units are judged, of listings of plain SKUs. One in percent shrinks with the stock, so nothing ever eats into it; a
bundle's parts have listings or none.

Invariant: an hour is a function of the ledger, so it may be read again; a row is of a whole hour.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, LiteralString

from synctec.lib import sql

#: Hours that were missed are read later, as far back as this: the walk gets longer with each.
CAUGHT_UP: Final = timedelta(hours=24)
_HOUR: Final = timedelta(hours=1)

_READ_HOUR: Final[LiteralString] = """
    WITH RECURSIVE buffered AS (
        SELECT DISTINCT channel_id FROM locations_publishingrule WHERE buffer_units > 0
    ), watched AS (
        SELECT level.id, level.merchant_id, level.channel_id, level.store_location_id, listing.sku_id,
            coalesce(of_listing.buffer_units, of_sku.buffer_units, of_channel.buffer_units) AS size
        FROM buffered
        JOIN channels_listinglevel level ON level.channel_id = buffered.channel_id AND level.desired IS NOT NULL
        JOIN channels_listing listing ON listing.id = level.listing_id AND listing.deleted_at IS NULL
        LEFT JOIN locations_publishingrule of_listing ON of_listing.listing_id = listing.id
        LEFT JOIN locations_publishingrule of_sku
            ON of_sku.channel_id = level.channel_id AND of_sku.sku_id = listing.sku_id
        LEFT JOIN locations_publishingrule of_channel
            ON of_channel.channel_id = level.channel_id AND of_channel.sku_id IS NULL AND of_channel.listing_id IS NULL
        WHERE coalesce(of_listing.buffer_units, of_sku.buffer_units, of_channel.buffer_units) > 0
    ), behind AS (
        SELECT watched.id AS level_id, stock.id AS stock_id, stock.available, stock.seq
        FROM watched
        JOIN locations_mapping mapping ON mapping.store_location_id = watched.store_location_id
        JOIN inventory_warehouse warehouse ON warehouse.id = mapping.warehouse_id AND warehouse.is_active
        JOIN inventory_stocklevel stock
            ON stock.sku_id = watched.sku_id AND stock.warehouse_id = mapping.warehouse_id
    ), walked (stock_id, seq, at, transaction_id, effect) AS (
        SELECT movement.stock_level_id, movement.seq, movement.created_at, movement.transaction_id,
            CASE movement.account WHEN 'on_hand' THEN movement.delta ELSE -movement.delta END
        FROM (SELECT DISTINCT stock_id, seq FROM behind) AS newest
        JOIN inventory_movement movement ON movement.stock_level_id = newest.stock_id AND movement.seq = newest.seq
        UNION ALL
        SELECT earlier.stock_level_id, earlier.seq, earlier.created_at, earlier.transaction_id,
            CASE earlier.account WHEN 'on_hand' THEN earlier.delta ELSE -earlier.delta END
        FROM walked
        JOIN inventory_movement earlier ON earlier.stock_level_id = walked.stock_id AND earlier.seq = walked.seq - 1
        WHERE walked.at >= %s
    ), step AS (
        -- The accounts of a transaction move together: what is available in the middle of it never was.
        SELECT behind.level_id, walked.transaction_id, max(walked.at) AS at, sum(walked.effect) AS effect
        FROM behind JOIN walked ON walked.stock_id = behind.stock_id
        WHERE walked.at >= %s GROUP BY behind.level_id, walked.transaction_id
    ), standing AS (
        SELECT level_id, sum(available) AS available FROM behind GROUP BY level_id
    ), told AS (
        SELECT step.level_id, step.at, step.effect, standing.available - coalesce(sum(step.effect) OVER later, 0) AS left_over
        FROM step JOIN standing USING (level_id)
        WINDOW later AS (PARTITION BY step.level_id ORDER BY step.at DESC, step.transaction_id DESC
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), ended AS (
        SELECT standing.level_id,
            standing.available - coalesce(sum(step.effect) FILTER (WHERE step.at >= %s), 0) AS left_over
        FROM standing LEFT JOIN step USING (level_id) GROUP BY standing.level_id, standing.available
    ), used AS (
        SELECT watched.id, watched.merchant_id, watched.channel_id, watched.size,
            count(*) FILTER (WHERE told.left_over < watched.size AND told.left_over - told.effect >= watched.size) AS entered,
            count(*) FILTER (WHERE told.left_over < 0 AND told.left_over - told.effect >= 0) AS below_zero,
            greatest(0, watched.size - greatest(0, least(min(told.left_over), min(ended.left_over)))) AS used
        FROM watched JOIN ended ON ended.level_id = watched.id
        LEFT JOIN told ON told.level_id = watched.id AND told.at < %s
        GROUP BY watched.id, watched.merchant_id, watched.channel_id, watched.size
    )
    INSERT INTO sync_bufferuse (merchant_id, channel_id, hour, levels, entered, below_zero, used, size)
    SELECT merchant_id, channel_id, %s, count(*), sum(entered), sum(below_zero),
        (array_agg(used ORDER BY used DESC, size DESC))[1], (array_agg(size ORDER BY used DESC, size DESC))[1]
    FROM used GROUP BY merchant_id, channel_id
    ON CONFLICT (channel_id, hour) DO UPDATE SET levels = excluded.levels, entered = excluded.entered,
        below_zero = excluded.below_zero, used = excluded.used, size = excluded.size
"""


def read_hours(*, now: datetime) -> int:
    """Read the whole hours that were not read yet, as far as they can be caught up with; returns how many.

    Raises:
        OperationalError: the database is away, or it took too long; the hours read so far are kept.
    """
    end = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    [(newest,)] = sql.rows("SELECT max(hour) FROM sync_bufferuse WHERE hour >= %s", [end - CAUGHT_UP])
    hour = end - _HOUR if newest is None else min(newest + _HOUR, end - _HOUR)
    hours = 0
    while hour < end:
        read_hour(hour)
        hour += _HOUR
        hours += 1
    return hours


def read_hour(hour: datetime) -> int:
    """Read how the buffers were used in the hour that begins then; returns of how many channels."""
    end = hour + _HOUR
    return sql.execute(_READ_HOUR, [hour, hour, end, end, hour])
