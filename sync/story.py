"""The story of one event: what arrived, what it meant, which units moved, what stores were told. Reads.

Every step of the engine carries the correlation id of the event that caused it, so the story is one indexed
query per kind of step.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Q

from channels import bodies, connect, protocol
from channels.models import InboxEvent, ListingLevel, Push, PushState
from inventory.models import Account, Cause, Movement, Shortage
from sync import register, words
from sync.models import DeadLetter, Drift, LetterState, OrderLine
from sync.remedies import Remedy, remedy

#: More steps of one kind than this are not shown.
STEPS_MAX = 500
BODY_SHOWN_MAX = 100_000
RESULTS_MAX = 25


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event of the inbox. `sayings` is what its body says, in words."""

    event: InboxEvent
    store: str
    topic: str
    sayings: tuple[str, ...]
    body: str
    is_body_cut: bool


@dataclass(frozen=True, slots=True)
class LineStep:
    """One order line as it stands now."""

    line: OrderLine
    facts: tuple[str, ...]
    effect: str
    is_changed_since: bool


@dataclass(frozen=True, slots=True)
class MovementStep:
    """One line of the ledger."""

    movement: Movement
    sku: str
    warehouse: str
    account: str
    delta: str


@dataclass(frozen=True, slots=True)
class PushStep:
    """One write to a store, and where it lies in the story's time: `bar_*` in thousandths of the whole."""

    push: Push
    store: str
    place: str
    sku: str
    tone: str
    settled_after_ms: int | None
    bar_start: int
    bar_width: int

    @property
    def batch_short(self) -> str:
        """The end of the batch's key: its beginning is the time, alike in all batches of an hour."""
        return str(self.push.batch_id)[-6:]


@dataclass(frozen=True, slots=True)
class LevelStep:
    """A listing level the event is about or still waits for."""

    level: ListingLevel
    store: str
    sku: str
    note: str
    is_waiting: bool


@dataclass(frozen=True, slots=True)
class LetterStep:
    """What was given up on the way, why, and what became of it."""

    letter: DeadLetter
    about: str
    remedy: Remedy

    @property
    def is_living(self) -> bool:
        return self.letter.ended_at is None

    @property
    def needs_somebody(self) -> bool:
        return self.is_living and self.letter.state == LetterState.OPEN


@dataclass(frozen=True, slots=True)
class Story:
    """All that followed from one event, in the order it happens."""

    correlation_id: uuid.UUID
    merchant_id: int
    started_at: datetime
    arrivals: tuple[Arrival, ...]
    lines: tuple[LineStep, ...]
    movements: tuple[MovementStep, ...]
    shortages: tuple[Shortage, ...]
    levels: tuple[LevelStep, ...]
    drifts: tuple[Drift, ...]
    pushes: tuple[PushStep, ...]
    letters: tuple[LetterStep, ...]
    scale_ms: int

    @property
    def title(self) -> str:
        """What it was, in a few words."""
        if self.arrivals:
            return f"{self.arrivals[0].topic} in {self.arrivals[0].store}"
        if self.movements:
            return self.movements[0].movement.get_cause_display()
        return "Change"

    @property
    def orders(self) -> str:
        """The names of the orders concerned."""
        return ", ".join(dict.fromkeys(step.line.order_name or step.line.order_id for step in self.lines))

    @property
    def stores_confirmed(self) -> int:
        """How many stores were set because of it."""
        return len({step.push.channel_id for step in self.pushes if step.push.state == PushState.CONFIRMED})

    @property
    def open_pushes(self) -> int:
        return sum(step.push.state == PushState.OPEN for step in self.pushes)

    @property
    def letters_open(self) -> int:
        """How much was given up that needs somebody."""
        return sum(step.needs_somebody for step in self.letters)

    @property
    def is_finished(self) -> bool:
        """Nothing more is expected to follow."""
        return (
            not self.open_pushes
            and not any(step.is_waiting for step in self.levels)
            and all(arrival.event.settled_at is not None for arrival in self.arrivals)
        )

    @property
    def why_no_push(self) -> str:
        """What it means that no store was written to."""
        if any(step.line.waiting_for for step in self.lines):
            return "Nothing was written to the stores: the order waits for a mapping."
        if self.movements:
            return "Nothing was written to the stores: they showed it already, or a newer change did it."
        return "No unit moved, so nothing was written to the stores."

    @property
    def slowest(self) -> str:
        """From arrival to the last store's confirmation."""
        settled = [step.settled_after_ms for step in self.pushes if step.settled_after_ms is not None]
        return words.duration(timedelta(milliseconds=max(settled))) if settled else ""


