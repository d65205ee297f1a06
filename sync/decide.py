"""What a batch of events means for stock. Pure: takes the world as loaded, returns what to write.

`sync.apply` loads the world under locks, calls `decide` for each event in the order of arrival, and writes the outcome.
Nothing here reads a clock, a database or a network.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from channels.protocol import LevelTouched, OrderState, RefundMade
from inventory.bom import bundles_available
from inventory.ledger import Entry
from locations.routing import release, route
from sync.register import Effect, Register, effect, join, of_order, of_refunds

LineKey = tuple[int, str, str]  # channel, order, line

APPLIED = "applied"
IGNORED = "ignored"
DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Envelope:
    """The inbox row an event came in."""

    event_id: int
    channel_id: int
    correlation_id: uuid.UUID
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the inbox row."""

    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ListingFacts:
    """A listing as far as applying events needs it."""

    listing_id: int
    sku_id: int | None


@dataclass(slots=True)
class Line:
    """The stored register of an order line, changed in place while events are applied."""

    key: LineKey
    id: int | None = None
    order_name: str = ""
    register: Register = field(default_factory=Register)
    listing_id: int | None = None
    sku_id: int | None = None
    level_id: int | None = None
    store_location_id: int | None = None
    applied: Effect = field(default_factory=Effect)
    desired: Effect = field(default_factory=Effect)
    postings: int = 0
    waiting_for: str = ""
    taken_from: dict[int, Taken] = field(default_factory=dict)  # by stock level
    latest: Envelope | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a line has done to one stock level, in units of that level."""

    units_per_line_unit: int
    committed: int = 0
    on_hand: int = 0


@dataclass(slots=True)
class Level:
    """A listing level as far as applying events needs it, changed in place."""

    id: int
    reported: int
    source_at: datetime | None
    suspect_since: datetime | None
    suspect_available: int | None
    sample: int | None
    open_push_to: int | None
    held: int = 0
    order_effects_added: int = 0
    becomes: LevelChange | None = None


@dataclass(frozen=True, slots=True)
class LevelChange:
    """What a level webhook does to the level: it clears a suspicion or raises one; it never counts units."""

    is_suspect: bool
    source_at: datetime | None
    available: int | None = None


@dataclass(slots=True)
class World:
    """Everything the events of one batch may touch."""

    listings_by_variant: Mapping[tuple[int, str], ListingFacts]
    listings_by_item: Mapping[tuple[int, str], tuple[ListingFacts, ...]]
    location_ids: Mapping[tuple[int, str], int]  # (channel, remote id) -> store location
    default_locations: Mapping[int, int]  # channel -> the store location sales come from when it does not say
    warehouses: Mapping[int, tuple[int, ...]]  # store location -> warehouses by priority
    parts: Mapping[int, Mapping[int, int]]  # SKU -> stocked components (itself, when it is no bundle)
    bundles: Mapping[int, tuple[int, ...]]  # stocked SKU -> bundles that contain it
    counted_from: Mapping[int, datetime | None]  # channel -> orders placed earlier are in the opening stock
    stock_level_ids: Mapping[tuple[int, int], int]  # (SKU, warehouse) -> stock level
    available: dict[int, int]  # stock level -> available, kept up as entries are decided
    levels: Mapping[tuple[int, int], Level]  # (listing, store location)
    lines: dict[LineKey, Line]


@dataclass(slots=True)
class Outcome:
    """What to write."""

    entries: list[Entry] = field(default_factory=list)
    touched_lines: dict[LineKey, Line] = field(default_factory=dict)
    dirty: dict[int, Envelope] = field(default_factory=dict)  # SKU -> the oldest event behind it
    verdicts: dict[int, Verdict] = field(default_factory=dict)


def decide(
    event: OrderState | RefundMade | LevelTouched, envelope: Envelope, world: World, outcome: Outcome
) -> Verdict:
    """Apply one event to the world; what to write is added to the outcome."""
    if isinstance(event, LevelTouched):
        return _level(event, envelope, world)
    if isinstance(event, OrderState):
        counted_from = world.counted_from.get(envelope.channel_id)
        if counted_from is not None and event.created_at < counted_from:
            return Verdict(IGNORED, "placed before the channel was connected: in the opening stock")
        news = {line.line_id: of_order(event, line) for line in event.lines}
        return _order(event.order_id, event.name, news, envelope, world, outcome)
    told: dict[str, list[int]] = {}
    for place, refund in enumerate(event.refunds):
        told.setdefault(refund.line_id, []).append(place)
    news = {line: of_refunds(tuple(event.refunds[place] for place in places)) for line, places in told.items()}
    return _order(event.order_id, "", news, envelope, world, outcome)


def _order(
    order_id: str, name: str, news: Mapping[str, Register], envelope: Envelope, world: World, outcome: Outcome
) -> Verdict:
    if not news:
        return Verdict(IGNORED, "no line that moves stock")
    waiting: list[str] = []
    is_news = False
    for line_id, said in news.items():
        key = (envelope.channel_id, order_id, line_id)
        line = world.lines.get(key)
        if line is None:
            line = world.lines[key] = Line(key)
            is_news = True
        joined = join(line.register, said)
        is_news = is_news or joined != line.register or bool(line.waiting_for)
        line.register = joined
        line.order_name = name or line.order_name
        line.latest = envelope
        _settle(line, envelope, world, outcome)
        outcome.touched_lines[key] = line
        if line.waiting_for:
            waiting.append(line.waiting_for)
    if len(waiting) == len(news):
        return Verdict(IGNORED, f"unmapped {waiting[0]}")
    if not is_news:
        return Verdict(IGNORED, "superseded: all of it was known")
    return Verdict(APPLIED, f"unmapped {waiting[0]}: the other lines were applied" if waiting else "")


def _settle(line: Line, envelope: Envelope, world: World, outcome: Outcome) -> None:
    """Bring what the line has done to stock to what it should have done, if everything it needs is mapped."""
    line.desired = effect(line.register)
    if line.desired == line.applied:
        line.waiting_for = ""
        if line.level_id is None and line.register.said is not None:
            # Sold and given back before we heard of it: nothing to book, but an audit of a moment in between must find it.
            _place(line, world)
        return
    line.waiting_for = _place(line, world)
    if line.waiting_for:
        return
    assert line.sku_id is not None
    assert line.listing_id is not None
    assert line.store_location_id is not None
    parts = _recipe(line, world)
    units = line.desired.taken - line.applied.taken
    line.postings += 1
    for warehouse, share in _spread(line, parts, units, world).items():
        for sku, quantity in parts.items():
            entry = _book(line, world.stock_level_ids[(sku, warehouse)], quantity, share, envelope)
            if entry is not None:
                outcome.entries.append(entry)
                world.available[entry.stock_level_id] += entry.on_hand - entry.committed
    level = world.levels[(line.listing_id, line.store_location_id)]
    level.order_effects_added -= units
    level.reported -= units
    line.applied = line.desired
    for sku in parts:
        for affected in (sku, *world.bundles.get(sku, ())):
            outcome.dirty.setdefault(affected, envelope)


def _recipe(line: Line, world: World) -> Mapping[int, int]:
    """What one unit of the line is made of. A bundle that changed since gives back what was taken for it."""
    assert line.sku_id is not None
    if not line.taken_from:
        return world.parts[line.sku_id]
    sku_of = {level: sku for (sku, _), level in world.stock_level_ids.items() if level in line.taken_from}
    return {sku_of[level]: taken.units_per_line_unit for level, taken in line.taken_from.items()}


def _place(line: Line, world: World) -> str:
    """Find the line's SKU, location and level; what is missing is returned in words, else ""."""
    channel = line.key[0]
    if line.sku_id is None:
        known = line.register
        listing = world.listings_by_variant.get((channel, known.variant_id))
        if listing is None or listing.sku_id is None:
            return f"variant {known.variant_id or known.sku or 'without an id'}"
        line.listing_id, line.sku_id = listing.listing_id, listing.sku_id
    if line.store_location_id is None:
        told = line.register.located
        location = world.location_ids.get((channel, told[1])) if told else world.default_locations.get(channel)
        if location is None:
            return f"location {told[1]}" if told else "location of the sale"
        line.store_location_id = location
    can_give_back = bool(line.taken_from) and line.desired.taken <= line.applied.taken
    if not world.warehouses.get(line.store_location_id) and not can_give_back:
        line_location = line.store_location_id
        if not line.postings:
            line.store_location_id = None
        return f"location without a warehouse: {line_location}"
    assert line.listing_id is not None
    line.level_id = world.levels[(line.listing_id, line.store_location_id)].id
    return ""


