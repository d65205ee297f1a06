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
from django.db import IntegrityError, transaction
from hypothesis import Phase, given, settings
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
from inventory.ledger import Entry
from sync import apply, check, publish, push, reconcile
from sync.decide import Envelope, Line, Verdict
from sync.ports import Books, ChannelRef, Desire, DriftFound, Engine, Finding, Mark, Picked
from sync.register import Effect
from synctec.lib.ids import uuid7
from tests.sync.both_books import (
    CHANNELS,
    EAST,
    ITEMS,
    LISTINGS,
    MERCHANT,
    MUG,
    NORTH,
    PLACES,
    SKUS,
    WAREHOUSES,
    Clock,
    Side,
    make_sides,
)

pytestmark = [pytest.mark.django_db, pytest.mark.hypothesis]


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
        fault = self.dice.choice([None] * 12 + list(FAULTS))
        if fault is not None and fault is not protocol.OutcomeUnknown:
            raise fault("no", code="NO", retry_after=self.dice.choice([None, 3.0]))
        if self.dice.random() < 0.1:
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

    @property
    def its_time(self) -> datetime:
        return self.clock.now

    def _polled(self, order: OrderState) -> PolledOrder:
        body = f"{self.channel} {order.order_id} {order.version.isoformat()}".encode()
        lines = tuple(self._placed(line) for line in order.lines)
        self.said.setdefault(body, (replace(order, lines=lines, read_at=self.clock.now),))
        return PolledOrder(order.order_id, order.version, body)

    def _placed(self, line: LineState) -> LineState:
        """A line as it is read: at the first place, or at two once it has three units."""
        places = [f"place-{place}" for place, (channel, _, _) in PLACES.items() if channel == self.channel]
        if len(places) < 2 or line.ordered < 3:
            return replace(line, location_id=places[0])
        shipped = ((places[1], line.shipped),) if line.shipped else ()
        return replace(line, places=((places[0], line.ordered - 1), (places[1], 1)), shipped_from=shipped)


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
    def try_lock(self, keys: Sequence[str], *, patient: bool = False) -> Iterator[Any]:
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
            audit_lag=timedelta(seconds=1),
            poll_overlap=timedelta(minutes=5),
        )


# --- what happens outside: drawn once, told to both ---------------------------------------------------------------


@dataclass
class History:
    """The world outside, and both lives."""

    clock: Clock
    lives: tuple[Life, Life]
    orders: dict[int, dict[str, OrderState]]
    said: dict[bytes, tuple[protocol.Event, ...]]
    events: int = 0

    def tell(self, channel: int, topic: str, event: protocol.Event, times: int) -> None:
        """A webhook arrives, so many times."""
        self.events += 1
        webhook_id = f"webhook-{self.events}"
        self.said[webhook_id.encode()] = (event,)
        for life in self.lives:
            for _ in range(times):
                life.side.deliver(channel, topic, webhook_id, uuid.UUID(int=self.events))

    def move(self, channel: int, item: str, place: str, units: int) -> None:
        """A store's counter moves by itself."""
        for life in self.lives:
            life.stores[channel].counters[item, place] += units


def sells(history: History, dice: random.Random) -> None:
    """A shopper buys, or an order of before is changed. Its webhook may be lost, doubled, or say next to nothing."""
    channel = dice.choice(CHANNELS)
    order_id = f"order-{dice.randint(1, 4)}"
    before = history.orders[channel].get(order_id)
    order = _buy(history, channel, order_id, dice) if before is None else _change(before, history.clock.now, dice)
    history.orders[channel][order_id] = order
    told: protocol.Event = order if dice.random() < 0.9 else OrderTouched(order_id, "told without its lines")
    history.tell(channel, "orders/updated", told, dice.choice([0, 1, 1, 1, 2]))


