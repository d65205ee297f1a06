"""Rows in memory: what the tables hold, by the tables' names."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from inventory import ledger
from locations.pace import Propagation, Velocity
from locations.routing import Routing
from sync.decide import Envelope, LineKey, Taken
from sync.register import Effect, Register


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
    orders_cut_short_at: datetime | None = None
    orders_read_at: datetime | None = None
    failures: int = 0
    failing_since: datetime | None = None
    failing_cause: str = ""
    last_error: str = ""
    has_paused_raises: bool = False
    is_shadow: bool = False


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
    is_active: bool = True


@dataclass(slots=True, eq=False)
class SkuRow:
    id: int
    merchant_id: int
    is_bundle: bool = False
    code: str = ""


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
    remote_sku: str = ""
    levels: list[LevelRow] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class LevelRow:
    id: int
    channel_id: int
    listing: ListingRow
    location: LocationRow
    next_push_at: datetime
    is_stocked: bool = True
    gone_at: datetime | None = None
    base: int = 0
    order_effects: int = 0
    pushed: int = 0
    version: int = 0
    sample: int | None = None
    since_sample: int | None = None
    sample_pushed: int | None = None
    sampled_from: datetime | None = None
    sampled_until: datetime | None = None
    sampled_ahead: timedelta | None = None
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
    doubtful_from: datetime | None = None
    doubtful_until: datetime | None = None
    doubtful_lowers: tuple[int, ...] = ()
    doubtful_lowers_at: tuple[datetime, ...] = ()
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
    created_at: datetime
    placed: dict[int, PlacedRow] = field(default_factory=dict)  # by store location

    def is_at_another_level(self, level: LevelRow) -> bool:
        """Whether its home is another level of this listing, or may be one that waits for its location."""
        if self.listing_id != level.listing.id:
            return False
        return self.level_id != level.id if self.level_id is not None else bool(self.waiting_for)


@dataclass(slots=True, eq=False)
class PlacedRow:
    level_id: int
    effect: Effect
    changed_at: datetime


@dataclass(slots=True, eq=False)
class BatchRow:
    id: uuid.UUID
    channel_id: int
    lease_token: int
    next_attempt_at: datetime | None
    opened_at: datetime
    sent_at: datetime  # the last time
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
