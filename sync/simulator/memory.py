"""The engine's books in memory: `sync.ports.Books` for one thread and virtual time, thousands of times faster.

Every rule that the database states about these rows is stated here too (`BooksBroken`), and a transaction that ends with
an exception leaves nothing behind. `tests/sync/test_books_agree.py` runs random operations on these and on
`sync.tables`, and compares. Locks are not played: the simulator changes workers between transactions only.
"""

from __future__ import annotations

import itertools
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from types import TracebackType
from typing import Any, TypeVar

from channels import protocol
from channels.inbox import polled_id
from channels.protocol import QuantityChange
from inventory import ledger
from inventory.bom import explode
from inventory.ledger import Balance, Entry
from locations.pace import Propagation, Velocity
from locations.publishing import Rule
from locations.routing import Routing
from sync import register
from sync.decide import Envelope, Level, Line, LineKey, ListingFacts, Taken, Verdict, explained
from sync.ports import (
    OUTAGE_FAILURES,
    STORY_EVENTS,
    Batch,
    ChannelRef,
    Claimed,
    Desire,
    DriftFound,
    Due,
    Edits,
    Finding,
    GivenBack,
    Group,
    LockedSuspect,
    Mappings,
    Mark,
    Mentioned,
    OrderKey,
    Picked,
    Row,
    Seen,
    ShelfStock,
    Target,
)
from sync.register import Effect, Register

T = TypeVar("T")


class BooksBroken(AssertionError):
    """Something was to be written that the database would refuse, or a transaction was used wrongly."""


# --- rows: what the tables hold, by the tables' names -------------------------------------------------------------


@dataclass(slots=True, eq=False)
class ChannelRow:
    id: int
    merchant_id: int
    kind: str
    state: str
    orders_counted_from: datetime | None
    on_loss: str
    on_gain: str
    created_at: datetime
    next_call_at: datetime
    inbound: Propagation = field(default_factory=Propagation)
    outbound: Propagation = field(default_factory=Propagation)
    orders_watermark: datetime | None = None
    orders_read_at: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    last_error: str = ""


@dataclass(slots=True, eq=False)
class GroupRow:
    id: int
    merchant_id: int
    policy: str
    guard_units: int | None
    is_weighted_by_velocity: bool
    allows_split_shipment: bool
    holds_weight: float
    warehouses: tuple[int, ...] = ()
    routing: Routing = Routing.PRIORITY
    channels: dict[int, ChannelRow] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class LocationRow:
    id: int
    channel_id: int
    remote_id: str
    group: GroupRow | None
    weight: float
    warehouses: tuple[int, ...]  # by priority


@dataclass(slots=True, eq=False)
class SkuRow:
    id: int
    merchant_id: int
    is_bundle: bool = False


@dataclass(slots=True, eq=False)
class ListingRow:
    id: int
    merchant_id: int
    channel_id: int
    sku_id: int | None
    remote_variant_id: str
    inventory_item_id: str
    is_tracked: bool = True
    is_store_bundle: bool = False
    deleted_at: datetime | None = None
    levels: list[LevelRow] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class LevelRow:
    id: int
    channel_id: int
    listing: ListingRow
    location: LocationRow
    next_push_at: datetime
    is_stocked: bool = True
    base: int = 0
    order_effects: int = 0
    pushed: int = 0
    version: int = 0
    sample: int | None = None
    since_sample: int | None = None
    sample_pushed: int | None = None
    sampled_from: datetime | None = None
    sampled_until: datetime | None = None
    desired: int | None = None
    source_at: datetime | None = None
    confirmed_at: datetime | None = None
    suspect_since: datetime | None = None
    suspect_reason: str = ""
    suspect_available: int | None = None
    next_check_at: datetime | None = None
    held: int = 0
    held_at: int | None = None
    push_failures: int = 0
    last_error: str = ""
    waiting_correlation_ids: tuple[uuid.UUID, ...] = ()
    waiting_since: datetime | None = None
    doubtful_by: int | None = None
    doubtful_until: datetime | None = None
    velocity: Velocity = field(default_factory=Velocity)
    open_push: PushRow | None = None

    @property
    def reported(self) -> int:
        """What the store must show if nobody but its shoppers and we touched it."""
        return self.base + self.order_effects + self.pushed

    @property
    def shown(self) -> int:
        """What we believe it really shows."""
        if self.sample is not None and self.since_sample is not None:
            return self.sample + self.since_sample
        return self.base + self.order_effects + self.pushed


@dataclass(slots=True, eq=False)
class StockRow:
    id: int
    merchant_id: int
    sku_id: int
    warehouse_id: int
    on_hand: int = 0
    committed: int = 0
    held: int = 0
    seq: int = 0
    quota: int | None = None
    movements: list[ledger.Line] = field(default_factory=list)
    shortages: list[ShortageRow] = field(default_factory=list)

    @property
    def available(self) -> int:
        return self.on_hand - self.committed - self.held


@dataclass(slots=True, eq=False)
class ShortageRow:
    id: int
    quantity: int
    covered: int
    cause: str
    reference: str
    correlation_id: uuid.UUID
    occurred_at: datetime
    covered_at: datetime | None


@dataclass(slots=True, eq=False)
class EventRow:
    merchant_id: int
    topic: str
    webhook_id: str
    body: bytes
    envelope: Envelope
    next_attempt_at: datetime
    duplicates: int = 0
    state: str = "pending"
    reason: str = ""
    attempts: int = 0
    settled_at: datetime | None = None


@dataclass(slots=True, eq=False)
class LineRow:
    """Never changed: writing a line puts another row in its place."""

    id: int
    key: LineKey
    order_name: str
    register: Register
    listing_id: int | None
    sku_id: int | None
    level_id: int | None
    store_location_id: int | None
    applied: Effect
    desired: Effect
    postings: int
    waiting_for: str
    taken_from: dict[int, Taken]
    latest_event_id: int
    correlation_id: uuid.UUID
    updated_at: datetime


@dataclass(slots=True, eq=False)
class BatchRow:
    id: uuid.UUID
    channel_id: int
    lease_token: int
    next_attempt_at: datetime | None
    sent_at: datetime
    state: str = "intent"
    attempts: int = 1
    answered_at: datetime | None = None
    error: str = ""
    pushes: list[PushRow] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class PushRow:
    id: int
    batch: BatchRow
    level: LevelRow
    from_quantity: int
    to_quantity: int
    correlation_ids: tuple[uuid.UUID, ...]
    caused_at: datetime | None
    state: str = "open"
    error_code: str = ""
    error: str = ""
    settled_at: datetime | None = None


_FIELDS: dict[type, tuple[str, ...]] = {
    row: tuple(column.name for column in fields(row))
    for row in (ChannelRow, LevelRow, StockRow, ShortageRow, EventRow, BatchRow, PushRow)
}
_VALUES: dict[type, Callable[[Any], tuple[Any, ...]]] = {row: attrgetter(*names) for row, names in _FIELDS.items()}


def _put_back(row: object, values: tuple[Any, ...]) -> None:
    for name, value in zip(_FIELDS[row.__class__], values, strict=True):
        setattr(row, name, value)


# --- the books ----------------------------------------------------------------------------------------------------


