"""Applying events: from the inbox to registers, ledger and stock, in batches.

1. claim a batch (its own small commit, so that a message that kills the process cannot do so over and over);
2. interpret the bytes; read orders whose message does not tell enough;
3. try-lock the SKUs concerned (Redlock); events of busy SKUs are tried once more, then left for the next batch;
4. one transaction: lock rows, decide, write, settle the events.

Invariant: an event is settled in the transaction that wrote its effects, so it has them exactly once.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, transaction

from channels import protocol, urgency
from channels.protocol import (
    CatalogueTouched,
    LevelTouched,
    LineState,
    OrderDeleted,
    OrderState,
    OrderTouched,
    RefundMade,
)
from channels.urgency import Urgency
from inventory.ledger import Entry
from sync import catalogue
from sync.decide import DEAD, IGNORED, Line, LineKey, Outcome, Verdict, World, decide, ends_hold
from sync.ports import CLAIM_LEASE, Claimed, Engine, Locked, Mappings, Mentioned, OrderKey, Waiting
from synctec.lib.backoff import MAX_ATTEMPTS, delay_seconds
from synctec.lib.failpoints import failpoint

log = structlog.get_logger(__name__)

BATCH_EVENTS = 1000
#: The first try and the retries after 1, 2, 4, 8 and 16 seconds.
CLAIMS_MAX = 1 + MAX_ATTEMPTS
#: Claimed so often without a word of what became of it, an event may have killed its workers. It is applied alone then,
#: and each claim keeps the next one off for twice as long, so that it costs a worker every four minutes at most.
SUSPECT_CLAIMS = CLAIMS_MAX
LEASES = (*[CLAIM_LEASE] * SUSPECT_CLAIMS, *(CLAIM_LEASE * 2**times for times in range(1, 6)))
#: A claim that ends in an error is given back, and while the database is away none is made. Those that are left count
#: processes that died, or a database that went away between a claim and its end: it takes a whole day of nothing else
#: until a sale that was acknowledged is taken for what kills them.
POISON_CLAIMS = 360
#: The database has had trouble: so long what was claimed is left alone.
TROUBLE = timedelta(seconds=1)
#: An event with which the database has trouble even when it is applied alone waits for as long as it has waited before,
#: up to this.
TROUBLE_MAX = timedelta(seconds=60)
#: A webhook that shows an unexpected level is mostly ahead of its order: that long the order may take to arrive.
CHECK_AFTER = timedelta(milliseconds=800)
#: Another worker is busy with these SKUs: so long their events are left alone.
BUSY = timedelta(milliseconds=20)
#: From then on a reading is the last word on a version of this very second.
READ_AFTER = protocol.VERSION_IS_FINAL_AFTER + timedelta(seconds=1)

#: A version of an order that is no older than this is the one it was placed with.
STILL_NEW = timedelta(seconds=5)

OrderEvent = OrderState | OrderDeleted | RefundMade
StockEvent = OrderEvent | LevelTouched


@dataclass(frozen=True, slots=True)
class _Around:
    """What a batch mentions, what the orders in it have moved before, and what all that is mapped to."""

    mentioned: Mentioned
    skus_of_orders: Mapping[OrderKey, set[int]]
    mappings: Mappings


@dataclass(slots=True)
class Applied:
    """What a batch came to."""

    claimed: int = 0
    settled: int = 0
    busy: int = 0
    failed: int = 0
    dirty: bool = False
    #: The correlation ids of the events that were claimed.
    stories: list[uuid.UUID] = field(default_factory=list)


def apply_batch(engine: Engine, *, merchant_id: int) -> Applied:
    """Apply one batch of a merchant's pending events; `.claimed` tells whether there may be more.

    Raises:
        OperationalError, InterfaceError: the database is away or has trouble. Nothing is lost and no event is blamed: what
            was claimed is given back, or the claim runs out by itself.
    """
    batch = engine.books.claim_events(merchant_id, BATCH_EVENTS, LEASES)
    done = Applied(claimed=len(batch), stories=[claimed.envelope.correlation_id for claimed in batch])
    if not batch:
        return done
    failpoint("apply.after_claim")
    try:
        late_at = engine.now() + CLAIM_LEASE / 2
        suspects = [claimed for claimed in batch if claimed.attempts > SUSPECT_CLAIMS]
        _apply_claimed(
            engine, merchant_id, [claimed for claimed in batch if claimed.attempts <= SUSPECT_CLAIMS], late_at, done
        )
        # What comes behind the one that kills is claimed in vain along with it: in no order, others get past it.
        engine.rng.shuffle(suspects)
        while suspects:
            _apply_claimed(engine, merchant_id, [suspects.pop()], late_at, done)
            if suspects and engine.now() > late_at:
                _hand_back(engine, suspects, done)
                break
    except (OperationalError, InterfaceError):
        _give_back(engine, batch, TROUBLE, "")
        raise
    return done


def _apply_claimed(
    engine: Engine, merchant_id: int, batch: Sequence[Claimed], late_at: datetime, done: Applied
) -> None:
    """Apply these. From `late_at` on no channel is asked any more, and what that leaves is handed back."""
    if not batch:
        return
    verdicts: dict[int, Verdict] = {}
    stock_events: list[Claimed] = []
    others: list[Claimed] = []
    for claimed in batch:
        if claimed.attempts > POISON_CLAIMS:
            verdicts[claimed.envelope.event_id] = Verdict(DEAD, f"poison: {POISON_CLAIMS} workers died over it")
            continue
        if claimed.body is None:
            verdicts[claimed.envelope.event_id] = Verdict(DEAD, f"unreadable: {claimed.unreadable}")
            continue
        try:
            claimed.events = engine.channels.reader(claimed.kind).interpret(topic=claimed.topic, body=claimed.body)
        except protocol.MalformedEvent as error:
            verdicts[claimed.envelope.event_id] = Verdict(DEAD, f"malformed: {error}")
            continue
        if any(isinstance(event, StockEvent | OrderTouched) for event in claimed.events):
            stock_events.append(claimed)
        else:
            others.append(claimed)
    engine.books.settle_events(verdicts)
    done.settled += len(verdicts)
    # What needs no answer of a channel goes first: a silent store holds up nobody else's sales.
    untold = _untold(engine, stock_events)
    readers = {claimed.envelope.event_id for orders in untold.values() for told in orders.values() for claimed in told}
    told = [claimed for claimed in stock_events if claimed.envelope.event_id not in readers]
    _apply_stock_events(engine, merchant_id, told, done)
    _apply_stock_events(engine, merchant_id, _read_untold(engine, untold, late_at, done), done)
    _apply_others(engine, others, late_at, done)


# --- orders whose message does not tell enough ------------------------------------------------------------------


def _untold(engine: Engine, batch: list[Claimed]) -> dict[int, dict[str, list[Claimed]]]:
    """Orders that are to be read, by channel: those only touched, those whose place of sale is not told on a channel with
    several, and those of which two things were told within one second.
    """
    wanted: dict[int, dict[str, list[Claimed]]] = defaultdict(lambda: defaultdict(list))
    several = engine.books.channels_with_several_places({claimed.envelope.channel_id for claimed in batch})
    known = engine.books.lines_with_a_place(
        {
            (claimed.envelope.channel_id, event.order_id)
            for claimed in batch
            if claimed.envelope.channel_id in several
            for event in claimed.events
            if isinstance(event, OrderState)
        }
    )
    contested = engine.books.contested_orders(
        {
            (claimed.envelope.channel_id, event.order_id)
            for claimed in batch
            if claimed.attempts > 1
            for event in claimed.events
            if isinstance(event, OrderEvent)
        }
    )
    for claimed in batch:
        channel = claimed.envelope.channel_id
        for event in claimed.events:
            if isinstance(event, OrderTouched) or (
                isinstance(event, OrderEvent)
                and (
                    (channel, event.order_id) in contested
                    or (
                        channel in several
                        and isinstance(event, OrderState)
                        and any(
                            not _is_located(line) and (channel, event.order_id, line.line_id) not in known
                            for line in event.lines
                        )
                    )
                )
            ):
                wanted[channel][event.order_id].append(claimed)
    return wanted


def _is_located(line: LineState) -> bool:
    """Whether the message says of all its units where they are taken from."""
    return (
        line.location_id is not None
        or bool(line.places)
        or sum(units for _, units in line.shipped_from) >= (line.ordered if line.current is None else line.current)
    )


def _read_untold(
    engine: Engine, untold: Mapping[int, Mapping[str, list[Claimed]]], late_at: datetime, done: Applied
) -> list[Claimed]:
    """Read these orders, for as long as the claim lasts. What was read is applied, whatever becomes of the rest."""
    read: list[Claimed] = []
    for channel_id, orders in untold.items():
        read += _read_orders(engine, channel_id, orders, late_at, done)
    return sorted(read, key=lambda claimed: claimed.envelope.event_id)


def _read_orders(
    engine: Engine, channel_id: int, orders: Mapping[str, list[Claimed]], late_at: datetime, done: Applied
) -> list[Claimed]:
    """Read these orders of a channel; returns what may be applied now.

    While the channel does not answer, the rest is left for later. A reading that fails for what it asks for is made
    smaller until the order is found that it fails for: no other pays for it.
    """
    read = {claimed.envelope.event_id: claimed for readers in orders.values() for claimed in readers}

    def leave_out(order_ids: Iterable[str]) -> list[Claimed]:
        events = {claimed.envelope.event_id for order in order_ids for claimed in orders[order]}
        return [read.pop(event) for event in sorted(events & read.keys())]

    waiting = list(orders)
    try:
        connector = engine.channels.connector(channel_id)
        size = connector.capabilities.orders_per_read
        while waiting:
            asked = waiting[:size]
            try:
                _read(engine, connector, asked, orders)
            except (protocol.MalformedEvent, protocol.Refused) as error:
                if len(asked) > 1:
                    size = len(asked) // 2
                    continue
                for claimed in leave_out(asked):
                    _fail(engine, claimed, error, done)
                size = connector.capabilities.orders_per_read
            del waiting[: len(asked)]
            if waiting and engine.now() > late_at:
                _hand_back(engine, leave_out(waiting), done)
                break
    except protocol.ChannelError as error:
        left = leave_out(waiting)
        _defer_for_channel(engine, left, error)
        done.failed += len(left)
    for claimed in read.values():
        claimed.is_read = True
    return list(read.values())


def _read(
    engine: Engine, connector: protocol.Connector, order_ids: Sequence[str], orders: Mapping[str, list[Claimed]]
) -> None:
    reader = engine.channels.reader(orders[order_ids[0]][0].kind)
    with urgency.of(Urgency.LOWER):
        found = connector.read_orders(order_ids)
    for order in found:
        news = reader.interpret(topic="orders/polled", body=order.body)
        for claimed in orders[order.order_id]:
            # What a refund or a deletion says on its own stays said.
            kept = [
                event
                for event in claimed.events
                if not isinstance(event, OrderState | OrderTouched) or event.order_id != order.order_id
            ]
            claimed.events = (*kept, *news)


# --- events that move stock -------------------------------------------------------------------------------------


def _apply_stock_events(engine: Engine, merchant_id: int, batch: list[Claimed], done: Applied) -> None:
    """Apply what nobody else is busy with, then wait a moment for the rest: to claim and read it once more costs more."""
    busy = _apply_lockable(engine, merchant_id, batch, done)
    if busy:
        busy = _apply_lockable(engine, merchant_id, busy, done, is_patient=True)
    engine.books.put_off_events([claimed.envelope.event_id for claimed in busy], BUSY, "")
    done.busy += len(busy)


def _apply_lockable(
    engine: Engine, merchant_id: int, batch: list[Claimed], done: Applied, *, is_patient: bool = False
) -> list[Claimed]:
    """Apply those whose SKUs can be locked; returns the others."""
    if not batch:
        return []
    around = _look_around(engine, merchant_id, batch)
    skus_of = _skus_of(batch, around)
    keys = _keys(sku for skus in skus_of.values() for sku in skus)
    with engine.locks.try_lock(keys, patient=is_patient) as locked:
        free = [claimed for claimed in batch if _is_free(locked, skus_of[claimed.envelope.event_id])]
        # What others are busy with must not be locked along: then only what the free ones mention is loaded.
        _apply_free(engine, merchant_id, free, done, around if len(free) == len(batch) else None)
    applied = {claimed.envelope.event_id for claimed in free}
    return [claimed for claimed in batch if claimed.envelope.event_id not in applied]


def _keys(sku_ids: Iterable[int]) -> list[str]:
    """The names under which SKUs are locked."""
    return [f"sku:{sku}" for sku in sorted(set(sku_ids))]


def _is_free(locked: Locked, sku_ids: Collection[int]) -> bool:
    """Whether work on these SKUs may go ahead: all are ours, or too few lock nodes answer to tell.

    In the second case the row locks in PostgreSQL do alone, at the price of some waiting.
    """
    return locked.is_degraded or locked.keys >= set(_keys(sku_ids))


def _apply_free(
    engine: Engine, merchant_id: int, batch: list[Claimed], done: Applied, around: _Around | None = None
) -> None:
    """Apply all of them in one transaction; should that fail, one half after the other, down to the one it fails for.

    Raises:
        OperationalError, InterfaceError: the database had trouble with one alone. That one is left alone for a while.
    """
    if not batch:
        return
    try:
        try:
            _apply_together(engine, merchant_id, batch, done, around)
        except IntegrityError:
            # Another worker was first with a new row of these, which the locks had not kept off: now it is there.
            _apply_together(engine, merchant_id, batch, done)
    except (
        DatabaseError,
        InterfaceError,
        ArithmeticError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        if len(batch) > 1:
            log.warning("apply.batch_split", events=len(batch), error=repr(error)[:300])
            half = len(batch) // 2
            _apply_free(engine, merchant_id, batch[:half], done)
            _apply_free(engine, merchant_id, batch[half:], done)
        elif isinstance(error, OperationalError | InterfaceError):
            _set_aside(engine, batch[0], error)
            raise
        else:
            _fail(engine, batch[0], error, done)


def _apply_together(
    engine: Engine, merchant_id: int, batch: Sequence[Claimed], done: Applied, around: _Around | None = None
) -> None:
    books = engine.books
    with books.transaction():
        ours = books.take_events([claimed.envelope.event_id for claimed in batch])
        mine = [claimed for claimed in batch if claimed.envelope.event_id in ours]
        if not mine:
            return
        outcome = Outcome()
        verdicts = _decide_all(engine, merchant_id, mine, outcome, around if len(mine) == len(batch) else None)
        _put_off_contested(engine, mine, outcome, verdicts)
        books.settle_events(verdicts)
        failpoint("apply.before_commit")
    failpoint("apply.after_commit")
    done.settled += len(verdicts)
    done.dirty = done.dirty or bool(outcome.dirty)
    books.note_inbound_lag(_lags(mine), engine.now())


def _put_off_contested(
    engine: Engine, batch: Iterable[Claimed], outcome: Outcome, verdicts: dict[int, Verdict]
) -> None:
    """Of two versions of one second nobody knows which is the later: once that second is over, the order is read.

    Until then what leaves less for sale counts. The event that brought it up stays pending until its order was asked for.
    """
    contested = {envelope.event_id for envelope in outcome.orders_to_read.values()}
    for claimed in batch:
        if claimed.envelope.event_id in contested and not claimed.is_read:
            del verdicts[claimed.envelope.event_id]
            engine.books.retry_event(claimed.envelope.event_id, READ_AFTER, "contested: its order is to be read")


def _lags(batch: Iterable[Claimed]) -> dict[int, float]:
    """How long news of new orders took to arrive, per channel (seconds). Store times are whole seconds, and a store may be
    at work on an order for a moment before it tells of it.
    """
    lags: dict[int, float] = {}
    for claimed in batch:
        for event in claimed.events:
            if isinstance(event, OrderState) and event.version - event.created_at <= STILL_NEW:
                lag = max(0.0, (claimed.envelope.received_at - event.version).total_seconds())
                channel = claimed.envelope.channel_id
                lags[channel] = max(lags.get(channel, 0.0), lag)
    return lags


def _decide_all(
    engine: Engine, merchant_id: int, batch: Sequence[Claimed], outcome: Outcome, around: _Around | None
) -> dict[int, Verdict]:
    """Load what the batch touches under locks, decide event by event, write the outcome.

    `around`: what was loaded of just this batch a moment ago. Nothing locks mappings, so they are as good as read now; what
    the locked lines add to what is mentioned is another question.
    """
    books, now = engine.books, engine.now()
    mentioned = around.mentioned if around else _mentioned(batch)
    lines = books.lock_lines(mentioned.orders)
    if around is not None and not lines:
        mappings = around.mappings
    else:
        # A refund told on its own does not name the variant that its line may be waiting for.
        waiting = [(channel, line.register) for (channel, _, _), line in lines.items() if line.waiting_for]
        if waiting:
            mentioned = mentioned._replace(
                variants=mentioned.variants
                | {(channel, said.variant_id) for channel, said in waiting if said.variant_id},
                codes=mentioned.codes | {(channel, said.sku) for channel, said in waiting if not said.variant_id},
            )
        mappings = books.load_mappings(
            merchant_id, mentioned, known_skus=[line.sku_id for line in lines.values() if line.sku_id is not None]
        )
    sku_ids = {facts.sku_id for _, facts in mappings.listings() if facts.sku_id is not None}
    sku_ids |= {line.sku_id for line in lines.values() if line.sku_id is not None}
    order_channels = {channel for channel, _ in mentioned.orders}
    selling = {
        location
        for (channel, _), location in mappings.location_ids.items()
        if channel in order_channels and location in mappings.warehouses
    }
    held_for = books.held_for_orders(merchant_id, mentioned.orders)
    taken = {level for line in lines.values() for level in line.taken_from}
    stock_level_ids, balances = books.lock_stock(merchant_id, mappings, sku_ids, selling, taken | held_for)
    # A hold that was committed to an order and the order are one sale: what is held may be what is sold.
    held = books.lock_holds(merchant_id, mentioned.orders, balances, now) if held_for else []
    available = {level: balance.available for level, balance in balances.items()}
    for entry in _given_back(held):
        available[entry.stock_level_id] -= entry.held
    levels = books.lock_levels(merchant_id, _level_pairs(batch, mappings, lines, selling))
    world = World(
        listings_by_variant=mappings.listings_by_variant,
        listings_by_item=mappings.listings_by_item,
        location_ids=mappings.location_ids,
        default_locations=mappings.default_locations,
        warehouses=mappings.warehouses,
        parts=mappings.parts,
        bundles=mappings.bundles,
        counted_from=mappings.counted_from,
        routing=mappings.routing,
        split_shipment=mappings.split_shipment,
        listings_by_code=mappings.listings_by_code,
        stock_level_ids=stock_level_ids,
        available=available,
        levels=levels,
        lines=lines,
    )
    verdicts: dict[int, Verdict] = {}
    # Orders first: a level webhook mostly shows what an order of the same batch explains.
    for claimed in sorted(batch, key=lambda claimed: isinstance(claimed.events[0], LevelTouched)):
        for event in claimed.events:
            if isinstance(event, StockEvent):
                verdict = decide(event, claimed.envelope, world, outcome)
                verdicts[claimed.envelope.event_id] = verdict
        verdicts.setdefault(claimed.envelope.event_id, Verdict(IGNORED, "the order is no longer there to be read"))
    ended = _ended(held, world.lines)
    if ended:
        books.end_holds(merchant_id, ended, balances, now)
    books.post(merchant_id, balances, [*_given_back(ended), *outcome.entries], now)
    books.write_lines(merchant_id, outcome.touched_lines.values(), now)
    books.write_order_effects(levels.values(), now)
    books.write_level_changes(levels.values(), now, CHECK_AFTER)
    books.mark_dirty(
        merchant_id,
        {sku: (envelope.correlation_id, envelope.received_at) for sku, envelope in outcome.dirty.items()},
    )
    return verdicts


def _given_back(holds: Iterable[Waiting]) -> list[Entry]:
    return [entry for hold in holds for entry in hold.gives_back]


def _ended(holds: Sequence[Waiting], lines: Mapping[LineKey, Line]) -> list[Waiting]:
    """The holds whose orders, all of whose lines these are, have been booked or have nothing left to book."""
    if not holds:
        return []
    by_order: dict[OrderKey, list[Line]] = defaultdict(list)
    for (channel, order_id, _), line in lines.items():
        by_order[channel, order_id].append(line)
    return [hold for hold in holds if ends_hold(hold.sku_id, by_order[hold.order])]


def _mentioned(batch: Iterable[Claimed]) -> Mentioned:
    variants: set[tuple[int, str]] = set()
    items: set[tuple[int, str]] = set()
    orders: set[OrderKey] = set()
    codes: set[tuple[int, str]] = set()
    for claimed in batch:
        channel = claimed.envelope.channel_id
        for event in claimed.events:
            if isinstance(event, OrderState):
                orders.add((channel, event.order_id))
                for line in event.lines:
                    if line.variant_id:
                        variants.add((channel, line.variant_id))
                    elif line.sku:
                        codes.add((channel, line.sku))
            elif isinstance(event, RefundMade | OrderDeleted):
                orders.add((channel, event.order_id))
            elif isinstance(event, LevelTouched):
                items.add((channel, event.inventory_item_id))
    return Mentioned(frozenset(variants), frozenset(items), frozenset(orders), frozenset(codes))


def _level_pairs(
    batch: Iterable[Claimed], mappings: Mappings, lines: dict[LineKey, Line], selling: set[int]
) -> set[tuple[int, int]]:
    """The (listing, store location) pairs whose levels the batch may touch."""
    places: dict[int, set[int]] = defaultdict(set)
    for (channel, _), location in mappings.location_ids.items():
        if location in selling:
            places[channel].add(location)
    pairs = {
        (facts.listing_id, location)
        for channel, facts in mappings.listings()
        if facts.sku_id is not None
        for location in places[channel]
    }
    for (channel, _, _), line in lines.items():
        if line.listing_id is not None:
            # What was sold at one of them may be put back at another.
            pairs |= {(line.listing_id, location) for location in (*places[channel], *line.placed)}
            if line.store_location_id is not None:
                pairs.add((line.listing_id, line.store_location_id))
    for claimed in batch:
        for event in claimed.events:
            if isinstance(event, LevelTouched):
                channel = claimed.envelope.channel_id
                place = mappings.location_ids.get((channel, event.location_id))
                if place is not None and place in mappings.warehouses:
                    pairs |= {
                        (facts.listing_id, place)
                        for facts in mappings.listings_by_item.get((channel, event.inventory_item_id), ())
                        if facts.sku_id is not None
                    }
    return pairs


def _look_around(engine: Engine, merchant_id: int, batch: Sequence[Claimed]) -> _Around:
    """Read, without locks, what the batch mentions and what that is mapped to."""
    mentioned = _mentioned(batch)
    skus_of_orders = engine.books.skus_of_orders(mentioned.orders)
    mappings = engine.books.load_mappings(
        merchant_id, mentioned, known_skus={sku for skus in skus_of_orders.values() for sku in skus}
    )
    return _Around(mentioned, skus_of_orders, mappings)


def _skus_of(batch: Iterable[Claimed], around: _Around) -> dict[int, set[int]]:
    """The stocked SKUs each event may move: what is locked so that no two workers contend for them."""
    mappings = around.mappings
    result: dict[int, set[int]] = {}
    for claimed in batch:
        channel = claimed.envelope.channel_id
        skus: set[int] = set()
        for event in claimed.events:
            if isinstance(event, OrderState):
                facts = [
                    mappings.listings_by_variant.get((channel, line.variant_id))
                    or mappings.listings_by_code.get((channel, line.sku))
                    for line in event.lines
                ]
                skus |= {fact.sku_id for fact in facts if fact is not None and fact.sku_id is not None}
            if isinstance(event, OrderEvent):
                skus |= around.skus_of_orders.get((channel, event.order_id), set())
        result[claimed.envelope.event_id] = mappings.stocked_skus(skus)
    return result


# --- everything else --------------------------------------------------------------------------------------------


def _apply_others(engine: Engine, batch: Sequence[Claimed], late_at: datetime, done: Applied) -> None:
    """Apply what may need an answer of its channel, for as long as the claim lasts; the rest is handed back."""
    waiting = list(batch)
    while waiting:
        claimed = waiting.pop(0)
        try:
            _apply_other(engine, claimed, done)
        except protocol.ChannelError as error:
            # One question is enough to know that the channel does not answer.
            channel = claimed.envelope.channel_id
            unread = [claimed, *(other for other in waiting if _asks(other, channel))]
            waiting = [other for other in waiting if not _asks(other, channel)]
            _defer_for_channel(engine, unread, error)
            done.failed += len(unread)
        if waiting and engine.now() > late_at:
            _hand_back(engine, waiting, done)
            return


def _asks(claimed: Claimed, channel_id: int) -> bool:
    return claimed.envelope.channel_id == channel_id and any(
        isinstance(event, CatalogueTouched) for event in claimed.events
    )


def _apply_other(engine: Engine, claimed: Claimed, done: Applied) -> None:
    """Catalogue, locations, the app's own fate: rare, so one transaction each.

    Raises:
        ChannelError: the channel could not be asked.
    """
    try:
        claimed.events = catalogue.read_untold(claimed.events, claimed.envelope.channel_id)
        with transaction.atomic():
            verdict = catalogue.apply(claimed.events, claimed.envelope, engine.now())
            engine.books.settle_events({claimed.envelope.event_id: verdict})
        done.settled += 1
        done.dirty = True
    except (protocol.Refused, protocol.MalformedEvent) as error:
        _fail(engine, claimed, error, done)
    except (OperationalError, InterfaceError) as error:
        _set_aside(engine, claimed, error)
        raise
    except (DatabaseError, AssertionError, LookupError, TypeError, ValueError) as error:
        _fail(engine, claimed, error, done)


# --- what is not applied now --------------------------------------------------------------------------------------


def _hand_back(engine: Engine, batch: Collection[Claimed], done: Applied) -> None:
    """The claim does not last for these: the next batch is theirs."""
    engine.books.put_off_events([claimed.envelope.event_id for claimed in batch], BUSY, "")
    done.busy += len(batch)


def _set_aside(engine: Engine, claimed: Claimed, error: Exception) -> None:
    """It is the database's fault, or that of what the event asks of it: it waits, so that no other waits for it."""
    pause = min(TROUBLE_MAX, max(TROUBLE, engine.now() - claimed.envelope.received_at))
    _give_back(engine, [claimed], pause, f"{type(error).__name__}: {error}"[:400])


