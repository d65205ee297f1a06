"""The engine's books in memory, over a database that may be away, and watched by the auditor at every commit.

A commit is where other workers come in: the task that committed waits a moment, and may find that it is dead, that it was
asleep, or that nobody can tell whether the commit happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from channels import protocol
from locations.publishing import Rule
from locations.routing import Routing
from sync.decide import LineKey, Verdict
from sync.ports import Batch, Books, ChannelRef, Claimed, DriftFound, Due, OrderKey, Reached
from sync.simulator.memory import MemoryBooks
from sync.simulator.memory.rows import EventRow, LevelRow, LineRow, PushRow, StockRow
from sync.simulator.scheduler import EPOCH
from sync.simulator.stores import Store, Told

if TYPE_CHECKING:
    from sync.simulator.world import Setting, World

GROUP = 1
#: PostgreSQL writes what waits for nobody to the disk this often (wal_writer_delay, at most three of them).
FLUSH_SECONDS = 0.6

T = TypeVar("T")

Undo = list[tuple[Any, ...]]


class SimulatedBooks(Books, Protocol):
    """Books that can be played with: filled, worked through by a sweep, broken, and read by the auditor row by row."""

    @property
    def stock(self) -> Mapping[int, StockRow]: ...
    @property
    def levels(self) -> Mapping[int, LevelRow]: ...
    @property
    def orders(self) -> Mapping[OrderKey, Mapping[LineKey, LineRow]]: ...
    @property
    def events(self) -> Mapping[int, EventRow]: ...
    @property
    def batches(self) -> Collection[uuid.UUID]: ...
    @property
    def pushes(self) -> Mapping[int, PushRow]: ...
    @property
    def drifts(self) -> Sequence[DriftFound]: ...
    @property
    def marks(self) -> Mapping[int, object]: ...
    @property
    def broken(self) -> Sequence[str]: ...
    @property
    def is_inside(self) -> bool: ...

    def open(
        self,
        setting: Setting,
        stock: Mapping[tuple[int, int], int],
        recipes: Mapping[int, Mapping[int, int]],
        stores: Sequence[Store],
        routing: Routing,
    ) -> None:
        """Fill in the merchant's configuration and the opening stock, by SKU and warehouse; have every SKU published."""
        ...

    def open_work(self) -> Iterable[tuple[str, int]]:
        """What there is to do, found without any message: (task, of whom)."""
        ...

    def level_of(self, channel_id: int, item: str, location: str) -> LevelRow:
        """The level of an item in a store."""
        ...

    def delivered(self) -> Collection[tuple[int, str, str]]:
        """Every delivery that is stored: (channel, topic, webhook)."""
        ...

    def receive_webhook(self, channel_id: int, topic: str, webhook_id: str, told: Told) -> bool:
        """Store a delivery and commit; whether it is news."""
        ...

    def set_channel_state(self, channel_id: int, state: str) -> None: ...

    def map_listing(self, listing_id: int, sku_id: int | None) -> None:
        """Map a listing to a SKU, or to none, with all that follows from it; a commit of its own."""
        ...

    def delete_listing(self, listing_id: int) -> None:
        """It is known that the variant is deleted; a commit of its own."""
        ...

    def stop_writing(self, merchant_id: int, *, is_on: bool) -> None:
        """The kill switch is put on, or off again; a commit of its own."""
        ...

    def take_up_placeable_lines(self) -> int:
        """What was set aside just when it was mapped."""
        ...

    def crash(self) -> None:
        """The database dies, and comes back later."""
        ...


