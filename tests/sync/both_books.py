"""One merchant kept twice: in PostgreSQL and in the simulator's memory, under one clock.

What the books number by themselves has a name here that is the same on both sides: a stock level is its (SKU, warehouse), a
listing level its (listing, store location), an event its delivery, a push its place in its batch. `Side.look` reads all
rows under these names, `Side.answer` says what a method answered in them.

PostgreSQL's clock is covered by functions of the same name, so that moments agree to the microsecond.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from channels import bodies
from channels.models import Channel, ChannelKind, InboxEvent, Listing, ListingLevel, StoreLocation
from inventory import stock
from inventory.models import BomLine, Sku, SkuKind, Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, PublishingRule
from locations.models import Mapping as Cell
from locations.publishing import Rule
from locations.routing import Routing
from merchants.models import Merchant
from sync.models import DirtySku
from sync.ports import Books
from sync.simulator import postgres
from sync.simulator.memory import MemoryBooks
from sync.simulator.memory.rows import LevelRow
from sync.sweep import take_up_placeable_lines
from sync.tables import Tables, propagation
from synctec.lib import sql

#: Later than the real clock, which some columns take their first value from: what these say is due.
START = datetime(2040, 11, 20, 12, tzinfo=UTC)

Name = tuple[Any, ...]
Row = dict[str, Any]
Groups = dict[int, tuple[str, tuple[int, ...], Routing, bool]]
Found = dict[str, Sequence[tuple[Any, Name, Row]]]  # table -> (number, name, columns)

#: Columns and fields that hold a number of the side's own.
REFERENCES = {
    "event_id": "event",
    "latest_event_id": "event",
    "stock_level_id": "stock",
    "held_at": "stock",
    "level_id": "level",
    "push_id": "push",
    "open_push_id": "push",
}
#: Numbers that nobody compares.
UNNAMED = {"id", "lease_token"}

# --- the configuration, by numbers that are the same on both sides ---

MERCHANT = 1
WAREHOUSES = (1, 2, 3)
MUG, TEE, CAP, SET, HAMPER = SKUS = (1, 2, 3, 4, 5)
CODES = {number: f"SKU{number}" for number in SKUS}
BOM = ((SET, MUG, 2), (SET, TEE, 1), (HAMPER, SET, 1), (HAMPER, CAP, 3))
NORTH, SOUTH, EAST = CHANNELS = (1, 2, 3)
#: channel -> what is done about units that somebody removed in the store by hand, and about units added
EDITS = {NORTH: ("adopt", "override"), SOUTH: ("ask", "ask"), EAST: ("adopt", "adopt")}
DIVIDED, SHARED = 1, 2
#: group -> (policy, warehouses, routing, may send the parts of a bundle from several)
GROUPS: Groups = {
    DIVIDED: ("split", (1, 2), Routing.MOST_STOCK, False),
    SHARED: ("shared", (3,), Routing.PRIORITY, True),
}
#: store location -> (channel, group, warehouses by priority). South has two that sell, East one that draws on nothing.
PLACES = {
    1: (NORTH, DIVIDED, (1, 2)),
    2: (SOUTH, DIVIDED, (2, 1)),
    3: (SOUTH, SHARED, (3,)),
    4: (EAST, SHARED, (3,)),
    5: (EAST, SHARED, ()),
}
#: listing -> (channel, SKU, is tracked, is deleted). Two of South's share an inventory item.
LISTINGS = {
    1: (NORTH, MUG, True, False),
    2: (NORTH, SET, True, False),
    3: (NORTH, None, True, False),
    4: (SOUTH, MUG, True, False),
    5: (SOUTH, MUG, True, False),
    6: (SOUTH, HAMPER, True, False),
    7: (SOUTH, CAP, True, True),
    8: (EAST, CAP, True, False),
    9: (EAST, TEE, False, False),
}
ITEMS = {listing: f"item-{4 if listing == 5 else listing}" for listing in LISTINGS}
#: What listings are called in the store: one of South's that is gone, one of two goods, one whose SKU has another name.
REMOTE_SKUS = {4: "BOTH", 6: "BOTH", 7: "WAS-CAP", 8: "SKU3"}
#: Levels there are from the start; the others are made when they are needed.
LEVELS = ((1, 1), (2, 1), (4, 2), (4, 3), (6, 3), (8, 4))
OPENING = {(MUG, 1): 12, (MUG, 2): 3, (TEE, 1): 5, (TEE, 2): 5, (CAP, 3): 4, (MUG, 3): 2}
#: channel, SKU, listing, rule
RULES = ((NORTH, None, None, Rule(buffer_units=1)), (EAST, CAP, None, Rule(cap=3)), (SOUTH, None, 6, Rule(floor=2)))

_PACE = ("rush_units", "usual_units", "largest_sale", "sold_at")
_LEVEL_COLUMNS = (
    *(
        "is_stocked",
        "gone_at",
        "base",
        "order_effects",
        "pushed",
        "reported",
        "shown",
        "desired",
        "version",
        "source_at",
    ),
    *("confirmed_at", "sample", "since_sample", "sample_pushed", "sampled_from", "sampled_until", "sampled_ahead"),
    *("suspect_since", "suspect_reason", "suspect_available", "next_check_at", "held", "held_at", "next_push_at"),
    *(
        "push_failures",
        "last_error",
        "waiting_correlation_ids",
        "waiting_since",
        "doubtful_by",
        "doubtful_from",
        "doubtful_until",
        "doubtful_lowers",
        "doubtful_lowers_at",
        *_PACE,
    ),
)


@dataclass
class Clock:
    """One time for both."""

    now: datetime = START


@dataclass
class Side:
    """One of the two, with the names of its rows as of the latest `look`."""

    books: Books
    find: Callable[[], Found]
    #: (channel, topic, webhook id, correlation id): a webhook arrives.
    deliver: Callable[[int, str, str, uuid.UUID], object]
    set_state: Callable[[int, str], object]
    #: (channel, is it on): somebody switches shadow mode.
    set_shadow: Callable[[int, bool], object]
    set_clock: Callable[[datetime], object]
    #: (warehouse, is it on): somebody switches it.
    switch: Callable[[int, bool], object]
    #: (channel, are they paused): a reconciliation was alarming, or a clean one followed.
    pause_raises: Callable[[int, bool], object]
    #: Is it on: the kill switch.
    stop_writing: Callable[[bool], object]
    #: (listing, SKU): somebody maps it, or to none.
    map_listing: Callable[[int, int | None], object]
    #: A store has said that a variant is deleted.
    delete_listing: Callable[[int], object]
    #: The sweep looks for lines that were set aside just when they were mapped.
    take_up: Callable[[], object]
    rows: dict[str, dict[Name, Row]] = field(default_factory=dict)
    _ids: dict[str, dict[Name, Any]] = field(default_factory=dict)
    _names: dict[str, dict[Any, Name]] = field(default_factory=dict)

    def look(self) -> dict[str, dict[Name, Row]]:
        """Read every row there is and learn the names."""
        found = self.find()
        self._ids = {table: {name: number for number, name, _ in rows} for table, rows in found.items()}
        self._names = {table: {number: name for number, name, _ in rows} for table, rows in found.items()}
        self._names["correlation"] = {row["correlation_id"]: name for _, name, row in found["event"]}
        self.rows = {table: {name: self.named(row) for _, name, row in rows} for table, rows in found.items()}
        return self.rows

    def id(self, table: str, name: Name) -> int:
        """The number this side has given."""
        number: int = self._ids[table][name]
        return number

    def name(self, table: str, number: Any) -> Name:
        """What has this number here; whatever was made since the latest `look` is new."""
        return self._names[table].get(number, ("new",))

    def named(self, value: Any, column: str = "") -> Any:
        """A value with names for the side's own numbers, and dictionaries for data classes and named tuples."""
        if column in REFERENCES and isinstance(value, int):
            return self.name(REFERENCES[column], value)
        match value:
            case str() if column == "reference" and value.startswith("level "):
                return f"level {self.name('level', int(value.removeprefix('level ')))}"
            case uuid.UUID():
                return self.name("correlation", value)
            case float():
                return float(f"{value:.9g}")
            case dict() if column == "taken_from":
                return self._under_names("stock", value)
            case dict() if column == "placed":
                return _sorted(self.named(placed) for placed in value.values())
            case dict():
                return {key: self.named(what, key if isinstance(key, str) else "") for key, what in value.items()}
            case tuple() if names := getattr(value, "_fields", ()):
                return self._by_field(value, names)
            case list() | tuple():
                return [self.named(what) for what in value]
            case _ if is_dataclass(value) and not isinstance(value, type):
                return self._by_field(value, [one.name for one in fields(value)])
        return value

    def _by_field(self, value: Any, names: Iterable[str]) -> dict[str, Any]:
        return {name: self.named(getattr(value, name), name) for name in names if name not in UNNAMED}

    def answer(self, method: str, value: Any) -> Any:
        """What a method of the books answered, under names; in a fixed order where the books promise none."""
        match method:
            case "lock_stock":
                return [sorted(value[0]), self._under_names("stock", value[1])]
            case "lock_balances":
                return self._under_names("stock", value)
            case "hold_places":
                return _sorted(
                    [self.name("level", level), [self.name("stock", place) for place in places]]
                    for level, places in value.items()
                )
            case "standing":
                return _sorted([self.name("level", level), *told] for level, *told in value)
            case "take_events":
                return _sorted(self.name("event", number) for number in value)
            case "claim_suspects":
                return _sorted(map(self.named, value))
            case "levels_page":
                return [value[0], _sorted(map(self.named, value[1]))]
        return self.named(value)

    def _under_names(self, table: str, values: Mapping[int, Any]) -> list[Any]:
        return _sorted([self.name(table, number), self.named(value)] for number, value in values.items())


