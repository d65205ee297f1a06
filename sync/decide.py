"""What a batch of events means for stock. Pure: takes the world as loaded, returns what to write.

`sync.apply` loads the world under locks, calls `decide` for each event in the order of arrival, and writes the outcome.
Nothing here reads a clock, a database or a network.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

from channels.protocol import LevelTouched, OrderDeleted, OrderState, RefundedUnits, RefundMade
from inventory.bom import bundles_available
from inventory.ledger import Entry
from locations.routing import Routing, ranked, route
from sync.register import Effect, Register, effect, join, of_order, of_refunds, parts
from sync.spread import Place, Share, spread_over

LineKey = tuple[int, str, str]  # channel, order, line

APPLIED = "applied"
IGNORED = "ignored"
DEAD = "dead"

#: One order line moves no more units of one stock level: the accounts are 32-bit and sum many lines.
UNITS_MAX = 10_000_000

#: The register under this line id keeps what is known of an order as a whole, for lines that are told later.
_WHOLE = ""

_UNKNOWN = Register()
_DELETED = Register(is_deleted=True)
_NO_EFFECT = Effect()


class Envelope(NamedTuple):
    """The inbox row an event came in."""

    event_id: int
    channel_id: int
    correlation_id: uuid.UUID
    received_at: datetime


class Verdict(NamedTuple):
    """What becomes of the inbox row."""

    state: str
    reason: str = ""


class ListingFacts(NamedTuple):
    """A listing as far as applying events needs it."""

    listing_id: int
    sku_id: int | None


class Named(NamedTuple):
    """A mapped listing that may be meant by a code of the store's own."""

    listing_id: int
    sku_id: int
    is_exact: bool  # the listing carries the code itself; else only the merchant's SKU does
    is_gone: bool


def listing_of(named: Collection[Named]) -> ListingFacts | None:
    """The listing meant by a code, told of a variant that is gone; None if that may be different goods.

    The one that carries the code counts for more than one whose SKU does, one that is gone for more than one that is sold
    still, and the newest most.
    """
    for is_exact, is_gone in ((True, True), (True, False), (False, True), (False, False)):
        found = [one for one in named if (one.is_exact, one.is_gone) == (is_exact, is_gone)]
        if found:
            newest = max(found)
            return ListingFacts(newest.listing_id, newest.sku_id) if len({one.sku_id for one in found}) == 1 else None
    return None


@dataclass(slots=True)
class Line:
    """The stored register of an order line, changed in place while events are applied."""

    key: LineKey
    id: int | None = None
    order_name: str = ""
    register: Register = _UNKNOWN
    listing_id: int | None = None
    sku_id: int | None = None
    level_id: int | None = None
    store_location_id: int | None = None
    applied: Effect = _NO_EFFECT
    desired: Effect = _NO_EFFECT
    postings: int = 0
    waiting_for: str = ""
    taken_from: dict[int, Taken] = field(default_factory=dict)  # by stock level
    #: By store location; empty while all that was applied is at the line's own.
    placed: dict[int, Placed] = field(default_factory=dict)
    latest: Envelope | None = None


class Taken(NamedTuple):
    """What a line has done to one stock level, in units of that level."""

    units_per_line_unit: int
    committed: int = 0
    on_hand: int = 0


class Placed(NamedTuple):
    """What a line that has been at several places has done at one of them, in units of the line."""

    level_id: int
    effect: Effect


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
    is_stocked: bool = True
    order_effects_added: int = 0
    largest_sale: int = 0  # the most units that one line took in addition
    becomes: LevelChange | None = None


class LevelChange(NamedTuple):
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
    warehouses: Mapping[int, tuple[int, ...]]  # store location -> warehouses in use, by priority
    parts: Mapping[int, Mapping[int, int]]  # SKU -> stocked components (itself, when it is no bundle)
    bundles: Mapping[int, tuple[int, ...]]  # stocked SKU -> bundles that contain it
    counted_from: Mapping[int, datetime | None]  # channel -> orders placed earlier are in the opening stock
    stock_level_ids: Mapping[tuple[int, int], int]  # (SKU, warehouse) -> stock level
    available: dict[int, int]  # stock level -> available, kept up as entries are decided
    levels: Mapping[tuple[int, int], Level]  # (listing, store location)
    lines: dict[LineKey, Line]
    listings_by_code: Mapping[tuple[int, str], ListingFacts] = field(default_factory=dict)  # of variants that are gone
    routing: Mapping[int, Routing] = field(default_factory=dict)  # store location -> rule, where not by priority
    split_shipment: Collection[int] = ()  # store locations whose bundles may be sent from several warehouses
    places: dict[int, tuple[int, int]] = field(init=False)  # stock level -> (SKU, warehouse)

    def __post_init__(self) -> None:
        self.places = {level: place for place, level in self.stock_level_ids.items()}