def tell(correlation_id: uuid.UUID, *, merchant_ids: Collection[int]) -> Story | None:
    """The story, if it is of one of these merchants. At most nine queries."""
    events = list(
        InboxEvent.objects.filter(correlation_id=correlation_id, merchant_id__in=merchant_ids)
        .select_related("channel")
        .order_by("pk")[:STEPS_MAX]
    )
    movements = _movements(correlation_id, merchant_ids)
    pushes = _pushes(correlation_id, merchant_ids)
    sent = {event.pk: _read(event) for event in events}
    said = {event.pk: _interpret(event, sent[event.pk]) for event in events}
    lines = _lines(correlation_id, events, said, merchant_ids)
    starts = [
        *(event.received_at for event in events),
        *(movement.created_at for movement in movements),
        *(push.created_at for push in pushes),
        *(line.created_at for line in lines),
    ]
    if not starts:
        return None
    started_at = events[0].received_at if events else min(starts)
    own_level_ids = {line.listing_level_id for line in lines if line.listing_level_id is not None}
    levels = _levels(correlation_id, events, said, movements, own_level_ids, merchant_ids)
    scale_ms = _scale_ms(pushes, started_at)
    return Story(
        correlation_id=correlation_id,
        merchant_id=_merchant_of(events, movements, pushes, lines),
        started_at=started_at,
        arrivals=tuple(_arrival(event, sent[event.pk], said[event.pk]) for event in events),
        lines=tuple(_line_step(line, correlation_id) for line in lines),
        movements=tuple(_movement_step(movement) for movement in movements),
        shortages=_shortages(correlation_id, movements),
        levels=tuple(_level_step(level, correlation_id, own_level_ids) for level in levels),
        drifts=_drifts(correlation_id, levels, movements),
        pushes=tuple(_push_step(push, started_at, scale_ms) for push in pushes),
        letters=_letters(correlation_id, levels, merchant_ids),
        scale_ms=scale_ms,
    )


def _merchant_of(*kinds: Sequence[Any]) -> int:
    return next(int(rows[0].merchant_id) for rows in kinds if rows)


def _ms(at: datetime, started_at: datetime) -> int:
    return round((at - started_at).total_seconds() * 1000)


# --- what arrived -------------------------------------------------------------------------------------------

Said = tuple[protocol.Event, ...] | protocol.MalformedEvent | bodies.Unreadable


def _read(event: InboxEvent) -> bytes | bodies.Unreadable:
    try:
        return bodies.read(event)
    except bodies.Unreadable as error:
        return error


def _interpret(event: InboxEvent, body: bytes | bodies.Unreadable) -> Said:
    if isinstance(body, bodies.Unreadable):
        return body
    try:
        return connect.reader_for(event.channel.kind).interpret(topic=event.topic, body=body)
    except protocol.MalformedEvent as error:
        return error


def _arrival(event: InboxEvent, sent: bytes | bodies.Unreadable, said: Said) -> Arrival:
    body, is_cut = (str(sent), False) if isinstance(sent, bodies.Unreadable) else _readable(sent)
    return Arrival(
        event=event,
        store=event.channel.name,
        topic=words.topic_in_words(event.topic),
        sayings=_sayings(said),
        body=body,
        is_body_cut=is_cut,
    )


def _readable(body: bytes) -> tuple[str, bool]:
    """The body as indented JSON, or as it is where it is none; and whether it had to be cut."""
    text = body.decode("utf-8", errors="replace")
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return text[:BODY_SHOWN_MAX], len(text) > BODY_SHOWN_MAX


def _sayings(said: Said) -> tuple[str, ...]:
    if isinstance(said, bodies.Unreadable):
        return (f"Cannot be read again: {said}",)
    if isinstance(said, protocol.MalformedEvent):
        return (f"Cannot be understood: {said}",)
    return tuple(dict.fromkeys(filter(None, map(_saying, said))))


