"""Emulated stores, each with a truth of its own, and the truth of the shelf behind them all.

A store keeps a counter per (inventory item, location) and sells while it is above zero, asking nobody: it never oversells
by itself. It keeps orders that are cancelled, refunded, edited and shipped, tells of every change by webhook, lists its
orders with a lag and whole-second times, and takes compare-and-set writes under idempotency keys, all rows or none.

Everything here happens at once, in the store's own world. What becomes of the messages is `sync.simulator.wire`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from channels.protocol import (
    Event,
    LevelState,
    LevelTouched,
    LineState,
    OrderDeleted,
    OrderPage,
    OrderState,
    OrderTouched,
    PolledOrder,
    QuantityChange,
    RefundedUnits,
    RefundMade,
    Restock,
    RowOutcome,
    RowResult,
    WriteResult,
)

Where = tuple[str, str]  # inventory item, location

POLLED_TOPIC = "orders/polled"
STALE = RowResult(RowOutcome.STALE, "CHANGE_FROM_QUANTITY_STALE", "the level no longer shows that")
UNTOUCHED = RowResult(RowOutcome.NOT_APPLIED)
REFUSED = RowResult(RowOutcome.REFUSED, "NON_MUTABLE_INVENTORY_ITEM", "the item cannot be counted now")
#: Something is wrong with a row, and nobody says with which.
NAMELESS = RowResult(RowOutcome.NOT_APPLIED, "NON_MUTABLE_INVENTORY_ITEM", "an item cannot be counted now")
DONE = RowResult(RowOutcome.CONFIRMED)


class Told(bytes):
    """The body of a message: bytes that differ where the content differs, and what a reader finds in them."""

    events: tuple[Event, ...]

    @classmethod
    def of(cls, name: str, *events: Event) -> Told:
        told = cls(name.encode())
        told.events = events
        return told


@dataclass(slots=True)
class Shelf:
    """The truth about one stocked SKU in warehouses that hang together, over all stores that draw on them."""

    initial: int
    #: Units there and not sold; below zero where units were sold that nobody has.
    left: int
    #: Units that counters still offer, of this SKU and of bundles with it.
    offered: int = 0
    sold: int = 0
    oversold: int = 0
    #: Of them, while stores offered more than there was through no fault of a policy.
    excused: int = 0
    #: Units put back by cancellations, refunds and edits while nothing was left: they make up for what was oversold.
    repaid: int = 0
    #: Units that counters offer beyond what is left.
    excess: int = 0
    #: So many of them are no fault of a policy: units that left a listing which was unmapped, before anybody knew of them;
    #: units that somebody took at one that was deleted, before any reading showed it; and units that others were given of
    #: one that was mapped again, until the excess has gone.
    tolerated: int = 0
    doubled: int = 0
    #: How many units that was in all.
    excusable: int = 0

    def tolerate(self, units: int) -> None:
        self.tolerated += units
        self.excusable += max(0, units)

    def sell(self, units: int) -> None:
        self.left -= units
        self.sold += units
        lacking = min(units, max(0, -self.left))
        self.oversold += lacking
        if self.excusable:
            most = min(self.tolerated + self.doubled, self.excusable + self.repaid - self.excused)
            self.excused += max(0, min(lacking, most))


@dataclass(frozen=True, slots=True)
class Article:
    """What a store sells under a variant: components per unit, and where the counter stands."""

    variant_id: str
    inventory_item_id: str
    sku_id: int
    recipe: Mapping[int, int]
    is_bundle: bool

    @property
    def code(self) -> str:
        return f"SKU-{self.sku_id}"


@dataclass(slots=True)
class OrderLine:
    """A line of an order, in the store's own terms."""

    line_id: str
    article: Article
    location_id: str
    ordered: int
    removed: int = 0
    shipped: int = 0
    #: Units sold while the listing was unmapped: none of the shelf's until it is mapped again.
    astray: int = 0

    def taken(self, refunds: Sequence[RefundedUnits]) -> int:
        """Units that the line has taken from the counter and not put back."""
        return self.ordered - self.removed - self.put_back(refunds)

    def moved(self, refunds: Sequence[RefundedUnits]) -> int:
        """Units that it ever took from the counter or put back."""
        return self.ordered + self.removed + self.put_back(refunds)

    def put_back(self, refunds: Sequence[RefundedUnits]) -> int:
        return sum(r.quantity for r in refunds if r.line_id == self.line_id and r.restock is not Restock.NONE)

    def left(self, refunds: Sequence[RefundedUnits]) -> int:
        """Units that neither edits nor refunds have taken out of the order."""
        return self.ordered - self.removed - sum(r.quantity for r in refunds if r.line_id == self.line_id)