@dataclass(slots=True)
class Outcome:
    """What to write."""

    entries: list[Entry] = field(default_factory=list)
    touched_lines: dict[LineKey, Line] = field(default_factory=dict)
    dirty: dict[int, Envelope] = field(default_factory=dict)  # SKU -> the oldest event behind it
    #: Orders of which two different things were said under one version: to be read once that second has passed
    #: (`protocol.VERSION_IS_FINAL_AFTER`).
    orders_to_read: dict[tuple[int, str], Envelope] = field(default_factory=dict)


def decide(
    event: OrderState | OrderDeleted | RefundMade | LevelTouched, envelope: Envelope, world: World, outcome: Outcome
) -> Verdict:
    """Apply one event to the world; what to write is added to the outcome."""
    if isinstance(event, LevelTouched):
        return _level(event, envelope, world, outcome)
    if isinstance(event, OrderState):
        counted_from = world.counted_from.get(envelope.channel_id)
        counted_at = counted_from if counted_from is not None and event.created_at < counted_from else None
        news = {line.line_id: of_order(event, line, counted_at=counted_at) for line in event.lines}
        return _order(event.order_id, event.name, news, envelope, world, outcome)
    if isinstance(event, OrderDeleted):
        order = (envelope.channel_id, event.order_id)
        known = [key[2] for key in world.lines if key[:2] == order]
        return _order(event.order_id, "", dict.fromkeys((_WHOLE, *known), _DELETED), envelope, world, outcome)
    told: dict[str, list[RefundedUnits]] = {}
    for refund in event.refunds:
        told.setdefault(refund.line_id, []).append(refund)
    news = {line_id: of_refunds(tuple(refunds)) for line_id, refunds in told.items()}
    return _order(event.order_id, "", news, envelope, world, outcome)


def ends_hold(sku_id: int, lines: Collection[Line]) -> bool:
    """Whether nothing need be held for an order's units of a SKU any more, by all the lines known of the order.

    A line of the SKU was booked, and what was held is what it has taken; or the order is told and nothing of it waits, so
    that none will be. That an order is merely named, as by a refund told ahead of it, says neither.
    """
    if any(line.postings and line.sku_id == sku_id for line in lines):
        return True
    is_told = any(line.register.says or line.register.is_deleted for line in lines)
    return is_told and not any(line.waiting_for for line in lines)


def _order(
    order_id: str, name: str, news: Mapping[str, Register], envelope: Envelope, world: World, outcome: Outcome
) -> Verdict:
    if not news:
        return Verdict(IGNORED, "no line that moves stock")
    channel = envelope.channel_id
    whole = world.lines.get((channel, order_id, _WHOLE))
    waiting: list[str] = []
    is_news = False
    is_old = True
    is_custom = True
    booked_before = len(outcome.entries)
    for line_id, said in news.items():
        key = (channel, order_id, line_id)
        line = world.lines.get(key)
        if line is None:
            line = world.lines[key] = Line(key)
            joined = join(said, whole.register) if whole is not None else said
            is_news = True
        else:
            if line.postings and line.register.counted_at is None and said.counted_at is not None:
                said = said._replace(counted_at=None)  # booked as a sale, it stays one
            joined = join(line.register, said)
            is_news = is_news or bool(line.waiting_for) or joined != line.register
        line.register = joined
        line.order_name = name or line.order_name
        line.latest = envelope
        _settle(line, envelope, world, outcome)
        outcome.touched_lines[key] = line
        if line.waiting_for:
            waiting.append(line.waiting_for)
        if joined.needs_reading:
            outcome.orders_to_read.setdefault((channel, order_id), envelope)
        is_old = is_old and joined.counted_at is not None and not line.postings
        is_custom = is_custom and _is_custom(joined)
    if waiting and len(waiting) == len(news) and len(outcome.entries) == booked_before:
        return Verdict(IGNORED, f"unmapped {waiting[0]}")
    if is_custom:
        return Verdict(IGNORED, "custom item: no variant of the store's, so it moves no stock")
    if is_old:
        return Verdict(IGNORED, "placed before the channel was connected: in the opening stock")
    if not is_news:
        return Verdict(IGNORED, "superseded: all of it was known")
    return Verdict(APPLIED, f"unmapped {waiting[0]}: the rest was applied" if waiting else "")