def _saying(event: protocol.Event) -> str:
    match event:
        case protocol.OrderState():
            state = ", cancelled" if event.cancelled_at else ""
            return f"Order {event.name or event.order_id} with {words.count(len(event.lines), 'line')}{state}"
        case protocol.RefundMade():
            return f"Refund of order {event.order_id}"
        case protocol.OrderDeleted():
            return f"Order {event.order_id} was deleted"
        case protocol.OrderTouched():
            return f"Order {event.order_id} is to be read: {event.why}"
        case protocol.LevelTouched():
            shown = "no number" if event.available is None else f"{event.available} available"
            return f"Item {event.inventory_item_id} shows {shown}; a reason to read it again, never arithmetic"
        case protocol.CatalogueTouched():
            return f"Product {event.product_id} {_fate(event.is_deleted)}"
        case protocol.ItemTouched():
            return f"Inventory item {event.inventory_item_id} {_fate(event.is_deleted)}"
        case protocol.LocationTouched():
            return f"Location {event.name or event.location_id} {_fate(event.is_deleted)}"
        case protocol.AppUninstalled():
            return "The app was removed from the store"
        case protocol.BulkFinished():
            return f"Bulk operation {event.operation_id}: {event.status}"
        case protocol.ComplianceRequest():
            return f"Privacy request: {event.kind}"
        case protocol.Uninteresting():
            return event.reason


def _fate(is_deleted: bool) -> str:
    return "was deleted" if is_deleted else "changed"


# --- what it meant ------------------------------------------------------------------------------------------


def _lines(
    correlation_id: uuid.UUID,
    events: Sequence[InboxEvent],
    said: dict[int, Said],
    merchant_ids: Collection[int],
) -> list[OrderLine]:
    """Lines that carry the story's id, and all lines of the orders its events speak of.

    The latter because a later event of the same order puts its own id on the line.
    """
    mine = Q(correlation_id=correlation_id)
    for event in events:
        order_ids = _named(
            said[event.pk],
            "order_id",
            (protocol.OrderState, protocol.OrderDeleted, protocol.RefundMade, protocol.OrderTouched),
        )
        if order_ids:
            mine |= Q(channel_id=event.channel_id, order_id__in=order_ids)
    return list(
        OrderLine.objects.filter(mine, merchant_id__in=merchant_ids)
        .select_related("sku", "channel", "store_location")
        .order_by("order_id", "line_id")[:STEPS_MAX]
    )


def _named(said: Said, attribute: str, kinds: tuple[type[Any], ...]) -> list[str]:
    if isinstance(said, protocol.MalformedEvent | bodies.Unreadable):
        return []
    return [getattr(event, attribute) for event in said if isinstance(event, kinds)]


def _line_step(line: OrderLine, correlation_id: uuid.UUID) -> LineStep:
    try:
        facts = tuple(words.register_in_words(register.from_json(line.facts)))
    except (KeyError, ValueError, TypeError):
        facts = (json.dumps(line.facts),)
    return LineStep(
        line=line,
        facts=facts,
        effect=_effect(committed=line.applied_committed, on_hand=line.applied_on_hand),
        is_changed_since=line.correlation_id != correlation_id,
    )


def _effect(*, committed: int, on_hand: int) -> str:
    """What a line did to the pool so far, in words."""
    parts = []
    if committed:
        parts.append(f"{committed} sold, not shipped")
    if on_hand:
        parts.append(f"on hand {words.signed(on_hand)}")
    return ", ".join(parts) or "nothing taken"


# --- which units moved --------------------------------------------------------------------------------------


def _movements(correlation_id: uuid.UUID, merchant_ids: Collection[int]) -> list[Movement]:
    return list(
        Movement.objects.filter(correlation_id=correlation_id, merchant_id__in=merchant_ids)
        .select_related("stock_level__sku", "stock_level__warehouse", "user")
        .order_by("pk")[:STEPS_MAX]
    )


def _movement_step(movement: Movement) -> MovementStep:
    return MovementStep(
        movement=movement,
        sku=movement.stock_level.sku.code,
        warehouse=movement.stock_level.warehouse.name,
        account=str(Account(movement.account).label).lower(),
        delta=words.signed(movement.delta),
    )


def _shortages(correlation_id: uuid.UUID, movements: Iterable[Movement]) -> tuple[Shortage, ...]:
    """Found by their stock levels: a story without movements has none."""
    stock_level_ids = {movement.stock_level_id for movement in movements}
    if not stock_level_ids:
        return ()
    return tuple(
        Shortage.objects.filter(stock_level_id__in=stock_level_ids, correlation_id=correlation_id)
        .select_related("stock_level__sku", "stock_level__warehouse")
        .order_by("pk")
    )


# --- what the stores show -----------------------------------------------------------------------------------


