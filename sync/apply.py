"""Applying events: from the inbox to registers, ledger and stock, in batches.

1. claim a batch (its own small commit, so that a message that kills the process cannot do so for ever);
2. interpret the bytes; read orders whose message does not tell enough;
3. try-lock the SKUs concerned (Redlock); events of busy SKUs are left for the next batch;
4. one transaction: lock rows, decide, write, settle the events.

Invariant: an event is settled in the transaction that wrote its effects, so it has them exactly once.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from channels import protocol
from channels.connect import connector_for, reader_for
from channels.models import Channel, EventState
from channels.protocol import CatalogueTouched, LevelTouched, OrderState, OrderTouched, RefundMade
from inventory import stock
from sync import catalogue, locks, world
from sync.decide import Envelope, Line, LineKey, Outcome, Verdict, decide
from synctec.lib import sql
from synctec.lib.backoff import MAX_ATTEMPTS, delay_seconds

log = structlog.get_logger(__name__)

BATCH_EVENTS = 300
#: The first try and the retries after 1, 2, 4, 8 and 16 seconds.
CLAIMS_MAX = 1 + MAX_ATTEMPTS
#: How long a claimed event is left alone: a worker that died with it loses no more time than this.
CLAIM_LEASE = timedelta(seconds=5)
#: A webhook that shows an unexpected level is mostly ahead of its order: that long the order may take to arrive.
CHECK_AFTER = timedelta(milliseconds=800)

StockEvent = OrderState | RefundMade | LevelTouched


@dataclass(slots=True)
class Claimed:
    """An inbox row in the hands of this worker."""

    envelope: Envelope
    kind: str
    topic: str
    body: bytes
    attempts: int
    events: tuple[protocol.Event, ...] = ()


@dataclass(slots=True)
class Applied:
    """What a batch came to."""

    claimed: int = 0
    settled: int = 0
    busy: int = 0
    failed: int = 0
    dirty: bool = False


def apply_batch(*, merchant_id: int, now: datetime, rng: random.Random) -> Applied:
    """Apply one batch of a merchant's pending events; `.claimed` tells whether there may be more.

    Raises:
        OperationalError: the database is away; nothing is lost, the claim runs out by itself.
    """
    batch = _claim(merchant_id)
    done = Applied(claimed=len(batch))
    if not batch:
        return done
    verdicts: dict[int, Verdict] = {}
    stock_events: list[Claimed] = []
    others: list[Claimed] = []
    for claimed in batch:
        try:
            claimed.events = reader_for(claimed.kind).interpret(topic=claimed.topic, body=claimed.body)
        except protocol.MalformedEvent as error:
            verdicts[claimed.envelope.event_id] = Verdict(EventState.DEAD, f"malformed: {error}")
            continue
        if any(isinstance(event, OrderState | RefundMade | LevelTouched | OrderTouched) for event in claimed.events):
            stock_events.append(claimed)
        else:
            others.append(claimed)
    _settle(verdicts)
    done.settled += len(verdicts)
    # What needs no answer of a channel goes first: a silent store holds up nobody else's sales.
    untold = _untold(stock_events)
    readers = {claimed.envelope.event_id for orders in untold.values() for told in orders.values() for claimed in told}
    told = [claimed for claimed in stock_events if claimed.envelope.event_id not in readers]
    _apply_stock_events(merchant_id, told, now, rng, done)
    _apply_stock_events(merchant_id, _read_untold(untold, now, rng, done), now, rng, done)
    _apply_others(others, now, rng, done)
    return done


def _claim(merchant_id: int) -> list[Claimed]:
    with transaction.atomic():
        sql.forgo_flush()  # without the claim, the event is simply pending again
        found = sql.rows(
            """
            WITH due AS (
                SELECT id FROM channels_inboxevent
                WHERE merchant_id = %s AND state = 'pending' AND next_attempt_at <= now()
                ORDER BY next_attempt_at, id LIMIT %s FOR UPDATE SKIP LOCKED
            )
            UPDATE channels_inboxevent event
            SET attempts = event.attempts + 1, next_attempt_at = now() + %s
            FROM due, channels_channel channel
            WHERE event.id = due.id AND channel.id = event.channel_id
            RETURNING event.id, event.channel_id, event.correlation_id, event.received_at, channel.kind, event.topic,
                event.body, event.attempts
            """,
            [merchant_id, BATCH_EVENTS, CLAIM_LEASE],
        )
    batch = [
        Claimed(Envelope(event_id, channel, correlation, received), kind, topic, bytes(body), attempts)
        for event_id, channel, correlation, received, kind, topic, body, attempts in found
    ]
    worn_out = [claimed for claimed in batch if claimed.attempts > CLAIMS_MAX]
    if worn_out:
        # Claimed again and again without a word of what went wrong: the event kills its workers.
        _settle(
            {
                claimed.envelope.event_id: Verdict(EventState.DEAD, f"poison: {CLAIMS_MAX} workers died over it")
                for claimed in worn_out
            }
        )
    return sorted(
        (claimed for claimed in batch if claimed.attempts <= CLAIMS_MAX), key=lambda claimed: claimed.envelope.event_id
    )


# --- orders whose message does not tell enough ------------------------------------------------------------------


def _untold(batch: list[Claimed]) -> dict[int, dict[str, list[Claimed]]]:
    """Orders that were only touched, or whose place of sale is not told on a channel with several, by channel."""
    wanted: dict[int, dict[str, list[Claimed]]] = defaultdict(lambda: defaultdict(list))
    several = _channels_with_several_places({claimed.envelope.channel_id for claimed in batch})
    known = _lines_with_a_place(
        {
            (claimed.envelope.channel_id, event.order_id)
            for claimed in batch
            if claimed.envelope.channel_id in several
            for event in claimed.events
            if isinstance(event, OrderState)
        }
    )
    for claimed in batch:
        channel = claimed.envelope.channel_id
        for event in claimed.events:
            if isinstance(event, OrderTouched) or (
                isinstance(event, OrderState)
                and channel in several
                and any(
                    line.location_id is None and (channel, event.order_id, line.line_id) not in known
                    for line in event.lines
                )
            ):
                wanted[channel][event.order_id].append(claimed)
    return wanted


def _read_untold(
    untold: dict[int, dict[str, list[Claimed]]], now: datetime, rng: random.Random, done: Applied
) -> list[Claimed]:
    """Read these orders; those of a channel that does not answer are left for later."""
    read: list[Claimed] = []
    for channel_id, orders in untold.items():
        unread = {claimed.envelope.event_id: claimed for readers in orders.values() for claimed in readers}
        try:
            _read_orders(channel_id, orders)
            read += unread.values()
        except protocol.ChannelError as error:
            if isinstance(error, protocol.MalformedEvent | protocol.Refused):
                for claimed in unread.values():
                    _fail(claimed, error, rng, done)
            else:
                _defer_for_channel(list(unread.values()), error)
                done.failed += len(unread)
    return sorted(read, key=lambda claimed: claimed.envelope.event_id)


def _read_orders(channel_id: int, orders: dict[str, list[Claimed]]) -> None:
    channel = Channel.objects.get(pk=channel_id)
    connector = connector_for(channel)
    reader = reader_for(channel.kind)
    ids = list(orders)
    step = connector.capabilities.orders_per_read
    for start in range(0, len(ids), step):
        for order in connector.read_orders(ids[start : start + step]):
            news = reader.interpret(topic="orders/polled", body=order.body)
            for claimed in orders[order.order_id]:
                others = [event for event in claimed.events if getattr(event, "order_id", None) != order.order_id]
                claimed.events = (*others, *news)


def _channels_with_several_places(channels: Iterable[int]) -> set[int]:
    return {
        channel
        for (channel,) in sql.rows(
            """
            SELECT location.channel_id FROM channels_storelocation location
            WHERE location.channel_id = ANY(%s::bigint[])
                AND EXISTS (SELECT 1 FROM locations_mapping mapping WHERE mapping.store_location_id = location.id)
            GROUP BY location.channel_id HAVING count(*) > 1
            """,
            [sorted(channels)],
        )
    }


def _lines_with_a_place(orders: set[tuple[int, str]]) -> set[tuple[int, str, str]]:
    if not orders:
        return set()
    return set(
        sql.rows(
            """
            SELECT channel_id, order_id, line_id FROM sync_orderline
            JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
            WHERE store_location_id IS NOT NULL OR facts ->> 'located' IS NOT NULL
            """,
            [[channel for channel, _ in orders], [order for _, order in orders]],
        )
    )


# --- events that move stock -------------------------------------------------------------------------------------


def _apply_stock_events(
    merchant_id: int, batch: list[Claimed], now: datetime, rng: random.Random, done: Applied
) -> None:
    if not batch:
        return
    skus_of = _skus_of(merchant_id, batch)
    wanted = locks.sku_keys({sku for skus in skus_of.values() for sku in skus})
    with locks.skus().try_lock(wanted, auto_extend=True) as locked:
        free = [
            claimed for claimed in batch if locks.holds_all(locked, locks.sku_keys(skus_of[claimed.envelope.event_id]))
        ]
        busy = [claimed for claimed in batch if claimed not in free]
        _apply_free(merchant_id, free, now, rng, done)
    _hand_back(busy)
    done.busy += len(busy)


def _apply_free(merchant_id: int, batch: list[Claimed], now: datetime, rng: random.Random, done: Applied) -> None:
    """Apply all of them in one transaction; should one of them be poison, each on its own."""
    if not batch:
        return
    try:
        _apply_together(merchant_id, batch, now, done)
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        if len(batch) == 1:
            _fail(batch[0], error, rng, done)
            return
        log.warning("apply.batch_split", events=len(batch), error=repr(error)[:300])
        for claimed in batch:
            _apply_free(merchant_id, [claimed], now, rng, done)


def _apply_together(merchant_id: int, batch: Sequence[Claimed], now: datetime, done: Applied) -> None:
    with transaction.atomic():
        sql.forgo_flush()  # without this, the events are pending again; they themselves are flushed
        ours = {
            event_id
            for (event_id,) in sql.rows(
                """
                SELECT id FROM channels_inboxevent WHERE id = ANY(%s::bigint[]) AND state = 'pending'
                ORDER BY id FOR UPDATE SKIP LOCKED
                """,
                [[claimed.envelope.event_id for claimed in batch]],
            )
        }
        mine = [claimed for claimed in batch if claimed.envelope.event_id in ours]
        if not mine:
            return
        outcome = Outcome()
        verdicts = _decide_all(merchant_id, mine, outcome, now, done)
        _settle(verdicts)
    done.settled += len(verdicts)
    done.dirty = done.dirty or bool(outcome.dirty)


def _decide_all(
    merchant_id: int, batch: Sequence[Claimed], outcome: Outcome, now: datetime, done: Applied
) -> dict[int, Verdict]:
    """Load what the batch touches under locks, decide event by event, write the outcome."""
    mentioned = _mentioned(batch)
    lines = world.lock_lines(mentioned.orders)
    # A refund told on its own does not name the variant that its line may be waiting for.
    unplaced = {(channel, line.register.variant_id) for (channel, _, _), line in lines.items() if line.waiting_for}
    mentioned = replace(mentioned, variants=mentioned.variants | unplaced)
    mappings = world.load_mappings(
        merchant_id, mentioned, known_skus=[line.sku_id for line in lines.values() if line.sku_id is not None]
    )
    sku_ids = {facts.sku_id for facts in mappings.listings_by_variant.values() if facts.sku_id is not None}
    sku_ids |= {line.sku_id for line in lines.values() if line.sku_id is not None}
    order_channels = {channel for channel, _ in mentioned.orders}
    selling = {
        location
        for (channel, _), location in mappings.location_ids.items()
        if channel in order_channels and location in mappings.warehouses
    }
    stock_level_ids, balances = world.lock_stock(
        merchant_id, mappings, sku_ids, selling, {level for line in lines.values() for level in line.taken_from}
    )
    levels = world.lock_levels(_level_pairs(batch, mappings, lines, selling), merchant_id)
    loaded = world.as_world(mappings, stock_level_ids=stock_level_ids, balances=balances, levels=levels, lines=lines)
    verdicts: dict[int, Verdict] = {}
    # Orders first: a level webhook mostly shows what an order of the same batch explains.
    for claimed in sorted(batch, key=lambda claimed: isinstance(claimed.events[0], LevelTouched)):
        for event in claimed.events:
            if isinstance(event, OrderState | RefundMade | LevelTouched):
                verdict = decide(event, claimed.envelope, loaded, outcome)
                verdicts[claimed.envelope.event_id] = verdict
        verdicts.setdefault(
            claimed.envelope.event_id, Verdict(EventState.IGNORED, "the order is no longer there to be read")
        )
    stock.post(merchant_id=merchant_id, balances=balances, entries=outcome.entries, now=now)
    world.write_lines(merchant_id, outcome.touched_lines.values(), now)
    world.write_order_effects(levels.values())
    world.write_level_changes(levels.values(), now, CHECK_AFTER)
    world.write_dirty(merchant_id, outcome)
    return verdicts


def _mentioned(batch: Iterable[Claimed]) -> world.Mentioned:
    variants: set[tuple[int, str]] = set()
    items: set[tuple[int, str]] = set()
    orders: set[tuple[int, str]] = set()
    for claimed in batch:
        channel = claimed.envelope.channel_id
        for event in claimed.events:
            if isinstance(event, OrderState):
                orders.add((channel, event.order_id))
                variants |= {(channel, line.variant_id) for line in event.lines}
            elif isinstance(event, RefundMade):
                orders.add((channel, event.order_id))
            elif isinstance(event, LevelTouched):
                items.add((channel, event.inventory_item_id))
    return world.Mentioned(frozenset(variants), frozenset(items), frozenset(orders))


def _level_pairs(
    batch: Iterable[Claimed], mappings: world.Mappings, lines: dict[LineKey, Line], selling: set[int]
) -> set[tuple[int, int]]:
    """The (listing, store location) pairs whose levels the batch may touch."""
    places: dict[int, set[int]] = defaultdict(set)
    for (channel, _), location in mappings.location_ids.items():
        if location in selling:
            places[channel].add(location)
    pairs = {
        (facts.listing_id, location)
        for (channel, _), facts in mappings.listings_by_variant.items()
        if facts.sku_id is not None
        for location in places[channel]
    }
    pairs |= {
        (line.listing_id, line.store_location_id)
        for line in lines.values()
        if line.listing_id is not None and line.store_location_id is not None
    }
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


def _skus_of(merchant_id: int, batch: Sequence[Claimed]) -> dict[int, set[int]]:
    """The stocked SKUs each event may move: what is locked so that no two workers contend for them."""
    mentioned = _mentioned(batch)
    lines: dict[tuple[int, str], set[int]] = defaultdict(set)
    if mentioned.orders:
        channels, orders = zip(*sorted(mentioned.orders), strict=True)
        for channel, order, sku in sql.rows(
            """
            SELECT channel_id, order_id, sku_id FROM sync_orderline
            JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
            WHERE sku_id IS NOT NULL
            """,
            [list(channels), list(orders)],
        ):
            lines[(channel, order)].add(sku)
    mappings = world.load_mappings(merchant_id, mentioned, known_skus={sku for skus in lines.values() for sku in skus})
    result: dict[int, set[int]] = {}
    for claimed in batch:
        channel = claimed.envelope.channel_id
        skus: set[int] = set()
        for event in claimed.events:
            if isinstance(event, OrderState):
                facts = [mappings.listings_by_variant.get((channel, line.variant_id)) for line in event.lines]
                skus |= {fact.sku_id for fact in facts if fact is not None and fact.sku_id is not None}
            if isinstance(event, OrderState | RefundMade):
                skus |= lines[(channel, event.order_id)]
        result[claimed.envelope.event_id] = mappings.stocked_skus(skus)
    return result


# --- everything else --------------------------------------------------------------------------------------------


def _apply_others(batch: Sequence[Claimed], now: datetime, rng: random.Random, done: Applied) -> None:
    """Apply what may need an answer of its channel, for as long as the claim lasts; the rest is handed back."""
    late_at = monotonic() + CLAIM_LEASE.total_seconds() / 2
    waiting = list(batch)
    while waiting:
        claimed = waiting.pop(0)
        try:
            _apply_other(claimed, now, rng, done)
        except protocol.ChannelError as error:
            # One question is enough to know that the channel does not answer.
            channel = claimed.envelope.channel_id
            unread = [claimed, *(other for other in waiting if _asks(other, channel))]
            waiting = [other for other in waiting if not _asks(other, channel)]
            _defer_for_channel(unread, error)
            done.failed += len(unread)
        if waiting and monotonic() > late_at:
            _hand_back(waiting)
            done.busy += len(waiting)
            return


def _asks(claimed: Claimed, channel_id: int) -> bool:
    return claimed.envelope.channel_id == channel_id and any(
        isinstance(event, CatalogueTouched) for event in claimed.events
    )


def _apply_other(claimed: Claimed, now: datetime, rng: random.Random, done: Applied) -> None:
    """Catalogue, locations, the app's own fate: rare, so one transaction each.

    Raises:
        ChannelError: the channel could not be asked.
    """
    try:
        claimed.events = catalogue.read_untold(claimed.events, claimed.envelope.channel_id)
        with transaction.atomic():
            verdict = catalogue.apply(claimed.events, claimed.envelope, now)
            _settle({claimed.envelope.event_id: verdict})
        done.settled += 1
        done.dirty = True
    except (protocol.Refused, protocol.MalformedEvent) as error:
        _fail(claimed, error, rng, done)
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, AssertionError, LookupError, TypeError, ValueError) as error:
        _fail(claimed, error, rng, done)


# --- settling ---------------------------------------------------------------------------------------------------


def _settle(verdicts: dict[int, Verdict]) -> None:
    if not verdicts:
        return
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_inboxevent event SET state = told.state, reason = told.reason, settled_at = clock_timestamp()
            FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS told (id, state, reason)
            WHERE event.id = told.id AND event.state = 'pending'
            """,
            [
                list(verdicts),
                [str(verdict.state) for verdict in verdicts.values()],
                [verdict.reason[:500] for verdict in verdicts.values()],
            ],
        )