def _spread(line: Line, parts: Mapping[int, int], units: int, world: World) -> dict[int, Effect]:
    """The line's whole desired effect, in line units per warehouse, when `units` more (or fewer) are taken."""
    assert line.store_location_id is not None
    warehouses = world.warehouses.get(line.store_location_id, ())
    taken = _taken_by_warehouse(line, world)
    if units > 0:
        available = {
            warehouse: bundles_available(
                parts, {sku: world.available[world.stock_level_ids[(sku, warehouse)]] for sku in parts}
            )
            for warehouse in warehouses
        }
        for warehouse, share in route(units, warehouses, available).items():
            taken[warehouse] = taken.get(warehouse, 0) + share
    elif units < 0:
        for warehouse, share in release(-units, taken, warehouses).items():
            taken[warehouse] -= share
    return _split(line.desired, taken, warehouses)


def _taken_by_warehouse(line: Line, world: World) -> dict[int, int]:
    warehouse_of = {
        level: warehouse for (_, warehouse), level in world.stock_level_ids.items() if level in line.taken_from
    }
    return {
        warehouse_of[level]: (taken.committed - taken.on_hand) // taken.units_per_line_unit
        for level, taken in line.taken_from.items()
    }


def _split(desired: Effect, taken: Mapping[int, int], warehouses: Sequence[int]) -> dict[int, Effect]:
    """Divide the committed units over the warehouses they were taken from; what is shipped leaves the first of them."""
    order = {warehouse: place for place, warehouse in enumerate(warehouses)}
    by_priority = sorted(taken or warehouses[:1], key=lambda warehouse: order.get(warehouse, len(order)))
    committed = dict.fromkeys(by_priority, 0)
    rest = desired.committed
    for warehouse in reversed(by_priority):
        committed[warehouse] = max(0, min(taken.get(warehouse, 0), rest))
        rest -= committed[warehouse]
    if rest:
        committed[by_priority[0]] += rest
    return {
        warehouse: Effect(committed[warehouse], committed[warehouse] - taken.get(warehouse, 0))
        for warehouse in by_priority
    }