def _buy(history: History, channel: int, order_id: str, dice: random.Random) -> OrderState:
    places = [f"place-{place}" for place, (of, _, _) in PLACES.items() if of == channel]
    listings = [listing for listing, (of, _, _, _) in LISTINGS.items() if of == channel]
    lines = []
    for number, listing in enumerate(dice.sample(listings, dice.choice([1, 1, 2]))):
        units = dice.randint(1, 3)
        where = dice.choice([None, dice.choice(places)])
        lines.append(LineState(f"line-{number}", f"variant-{listing}", "", units, units, 0, where))
        history.move(channel, ITEMS[listing], where or places[0], -units)
    if dice.random() < 0.1:
        lines.append(LineState("line-9", "variant-404", "", 1, 1, 0, None))
    if dice.random() < 0.1:
        # No variant of the store's any more, or none ever.
        code = dice.choice(["", "SKU1", "SKU3", "BOTH", "WAS-CAP", "NONE"])
        lines.append(LineState("line-8", "", code, 1, 1, 0, None))
    # Now, a moment ago, or before the channel was connected.
    placed_at = history.clock.now - timedelta(seconds=dice.choice([0, 1, 1, 7200]))
    return OrderState(order_id, f"#{order_id}", placed_at, placed_at, None, False, tuple(lines))


def _change(order: OrderState, now: datetime, dice: random.Random) -> OrderState:
    line = dice.choice(order.lines)
    others = tuple(other for other in order.lines if other is not line)
    put_back_at = dice.choice([None, None, *(f"place-{place}" for place in PLACES)])
    refund = RefundedUnits(
        f"refund-{dice.randint(1, 3)}", line.line_id, 1, dice.choice(list(Restock)), put_back_at, now
    )
    return dice.choice(
        [
            replace(order, version=now, cancelled_at=now),
            replace(order, version=now, lines=(*others, replace(line, shipped=line.ordered))),
            replace(order, version=now, lines=(*others, replace(line, ordered=line.ordered + 1, current=None))),
            replace(order, version=now, refunds=(*order.refunds, refund)),
        ]
    )


def tells_of_a_level(history: History, dice: random.Random) -> None:
    """A level webhook: right, wrong, late, or that the place no longer counts the item."""
    channel = dice.choice(CHANNELS)
    counters = history.lives[0].stores[channel].counters
    (item, place), available = dice.choice(sorted(counters.items()))
    shown = dice.choice([available, available, available - 1, 7, None])
    is_stocked = dice.choice([None, None, None, True, False])
    at = history.clock.now - timedelta(seconds=dice.choice([0, 0, 600]))
    event = LevelTouched(item, place, shown if is_stocked is None else None, at, is_stocked)
    history.tell(channel, "inventory_levels/update", event, 1)


def is_edited_by_hand(history: History, dice: random.Random) -> None:
    channel = dice.choice(CHANNELS)
    item, place = dice.choice(sorted(history.lives[0].stores[channel].counters))
    history.move(channel, item, place, dice.choice([-2, -1, 1, 3]))


def waits(history: History, dice: random.Random) -> None:
    """Time passes: a blink, a lease, or so long that everything measured has faded."""
    history.clock.now += timedelta(seconds=dice.choice([0.3, 6, 6, 12, 25, 250, 1000, 40 * 86_400]))
    for life in history.lives:
        life.side.set_clock(history.clock.now)


# --- what the engine does: on each, with equal dice ---------------------------------------------------------------


def applies(life: Life, engine: Engine, dice: random.Random) -> object:
    return apply.apply_batch(engine, merchant_id=MERCHANT)


def publishes(life: Life, engine: Engine, dice: random.Random) -> object:
    return publish.publish_batch(engine, merchant_id=MERCHANT)


def asks_what_is_divided(life: Life, engine: Engine, dice: random.Random) -> object:
    return sorted(engine.books.undivided({(sku, warehouse) for sku in SKUS for warehouse in WAREHOUSES}))


def pushes(life: Life, engine: Engine, dice: random.Random) -> object:
    return push.push_channel(engine, channel=_ref(dice.choice(CHANNELS)), max_batches=3)


def checks(life: Life, engine: Engine, dice: random.Random) -> object:
    return check.check_channel(engine, channel=_ref(dice.choice(CHANNELS)))


def polls(life: Life, engine: Engine, dice: random.Random) -> object:
    return reconcile.poll_orders(engine, channel=_ref(dice.choice(CHANNELS)))


def compares(life: Life, engine: Engine, dice: random.Random) -> object:
    return reconcile.compare_levels(engine, channel=_ref(dice.choice(CHANNELS)))


