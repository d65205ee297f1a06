"""The books in memory are those in PostgreSQL: the engine's own acts on both, every answer and every row compared.

The simulator's findings are worth what this test is worth. Random histories of sales, webhooks, edits by hand, deaths and
outages are lived through twice, on either books, by the same acts against stores that behave the same; each call of the
books must get the same answer, and after each step the rows must be the same.
"""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from channels import protocol
from channels.protocol import (
    Capabilities,
    LevelState,
    LevelTouched,
    LineState,
    OrderPage,
    OrderState,
    OrderTouched,
    PolledOrder,
    QuantityChange,
    RefundedUnits,
    Restock,
    RowOutcome,
    RowResult,
    WriteResult,
)
from sync import apply, check, publish, push, reconcile
from sync.ports import ChannelRef, Engine
from tests.sync.both_books import CHANNELS, EAST, ITEMS, LISTINGS, MERCHANT, PLACES, Clock, Side, make_sides

pytestmark = pytest.mark.django_db


class Death(BaseException):
    """A worker dies: nothing catches it."""


# --- the world around the books -----------------------------------------------------------------------------------


@dataclass
class Store:
    """A channel's own counters, which compare and set. It fails as its dice say."""

    channel: int
    orders: dict[str, OrderState]
    said: dict[bytes, tuple[protocol.Event, ...]]
    clock: Clock
    dice: random.Random
    counters: dict[tuple[str, str], int] = field(default_factory=dict)
    answered: dict[str, WriteResult] = field(default_factory=dict)
    capabilities = Capabilities(True, True, rows_per_write=3, levels_per_read=3, orders_per_read=2)

    def write_quantities(self, changes: Sequence[QuantityChange], *, key: str, reference: str) -> WriteResult:
        fault = self.dice.choice([None] * 8 + list(FAULTS))
        if fault is not None and fault is not protocol.OutcomeUnknown:
            raise fault("no", code="NO", retry_after=self.dice.choice([None, 3.0]))
        if self.dice.random() < 0.2:
            raise protocol.OutcomeUnknown("the request was lost")
        if key not in self.answered:
            self.answered[key] = self._write(changes)
        if fault is not None:
            raise protocol.OutcomeUnknown("the answer was lost")
        return self.answered[key]

    def _write(self, changes: Sequence[QuantityChange]) -> WriteResult:
        outcomes = [
            RowOutcome.REFUSED
            if self.dice.random() < 0.05
            else RowOutcome.CONFIRMED
            if self.counters.get((change.inventory_item_id, change.location_id), 0) == change.from_quantity
            else RowOutcome.STALE
            for change in changes
        ]
        if self.dice.random() < 0.5 and set(outcomes) != {RowOutcome.CONFIRMED}:
            outcomes = [RowOutcome.NOT_APPLIED if outcome is RowOutcome.CONFIRMED else outcome for outcome in outcomes]
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome is RowOutcome.CONFIRMED:
                self.counters[change.inventory_item_id, change.location_id] = change.to_quantity
        return WriteResult(tuple(RowResult(outcome, "CODE", "words") for outcome in outcomes), self.clock.now)

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        if self.dice.random() < 0.1:
            raise protocol.Unavailable("down")
        return tuple(
            LevelState(item, place, available, self.dice.random() < 0.95, self.clock.now)
            for (item, place), available in self.counters.items()
            if item in inventory_item_ids
        )

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        if self.dice.random() < 0.1:
            raise protocol.Throttled("slowly", retry_after=2.0)
        return tuple(self._polled(self.orders[order]) for order in order_ids if order in self.orders)

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
        orders = sorted(
            (order for order in self.orders.values() if order.version >= since), key=lambda order: order.order_id
        )
        place = int(cursor or 0)
        page = tuple(self._polled(order) for order in orders[place : place + 2])
        return OrderPage(page, str(place + 2) if place + 2 < len(orders) else None)

    def _polled(self, order: OrderState) -> PolledOrder:
        body = f"{self.channel} {order.order_id} {order.version.isoformat()}".encode()
        place = next(place for place, (channel, _, _) in PLACES.items() if channel == self.channel)
        lines = tuple(replace(line, location_id=f"place-{place}") for line in order.lines)
        self.said[body] = (replace(order, lines=lines, read_at=self.clock.now),)
        return PolledOrder(order.order_id, order.version, body)


