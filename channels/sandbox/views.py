"""Stores as JSON for shoppers, staff, auditors and the pages; and making a store from JSON."""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from channels.sandbox.faults import Faults
from channels.sandbox.records import Change, Delivery, Level, Order, gid, level_gid
from channels.sandbox.store import Refusal, Store

if TYPE_CHECKING:
    from channels.sandbox.mall import Mall

Json = dict[str, Any]

_HANDLE = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
_IDENTITY = ("handle", "name", "locations", "client_id", "client_secret", "access_token", "currency")
# Names under which the creating request may give settings.
_ALIASES = {"bucket": "bucket_points", "restore_rate": "restore_per_second"}


# --- making -------------------------------------------------------------------------------------------------


def make_store(mall: Mall, given: Json) -> bool:
    """Make the store unless it is there. Returns whether it was made; an existing one is left as it is."""
    handle = str(given.get("handle", ""))
    if not _HANDLE.fullmatch(handle) or handle in ("shop", "admin", "bulk"):
        raise Refusal("handle must be lower-case letters, digits and hyphens", status=400)
    if handle in mall.stores:
        return False
    locations = given.get("locations") or ["Main"]
    if not isinstance(locations, list) or len(set(map(str, locations))) != len(locations):
        raise Refusal("locations must be a list of different names", status=400)
    settings = settings_in({name: value for name, value in given.items() if name not in _IDENTITY})
    if "currency" in given:
        settings["currency"] = str(given["currency"])
    mall.make_store(handle=handle, name=str(given.get("name") or handle.title()), seed=secrets.randbits(48))
    try:
        mall.perform(handle, "configure", {"settings": settings})
        for location in locations:
            name = str(location["name"] if isinstance(location, dict) else location)
            mall.perform(handle, "add_location", {"name": name})
        mall.perform(handle, "install", _credentials(given))
    except Exception:
        mall.remove_store(handle)
        raise
    return True


def _credentials(given: Json) -> dict[str, str]:
    return {
        "client_id": str(given.get("client_id") or secrets.token_hex(16)),
        "client_secret": str(given.get("client_secret") or "shpss_" + secrets.token_hex(16)),
        "access_token": str(given.get("access_token") or "shpat_" + secrets.token_hex(16)),
    }


def settings_in(given: Json) -> Json:
    """Settings under their own names; `bucket` may be a number or {maximumAvailable, restoreRate}."""
    settings: Json = {}
    for name, value in given.items():
        if name == "bucket" and isinstance(value, dict):
            settings["bucket_points"] = value.get("maximumAvailable", 2000)
            settings["restore_per_second"] = value.get("restoreRate", 100)
        else:
            settings[_ALIASES.get(name, name)] = value
    return settings


def recipe(store: Store) -> Json:
    """What makes an empty copy of this store."""
    settings = asdict(store.settings)
    lasting = next((t for t, known in store.access.tokens.items() if known.expires_us is None), None)
    return settings | {
        "handle": store.handle,
        "name": store.name,
        "locations": [location.name for location in store.locations.values()],
        "client_id": store.access.client_id,
        "client_secret": store.access.client_secret,
        "access_token": lasting,
    }


# --- showing ------------------------------------------------------------------------------------------------


def summary(store: Store) -> Json:
    return {
        "handle": store.handle,
        "name": store.name,
        "domain": store.domain,
        "currency": store.settings.currency,
        "locations": [
            {
                "id": location.id,
                "gid": gid("Location", location.id),
                "name": location.name,
                "active": location.active,
            }
            for location in store.locations.values()
        ],
        "variants": len(store.variants),
        "orders": len(store.orders),
        "subscriptions": len(store.subscriptions),
        "installed": store.access.installed,
    }


def with_secrets(store: Store) -> Json:
    """For whoever made the store: with the credentials an app needs."""
    lasting = next((t for t, known in store.access.tokens.items() if known.expires_us is None), None)
    return summary(store) | {
        "client_id": store.access.client_id,
        "client_secret": store.access.client_secret,
        "access_token": lasting,
        "settings": asdict(store.settings),
    }


def variants(store: Store) -> list[Json]:
    return [
        {
            "sku": variant.sku,
            "title": variant.title,
            "product": store.products[variant.product_id].title,
            "variant_id": variant.id,
            "inventory_item_id": variant.item_id,
            "product_id": variant.product_id,
            "barcode": variant.barcode,
            "price": variant.price,
            "policy": variant.policy,
            "tracked": variant.tracked,
            "requires_components": variant.requires_components,
            "available": store.sellable(variant),
        }
        for variant in store.variants.values()
    ]


def _level(store: Store, level: Level) -> Json:
    location = store.locations[level.location_id]
    return {
        "location_id": level.location_id,
        "location": location.name,
        "level_id": level_gid(location.level_number, level.item_id),
        "active": level.active,
        "available": level.available,
        "committed": level.committed,
        "on_hand": level.on_hand,
        "updated_at": _microseconds(level.updated_us),
        "updated_us": level.updated_us,
    }


