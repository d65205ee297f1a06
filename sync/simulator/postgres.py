"""The second tier: the same world on the real books, `sync.tables` and PostgreSQL, a hundred times slower.

Each process has a copy of its database to itself, and in that copy time is virtual: functions that cover PostgreSQL's clock
answer what the scheduler says, and columns take their first value from them. Workers are greenlets that share one
connection; they change between transactions only, which is asserted. Locks between them are therefore not played here
either: that is for tests with threads, and for `manage.py chaos`.

`measure` starts the processes (`python -m sync.simulator`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import psycopg.sql
from django.db import connection

from channels import inbox, onboarding, protocol, steering, writing
from channels.models import Channel, ChannelKind, ChannelState, Listing, ListingLevel, StoreLocation
from inventory import ledger
from inventory.models import BomLine, Sku, SkuKind, Warehouse
from inventory.stock import on_change, open_stock
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, PublishingRule
from locations.models import Mapping as Cell
from locations.routing import Routing
from merchants.models import Merchant
from sync import invariants
from sync.decide import Envelope, LineKey, Taken
from sync.ports import ChannelRef, DriftFound, OrderKey, Reached
from sync.register import Effect, Register
from sync.simulator.auditor import Auditor
from sync.simulator.books import GROUP
from sync.simulator.memory.rows import (
    BatchRow,
    EventRow,
    LevelRow,
    LineRow,
    ListingRow,
    LocationRow,
    PushRow,
    ShortageRow,
    StockRow,
)
from sync.simulator.run import Result, Summary, run_many
from sync.simulator.scheduler import EPOCH, Scheduler
from sync.simulator.stores import Store, Told
from sync.simulator.world import MERCHANT, Setting, World
from sync.sweep import sweep, take_up_placeable_lines
from sync.tables import Tables, propagation, upkeep
from synctec.lib import sql
from synctec.local.stack import LocalStack

#: Between two looks at everything (commits).
LOOK_EVERY = 250

_COVER = """
CREATE SCHEMA virtual;
CREATE FUNCTION virtual.now() RETURNS timestamptz STABLE LANGUAGE sql
    AS $$ SELECT current_setting('virtual.now')::timestamptz $$;
CREATE FUNCTION virtual.clock_timestamp() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT virtual.now()';
CREATE FUNCTION virtual.statement_timestamp() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT virtual.now()';
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT adrelid::regclass AS place, attname FROM pg_attrdef
        JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE pg_get_expr(adbin, adrelid) IN ('now()', 'clock_timestamp()', 'statement_timestamp()', 'CURRENT_TIMESTAMP')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT virtual.now()', found.place, found.attname);
    END LOOP;
    -- What it measures would change plans at moments of its own, and with them the order of rows.
    FOR found IN SELECT oid::regclass AS place FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', found.place);
    END LOOP;
    EXECUTE format('ALTER DATABASE %I SET search_path = virtual, pg_catalog, public', current_database());