class MemoryBooks:
    """Everything the engine keeps, in dictionaries. `clock` plays the database's now()."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._now = clock
        #: How to take back what the transaction under way has done, in order; None: there is none.
        self._undo: list[tuple[Any, ...]] | None = None
        self._ids: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
        #: What the books refused; a run without a planted bug ends with none.
        self.broken: list[str] = []

        self.channels: dict[int, ChannelRow] = {}
        self.locations: dict[int, LocationRow] = {}
        self.groups: dict[int, GroupRow] = {}
        self.skus: dict[int, SkuRow] = {}
        self.listings: dict[int, ListingRow] = {}
        self.levels: dict[int, LevelRow] = {}
        self.stock: dict[int, StockRow] = {}
        self.events: dict[int, EventRow] = {}
        self.orders: dict[OrderKey, dict[LineKey, LineRow]] = {}
        self.batches: dict[uuid.UUID, BatchRow] = {}
        self.pushes: dict[int, PushRow] = {}
        self.drifts: list[DriftFound] = []
        self.marks: dict[int, dict[int, list[tuple[uuid.UUID, datetime]]]] = defaultdict(dict)

        self._locations_of: dict[int, list[LocationRow]] = defaultdict(list)
        self._by_variant: dict[tuple[int, str], ListingRow] = {}
        self._by_item: dict[tuple[int, str], list[ListingRow]] = defaultdict(list)
        self._listings_of: dict[int, list[ListingRow]] = defaultdict(list)
        self._level_at: dict[tuple[int, int], LevelRow] = {}
        self._stock_at: dict[tuple[int, int], StockRow] = {}
        self._stock_of: dict[int, list[StockRow]] = defaultdict(list)
        self._delivered: dict[tuple[int, str, str], EventRow] = {}
        self._pending: dict[int, dict[int, EventRow]] = defaultdict(dict)
        self._lines_at: dict[int, dict[LineKey, None]] = defaultdict(dict)
        self._unanswered: dict[int, dict[uuid.UUID, BatchRow]] = defaultdict(dict)
        self._posted: set[tuple[int, str]] = set()
        self._rules: dict[int, dict[tuple[str, int, int], Rule]] = defaultdict(dict)
        #: Per channel, the levels that may be suspect or out of sync: all that are, and perhaps others.
        self._astir: dict[int, dict[int, LevelRow]] = defaultdict(dict)

        self._components: dict[int, dict[int, int]] = {}
        self._parts: dict[int, dict[int, int]] = {}
        self._bundles: dict[int, tuple[int, ...]] = {}
        self._families: dict[int, tuple[int, ...]] = {}
        self._divided: dict[int, bool] = {}

    # --- transactions ---

    def transaction(self, *, waits_for_disk: bool = False) -> _Transaction:
        return _Transaction(self)

    @property
    def in_transaction(self) -> bool:
        return self._undo is not None

    def _begin(self) -> None:
        if self._undo is not None:
            self._require(False, "a transaction inside a transaction")
        self._undo = []

    def _end(self, *, commits: bool) -> None:
        undo, self._undo = self._undo, None
        if not commits:
            for take_back, *arguments in reversed(undo or ()):
                take_back(*arguments)

    def _require(self, holds: object, says: str, *about: object) -> None:
        """What `about` is shown in the braces of `says`, and spelt out only where something is wrong."""
        if not holds:
            self.broken.append(says.format(*about))
            raise BooksBroken(self.broken[-1])

    def _commits_itself(self, what: str) -> None:
        if self._undo is not None:
            self._require(False, f"{what} commits by itself, but a transaction is open")

    def _locks(self, what: str) -> None:
        if self._undo is None:
            self._require(False, f"{what} outside of a transaction keeps nobody away")

    def _touch(self, row: object) -> None:
        """Remember a row as it is before it is changed."""
        if self._undo is not None:
            self._undo.append((_put_back, row, _VALUES[row.__class__](row)))

    def _touch_level(self, level: LevelRow) -> None:
        self._astir[level.channel_id][level.id] = level
        if self._undo is not None:
            self._undo.append((self._put_back_level, level, _VALUES[LevelRow](level)))

    def _put_back_level(self, level: LevelRow, values: tuple[Any, ...]) -> None:
        _put_back(level, values)
        self._astir[level.channel_id][level.id] = level

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        """Set an entry, to be taken back with the transaction."""
        if self._undo is not None:
            if key in table:
                self._undo.append((table.__setitem__, key, table[key]))
            else:
                self._undo.append((table.pop, key))
        table[key] = value

    def _remove(self, table: dict[Any, T], key: object) -> T | None:
        value = table.pop(key, None)
        if value is not None and self._undo is not None:
            self._undo.append((table.__setitem__, key, value))
        return value

    def _append(self, rows: list[T], row: T) -> None:
        rows.append(row)
        if self._undo is not None:
            self._undo.append((rows.remove, row))

    def _id(self, table: str) -> int:
        return next(self._ids[table])

    def _uuid(self) -> uuid.UUID:
        return uuid.UUID(int=(0x7 << 76) | (0b10 << 62) | self._id("uuid"))

    # --- setting up: outside of transactions ---

    def add_merchant(self, *, id: int | None = None) -> int:
        return id or self._id("merchant")

    def add_channel(
        self,
        merchant_id: int,
        *,
        id: int | None = None,
        kind: str = "shopify",
        state: str = "active",
        orders_counted_from: datetime | None = None,
        on_loss: str = "adopt",
        on_gain: str = "override",
    ) -> int:
        now = self._now()
        channel = ChannelRow(
            id or self._id("channel"),
            merchant_id,
            kind,
            state,
            orders_counted_from,
            on_loss,
            on_gain,
            created_at=now,
            next_call_at=now,
        )
        self.channels[channel.id] = channel
        return channel.id

    def set_channel_state(self, channel_id: int, state: str) -> None:
        """Somebody, or an answer of the channel, has paused it or set it going again."""
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.state = state

    def add_warehouse(self, merchant_id: int, *, id: int | None = None) -> int:
        return id or self._id("warehouse")

    def add_sku(self, merchant_id: int, *, id: int | None = None) -> int:
        sku = SkuRow(id or self._id("sku"), merchant_id)
        self.skus[sku.id] = sku
        self._forget_recipes()
        return sku.id

    def add_bom_line(self, bundle_id: int, component_id: int, quantity: int) -> None:
        """`quantity` units of the component go into one bundle.

        Raises:
            ValueError: the bundle would contain itself.
        """
        self._require(quantity > 0, "a BOM line needs units")
        self.skus[bundle_id].is_bundle = True
        self._components.setdefault(bundle_id, {})[component_id] = quantity
        explode(bundle_id, self._components)
        self._forget_recipes()

    def _forget_recipes(self) -> None:
        self._parts, self._families, self._divided = {}, {}, {}
        contained_in: dict[int, set[int]] = defaultdict(set)
        for bundle in self._components:
            for component in _below(bundle, self._components):
                contained_in[component].add(bundle)
        self._bundles = {component: tuple(sorted(bundles)) for component, bundles in contained_in.items()}

    def add_group(
        self,
        merchant_id: int,
        *,
        id: int | None = None,
        policy: str = "shared",
        guard_units: int | None = None,
        is_weighted_by_velocity: bool = False,
        allows_split_shipment: bool = False,
        holds_weight: float = 0.0,
        warehouses: Sequence[int] = (),
        routing: Routing = Routing.PRIORITY,
    ) -> int:
        group = GroupRow(
            id or self._id("group"),
            merchant_id,
            policy,
            guard_units,
            is_weighted_by_velocity,
            allows_split_shipment,
            holds_weight,
            tuple(sorted(warehouses)),
            routing,
        )
        self.groups[group.id] = group
        self._divided = {}
        return group.id

    def add_location(
        self,
        channel_id: int,
        remote_id: str,
        *,
        id: int | None = None,
        group_id: int | None = None,
        warehouses: Sequence[int] = (),
        weight: float = 1.0,
    ) -> int:
        """A store location, drawing on warehouses given by priority."""
        group = self.groups[group_id] if group_id is not None else None
        self._require(group is not None or not warehouses, "a location draws on warehouses as a member of a group")
        location = LocationRow(id or self._id("location"), channel_id, remote_id, group, weight, tuple(warehouses))
        if group is not None:
            group.channels[channel_id] = self.channels[channel_id]
        self.locations[location.id] = location
        self._locations_of[channel_id].append(location)
        return location.id

    def add_listing(
        self,
        channel_id: int,
        sku_id: int | None,
        variant_id: str,
        item_id: str,
        *,
        id: int | None = None,
        is_tracked: bool = True,
        is_store_bundle: bool = False,
        deleted_at: datetime | None = None,
    ) -> int:
        self._require((channel_id, variant_id) not in self._by_variant, "variant {} twice", variant_id)
        listing = ListingRow(
            id or self._id("listing"),
            self.channels[channel_id].merchant_id,
            channel_id,
            sku_id,
            variant_id,
            item_id,
            is_tracked,
            is_store_bundle,
            deleted_at,
        )
        self.listings[listing.id] = listing
        self._by_variant[channel_id, variant_id] = listing
        self._by_item[channel_id, item_id].append(listing)
        if sku_id is not None:
            self._listings_of[sku_id].append(listing)
        self._divided = {}
        return listing.id

    def map_listing(self, listing_id: int, sku_id: int | None) -> None:
        """Make the listing another SKU's."""
        listing = self.listings[listing_id]
        if listing.sku_id is not None:
            self._listings_of[listing.sku_id].remove(listing)
        listing.sku_id = sku_id
        if sku_id is not None:
            self._listings_of[sku_id].append(listing)
        self._divided = {}

    def add_level(
        self,
        listing_id: int,
        location_id: int,
        *,
        id: int | None = None,
        base: int = 0,
        desired: int | None = None,
        is_confirmed: bool = True,
    ) -> int:
        """A level that shows `base`; one that is not confirmed is to be read first."""
        level = self._new_level(listing_id, location_id, id)
        level.base, level.desired = base, desired
        if is_confirmed:
            level.source_at = level.confirmed_at = self._now()
            level.suspect_since = level.next_check_at = None
            level.suspect_reason = ""
        return level.id

    def _new_level(self, listing_id: int, location_id: int, id: int | None = None) -> LevelRow:
        """A level as the database makes it: to be read before all else."""
        now = self._now()
        listing = self.listings[listing_id]
        level = LevelRow(
            id or self._id("level"),
            listing.channel_id,
            listing,
            self.locations[location_id],
            next_push_at=now,
            suspect_since=now,
            suspect_reason="never read",
            next_check_at=now,
        )
        self._put(self.levels, level.id, level)
        self._put(self._level_at, (listing_id, location_id), level)
        self._put(self._astir[level.channel_id], level.id, level)
        self._append(listing.levels, level)
        self._divided = {}
        return level

    def add_rule(
        self, channel_id: int, rule: Rule, *, sku_id: int | None = None, listing_id: int | None = None
    ) -> None:
        """A rule for the channel, for a SKU on it, or for one listing."""
        if listing_id is not None:
            self._rules[channel_id]["listing", listing_id, 0] = rule
        elif sku_id is not None:
            self._rules[channel_id]["sku", channel_id, sku_id] = rule
        else:
            self._rules[channel_id]["channel", channel_id, 0] = rule

    def open_stock(self, merchant_id: int, quantities: Mapping[tuple[int, int], int], now: datetime) -> None:
        """Book opening stock for (SKU, warehouse) pairs."""
        correlation_id = self._uuid()
        with self.transaction():
            rows = {pair: self._stock_row(merchant_id, *pair) for pair in sorted(quantities)}
            entries = [
                Entry(
                    stock_level_id=rows[pair].id,
                    cause="opening",
                    key=f"opening:{rows[pair].id}",
                    reference="opening stock",
                    correlation_id=correlation_id,
                    effective_at=now,
                    on_hand=quantity,
                )
                for pair, quantity in quantities.items()
                if quantity and not rows[pair].seq
            ]
            self.post(merchant_id, self.lock_balances([row.id for row in rows.values()]), entries, now)

    def receive(
        self,
        channel_id: int,
        topic: str,
        webhook_id: str,
        body: bytes,
        *,
        correlation_id: uuid.UUID | None = None,
    ) -> bool:
        """Store one delivery and commit; whether it is news."""
        self._commits_itself("receiving")
        known = self._delivered.get((channel_id, topic, webhook_id))
        if known is not None:
            known.duplicates += 1
            return False
        self._store_event(channel_id, topic, webhook_id, body, correlation_id or self._uuid(), self._now())
        return True

    def _store_event(
        self, channel_id: int, topic: str, webhook_id: str, body: bytes, correlation_id: uuid.UUID, at: datetime
    ) -> None:
        event_id = self._id("event")
        merchant_id = self.channels[channel_id].merchant_id
        envelope = Envelope(event_id, channel_id, correlation_id, at)
        event = EventRow(merchant_id, topic, webhook_id, body, envelope, next_attempt_at=self._now())
        self.events[event_id] = event
        self._delivered[channel_id, topic, webhook_id] = event
        self._pending[merchant_id][event_id] = event

    # --- what there is to do: as `sync.sweep` asks ---

    def merchants_to_apply(self) -> list[int]:
        now = self._now()
        return [
            merchant
            for merchant, pending in self._pending.items()
            if any(event.next_attempt_at <= now for event in pending.values())
        ]

    def merchants_to_publish(self) -> list[int]:
        return [merchant for merchant, marks in self.marks.items() if marks]

    def channels_to_push(self) -> list[int]:
        now = self._now()
        return [
            channel.id
            for channel in self.channels.values()
            if (self._astir[channel.id] or self._unanswered[channel.id])
            and channel.state == "active"
            and channel.next_call_at <= now
            and (
                any(
                    level.desired is not None and level.desired != level.shown and level.next_push_at <= now
                    for level in self._astir[channel.id].values()
                )
                or any(
                    batch.next_attempt_at is not None and batch.next_attempt_at <= now
                    for batch in self._unanswered[channel.id].values()
                )
            )
        ]

    def channels_to_check(self) -> list[int]:
        now = self._now()
        return [
            channel.id
            for channel in self.channels.values()
            if self._astir[channel.id]
            and channel.state in ("active", "paused")
            and channel.next_call_at <= now
            and any(
                level.suspect_since is not None and level.next_check_at is not None and level.next_check_at <= now
                for level in self._astir[channel.id].values()
            )
        ]

    # --- InboxBooks ---

    def claim_events(self, merchant_id: int, limit: int, lease: timedelta) -> list[Claimed]:
        self._commits_itself("a claim")
        now = self._now()
        due = [event for event in self._pending[merchant_id].values() if event.next_attempt_at <= now]
        due.sort(key=_by_event_id)
        del due[limit:]
        claimed = []
        for event in due:
            event.attempts += 1
            event.next_attempt_at = now + lease
            kind = self.channels[event.envelope.channel_id].kind
            claimed.append(Claimed(event.envelope, kind, event.topic, event.body, event.attempts))
        return claimed

    def take_events(self, event_ids: Collection[int]) -> set[int]:
        self._locks("taking events")
        return {event_id for event_id in event_ids if self._pending_event(event_id) is not None}

    def _pending_event(self, event_id: int) -> EventRow | None:
        event = self.events.get(event_id)
        return event if event is not None and event.state == "pending" else None

    def settle_events(self, verdicts: Mapping[int, Verdict]) -> None:
        now = self._now()
        for event_id, verdict in verdicts.items():
            event = self._pending_event(event_id)
            if event is None:
                continue
            state = str(verdict.state)
            self._require(state in _FINAL_STATES, "event {} settled as {}", event_id, state)
            self._require(verdict.reason or state == "applied", "event {} is {} without saying why", event_id, state)
            self._touch(event)
            event.state, event.reason, event.settled_at = state, verdict.reason[:500], now
            self._remove(self._pending[event.merchant_id], event_id)

    def retry_event(self, event_id: int, after: timedelta, reason: str) -> None:
        event = self._pending_event(event_id)
        if event is not None:
            self._touch(event)
            event.next_attempt_at, event.reason = self._now() + after, reason

    def put_off_events(self, event_ids: Collection[int], after: timedelta, reason: str) -> None:
        due_at = self._now() + after
        for event_id in event_ids:
            event = self._pending_event(event_id)
            if event is not None and event.attempts > 0:
                self._touch(event)
                event.attempts -= 1
                event.next_attempt_at = due_at
                event.reason = reason or event.reason

    # --- StockBooks ---

    def load_mappings(self, merchant_id: int, mentioned: Mentioned, known_skus: Collection[int]) -> Mappings:
        by_variant: dict[tuple[int, str], ListingFacts] = {}
        by_item: dict[tuple[int, str], tuple[ListingFacts, ...]] = {}
        for variant in sorted(mentioned.variants):
            listing = self._by_variant.get(variant)
            if listing is not None:
                by_variant[variant] = ListingFacts(listing.id, listing.sku_id)
        for item in sorted(mentioned.items):
            facts = tuple(
                ListingFacts(listing.id, listing.sku_id)
                for listing in self._by_item.get(item, ())
                if listing.deleted_at is None
            )
            if facts:
                by_item[item] = facts
        channels = sorted(
            {
                *(channel for channel, _ in mentioned.variants),
                *(channel for channel, _ in mentioned.items),
                *(channel for channel, _ in mentioned.orders),
            }
        )
        location_ids: dict[tuple[int, str], int] = {}
        warehouses: dict[int, tuple[int, ...]] = {}
        default_locations: dict[int, int] = {}
        routing: dict[int, Routing] = {}
        split_shipment: set[int] = set()
        for channel in channels:
            for location in self._locations_of.get(channel, ()):
                location_ids[channel, location.remote_id] = location.id
                group = location.group
                if group is not None and (group.routing is not Routing.PRIORITY or group.allows_split_shipment):
                    routing[location.id] = group.routing
                    if group.allows_split_shipment:
                        split_shipment.add(location.id)
                if location.warehouses:
                    warehouses[location.id] = location.warehouses
                    default_locations.setdefault(channel, location.id)
        skus = {facts.sku_id for facts in by_variant.values() if facts.sku_id is not None}
        skus.update(known_skus)
        parts = self.load_parts(merchant_id, skus)
        return Mappings(
            listings_by_variant=by_variant,
            listings_by_item=by_item,
            location_ids=location_ids,
            default_locations=default_locations,
            warehouses=warehouses,
            parts=parts,
            bundles={
                component: self._bundles[component]
                for needed in parts.values()
                for component in needed
                if component in self._bundles
            },
            counted_from={channel: self.channels[channel].orders_counted_from for channel in channels},
            routing=routing,
            split_shipment=split_shipment,
        )

    def channels_with_several_places(self, channel_ids: Collection[int]) -> set[int]:
        return {
            channel
            for channel in channel_ids
            if len(self._locations_of.get(channel, ())) > 1
            and sum(1 for location in self._locations_of[channel] if location.warehouses) > 1
        }

    def lines_with_a_place(self, orders: Collection[OrderKey]) -> set[LineKey]:
        return {
            key
            for order in orders
            for key, line in self.orders.get(order, {}).items()
            if line.store_location_id is not None or line.register.located is not None
        }

    def contested_orders(self, orders: Collection[OrderKey]) -> set[OrderKey]:
        return {
            order
            for order in orders
            if any(line.register.needs_reading for line in self.orders.get(order, {}).values())
        }

    def skus_of_orders(self, orders: Collection[OrderKey]) -> dict[OrderKey, set[int]]:
        skus: dict[OrderKey, set[int]] = defaultdict(set)
        for order in orders:
            for line in self.orders.get(order, {}).values():
                if line.sku_id is not None:
                    skus[order].add(line.sku_id)
        return skus

    def lock_lines(self, orders: Collection[OrderKey]) -> dict[LineKey, Line]:
        self._locks("locking lines")
        rows = [line for order in orders for line in self.orders.get(order, {}).values()]
        if len(rows) > 1:
            rows.sort(key=_by_id)
        return {
            row.key: Line(
                row.key,
                row.id,
                row.order_name,
                row.register,
                row.listing_id,
                row.sku_id,
                row.level_id,
                row.store_location_id,
                row.applied,
                row.desired,
                row.postings,
                row.waiting_for,
                dict(row.taken_from),
            )
            for row in rows
        }

    def lock_stock(
        self,
        merchant_id: int,
        mappings: Mappings,
        skus: Collection[int],
        locations: Collection[int],
        taken: Collection[int],
    ) -> tuple[dict[tuple[int, int], int], dict[int, Balance]]:
        warehouses = {warehouse for location in locations for warehouse in mappings.warehouses.get(location, ())}
        stocked = mappings.stocked_skus(skus)
        origins = [self.stock[level] for level in sorted(taken) if level in self.stock]
        stocked.update(row.sku_id for row in origins)
        rows = [
            self._stock_row(merchant_id, sku, warehouse) for sku in sorted(stocked) for warehouse in sorted(warehouses)
        ]
        ids = {(row.sku_id, row.warehouse_id): row.id for row in (*rows, *origins)}
        return ids, self.lock_balances(ids.values())

    def _stock_row(self, merchant_id: int, sku_id: int, warehouse_id: int) -> StockRow:
        row = self._stock_at.get((sku_id, warehouse_id))
        if row is None:
            row = StockRow(self._id("stock"), merchant_id, sku_id, warehouse_id)
            self._put(self.stock, row.id, row)
            self._put(self._stock_at, (sku_id, warehouse_id), row)
            self._append(self._stock_of[sku_id], row)
        return row

    def lock_balances(self, stock_level_ids: Collection[int]) -> dict[int, Balance]:
        self._locks("locking balances")
        stock = self.stock
        rows = [stock[level] for level in sorted(set(stock_level_ids)) if level in stock]
        return {
            row.id: Balance(
                row.id,
                row.on_hand,
                row.committed,
                row.held,
                row.seq,
                quota=row.quota,
                sku_id=row.sku_id,
                warehouse_id=row.warehouse_id,
            )
            for row in rows
        }

    def lock_levels(self, merchant_id: int, pairs: Collection[tuple[int, int]]) -> dict[tuple[int, int], Level]:
        self._locks("locking levels")
        rows = []
        for pair in sorted(set(pairs)):
            row = self._level_at.get(pair)
            if row is None and pair[0] in self.listings:
                row = self._new_level(*pair)
            if row is not None:
                rows.append(row)
        rows.sort(key=_by_id)
        return {
            (row.listing.id, row.location.id): Level(
                row.id,
                row.base + row.order_effects + row.pushed,
                row.source_at,
                row.suspect_since,
                row.suspect_available,
                row.sample,
                None if row.open_push is None else row.open_push.to_quantity,
                row.held,
            )
            for row in rows
        }

    def post(self, merchant_id: int, balances: Mapping[int, Balance], entries: Sequence[Entry], now: datetime) -> None:
        if not entries:
            return
        self._locks("posting")
        known = {}
        still_open = []
        for level, balance in balances.items():
            if balance.available < 0:
                for shortage in self.stock[level].shortages:
                    if shortage.covered_at is None:
                        known[shortage.id] = shortage
                        still_open.append(ledger.OpenShortage(shortage.id, level, shortage.quantity - shortage.covered))
        if len(still_open) > 1:
            still_open.sort(key=attrgetter("id"))
        posting = ledger.post(balances, entries, still_open)
        for row in {
            line.entry.stock_level_id: self.stock[line.entry.stock_level_id] for line in posting.lines
        }.values():
            self._touch(row)
        for line in posting.lines:
            self._write_movement(merchant_id, line)
        for level, balance in posting.balances.items():
            self._write_balance(self.stock[level], balance)
        for made in posting.shortages:
            self._make_shortage(made, now)
        for covered in posting.covered:
            assert covered.id is not None
            self._cover_shortage(known[covered.id], covered.covered_units, now)

    def _write_movement(self, merchant_id: int, line: ledger.Line) -> None:
        row = self.stock[line.entry.stock_level_id]
        key = (merchant_id, line.idempotency_key)
        self._require(key not in self._posted, "movement {} posted twice", key[1])
        self._require(
            line.seq == len(row.movements) + 1, "movement {} of stock level {} leaves a gap", line.seq, row.id
        )
        self._require(line.delta, "movement {} moves nothing", key[1])
        self._require(row.merchant_id == merchant_id, "stock level {} is another merchant's", row.id)
        self._append(row.movements, line)
        self._posted.add(key)
        if self._undo is not None:
            self._undo.append((self._posted.discard, key))

    def _write_balance(self, row: StockRow, balance: Balance) -> None:
        quota = balance.quota
        self._require(balance.committed >= 0 and balance.held >= 0, "stock level {} below zero", row.id)
        self._require(quota is None or quota >= 0, "quota of stock level {} below zero", row.id)
        self._require(balance.seq == len(row.movements), "stock level {} does not know its last movement", row.id)
        row.on_hand, row.committed, row.held = balance.on_hand, balance.committed, balance.held
        row.seq, row.quota = balance.seq, quota

    def _make_shortage(self, made: ledger.OpenShortage, now: datetime) -> None:
        entry = made.entry
        assert entry is not None
        row = ShortageRow(
            self._id("shortage"),
            made.open_units + made.covered_units,
            made.covered_units,
            str(entry.cause),
            entry.reference[:200],
            entry.correlation_id,
            entry.effective_at,
            None if made.open_units else now,
        )
        self._require(row.quantity > 0, "a shortage of nothing at stock level {}", made.stock_level_id)
        self._append(self.stock[made.stock_level_id].shortages, row)

    def _cover_shortage(self, row: ShortageRow, units: int, now: datetime) -> None:
        self._touch(row)
        row.covered += units
        self._require(row.covered <= row.quantity, "shortage {} covered beyond itself", row.id)
        row.covered_at = now if row.covered == row.quantity else None

    def held_for_orders(self, merchant_id: int, orders: Collection[OrderKey]) -> set[int]:
        return set()  # these books keep no holds: nobody asks for one here

    def end_holds(
        self, merchant_id: int, orders: Collection[OrderKey], balances: Mapping[int, Balance], now: datetime
    ) -> list[Entry]:
        return []

    def write_lines(self, merchant_id: int, lines: Collection[Line], now: datetime) -> None:
        for line in lines:
            order = self.orders.get(line.key[:2])
            if order is None:
                order = {}
                self._put(self.orders, line.key[:2], order)
            old = order.get(line.key)
            if line.id is None:
                self._require(old is None, "order line {} made twice", line.key)
                line.id = self._id("line")
            elif old is None or old.id != line.id:
                # As the database: nothing is there to be updated.
                continue
            assert line.latest is not None, f"nothing was said of order line {line.key}"
            self._require(
                line.waiting_for or line.applied == line.desired, "order line {}: applied is not desired", line.key
            )
            self._require(line.applied.committed >= 0, "order line {}: committed below zero", line.key)
            taken_from = dict(line.taken_from)
            for level, taken in taken_from.items():
                self._require(taken.committed >= 0, "order line {}: committed below zero at {}", line.key, level)
                self._require(taken.units_per_line_unit > 0, "order line {} takes no units at {}", line.key, level)
            if old is not None:
                # Where it has taken from stays known, and in which units.
                for level, before in old.taken_from.items():
                    after = taken_from.get(level, before)
                    taken_from[level] = Taken(before.units_per_line_unit, after.committed, after.on_hand)
            row = LineRow(
                line.id,
                line.key,
                line.order_name[:80],
                line.register,
                line.listing_id,
                line.sku_id,
                line.level_id,
                line.store_location_id,
                line.applied,
                line.desired,
                line.postings,
                line.waiting_for[:120],
                taken_from,
                line.latest.event_id,
                line.latest.correlation_id,
                now,
            )
            self._put(order, line.key, row)
            if row.level_id is not None:
                self._lines_at[row.level_id][line.key] = None

    def write_order_effects(self, levels: Collection[Level], now: datetime) -> None:
        for moved in levels:
            added = moved.order_effects_added
            if not added:
                continue
            level = self.levels[moved.id]
            self._touch_level(level)
            level.order_effects += added
            level.version += 1
            if level.desired is not None:
                level.desired = max(0, level.desired + added)
            if added < 0:
                level.velocity = level.velocity.sold(-added, now)
            if explained(moved):
                level.suspect_since = level.suspect_available = level.next_check_at = None
            elif level.sample is not None:
                level.next_check_at = self._now()
            self._check_level(level)

    def write_level_changes(self, levels: Collection[Level], now: datetime, check_after: timedelta) -> None:
        for changed in levels:
            becomes = changed.becomes
            if becomes is None:
                continue
            level = self.levels[changed.id]
            self._touch_level(level)
            if becomes.is_suspect:
                level.suspect_since = level.suspect_since or now
                level.suspect_reason = "webhook differs"
                level.next_check_at = level.next_check_at or now + check_after
            else:
                level.suspect_since = level.next_check_at = None
                level.suspect_reason = ""
                level.confirmed_at = now
            level.suspect_available = becomes.available
            level.source_at = _later(level.source_at, becomes.source_at)
            self._check_level(level)

    def _check_level(self, level: LevelRow) -> None:
        if level.sample is not None and level.suspect_since is None:
            self._require(False, f"level {level.id} has a sample without being suspect")
        if not _is_sample_whole(level):
            self._require(False, f"level {level.id} has half a sample")
        if level.held < 0 or (level.held and level.held_at is None):
            self._require(False, f"level {level.id} holds {level.held} units nowhere")
        if level.desired is not None and level.desired < 0:
            self._require(False, f"level {level.id} should show {level.desired}")

    def note_inbound_lag(self, lags: Mapping[int, float], now: datetime) -> None:
        for channel_id, seconds in lags.items():
            channel = self.channels[channel_id]
            after = channel.inbound.observed(seconds, now)
            if _is_worth_noting(channel.inbound, after, now):
                self._touch(channel)
                channel.inbound = after

    # --- PublishBooks ---

    def mark_dirty(self, merchant_id: int, marks: Mapping[int, tuple[uuid.UUID, datetime]]) -> None:
        dirty = self.marks[merchant_id]
        for sku, mark in marks.items():
            known = dirty.get(sku)
            if known is None:
                self._put(dirty, sku, [mark])
            else:
                self._append(known, mark)

    def take_marks(self, merchant_id: int, limit: int) -> dict[int, Mark]:
        self._locks("taking marks")
        dirty = self.marks[merchant_id]
        marks: dict[int, Mark] = {}
        for sku in sorted(itertools.islice(dirty, limit)):
            if self._is_divided(sku):
                for member in self._family(sku):
                    marks.setdefault(member, Mark()).is_divided = True
            else:
                marks.setdefault(sku, Mark())
        for sku, mark in marks.items():
            for correlation_id, caused_at in self._remove(dirty, sku) or ():
                mark.correlation_ids.append(correlation_id)
                mark.caused_at = caused_at if mark.caused_at is None else min(mark.caused_at, caused_at)
        return marks

    def _is_divided(self, sku: int) -> bool:
        known = self._divided.get(sku)
        if known is None:
            known = self._divided[sku] = any(
                level.location.group is not None and level.location.group.policy != "shared"
                for listing in self._listings_of.get(sku, ())
                for level in listing.levels
            )
        return known

    def _family(self, sku: int) -> tuple[int, ...]:
        """Everything that shares components with the SKU, itself included."""
        known = self._families.get(sku)
        if known is None:
            neighbours: dict[int, set[int]] = defaultdict(set)
            for bundle, parts in self._components.items():
                for component in parts:
                    neighbours[bundle].add(component)
                    neighbours[component].add(bundle)
            family, fresh = {sku}, [sku]
            while fresh:
                near = neighbours[fresh.pop()] - family
                family |= near
                fresh += near
            known = tuple(sorted(family))
            for member in known:
                self._families[member] = known
        return known

    def lock_shelves(self, sku_ids: Collection[int]) -> None:
        self._locks("locking shelves")

    def load_targets(self, sku_ids: Collection[int], now: datetime) -> list[Target]:
        targets = []
        for sku in sku_ids:
            for listing in self._listings_of.get(sku, ()):
                is_published = listing.is_tracked and not listing.is_store_bundle and listing.deleted_at is None
                for level in listing.levels:
                    location, push = level.location, level.open_push
                    targets.append(
                        Target(
                            level.id,
                            level.channel_id,
                            listing.id,
                            location.id,
                            sku,
                            None if location.group is None else location.group.id,
                            location.weight,
                            level.desired,
                            is_published and level.is_stocked,
                            level.suspect_since is not None,
                            shown=level.shown + (0 if push is None else push.to_quantity - push.from_quantity),
                            ceiling=self._ceiling(level, now),
                            velocity=level.velocity,
                            failing_since=self._failing_since(level.channel_id),
                        )
                    )
        targets.sort(key=_by_level_id)
        return targets

    def _ceiling(self, level: LevelRow, now: datetime) -> int:
        if not level.is_stocked or level.listing.deleted_at is not None:
            return 0
        ceiling, push = level.reported, level.open_push
        if level.sample is not None:
            ceiling = max(ceiling, level.sample if level.since_sample is None else level.shown)
        if level.suspect_available is not None and level.suspect_available > ceiling:
            ceiling = level.suspect_available
        if push is not None and push.to_quantity > push.from_quantity:
            ceiling += push.to_quantity - push.from_quantity
        if level.doubtful_until is not None and level.doubtful_until > now:
            ceiling += level.doubtful_by or 0
        return max(0, ceiling)

    def _failing_since(self, channel_id: int) -> datetime | None:
        channel = self.channels[channel_id]
        if channel.state != "active":
            return channel.failing_since or channel.created_at
        return channel.failing_since if channel.failures >= OUTAGE_FAILURES else None

    def load_groups(self, group_ids: Collection[int]) -> dict[int, Group]:
        return {
            group_id: Group(
                group_id=group_id,
                warehouses=group.warehouses,
                policy=group.policy,
                guard_units=group.guard_units,
                is_weighted_by_velocity=group.is_weighted_by_velocity,
                allows_split_shipment=group.allows_split_shipment,
                holds_weight=group.holds_weight,
                window_seconds=_window(group.channels.values()),
            )
            for group_id in sorted(group_ids)
            if (group := self.groups.get(group_id)) is not None
        }

    def load_parts(self, merchant_id: int, sku_ids: Collection[int]) -> dict[int, dict[int, int]]:
        known = self._parts
        for sku in sku_ids:
            if sku not in known:
                known[sku] = explode(sku, self._components)
        return {sku: known[sku] for sku in sku_ids}

    def load_warehouses(self, store_locations: Collection[int]) -> dict[int, tuple[int, ...]]:
        return {
            location: warehouses for location in store_locations if (warehouses := self.locations[location].warehouses)
        }

    def load_stock(self, sku_ids: Collection[int]) -> dict[tuple[int, int], ShelfStock]:
        return {
            (sku, row.warehouse_id): ShelfStock(row.on_hand - row.committed - row.held, row.quota)
            for sku in sku_ids
            for row in self._stock_of.get(sku, ())
        }

    def load_rules(self, channel_ids: Collection[int], sku_ids: Collection[int]) -> dict[tuple[str, int, int], Rule]:
        if not self._rules:
            return {}
        return {
            key: rule
            for channel in channel_ids
            for key, rule in self._rules.get(channel, {}).items()
            if key[0] != "sku" or key[2] in sku_ids
        }

    def write_desires(self, changed: Sequence[Desire], marks: Mapping[int, Mark], now: datetime) -> None:
        for desire in changed:
            target, desired = desire.target, desire.desired
            level = self.levels[target.level_id]
            if level.listing.sku_id != target.sku_id:
                continue
            self._touch_level(level)
            mark = marks[target.sku_id]
            caused_at = mark.caused_at or now
            reported = level.base + level.order_effects + level.pushed
            if desired is not None and desired == reported:
                level.waiting_since, level.waiting_correlation_ids = None, ()
            else:
                newest = tuple(mark.correlation_ids[-STORY_EVENTS:])
                if level.desired is not None and level.desired == reported:
                    level.waiting_since, level.waiting_correlation_ids = caused_at, newest
                else:
                    level.waiting_since = _earlier(level.waiting_since, caused_at)
                    level.waiting_correlation_ids = (newest + level.waiting_correlation_ids)[:STORY_EVENTS]
            level.desired, level.next_push_at, level.push_failures = desired, now, 0
            self._check_level(level)

    def write_quotas(self, merchant_id: int, quotas: Mapping[tuple[int, int], int | None]) -> None:
        for pair, quota in quotas.items():
            row = self._stock_at.get(pair)
            if row is not None and row.quota != quota:
                self._require(quota is None or quota >= 0, "quota {} of SKU {}", quota, pair[0])
                self._touch(row)
                row.quota = quota

    # --- PushBooks ---

    def claim_repeat(self, channel_id: int, lease: timedelta) -> Batch | None:
        self._commits_itself("a claim")
        unanswered = self._unanswered.get(channel_id)
        channel = self.channels[channel_id]
        now = self._now()
        if not unanswered or channel.state != "active" or channel.next_call_at > now:
            return None
        due = [
            (batch.next_attempt_at, place, batch)
            for place, batch in enumerate(unanswered.values())
            if batch.next_attempt_at is not None and batch.next_attempt_at <= now
        ]
        if not due:
            return None
        _, _, batch = min(due)
        batch.lease_token = self._id("lease")
        batch.attempts += 1
        batch.next_attempt_at = now + lease
        rows = tuple(
            Row(
                push.id,
                push.level.id,
                QuantityChange(
                    push.level.listing.inventory_item_id,
                    push.level.location.remote_id,
                    push.from_quantity,
                    push.to_quantity,
                ),
            )
            for push in batch.pushes
        )
        return Batch(batch.id, batch.lease_token, batch.attempts, is_repeat=True, rows=rows)

    def lock_claims(self, channel_id: int) -> None:
        self._locks("locking claims")

    def out_of_sync(self, channel_id: int, limit: int) -> list[Picked]:
        self._locks("picking levels")
        channel = self.channels[channel_id]
        now = self._now()
        if channel.state != "active" or channel.next_call_at > now:
            return []
        picked = []
        for level in self._stirring(channel_id):
            desired = level.desired
            if desired is None or level.open_push is not None or level.next_push_at > now or not level.is_stocked:
                continue
            shown = level.shown
            if desired == shown or (
                level.suspect_since is not None
                and (desired > shown or (level.since_sample is None and level.suspect_available is None))
            ):
                continue
            listing = level.listing
            if listing.is_tracked and not listing.is_store_bundle and listing.deleted_at is None:
                picked.append((desired > shown, level.waiting_since or _NEVER, level.id, shown, level))
        picked.sort()
        return [
            Picked(
                level.id,
                level.listing.inventory_item_id,
                level.location.remote_id,
                shown,
                level.desired or 0,
                level.push_failures,
            )
            for _, _, _, shown, level in picked[:limit]
        ]

    def _stirring(self, channel_id: int) -> list[LevelRow]:
        """The channel's levels that are suspect or out of sync; others are forgotten until they are touched again."""
        astir = self._astir[channel_id]
        quiet = [
            level.id
            for level in astir.values()
            if level.suspect_since is None and (level.desired is None or level.desired == level.shown)
        ]
        for level_id in quiet:
            del astir[level_id]
        return list(astir.values())

    def open_batch(self, channel: ChannelRef, batch_id: uuid.UUID, chosen: Sequence[Picked], lease: timedelta) -> Batch:
        self._locks("opening a batch")
        now = self._now()
        self._require(batch_id not in self.batches, "batch {} made twice", batch_id)
        batch = BatchRow(batch_id, channel.channel_id, self._id("lease"), now + lease, sent_at=now)
        self._put(self.batches, batch_id, batch)
        self._put(self._unanswered[channel.channel_id], batch_id, batch)
        rows = []
        for pick in chosen:
            level = self.levels[pick.level_id]
            self._require(level.open_push is None, "level {} has an open push", level.id)
            self._touch_level(level)
            push = PushRow(
                self._id("push"),
                batch,
                level,
                pick.shown,
                pick.desired,
                level.waiting_correlation_ids,
                level.waiting_since,
            )
            self._put(self.pushes, push.id, push)
            batch.pushes.append(push)
            level.open_push = push
            level.waiting_correlation_ids, level.waiting_since = (), None
            change = QuantityChange(pick.inventory_item_id, pick.location_id, pick.shown, pick.desired)
            rows.append(Row(push.id, level.id, change))
        return Batch(batch_id, batch.lease_token, 1, is_repeat=False, rows=tuple(rows))

    def fence(self, batch: Batch, state: str, error: str, next_attempt: timedelta | None) -> bool:
        row = self.batches.get(batch.id)
        if row is None or row.lease_token != batch.lease_token or row.state not in ("intent", "unknown"):
            return False
        self._require(state in _BATCH_STATES, "batch {} is {}", batch.id, state)
        self._touch(row)
        now = self._now()
        row.state, row.error = state, error[:500]
        row.next_attempt_at = None if next_attempt is None else now + next_attempt
        row.answered_at = None if state == "unknown" else now
        if state not in ("intent", "unknown"):
            self._remove(self._unanswered[row.channel_id], row.id)
        return True

    def uncount_attempt(self, batch: Batch) -> None:
        row = self.batches[batch.id]
        self._require(row.attempts > 0, "batch {} was never attempted", batch.id)
        self._touch(row)
        row.attempts -= 1

    def lock_level_rows(self, level_ids: Iterable[int]) -> None:
        self._locks("locking levels")

    def confirm(self, push_ids: Sequence[int], source_at: datetime | None) -> None:
        now = self._now()
        slowest: dict[int, float] = {}
        for push_id in push_ids:
            push = self._settle_push(push_id, "confirmed", now)
            if push is None:
                continue
            level = push.level
            delta = push.to_quantity - push.from_quantity
            level.pushed += delta
            level.version += 1
            if level.since_sample is not None:
                level.since_sample += delta
            level.source_at = _later(level.source_at, source_at)
            level.confirmed_at = now
            level.push_failures, level.last_error = 0, ""
            if push.caused_at is not None:
                seconds = (now - push.caused_at).total_seconds()
                slowest[level.channel_id] = max(slowest.get(level.channel_id, seconds), seconds)
            group = level.location.group
            sku = level.listing.sku_id
            if delta < 0 and sku is not None and group is not None and group.policy != "shared":
                # Units were taken from a store: another one may have them now.
                correlation_id = push.correlation_ids[0] if push.correlation_ids else self._uuid()
                self.mark_dirty(level.listing.merchant_id, {sku: (correlation_id, push.caused_at or now)})
        for channel_id, seconds in slowest.items():
            channel = self.channels[channel_id]
            after = channel.outbound.observed(seconds, now)
            if _is_worth_noting(channel.outbound, after, now):
                self._touch(channel)
                channel.outbound = after

    def _settle_push(self, push_id: int, state: str, now: datetime) -> PushRow | None:
        push = self.pushes.get(push_id)
        if push is None or push.state != "open":
            return None
        level = push.level
        self._require(level.open_push is push, "push {} is open, but not that of its level", push_id)
        self._touch(push)
        self._touch_level(level)
        push.state, push.settled_at = state, now
        level.open_push = None
        return push

    def give_back(self, rows: Sequence[GivenBack]) -> None:
        now = self._now()
        for row in rows:
            push = self._settle_push(row.push_id, "rejected", now)
            if push is None:
                continue
            push.error_code, push.error = row.code[:80], row.message[:500]
            level = push.level
            level.waiting_correlation_ids = (level.waiting_correlation_ids + push.correlation_ids)[:STORY_EVENTS]
            level.waiting_since = _earlier(level.waiting_since, push.caused_at)
            level.next_push_at = now + row.pause
            level.push_failures += row.failures
            level.last_error = (f"{push.error_code}: {push.error}" if push.error_code else push.error)[:500]
            if row.is_doubtful_until is not None:
                is_in_force = level.doubtful_until is not None and level.doubtful_until > now
                before = level.doubtful_by or 0 if is_in_force else 0
                level.doubtful_by = before + max(0, push.to_quantity - push.from_quantity)
                level.doubtful_until = _later(level.doubtful_until, row.is_doubtful_until)
            group, sku = level.location.group, level.listing.sku_id
            if push.to_quantity > push.from_quantity and sku is not None and group and group.policy != "shared":
                correlation_id = push.correlation_ids[0] if push.correlation_ids else self._uuid()
                self.mark_dirty(level.listing.merchant_id, {sku: (correlation_id, push.caused_at or now)})

    def end_doubts(self) -> None:
        now = self._now()
        ended = [
            level for level in self.levels.values() if level.doubtful_until is not None and level.doubtful_until <= now
        ]
        if not ended:
            return
        correlation_id = self._uuid()
        with self.transaction():
            for level in ended:
                self._touch_level(level)
                level.doubtful_by = level.doubtful_until = None
                if level.listing.sku_id is not None:
                    self.mark_dirty(level.listing.merchant_id, {level.listing.sku_id: (correlation_id, now)})

    def suspect(self, level_ids: Collection[int], reason: str, check_after: timedelta) -> None:
        now = self._now()
        for level_id in level_ids:
            level = self.levels[level_id]
            self._touch_level(level)
            level.suspect_since = level.suspect_since or now
            level.suspect_reason = reason
            level.suspect_available = level.since_sample = None
            level.next_check_at = now + check_after

    def channel_answered(self, channel_id: int) -> int:
        channel = self.channels[channel_id]
        failures = channel.failures
        if failures:
            self._touch(channel)
            channel.failures, channel.failing_since, channel.last_error = 0, None, ""
        return failures

    def mark_shelves_dirty(self, channel: ChannelRef, now: datetime) -> None:
        correlation_id = self._uuid()
        divided = sorted(
            {
                level.listing.sku_id
                for level in self.levels.values()
                if level.channel_id == channel.channel_id
                and level.listing.sku_id is not None
                and level.location.group is not None
                and level.location.group.policy != "shared"
            }
        )
        self.mark_dirty(channel.merchant_id, dict.fromkeys(divided, (correlation_id, now)))

    def count_failure(self, channel_id: int, error: str) -> int:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.failures += 1
        channel.failing_since = channel.failing_since or self._now()
        channel.last_error = error[:500]
        return channel.failures

    def rest_channel(self, channel_id: int, wait: timedelta, error: str) -> None:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.next_call_at = self._now() + wait
        channel.last_error = error[:500]

    # --- CheckBooks ---

    def claim_suspects(self, channel_id: int, limit: int, lease: timedelta) -> list[Due]:
        self._commits_itself("a claim")
        now = self._now()
        due = [
            (level.next_check_at, level.id, level)
            for level in self._stirring(channel_id)
            if level.suspect_since is not None and level.next_check_at is not None and level.next_check_at <= now
        ]
        due.sort()
        claimed = []
        for _, level_id, level in due[:limit]:
            level.next_check_at = now + lease
            claimed.append(
                Due(
                    level_id,
                    level.listing.inventory_item_id,
                    level.location.remote_id,
                    level.version,
                    level.pushed,
                )
            )
        return claimed

    def orders_applied_since(self, channel_id: int) -> datetime | None:
        channel = self.channels[channel_id]
        has_pending = any(
            event.envelope.channel_id == channel_id and event.topic.startswith(("orders/", "refunds/"))
            for event in self._pending[channel.merchant_id].values()
        )
        return None if has_pending else channel.orders_read_at

    def edits(self, channel_id: int) -> Edits:
        channel = self.channels[channel_id]
        return Edits(channel.on_loss, channel.on_gain)

    def hold_places(self, level_ids: Collection[int]) -> dict[int, int | None]:
        return {
            level_id: level.held_at if level.held_at is not None else self._first_stock(level)
            for level_id in sorted(level_ids)
            if (level := self.levels.get(level_id)) is not None
        }

    def _first_stock(self, level: LevelRow) -> int | None:
        sku = level.listing.sku_id
        if sku is not None:
            for warehouse in level.location.warehouses:
                row = self._stock_at.get((sku, warehouse))
                if row is not None:
                    return row.id
        return None

    def lock_suspects(self, level_ids: Collection[int]) -> list[LockedSuspect]:
        self._locks("locking suspects")
        locked = []
        for level_id in sorted(level_ids):
            level = self.levels.get(level_id)
            if level is None or level.suspect_since is None:
                continue
            push = level.open_push
            if push is not None and push.batch.state in ("intent", "unknown"):
                continue
            sku = level.listing.sku_id
            locked.append(
                LockedSuspect(
                    level_id=level_id,
                    sku_id=sku,
                    is_bundle=sku is not None and self.skus[sku].is_bundle,
                    base=level.base,
                    order_effects=level.order_effects,
                    pushed=level.pushed,
                    version=level.version,
                    is_first_reading=level.confirmed_at is None or not level.is_stocked,
                    sample=level.sample,
                    sampled_from=level.sampled_from,
                    sampled_until=level.sampled_until,
                    sample_pushed=level.sample_pushed,
                    held=level.held,
                    held_at=level.held_at,
                    confirmed_at=level.confirmed_at,
                    open_push_id=None if push is None else push.id,
                    open_push_delta=None if push is None else push.to_quantity - push.from_quantity,
                    open_push_sent_at=None if push is None else push.batch.sent_at,
                    is_in_doubt=level.doubtful_until is not None
                    and level.doubtful_until >= (level.sampled_until or self._now()),
                )
            )
        return locked

    def taken_since(self, level_id: int, since: datetime, until: datetime) -> tuple[int, bool]:
        taken, is_ambiguous = 0, False
        oldest = since - timedelta(hours=1)
        for key in self._lines_at.get(level_id, ()):
            line = self.orders.get(key[:2], {}).get(key)
            if line is not None and line.level_id == level_id and line.updated_at >= oldest:
                units, is_unclear = register.taken_since(line.register, since, until)
                taken += units
                is_ambiguous = is_ambiguous or is_unclear
        return taken, is_ambiguous

    def write_findings(self, findings: Sequence[Finding], now: datetime) -> None:
        for finding in findings:
            level = self.levels[finding.level_id]
            self._touch_level(level)
            if finding.is_settled:
                level.base += finding.residue
                level.version += 1
                level.is_stocked = finding.is_stocked
                level.sample = level.since_sample = level.sample_pushed = None
                level.sampled_from = level.sampled_until = None
                level.suspect_since = level.suspect_available = level.next_check_at = None
                level.suspect_reason = ""
                level.held, level.held_at = 0, None
                level.confirmed_at = now
                level.source_at = _later(level.source_at, finding.source_at)
            elif finding.sample is not None:
                level.base += finding.residue
                level.version += finding.residue != 0
                level.sample, level.since_sample = finding.sample, finding.since_sample
                level.sample_pushed = finding.sample_pushed
                level.sampled_from, level.sampled_until = finding.sampled_from, finding.sampled_until
                level.suspect_available = None
                level.held, level.held_at = finding.held, finding.held_at
                level.next_check_at = finding.next_check_at
            else:
                level.next_check_at = finding.next_check_at
            self._check_level(level)

    def add_drifts(self, channel: ChannelRef, drifts: Sequence[DriftFound]) -> None:
        for drift in drifts:
            self._require(drift.action in _DRIFT_ACTIONS, "drift of level {} is {}", drift.level_id, drift.action)
            self._require(
                drift.held == 0 or (drift.held > 0 and drift.held_at is not None and drift.action == "asked"),
                "drift of level {} holds {} units, {}",
                drift.level_id,
                drift.held,
                drift.action,
            )
            self._append(self.drifts, drift)

    def bundles_with(self, merchant_id: int, sku_ids: Collection[int]) -> set[int]:
        parts = self.load_parts(merchant_id, sku_ids)
        return {
            *sku_ids,
            *(bundle for needed in parts.values() for sku in needed for bundle in self._bundles.get(sku, ())),
        }

    def suspect_unsuspected(self, level_ids: Collection[int], reason: str, now: datetime) -> None:
        for level_id in level_ids:
            level = self.levels[level_id]
            if level.suspect_since is None:
                self._touch_level(level)
                level.suspect_since, level.suspect_reason, level.next_check_at = now, reason, now

    # --- PollBooks ---

    def orders_watermark(self, channel_id: int) -> datetime | None:
        channel = self.channels[channel_id]
        return channel.orders_watermark or channel.orders_counted_from

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        watermark: datetime | None,
        now: datetime,
    ) -> int:
        self._commits_itself("storing orders")
        news = 0
        for order in orders:
            identity = polled_id(order)
            known = self._delivered.get((channel.channel_id, topic, identity))
            if known is None:
                self._store_event(channel.channel_id, topic, identity, order.body, self._uuid(), now)
                news += 1
            elif known.state == "dead":
                # What was wrong may be mended.
                known.state, known.attempts, known.reason = "pending", 0, ""
                known.settled_at, known.next_attempt_at = None, self._now()
                self._pending[known.merchant_id][known.envelope.event_id] = known
                news += 1
        row = self.channels[channel.channel_id]
        row.orders_watermark = _later(row.orders_watermark, watermark)
        return news

    def orders_read(self, channel_id: int, at: datetime) -> None:
        channel = self.channels[channel_id]
        self._touch(channel)
        channel.orders_read_at = at

    def levels_page(self, channel_id: int, after: int, items: int) -> tuple[int, list[Seen]]:
        listings = sorted(
            listing.id
            for listing in self.listings.values()
            if listing.channel_id == channel_id
            and listing.id > after
            and listing.sku_id is not None
            and listing.deleted_at is None
        )[:items]
        if not listings:
            return 0, []
        return listings[-1], [
            Seen(level.id, level.listing.inventory_item_id, level.location.remote_id, level.version)
            for listing in listings
            for level in self.listings[listing].levels
        ]

    def standing(self, level_ids: Collection[int]) -> list[tuple[int, int, int, bool, bool]]:
        return [
            (level.id, level.reported, level.version, level.is_stocked, level.open_push is not None)
            for level_id in level_ids
            if (level := self.levels.get(level_id)) is not None
        ]