@dataclass(slots=True)
class Order:
    """An order as its store keeps it."""

    order_id: str
    created_at: datetime
    version: datetime
    lines: list[OrderLine]
    cancelled_at: datetime | None = None
    refunds: list[RefundedUnits] = field(default_factory=list)
    revision: int = 0
    #: From when on (virtual seconds) the list knows of the latest change, and the version it knows of before.
    listed_from: float = 0.0
    listed_version: datetime | None = None


@dataclass(slots=True)
class Store:
    """One store. `send(store, topic, told)` hands over a message; `index_lag()` draws how late the list is (seconds);
    `offers_too_much(SKU, units)` is told when stores together offer more than is on the shelf.
    """

    number: int
    channel_id: int
    shelves: dict[int, Shelf]
    articles: list[Article]
    clock: Callable[[], float]
    epoch: datetime
    send: Callable[[Store, str, Told], object]
    index_lag: Callable[[], float]
    offers_too_much: Callable[[int, int], object]
    #: Told of every change of a counter, where somebody wants the story.
    tell: Callable[[str], object] | None = None
    #: By how much the store's clock is ahead of the true time (seconds).
    clock_error: float = 0.0
    #: Whether it answers a refused write under the same key with the refusal again, or tries anew.
    keeps_refusals: bool = False
    #: Whether it keeps to itself which row of a batch it takes offence at.
    hides_refusals: bool = False
    #: A key that has succeeded is answered as if it had come too late. Shopify's documents deny it; it was seen all the same.
    replays_stale: bool = False
    #: How long it remembers what it has answered under a key, counted from then (seconds).
    remembers: float = 86_400.0
    orders_per_page: int = 50
    tells_location: bool = True
    #: The warehouses it sells from, by priority, and which of those that hang together they are.
    warehouses: tuple[int, ...] = (1,)
    site: int = 0

    counters: dict[Where, int] = field(default_factory=dict)
    changed_at: dict[Where, datetime] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    #: Orders that are gone for good: nobody can read them any more.
    deleted: dict[str, Order] = field(default_factory=dict)
    #: What was answered under a key, and when (virtual seconds).
    answers: dict[str, tuple[float, WriteResult]] = field(default_factory=dict)
    #: Items that it takes no writes of.
    refused: set[str] = field(default_factory=set)
    #: How many times a write under a key took effect: never more than once.
    effects: dict[str, int] = field(default_factory=dict)
    written: int = 0
    by_item: dict[str, Article] = field(default_factory=dict)
    #: Items whose listings are mapped to no SKU just now: whatever the store offers of them is not the shelf's. And the units
    #: of them that nobody knew of when that began.
    unmapped: dict[str, int] = field(default_factory=dict)
    #: Units changed by hand, by (item, location).
    edited: dict[Where, int] = field(default_factory=dict)

    # --- what happens in the store ------------------------------------------------------------------------------

    def open(self, article: Article, location_id: str, units: int) -> None:
        """Stock an article."""
        self.by_item[article.inventory_item_id] = article
        where = (article.inventory_item_id, location_id)
        self.counters[where] = 0
        self.changed_at[where] = self.now()
        self._count(where, units)

    def now(self) -> datetime:
        """The store's time, which it tells in whole seconds."""
        return (self.epoch + timedelta(seconds=self.clock() + self.clock_error)).replace(microsecond=0)

    def buy(self, wanted: Sequence[tuple[Article, str, int]]) -> Order | None:
        """Sell all of it or nothing."""
        needed: dict[Where, int] = {}
        for article, place, units in wanted:
            where = (article.inventory_item_id, place)
            needed[where] = needed.get(where, 0) + units
        if any(self.counters.get(where, 0) < units for where, units in needed.items()):
            return None
        order_id = f"{self.number}-{len(self.orders) + len(self.deleted) + 1}"
        lines = [
            OrderLine(f"{order_id}/{place}", article, location, units)
            for place, (article, location, units) in enumerate(wanted)
        ]
        order = self.orders[order_id] = Order(order_id, self.now(), self.now(), lines)
        for line in lines:
            self._take(line, line.ordered)
        self._changed(order, "orders/create")
        return order

    def cancel(self, order: Order, *, restock: bool) -> None:
        """Call the order off: what is left of it is refunded."""
        if order.cancelled_at is not None or not any(line.left(order.refunds) for line in order.lines):
            return
        order.cancelled_at = self.now()
        for line in order.lines:
            left = line.left(order.refunds)
            unshipped = max(0, left - line.shipped)
            if unshipped:
                self._refund(order, line, unshipped, Restock.CANCEL if restock else Restock.NONE)
            if left - unshipped:
                self._refund(order, line, left - unshipped, Restock.NONE)
        self._changed(order, "orders/cancelled")

    def delete(self, order: Order) -> None:
        """Staff delete an order that was called off."""
        if order.cancelled_at is not None:
            self.deleted[order.order_id] = self.orders.pop(order.order_id)
            self.send(self, "orders/delete", Told.of(f"delete {order.order_id}", OrderDeleted(order.order_id)))

    def refund(self, order: Order, line: OrderLine, units: int, restock: Restock) -> None:
        """Give money back for some units; they come back to the counter or not."""
        left = line.left(order.refunds)
        shipped_left = min(left, line.shipped)
        possible = shipped_left if restock is Restock.RETURN else left - shipped_left
        units = min(units, possible)
        if units <= 0 or order.cancelled_at is not None:
            return
        made = self._refund(order, line, units, restock)
        self._changed(order, "orders/updated")
        told = RefundMade(order.order_id, (made,))
        self.send(self, "refunds/create", Told.of(f"refund {made.refund_id}", told))

    def edit(self, order: Order, line: OrderLine, change: int) -> None:
        """Staff add units to a line or take some out."""
        where = (line.article.inventory_item_id, line.location_id)
        left = line.left(order.refunds) - line.shipped
        if order.cancelled_at is not None or (change > 0 and self.counters.get(where, 0) < change) or -change > left:
            return
        if change > 0:
            line.ordered += change
            self._take(line, change)
        else:
            line.removed -= change
            self._give_back(line, -change)
        self._tell_edited(order)

    def add_line(self, order: Order, article: Article, location_id: str, units: int) -> None:
        """Staff add something else to an order, or more of the same in a line of its own."""
        if order.cancelled_at is not None or self.counters.get((article.inventory_item_id, location_id), 0) < units:
            return
        line = OrderLine(f"{order.order_id}/{len(order.lines)}", article, location_id, units)
        order.lines.append(line)
        self._take(line, units)
        self._tell_edited(order)

    def ship(self, order: Order) -> None:
        """All that is left of the order leaves the building."""
        if order.cancelled_at is not None:
            return
        for line in order.lines:
            line.shipped = max(line.shipped, line.left(order.refunds))
        self._changed(order, "orders/updated")

    def edit_by_hand(self, where: Where, change: int) -> None:
        """The merchant changes the counter, and with it the shelf: units are gone, or found."""
        change = max(change, -self.counters.get(where, 0))
        article = self.by_item[where[0]]
        if change and not article.is_bundle and where[0] not in self.unmapped:
            self.edited[where] = self.edited.get(where, 0) + change
            for sku, units in article.recipe.items():
                self.shelves[sku].left += units * change
            self._count(where, change)
            self._tell_level(where)

    def delete_variant(self, article: Article, lost: int) -> None:
        """Staff delete an article: nobody can buy it, count it or write to it any more. Its units are where they are, and
        will be given to others; with those that somebody took and no reading has shown, since none ever will.
        """
        self._tolerate(article, lost)
        for where in [where for where in self.counters if where[0] == article.inventory_item_id]:
            self._count(where, -self.counters[where])
            del self.counters[where], self.changed_at[where]

    def unmap(self, article: Article, unknown: int) -> None:
        """From now on what the store offers of an article is not the shelf's, nor what left it and nobody knows of yet."""
        self._tolerate(article, unknown)
        self._offer(article, -self._offered(article))
        self.unmapped[article.inventory_item_id] = unknown

    def map_again(self, article: Article) -> None:
        """It is the shelf's again, and so is what was sold of it meanwhile. Others may have been given the same units."""
        self._tolerate(article, -self.unmapped.pop(article.inventory_item_id))
        lines = [line for order in (*self.orders.values(), *self.deleted.values()) for line in order.lines]
        sold = sum(line.astray for line in lines if line.article is article)
        for line in lines:
            if line.article is article:
                line.astray = 0
        for sku, units in article.recipe.items():
            shelf = self.shelves[sku]
            offered = units * self._offered(article)
            shelf.doubled += offered + units * sold + max(0, shelf.excess)
            shelf.excusable += offered + units * sold
            shelf.sell(units * sold)
            shelf.offered += offered
            self._compare(sku)

    # --- what it answers ------------------------------------------------------------------------------------------

    def write(self, changes: Sequence[QuantityChange], key: str) -> WriteResult:
        """Compare and set, all rows or none; a key takes effect once."""
        now = self.now()
        answered_at, known = self.answers.get(key, (0.0, None))
        if known is not None and self.clock() <= answered_at + self.remembers:
            return WriteResult((STALE,) * len(changes), now) if self.replays_stale and key in self.effects else known
        errors = self._errors(changes)
        if errors is not None:
            result = WriteResult(errors, now)
            if self.keeps_refusals:
                self.answers[key] = self.clock(), result
            return result
        self.effects[key] = self.effects.get(key, 0) + 1
        for row in changes:
            where = (row.inventory_item_id, row.location_id)
            self._count(where, row.to_quantity - row.from_quantity)
            self._tell_level(where)
        self.written += len(changes)
        result = WriteResult((DONE,) * len(changes), now)
        self.answers[key] = self.clock(), result
        return result

    def _errors(self, changes: Sequence[QuantityChange]) -> tuple[RowResult, ...] | None:
        """What is wrong with the rows; None: nothing is."""
        blamed = [
            row.inventory_item_id in self.refused or (row.inventory_item_id, row.location_id) not in self.counters
            for row in changes
        ]
        if any(blamed) and self.hides_refusals and len(changes) > 1:
            return (NAMELESS,) * len(changes)
        if any(blamed):
            return tuple(REFUSED if is_blamed else UNTOUCHED for is_blamed in blamed)
        stale = [self.counters[(row.inventory_item_id, row.location_id)] != row.from_quantity for row in changes]
        return tuple(STALE if is_stale else UNTOUCHED for is_stale in stale) if any(stale) else None

    def levels(self, items: Sequence[str]) -> tuple[LevelState, ...]:
        wanted = set(items)
        return tuple(
            LevelState(item, location, units, is_stocked=True, source_at=self.changed_at[(item, location)])
            for (item, location), units in self.counters.items()
            if item in wanted
        )

    def orders_since(self, since: datetime, cursor: str | None) -> OrderPage:
        """One page by (time of the change, order), as far as the list knows."""
        clock = self.clock()
        listed: list[tuple[datetime, str]] = []
        for order in self.orders.values():
            version = order.version if order.listed_from <= clock else order.listed_version
            if version is not None and version >= since:
                listed.append((version, order.order_id))
        if cursor is not None:
            moment, _, order_id = cursor.partition(" ")
            after = datetime.fromisoformat(moment), order_id
            listed = [place for place in listed if place > after]
        listed.sort()
        page = listed[: self.orders_per_page]
        last = f"{page[-1][0].isoformat()} {page[-1][1]}" if len(listed) > len(page) else None
        return OrderPage(tuple([self._polled(self.orders[order_id]) for _, order_id in page]), last)

    def orders_by_id(self, ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        return tuple(self._polled(self.orders[order_id]) for order_id in ids if order_id in self.orders)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _take(self, line: OrderLine, units: int) -> None:
        where = (line.article.inventory_item_id, line.location_id)
        if where[0] in self.unmapped:
            line.astray += units
        else:
            for sku, each in line.article.recipe.items():
                self.shelves[sku].sell(each * units)
        self._count(where, -units)
        self._tell_level(where)

    def _give_back(self, line: OrderLine, units: int) -> None:
        astray = min(units, line.astray)
        line.astray -= astray
        for sku, each in line.article.recipe.items():
            shelf = self.shelves[sku]
            shelf.repaid += min(each * (units - astray), max(0, -shelf.left))
            shelf.left += each * (units - astray)
        where = (line.article.inventory_item_id, line.location_id)
        if where in self.counters:
            self._count(where, units)
            self._tell_level(where)

    def _refund(self, order: Order, line: OrderLine, units: int, restock: Restock) -> RefundedUnits:
        made = RefundedUnits(
            f"{order.order_id}r{len(order.refunds)}", line.line_id, units, restock, line.location_id, self.now()
        )
        order.refunds.append(made)
        if restock is not Restock.NONE:
            self._give_back(line, units)
        return made

    def _count(self, where: Where, change: int) -> None:
        """Every change of a counter goes through here, so that the shelf knows what is offered."""
        self.counters[where] += change
        self.changed_at[where] = self.now()
        if self.tell is not None:
            self.tell(f"{where[0]} {change:+d} = {self.counters[where]}")
        if where[0] not in self.unmapped:
            self._offer(self.by_item[where[0]], change)

    def _offer(self, article: Article, change: int) -> None:
        for sku, units in article.recipe.items():
            self.shelves[sku].offered += units * change
            self._compare(sku)

    def _compare(self, sku: int) -> None:
        """Whether the stores offer no more than is left, or no more than before."""
        shelf = self.shelves[sku]
        excess = shelf.offered - shelf.left
        if excess > max(0, shelf.excess) and excess > shelf.tolerated + shelf.doubled:
            self.offers_too_much(sku, excess)
        shelf.excess = excess
        shelf.doubled = min(shelf.doubled, max(0, excess - shelf.tolerated))

    def _tolerate(self, article: Article, more: int) -> None:
        for sku, units in article.recipe.items():
            self.shelves[sku].tolerate(units * more)

    def _offered(self, article: Article) -> int:
        return sum(units for (item, _), units in self.counters.items() if item == article.inventory_item_id)

    def _is_listed(self, line: OrderLine) -> bool:
        return (line.article.inventory_item_id, line.location_id) in self.counters

    def _changed(self, order: Order, topic: str) -> None:
        if order.listed_from <= self.clock():
            order.listed_version = order.version if order.revision else None
        order.revision += 1
        order.version = self.now()
        order.listed_from = self.clock() + self.index_lag()
        if topic:
            self.send(self, topic, Told.of(f"{topic} {order.order_id} {order.revision}", self.state(order)))

    def _tell_edited(self, order: Order) -> None:
        self._changed(order, "")
        told = OrderTouched(order.order_id, "edited")
        self.send(self, "orders/edited", Told.of(f"edit {order.order_id} {order.revision}", told))

    def _tell_level(self, where: Where) -> None:
        item, location = where
        units, at = self.counters[where], self.changed_at[where]
        told = LevelTouched(item, location, units, at)
        self.send(self, "inventory_levels/update", Told.of(f"level {item} {location} {units} {at}", told))

    def _polled(self, order: Order) -> PolledOrder:
        told = Told.of(f"poll {order.order_id} {order.revision}", self.state(order, is_read=True))
        return PolledOrder(order.order_id, order.version, told)

    def state(self, order: Order, *, is_read: bool = False) -> OrderState:
        """The whole order, as a message or an answer shows it."""
        return OrderState(
            order_id=order.order_id,
            name=f"#{order.order_id}",
            version=order.version,
            created_at=order.created_at,
            cancelled_at=order.cancelled_at,
            is_test=False,
            lines=tuple(
                LineState(
                    line_id=line.line_id,
                    # Of a variant that was deleted since, only its SKU is told.
                    variant_id=line.article.variant_id if self._is_listed(line) else "",
                    sku=line.article.code,
                    ordered=line.ordered,
                    current=line.left(order.refunds),
                    shipped=line.shipped,
                    location_id=line.location_id if is_read or self.tells_location else None,
                )
                for line in order.lines
            ),
            refunds=tuple(order.refunds),
            read_at=self.now() if is_read else None,
        )