def _sorted(values: Iterable[Any]) -> list[Any]:
    """Names are not all of a kind."""
    return sorted(values, key=repr)


def make_sides(clock: Clock, policy: str) -> tuple[Side, Side]:
    """The same merchant on both sides: PostgreSQL first. Call in a transaction that is rolled back in the end.

    `policy` is that of the divided group.
    """
    _cover_clock(clock.now)
    groups = GROUPS | {DIVIDED: (policy, *GROUPS[DIVIDED][1:])}
    return _in_tables(clock, groups), _in_memory(clock, groups)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def _cover_clock(now: datetime) -> None:
    """From here to the end of the transaction, now() is what `_set_clock` says."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA standing_clock")
        for name in ("now", "clock_timestamp"):
            cursor.execute(
                f"CREATE FUNCTION standing_clock.{name}() RETURNS timestamptz STABLE LANGUAGE sql "
                "AS $$ SELECT current_setting('standing_clock.now')::timestamptz $$"
            )
        cursor.execute("SET LOCAL search_path = standing_clock, pg_catalog, public")
    _set_clock(now)


def _set_clock(now: datetime) -> None:
    sql.rows("SELECT set_config('standing_clock.now', %s, true)", [now.isoformat()])


def _in_tables(clock: Clock, groups: Groups) -> Side:
    mine = {"merchant": Merchant.objects.create(pk=MERCHANT, name="Alder", slug="alder")}
    for number in WAREHOUSES:
        Warehouse.objects.create(pk=number, code=f"W{number}", name=f"Warehouse {number}", **mine)
    bundles = {bundle for bundle, _, _ in BOM}
    for number in SKUS:
        kind = SkuKind.BUNDLE if number in bundles else SkuKind.STOCKED
        Sku.objects.create(pk=number, code=CODES[number], kind=kind, **mine)
    for bundle, component, quantity in BOM:
        BomLine.objects.create(bundle_id=bundle, component_id=component, quantity=quantity, **mine)
    for number, (policy, warehouses, routing, may_split) in groups.items():
        LocationGroup.objects.create(
            pk=number,
            name=f"Group {number}",
            policy=policy,
            routing=routing,
            allows_split_shipment=may_split,
            **mine,
        )
        for warehouse in warehouses:
            GroupWarehouse.objects.create(group_id=number, warehouse_id=warehouse, **mine)
    for number in CHANNELS:
        Channel.objects.create(
            pk=number,
            kind=ChannelKind.SHOPIFY,
            name=f"Channel {number}",
            account=f"{number}.example",
            state="active",
            orders_counted_from=START - timedelta(hours=1),
            created_at=START,
            next_call_at=START,
            on_loss=EDITS[number][0],
            on_gain=EDITS[number][1],
            **mine,
        )
    for number, (channel, group, warehouses) in PLACES.items():
        StoreLocation.objects.create(pk=number, channel_id=channel, remote_id=f"place-{number}", name="Shop", **mine)
        GroupLocation.objects.create(group_id=group, store_location_id=number, **mine)
        for priority, warehouse in enumerate(warehouses, 1):
            Cell.objects.create(
                group_id=group, store_location_id=number, warehouse_id=warehouse, priority=priority, **mine
            )
    for number, (channel, sku, is_tracked, is_deleted) in LISTINGS.items():
        Listing.objects.create(
            pk=number,
            channel_id=channel,
            sku_id=sku,
            remote_variant_id=f"variant-{number}",
            inventory_item_id=ITEMS[number],
            is_tracked=is_tracked,
            deleted_at=START if is_deleted else None,
            remote_sku=REMOTE_SKUS.get(number, ""),
            **mine,
        )
    for listing, place in LEVELS:
        ListingLevel.objects.create(
            channel_id=PLACES[place][0],
            listing_id=listing,
            store_location_id=place,
            base=5,
            desired=5,
            source_at=START,
            confirmed_at=START,
            next_push_at=START,
            **mine,
        )
    for of_channel, of_sku, of_listing, rule in RULES:
        PublishingRule.objects.create(
            channel_id=of_channel,
            sku_id=of_sku,
            listing_id=of_listing,
            buffer_units=rule.buffer_units,
            cap=rule.cap,
            floor=rule.floor,
            **mine,
        )
    stock.open_stock(merchant_id=MERCHANT, quantities=OPENING, now=START)
    DirtySku.objects.all().delete()
    return Side(
        Tables(),
        _find_in_tables,
        _deliver_to_tables,
        _set_state_in_tables,
        _set_shadow_in_tables,
        _set_clock,
        _switch_in_tables,
        _pause_raises_in_tables,
        lambda is_on: postgres.stop_writing(MERCHANT, clock.now, is_on=is_on),
        lambda listing, sku: postgres.map_listing(listing, sku, clock.now, uuid.uuid4()),
        lambda listing: postgres.delete_listing(listing, clock.now, uuid.uuid4()),
        take_up_placeable_lines,
    )


def _deliver_to_tables(channel: int, topic: str, webhook_id: str, correlation_id: uuid.UUID) -> None:
    [(now,)] = sql.rows("SELECT now()")
    event, is_new = InboxEvent.objects.get_or_create(
        channel_id=channel,
        topic=topic,
        webhook_id=webhook_id,
        defaults={
            "merchant_id": MERCHANT,
            "body_kept_on": bodies.day_of(now),
            "body_sha256": b"",
            "hlc": 0,
            "received_at": now,
            "next_attempt_at": now,
            "correlation_id": correlation_id,
        },
    )
    if is_new:
        bodies.keep([event], [webhook_id.encode()])


def _set_state_in_tables(channel: int, state: str) -> None:
    sql.execute("UPDATE channels_channel SET state = %s WHERE id = %s", [state, channel])
    [(now,)] = sql.rows("SELECT now()")
    propagation.mark_groups_dirty(channel, now)


def _set_shadow_in_tables(channel: int, is_on: bool) -> None:
    sql.execute(
        "UPDATE channels_channel SET is_shadow = %s, shadow_since = CASE WHEN %s THEN now() END WHERE id = %s",
        [is_on, is_on, channel],
    )
    [(now,)] = sql.rows("SELECT now()")
    propagation.mark_groups_dirty(channel, now)


def _switch_in_tables(warehouse: int, is_on: bool) -> None:
    Warehouse.objects.filter(pk=warehouse).update(is_active=is_on)


def _pause_raises_in_tables(channel: int, is_paused: bool) -> None:
    [(now,)] = sql.rows("SELECT now()")
    told = {"raises_paused_at": now, "raises_paused_reason": "too much differs"} if is_paused else None
    Channel.objects.filter(pk=channel).update(**(told or {"raises_paused_at": None, "raises_paused_reason": ""}))
    propagation.mark_groups_dirty(channel, now)


#: table -> (how many columns after the number make the name, query)
_QUERIES: dict[str, tuple[int, str]] = {
    "event": (
        3,
        """
        SELECT id, channel_id, topic, webhook_id, state, reason, attempts, settled_at, correlation_id, received_at,
            CASE WHEN state = 'pending' AND next_attempt_at > now() THEN next_attempt_at END AS next_attempt_at
        FROM channels_inboxevent
        """,
    ),
    "stock": (
        2,
        "SELECT id, sku_id, warehouse_id, on_hand, committed, held, available, seq, quota FROM inventory_stocklevel",
    ),
    "movement": (
        3,
        """
        SELECT movement.id, sku_id, warehouse_id, movement.seq, account, delta, balance_after, cause, reference,
            correlation_id, effective_at
        FROM inventory_movement movement JOIN inventory_stocklevel level ON level.id = movement.stock_level_id
        WHERE cause <> 'opening'
        """,
    ),
    "shortage": (
        3,
        """
        SELECT shortage.id, sku_id, warehouse_id, rank() OVER (PARTITION BY stock_level_id ORDER BY shortage.id),
            quantity, quantity_covered, cause, reference, correlation_id, occurred_at, covered_at
        FROM inventory_shortage shortage JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
        """,
    ),
    "level": (
        2,
        "SELECT id, listing_id, store_location_id, "  # of names of our own
        + ", ".join("held_at_id AS held_at" if column == "held_at" else column for column in _LEVEL_COLUMNS)
        + " FROM channels_listinglevel",
    ),
    "line": (
        3,
        """
        SELECT id, channel_id, order_id, line_id, order_name, listing_id, sku_id, listing_level_id AS level_id,
            store_location_id, desired_committed, desired_on_hand, applied_committed, applied_on_hand, postings,
            waiting_for, latest_event_id, correlation_id, updated_at
        FROM sync_orderline
        """,
    ),
    "taken": (
        5,
        """
        SELECT taken.id, channel_id, order_id, line_id, level.sku_id, level.warehouse_id, units_per_line_unit,
            taken.committed, taken.on_hand
        FROM sync_allocation taken
        JOIN sync_orderline line ON line.id = taken.order_line_id
        JOIN inventory_stocklevel level ON level.id = taken.stock_level_id
        """,
    ),
    "placed": (
        5,
        """
        SELECT placed.id, line.channel_id, order_id, line_id, level.listing_id, level.store_location_id, placed.committed,
            placed.on_hand, placed.changed_at
        FROM sync_placement placed
        JOIN sync_orderline line ON line.id = placed.order_line_id
        JOIN channels_listinglevel level ON level.id = placed.listing_level_id
        """,
    ),
    "batch": (
        1,
        """
        SELECT id, rank() OVER (ORDER BY id), channel_id, state, attempts, next_attempt_at, sent_at, answered_at, error
        FROM channels_pushbatch
        """,
    ),
    "push": (
        2,
        """
        SELECT id, dense_rank() OVER (ORDER BY batch_id), position, listing_level_id AS level_id, from_quantity,
            to_quantity, state, error_code, error, correlation_ids, caused_at, settled_at
        FROM channels_push
        """,
    ),
    "mark": (
        1,
        """
        SELECT min(id), sku_id, array_agg(correlation_id ORDER BY id) AS correlation_ids,
            array_agg(caused_at ORDER BY id) AS caused_at
        FROM sync_dirtysku GROUP BY sku_id
        """,
    ),
    "drift": (
        1,
        """
        SELECT id, rank() OVER (ORDER BY id), listing_level_id AS level_id, expected, actual, action, is_ambiguous,
            previous_confirmed_at, correlation_id, found_at, held, held_at_id AS held_at
        FROM sync_drift
        """,
    ),
    "channel": (
        1,
        """
        SELECT id, id, state, orders_watermark, orders_cut_short_at, orders_read_at, next_call_at, failures, failing_since,
            failing_cause, last_error, inbound_seconds, inbound_observed_at, outbound_seconds, outbound_observed_at
        FROM channels_channel
        """,
    ),
}


def _find_in_tables() -> Found:
    found: Found = {}
    for table, (named_by, query) in _QUERIES.items():
        with connection.cursor() as cursor:
            cursor.execute(query)
            columns = [column.name for column in cursor.description]
            found[table] = [
                (row[0], row[1 : 1 + named_by], dict(zip(columns[1 + named_by :], row[1 + named_by :], strict=True)))
                for row in cursor.fetchall()
            ]
    [(now,)] = sql.rows("SELECT now()")
    for _, _, row in found["level"]:
        row["next_push_at"] = row["next_push_at"] if row["next_push_at"] > now else None
    return found


# --- memory -------------------------------------------------------------------------------------------------------


def _in_memory(clock: Clock, groups: Groups) -> Side:
    books = MemoryBooks(lambda: clock.now)
    books.add_merchant(id=MERCHANT)
    for number in WAREHOUSES:
        books.add_warehouse(MERCHANT, id=number)
    for number in SKUS:
        books.add_sku(MERCHANT, id=number, code=CODES[number])
    for bom_line in BOM:
        books.add_bom_line(*bom_line)
    for number, (policy, warehouses, routing, may_split) in groups.items():
        books.add_group(
            MERCHANT,
            id=number,
            policy=policy,
            warehouses=warehouses,
            routing=routing,
            allows_split_shipment=may_split,
        )
    for number in CHANNELS:
        on_loss, on_gain = EDITS[number]
        counted_from = START - timedelta(hours=1)
        books.add_channel(MERCHANT, id=number, orders_counted_from=counted_from, on_loss=on_loss, on_gain=on_gain)
    for number, (channel, group, warehouses) in PLACES.items():
        books.add_location(channel, f"place-{number}", id=number, group_id=group, warehouses=warehouses)
    for number, (channel, sku, is_tracked, is_deleted) in LISTINGS.items():
        books.add_listing(
            channel,
            sku,
            f"variant-{number}",
            ITEMS[number],
            id=number,
            is_tracked=is_tracked,
            deleted_at=START if is_deleted else None,
            remote_sku=REMOTE_SKUS.get(number, ""),
        )
    for listing, place in LEVELS:
        books.add_level(listing, place, base=5, desired=5)
    for of_channel, of_sku, of_listing, rule in RULES:
        books.add_rule(of_channel, rule, sku_id=of_sku, listing_id=of_listing)
    books.open_stock(MERCHANT, OPENING, START)

    def deliver(channel: int, topic: str, webhook_id: str, correlation_id: uuid.UUID) -> None:
        books.receive(channel, topic, webhook_id, webhook_id.encode(), correlation_id=correlation_id)

    return Side(
        books,
        lambda: _find_in_memory(books, clock.now),
        deliver,
        books.set_channel_state,
        books.set_channel_shadow,
        lambda now: None,
        lambda warehouse, is_on: books.switch_warehouse(warehouse, is_on=is_on),
        lambda channel, is_paused: books.pause_raises(channel, is_paused=is_paused),
        lambda is_on: books.stop_writing(MERCHANT, is_on=is_on),
        books.map_listing,
        books.delete_listing,
        books.take_up_placeable_lines,
    )


def _find_in_memory(books: MemoryBooks, now: datetime) -> Found:
    lines = [line for order in books.orders.values() for line in order.values()]
    return {
        "event": [
            (
                number,
                (event.envelope.channel_id, event.topic, event.webhook_id),
                _columns(event, "state", "reason", "attempts", "settled_at")
                | _columns(event.envelope, "correlation_id", "received_at")
                | {"next_attempt_at": _still_ahead(event.next_attempt_at, now) if event.state == "pending" else None},
            )
            for number, event in books.events.items()
        ],
        "stock": [
            (
                number,
                (row.sku_id, row.warehouse_id),
                _columns(row, "on_hand", "committed", "held", "available", "seq", "quota"),
            )
            for number, row in books.stock.items()
        ],
        "movement": [
            (
                None,
                (row.sku_id, row.warehouse_id, line.seq),
                _columns(line, "account", "delta", "balance_after")
                | _columns(line.entry, "cause", "reference", "correlation_id", "effective_at"),
            )
            for row in books.stock.values()
            for line in row.movements
            if line.entry.cause != "opening"
        ],
        "shortage": [
            (
                shortage.id,
                (row.sku_id, row.warehouse_id, place),
                _columns(shortage, "quantity", "cause", "reference", "correlation_id", "occurred_at", "covered_at")
                | {"quantity_covered": shortage.covered},
            )
            for row in books.stock.values()
            for place, shortage in enumerate(row.shortages, 1)
        ],
        "level": [
            (number, (level.listing.id, level.location.id), _level_columns(level, now))
            for number, level in books.levels.items()
        ],
        "line": [
            (
                line.id,
                line.key,
                _columns(line, "order_name", "listing_id", "sku_id", "level_id", "store_location_id", "postings")
                | _columns(line, "waiting_for", "latest_event_id", "correlation_id", "updated_at")
                | {
                    f"{stage}_{account}": getattr(getattr(line, stage), account)
                    for stage in ("desired", "applied")
                    for account in ("committed", "on_hand")
                },
            )
            for line in lines
        ],
        "taken": [
            (
                None,
                (*line.key, books.stock[level].sku_id, books.stock[level].warehouse_id),
                _columns(taken, "units_per_line_unit", "committed", "on_hand"),
            )
            for line in lines
            for level, taken in line.taken_from.items()
        ],
        "placed": [
            (
                None,
                (*line.key, books.levels[placed.level_id].listing.id, where),
                _columns(placed.effect, "committed", "on_hand") | {"changed_at": placed.changed_at},
            )
            for line in lines
            for where, placed in line.placed.items()
        ],
        "batch": [
            (
                number,
                (place,),
                _columns(
                    batch, "channel_id", "state", "attempts", "next_attempt_at", "sent_at", "answered_at", "error"
                ),
            )
            for place, (number, batch) in enumerate(books.batches.items(), 1)
        ],
        "push": [
            (
                push.id,
                (place, position),
                _columns(push, "from_quantity", "to_quantity", "state", "error_code", "error", "correlation_ids")
                | _columns(push, "caused_at", "settled_at")
                | {"level_id": push.level.id},
            )
            for place, batch in enumerate(books.batches.values(), 1)
            for position, push in enumerate(batch.pushes)
        ],
        "mark": [
            (
                None,
                (sku,),
                {"correlation_ids": [mark for mark, _ in marks], "caused_at": [caused_at for _, caused_at in marks]},
            )
            for sku, marks in books.marks[MERCHANT].items()
        ],
        "drift": [
            (
                None,
                (place,),
                _columns(drift, "level_id", "expected", "actual", "action", "is_ambiguous", "previous_confirmed_at")
                | _columns(drift, "correlation_id", "found_at", "held", "held_at"),
            )
            for place, drift in enumerate(books.drifts, 1)
        ],
        "channel": [
            (
                number,
                (number,),
                _columns(channel, "state", "orders_watermark", "orders_cut_short_at", "orders_read_at", "next_call_at")
                | _columns(channel, "failures", "failing_since", "failing_cause", "last_error")
                | {
                    f"{way}_{column}": getattr(pace, column) if pace.observed_at else default
                    for way, pace in (("inbound", channel.inbound), ("outbound", channel.outbound))
                    for column, default in (("seconds", 0.0), ("observed_at", None))
                },
            )
            for number, channel in books.channels.items()
        ],
    }


def _columns(row: object, *names: str) -> Row:
    return {name: getattr(row, name) for name in names}


def _still_ahead(moment: datetime, now: datetime) -> datetime | None:
    return moment if moment > now else None


def _level_columns(level: LevelRow, now: datetime) -> Row:
    row = {name: getattr(level.velocity if name in _PACE else level, name) for name in _LEVEL_COLUMNS}
    row["next_push_at"] = _still_ahead(level.next_push_at, now)
    return row