def goes_round(life: Life, engine: Engine, dice: random.Random) -> object:
    """All of it for all channels that answer, so that what is found comes to an end."""
    engine.books.mind_clock()
    engine.books.end_doubts()
    done: list[object] = []
    for channel in map(_ref, CHANNELS):
        try:
            done.append(reconcile.poll_orders(engine, channel=channel))
            done.append(apply.apply_batch(engine, merchant_id=MERCHANT))
            done.append(check.check_channel(engine, channel=channel))
            done.append(publish.publish_batch(engine, merchant_id=MERCHANT))
            done.append(push.push_channel(engine, channel=channel, max_batches=3))
        except protocol.ChannelError as error:
            done.append(repr(error))
    return done


def puts_off(life: Life, engine: Engine, dice: random.Random) -> object:
    """An event waits, or is given up."""
    for event in _some(life, "event", dice):
        engine.books.put_off_events([event], timedelta(seconds=2), dice.choice(["", "busy"]))
        engine.books.retry_event(event, timedelta(seconds=dice.choice([0, 1])), "failed")
        if dice.random() < 0.3:
            engine.books.settle_events({event: Verdict("dead", "given up")})
    return None


def gives_back(life: Life, engine: Engine, dice: random.Random) -> object:
    """Of some claimed events, something may be said of one; others may be claimed again; what is left is given back."""
    claims = engine.books.claim_events(MERCHANT, dice.choice([1, 3, 10]), apply.LEASES)
    if claims and dice.random() < 0.5:
        engine.books.retry_event(dice.choice(claims).envelope.event_id, timedelta(), "failed")
        engine.books.claim_events(MERCHANT, 1, apply.LEASES)
    engine.books.give_back_events(claims, timedelta(seconds=dice.choice([0, 2])), dice.choice(["", "trouble"]))
    return None


def rests(life: Life, engine: Engine, dice: random.Random) -> object:
    """A channel is left alone, or set going again."""
    channel = dice.choice(CHANNELS)
    match dice.choice(["rests", "fails", "is out", "answers", "stops", "starts", "marks", "alarms", "hides", "shows"]):
        case "rests":
            engine.books.rest_channel(channel, timedelta(seconds=3), "asked to wait")
        case "fails":
            return engine.books.count_failure(channel, "no_answer", "down")
        case "is out":
            return engine.books.note_outage(channel, "server_error", "left alone")
        case "answers":
            return engine.books.channel_answered(channel)
        case "stops":
            life.side.set_state(EAST, "paused")
        case "starts":
            life.side.set_state(channel, "active")
        case "alarms":
            life.side.pause_raises(channel, dice.random() < 0.5)
        case "hides":
            life.side.set_shadow(EAST, True)
        case "shows":
            life.side.set_shadow(EAST, False)
        case "marks":
            engine.books.mark_shelves_dirty(_ref(channel), life.clock.now)
    return None


def switches(life: Life, engine: Engine, dice: random.Random) -> object:
    """A warehouse is switched off, or on again."""
    life.side.switch(dice.choice(WAREHOUSES), dice.random() < 0.5)
    return None


def stops_writing(life: Life, engine: Engine, dice: random.Random) -> object:
    """The kill switch is put on, and off again when all pushers have looked for work."""
    life.side.stop_writing(True)
    try:
        return [push.push_channel(engine, channel=_ref(channel), max_batches=3) for channel in CHANNELS]
    finally:
        life.side.stop_writing(False)


def maps(life: Life, engine: Engine, dice: random.Random) -> object:
    """A listing is mapped to no SKU, to its own or to another; seldom its variant is deleted."""
    listing = dice.choice(list(LISTINGS))
    if dice.random() < 0.1:
        life.side.delete_listing(listing)
    else:
        life.side.map_listing(listing, dice.choice([None, LISTINGS[listing][1], MUG]))
    return None


def takes_up(life: Life, engine: Engine, dice: random.Random) -> object:
    """The sweep looks for what waits in vain."""
    return life.side.take_up()


def breaks_a_rule(life: Life, engine: Engine, dice: random.Random) -> object:
    """What constraints of the tables refuse, the books in memory refuse."""
    rule = dice.choice(RULES)
    try:
        with engine.books.transaction():
            if rule(life, engine.books, dice):
                pytest.fail(f"{rule.__name__} was accepted")
    except (IntegrityError, AssertionError):
        return f"{rule.__name__} was refused"
    return "nothing to break it with"