def _fail(claimed: Claimed, error: Exception, rng: random.Random, done: Applied) -> None:
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
        _settle({claimed.envelope.event_id: Verdict(EventState.DEAD, f"failed {claimed.attempts} times: {reason}")})
        return
    delay = timedelta(seconds=delay_seconds(claimed.attempts, rng))
    with sql.cursor() as cursor:
        cursor.execute(
            "UPDATE channels_inboxevent SET next_attempt_at = now() + %s, reason = %s WHERE id = %s AND state = 'pending'",
            [delay, reason, claimed.envelope.event_id],
        )


def _defer_for_channel(batch: Sequence[Claimed], error: protocol.ChannelError) -> None:
    """The channel could not be asked: that is no fault of the events, so it costs them no attempt."""
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_inboxevent SET attempts = attempts - 1, next_attempt_at = now() + %s, reason = %s
            WHERE id = ANY(%s::bigint[]) AND state = 'pending' AND attempts > 0
            """,
            [
                timedelta(seconds=min(60.0, max(2.0, error.retry_after or 0.0))),
                f"waits for the channel: {error}"[:400],
                [claimed.envelope.event_id for claimed in batch],
            ],
        )


def _hand_back(batch: Sequence[Claimed]) -> None:
    """Another worker is busy with these SKUs: leave the events to the next batch, at no cost to them."""
    if batch:
        with sql.cursor() as cursor:
            cursor.execute(
                """
                UPDATE channels_inboxevent SET attempts = attempts - 1, next_attempt_at = now() + interval '20 milliseconds'
                WHERE id = ANY(%s::bigint[]) AND state = 'pending' AND attempts > 0
                """,
                [[claimed.envelope.event_id for claimed in batch]],
            )