END $$
"""


@contextmanager
def virtual_database() -> Iterator[None]:
    """Attach this process to a copy of its database where time is virtual; drop it in the end.

    Whoever else is connected to the database is cut off first: a copy is made of one that nobody uses. Hooks that would
    ring the bells of real workers hang still.
    """
    settings = connection.settings_dict
    original, copy = settings["NAME"], f"virtual_{uuid.uuid4().hex}"
    usual = {name: settings[name] for name in ("NAME", "CONN_MAX_AGE")}
    address = {"host": settings["HOST"], "port": settings["PORT"], "user": settings["USER"]}
    server = psycopg.connect(dbname="postgres", password=settings["PASSWORD"], autocommit=True, **address)
    hooks: tuple[list[Any], ...] = (inbox.on_received, on_change, steering.on_reconcile)
    hanging = [hook.copy() for hook in hooks]
    connection.close()
    with server:
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [original])
        server.execute(
            psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(psycopg.sql.Identifier, (copy, original)))
        )
        # One connection for good: what is given back between requests would be closed where there is no pool.
        settings |= {"NAME": copy, "CONN_MAX_AGE": None}
        try:
            for hook in hooks:
                hook.clear()
            with connection.cursor() as cursor:
                cursor.execute(_COVER)
            connection.close()
            yield
        finally:
            for hook, called in zip(hooks, hanging, strict=True):
                hook[:] = called
            connection.close()
            settings |= usual
            server.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(copy)))


# --- the world ----------------------------------------------------------------------------------------------------


class OneConnection(Scheduler):
    """Workers share the connection, and so the transaction that is open on it: there must be none when they change."""

    def sleep(self, seconds: float) -> None:
        assert not connection.in_atomic_block, "a worker waits inside a transaction"
        super().sleep(seconds)


class TablesAuditor(Auditor):
    """Looks at everything now and then, and asks the auditor of production as well (`sync.invariants`)."""

    __slots__ = ()

    def committed(self, commits: int) -> None:
        """Something has committed."""
        if commits % LOOK_EVERY == 0 and self.is_clean:
            self.look_anew()
            self._ask(when_quiet=False)

    def unrest(self) -> str:
        if self.world.wire.under_way or min(self.world.passes.values()) < 2:
            return super().unrest()
        waiting = next(invariants.violations(when_quiet=True), None)
        return f"{waiting.says}: {waiting.rows[0]}" if waiting else super().unrest()

    def audit_end(self) -> None:
        super().audit_end()
        self.look_anew()
        self._ask(when_quiet=True)

    def _ask(self, *, when_quiet: bool) -> None:
        for found in invariants.violations(when_quiet=when_quiet):
            self.blame(found.name, f"{found.says}: {found.rows[0]}")


class PostgresWorld(World):
    """A world with its books in PostgreSQL. Make one in a `virtual_database`."""

    scheduler_type = OneConnection
    auditor_type = TablesAuditor

    def _new_books(self) -> TableBooks:
        self._said: dict[bytes, Told] = {}
        return TableBooks(self)

    def reader(self, kind: str) -> protocol.EventReader:
        return Reader(self._said)

    def remember(self, told: Told) -> bytes:
        """The bytes to store. What they say is remembered as it was said first, since that is what the inbox keeps."""
        body = bytes(told)
        self._said.setdefault(body, told)
        return body


@dataclass(frozen=True, slots=True)
class Reader:
    """Messages are handed over as they are meant, by their bytes."""

    said: Mapping[bytes, Told]

    def authenticate(self, *, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> bool:
        return True

    def read_delivery(self, headers: Mapping[str, str]) -> protocol.Delivery:
        raise NotImplementedError

    def read_order_id(self, said: str) -> str:
        return said

    def interpret(self, *, topic: str, body: bytes) -> tuple[protocol.Event, ...]:
        return (body if isinstance(body, Told) else self.said[body]).events


# --- the books ----------------------------------------------------------------------------------------------------

#: Operations that are a commit of their own outside of transactions: if they find something, if they are given something.
_FINDING = frozenset({"claim_events", "claim_repeat", "claim_suspects", "store_orders"})
_GIVEN = frozenset({"orders_read", "suspect_unsuspected", "settle_events", "give_back_events"})


class TableBooks(Tables):
    """`Tables` at virtual moments, over a database that may be away, with its rows in the shape that the auditor knows.

    What a crash of the server would take back is not played: this tier loses no commit.
    """

    broken: Sequence[str] = ()

    def __init__(self, world: PostgresWorld) -> None:
        self._world = world
        self._moment: datetime | None = None
        #: What was read of the tables since the latest write.
        self._read: dict[str, Any] = {}
        self.commits = 0

    @property
    def is_inside(self) -> bool:
        return connection.in_atomic_block

    @contextmanager
    def transaction(self, *, waits_for_disk: bool = False) -> Iterator[None]:
        self._world.ask_database()
        self._set_clock()
        with super().transaction(waits_for_disk=waits_for_disk):
            yield
            [(transaction_id,)] = sql.rows("SELECT pg_current_xact_id_if_assigned()")
        if transaction_id is not None:
            cast(TablesAuditor, self._world.auditor).latest_commit = self._world.scheduler.time
            self._committed()

    def play(self, name: str, operation: Callable[[], Any], *, is_given: bool) -> Any:
        """An operation of the tables, now; one that commits by itself may fail and gives way as a transaction does."""
        if connection.in_atomic_block:
            return operation()
        is_written = is_given and name in _GIVEN
        if is_written or name in _FINDING:
            self._world.ask_database()
        self._set_clock()
        done = operation()
        self._read.clear()
        if is_written or (name in _FINDING and done):
            self._committed()
        return done

    def _set_clock(self) -> None:
        """Outside of transactions: one that is rolled back would take its clock with it."""
        now = self._world.clock()
        if now != self._moment:
            sql.rows("SELECT set_config('virtual.now', %s, false)", [now.isoformat()])
            self._moment = now

    def _committed(self) -> None:
        self.commits += 1
        self._read.clear()
        cast(TablesAuditor, self._world.auditor).committed(self.commits)
        self._world.has_committed()

    # --- set-up, faults and sweeps --------------------------------------------------------------------------------

    def open(
        self,
        setting: Setting,
        stock: Mapping[tuple[int, int], int],
        recipes: Mapping[int, Mapping[int, int]],
        stores: Sequence[Store],
        routing: Routing,
    ) -> None:
        """The merchant's configuration and opening stock, in an empty database and on a connection without a past."""
        self.crash()
        self._set_clock()
        sql.execute("TRUNCATE merchants_merchant RESTART IDENTITY CASCADE")
        _configure(setting, sorted({warehouse for _, warehouse in stock}), recipes, stores, routing)
        open_stock(merchant_id=MERCHANT, quantities=stock, now=self._world.clock())
        now = self._world.clock()
        self.mark_dirty(MERCHANT, {sku: (uuid.UUID(int=sku), now) for sku in recipes})

    def crash(self) -> None:
        """Connections do not survive it."""
        connection.close()
        self._moment = None

    def set_channel_state(self, channel_id: int, state: str) -> None:
        self._set_clock()
        sql.execute("UPDATE channels_channel SET state = %s WHERE id = %s", [state, channel_id])
        propagation.mark_groups_dirty(channel_id, self._world.clock())

    def map_listing(self, listing_id: int, sku_id: int | None) -> None:
        with self.transaction(waits_for_disk=True):
            map_listing(listing_id, sku_id, self._world.clock(), self._world.new_id())

    def delete_listing(self, listing_id: int) -> None:
        with self.transaction(waits_for_disk=True):
            delete_listing(listing_id, self._world.clock(), self._world.new_id())

    def stop_writing(self, merchant_id: int, *, is_on: bool) -> None:
        with self.transaction(waits_for_disk=True):
            stop_writing(merchant_id, self._world.clock(), is_on=is_on)

    def take_up_placeable_lines(self) -> int:
        self._world.ask_database()
        self._set_clock()
        taken = take_up_placeable_lines()
        self._read.clear()
        return taken

    def open_work(self) -> Iterable[tuple[str, int]]:
        self._set_clock()
        found = sweep(now=self._world.clock())
        yield from (("apply", merchant) for merchant in sorted(found.merchants_to_apply))
        yield from (("publish", merchant) for merchant in sorted(found.merchants_to_publish))
        yield from (("push", channel) for channel in sorted(found.channels_to_push))
        yield from (("check", channel) for channel in sorted(found.channels_to_check))

    # --- what arrives ---------------------------------------------------------------------------------------------

    def receive_webhook(self, channel_id: int, topic: str, webhook_id: str, told: Told) -> bool:
        delivery = protocol.Delivery(topic, "", webhook_id, webhook_id, "", None)
        self._set_clock()
        receipt = inbox.receive(
            channel_id=channel_id,
            merchant_id=MERCHANT,
            delivery=delivery,
            body=self._world.remember(told),
            now=self._world.clock(),
        )
        self._committed()
        return not receipt.is_duplicate

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        for order in orders:
            self._world.remember(cast(Told, order.body))
        news = super().store_orders(channel, topic, orders, reached, now)
        for order in orders:
            self._world.hear(order.body)
        return news

    # --- rows, as the auditor knows them --------------------------------------------------------------------------

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        """What was read stays until the next write."""
        if name not in self._read:
            self._read[name] = read()
        return self._read[name]

    @property
    def stock(self) -> dict[int, StockRow]:
        return self._once("stock", _read_stock)  # type: ignore[no-any-return]

    @property
    def levels(self) -> dict[int, LevelRow]:
        return self._once("channels", _read_channels)[0]  # type: ignore[no-any-return]

    @property
    def orders(self) -> dict[OrderKey, dict[LineKey, LineRow]]:
        return self._once("orders", _read_orders)  # type: ignore[no-any-return]

    @property
    def events(self) -> dict[int, EventRow]:
        return self._once("events", _read_events)  # type: ignore[no-any-return]

    @property
    def batches(self) -> dict[uuid.UUID, BatchRow]:
        return self._once("channels", _read_channels)[1]  # type: ignore[no-any-return]

    @property
    def pushes(self) -> dict[int, PushRow]:
        return self._once("channels", _read_channels)[2]  # type: ignore[no-any-return]

    @property
    def drifts(self) -> list[DriftFound]:
        return self._once("drifts", _read_drifts)  # type: ignore[no-any-return]

    @property
    def marks(self) -> dict[int, int]:
        """How many there are, by merchant."""
        return dict(sql.rows("SELECT merchant_id, count(*) FROM sync_dirtysku GROUP BY 1"))

    def level_of(self, channel_id: int, item: str, location: str) -> LevelRow:
        levels = self._once(
            "level_of",
            lambda: {
                (level.channel_id, level.listing.inventory_item_id, level.location.remote_id): level
                for level in self.levels.values()
            },
        )
        return levels[channel_id, item, location]  # type: ignore[no-any-return]

    def delivered(self) -> Collection[tuple[int, str, str]]:
        return {(event.envelope.channel_id, event.topic, event.webhook_id) for event in self.events.values()}