def ignores_without_a_reason(life: Life, books: Books, dice: random.Random) -> bool:
    events = _some(life, "event", dice, state="pending")
    books.settle_events(dict.fromkeys(events, Verdict("ignored")))
    return bool(events)


def posts_twice(life: Life, books: Books, dice: random.Random) -> bool:
    [level] = _some(life, "stock", dice)
    books.post(MERCHANT, books.lock_balances([level]), [_entry(life, level, on_hand=1)] * 2, life.clock.now)
    return True


def holds_less_than_nothing(life: Life, books: Books, dice: random.Random) -> bool:
    [level] = _some(life, "stock", dice)
    books.post(MERCHANT, books.lock_balances([level]), [_entry(life, level, held=-100)], life.clock.now)
    return True


def gives_a_quota_below_zero(life: Life, books: Books, dice: random.Random) -> bool:
    books.write_quotas(MERCHANT, {(MUG, 1): -1})
    return True


def pushes_twice_at_once(life: Life, books: Books, dice: random.Random) -> bool:
    [level] = _some(life, "level", dice)
    for _ in range(2):
        books.open_batch(_ref(NORTH), uuid7(), [Picked(level, "item", "place", 1, 2, 0)], timedelta(seconds=1))
    return True


def shows_less_than_nothing(life: Life, books: Books, dice: random.Random) -> bool:
    target = books.load_targets([MUG])[0]
    books.write_desires([Desire(target, -1)], {MUG: Mark()}, life.clock.now)
    return True


def samples_half(life: Life, books: Books, dice: random.Random) -> bool:
    levels = [level for level in _some(life, "level", dice) if _row(life, "level", level)["suspect_since"]]
    books.write_findings([Finding(level, is_settled=False, sample=1) for level in levels], life.clock.now)
    return bool(levels)


def samples_unsuspected(life: Life, books: Books, dice: random.Random) -> bool:
    levels = _some(life, "level", dice, suspect_since=None)
    books.write_findings([_sampled(life, level) for level in levels], life.clock.now)
    return bool(levels)


def holds_nowhere(life: Life, books: Books, dice: random.Random) -> bool:
    levels = [level for level in _some(life, "level", dice) if _row(life, "level", level)["suspect_since"]]
    books.write_findings([replace(_sampled(life, level), held=1) for level in levels], life.clock.now)
    return bool(levels)


def asks_about_nothing(life: Life, books: Books, dice: random.Random) -> bool:
    [level] = _some(life, "level", dice)
    [stock] = _some(life, "stock", dice)
    now = life.clock.now
    drift = DriftFound(level, 1, 0, "adopted", "", False, None, uuid.UUID(int=1), now, held=1, held_at=stock)
    books.add_drifts(_ref(NORTH), [drift])
    return True


def books_less_than_it_should(life: Life, books: Books, dice: random.Random) -> bool:
    books.write_lines(MERCHANT, [_line(life, applied=Effect(1), desired=Effect(2))], life.clock.now)
    return True


def commits_less_than_nothing(life: Life, books: Books, dice: random.Random) -> bool:
    books.write_lines(MERCHANT, [_line(life, applied=Effect(-1), desired=Effect(-1))], life.clock.now)
    return True


def makes_a_line_twice(life: Life, books: Books, dice: random.Random) -> bool:
    for _ in range(2):
        books.write_lines(MERCHANT, [_line(life)], life.clock.now)
    return True


RULES: tuple[Callable[[Life, Books, random.Random], bool], ...] = (
    ignores_without_a_reason,
    posts_twice,
    holds_less_than_nothing,
    gives_a_quota_below_zero,
    pushes_twice_at_once,
    shows_less_than_nothing,
    samples_half,
    samples_unsuspected,
    holds_nowhere,
    asks_about_nothing,
    books_less_than_it_should,
    commits_less_than_nothing,
    makes_a_line_twice,
)


def _ref(channel: int) -> ChannelRef:
    return ChannelRef(channel, MERCHANT, "shopify")


def _some(life: Life, table: str, dice: random.Random, **wanted: Any) -> list[int]:
    """The number of some row, found by its name; none when there is none."""
    names = sorted(
        name
        for name, row in life.side.rows[table].items()
        if all(row[column] == value for column, value in wanted.items())
    )
    return [life.side.id(table, dice.choice(names))] if names else []