FAULTS = (
    protocol.Unavailable,
    protocol.OutcomeUnknown,
    protocol.OutcomeUnknown,
    protocol.Throttled,
    protocol.Paced,
    protocol.Refused,
)


@dataclass
class Channels:
    """The stores of one side, and a reader that knows what bodies say."""

    stores: dict[int, Store]
    said: dict[bytes, tuple[protocol.Event, ...]]
    side: Side

    def reader(self, kind: str) -> Any:
        return self

    def interpret(self, *, topic: str, body: bytes) -> tuple[protocol.Event, ...]:
        return self.said[bytes(body)]

    def connector(self, channel_id: int) -> Any:
        return self.stores[channel_id]

    def needs_authorization(self, channel_id: int, reason: str) -> None:
        self.side.set_state(channel_id, "needs_auth")

    def received(self, merchant_id: int) -> None:
        pass


class Free:
    """A lock that is always ours."""

    is_degraded = True
    keys: tuple[str, ...] = ()

    @contextmanager
    def try_lock(self, keys: Sequence[str]) -> Iterator[Any]:
        yield self


class Watched:
    """Books that write down each answer, and whose worker dies before the call of a given number."""

    def __init__(self, side: Side, calls: int | None = None) -> None:
        self.answers: list[tuple[str, Any]] = []
        self._side = side
        self._calls_left = calls

    def __getattr__(self, method: str) -> Any:
        act = getattr(self._side.books, method)
        if method == "transaction":
            return act

        def call(*arguments: Any, **more: Any) -> Any:
            if self._calls_left is not None:
                self._calls_left -= 1
                if self._calls_left < 0:
                    raise Death
            answer = act(*arguments, **more)
            self.answers.append((method, self._side.answer(method, answer)))
            return answer

        return call


@dataclass
class Life:
    """One side with everything around it."""

    side: Side
    clock: Clock
    orders: dict[int, dict[str, OrderState]]
    said: dict[bytes, tuple[protocol.Event, ...]]
    stores: dict[int, Store] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for channel in CHANNELS:
            store = Store(channel, self.orders[channel], self.said, self.clock, random.Random(0))
            store.counters = {
                (ITEMS[listing], f"place-{place}"): 5
                for listing, (of, _, _, _) in LISTINGS.items()
                for place, (there, _, _) in PLACES.items()
                if of == there == channel
            }
            self.stores[channel] = store

    def engine(self, books: Any, dice: random.Random) -> Engine:
        for store in self.stores.values():
            store.dice = dice
        return Engine(
            books=books,
            channels=Channels(self.stores, self.said, self.side),
            locks=Free(),
            rng=dice,
            now=lambda: self.clock.now,
            audit_lag=timedelta(seconds=10),
            poll_overlap=timedelta(minutes=5),
        )


# --- steps --------------------------------------------------------------------------------------------------------
# What happens outside is drawn once and told to both; what the engine does is done on each, with equal dice.


@dataclass
class Drawn:
    """One history: the world outside, and both lives."""

    clock: Clock
    lives: tuple[Life, Life]
    orders: dict[int, dict[str, OrderState]]
    said: dict[bytes, tuple[protocol.Event, ...]]
    events: int = 0

    def tell(self, channel: int, topic: str, event: protocol.Event, dice: random.Random) -> None:
        """A webhook arrives, sometimes twice."""
        self.events += 1
        webhook_id = f"webhook-{self.events}"
        self.said[webhook_id.encode()] = (event,)
        correlation_id = uuid.UUID(int=self.events)
        for life in self.lives:
            for _ in range(dice.choice([1, 1, 2])):
                life.side.deliver(channel, topic, webhook_id, correlation_id)

    def move(self, channel: int, item: str, place: str, units: int) -> None:
        """The store's counter moves by itself."""
        for life in self.lives:
            life.stores[channel].counters[item, place] += units