def _played(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operation)
    def play(self: TableBooks, *arguments: Any, **named: Any) -> Any:
        return self.play(name, partial(operation, self, *arguments, **named), is_given=bool(arguments and arguments[0]))

    return play


for _name in dir(Tables):
    if not _name.startswith("_") and _name != "transaction":
        setattr(TableBooks, _name, _played(_name, getattr(TableBooks, _name)))


# --- writing and reading rows -------------------------------------------------------------------------------------


def map_listing(listing_id: int, sku_id: int | None, now: datetime, correlation_id: uuid.UUID) -> None:
    """As `channels.mapping` and what hangs itself on it (`sync.hooks`), at a moment and with an id that are given."""
    listing = Listing.objects.select_related("sku").get(pk=listing_id)
    before = listing.sku_id
    mark_dirty = partial(upkeep.mark_dirty, merchant_id=listing.merchant_id, correlation_id=correlation_id, now=now)
    if before == sku_id:
        return
    Listing.objects.filter(pk=listing_id).update(sku_id=sku_id)
    upkeep.add_missing_levels(merchant_id=listing.merchant_id)
    upkeep.withdraw_unmapped(listing_ids=[listing_id])
    if sku_id is not None:
        onboarding.doubt_levels([listing_id], reason="mapped")
        mark_dirty(sku_ids=[sku_id])
        codes = {listing.remote_sku, Sku.objects.get(pk=sku_id).code} - {""}
        waits = {f"variant {listing.remote_variant_id}", *(f"SKU {code}" for code in codes)}
        upkeep.take_up(waits={(listing.channel_id, wait) for wait in waits})
    if before is not None:
        mark_dirty(sku_ids=[before])


