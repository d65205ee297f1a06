"""Loading the world that a batch of events touches, and writing the outcome; SQL, set-based, under row locks.

Locks are taken in one order: order lines, stock levels, listing levels, each in ascending id. The cost depends on the
number of events, never on the number of listings of a SKU.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from inventory import stock
from inventory.bom import explode
from inventory.ledger import Balance
from sync import register
from sync.decide import Level, Line, LineKey, ListingFacts, Outcome, Taken, World
from sync.register import Effect
from synctec.lib import sql

#: A push tells of this many of the events behind it; the newest are kept.
STORY_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Mentioned:
    """What the events of a batch name, by (channel, the channel's own id)."""

    variants: frozenset[tuple[int, str]]
    items: frozenset[tuple[int, str]]
    orders: frozenset[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Mappings:
    """The configuration around what is mentioned. Read without locks: it changes rarely, and is read again per batch."""

    listings_by_variant: dict[tuple[int, str], ListingFacts]
    listings_by_item: dict[tuple[int, str], tuple[ListingFacts, ...]]
    location_ids: dict[tuple[int, str], int]
    default_locations: dict[int, int]
    warehouses: dict[int, tuple[int, ...]]
    parts: dict[int, dict[int, int]]
    bundles: dict[int, tuple[int, ...]]
    counted_from: dict[int, datetime | None]

    def stocked_skus(self, sku_ids: Iterable[int]) -> set[int]:
        """The SKUs with stock behind these: themselves, or the components of bundles."""
        return {component for sku in sku_ids for component in self.parts[sku]}


def _columns(pairs: Iterable[tuple[int, str]]) -> tuple[list[int], list[str]]:
    ordered = sorted(pairs)
    return [channel for channel, _ in ordered], [remote for _, remote in ordered]


def load_mappings(merchant_id: int, mentioned: Mentioned, known_skus: Iterable[int] = ()) -> Mappings:
    """Read listings, locations, the mapping matrix and bundles around what is mentioned."""
    by_variant: dict[tuple[int, str], ListingFacts] = {}
    by_item: dict[tuple[int, str], list[ListingFacts]] = defaultdict(list)
    if mentioned.variants:
        for channel, variant, listing, sku in sql.rows(
            """
            SELECT listing.channel_id, listing.remote_variant_id, listing.id, listing.sku_id
            FROM channels_listing listing JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, remote_variant_id)
            USING (channel_id, remote_variant_id)
            """,
            _columns(mentioned.variants),
        ):
            by_variant[(channel, variant)] = ListingFacts(listing, sku)
    if mentioned.items:
        for channel, item, listing, sku in sql.rows(
            """
            SELECT listing.channel_id, listing.inventory_item_id, listing.id, listing.sku_id
            FROM channels_listing listing JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, inventory_item_id)
            USING (channel_id, inventory_item_id) WHERE listing.deleted_at IS NULL
            """,
            _columns(mentioned.items),
        ):
            by_item[(channel, item)].append(ListingFacts(listing, sku))
    channels = sorted({channel for channel, _ in (*mentioned.variants, *mentioned.items, *mentioned.orders)})
    location_ids, warehouses, default_locations = _load_locations(channels)
    skus = {facts.sku_id for facts in by_variant.values() if facts.sku_id} | set(known_skus)
    parts, bundles = load_bundles(merchant_id, skus)
    counted_from = dict(
        sql.rows("SELECT id, orders_counted_from FROM channels_channel WHERE id = ANY(%s::bigint[])", [channels])
    )
    return Mappings(
        listings_by_variant=by_variant,
        listings_by_item={item: tuple(facts) for item, facts in by_item.items()},
        location_ids=location_ids,
        default_locations=default_locations,
        warehouses=warehouses,
        parts=parts,
        bundles=bundles,
        counted_from=counted_from,
    )


def _load_locations(
    channels: Sequence[int],
) -> tuple[dict[tuple[int, str], int], dict[int, tuple[int, ...]], dict[int, int]]:
    location_ids: dict[tuple[int, str], int] = {}
    warehouses: dict[int, list[int]] = {}
    mapped: dict[int, list[int]] = defaultdict(list)
    for channel, location, remote_id, warehouse in sql.rows(
        """
        SELECT location.channel_id, location.id, location.remote_id, mapping.warehouse_id
        FROM channels_storelocation location
        LEFT JOIN locations_mapping mapping ON mapping.store_location_id = location.id
        WHERE location.channel_id = ANY(%s::bigint[]) ORDER BY location.id, mapping.priority
        """,
        [list(channels)],
    ):
        location_ids[(channel, remote_id)] = location
        if warehouse is not None:
            warehouses.setdefault(location, []).append(warehouse)
            if location not in mapped[channel]:
                mapped[channel].append(location)
    default_locations = {channel: locations[0] for channel, locations in mapped.items()}
    return location_ids, {location: tuple(ids) for location, ids in warehouses.items()}, default_locations


def load_bundles(merchant_id: int, skus: Iterable[int]) -> tuple[dict[int, dict[int, int]], dict[int, tuple[int, ...]]]:
    """Stocked components of each SKU, and the bundles that contain each stocked SKU, through all levels."""
    components: dict[int, dict[int, int]] = defaultdict(dict)
    for bundle, component, quantity in sql.rows(
        "SELECT bundle_id, component_id, quantity FROM inventory_bomline WHERE merchant_id = %s", [merchant_id]
    ):
        components[bundle][component] = quantity
    contained_in: dict[int, list[int]] = defaultdict(list)
    exploded = {bundle: explode(bundle, components) for bundle in components}
    for bundle, parts in exploded.items():
        for component in parts:
            contained_in[component].append(bundle)
    parts_of = {sku: exploded.get(sku, {sku: 1}) for sku in skus}
    return parts_of, {sku: tuple(sorted(bundles)) for sku, bundles in contained_in.items()}


def lock_lines(orders: Iterable[tuple[int, str]]) -> dict[LineKey, Line]:
    """Lock the registers of these orders and read them, with what they have taken from where."""
    if not orders:
        return {}
    channels, order_ids = _columns(orders)
    lines: dict[LineKey, Line] = {}
    by_id: dict[int, Line] = {}
    for row in sql.rows(
        """
        SELECT line.id, line.channel_id, line.order_id, line.line_id, line.order_name, line.facts, line.listing_id,
            line.sku_id, line.listing_level_id, line.store_location_id, line.applied_committed, line.applied_on_hand,
            line.desired_committed, line.desired_on_hand, line.postings, line.waiting_for
        FROM sync_orderline line
        JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
        ORDER BY line.id FOR NO KEY UPDATE OF line
        """,
        [channels, order_ids],
    ):
        line = Line(
            key=(row[1], row[2], row[3]),
            id=row[0],
            order_name=row[4],
            register=register.from_json(json.loads(row[5])),
            listing_id=row[6],
            sku_id=row[7],
            level_id=row[8],
            store_location_id=row[9],
            applied=Effect(row[10], row[11]),
            desired=Effect(row[12], row[13]),
            postings=row[14],
            waiting_for=row[15],
        )
        lines[line.key] = by_id[row[0]] = line
    if by_id:
        for line_id, level, units, committed, on_hand in sql.rows(
            """
            SELECT order_line_id, stock_level_id, units_per_line_unit, committed, on_hand FROM sync_allocation
            WHERE order_line_id = ANY(%s::bigint[])
            """,
            [list(by_id)],
        ):
            by_id[line_id].taken_from[level] = Taken(units, committed, on_hand)
    return lines


def lock_stock(
    merchant_id: int, mappings: Mappings, skus: Iterable[int], locations: Iterable[int], taken_from: Iterable[int]
) -> tuple[dict[tuple[int, int], int], dict[int, Balance]]:
    """Make and lock the stock levels that sales of these SKUs at these store locations may draw on."""
    warehouses = {warehouse for location in locations for warehouse in mappings.warehouses.get(location, ())}
    # Units can be given back to where they were taken, whatever bundles are made of and locations draw on by now.
    known = sorted(taken_from)
    taken = (
        sql.rows("SELECT id, sku_id, warehouse_id FROM inventory_stocklevel WHERE id = ANY(%s::bigint[])", [known])
        if known
        else []
    )
    stocked = mappings.stocked_skus(skus) | {sku for _, sku, _ in taken}
    ids = stock.ensure_levels(
        merchant_id=merchant_id, pairs=[(sku, warehouse) for sku in stocked for warehouse in warehouses]
    )
    ids |= {(sku, warehouse): level for level, sku, warehouse in taken}
    return ids, stock.lock_balances(ids.values())


def lock_level_rows(level_ids: Iterable[int]) -> None:
    """Lock these listing levels in ascending id, before they are written as a set."""
    sql.rows(
        "SELECT 1 FROM channels_listinglevel WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        [sorted(level_ids)],
    )


def lock_levels(pairs: Iterable[tuple[int, int]], merchant_id: int) -> dict[tuple[int, int], Level]:
    """Make and lock the listing levels of these (listing, store location) pairs."""
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    listings, locations = [listing for listing, _ in wanted], [location for _, location in wanted]
    select = """
        SELECT level.id, level.listing_id, level.store_location_id, level.reported, level.source_at,
            level.suspect_since, level.suspect_available, level.sample, level.held
        FROM channels_listinglevel level
        JOIN unnest(%s::bigint[], %s::bigint[]) AS told (listing_id, store_location_id)
            USING (listing_id, store_location_id)
        ORDER BY level.id FOR NO KEY UPDATE OF level
    """
    found = sql.rows(select, [listings, locations])
    if len(found) < len(wanted):
        sql.rows(
            """
            INSERT INTO channels_listinglevel (merchant_id, channel_id, listing_id, store_location_id, suspect_since,
                suspect_reason, next_check_at)
            SELECT %s, listing.channel_id, told.listing_id, told.store_location_id, now(), 'never read', now()
            FROM unnest(%s::bigint[], %s::bigint[]) AS told (listing_id, store_location_id)
            JOIN channels_listing listing ON listing.id = told.listing_id
            ON CONFLICT DO NOTHING RETURNING id
            """,
            [merchant_id, listings, locations],
        )
        found = sql.rows(select, [listings, locations])
    open_pushes = dict(
        sql.rows(
            "SELECT listing_level_id, to_quantity FROM channels_push WHERE state = 'open' AND listing_level_id = ANY(%s)",
            [[row[0] for row in found]],
        )
    )
    return {
        (row[1], row[2]): Level(
            id=row[0],
            reported=row[3],
            source_at=row[4],
            suspect_since=row[5],
            suspect_available=row[6],
            sample=row[7],
            open_push_to=open_pushes.get(row[0]),
            held=row[8],
        )
        for row in found
    }


def as_world(
    mappings: Mappings,
    *,
    stock_level_ids: Mapping[tuple[int, int], int],
    balances: Mapping[int, Balance],
    levels: Mapping[tuple[int, int], Level],
    lines: dict[LineKey, Line],
) -> World:
    """The world as `sync.decide` wants it."""
    return World(
        listings_by_variant=mappings.listings_by_variant,
        listings_by_item=mappings.listings_by_item,
        location_ids=mappings.location_ids,
        default_locations=mappings.default_locations,
        warehouses=mappings.warehouses,
        parts=mappings.parts,
        bundles=mappings.bundles,
        counted_from=mappings.counted_from,
        stock_level_ids=stock_level_ids,
        available={level: balance.available for level, balance in balances.items()},
        levels=levels,
        lines=lines,
    )


def write_lines(merchant_id: int, lines: Iterable[Line], now: datetime) -> None:
    """Insert new registers, update known ones, and write what each has taken from where."""
    touched = list(lines)
    if not touched:
        return
    new = [line for line in touched if line.id is None]
    known = [line for line in touched if line.id is not None]
    if new:
        by_key = {line.key: line for line in new}
        for line_id, channel, order_id, remote_line in sql.rows(
            f"""
            INSERT INTO sync_orderline (merchant_id, channel_id, order_id, line_id, {_LINE_COLUMNS}, updated_at)
            SELECT %s, told.*, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], {_LINE_ARRAYS}) AS told
            RETURNING id, channel_id, order_id, line_id
            """,
            [
                merchant_id,
                now,
                [line.key[0] for line in new],
                [line.key[1] for line in new],
                [line.key[2] for line in new],
                *_line_values(new),
            ],
        ):
            by_key[(channel, order_id, remote_line)].id = line_id
    if known:
        assignments = ", ".join(f"{name} = told.{name}" for name in _LINE_COLUMNS.replace("\n", " ").split(", "))
        with sql.cursor() as cursor:
            cursor.execute(
                f"""
                UPDATE sync_orderline line SET {assignments}, updated_at = %s
                FROM unnest(%s::bigint[], {_LINE_ARRAYS}) AS told (id, {_LINE_COLUMNS}) WHERE line.id = told.id
                """,
                [now, [line.id for line in known], *_line_values(known)],
            )
    _write_allocations(merchant_id, touched)


_LINE_COLUMNS = (
    "order_name, remote_variant_id, listing_id, sku_id, listing_level_id, store_location_id, facts, desired_committed, "
    "desired_on_hand, applied_committed, applied_on_hand, postings, waiting_for, latest_event_id, correlation_id"
)
_LINE_ARRAYS = (
    "%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::jsonb[], %s::int[], %s::int[], "
    "%s::int[], %s::int[], %s::int[], %s::text[], %s::bigint[], %s::uuid[]"
)


def _line_values(lines: Sequence[Line]) -> list[list[Any]]:
    return [
        [line.order_name[:80] for line in lines],
        [line.register.variant_id for line in lines],
        [line.listing_id for line in lines],
        [line.sku_id for line in lines],
        [line.level_id for line in lines],
        [line.store_location_id for line in lines],
        [Jsonb(register.to_json(line.register)) for line in lines],
        [line.desired.committed for line in lines],
        [line.desired.on_hand for line in lines],
        [line.applied.committed for line in lines],
        [line.applied.on_hand for line in lines],
        [line.postings for line in lines],
        [line.waiting_for[:120] for line in lines],
        [line.latest.event_id if line.latest else None for line in lines],
        [line.latest.correlation_id if line.latest else None for line in lines],
    ]


def _write_allocations(merchant_id: int, lines: Sequence[Line]) -> None:
    taken = [(line.id, level, taken) for line in lines for level, taken in line.taken_from.items()]
    if not taken:
        return
    with sql.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO sync_allocation (merchant_id, order_line_id, stock_level_id, units_per_line_unit, committed, on_hand)
            SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::int[], %s::int[])
            ON CONFLICT (order_line_id, stock_level_id) DO UPDATE
            SET committed = excluded.committed, on_hand = excluded.on_hand
            """,
            [
                merchant_id,
                [line for line, _, _ in taken],
                [level for _, level, _ in taken],
                [what.units_per_line_unit for _, _, what in taken],
                [what.committed for _, _, what in taken],
                [what.on_hand for _, _, what in taken],
            ],
        )


def write_order_effects(levels: Iterable[Level]) -> None:
    """Move the levels' own-store effects; a suspicion that the orders have explained is dropped."""
    from sync.decide import explained

    moved = [level for level in levels if level.order_effects_added]
    if moved:
        with sql.cursor() as cursor:
            cursor.execute(
                """
                UPDATE channels_listinglevel level
                SET order_effects = level.order_effects + told.added, version = level.version + 1,
                    suspect_since = CASE WHEN told.explained THEN NULL ELSE level.suspect_since END,
                    suspect_available = CASE WHEN told.explained THEN NULL ELSE level.suspect_available END,
                    next_check_at = CASE WHEN told.explained THEN NULL WHEN level.sample IS NOT NULL THEN now()
                        ELSE level.next_check_at END
                FROM unnest(%s::bigint[], %s::int[], %s::bool[]) AS told (id, added, explained)
                WHERE level.id = told.id
                """,
                [
                    [level.id for level in moved],
                    [level.order_effects_added for level in moved],
                    [explained(level) for level in moved],
                ],
            )


def write_level_changes(levels: Iterable[Level], now: datetime, check_after: timedelta) -> None:
    """Raise and clear suspicions. A fresh suspicion is read after a moment, for most are explained by then."""
    changed = [(level.id, level.becomes) for level in levels if level.becomes is not None]
    if not changed:
        return
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_listinglevel level
            SET suspect_since = CASE WHEN told.suspect THEN coalesce(level.suspect_since, %s) END,
                suspect_reason = CASE WHEN told.suspect THEN 'webhook differs' ELSE '' END,
                suspect_available = told.available,
                next_check_at = CASE WHEN told.suspect THEN coalesce(level.next_check_at, %s) END,
                confirmed_at = CASE WHEN told.suspect THEN level.confirmed_at ELSE %s END,
                source_at = greatest(level.source_at, told.source_at)
            FROM unnest(%s::bigint[], %s::bool[], %s::int[], %s::timestamptz[]) AS told (id, suspect, available, source_at)
            WHERE level.id = told.id
            """,
            [
                now,
                now + check_after,
                now,
                [level for level, _ in changed],
                [change.is_suspect for _, change in changed],
                [change.available for _, change in changed],
                [change.source_at for _, change in changed],
            ],
        )


def write_dirty(merchant_id: int, outcome: Outcome) -> None:
    """Mark SKUs for publishing."""
    if outcome.dirty:
        with sql.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
                SELECT %s, * FROM unnest(%s::bigint[], %s::uuid[], %s::timestamptz[])
                """,
                [
                    merchant_id,
                    list(outcome.dirty),
                    [envelope.correlation_id for envelope in outcome.dirty.values()],
                    [envelope.received_at for envelope in outcome.dirty.values()],
                ],
            )
