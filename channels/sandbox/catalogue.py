"""Commands about what a store has: locations, products, variants, where they are stocked. Pure."""

from __future__ import annotations

import re
from typing import Any

from channels.sandbox.records import Level, Location, Product, Variant
from channels.sandbox.store import Refusal, Store

POLICIES = ("DENY", "CONTINUE")
STATUSES = ("ACTIVE", "ARCHIVED", "DRAFT", "UNLISTED")
_PRICE = re.compile(r"[0-9]{1,9}(\.[0-9]{1,2})?")


def add_location(store: Store, now_us: int, *, name: str) -> dict[str, Any]:
    if not name.strip():
        raise Refusal("a location needs a name")
    if any(location.name == name for location in store.locations.values()):
        raise Refusal(f"there is a location named {name!r} already", code="taken")
    location = Location(store.new_id(), name, store.new_id(), now_us, now_us)
    store.locations[location.id] = location
    store.announce("locations/create", ("location", location.id, 0), store.new_event())
    return {"id": location.id, "name": name}


def rename_location(store: Store, now_us: int, *, location: str, name: str) -> dict[str, Any]:
    found = store.location_named(location)
    found.name = name
    found.updated_us = now_us
    store.announce("locations/update", ("location", found.id, 0), store.new_event())
    return {"id": found.id, "name": name}


def set_location_active(store: Store, now_us: int, *, location: str, active: bool) -> dict[str, Any]:
    """Activate or deactivate a location; the last active one stays."""
    found = store.location_named(location)
    others = [other for other in store.locations.values() if other.active and other is not found]
    if not active and not others:
        raise Refusal("the only active location cannot be deactivated", code="last_location")
    if found.active != active:
        found.active = active
        found.deactivated_us = None if active else now_us
        found.updated_us = now_us
        event = store.new_event()
        topic = "locations/activate" if active else "locations/deactivate"
        store.announce(topic, ("location", found.id, 0), event)
        store.announce("locations/update", ("location", found.id, 0), event)
    return {"id": found.id, "active": active}


def delete_location(store: Store, now_us: int, *, location: str) -> dict[str, Any]:
    """Delete an inactive location with its levels."""
    found = store.location_named(location)
    if found.active:
        raise Refusal("deactivate the location first", code="active")
    for item_id, levels in store.item_levels.items():
        if levels.pop(found.id, None) is not None:
            del store.levels[item_id, found.id]
    del store.locations[found.id]
    store.announce("locations/delete", ("deleted", found.id, 0), store.new_event())
    return {"id": found.id}