def _give_back(engine: Engine, batch: Collection[Claimed], after: timedelta, reason: str) -> None:
    """The database has had trouble, which costs no event an attempt, if the database can be told so."""
    try:
        engine.books.give_back_events(batch, after, reason)
    except (OperationalError, InterfaceError) as error:
        log.warning("apply.not_given_back", events=len(batch), error=repr(error)[:300])


def _fail(engine: Engine, claimed: Claimed, error: Exception, done: Applied) -> None:
    """Try again later, with growing distance; after the last attempt the event is dead, and says why."""
    done.failed += 1
    reason = f"{type(error).__name__}: {error}"[:400]
    log.warning(
        "apply.failed",
        event_id=claimed.envelope.event_id,
        correlation_id=str(claimed.envelope.correlation_id),
        attempt=claimed.attempts,
        error=reason,
    )
    if claimed.attempts >= CLAIMS_MAX:
        verdict = Verdict(DEAD, f"failed {claimed.attempts} times: {reason}")
        engine.books.settle_events({claimed.envelope.event_id: verdict})
        return
    delay = timedelta(seconds=delay_seconds(claimed.attempts, engine.rng))
    engine.books.retry_event(claimed.envelope.event_id, delay, reason)


def _defer_for_channel(engine: Engine, batch: Sequence[Claimed], error: protocol.ChannelError) -> None:
    """The channel could not be asked: that is no fault of the events, so it costs them no attempt."""
    engine.books.put_off_events(
        [claimed.envelope.event_id for claimed in batch],
        timedelta(seconds=min(60.0, max(2.0, error.retry_after or 0.0))),
        f"waits for the channel: {error}"[:400],
    )
