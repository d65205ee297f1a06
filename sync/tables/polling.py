"""What was read of a channel's orders and levels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import connection, transaction

from channels import inbox, protocol
from sync.ports import ChannelRef, Reached, Seen
from synctec.lib import sql


class PollTables:
    """The watermark moves only in the transaction that stored the page."""

    def orders_reached(self, channel_id: int) -> Reached:
        [row] = sql.rows(
            """
            SELECT coalesce(orders_watermark, orders_counted_from), orders_cut_short_at FROM channels_channel WHERE id = %s
            """,
            [channel_id],
        )
        return Reached(*row)

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            news = inbox.receive_many(
                cursor,
                channel_id=channel.channel_id,
                merchant_id=channel.merchant_id,
                topic=topic,
                orders=orders,
                now=now,
            )
            sql.execute(
                """
                UPDATE channels_channel SET orders_watermark = greatest(orders_watermark, %s), orders_cut_short_at = %s
                WHERE id = %s
                """,
                [reached.watermark, reached.cut_short_at, channel.channel_id],
            )
        return news

    def orders_read(self, channel_id: int, at: datetime) -> None:
        # One that is still to come tells nothing: the clock was set back, and the reader did not know.
        sql.execute(
            "UPDATE channels_channel SET orders_read_at = CASE WHEN %s <= now() THEN %s::timestamptz END WHERE id = %s",
            [at, at, channel_id],
        )

    def levels_page(self, channel_id: int, after: int, items: int) -> tuple[int, list[Seen]]:
        listings = sql.rows(
            """
            SELECT id FROM channels_listing
            WHERE channel_id = %s AND id > %s AND sku_id IS NOT NULL AND deleted_at IS NULL ORDER BY id LIMIT %s
            """,
            [channel_id, after, items],
        )
        if not listings:
            return 0, []
        levels = sql.rows(
            """
            SELECT level.id, listing.inventory_item_id, location.remote_id, level.version
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE level.listing_id = ANY(%s::bigint[])
            """,
            [[listing for (listing,) in listings]],
        )
        return listings[-1][0], [Seen(*row) for row in levels]

    def standing(self, level_ids: Collection[int]) -> list[tuple[int, int, int, bool, bool]]:
        return [
            (level, reported, version, is_stocked, has_open_push)
            for level, reported, version, is_stocked, has_open_push in sql.rows(
                """
                SELECT level.id, level.reported, level.version, level.is_stocked, EXISTS (
                    SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.state = 'open')
                FROM channels_listinglevel level WHERE level.id = ANY(%s::bigint[])
                """,
                [list(level_ids)],
            )
        ]