def _sells(history: Drawn, dice: random.Random) -> None:
    channel = dice.choice(CHANNELS)
    places = [f"place-{place}" for place, (of, _, _) in PLACES.items() if of == channel]
    listings = [listing for listing, (of, _, _, _) in LISTINGS.items() if of == channel]
    known = history.orders[channel]
    order_id = f"order-{dice.randint(1, 4)}"
    order = known.get(order_id)
    if order is None:
        lines = []
        for place, listing in enumerate(dice.sample(listings, dice.choice([1, 1, 2]))):
            units = dice.randint(1, 3)
            where = dice.choice([None, dice.choice(places)])
            lines.append(LineState(f"line-{place}", f"variant-{listing}", "", units, units, 0, where))
            history.move(channel, ITEMS[listing], where or places[0], -units)
        if dice.random() < 0.1:
            lines.append(LineState("line-9", "variant-404", "", 1, 1, 0, None))
        placed_at = history.clock.now - timedelta(seconds=dice.choice([0, 1, 7200]))
        order = OrderState(order_id, f"#{order_id}", placed_at, placed_at, None, False, tuple(lines))
    else:
        order = _change(order, history.clock.now, dice)
    known[order_id] = order
    if dice.random() < 0.1:
        history.tell(channel, "orders/updated", OrderTouched(order_id, "told without its lines"), dice)
    elif dice.random() < 0.9:
        history.tell(channel, "orders/updated", order, dice)


def _change(order: OrderState, now: datetime, dice: random.Random) -> OrderState:
    line = dice.choice(order.lines)
    others = tuple(other for other in order.lines if other is not line)
    refund = RefundedUnits(f"refund-{dice.randint(1, 3)}", line.line_id, 1, dice.choice(list(Restock)), None, now)
    return dice.choice(
        [
            replace(order, version=now, cancelled_at=now),
            replace(order, version=now, lines=(*others, replace(line, shipped=line.ordered))),
            replace(order, version=now, lines=(*others, replace(line, ordered=line.ordered + 1, current=None))),
            replace(order, version=now, refunds=(*order.refunds, refund)),
        ]
    )


def _tells_levels(history: Drawn, dice: random.Random) -> None:
    channel = dice.choice(CHANNELS)
    counters = history.lives[0].stores[channel].counters
    (item, place), available = dice.choice(sorted(counters.items()))
    shown = dice.choice([available, available, available - 1, 7, None])
    is_stocked = dice.choice([None, None, None, True, False])
    at = history.clock.now - timedelta(seconds=dice.choice([0, 0, 600]))
    event = LevelTouched(item, place, shown if is_stocked is None else None, at, is_stocked)
    history.tell(channel, "inventory_levels/update", event, dice)


def _edits_by_hand(history: Drawn, dice: random.Random) -> None:
    channel = dice.choice(CHANNELS)
    item, place = dice.choice(sorted(history.lives[0].stores[channel].counters))
    history.move(channel, item, place, dice.choice([-2, -1, 1, 3]))


def _waits(history: Drawn, dice: random.Random) -> None:
    history.clock.now += timedelta(seconds=dice.choice([0.3, 1.5, 6, 12, 25, 250, 1000, 40 * 86_400]))


OUTSIDE: tuple[Callable[[Drawn, random.Random], None], ...] = (_sells, _tells_levels, _edits_by_hand, _waits)


def _applies(life: Life, engine: Engine, dice: random.Random) -> object:
    return apply.apply_batch(engine, merchant_id=MERCHANT)


def _publishes(life: Life, engine: Engine, dice: random.Random) -> object:
    return publish.publish_batch(engine, merchant_id=MERCHANT)


def _pushes(life: Life, engine: Engine, dice: random.Random) -> object:
    return push.push_channel(engine, channel=_ref(dice.choice(CHANNELS)), max_batches=3)


def _checks(life: Life, engine: Engine, dice: random.Random) -> object:
    return check.check_channel(engine, channel=_ref(dice.choice(CHANNELS)))


def _polls(life: Life, engine: Engine, dice: random.Random) -> object:
    return reconcile.poll_orders(engine, channel=_ref(dice.choice(CHANNELS)))


def _compares(life: Life, engine: Engine, dice: random.Random) -> object:
    return list(reconcile.compare_levels(engine, channel=_ref(dice.choice(CHANNELS))))