def _microseconds(us: int) -> str:
    from datetime import UTC, datetime

    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000:06d}Z"


def shelf(store: Store, *, now_us: int) -> Json:
    """All variants and where they are. `last_change` is the position to read `changes` from."""
    return {
        "handle": store.handle,
        "now_us": now_us,
        "now": _microseconds(now_us),
        "last_change": store.next_change - 1,
        "variants": [
            {
                "sku": variant.sku,
                "variant_id": variant.id,
                "inventory_item_id": variant.item_id,
                "tracked": variant.tracked,
                "policy": variant.policy,
                "available": store.sellable(variant),
                "units_sold": variant.units_sold,
                "units_restocked": variant.units_restocked,
                "levels": [_level(store, level) for level in store.levels_of(variant.item_id).values()],
            }
            for variant in store.variants.values()
        ],
    }


def changes(store: Store, *, after: int, limit: int) -> Json:
    """Changes with `seq` above `after`, oldest first. `first_kept` above `after` + 1 means: some were
    forgotten.
    """
    kept = store.changes
    first_kept = kept[0].seq if kept else store.next_change
    start = max(0, after + 1 - first_kept)
    rows = kept[start : start + limit]
    return {
        "handle": store.handle,
        "first_kept": first_kept,
        "last": store.next_change - 1,
        "changes": [_change(store, change) for change in rows],
    }


def _change(store: Store, change: Change) -> Json:
    variant = store.variant_by_item.get(change.item_id)
    return {
        "seq": change.seq,
        "at_us": change.at_us,
        "sku": variant.sku if variant is not None else None,
        "inventory_item_id": change.item_id,
        "location_id": change.location_id,
        "delta": change.delta,
        "available": change.available,
        "committed": change.committed,
        "on_hand": change.on_hand,
        "cause": change.cause,
        "order_id": change.order_id,
        "key": change.key,
        "reference": change.reference,
    }


def stats(store: Store, live: dict[str, int], bucket: dict[str, float]) -> Json:
    """`since_start` counts since this process started; `counters` over the life of the store."""
    return {
        "handle": store.handle,
        "counters": dict(store.counters),
        "since_start": live,
        "bucket": bucket,
        "subscriptions": len(store.subscriptions),
        "changes": store.next_change - 1,
    }


def webhooks(store: Store) -> Json:
    return {
        "subscriptions": [
            {"id": s.id, "topic": s.topic, "uri": s.uri, "name": s.name} for s in store.subscriptions.values()
        ],
        "waiting": [_waiting(delivery) for delivery in list(store.deliveries.values())[:1000]],
    }


def _waiting(delivery: Delivery) -> Json:
    return {
        "webhook_id": delivery.webhook_id,
        "event_id": delivery.event_id,
        "topic": delivery.topic,
        "uri": delivery.uri,
        "attempts": delivery.attempts,
        "triggered_us": delivery.triggered_us,
        "due_us": delivery.due_us,
    }


def orders(store: Store, *, limit: int) -> list[Json]:
    """The newest orders first."""
    newest = list(store.orders.values())[-limit:] if limit else []
    return [order(one) for one in reversed(newest)]


def order(one: Order) -> Json:
    return {
        "id": one.id,
        "name": one.name,
        "created_us": one.created_us,
        "updated_us": one.updated_us,
        "cancelled_us": one.cancelled_us,
        "lines": [
            {
                "id": line.id,
                "sku": line.sku,
                "variant_id": line.variant_id,
                "location_id": line.location_id,
                "quantity": line.quantity,
                "current_quantity": line.current_quantity,
                "fulfilled": line.fulfilled,
            }
            for line in one.lines
        ],
        "refunds": [asdict(refund) for refund in one.refunds],
    }


def faults(switches: Faults) -> Json:
    return asdict(switches)


def live(store: Store, switches: Faults, calls: dict[str, int], *, now_us: int) -> Json:
    """What the shelf page shows, once a second."""
    active = {name: value for name, value in asdict(switches).items() if value and value != (0, 0)}
    active.pop("seed", None)
    return {
        "now_us": now_us,
        "variants": [
            {
                "sku": variant.sku,
                "title": store.products[variant.product_id].title,
                "price": variant.price,
                "available": store.sellable(variant),
                "tracked": variant.tracked,
                "policy": variant.policy,
                "bundle": bool(variant.components),
                "levels": [
                    {"location": store.locations[level.location_id].name, "available": level.available}
                    for level in store.levels_of(variant.item_id).values()
                    if level.active
                ],
            }
            for variant in store.variants.values()
        ],
        "orders": orders(store, limit=8),
        "faults": active,
        "counters": store.counters | calls,
    }