def _is_custom(register: Register) -> bool:
    """Whether the line is none of the store's variants: a tip, a service, an item typed in at the till."""
    return not register.variant_id and not register.sku and bool(register.says)


def _settle(line: Line, envelope: Envelope, world: World, outcome: Outcome) -> None:
    """Bring what the line has done to stock to what it should have done, as far as everything it needs is mapped."""
    line.desired = _NO_EFFECT if _is_custom(line.register) else effect(line.register)
    line.waiting_for = _identify(line, world)
    if line.waiting_for:
        if line.desired == line.applied:
            line.waiting_for = ""
        return
    booked = _booked(line)
    wanted, line.waiting_for = _wanted(line, booked, world)
    if wanted is None or wanted == booked:
        if line.level_id is None and line.register.said is not None and not line.waiting_for:
            # Sold and given back before we heard of it: nothing to book, but an audit of a moment in between must find it.
            _find_home(line, wanted or {}, world)
        return
    recipe = _recipe(line, world)
    units_most = max(line.desired.committed, abs(line.desired.on_hand)) * max(recipe.values())
    if units_most > UNITS_MAX:
        line.waiting_for = f"bundle: {units_most} units of a component are more than one order line may take"
        return
    line.postings += 1
    for stock_level_id, quantity, share in _shares(line, recipe, booked, wanted, world):
        entry = _book(line, stock_level_id, Taken(quantity, share.committed, -share.gone), envelope)
        if entry is not None:
            outcome.entries.append(entry)
            world.available[stock_level_id] += entry.on_hand - entry.committed
    if line.level_id is None or booked.keys() != wanted.keys():
        _find_home(line, wanted, world)
    _shift(line, booked, wanted, world)
    for sku in recipe:
        outcome.dirty.setdefault(sku, envelope)
        for bundle in world.bundles.get(sku, ()):
            outcome.dirty.setdefault(bundle, envelope)


def _identify(line: Line, world: World) -> str:
    """Find the line's SKU; the listing that is missing is returned in words, else "".

    Of a variant that is gone from the store, its SKU there is all that is told.
    """
    if line.sku_id is not None:
        return ""
    channel, register = line.key[0], line.register
    if register.variant_id:
        listing = world.listings_by_variant.get((channel, register.variant_id))
    else:
        listing = world.listings_by_code.get((channel, register.sku))
    if listing is None or listing.sku_id is None:
        return f"variant {register.variant_id}" if register.variant_id else f"SKU {register.sku}"
    line.listing_id, line.sku_id = listing.listing_id, listing.sku_id
    return ""


def _booked(line: Line) -> dict[int, Effect]:
    """What the line has done, by store location."""
    if line.placed:
        return {where: placed.effect for where, placed in line.placed.items() if placed.effect != _NO_EFFECT}
    if line.store_location_id is None or line.applied == _NO_EFFECT:
        return {}
    return {line.store_location_id: line.applied}


def _wanted(line: Line, booked: Mapping[int, Effect], world: World) -> tuple[dict[int, Effect] | None, str]:
    """What the line must do, by store location, its home first; and what it waits for, in words.

    Units at a place that draws on no warehouse are not ours: they wait for its mapping. A place that drew on one when they
    were booked there gives them back and ships them; with more to take, everything stays as it is (None).
    """
    told_parts = parts(line.register, line.desired)
    if len(told_parts) == 1:
        told, part = told_parts[0]
        location = _location(line, told, world)
        if location is not None and world.warehouses.get(location):
            return ({location: part} if part != _NO_EFFECT else {}), ""
    found: dict[int, Effect] = {}
    waiting_for = ""
    for told, part in told_parts:
        location = _location(line, told, world)
        if location is not None:
            found[location] = _sum([found[location], part]) if location in found else part
        elif part != _NO_EFFECT:
            waiting_for = waiting_for or (f"location {told}" if told else "location of the sale")
    wanted: dict[int, Effect] = {}
    for location, part in found.items():
        if part == _NO_EFFECT:
            continue
        if not world.warehouses.get(location):
            before = booked.get(location)
            if before is None:
                waiting_for = waiting_for or f"location without a warehouse: {location}"
                continue
            if part != before and not 0 <= part.taken <= before.taken:
                return None, f"location without a warehouse: {location}"
        wanted[location] = part
    return wanted, waiting_for


def _location(line: Line, told: str | None, world: World) -> int | None:
    if told is not None:
        return world.location_ids.get((line.key[0], told))
    if line.postings and line.store_location_id is not None:
        return line.store_location_id
    return world.default_locations.get(line.key[0])