def stop_writing(merchant_id: int, now: datetime, *, is_on: bool) -> None:
    """The kill switch (`channels.writing`)."""
    merchant = Merchant.objects.get(pk=merchant_id)
    if is_on:
        writing.stop(merchant=merchant, user=None, reason="to see what happens")
    else:
        writing.resume(merchant=merchant, user=None, now=now)


def delete_listing(listing_id: int, now: datetime, correlation_id: uuid.UUID) -> None:
    """As `sync.catalogue` does when a store says so."""
    listing = Listing.objects.get(pk=listing_id)
    if onboarding.retire_listings(Listing.objects.filter(pk=listing_id), now=now) and listing.sku_id is not None:
        upkeep.mark_dirty(
            merchant_id=listing.merchant_id, sku_ids=[listing.sku_id], correlation_id=correlation_id, now=now
        )


def _configure(
    setting: Setting,
    warehouses: Sequence[int],
    recipes: Mapping[int, Mapping[int, int]],
    stores: Sequence[Store],
    routing: Routing,
) -> None:
    """One merchant with one group of all warehouses and stores; every number as the other tier has it."""
    mine = {"merchant": Merchant.objects.create(pk=MERCHANT, name="Alder", slug="alder")}
    LocationGroup.objects.create(
        pk=GROUP, name="All", policy=setting.policy, guard_units=setting.guard_units, routing=routing, **mine
    )
    for warehouse in warehouses:
        Warehouse.objects.create(pk=warehouse, code=f"W{warehouse}", name=f"Warehouse {warehouse}", **mine)
        GroupWarehouse.objects.create(group_id=GROUP, warehouse_id=warehouse, **mine)
    Sku.objects.bulk_create(
        Sku(pk=sku, code=f"SKU-{sku}", kind=SkuKind.STOCKED if sku in recipe else SkuKind.BUNDLE, **mine)
        for sku, recipe in recipes.items()
    )
    BomLine.objects.bulk_create(
        BomLine(bundle_id=sku, component_id=component, quantity=units, **mine)
        for sku, recipe in recipes.items()
        if sku not in recipe
        for component, units in recipe.items()
    )
    for store in stores:
        channel = Channel.objects.create(
            pk=store.channel_id,
            kind=ChannelKind.SHOPIFY,
            name=f"Store {store.number}",
            account=f"store-{store.number}.example",
            state=ChannelState.ACTIVE,
            holds_big_runs=False,
            orders_counted_from=EPOCH,
            **mine,
        )
        if setting.buffer:
            PublishingRule.objects.create(channel=channel, buffer_units=setting.buffer, **mine)
        place = StoreLocation.objects.create(
            pk=store.channel_id, channel=channel, remote_id=f"l{store.number}", name="Here", **mine
        )
        GroupLocation.objects.create(group_id=GROUP, store_location=place, **mine)
        for priority, warehouse in enumerate(store.warehouses, 1):
            Cell.objects.create(group_id=GROUP, store_location=place, warehouse_id=warehouse, priority=priority, **mine)
        listings = Listing.objects.bulk_create(
            Listing(
                channel=channel,
                sku_id=sku,
                remote_variant_id=article.variant_id,
                inventory_item_id=article.inventory_item_id,
                remote_sku=article.code,
                **mine,
            )
            for sku, article in zip(recipes, store.articles, strict=True)
        )
        ListingLevel.objects.bulk_create(
            ListingLevel(
                channel=channel,
                listing=listing,
                store_location=place,
                desired=0,
                source_at=EPOCH,
                confirmed_at=EPOCH,
                **mine,
            )
            for listing in listings
        )