class WatchedBooks(MemoryBooks):
    """`MemoryBooks` in a simulated world."""

    def __init__(self, world: World) -> None:
        super().__init__(world.clock if world.drawn.clock_jumps else world.scheduler.clock)
        self._world = world
        self._waits_for_disk = False
        #: What a crash of the database would take back: (when it was committed, how).
        self._unflushed: list[tuple[float, Undo]] = []
        self.commits = 0

    def open(
        self,
        setting: Setting,
        stock: Mapping[tuple[int, int], int],
        recipes: Mapping[int, Mapping[int, int]],
        stores: Sequence[Store],
        routing: Routing,
    ) -> None:
        """Fill in the merchant's configuration and the opening stock."""
        merchant = self.add_merchant(id=1)
        warehouses = sorted({warehouse for _, warehouse in stock})
        for warehouse in warehouses:
            self.add_warehouse(merchant, id=warehouse)
        self.add_group(
            merchant,
            id=GROUP,
            policy=setting.policy,
            guard_units=setting.guard_units,
            warehouses=warehouses,
            routing=routing,
        )
        for sku in recipes:
            self.add_sku(merchant, id=sku, code=f"SKU-{sku}")
        for sku, recipe in recipes.items():
            if sku not in recipe:
                for component, units in recipe.items():
                    self.add_bom_line(sku, component, units)
        for store in stores:
            self.add_channel(merchant, id=store.channel_id, kind="simulated", orders_counted_from=EPOCH)
            if setting.buffer:
                self.add_rule(store.channel_id, Rule(buffer_units=setting.buffer))
            location = self.add_location(
                store.channel_id, f"l{store.number}", group_id=GROUP, warehouses=store.warehouses
            )
            for sku, article in zip(recipes, store.articles, strict=True):
                listing = self.add_listing(
                    store.channel_id, sku, article.variant_id, article.inventory_item_id, remote_sku=article.code
                )
                self.add_level(listing, location, base=0, desired=0)
        self.open_stock(merchant, stock, self._now())
        self.mark_all()

    def mark_all(self) -> None:
        """Have every SKU published."""
        self.mark_dirty(1, {sku: (self._uuid(), self._now()) for sku in self.skus})

    def open_work(self) -> Iterator[tuple[str, int]]:
        """What there is to do, found without any message: (task, of whom)."""
        yield from (("apply", merchant) for merchant in self.merchants_to_apply())
        yield from (("publish", merchant) for merchant in self.merchants_to_publish())
        yield from (("push", channel) for channel in self.channels_to_push())
        yield from (("check", channel) for channel in self.channels_to_check())

    def level_of(self, channel_id: int, item: str, location: str) -> LevelRow:
        """The level of an item in a store."""
        return next(
            level
            for listing in self._by_item[channel_id, item]
            for level in listing.levels
            if level.location.remote_id == location
        )

    def delivered(self) -> Collection[tuple[int, str, str]]:
        """Every delivery that is stored: (channel, topic, webhook)."""
        return self._delivered.keys()

    @property
    def is_inside(self) -> bool:
        return self._undo is not None

    # --- transactions -------------------------------------------------------------------------------------------

    def transaction(self, *, waits_for_disk: bool = False) -> Any:
        self._waits_for_disk = waits_for_disk
        return super().transaction(waits_for_disk=waits_for_disk)

    def _begin(self) -> None:
        self._world.ask_database()
        super()._begin()

    def _end(self, *, commits: bool) -> None:
        undo = self._undo
        if not commits or not undo:
            super()._end(commits=commits)
            return
        self._world.auditor.look(undo)
        super()._end(commits=True)
        self._committed(undo)

    def _committed(self, undo: Undo | None) -> None:
        """Something is committed; `undo` says how a crash would take it back, None that it is on the disk."""
        self.commits += 1
        if undo is None or self._waits_for_disk:
            self._unflushed.clear()
        elif undo:
            self._unflushed.append((self._world.scheduler.time, undo))
            if len(self._unflushed) > 64:
                self._unflushed = self._recent()
        self._waits_for_disk = False
        self._world.has_committed()

    def _recent(self) -> list[tuple[float, Undo]]:
        latest = self._world.scheduler.time - FLUSH_SECONDS
        return [entry for entry in self._unflushed if entry[0] > latest]

    def crash(self) -> None:
        """The database dies and comes back: the newest commits that waited for no disk are gone."""
        for _, undo in reversed(self._recent()):
            for take_back, *arguments in reversed(undo):
                take_back(*arguments)
        self._unflushed.clear()
        self._world.auditor.look_anew()

    # --- operations that commit by themselves -------------------------------------------------------------------------

    def _by_itself(self, operation: Callable[..., T], *arguments: Any, is_flushed: bool = False) -> T:
        """Do it in a commit of its own, unless it belongs to a transaction. Nothing found to do is no commit."""
        if self._undo is not None:
            return operation(*arguments)
        self._world.ask_database()
        done = operation(*arguments)
        if done or done is None:
            self._committed(None if is_flushed else [])
        return done

    def receive_webhook(self, channel_id: int, topic: str, webhook_id: str, told: Told) -> bool:
        is_news = self.receive(channel_id, topic, webhook_id, told)
        self._committed(None)
        return is_news

    def claim_events(self, merchant_id: int, limit: int, leases: Sequence[timedelta]) -> list[Claimed]:
        return self._by_itself(super().claim_events, merchant_id, limit, leases)

    def give_back_events(self, claims: Collection[Claimed], after: timedelta, reason: str) -> None:
        self._by_itself(super().give_back_events, claims, after, reason)

    def claim_repeat(self, channel_id: int, lease: timedelta) -> Batch | None:
        self._world.ask_database()
        batch = super().claim_repeat(channel_id, lease)
        if batch is not None:
            self._committed([])
        return batch

    def claim_suspects(self, channel_id: int, limit: int, lease: timedelta) -> list[Due]:
        return self._by_itself(super().claim_suspects, channel_id, limit, lease)

    def map_listing(self, listing_id: int, sku_id: int | None) -> None:
        with self.transaction(waits_for_disk=True):
            super().map_listing(listing_id, sku_id)

    def delete_listing(self, listing_id: int) -> None:
        with self.transaction(waits_for_disk=True):
            super().delete_listing(listing_id)

    def stop_writing(self, merchant_id: int, *, is_on: bool) -> None:
        with self.transaction(waits_for_disk=True):
            super().stop_writing(merchant_id, is_on=is_on)

    def take_up_placeable_lines(self) -> int:
        with self.transaction():
            return super().take_up_placeable_lines()

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        return self._by_itself(self._store_orders, channel, topic, orders, reached, now, is_flushed=True)

    def _store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        news = super().store_orders(channel, topic, orders, reached, now)
        for order in orders:
            self._world.hear(order.body)
        return news

    def orders_read(self, channel_id: int, at: datetime) -> None:
        self._by_itself(super().orders_read, channel_id, at)

    def suspect_unsuspected(self, level_ids: Collection[int], reason: str, now: datetime) -> None:
        if level_ids:
            self._by_itself(super().suspect_unsuspected, level_ids, reason, now)

    def settle_events(self, verdicts: Mapping[int, Verdict]) -> None:
        if verdicts:
            self._by_itself(super().settle_events, verdicts)