def _sum(effects: Iterable[Effect]) -> Effect:
    committed = on_hand = 0
    for units_committed, units_on_hand in effects:
        committed += units_committed
        on_hand += units_on_hand
    return Effect(committed, on_hand)


def _find_home(line: Line, wanted: Mapping[int, Effect], world: World) -> None:
    """Give the line the location and the level that it belongs to: where most of its units are, or would be."""
    assert line.listing_id is not None
    home = next(iter(wanted), None)
    if home is None and line.store_location_id is None:
        told, _ = parts(line.register, line.desired)[0]
        home = _location(line, told, world)
    level = world.levels.get((line.listing_id, home)) if home is not None else None
    if level is not None:
        line.store_location_id, line.level_id = home, level.id


def _shift(line: Line, booked: Mapping[int, Effect], wanted: Mapping[int, Effect], world: World) -> None:
    """Move what the store shows at each place as the store has moved it, and remember what was done where."""
    assert line.listing_id is not None
    places: Collection[int] = wanted
    if line.placed or not booked.keys() <= wanted.keys():
        places = dict.fromkeys((*wanted, *booked, *line.placed))
    for place in places:
        units = booked.get(place, _NO_EFFECT).taken - wanted.get(place, _NO_EFFECT).taken
        level = world.levels[(line.listing_id, place)]
        level.order_effects_added += units
        level.largest_sale = max(level.largest_sale, -units)
        level.reported += units
    line.applied = _sum(wanted.values())
    if line.placed or len(places) > 1 or line.waiting_for:
        line.placed = {
            place: Placed(world.levels[(line.listing_id, place)].id, wanted.get(place, _NO_EFFECT)) for place in places
        }


def _recipe(line: Line, world: World) -> Mapping[int, int]:
    """What one unit of the line is made of. A bundle that changed since gives back what was taken for it."""
    assert line.sku_id is not None
    if not line.taken_from:
        return world.parts[line.sku_id]
    return {world.places[level][0]: taken.units_per_line_unit for level, taken in line.taken_from.items()}


def _shares(
    line: Line, recipe: Mapping[int, int], booked: Mapping[int, Effect], wanted: Mapping[int, Effect], world: World
) -> list[tuple[int, int, Share]]:
    """What the line must take in all: (stock level, its units in one unit of the line, share)."""
    if len(wanted) == 1 and not line.taken_from:
        [(place, part)] = wanted.items()
        if len(world.warehouses[place]) == 1:
            # The common case, a new sale, needs none of the rest.
            [warehouse] = world.warehouses[place]
            return [
                (
                    world.stock_level_ids[(sku, warehouse)],
                    quantity,
                    Share(part.committed * quantity, -part.on_hand * quantity),
                )
                for sku, quantity in recipe.items()
            ]
    drawn_on = {place: _drawn_on(place, recipe, world) for place in wanted}
    was_elsewhere = bool(line.placed) or not booked.keys() <= wanted.keys()
    found: list[tuple[int, int, Share]] = []
    for sku, quantity in recipe.items():
        shares: dict[int, Share] = {}
        for level, taken in line.taken_from.items():
            of_sku, warehouse = world.places[level]
            if of_sku == sku:
                shares[warehouse] = Share(taken.committed, -taken.on_hand)
        places = [
            Place(
                Share(part.committed * quantity, -part.on_hand * quantity),
                drawn_on[place],
                partial(_take, sku, {} if place in world.split_shipment else recipe, drawn_on[place], world),
            )
            for place, part in wanted.items()
        ]
        after = spread_over(places, shares, was_elsewhere=was_elsewhere)
        found += [(world.stock_level_ids[(sku, warehouse)], quantity, share) for warehouse, share in after.items()]
    return found


def _drawn_on(place: int, recipe: Mapping[int, int], world: World) -> Sequence[int]:
    """The warehouses that a location draws on, in order."""
    warehouses: Sequence[int] = world.warehouses.get(place, ())
    if len(warehouses) < 2:
        return warehouses
    return ranked(warehouses, _available(recipe, warehouses, world), world.routing.get(place, Routing.PRIORITY))