def _row(life: Life, table: str, number: int) -> dict[str, Any]:
    return life.side.rows[table][life.side.name(table, number)]


def _entry(life: Life, level: int, *, on_hand: int = 0, held: int = 0) -> Entry:
    correlation_id = uuid.UUID(int=1)
    return Entry(level, "check", "once", "", correlation_id, life.clock.now, on_hand=on_hand, held=held)


def _sampled(life: Life, level: int) -> Finding:
    now = life.clock.now
    return Finding(
        level,
        is_settled=False,
        sample=1,
        sampled_from=now,
        sampled_until=now,
        sample_pushed=0,
        sampled_ahead=timedelta(0),
    )


def _line(life: Life, *, applied: Effect | None = None, desired: Effect | None = None) -> Line:
    latest = Envelope(1, NORTH, uuid.UUID(int=1), life.clock.now)
    return Line((NORTH, "order", "line"), applied=applied or Effect(), desired=desired or Effect(), latest=latest)


# --- the test -----------------------------------------------------------------------------------------------------

OUTSIDE: tuple[Callable[[History, random.Random], None], ...] = (
    *(sells, sells, tells_of_a_level, is_edited_by_hand, waits, waits),
)
ENGINE: tuple[Callable[[Life, Engine, random.Random], object], ...] = (
    *(applies, applies, applies, publishes, publishes, pushes, pushes, checks, checks, polls, compares, goes_round),
    *(
        goes_round,
        asks_what_is_divided,
        puts_off,
        gives_back,
        rests,
        switches,
        stops_writing,
        maps,
        takes_up,
        breaks_a_rule,
    ),
)


@contextmanager
def a_history(policy: str = "split") -> Iterator[History]:
    """Two new lives; PostgreSQL forgets its own in the end."""
    clock = Clock()
    orders: dict[int, dict[str, OrderState]] = defaultdict(dict)
    said: dict[bytes, tuple[protocol.Event, ...]] = {}
    with transaction.atomic():
        tables, memory = (Life(side, clock, orders, said) for side in make_sides(clock, policy))
        yield History(clock, (tables, memory), orders, said)
        transaction.set_rollback(True)


def differences(history: History) -> dict[tuple[Any, ...], Any]:
    """Rows that are not the same on both sides: what PostgreSQL has of them, and what the memory has."""
    tables, memory = (life.side.look() for life in history.lives)
    return {
        (table, name): (tables[table].get(name), memory[table].get(name))
        for table in tables
        for name in (*tables[table], *memory[table])
        if tables[table].get(name) != memory[table].get(name)
    }


def live(life: Life, act: Callable[[Life, Engine, random.Random], object], seed: int, calls: int | None) -> list[Any]:
    """What the books answered to each call of the act, and how it ended."""
    dice = random.Random(seed)
    watched = Watched(life.side, calls)
    try:
        end = life.side.named(act(life, life.engine(watched, dice), dice))
    except (protocol.ChannelError, Death) as error:
        end = repr(error)
    return [*watched.answers, end]


step = st.tuples(
    st.sampled_from((*OUTSIDE, *ENGINE)),
    st.integers(0, 2**20),
    # Before which call of the books the worker dies; mostly it does not.
    st.sampled_from((*[None] * 99, *range(33))),
)


def test_both_books_live_the_same_life() -> None:
    # A history takes half a second. Shrinking one that differs would take minutes: that it differs, and where, is told as it
    # was found.
    @settings(max_examples=settings().max_examples // 40, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    @given(st.sampled_from(["split", "guard"]), st.lists(step, min_size=20, max_size=60))
    def live_through(policy: str, steps: list[tuple[Any, int, int | None]]) -> None:
        with a_history(policy) as history:
            assert not differences(history)
            for act, seed, calls in steps:
                if act in OUTSIDE:
                    act(history, random.Random(seed))
                else:
                    in_tables, in_memory = (live(life, act, seed, calls) for life in history.lives)
                    for of_tables, of_memory in zip(in_tables, in_memory, strict=True):
                        assert of_memory == of_tables
                assert not differences(history)

    live_through()