def _rows(statement: LiteralString) -> Iterator[dict[str, Any]]:
    with sql.cursor() as cursor:
        cursor.execute(statement)
        names = [column.name for column in cursor.description or ()]
        for row in cursor.fetchall():
            yield dict(zip(names, row, strict=True))


def _read_stock() -> dict[int, StockRow]:
    columns = "id, merchant_id, sku_id, warehouse_id, on_hand, committed, held, seq, quota"
    found = {row["id"]: StockRow(**row) for row in _rows(f"SELECT {columns} FROM inventory_stocklevel ORDER BY id")}
    for level, account, delta, after, seq, key, *told in sql.rows(
        """
        SELECT stock_level_id, account, delta, balance_after, seq, idempotency_key, cause, reference, correlation_id,
            effective_at
        FROM inventory_movement ORDER BY stock_level_id, seq
        """
    ):
        cause, reference, correlation_id, effective_at = told
        entry = ledger.Entry(level, cause, key.removesuffix(f":{account}"), reference, correlation_id, effective_at)
        found[level].movements.append(ledger.Line(entry, account, delta, after, seq))
    for level, *shortage in sql.rows(
        """
        SELECT stock_level_id, id, quantity, quantity_covered, cause, reference, correlation_id, occurred_at, covered_at
        FROM inventory_shortage ORDER BY id
        """
    ):
        found[level].shortages.append(ShortageRow(*shortage))
    return found