def _levels(
    correlation_id: uuid.UUID,
    events: Sequence[InboxEvent],
    said: dict[int, Said],
    movements: Iterable[Movement],
    own_level_ids: set[int],
    merchant_ids: Collection[int],
) -> list[ListingLevel]:
    """Levels that wait to be written because of the event, that it speaks of, or whose store sold."""
    sku_ids = {movement.stock_level.sku_id for movement in movements}
    wanted = Q(pk__in=own_level_ids)
    wanted |= Q(listing__sku_id__in=sku_ids, waiting_correlation_ids__contains=[correlation_id])
    is_anything = bool(sku_ids or own_level_ids)
    for event in events:
        items = _named(said[event.pk], "inventory_item_id", (protocol.LevelTouched, protocol.ItemTouched))
        if items:
            is_anything = True
            wanted |= Q(listing__channel_id=event.channel_id, listing__inventory_item_id__in=items)
    if not is_anything:
        return []
    return list(
        ListingLevel.objects.filter(wanted, merchant_id__in=merchant_ids)
        .select_related("listing__sku", "channel", "store_location")
        .order_by("channel__name", "pk")[:STEPS_MAX]
    )


def _level_step(level: ListingLevel, correlation_id: uuid.UUID, own_level_ids: set[int]) -> LevelStep:
    sku = level.listing.sku
    is_out_of_sync = level.desired is not None and level.desired != level.shown
    is_waiting = is_out_of_sync and correlation_id in level.waiting_correlation_ids
    if is_waiting:
        note = "waits to be written"
    elif level.suspect_since is not None:
        note = f"being checked with the store: {level.suspect_reason}" if level.suspect_reason else "being checked"
    elif level.desired is None:
        note = "not published"
    elif level.desired == level.shown:
        # The counter of the store that sold fell with the sale.
        note = "the store of the sale showed it by itself" if level.pk in own_level_ids else "right"
    else:
        note = "on its way"
    return LevelStep(
        level=level,
        store=level.channel.name,
        sku=sku.code if sku else level.listing.remote_sku,
        note=note,
        is_waiting=is_waiting,
    )


def _drifts(
    correlation_id: uuid.UUID, levels: Iterable[ListingLevel], movements: Iterable[Movement]
) -> tuple[Drift, ...]:
    """What checks found in this story. Looked for at its levels: a drift is not indexed by its story."""
    level_ids = [level.pk for level in levels]
    sku_ids = {movement.stock_level.sku_id for movement in movements}
    if not level_ids and not sku_ids:
        return ()
    near = Q(listing_level_id__in=level_ids) | Q(listing_level__listing__sku_id__in=sku_ids)
    return tuple(
        Drift.objects.filter(near, correlation_id=correlation_id)
        .select_related("channel", "listing_level__listing__sku")
        .order_by("pk")[:STEPS_MAX]
    )


def _pushes(correlation_id: uuid.UUID, merchant_ids: Collection[int]) -> list[Push]:
    return list(
        Push.objects.filter(correlation_ids__contains=[correlation_id], merchant_id__in=merchant_ids)
        .select_related("channel", "batch", "listing_level__listing__sku", "listing_level__store_location")
        .order_by("created_at", "pk")[:STEPS_MAX]
    )


def _scale_ms(pushes: Iterable[Push], started_at: datetime) -> int:
    """The length of the time axis under the pushes: to the last thing that happened to any of them."""
    ends = [_ms(push.settled_at or push.created_at, started_at) for push in pushes]
    return max([1, *ends])


