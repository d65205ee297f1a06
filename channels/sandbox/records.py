"""What an emulated store remembers. Plain records, mutable only by `store.Store`.

Times are integers: microseconds since 1970 in UTC, by the store's own clock (`*_us`). Ids are positive
integers of thirteen digits; what the API shows of them is made in `gids`-functions here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

WRITABLE_STATES = ("available", "damaged", "incoming", "quality_control", "reserved", "safety_stock")
ON_HAND_STATES = ("available", "committed", "reserved", "damaged", "safety_stock", "quality_control")
ALL_STATES = ("incoming", *ON_HAND_STATES, "on_hand")


@dataclass(slots=True)
class Location:
    id: int
    name: str
    level_number: int  # the number in the level ids of this location; not the location's own
    created_us: int
    updated_us: int
    active: bool = True
    deactivated_us: int | None = None


@dataclass(slots=True)
class Product:
    id: int
    title: str
    created_us: int
    updated_us: int
    status: str = "ACTIVE"
    variant_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Variant:
    """A variant together with its inventory item: in the sandbox each item backs exactly one variant."""

    id: int
    item_id: int
    product_id: int
    sku: str
    title: str
    barcode: str
    price: str
    policy: str  # DENY | CONTINUE
    tracked: bool
    requires_components: bool
    components: dict[str, int]  # sku -> units of it in one bundle
    created_us: int
    updated_us: int
    units_sold: int = 0  # units ever ordered
    units_restocked: int = 0  # of those, put back to available by cancel, refund or edit


@dataclass(slots=True)
class Level:
    item_id: int
    location_id: int
    created_us: int
    updated_us: int
    available_us: int
    active: bool = True
    available: int = 0
    committed: int = 0
    reserved: int = 0
    damaged: int = 0
    safety_stock: int = 0
    quality_control: int = 0
    incoming: int = 0

    @property
    def on_hand(self) -> int:
        return self.available + self.committed + self.reserved + self.damaged + self.safety_stock + self.quality_control


class Change(NamedTuple):
    """One change of one level, for those who measure and audit."""

    seq: int
    at_us: int
    item_id: int
    location_id: int
    delta: int  # of available
    available: int
    committed: int
    on_hand: int
    cause: str  # order cancel refund fulfill edit move api admin
    order_id: int | None
    key: str | None  # idempotency key of an API write
    reference: str | None  # referenceDocumentUri of an API write


@dataclass(slots=True)
class OrderLine:
    id: int
    variant_id: int
    item_id: int
    product_id: int
    location_id: int | None  # None: nothing was taken from stock (untracked)
    sku: str
    title: str
    price: str
    quantity: int
    current_quantity: int
    fulfilled: int = 0
    added_by_edit: bool = False

    @property
    def unfulfilled(self) -> int:
        return max(0, self.current_quantity - self.fulfilled)


@dataclass(slots=True)
class RefundLine:
    id: int
    line_id: int
    quantity: int
    restock_type: str  # cancel | return | no_restock
    location_id: int | None


@dataclass(slots=True)
class Refund:
    id: int
    order_id: int
    created_us: int
    note: str
    lines: list[RefundLine]


@dataclass(slots=True)
class Fulfillment:
    id: int
    order_id: int
    number: int
    created_us: int
    location_id: int | None
    lines: list[tuple[int, int, int]]  # own id, line id, quantity


@dataclass(slots=True)
class FulfillmentOrder:
    id: int
    order_id: int
    location_id: int
    created_us: int
    lines: list[tuple[int, int]]  # own id, line id


@dataclass(slots=True)
class OrderEdit:
    id: int
    order_id: int
    created_us: int
    additions: list[tuple[int, int]]  # line id, delta
    removals: list[tuple[int, int]]


@dataclass(slots=True)
class Order:
    id: int
    number: int
    created_us: int
    touched_us: list[int]  # every moment it changed, oldest first: what a lagging list still shows
    lines: list[OrderLine]
    fulfillment_orders: list[FulfillmentOrder]
    refunds: list[Refund] = field(default_factory=list)
    fulfillments: list[Fulfillment] = field(default_factory=list)
    edits: list[OrderEdit] = field(default_factory=list)
    cancelled_us: int | None = None
    cancel_reason: str | None = None
    source: str = "web"

    @property
    def name(self) -> str:
        return f"#{self.number}"

    @property
    def updated_us(self) -> int:
        return self.touched_us[-1]

    def line(self, line_id: int) -> OrderLine | None:
        return next((line for line in self.lines if line.id == line_id), None)


@dataclass(slots=True)
class Subscription:
    id: int
    topic: str  # enum form: ORDERS_CREATE
    uri: str
    created_us: int
    updated_us: int
    api_version: str
    name: str | None = None
    filter: str | None = None
    include_fields: list[str] = field(default_factory=list)
    metafield_namespaces: list[str] = field(default_factory=list)
    last_success_us: int = 0


@dataclass(slots=True)
class Delivery:
    """One webhook on its way to one address. Alive until it was delivered, lost or given up."""

    seq: int
    webhook_id: str
    event_id: str
    topic: str  # header form: orders/create
    uri: str
    subscription_id: int  # 0: not made through the API (compliance topics)
    api_version: str
    subject: tuple[str, int, int]  # what the body is about: kind and one or two ids
    captured: dict[str, Any] | None  # values fixed when it happened; None: read them when sending
    triggered_us: int
    due_us: int
    attempts: int = 0
    first_attempt_us: int = 0
    body: str | None = None  # what a retry repeats


@dataclass(slots=True)
class AdjustmentGroup:
    id: int
    created_us: int
    reason: str
    reference: str | None
    changes: list[tuple[str, int, int, int, str | None]]  # name, delta, item, location, ledger document


@dataclass(slots=True)
class BulkOperation:
    id: int
    query: str
    created_us: int
    base_url: str
    status: str = "CREATED"
    completed_us: int | None = None
    error_code: str | None = None
    object_count: int = 0
    root_object_count: int = 0
    file_size: int | None = None


def gid(kind: str, number: int) -> str:
    return f"gid://shopify/{kind}/{number}"


def level_gid(level_number: int, item_id: int) -> str:
    return f"gid://shopify/InventoryLevel/{level_number}?inventory_item_id={item_id}"


def number_of(value: object, kind: str) -> int | None:
    """The number in `gid://shopify/<kind>/<number>` (a plain number passes too), None when it is anything
    else.
    """
    text = str(value)
    prefix = f"gid://shopify/{kind}/"
    tail = text.removeprefix(prefix)
    if tail == text and text.startswith("gid:"):
        return None
    tail = tail.split("?", 1)[0]
    return int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 20 else None