def _read_channels() -> tuple[dict[int, LevelRow], dict[uuid.UUID, BatchRow], dict[int, PushRow]]:
    """Listing levels, and what was written to them."""
    levels: dict[int, LevelRow] = {}
    for row in _rows(
        """
        SELECT level.id, level.channel_id, level.next_push_at, is_stocked, gone_at, base, order_effects, pushed, version,
            desired, suspect_since, suspect_reason, suspect_available, held, held_at_id AS held_at, listing_id,
            level.merchant_id, listing.sku_id, listing.remote_variant_id, listing.inventory_item_id, listing.deleted_at,
            place.id AS place_id, place.remote_id
        FROM channels_listinglevel level
        JOIN channels_listing listing ON listing.id = level.listing_id
        JOIN channels_storelocation place ON place.id = level.store_location_id
        ORDER BY level.id
        """
    ):
        merchant, sku, variant, item = map(row.pop, ("merchant_id", "sku_id", "remote_variant_id", "inventory_item_id"))
        listing = ListingRow(row.pop("listing_id"), merchant, row["channel_id"], sku, variant, item)
        listing.deleted_at = row.pop("deleted_at")
        place = LocationRow(row.pop("place_id"), row["channel_id"], row.pop("remote_id"), None, 1.0, ())
        levels[row["id"]] = LevelRow(listing=listing, location=place, **row)
    columns = "id, channel_id, lease_token, next_attempt_at, created_at AS opened_at, sent_at, state"
    batches = {row["id"]: BatchRow(**row) for row in _rows(f"SELECT {columns} FROM channels_pushbatch ORDER BY id")}
    pushes: dict[int, PushRow] = {}
    for push_id, batch, level, before, after, state in sql.rows(
        """
        SELECT id, batch_id, listing_level_id, from_quantity, to_quantity, state FROM channels_push
        ORDER BY batch_id, position
        """
    ):
        push = pushes[push_id] = PushRow(push_id, batches[batch], levels[level], before, after, (), None, state)
        if state == "open":
            levels[level].open_push = push
    return levels, batches, pushes