def _push_step(push: Push, started_at: datetime, scale_ms: int) -> PushStep:
    created, settled = (
        _ms(push.created_at, started_at),
        None if push.settled_at is None else _ms(push.settled_at, started_at),
    )
    start = min(990, max(0, created * 1000 // scale_ms))
    end = 1000 if settled is None else min(1000, max(start, settled * 1000 // scale_ms))
    sku = push.listing_level.listing.sku
    return PushStep(
        push=push,
        store=push.channel.name,
        place=push.listing_level.store_location.name,
        sku=sku.code if sku else push.listing_level.listing.remote_sku,
        tone={PushState.OPEN: "moving", PushState.CONFIRMED: "right", PushState.REJECTED: "danger"}[
            PushState(push.state)
        ],
        settled_after_ms=settled,
        bar_start=start,
        bar_width=max(10, end - start),
    )


# --- what was given up --------------------------------------------------------------------------------------


def _letters(
    correlation_id: uuid.UUID, levels: Iterable[ListingLevel], merchant_ids: Collection[int]
) -> tuple[LetterStep, ...]:
    """Dead letters of the story, and those that live of levels which still wait because of it: they are about the newest
    of all changes that wait."""
    waiting = [level.pk for level in levels if correlation_id in level.waiting_correlation_ids]
    mine = Q(correlation_id=correlation_id) | Q(listing_level_id__in=waiting, ended_at=None)
    letters = (
        DeadLetter.objects.filter(mine, merchant_id__in=merchant_ids)
        .select_related("channel", "listing_level__listing__sku", "listing_level__store_location")
        .order_by("pk")[:STEPS_MAX]
    )
    return tuple(LetterStep(letter, _about(letter), remedy(letter.cause, letter.code)) for letter in letters)


def _about(letter: DeadLetter) -> str:
    if letter.listing_level is None:
        return f"The event of {letter.channel.name}"
    listing = letter.listing_level.listing
    sku = listing.sku.code if listing.sku else listing.remote_sku
    return f"{sku} in {letter.channel.name}, {letter.listing_level.store_location.name}"


# --- finding a story ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """One story that a search came upon, and why."""

    correlation_id: uuid.UUID
    at: datetime
    what: str
    why: str


def find(query: str, *, merchant_ids: Collection[int]) -> tuple[Found, ...]:
    """Stories by order name, number or id, SKU, webhook id or correlation id; newest first, each once."""
    query = query.strip()
    if not query:
        return ()
    found = [
        *_by_correlation(query, merchant_ids),
        *_by_webhook(query, merchant_ids),
        *_by_order(query, merchant_ids),
        *_by_sku(query, merchant_ids),
    ]
    once: dict[uuid.UUID, Found] = {}
    for one in sorted(found, key=lambda one: one.at, reverse=True):
        once.setdefault(one.correlation_id, one)
    return tuple(once.values())[:RESULTS_MAX]


def _by_correlation(query: str, merchant_ids: Collection[int]) -> list[Found]:
    try:
        correlation_id = uuid.UUID(query)
    except ValueError:
        return []
    story = tell(correlation_id, merchant_ids=merchant_ids)
    return [] if story is None else [Found(correlation_id, story.started_at, story.title, "correlation id")]


def _by_webhook(query: str, merchant_ids: Collection[int]) -> list[Found]:
    events = (
        InboxEvent.objects.filter(webhook_id=query, channel__merchant_id__in=merchant_ids)
        .select_related("channel")
        .order_by("-pk")[:RESULTS_MAX]
    )
    return [
        Found(
            event.correlation_id,
            event.received_at,
            f"{words.topic_in_words(event.topic)} in {event.channel.name}",
            "webhook id",
        )
        for event in events
    ]


def _by_order(query: str, merchant_ids: Collection[int]) -> list[Found]:
    """The lines carry the id of the latest event of the order, the movements those of the ones before."""
    number = query.lstrip("#")
    by_name = Q(order_name__in=[query, number, f"#{number}"], merchant_id__in=merchant_ids)
    by_id = Q(order_id=query, channel__merchant_id__in=merchant_ids)
    lines = list(
        OrderLine.objects.filter(by_name | by_id)
        .select_related("channel")
        .prefetch_related("allocations")
        .order_by("-pk")[:RESULTS_MAX]
    )
    found = [
        Found(
            line.correlation_id,
            line.updated_at,
            f"Order {line.order_name or line.order_id} in {line.channel.name}",
            "order",
        )
        for line in lines
    ]
    stock_level_ids = {part.stock_level_id for line in lines for part in line.allocations.all()}
    if stock_level_ids:
        movements = Movement.objects.filter(
            stock_level_id__in=stock_level_ids,
            reference__in={line.order_name or line.order_id for line in lines},
        ).order_by("-pk")
        found.extend(
            Found(
                movement.correlation_id,
                movement.created_at,
                f"Order {movement.reference}: {movement.get_cause_display().lower()}",
                "order",
            )
            for movement in movements[:RESULTS_MAX]
        )
    return found


def _by_sku(query: str, merchant_ids: Collection[int]) -> list[Found]:
    """The newest movements of the SKU, each stock level's read from the end of its ledger."""
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST_OF_SKU, {"code": query, "merchants": list(merchant_ids), "limit": RESULTS_MAX * 2})
        movements = cursor.fetchall()
    return [
        Found(correlation_id, at, f"{code}: {Cause(cause).label}{f', {reference}' if reference else ''}", "SKU")
        for correlation_id, at, code, cause, reference in movements
    ]


_NEWEST_OF_SKU = """
    SELECT movement.correlation_id, movement.created_at, sku.code, movement.cause, movement.reference
      FROM inventory_sku AS sku
      JOIN inventory_stocklevel AS level ON level.sku_id = sku.id
      CROSS JOIN LATERAL (
           SELECT * FROM inventory_movement AS movement
            WHERE movement.stock_level_id = level.id ORDER BY movement.seq DESC LIMIT %(limit)s) AS movement
     WHERE sku.merchant_id = ANY(%(merchants)s) AND upper(sku.code) = upper(%(code)s)
"""