def _puts_off(life: Life, engine: Engine, dice: random.Random) -> object:
    event = _pick(life, "event", dice)
    if event is not None:
        engine.books.put_off_events([event], timedelta(seconds=2), dice.choice(["", "busy"]))
        engine.books.retry_event(event, timedelta(seconds=dice.choice([0, 1])), "failed")
    return None


def _rests(life: Life, engine: Engine, dice: random.Random) -> object:
    channel = dice.choice(CHANNELS)
    match dice.choice(["rests", "fails", "answers", "stops", "starts", "marks"]):
        case "rests":
            engine.books.rest_channel(channel, timedelta(seconds=3), "asked to wait")
        case "fails":
            return engine.books.count_failure(channel, "down")
        case "answers":
            return engine.books.channel_answered(channel)
        case "stops":
            life.side.set_state(EAST, "paused")
        case "starts":
            life.side.set_state(channel, "active")
        case "marks":
            engine.books.mark_shelves_dirty(_ref(channel), life.clock.now)
    return None


ENGINE: tuple[Callable[[Life, Engine, random.Random], object], ...] = (
    _applies,
    _publishes,
    _pushes,
    _checks,
    _polls,
    _compares,
    _puts_off,
    _rests,
)


def _ref(channel: int) -> ChannelRef:
    return ChannelRef(channel, MERCHANT, "shopify")


def _pick(life: Life, table: str, dice: random.Random, **wanted: Any) -> int | None:
    """The number of some row, found by its name."""
    names = [
        name
        for name, row in life.side.rows[table].items()
        if all(row[column] == value for column, value in wanted.items())
    ]
    return life.side.id(table, dice.choice(sorted(names))) if names else None


@contextmanager
def history() -> Iterator[Drawn]:
    """Two new lives; PostgreSQL forgets its own in the end."""
    clock = Clock()
    orders: dict[int, dict[str, OrderState]] = defaultdict(dict)
    said: dict[bytes, tuple[protocol.Event, ...]] = {}
    with transaction.atomic():
        sides = make_sides(clock)
        lives = tuple(Life(side, clock, orders, said) for side in sides)
        yield Drawn(clock, (lives[0], lives[1]), orders, said)
        transaction.set_rollback(True)


def compare(drawn: Drawn) -> None:
    """Every row of one side is a row of the other."""
    tables, memory = (life.side.look() for life in drawn.lives)
    for table, rows in tables.items():
        assert memory[table] == rows, table


def live(drawn: Drawn, act: Callable[[Life, Engine, random.Random], object], seed: int, calls: int | None) -> None:
    """The same act on both sides, with the same dice, dying before the same call."""
    ends = []
    for life in drawn.lives:
        dice = random.Random(seed)
        life.side.set_clock(drawn.clock.now)
        watched = Watched(life.side, calls)
        end: object
        try:
            end = life.side.named(act(life, life.engine(watched, dice), dice))
        except (protocol.ChannelError, Death) as error:
            end = repr(error)
        ends.append((watched.answers, end))
    (tables_answers, tables_end), (memory_answers, memory_end) = ends
    for of_tables, of_memory in zip(tables_answers, memory_answers, strict=False):
        assert of_memory == of_tables
    assert memory_end == tables_end
    assert len(memory_answers) == len(tables_answers)


step = st.tuples(
    st.sampled_from((*OUTSIDE, *ENGINE, _sells, _applies, _applies, _publishes, _pushes, _checks, _waits)),
    st.integers(0, 2**20),
    st.sampled_from((None, None, None, *range(24))),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(step, min_size=15, max_size=60))
def _agree(steps: list[tuple[Any, int, int | None]]) -> None:
    with history() as drawn:
        compare(drawn)
        for act, seed, calls in steps:
            if act in OUTSIDE:
                for life in drawn.lives:
                    life.side.set_clock(drawn.clock.now)
                act(drawn, random.Random(seed))
            else:
                live(drawn, act, seed, calls)
            for life in drawn.lives:
                life.side.set_clock(drawn.clock.now)
            compare(drawn)


def test_both_books_live_the_same_life() -> None:
    _agree()
