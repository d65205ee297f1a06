"""One emulated store: its records and the few ways to change them. Pure: no I/O, no clock, no randomness.

Every change of a store is a *command*: a function `(store, now_us, ...)` listed in `commands.py`, whose
arguments are JSON. The same commands with the same arguments in the same order give the same store again;
that is how the journal restores it. So a command takes whatever is random (tokens, secrets) as an
argument, checks everything before it changes anything, and raises `Refusal` with nothing changed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from channels.sandbox.idempotency import KeyMemory
from channels.sandbox.records import (
    AdjustmentGroup,
    BulkOperation,
    Change,
    Delivery,
    Level,
    Location,
    Order,
    Product,
    Subscription,
    Variant,
    level_gid,
)

CHANGES_KEPT = 200_000  # of the feed, per store; older ones are forgotten, the counters are not
GROUPS_KEPT = 20_000
ID_STEP = 32  # real ids are not consecutive either


class Refusal(Exception):
    """A command that cannot be done. `status` is the HTTP status, `code` a short machine-readable reason."""

    def __init__(self, message: str, *, code: str = "invalid", status: int = 422) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(slots=True)
class Settings:
    """What a store is like. Changed by the command `configure`."""

    currency: str = "USD"
    bucket_points: float = 2000.0
    restore_per_second: float = 100.0
    replay: str = "stored"  # what a repeated idempotency key meets: stored | stale
    retry_scale: float = 1.0  # 1.0: 8 webhook retries over 4 hours
    drop_subscriptions: bool = True  # delete a subscription whose delivery was given up
    webhook_concurrency: int = 8
    bulk_seconds: float = 0.2  # how long a bulk operation runs
    bulk_url_seconds: float = 7 * 86400.0  # how long the address of its result is good for
    utc_offset_minutes: int = -300  # of the timestamps in webhook bodies
    scopes: list[str] = field(
        default_factory=lambda: [
            "read_inventory",
            "write_inventory",
            "read_products",
            "read_locations",
            "read_orders",
            "read_merchant_managed_fulfillment_orders",
            "read_third_party_fulfillment_orders",
            "read_assigned_fulfillment_orders",
        ]
    )


@dataclass(slots=True)
class Token:
    expires_us: int | None


@dataclass(slots=True)
class RefreshToken:
    expires_us: int
    predecessor: str | None  # still usable until this one is used


@dataclass(slots=True)
class Access:
    """The one app of a store: its client, and what was issued to it. Never shown by repr()."""

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    tokens: dict[str, Token] = field(default_factory=dict, repr=False)
    refresh_tokens: dict[str, RefreshToken] = field(default_factory=dict, repr=False)
    codes: dict[str, int] = field(default_factory=dict, repr=False)  # code -> valid until, us
    installed: bool = True


@dataclass(slots=True)
class Store:
    handle: str
    name: str
    seed: int  # makes webhook ids differ between stores
    created_us: int
    access: Access = field(repr=False)
    settings: Settings = field(default_factory=Settings)
    next_id: int = 1_000_000_000_000
    now_us: int = 0  # the moment of the newest change; moments never repeat
    locations: dict[int, Location] = field(default_factory=dict)
    products: dict[int, Product] = field(default_factory=dict)
    variants: dict[int, Variant] = field(default_factory=dict)
    variant_by_item: dict[int, Variant] = field(default_factory=dict)
    variant_by_sku: dict[str, Variant] = field(default_factory=dict)
    levels: dict[tuple[int, int], Level] = field(default_factory=dict)
    item_levels: dict[int, dict[int, Level]] = field(default_factory=dict)  # item -> location -> level
    orders: dict[int, Order] = field(default_factory=dict)
    order_touches: list[tuple[int, int]] = field(default_factory=list)  # (us, order id), oldest first
    groups: OrderedDict[int, AdjustmentGroup] = field(default_factory=OrderedDict)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    deliveries: dict[int, Delivery] = field(default_factory=dict)
    bulk_operations: dict[int, BulkOperation] = field(default_factory=dict)
    keys: KeyMemory = field(default_factory=KeyMemory)
    changes: list[Change] = field(default_factory=list)
    next_change: int = 1
    next_delivery: int = 1
    next_event: int = 1
    next_order_number: int = 1001
    counters: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Any] = field(default_factory=dict)
    shop_id: int = 0

    @property
    def domain(self) -> str:
        return f"{self.handle}.myshopify.com"

    def new_id(self) -> int:
        self.next_id += ID_STEP
        return self.next_id

    def count(self, counter: str, amount: int = 1) -> None:
        self.counters[counter] = self.counters.get(counter, 0) + amount

    # --- looking up -----------------------------------------------------------------------------------------

    def location_named(self, wanted: object) -> Location:
        """The location with this name, number or global id."""
        text = str(wanted)
        tail = text.rsplit("/", 1)[-1]
        if tail.isascii() and tail.isdigit() and int(tail) in self.locations:
            return self.locations[int(tail)]
        for location in self.locations.values():
            if location.name == text:
                return location
        raise Refusal(f"store {self.handle} has no location {text!r}", code="unknown_location", status=404)

    def variant_named(self, *, sku: object = None, variant_id: object = None) -> Variant:
        """The variant with this SKU, or this variant id (number or global id)."""
        if variant_id is not None:
            tail = str(variant_id).rsplit("/", 1)[-1]
            found = self.variants.get(int(tail)) if tail.isascii() and tail.isdigit() else None
        else:
            found = self.variant_by_sku.get(str(sku))
        if found is None:
            wanted = sku if variant_id is None else variant_id
            raise Refusal(f"store {self.handle} has no variant {wanted!r}", code="unknown_variant", status=404)
        return found

    def order_numbered(self, order_id: object) -> Order:
        tail = str(order_id).rsplit("/", 1)[-1]
        order = self.orders.get(int(tail)) if tail.isascii() and tail.isdigit() else None
        if order is None:
            raise Refusal(f"store {self.handle} has no order {order_id!r}", code="unknown_order", status=404)
        return order

    def levels_of(self, item_id: int) -> dict[int, Level]:
        return self.item_levels.get(item_id, {})

    def sellable(self, variant: Variant) -> int:
        """Units for sale over all active levels at active locations; of a bundle, what its parts make."""
        if variant.components:
            parts = [(self.variant_by_sku.get(sku), units) for sku, units in variant.components.items()]
            return min(self._own_units(part) // units if part is not None else 0 for part, units in parts)
        return self._own_units(variant)

    def _own_units(self, variant: Variant) -> int:
        return sum(
            level.available
            for level in self.levels_of(variant.item_id).values()
            if level.active and self.locations[level.location_id].active
        )

    # --- changing -------------------------------------------------------------------------------------------

    def ensure_level(self, item_id: int, location_id: int, *, active: bool) -> Level:
        level = self.levels.get((item_id, location_id))
        if level is None:
            now_us = self.now_us
            level = Level(item_id, location_id, now_us, now_us, now_us, active)
            self.levels[item_id, location_id] = level
            self.item_levels.setdefault(item_id, {})[location_id] = level
        return level

    def change_level(
        self,
        level: Level,
        *,
        cause: str,
        event: str,
        available: int = 0,
        committed: int = 0,
        order_id: int | None = None,
        key: str | None = None,
        reference: str | None = None,
    ) -> None:
        """Add to the level, write it into the feed of changes, and announce it."""
        level.available += available
        level.committed += committed
        self.note_level(
            level,
            cause=cause,
            event=event,
            delta=available,
            order_id=order_id,
            key=key,
            reference=reference,
        )

    def note_level(
        self,
        level: Level,
        *,
        cause: str,
        event: str,
        delta: int,
        order_id: int | None = None,
        key: str | None = None,
        reference: str | None = None,
    ) -> None:
        """Record that the level was changed just now."""
        level.updated_us = self.now_us
        if delta:
            level.available_us = self.now_us
        change = Change(
            self.next_change,
            self.now_us,
            level.item_id,
            level.location_id,
            delta,
            level.available,
            level.committed,
            level.on_hand,
            cause,
            order_id,
            key,
            reference,
        )
        self.next_change += 1
        self.changes.append(change)
        if len(self.changes) > 2 * CHANGES_KEPT:
            del self.changes[:CHANGES_KEPT]
        self.announce("inventory_levels/update", ("level", level.item_id, level.location_id), event)

    def keep_group(self, group: AdjustmentGroup) -> None:
        self.groups[group.id] = group
        while len(self.groups) > GROUPS_KEPT:
            self.groups.popitem(last=False)

    def touch_order(self, order: Order) -> None:
        order.touched_us.append(self.now_us)
        self.order_touches.append((self.now_us, order.id))

    def new_event(self) -> str:
        """The id all webhooks of one action share."""
        number = self.next_event
        self.next_event += 1
        return _uuid_like(self.seed ^ 0x5EED, number)

    def announce(
        self,
        topic: str,
        subject: tuple[str, int, int],
        event: str,
        captured: dict[str, Any] | None = None,
    ) -> None:
        """Queue one webhook for each subscription to the topic."""
        wanted = topic.upper().replace("/", "_")
        for subscription in self.subscriptions.values():
            if subscription.topic == wanted and subscription.uri.startswith("http"):
                self.queue_delivery(
                    topic,
                    subject,
                    event,
                    uri=subscription.uri,
                    subscription_id=subscription.id,
                    api_version=subscription.api_version,
                    captured=captured,
                )

    def queue_delivery(
        self,
        topic: str,
        subject: tuple[str, int, int],
        event: str,
        *,
        uri: str,
        subscription_id: int,
        api_version: str,
        captured: dict[str, Any] | None,
    ) -> None:
        if subject[0] == "level" and captured is None:
            captured = self._captured_level(subject)
        seq = self.next_delivery
        self.next_delivery += 1
        self.deliveries[seq] = Delivery(
            seq=seq,
            webhook_id=_uuid_like(self.seed, seq),
            event_id=event,
            topic=topic,
            uri=uri,
            subscription_id=subscription_id,
            api_version=api_version,
            subject=subject,
            captured=captured,
            triggered_us=self.now_us,
            due_us=self.now_us,
        )
        self.count("webhooks_made")

    def _captured_level(self, subject: tuple[str, int, int]) -> dict[str, Any]:
        level = self.levels[subject[1], subject[2]]
        number = self.locations[subject[2]].level_number
        return {
            "available": level.available,
            "updated_us": level.updated_us,
            "gid": level_gid(number, subject[1]),
        }


def _uuid_like(seed: int, number: int) -> str:
    """An id in the form of a version 4 UUID which is the same whenever the journal is replayed."""
    mixed = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03) & ((1 << 64) - 1)
    high = f"{mixed:016x}"
    return f"{high[:8]}-{high[8:12]}-4{high[12:15]}-a{high[15]}{seed & 0xFF:02x}-{number:012x}"