def _book(line: Line, stock_level_id: int, quantity: int, share: Effect, envelope: Envelope) -> Entry | None:
    """The entry that brings one stock level from what the line has done to it to its share; None when it has it."""
    before = line.taken_from.get(stock_level_id, Taken(quantity))
    after = Taken(before.units_per_line_unit, share.committed * quantity, share.on_hand * quantity)
    if before == after:
        return None
    line.taken_from[stock_level_id] = after
    channel, order_id, line_id = line.key
    return Entry(
        stock_level_id=stock_level_id,
        cause=_cause(line, before, after),
        key=f"{channel}:{order_id}:{line_id}:{line.postings}:{stock_level_id}",
        reference=line.order_name or order_id,
        correlation_id=envelope.correlation_id,
        effective_at=_happened_at(line, envelope),
        on_hand=after.on_hand - before.on_hand,
        committed=after.committed - before.committed,
    )


def _cause(line: Line, before: Taken, after: Taken) -> str:
    taken = (after.committed - after.on_hand) - (before.committed - before.on_hand)
    if taken > 0:
        return "sale"
    if taken < 0:
        return "return" if after.on_hand > before.on_hand else "cancel"
    said = line.register.said
    return "shipment" if said is not None and said.shipped else "write_off"


def _happened_at(line: Line, envelope: Envelope) -> datetime:
    said = line.register.said
    first = line.register.created_at
    if line.postings == 1 and first is not None:
        return first
    return said.version if said is not None else envelope.received_at


def _level(event: LevelTouched, envelope: Envelope, world: World) -> Verdict:
    """A level webhook does no arithmetic: it repeats what is known, or it makes the level suspect."""
    listings = world.listings_by_item.get((envelope.channel_id, event.inventory_item_id), ())
    mapped = [listing for listing in listings if listing.sku_id is not None]
    if not mapped:
        return Verdict(IGNORED, f"unmapped inventory item {event.inventory_item_id}")
    location = world.location_ids.get((envelope.channel_id, event.location_id))
    if location is None or not world.warehouses.get(location):
        return Verdict(IGNORED, f"unmapped location {event.location_id}")
    levels = [world.levels[(listing.listing_id, location)] for listing in mapped]
    return min((_compare(event, level) for level in levels), key=lambda verdict: verdict.state)


def _compare(event: LevelTouched, level: Level) -> Verdict:
    if event.source_at is not None and level.source_at is not None and event.source_at < level.source_at:
        return Verdict(IGNORED, "superseded: newer than this is known")
    if event.is_stocked is not None:
        level.becomes = LevelChange(is_suspect=True, source_at=event.source_at)
        return Verdict(APPLIED, f"{'' if event.is_stocked else 'no longer '}stocked there: to be read")
    if event.available is None:
        level.becomes = LevelChange(is_suspect=True, source_at=event.source_at)
        return Verdict(APPLIED, "to be read")
    if event.available == level.open_push_to:
        return Verdict(IGNORED, "echo: of a write of ours under way")
    if event.available == level.reported:
        if level.sample is None and level.open_push_to is None and not level.held:
            level.becomes = LevelChange(is_suspect=False, source_at=event.source_at)
        return Verdict(IGNORED, "echo: as expected")
    level.becomes = LevelChange(is_suspect=True, source_at=event.source_at, available=event.available)
    return Verdict(APPLIED, f"shows {event.available}, expected {level.reported}: to be read")


def explained(level: Level) -> bool:
    """Whether the orders applied since have explained what made the level suspect."""
    return (
        level.suspect_since is not None
        and level.sample is None
        and level.open_push_to is None
        and not level.held  # only a reading gives held units back
        and level.order_effects_added != 0
        and level.suspect_available == level.reported
    )