def add_variants(store: Store, now_us: int, *, variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add variants, or update those whose SKU exists already (levels given for them are set)."""
    for row in variants:
        _check_row(store, row)
    event = store.new_event()
    return [_put_variant(store, now_us, row, event) for row in variants]


def _check_row(store: Store, row: dict[str, Any]) -> None:
    if not str(row.get("sku", "")).strip():
        raise Refusal("each variant needs a sku")
    if row.get("policy", "DENY") not in POLICIES:
        raise Refusal(f"policy must be one of {', '.join(POLICIES)}")
    if str(row.get("status", "ACTIVE")).upper() not in STATUSES:
        raise Refusal(f"status must be one of {', '.join(STATUSES)}")
    if not _PRICE.fullmatch(str(row.get("price") or "0")):
        raise Refusal("price must look like 19.00")
    levels = row.get("levels") or {}
    components = row.get("components") or {}
    if not isinstance(levels, dict) or not all(type(n) is int and abs(n) <= 2_000_000_000 for n in levels.values()):
        raise Refusal("levels must be an object of location -> whole number")
    if not isinstance(components, dict) or not all(type(n) is int and n > 0 for n in components.values()):
        raise Refusal("components must be an object of sku -> whole number above zero")
    for location in levels:
        store.location_named(location)


def _put_variant(store: Store, now_us: int, row: dict[str, Any], event: str) -> dict[str, Any]:
    variant = store.variant_by_sku.get(str(row["sku"]))
    if variant is None:
        variant = _new_variant(store, now_us, row, event)
    else:
        _update_variant(store, now_us, variant, row, event)
    for name, quantity in (row.get("levels") or {}).items():
        location = store.location_named(name)
        known = (variant.item_id, location.id) in store.levels
        level = store.ensure_level(variant.item_id, location.id, active=True)
        if not known:
            store.announce("inventory_levels/connect", ("level", level.item_id, level.location_id), event)
        if level.available != quantity or not known:
            store.change_level(level, cause="admin", event=event, available=quantity - level.available)
    if row.get("levels") is None and not store.levels_of(variant.item_id) and store.locations:
        store.ensure_level(variant.item_id, next(iter(store.locations)), active=True)
    return {
        "sku": variant.sku,
        "variant_id": variant.id,
        "inventory_item_id": variant.item_id,
        "product_id": variant.product_id,
    }


def _new_variant(store: Store, now_us: int, row: dict[str, Any], event: str) -> Variant:
    title = str(row.get("product") or row.get("title") or row["sku"])
    product = next((p for p in store.products.values() if p.title == title), None) if "product" in row else None
    made = product is None
    if product is None:
        product = Product(store.new_id(), title, now_us, now_us, str(row.get("status", "ACTIVE")).upper())
        store.products[product.id] = product
    variant = Variant(
        id=store.new_id(),
        item_id=store.new_id(),
        product_id=product.id,
        sku=str(row["sku"]),
        title=str(row.get("title") or "Default Title"),
        barcode=str(row.get("barcode") or ""),
        price=str(row.get("price") or "19.00"),
        policy=str(row.get("policy", "DENY")),
        tracked=bool(row.get("tracked", True)),
        requires_components=bool(row.get("requires_components", False) or row.get("components")),
        components=dict(row.get("components") or {}),
        created_us=now_us,
        updated_us=now_us,
    )
    product.variant_ids.append(variant.id)
    store.variants[variant.id] = variant
    store.variant_by_item[variant.item_id] = variant
    store.variant_by_sku[variant.sku] = variant
    store.announce("products/create" if made else "products/update", ("product", product.id, 0), event)
    store.announce("inventory_items/create", ("item", variant.item_id, 0), event)
    return variant


def _update_variant(store: Store, now_us: int, variant: Variant, row: dict[str, Any], event: str) -> None:
    before = (variant.title, variant.barcode, variant.price, variant.policy, variant.tracked)
    variant.title = str(row.get("title") or variant.title)
    variant.barcode = str(row.get("barcode") or variant.barcode)
    variant.price = str(row.get("price") or variant.price)
    variant.policy = str(row.get("policy", variant.policy))
    variant.tracked = bool(row.get("tracked", variant.tracked))
    if before != (variant.title, variant.barcode, variant.price, variant.policy, variant.tracked):
        variant.updated_us = now_us
        store.products[variant.product_id].updated_us = now_us
        store.announce("products/update", ("product", variant.product_id, 0), event)
        store.announce("inventory_items/update", ("item", variant.item_id, 0), event)


def rename_sku(store: Store, now_us: int, *, sku: str, new_sku: str) -> dict[str, Any]:
    variant = store.variant_named(sku=sku)
    if new_sku in store.variant_by_sku:
        raise Refusal(f"there is a variant {new_sku!r} already", code="taken")
    del store.variant_by_sku[variant.sku]
    variant.sku = new_sku
    variant.updated_us = now_us
    store.variant_by_sku[new_sku] = variant
    event = store.new_event()
    store.announce("products/update", ("product", variant.product_id, 0), event)
    store.announce("inventory_items/update", ("item", variant.item_id, 0), event)
    return {"sku": new_sku, "variant_id": variant.id}


def delete_product(store: Store, now_us: int, *, product: str) -> dict[str, Any]:
    """Delete a product with its variants and levels; `product` is its id or the SKU of a variant of it."""
    tail = str(product).rsplit("/", 1)[-1]
    if tail.isascii() and tail.isdigit() and int(tail) in store.products:
        found = store.products[int(tail)]
    else:
        found = store.products[store.variant_named(sku=product).product_id]
    event = store.new_event()
    for variant_id in found.variant_ids:
        variant = store.variants.pop(variant_id)
        del store.variant_by_item[variant.item_id]
        store.variant_by_sku.pop(variant.sku, None)
        for location_id in store.item_levels.pop(variant.item_id, {}):
            del store.levels[variant.item_id, location_id]
        store.announce("inventory_items/delete", ("deleted_item", variant.item_id, 0), event)
    del store.products[found.id]
    store.announce("products/delete", ("deleted", found.id, 0), event)
    return {"id": found.id}


def adjust(
    store: Store,
    now_us: int,
    *,
    sku: str,
    location: str | None = None,
    delta: int | None = None,
    quantity: int | None = None,
) -> dict[str, Any]:
    """A person in the store admin changes a number: by `delta`, or to `quantity`."""
    variant = store.variant_named(sku=sku)
    place = store.location_named(location) if location is not None else _only_place(store, variant)
    if (delta is None) == (quantity is None):
        raise Refusal("give either delta or set")
    level = store.ensure_level(variant.item_id, place.id, active=True)
    change = quantity - level.available if quantity is not None else delta or 0
    if change:
        store.change_level(level, cause="admin", event=store.new_event(), available=change)
    return {"sku": sku, "location": place.name, "available": level.available}


def _only_place(store: Store, variant: Variant) -> Location:
    for location_id in sorted(store.levels_of(variant.item_id)) or sorted(store.locations):
        return store.locations[location_id]
    raise Refusal("the store has no location", code="unknown_location", status=404)


def connect_level(store: Store, now_us: int, *, sku: str, location: str) -> dict[str, Any]:
    variant, place = store.variant_named(sku=sku), store.location_named(location)
    event = store.new_event()
    activate_level(store, store.ensure_level(variant.item_id, place.id, active=False), event)
    return {"sku": sku, "location": place.name}


def activate_level(store: Store, level: Level, event: str) -> None:
    """Stock the item at the location; old quantities stay."""
    if not level.active:
        level.active = True
        level.updated_us = store.now_us
        store.announce("inventory_levels/connect", ("level", level.item_id, level.location_id), event)


def disconnect_level(store: Store, now_us: int, *, sku: str, location: str) -> dict[str, Any]:
    variant, place = store.variant_named(sku=sku), store.location_named(location)
    level = store.levels.get((variant.item_id, place.id))
    if level is None or not level.active:
        raise Refusal(f"{sku} is not stocked at {place.name}", code="not_stocked")
    deactivate_level(store, level)
    return {"sku": sku, "location": place.name}


def deactivate_level(store: Store, level: Level) -> None:
    """Stop stocking the item there; quantities stay. That a last level stays active is the caller's check."""
    level.active = False
    level.updated_us = store.now_us
    event = store.new_event()
    store.announce("inventory_levels/disconnect", ("level", level.item_id, level.location_id), event)
