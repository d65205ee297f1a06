"""Registers, ledger and levels as applying events sees them: loaded under locks, written as sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from inventory import holds, stock
from inventory.bom import explode
from inventory.ledger import Balance, Entry
from locations.pace import LARGEST_SECONDS, RUSH_SECONDS, USUAL_SECONDS
from locations.routing import Routing, in_use
from sync import register
from sync.decide import Level, Line, LineKey, ListingFacts, Named, Placed, Taken, explained, listing_of
from sync.ports import Mappings, Mentioned, OrderKey, Waiting
from sync.register import Effect
from sync.tables.propagation import note_lag
from synctec.lib import sql


class StockTables:
    """Loading the world that a batch of events touches, and writing what was decided."""

    def load_mappings(self, merchant_id: int, mentioned: Mentioned, known_skus: Collection[int]) -> Mappings:
        by_variant: dict[tuple[int, str], ListingFacts] = {}
        by_item: dict[tuple[int, str], list[ListingFacts]] = defaultdict(list)
        if mentioned.variants:
            for channel, variant, listing, sku in sql.rows(
                """
                SELECT listing.channel_id, listing.remote_variant_id, listing.id, listing.sku_id
                FROM channels_listing listing JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, remote_variant_id)
                USING (channel_id, remote_variant_id)
                """,
                columns(mentioned.variants),
            ):
                by_variant[(channel, variant)] = ListingFacts(listing, sku)
        if mentioned.items:
            for channel, item, listing, sku in sql.rows(
                """
                SELECT listing.channel_id, listing.inventory_item_id, listing.id, listing.sku_id
                FROM channels_listing listing JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, inventory_item_id)
                USING (channel_id, inventory_item_id) WHERE listing.deleted_at IS NULL
                """,
                columns(mentioned.items),
            ):
                by_item[(channel, item)].append(ListingFacts(listing, sku))
        by_code = load_listings_by_code(mentioned.codes) if mentioned.codes else {}
        channels = sorted({channel for channel, _ in (*mentioned.variants, *mentioned.items, *mentioned.orders)})
        location_ids, warehouses, default_locations = load_locations(channels)
        routing, split_shipment = load_routing(channels)
        skus = {facts.sku_id for facts in (*by_variant.values(), *by_code.values()) if facts.sku_id} | set(known_skus)
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
            routing=routing,
            split_shipment=split_shipment,
            listings_by_code=by_code,
        )

    def channels_with_several_places(self, channel_ids: Collection[int]) -> set[int]:
        return {
            channel
            for (channel,) in sql.rows(
                """
                SELECT location.channel_id FROM channels_storelocation location
                WHERE location.channel_id = ANY(%s::bigint[]) AND location.is_active
                GROUP BY location.channel_id HAVING count(*) > 1
                """,
                [sorted(channel_ids)],
            )
        }

    def lines_with_a_place(self, orders: Collection[OrderKey]) -> set[LineKey]:
        if not orders:
            return set()
        found = sql.rows(
            """
            SELECT channel_id, order_id, line_id FROM sync_orderline
            JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
            WHERE store_location_id IS NOT NULL OR facts ->> 'located' IS NOT NULL
            """,
            columns(orders),
        )
        return {(channel, order, line) for channel, order, line in found}

    def contested_orders(self, orders: Collection[OrderKey]) -> set[OrderKey]:
        if not orders:
            return set()
        found = sql.rows(
            """
            SELECT channel_id, order_id FROM sync_orderline
            JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
            WHERE facts ? 'contested'
            """,
            columns(orders),
        )
        return {(channel, order) for channel, order in found}

    def skus_of_orders(self, orders: Collection[OrderKey]) -> dict[OrderKey, set[int]]:
        skus: dict[OrderKey, set[int]] = defaultdict(set)
        if orders:
            for channel, order, sku in sql.rows(
                """
                SELECT channel_id, order_id, sku_id FROM sync_orderline
                JOIN unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id) USING (channel_id, order_id)
                WHERE sku_id IS NOT NULL
                """,
                columns(orders),
            ):
                skus[(channel, order)].add(sku)
        return skus

    def lock_lines(self, orders: Collection[OrderKey]) -> dict[LineKey, Line]:
        if not orders:
            return {}
        channels, order_ids = columns(orders)
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
                register=register.from_json(msgspec.json.decode(row[5])),
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
            for line_id, location, level, committed, on_hand in sql.rows(
                """
                SELECT placed.order_line_id, level.store_location_id, level.id, placed.committed, placed.on_hand
                FROM sync_placement placed JOIN channels_listinglevel level ON level.id = placed.listing_level_id
                WHERE placed.order_line_id = ANY(%s::bigint[])
                """,
                [list(by_id)],
            ):
                by_id[line_id].placed[location] = Placed(level, Effect(committed, on_hand))
        return lines

    def lock_stock(
        self,
        merchant_id: int,
        mappings: Mappings,
        skus: Collection[int],
        locations: Collection[int],
        taken: Collection[int],
    ) -> tuple[dict[tuple[int, int], int], dict[int, Balance]]:
        warehouses = {warehouse for location in locations for warehouse in mappings.warehouses.get(location, ())}
        # Units can be given back to where they were taken, whatever bundles are made of and locations draw on by now.
        known = sorted(taken)
        origins = (
            sql.rows("SELECT id, sku_id, warehouse_id FROM inventory_stocklevel WHERE id = ANY(%s::bigint[])", [known])
            if known
            else []
        )
        stocked = mappings.stocked_skus(skus) | {sku for _, sku, _ in origins}
        ids = stock.ensure_levels(
            merchant_id=merchant_id, pairs=[(sku, warehouse) for sku in stocked for warehouse in warehouses]
        )
        ids |= {(sku, warehouse): level for level, sku, warehouse in origins}
        return ids, stock.lock_balances(ids.values())

    def lock_balances(self, stock_level_ids: Collection[int]) -> dict[int, Balance]:
        return stock.lock_balances(stock_level_ids)

    def post(self, merchant_id: int, balances: Mapping[int, Balance], entries: Sequence[Entry], now: datetime) -> None:
        stock.post(merchant_id=merchant_id, balances=balances, entries=entries, now=now)

    def lock_levels(self, merchant_id: int, pairs: Collection[tuple[int, int]]) -> dict[tuple[int, int], Level]:
        wanted = sorted(set(pairs))
        if not wanted:
            return {}
        listings, locations = [listing for listing, _ in wanted], [location for _, location in wanted]
        select = """
            SELECT level.id, level.listing_id, level.store_location_id, level.reported, level.source_at,
                level.suspect_since, level.suspect_available, level.sample, level.held,
                level.is_stocked AND level.gone_at IS NULL
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
                ORDER BY told.listing_id, told.store_location_id
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
                is_stocked=row[9],
            )
            for row in found
        }

    def held_for_orders(self, merchant_id: int, orders: Collection[OrderKey]) -> set[int]:
        return holds.levels_held_for_orders(merchant_id=merchant_id, orders=orders) if orders else set()

    def lock_holds(
        self, merchant_id: int, orders: Collection[OrderKey], balances: Mapping[int, Balance], now: datetime
    ) -> list[Waiting]:
        return [
            Waiting(held.hold_id, (channel, order_id), sku_id, holds.taken_over(held, now))
            for (channel, order_id, sku_id), held in holds.lock_waiting(
                merchant_id=merchant_id, orders=orders, balances=balances
            )
        ]

    def end_holds(
        self, merchant_id: int, ended: Sequence[Waiting], balances: Mapping[int, Balance], now: datetime
    ) -> None:
        if ended:
            holds.end_waiting(
                merchant_id=merchant_id,
                hold_ids=[waiting.hold_id for waiting in ended],
                entries=[entry for waiting in ended for entry in waiting.gives_back],
                balances=balances,
                now=now,
            )

    def write_lines(self, merchant_id: int, lines: Collection[Line], now: datetime) -> None:
        touched = list(lines)
        if not touched:
            return
        new = [line for line in touched if line.id is None]
        known = [line for line in touched if line.id is not None]
        if new:
            by_key = {line.key: line for line in new}
            for line_id, channel, order_id, remote_line in sql.rows(
                f"""
                INSERT INTO sync_orderline (merchant_id, channel_id, order_id, line_id, {_LINE_COLUMNS}, created_at,
                    updated_at)
                SELECT %s, told.*, %s, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], {_LINE_ARRAYS}) AS told
                RETURNING id, channel_id, order_id, line_id
                """,
                [
                    merchant_id,
                    now,
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
        _write_placements(merchant_id, [line for line in touched if line.placed], now)

    def write_order_effects(self, levels: Collection[Level], now: datetime) -> None:
        moved = [level for level in levels if level.order_effects_added]
        if moved:
            sql.execute(
                """
                UPDATE channels_listinglevel level
                SET order_effects = level.order_effects + told.added, version = level.version + 1,
                    -- What comes back while it shows less than nothing is nothing that it could offer.
                    desired = CASE WHEN level.desired IS NOT NULL THEN greatest(0, level.desired + CASE WHEN told.added > 0
                        THEN least(told.added, greatest(0, level.reported + told.added)) ELSE told.added END) END,
                    rush_units = CASE WHEN told.added < 0 THEN -told.added + level.rush_units
                        -- Beyond that, PostgreSQL refuses to say that nothing is left.
                        * exp(-least(700, greatest(0, extract(epoch FROM %s - level.sold_at)) / %s))
                        ELSE level.rush_units END,
                    usual_units = CASE WHEN told.added < 0 THEN -told.added + level.usual_units
                        * exp(-least(700, greatest(0, extract(epoch FROM %s - level.sold_at)) / %s))
                        ELSE level.usual_units END,
                    largest_sale = CASE WHEN told.added < 0 THEN greatest(told.largest, level.largest_sale
                        * exp(-least(700, greatest(0, extract(epoch FROM %s - level.sold_at)) / %s)))
                        ELSE level.largest_sale END,
                    sold_at = CASE WHEN told.added < 0 THEN greatest(level.sold_at, %s) ELSE level.sold_at END,
                    suspect_since = CASE WHEN told.explained THEN NULL ELSE level.suspect_since END,
                    suspect_available = CASE WHEN told.explained THEN NULL ELSE level.suspect_available END,
                    doubtful_lowers = CASE WHEN told.explained THEN '{}' ELSE level.doubtful_lowers END,
                    doubtful_lowers_at = CASE WHEN told.explained THEN '{}' ELSE level.doubtful_lowers_at END,
                    next_check_at = CASE WHEN told.explained THEN NULL WHEN level.sample IS NOT NULL THEN now()
                        ELSE level.next_check_at END
                FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::bool[]) AS told (id, added, largest, explained)
                WHERE level.id = told.id
                """,
                [
                    now,
                    RUSH_SECONDS,
                    now,
                    USUAL_SECONDS,
                    now,
                    LARGEST_SECONDS,
                    now,
                    [level.id for level in moved],
                    [level.order_effects_added for level in moved],
                    [level.largest_sale for level in moved],
                    [explained(level) for level in moved],
                ],
            )

    def write_level_changes(self, levels: Collection[Level], now: datetime, check_after: timedelta) -> None:
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
                    doubtful_lowers = CASE WHEN told.suspect THEN level.doubtful_lowers ELSE '{}' END,
                    doubtful_lowers_at = CASE WHEN told.suspect THEN level.doubtful_lowers_at ELSE '{}' END,
                    next_check_at = CASE WHEN told.suspect THEN coalesce(level.next_check_at, least(%s, now()) + %s) END,
                    confirmed_at = CASE WHEN told.suspect THEN level.confirmed_at ELSE %s END,
                    source_at = greatest(level.source_at, told.source_at)
                FROM unnest(%s::bigint[], %s::bool[], %s::int[], %s::timestamptz[])
                    AS told (id, suspect, available, source_at)
                WHERE level.id = told.id
                """,
                [
                    now,
                    now,
                    check_after,
                    now,
                    [level for level, _ in changed],
                    [change.is_suspect for _, change in changed],
                    [change.available for _, change in changed],
                    [change.source_at for _, change in changed],
                ],
            )

    def note_inbound_lag(self, lags: Mapping[int, float], now: datetime) -> None:
        note_lag("inbound", lags, now)


def load_listings_by_code(codes: Collection[tuple[int, str]]) -> dict[tuple[int, str], ListingFacts]:
    named: dict[tuple[int, str], list[Named]] = defaultdict(list)
    for channel, code, *facts in sql.rows(
        """
        SELECT told.channel_id, told.code, listing.id, listing.sku_id, listing.remote_sku = told.code,
            listing.deleted_at IS NOT NULL
        FROM unnest(%s::bigint[], %s::text[]) AS told (channel_id, code)
        JOIN channels_listing listing ON listing.channel_id = told.channel_id
        JOIN inventory_sku sku ON sku.id = listing.sku_id
        WHERE told.code IN (listing.remote_sku, sku.code)
        """,
        columns(codes),
    ):
        named[(channel, code)].append(Named(*facts))
    found = {code: listing_of(listings) for code, listings in named.items()}
    return {code: facts for code, facts in found.items() if facts is not None}


def load_locations(
    channels: Sequence[int],
) -> tuple[dict[tuple[int, str], int], dict[int, tuple[int, ...]], dict[int, int]]:
    location_ids: dict[tuple[int, str], int] = {}
    warehouses: dict[int, list[tuple[int, bool]]] = {}
    mapped: dict[int, list[int]] = defaultdict(list)
    for channel, location, remote_id, warehouse, is_on in sql.rows(
        """
        SELECT location.channel_id, location.id, location.remote_id, mapping.warehouse_id, warehouse.is_active
        FROM channels_storelocation location
        LEFT JOIN locations_mapping mapping ON mapping.store_location_id = location.id
        LEFT JOIN inventory_warehouse warehouse ON warehouse.id = mapping.warehouse_id
        WHERE location.channel_id = ANY(%s::bigint[]) ORDER BY location.id, mapping.priority
        """,
        [list(channels)],
    ):
        location_ids[(channel, remote_id)] = location
        if warehouse is not None:
            warehouses.setdefault(location, []).append((warehouse, is_on))
            if location not in mapped[channel]:
                mapped[channel].append(location)
    default_locations = {channel: locations[0] for channel, locations in mapped.items()}
    return location_ids, {location: in_use(those) for location, those in warehouses.items()}, default_locations


def load_routing(channels: Sequence[int]) -> tuple[dict[int, Routing], set[int]]:
    """What the groups of these channels' locations want otherwise than usual: their routing, and split shipment."""
    routing: dict[int, Routing] = {}
    split_shipment: set[int] = set()
    for location, rule, may_split in sql.rows(
        """
        SELECT member.store_location_id, grouped.routing, grouped.allows_split_shipment
        FROM channels_storelocation location
        JOIN locations_grouplocation member ON member.store_location_id = location.id
        JOIN locations_locationgroup grouped ON grouped.id = member.group_id
        WHERE location.channel_id = ANY(%s::bigint[]) AND (grouped.routing <> 'priority' OR grouped.allows_split_shipment)
        """,
        [list(channels)],
    ):
        routing[location] = Routing(rule)
        if may_split:
            split_shipment.add(location)
    return routing, split_shipment


def load_bundles(
    merchant_id: int, skus: Collection[int]
) -> tuple[dict[int, dict[int, int]], dict[int, tuple[int, ...]]]:
    """Stocked components of each SKU, and the bundles that contain each of those components, through all levels."""
    components: dict[int, dict[int, int]] = defaultdict(dict)
    for bundle, component, quantity in sql.rows(
        """
        WITH RECURSIVE below AS (
            SELECT bundle_id, component_id, quantity FROM inventory_bomline WHERE bundle_id = ANY(%s::bigint[])
            UNION
            SELECT line.bundle_id, line.component_id, line.quantity FROM inventory_bomline line
            JOIN below ON line.bundle_id = below.component_id
        )
        SELECT bundle_id, component_id, quantity FROM below
        """,
        [list(skus)],
    ):
        components[bundle][component] = quantity
    parts = {sku: explode(sku, components) if sku in components else {sku: 1} for sku in skus}
    contained_in: dict[int, set[int]] = defaultdict(set)
    for component, bundle in sql.rows(
        """
        WITH RECURSIVE above AS (
            SELECT component_id AS origin, bundle_id FROM inventory_bomline WHERE component_id = ANY(%s::bigint[])
            UNION
            SELECT above.origin, line.bundle_id FROM inventory_bomline line JOIN above ON line.component_id = above.bundle_id
        )
        SELECT origin, bundle_id FROM above
        """,
        [sorted({component for needed in parts.values() for component in needed})],
    ):
        contained_in[component].add(bundle)
    return parts, {component: tuple(sorted(bundles)) for component, bundles in contained_in.items()}


_LINE_COLUMNS = (
    "order_name, remote_variant_id, listing_id, sku_id, listing_level_id, store_location_id, facts, desired_committed, "
    "desired_on_hand, applied_committed, applied_on_hand, postings, waiting_for, latest_event_id, correlation_id"
)
_LINE_ARRAYS = (
    "%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::jsonb[], %s::int[], %s::int[], "
    "%s::int[], %s::int[], %s::int[], %s::text[], %s::bigint[], %s::uuid[]"
)


_ENCODER = msgspec.json.Encoder()


def _line_values(lines: Sequence[Line]) -> list[list[Any]]:
    return [
        [line.order_name[:80] for line in lines],
        [line.register.variant_id for line in lines],
        [line.listing_id for line in lines],
        [line.sku_id for line in lines],
        [line.level_id for line in lines],
        [line.store_location_id for line in lines],
        [_ENCODER.encode(register.to_json(line.register)).decode() for line in lines],
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


def _write_placements(merchant_id: int, lines: Sequence[Line], now: datetime) -> None:
    placed = [(line.id, placed.level_id, placed.effect) for line in lines for placed in line.placed.values()]
    if not placed:
        return
    sql.execute(
        """
        INSERT INTO sync_placement AS known (merchant_id, order_line_id, listing_level_id, committed, on_hand, changed_at)
        SELECT %s, told.*, %s FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::int[]) AS told
        ON CONFLICT (order_line_id, listing_level_id) DO UPDATE
        SET committed = excluded.committed, on_hand = excluded.on_hand, changed_at = excluded.changed_at
        WHERE (known.committed, known.on_hand) <> (excluded.committed, excluded.on_hand)
        """,
        [
            merchant_id,
            now,
            [line for line, _, _ in placed],
            [level for _, level, _ in placed],
            [effect.committed for _, _, effect in placed],
            [effect.on_hand for _, _, effect in placed],
        ],
    )


def columns(pairs: Iterable[tuple[int, str]]) -> tuple[list[int], list[str]]:
    """Pairs as two arrays, in a fixed order."""
    ordered = sorted(pairs)
    return [channel for channel, _ in ordered], [remote for _, remote in ordered]


def lock_level_rows(level_ids: Iterable[int]) -> None:
    """Lock these listing levels in ascending id, before they are written as a set."""
    sql.rows(
        "SELECT 1 FROM channels_listinglevel WHERE id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        [sorted(level_ids)],
    )