def _take(
    sku: int, sold_together: Mapping[int, int], warehouses: Sequence[int], world: World, units: int
) -> dict[int, int]:
    """Route that many more units of a component; where they are sold together, with the other components."""
    if len(warehouses) == 1:
        return {warehouses[0]: units}
    quantity = sold_together.get(sku, 0)
    if not quantity or units % quantity:
        return route(units, warehouses, _available({sku: 1}, warehouses, world))
    sets = route(units // quantity, warehouses, _available(sold_together, warehouses, world))
    return {warehouse: share * quantity for warehouse, share in sets.items()}


def _available(parts: Mapping[int, int], warehouses: Sequence[int], world: World) -> dict[int, int]:
    """How many sets of these parts each warehouse has."""
    return {
        warehouse: bundles_available(
            parts, {sku: world.available[world.stock_level_ids[(sku, warehouse)]] for sku in parts}
        )
        for warehouse in warehouses
    }


def _book(line: Line, stock_level_id: int, after: Taken, envelope: Envelope) -> Entry | None:
    """The entry that brings one stock level from what the line has done to it to what it must; None when it has."""
    before = line.taken_from.get(stock_level_id) or Taken(after.units_per_line_unit)
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
        effective_at=_happened_at(line, envelope, moves_on_hand=after.on_hand != before.on_hand),
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


def _happened_at(line: Line, envelope: Envelope, *, moves_on_hand: bool) -> datetime:
    """When the store says it was: a sale when the order was placed, all else by the newest fact that is known of the line.

    Never before it was: a count in between would take a unit that left after it for one that it had missed.
    """
    register = line.register
    if line.postings == 1 and not moves_on_hand and register.created_at is not None:
        return register.created_at
    facts = [refund.occurred_at for refund in register.refunds]
    if register.said is not None:
        facts.append(register.said.first)
    if register.cancelled_at is not None:
        facts.append(register.cancelled_at)
    return max(facts, default=envelope.received_at)


def _level(event: LevelTouched, envelope: Envelope, world: World, outcome: Outcome) -> Verdict:
    """A level webhook does no arithmetic: it repeats what is known, or it makes the level suspect."""
    listings = world.listings_by_item.get((envelope.channel_id, event.inventory_item_id), ())
    mapped = [listing for listing in listings if listing.sku_id is not None]
    if not mapped:
        return Verdict(IGNORED, f"unmapped inventory item {event.inventory_item_id}")
    location = world.location_ids.get((envelope.channel_id, event.location_id))
    if location is None or not world.warehouses.get(location):
        return Verdict(IGNORED, f"unmapped location {event.location_id}")
    verdicts = []
    for listing in mapped:
        level = world.levels[(listing.listing_id, location)]
        verdicts.append(_compare(event, level))
        if listing.sku_id is not None and level.suspect_since and level.becomes and not level.becomes.is_suspect:
            # What it might have been selling on top of what it shows is there for the other stores again.
            outcome.dirty.setdefault(listing.sku_id, envelope)
    return min(verdicts, key=lambda verdict: verdict.state)


def _compare(event: LevelTouched, level: Level) -> Verdict:
    becomes = level.becomes  # by an earlier event of this batch
    is_doubted = becomes.is_suspect if becomes else level.suspect_since is not None
    newest = max(filter(None, (level.source_at, becomes.source_at if becomes else None)), default=None)
    if event.source_at is not None and newest is not None and event.source_at < newest:
        return Verdict(IGNORED, "superseded: newer than this is known")
    if event.is_stocked is not None:
        level.becomes = LevelChange(is_suspect=True, source_at=event.source_at)
        return Verdict(APPLIED, f"{'' if event.is_stocked else 'no longer '}stocked there: to be read")
    if event.available is None or not level.is_stocked:
        # A number where nothing was counted: what it was before says nothing of it.
        level.becomes = LevelChange(is_suspect=True, source_at=event.source_at)
        return Verdict(APPLIED, "to be read")
    if event.available == level.open_push_to:
        return Verdict(IGNORED, "echo: of a write of ours under way")
    if event.available == level.reported:
        # Moments are whole seconds at some channels: of two within one, nobody can tell which is the later.
        is_newer = event.source_at is not None and (newest is None or event.source_at > newest)
        if (is_newer or not is_doubted) and level.sample is None and level.open_push_to is None and not level.held:
            level.becomes = LevelChange(is_suspect=False, source_at=event.source_at)
        return Verdict(IGNORED, "echo: as expected")
    level.becomes = LevelChange(is_suspect=True, source_at=event.source_at, available=event.available)
    return Verdict(APPLIED, f"shows {event.available}, expected {level.reported}: to be read")


def explained(level: Level) -> bool:
    """Whether the orders applied since have explained what made the level suspect."""
    return (
        level.suspect_since is not None
        and level.is_stocked  # of one that is gone only a reading tells more
        and level.sample is None
        and level.open_push_to is None
        and not level.held  # only a reading gives held units back
        and level.order_effects_added != 0
        and level.suspect_available == level.reported
    )