class _Transaction:
    """All or nothing; whatever is raised in it takes back what was done, a worker's death too."""

    __slots__ = ("_books",)

    def __init__(self, books: MemoryBooks) -> None:
        self._books = books

    def __enter__(self) -> None:
        self._books._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._books._end(commits=kind is None)


LAG_NOTED_AFTER = timedelta(seconds=10)
_FINAL_STATES = frozenset({"applied", "ignored", "dead"})
_BATCH_STATES = frozenset({"intent", "unknown", "done", "unresolved"})
_DRIFT_ACTIONS = frozenset({"explained", "adopted", "overridden", "asked"})
#: Sorts levels without a waiting event last.
_NEVER = datetime.max.replace(tzinfo=UTC)

_by_id = attrgetter("id")
_by_level_id = attrgetter("level_id")
_by_event_id = attrgetter("envelope.event_id")


def _below(bundle: int, components: Mapping[int, Mapping[int, int]]) -> set[int]:
    """Everything that goes into a bundle, through all levels."""
    found: set[int] = set()
    fresh = list(components.get(bundle, ()))
    while fresh:
        sku = fresh.pop()
        if sku not in found:
            found.add(sku)
            fresh += components.get(sku, ())
    return found


def _is_sample_whole(level: LevelRow) -> bool:
    if level.sample is None:
        return (
            level.since_sample is None
            and level.sample_pushed is None
            and level.sampled_from is None
            and level.sampled_until is None
        )
    return (
        level.sample_pushed is not None
        and level.sampled_from is not None
        and level.sampled_until is not None
        and level.sampled_from <= level.sampled_until
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return min(one, other)


def _is_worth_noting(before: Propagation, after: Propagation, now: datetime) -> bool:
    """Most observations change nothing to speak of, and are not written down (see `sync.tables.stock.note_lag`)."""
    return (
        before.observed_at is None
        or abs(after.seconds - before.seconds) > 0.1 * before.seconds
        or now - before.observed_at > LAG_NOTED_AFTER
    )


def _window(channels: Iterable[ChannelRow]) -> float:
    """How long news takes from the slowest channel to the slowest (seconds)."""
    rows = list(channels)
    return max((row.inbound.seconds for row in rows), default=0.0) + max(
        (row.outbound.seconds for row in rows), default=0.0
    )