def _read_orders() -> dict[OrderKey, dict[LineKey, LineRow]]:
    """Order lines without their registers, which only the engine can read."""
    taken: dict[int, dict[int, Taken]] = defaultdict(dict)
    for line, level, *units in sql.rows(
        "SELECT order_line_id, stock_level_id, units_per_line_unit, committed, on_hand FROM sync_allocation"
    ):
        taken[line][level] = Taken(*units)
    found: dict[OrderKey, dict[LineKey, LineRow]] = defaultdict(dict)
    for row in _rows(
        """
        SELECT id, channel_id, order_id, line_id, order_name, listing_id, sku_id, listing_level_id AS level_id,
            store_location_id, postings, waiting_for, latest_event_id, correlation_id, updated_at, created_at,
            applied_committed, applied_on_hand, desired_committed, desired_on_hand
        FROM sync_orderline ORDER BY id
        """
    ):
        key = (row.pop("channel_id"), row.pop("order_id"), row.pop("line_id"))
        applied = Effect(row.pop("applied_committed"), row.pop("applied_on_hand"))
        desired = Effect(row.pop("desired_committed"), row.pop("desired_on_hand"))
        found[key[:2]][key] = LineRow(
            key=key, register=Register(), applied=applied, desired=desired, taken_from=taken[row["id"]], **row
        )
    return found


def _read_events() -> dict[int, EventRow]:
    return {
        event_id: EventRow(MERCHANT, topic, webhook_id, b"", Envelope(event_id, *envelope), due_at, *told)
        for event_id, topic, webhook_id, due_at, *told, envelope in (
            (*row[:4], *row[7:], row[4:7])
            for row in sql.rows(
                """
                SELECT id, topic, webhook_id, next_attempt_at, channel_id, correlation_id, received_at, duplicates, state,
                    reason, attempts
                FROM channels_inboxevent ORDER BY id
                """
            )
        )
    }


def _read_drifts() -> list[DriftFound]:
    return [
        DriftFound(*row)
        for row in sql.rows(
            """
            SELECT listing_level_id, expected, actual, action, explanation, is_ambiguous, previous_confirmed_at,
                correlation_id, found_at, held, held_at_id
            FROM sync_drift ORDER BY id
            """
        )
    ]


# --- many runs ----------------------------------------------------------------------------------------------------


def measure(setting: Setting, seeds: Sequence[int], *, jobs: int) -> Summary:
    """All these seeds in a throw-away PostgreSQL, divided among processes with a database each.

    Raises:
        subprocess.CalledProcessError: a process failed; its own words are on stderr.
    """

    def play(share: Sequence[int]) -> list[Result]:
        asked = json.dumps({"setting": asdict(setting), "seeds": list(share)})
        done = subprocess.run(command, env=environment, input=asked, stdout=subprocess.PIPE, text=True, check=True)
        # Whatever else was printed came before.
        return [
            Result(**(result | {"violation": tuple(result["violation"])}))
            for result in json.loads(done.stdout.splitlines()[-1])
        ]

    with tempfile.TemporaryDirectory(prefix="synctec-simulate-", ignore_cleanup_errors=True) as folder:
        stack = LocalStack(Path(folder) / "data", services_only=True, is_durable=False)
        try:
            stack.start()
            environment = os.environ | stack.environment
            environment |= {"DJANGO_SETTINGS_MODULE": "synctec.settings", "DATABASE_POOL_SIZE": "0"}
            command = [sys.executable, "-m", "sync.simulator"]
            play([])  # migrates
            shares = [seeds[place::jobs] for place in range(jobs)]
            with ThreadPoolExecutor(jobs) as threads:
                results = [result for share in threads.map(play, shares) for result in share]
        finally:
            stack.discard()
    return Summary(setting, sorted(results, key=lambda result: result.seed))


def answer(asked: str) -> str:
    """What `measure` has asked a process for."""
    work = json.loads(asked)
    if not work["seeds"]:
        return "[]"
    with virtual_database():
        summary = run_many(Setting(**work["setting"]), work["seeds"], tier=PostgresWorld)
    return json.dumps([asdict(result) for result in summary.results])
