"""What was read of a channel's orders and levels, in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from channels import protocol
from channels.inbox import polled_id
from sync.ports import ChannelRef, Reached, Seen
from sync.simulator.memory.inbox import InboxMemory
from sync.simulator.memory.kept import later


class PollMemory(InboxMemory):
    """`sync.ports.PollBooks`."""

    def orders_reached(self, channel_id: int) -> Reached:
        channel = self.channels[channel_id]
        return Reached(channel.orders_watermark or channel.orders_counted_from, channel.orders_cut_short_at)

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        self._commits_itself("storing orders")
        news = 0
        for order in orders:
            identity = polled_id(order)
            known = self._delivered.get((channel.channel_id, topic, identity))
            if known is None:
                self._store_event(channel.channel_id, topic, identity, order.body, self._uuid(), now)
                news += 1
            elif known.state == "dead":
                # What was wrong may be mended.
                known.state, known.attempts, known.reason = "pending", 0, ""
                known.settled_at, known.next_attempt_at = None, self._now()
                self._pending[known.merchant_id][known.envelope.event_id] = known
                news += 1
        row = self.channels[channel.channel_id]
        row.orders_watermark = later(row.orders_watermark, reached.watermark)
        row.orders_cut_short_at = reached.cut_short_at
        return news

    def orders_read(self, channel_id: int, at: datetime) -> None:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.orders_read_at = at if at <= self._now() else None

    def levels_page(self, channel_id: int, after: int, items: int) -> tuple[int, list[Seen]]:
        listings = sorted(
            listing.id
            for listing in self.listings.values()
            if listing.channel_id == channel_id
            and listing.id > after
            and listing.sku_id is not None
            and listing.deleted_at is None
        )[:items]
        if not listings:
            return 0, []
        return listings[-1], [
            Seen(level.id, level.listing.inventory_item_id, level.location.remote_id, level.version)
            for listing in listings
            for level in self.listings[listing].levels
        ]

    def standing(self, level_ids: Collection[int]) -> list[tuple[int, int, int, bool, bool]]:
        return [
            (level.id, level.reported, level.version, level.is_stocked, level.open_push is not None)
            for level_id in level_ids
            if (level := self.levels.get(level_id)) is not None
        ]
