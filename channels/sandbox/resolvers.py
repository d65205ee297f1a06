"""What the fields of the schema read. Pure: a store and a moment in, values out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from graphql import GraphQLResolveInfo

from channels.sandbox.connections import earliest, matching, page_of
from channels.sandbox.mall import Mall
from channels.sandbox.payloads import financial_status, handle_of
from channels.sandbox.quantities import find_level
from channels.sandbox.records import (
    ALL_STATES,
    AdjustmentGroup,
    BulkOperation,
    Fulfillment,
    FulfillmentOrder,
    Level,
    Location,
    Order,
    OrderLine,
    Product,
    Refund,
    RefundLine,
    Subscription,
    Variant,
    gid,
    level_gid,
    number_of,
)
from channels.sandbox.store import Store

Info = GraphQLResolveInfo
Resolver = Callable[..., Any]

APP_ID = 1
API_VERSION = "2026-10"
SUPPORTED_VERSIONS = ("2026-01", "2026-04", "2026-07", "2026-10")


@dataclass(slots=True)
class Session:
    """Everything one request may look at."""

    mall: Mall
    store: Store
    now_us: int
    base_url: str
    api_version: str = API_VERSION
    list_lag_us: int = 0
    unlimited: bool = False  # connections are not paged (bulk operations)
    keys_in_flight: frozenset[str] = frozenset()  # of other requests, when this one arrived


@dataclass(frozen=True, slots=True)
class Item:
    """The inventory item side of a variant."""

    variant: Variant


@dataclass(frozen=True, slots=True)
class Cell:
    """One quantity of a level."""

    level: Level
    name: str


@dataclass(frozen=True, slots=True)
class OrderPart:
    """Something that is only understood together with its order."""

    order: Order
    row: Any


@lru_cache(maxsize=8192)
def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(us: int | None) -> str | None:
    return None if us is None else _moment(us // 1_000_000)


def _store(info: Info) -> Store:
    store: Store = info.context.store
    return store


def _page(info: Info, rows: Sequence[Any], args: dict[str, Any]) -> dict[str, Any]:
    return page_of(rows, lambda row: (row.id,), args, unlimited=info.context.unlimited)


# --- the shop -----------------------------------------------------------------------------------------------


def _shop(_: Any, info: Info) -> dict[str, Any]:
    store = _store(info)
    url = f"https://{store.domain}"
    return {
        "id": gid("Shop", store.shop_id),
        "name": store.name,
        "email": f"owner@{store.handle}.example",
        "contactEmail": f"owner@{store.handle}.example",
        "myshopifyDomain": store.domain,
        "currencyCode": store.settings.currency,
        "ianaTimezone": "America/New_York",
        "timezoneAbbreviation": "EST",
        "timezoneOffset": "-0500",
        "createdAt": moment(store.created_us),
        "updatedAt": moment(store.created_us),
        "url": url,
        "plan": {
            "displayName": "Sandbox",
            "publicDisplayName": "Sandbox",
            "partnerDevelopment": True,
            "shopifyPlus": False,
        },
        "primaryDomain": {
            "id": gid("Domain", store.shop_id),
            "host": store.domain,
            "url": url,
            "sslEnabled": True,
        },
    }


def _app(_: Any, info: Info, **__: Any) -> dict[str, Any]:
    return {
        "id": gid("App", APP_ID),
        "handle": "sandbox-app",
        "title": "Sandbox app",
        "apiKey": _store(info).access.client_id,
        "webhookApiVersion": API_VERSION,
        "embedded": False,
    }


def _installation(_: Any, info: Info) -> dict[str, Any]:
    scopes = _store(info).settings.scopes
    return {
        "id": gid("AppInstallation", APP_ID),
        "app": _app(None, info),
        "accessScopes": [{"handle": scope, "description": scope.replace("_", " ")} for scope in scopes],
    }


def _versions(_: Any, __: Info) -> list[dict[str, Any]]:
    return [{"handle": name, "displayName": name, "supported": True} for name in SUPPORTED_VERSIONS]


# --- locations ----------------------------------------------------------------------------------------------


def _locations(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    rows = [loc for loc in _store(info).locations.values() if loc.active or args.get("include_inactive")]
    found = matching(
        rows,
        args.get("query"),
        {
            "name": lambda loc: loc.name,
            "id": lambda loc: loc.id,
            "active": lambda loc: loc.active,
            "created_at": lambda loc: loc.created_us,
        },
    )
    if args.get("sort_key", "NAME") == "NAME":
        ordered = sorted(found, key=lambda loc: (loc.name, loc.id))
        return page_of(ordered, lambda loc: (loc.name, loc.id), args, unlimited=info.context.unlimited)
    return _page(info, found, args)


def _location(_: Any, info: Info, id: str | None = None) -> Location | None:
    locations = _store(info).locations
    if id is None:
        return next(iter(locations.values()), None)
    return locations.get(number_of(id, "Location") or 0)


def _location_levels(location: Location, info: Info, **args: Any) -> dict[str, Any]:
    store = _store(info)
    rows = [
        level
        for (_, location_id), level in store.levels.items()
        if location_id == location.id and (level.active or args.get("include_inactive"))
    ]
    rows.sort(key=lambda level: level.item_id)
    return page_of(rows, lambda level: (level.item_id,), args, unlimited=info.context.unlimited)


def _location_level(
    location: Location, info: Info, inventory_item_id: str, include_inactive: bool = False
) -> Level | None:
    level = _store(info).levels.get((number_of(inventory_item_id, "InventoryItem") or 0, location.id))
    return level if level is not None and (level.active or include_inactive) else None


def _has_open_orders(location: Location, info: Info) -> bool:
    return any(level.committed for (_, place), level in _store(info).levels.items() if place == location.id)


LOCATION: dict[str, Resolver] = {
    "id": lambda loc, _: gid("Location", loc.id),
    "legacyResourceId": lambda loc, _: str(loc.id),
    "isActive": lambda loc, _: loc.active,
    "isFulfillmentService": lambda _, __: False,
    "isPrimary": lambda loc, info: loc.id == next(iter(_store(info).locations)),
    "fulfillsOnlineOrders": lambda loc, _: loc.active,
    "shipsInventory": lambda loc, _: loc.active,
    "hasActiveInventory": lambda loc, info: any(
        level.active for (_, place), level in _store(info).levels.items() if place == loc.id
    ),
    "hasUnfulfilledOrders": _has_open_orders,
    "activatable": lambda loc, _: not loc.active,
    "deactivatable": lambda loc, _: loc.active,
    "deletable": lambda loc, _: not loc.active,
    "deactivatedAt": lambda loc, _: moment(loc.deactivated_us),
    "createdAt": lambda loc, _: moment(loc.created_us),
    "updatedAt": lambda loc, _: moment(loc.updated_us),
    "address": lambda _, __: {
        "address1": "1 Sandbox Street",
        "city": "Ottawa",
        "country": "Canada",
        "countryCode": "CA",
        "province": "Ontario",
        "provinceCode": "ON",
        "zip": "K1N 5T5",
        "formatted": ["1 Sandbox Street", "Ottawa ON K1N 5T5", "Canada"],
    },
    "inventoryLevels": _location_levels,
    "inventoryLevel": _location_level,
}


# --- products and variants ----------------------------------------------------------------------------------


def _variants(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    store = _store(info)
    found = matching(
        list(store.variants.values()),
        args.get("query"),
        {
            "id": lambda variant: variant.id,
            "sku": lambda variant: variant.sku,
            "barcode": lambda variant: variant.barcode,
            "title": lambda variant: variant.title,
            "product_id": lambda variant: variant.product_id,
            "updated_at": lambda variant: variant.updated_us,
            "inventory_quantity": store.sellable,
        },
    )
    return _page(info, found, args)


def _products(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    found = matching(
        list(_store(info).products.values()),
        args.get("query"),
        {
            "id": lambda product: product.id,
            "title": lambda product: product.title,
            "status": lambda product: product.status,
            "updated_at": lambda product: product.updated_us,
            "created_at": lambda product: product.created_us,
        },
    )
    return _page(info, found, args)


def _display_name(variant: Variant, info: Info) -> str:
    product = _store(info).products[variant.product_id]
    return f"{product.title} - {variant.title}"


VARIANT: dict[str, Resolver] = {
    "id": lambda v, _: gid("ProductVariant", v.id),
    "legacyResourceId": lambda v, _: str(v.id),
    "sku": lambda v, _: v.sku,
    "barcode": lambda v, _: v.barcode or None,
    "displayName": _display_name,
    "position": lambda v, info: _store(info).products[v.product_id].variant_ids.index(v.id) + 1,
    "taxable": lambda _, __: True,
    "createdAt": lambda v, _: moment(v.created_us),
    "updatedAt": lambda v, _: moment(v.updated_us),
    "availableForSale": lambda v, info: not v.tracked or v.policy == "CONTINUE" or _store(info).sellable(v) > 0,
    "inventoryPolicy": lambda v, _: v.policy,
    "inventoryQuantity": lambda v, info: _store(info).sellable(v),
    "sellableOnlineQuantity": lambda v, info: _store(info).sellable(v),
    "requiresComponents": lambda v, _: v.requires_components,
    "selectedOptions": lambda v, _: [{"name": "Title", "value": v.title}],
    "product": lambda v, info: _store(info).products[v.product_id],
    "inventoryItem": lambda v, _: Item(v),
}


def _of_product(product: Product, info: Info) -> list[Variant]:
    return [_store(info).variants[number] for number in product.variant_ids]


PRODUCT: dict[str, Resolver] = {
    "id": lambda p, _: gid("Product", p.id),
    "legacyResourceId": lambda p, _: str(p.id),
    "handle": lambda p, _: handle_of(p.title),
    "vendor": lambda _, info: _store(info).name,
    "productType": lambda _, __: "",
    "tags": lambda _, __: [],
    "createdAt": lambda p, _: moment(p.created_us),
    "updatedAt": lambda p, _: moment(p.updated_us),
    "publishedAt": lambda p, _: moment(p.created_us),
    "totalInventory": lambda p, info: sum(_store(info).sellable(v) for v in _of_product(p, info)),
    "tracksInventory": lambda p, info: any(v.tracked for v in _of_product(p, info)),
    "hasOnlyDefaultVariant": lambda p, _: len(p.variant_ids) == 1,
    "hasVariantsThatRequiresComponents": lambda p, info: any(v.requires_components for v in _of_product(p, info)),
    "isGiftCard": lambda _, __: False,
    "variants": lambda p, info, **args: _page(info, _of_product(p, info), args),
}


# --- inventory ----------------------------------------------------------------------------------------------


def _items(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    rows = sorted(_store(info).variants.values(), key=lambda variant: variant.item_id)
    found = matching(
        rows,
        args.get("query"),
        {
            "id": lambda variant: variant.item_id,
            "sku": lambda variant: variant.sku,
            "updated_at": lambda variant: variant.updated_us,
            "created_at": lambda variant: variant.created_us,
        },
    )
    items = [Item(variant) for variant in found]
    return page_of(items, lambda item: (item.variant.item_id,), args, unlimited=info.context.unlimited)


def _item(_: Any, info: Info, id: str) -> Item | None:
    variant = _store(info).variant_by_item.get(number_of(id, "InventoryItem") or 0)
    return None if variant is None else Item(variant)


def _item_levels(item: Item, info: Info, **args: Any) -> dict[str, Any]:
    levels = _store(info).levels_of(item.variant.item_id)
    rows = [level for level in levels.values() if level.active or args.get("include_inactive")]
    rows.sort(key=lambda level: level.location_id)
    found = matching(
        rows, args.get("query"), {"updated_at": lambda lvl: lvl.updated_us, "id": lambda lvl: lvl.location_id}
    )
    return page_of(found, lambda level: (level.location_id,), args, unlimited=info.context.unlimited)


def _item_level(item: Item, info: Info, location_id: str, include_inactive: bool = False) -> Level | None:
    level = _store(info).levels_of(item.variant.item_id).get(number_of(location_id, "Location") or 0)
    return level if level is not None and (level.active or include_inactive) else None


ITEM: dict[str, Resolver] = {
    "id": lambda item, _: gid("InventoryItem", item.variant.item_id),
    "legacyResourceId": lambda item, _: str(item.variant.item_id),
    "sku": lambda item, _: item.variant.sku,
    "tracked": lambda item, _: item.variant.tracked,
    "requiresShipping": lambda _, __: True,
    "duplicateSkuCount": lambda _, __: 0,
    "createdAt": lambda item, _: moment(item.variant.created_us),
    "updatedAt": lambda item, _: moment(item.variant.updated_us),
    "inventoryLevels": _item_levels,
    "inventoryLevel": _item_level,
    "variant": lambda item, _: item.variant,
    "variants": lambda item, info, **args: _page(info, [item.variant], args),
}


def _level_id(level: Level, info: Info) -> str:
    return level_gid(_store(info).locations[level.location_id].level_number, level.item_id)


def _quantities(level: Level, info: Info, names: list[str]) -> list[Cell]:
    unknown = [name for name in names if name not in ALL_STATES]
    if unknown:
        raise ValueError(f"The specified quantity names are invalid: {', '.join(unknown)}")
    return [Cell(level, name) for name in names]


def _can_deactivate(level: Level, info: Info) -> bool:
    return sum(other.active for other in _store(info).levels_of(level.item_id).values()) > 1


LEVEL: dict[str, Resolver] = {
    "id": _level_id,
    "isActive": lambda level, _: level.active,
    "canDeactivate": _can_deactivate,
    "createdAt": lambda level, _: moment(level.created_us),
    "updatedAt": lambda level, _: moment(level.updated_us),
    "item": lambda level, info: Item(_store(info).variant_by_item[level.item_id]),
    "location": lambda level, info: _store(info).locations[level.location_id],
    "quantities": _quantities,
}

CELL: dict[str, Resolver] = {
    "id": lambda cell, info: (
        _level_id(cell.level, info).replace("InventoryLevel", "InventoryQuantity") + f"&name={cell.name}"
    ),
    "name": lambda cell, _: cell.name,
    "quantity": lambda cell, _: getattr(cell.level, cell.name),
    # Recorded from real stores: only `available` has a time of its own.
    "updatedAt": lambda cell, _: moment(cell.level.available_us) if cell.name == "available" else None,
}


def _changes(
    group: AdjustmentGroup,
    info: Info,
    inventory_item_ids: list[str] | None = None,
    location_ids: list[str] | None = None,
    quantity_names: list[str] | None = None,
) -> list[dict[str, Any]]:
    store = _store(info)
    items = {number_of(i, "InventoryItem") for i in inventory_item_ids} if inventory_item_ids else None
    places = {number_of(i, "Location") for i in location_ids} if location_ids else None
    shown = []
    for name, delta, item_id, location_id, document in group.changes:
        if (items and item_id not in items) or (places and location_id not in places):
            continue
        if quantity_names and name not in quantity_names:
            continue
        variant = store.variant_by_item.get(item_id)
        shown.append(
            {
                "name": name,
                "delta": delta,
                "quantityAfterChange": None,  # recorded: null in every answer
                "ledgerDocumentUri": document,
                "item": Item(variant) if variant is not None else None,
                "location": store.locations.get(location_id),
            }
        )
    return shown


GROUP: dict[str, Resolver] = {
    "id": lambda group, _: gid("InventoryAdjustmentGroup", group.id),
    "createdAt": lambda group, _: moment(group.created_us),
    "referenceDocumentUri": lambda group, _: group.reference,
    "app": _app,
    "changes": _changes,
}


# --- orders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listed:
    """An order as the list's index knows it: the index may lag behind the order."""

    order: Order
    indexed_us: int


def _listed(session: Session, since_us: int | None) -> list[Listed]:
    """Orders by the moment the index last saw them change, oldest first. Reads back from the newest."""
    store = session.store
    horizon_us = session.now_us - session.list_lag_us if session.list_lag_us else None
    seen: set[int] = set()
    found: list[Listed] = []
    floor_us = None if since_us is None else since_us // 1_000_000 * 1_000_000
    for touched_us, order_id in reversed(store.order_touches):
        if floor_us is not None and touched_us < floor_us:
            break
        if order_id in seen or (horizon_us is not None and touched_us > horizon_us):
            continue
        seen.add(order_id)
        found.append(Listed(store.orders[order_id], touched_us))
    found.reverse()
    return found


def _orders(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    query = args.get("query")
    rows = matching(
        _listed(info.context, earliest(query, "updated_at")),
        query,
        {
            "updated_at": lambda row: row.indexed_us,
            "created_at": lambda row: row.order.created_us,
            "processed_at": lambda row: row.order.created_us,
            "id": lambda row: row.order.id,
            "name": lambda row: row.order.name,
            "financial_status": lambda row: financial_status(row.order),
        },
    )
    if args.get("sort_key") == "UPDATED_AT":
        keyed = [((row.indexed_us, row.order.id), row.order) for row in rows]
    else:
        keyed = sorted(((row.order.created_us, row.order.id), row.order) for row in rows)
    keys = {id(order): key for key, order in keyed}
    orders = [order for _, order in keyed]
    return page_of(orders, lambda order: keys[id(order)], args, unlimited=info.context.unlimited)


def _order_status(order: Order, _: Info) -> str:
    if not order.fulfillments:
        return "UNFULFILLED"
    return "PARTIALLY_FULFILLED" if any(line.unfulfilled for line in order.lines) else "FULFILLED"


def _parts(info: Info, order: Order, rows: Sequence[Any], args: dict[str, Any]) -> dict[str, Any]:
    parts = [OrderPart(order, row) for row in rows]
    return page_of(parts, lambda part: (_own_id(part.row),), args, unlimited=info.context.unlimited)


def _own_id(row: Any) -> int:
    number: int = row[0] if isinstance(row, tuple) else row.id
    return number


ORDER: dict[str, Resolver] = {
    "id": lambda o, _: gid("Order", o.id),
    "legacyResourceId": lambda o, _: str(o.id),
    "createdAt": lambda o, _: moment(o.created_us),
    "updatedAt": lambda o, _: moment(o.updated_us),
    "processedAt": lambda o, _: moment(o.created_us),
    "cancelledAt": lambda o, _: moment(o.cancelled_us),
    "cancelReason": lambda o, _: o.cancel_reason.upper() if o.cancel_reason else None,
    "closed": lambda _, __: False,
    "closedAt": lambda _, __: None,
    "confirmed": lambda _, __: True,
    "test": lambda _, __: False,
    "edited": lambda o, _: bool(o.edits),
    "tags": lambda _, __: [],
    "currencyCode": lambda _, info: _store(info).settings.currency,
    "presentmentCurrencyCode": lambda _, info: _store(info).settings.currency,
    "displayFinancialStatus": lambda o, _: financial_status(o),
    "displayFulfillmentStatus": _order_status,
    "sourceName": lambda o, _: o.source,
    "subtotalLineItemsQuantity": lambda o, _: sum(line.quantity for line in o.lines),
    "currentSubtotalLineItemsQuantity": lambda o, _: sum(line.current_quantity for line in o.lines),
    "restockable": lambda o, _: any(line.current_quantity for line in o.lines),
    "refundable": lambda o, _: any(line.current_quantity for line in o.lines),
    "lineItems": lambda o, info, **args: _page(info, o.lines, args),
    "refunds": lambda o, _, first=None: o.refunds[:first],
    "fulfillments": lambda o, _, first=None, query=None: o.fulfillments[:first],
    "fulfillmentOrders": lambda o, info, **args: _page(info, o.fulfillment_orders, args),
}

LINE: dict[str, Resolver] = {
    "id": lambda line, _: gid("LineItem", line.id),
    "name": lambda line, _: line.title,
    "currentQuantity": lambda line, _: line.current_quantity,
    "unfulfilledQuantity": lambda line, _: line.unfulfilled,
    "nonFulfillableQuantity": lambda line, _: line.quantity - line.unfulfilled - line.fulfilled,
    "refundableQuantity": lambda line, _: line.current_quantity,
    "requiresShipping": lambda _, __: True,
    "restockable": lambda line, _: line.location_id is not None,
    "taxable": lambda _, __: True,
    "isGiftCard": lambda _, __: False,
    "vendor": lambda _, info: _store(info).name,
    "variant": lambda line, info: _store(info).variants.get(line.variant_id),
    "product": lambda line, info: _store(info).products.get(line.product_id),
}


def _refund_lines(refund: Refund, info: Info, **args: Any) -> dict[str, Any]:
    return _parts(info, _store(info).orders[refund.order_id], refund.lines, args)


REFUND: dict[str, Resolver] = {
    "id": lambda r, _: gid("Refund", r.id),
    "legacyResourceId": lambda r, _: str(r.id),
    "createdAt": lambda r, _: moment(r.created_us),
    "processedAt": lambda r, _: moment(r.created_us),
    "updatedAt": lambda r, _: moment(r.created_us),
    "order": lambda r, info: _store(info).orders[r.order_id],
    "refundLineItems": _refund_lines,
}

REFUND_LINE: dict[str, Resolver] = {
    "id": lambda part, _: gid("RefundLineItem", part.row.id),
    "quantity": lambda part, _: part.row.quantity,
    "restockType": lambda part, _: part.row.restock_type.upper(),
    "restocked": lambda part, _: part.row.restock_type != "no_restock",
    "location": lambda part, info: _store(info).locations.get(part.row.location_id),
    "lineItem": lambda part, _: part.order.line(part.row.line_id),
}


def _fulfillment_lines(fulfillment: Fulfillment, info: Info, **args: Any) -> dict[str, Any]:
    return _parts(info, _store(info).orders[fulfillment.order_id], fulfillment.lines, args)


FULFILLMENT: dict[str, Resolver] = {
    "id": lambda f, _: gid("Fulfillment", f.id),
    "legacyResourceId": lambda f, _: str(f.id),
    "name": lambda f, info: f"{_store(info).orders[f.order_id].name}.{f.number}",
    "status": lambda _, __: "SUCCESS",
    "totalQuantity": lambda f, _: sum(quantity for _, _, quantity in f.lines),
    "requiresShipping": lambda _, __: True,
    "createdAt": lambda f, _: moment(f.created_us),
    "updatedAt": lambda f, _: moment(f.created_us),
    "location": lambda f, info: _store(info).locations.get(f.location_id),
    "order": lambda f, info: _store(info).orders[f.order_id],
    "fulfillmentLineItems": _fulfillment_lines,
}

FULFILLMENT_LINE: dict[str, Resolver] = {
    "id": lambda part, _: gid("FulfillmentLineItem", part.row[0]),
    "quantity": lambda part, _: part.row[2],
    "lineItem": lambda part, _: part.order.line(part.row[1]),
}


def _fulfillment_order_status(wanted: FulfillmentOrder, info: Info) -> str:
    order = _store(info).orders[wanted.order_id]
    lines = [order.line(line_id) for _, line_id in wanted.lines]
    if any(line is not None and line.unfulfilled for line in lines):
        return "OPEN"
    return "CANCELLED" if order.cancelled_us is not None else "CLOSED"


def _assigned(wanted: FulfillmentOrder, info: Info) -> dict[str, Any]:
    location = _store(info).locations.get(wanted.location_id)
    return {"name": location.name if location else "deleted", "countryCode": "CA", "location": location}


def _fulfillment_order_lines(wanted: FulfillmentOrder, info: Info, **args: Any) -> dict[str, Any]:
    return _parts(info, _store(info).orders[wanted.order_id], wanted.lines, args)


FULFILLMENT_ORDER: dict[str, Resolver] = {
    "id": lambda f, _: gid("FulfillmentOrder", f.id),
    "status": _fulfillment_order_status,
    "requestStatus": lambda _, __: "UNSUBMITTED",
    "createdAt": lambda f, _: moment(f.created_us),
    "updatedAt": lambda f, _: moment(f.created_us),
    "orderId": lambda f, _: gid("Order", f.order_id),
    "orderName": lambda f, info: _store(info).orders[f.order_id].name,
    "orderProcessedAt": lambda f, info: moment(_store(info).orders[f.order_id].created_us),
    "order": lambda f, info: _store(info).orders[f.order_id],
    "assignedLocation": _assigned,
    "lineItems": _fulfillment_order_lines,
}


def _line_of(part: OrderPart) -> OrderLine:
    line = part.order.line(part.row[1])
    assert line is not None
    return line


FULFILLMENT_ORDER_LINE: dict[str, Resolver] = {
    "id": lambda part, _: gid("FulfillmentOrderLineItem", part.row[0]),
    "sku": lambda part, _: _line_of(part).sku,
    "totalQuantity": lambda part, _: _line_of(part).current_quantity,
    "remainingQuantity": lambda part, _: _line_of(part).unfulfilled,
    "requiresShipping": lambda _, __: True,
    "productTitle": lambda part, _: _line_of(part).title,
    "inventoryItemId": lambda part, _: gid("InventoryItem", _line_of(part).item_id),
    "vendor": lambda _, info: _store(info).name,
    "lineItem": lambda part, _: _line_of(part),
    "variant": lambda part, info: _store(info).variants.get(_line_of(part).variant_id),
}


# --- webhooks and bulk operations ---------------------------------------------------------------------------


def _subscriptions(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    topics, uri = args.get("topics"), args.get("uri") or args.get("callback_url")
    rows = [
        s
        for s in _store(info).subscriptions.values()
        if (not topics or s.topic in topics) and (not uri or s.uri == uri)
    ]
    return _page(info, rows, args)


def _endpoint(subscription: Subscription, info: Info) -> dict[str, Any]:
    uri = subscription.uri
    if uri.startswith("arn:"):
        return {"__typename": "WebhookEventBridgeEndpoint", "arn": uri}
    if uri.startswith("pubsub://"):
        project, _, topic = uri.removeprefix("pubsub://").partition(":")
        return {"__typename": "WebhookPubSubEndpoint", "pubSubProject": project, "pubSubTopic": topic}
    return {"__typename": "WebhookHttpEndpoint", "callbackUrl": uri}


SUBSCRIPTION: dict[str, Resolver] = {
    "id": lambda s, _: gid("WebhookSubscription", s.id),
    "legacyResourceId": lambda s, _: str(s.id),
    "callbackUrl": lambda s, _: s.uri,
    "format": lambda _, __: "JSON",
    "includeFields": lambda s, _: s.include_fields,
    "metafieldNamespaces": lambda s, _: s.metafield_namespaces,
    "apiVersion": lambda s, _: {
        "handle": s.api_version,
        "displayName": s.api_version,
        "supported": s.api_version in SUPPORTED_VERSIONS,
    },
    "endpoint": _endpoint,
    "createdAt": lambda s, _: moment(s.created_us),
    "updatedAt": lambda s, _: moment(s.updated_us),
}


def _bulk_operations(_: Any, info: Info, **args: Any) -> dict[str, Any]:
    rows = matching(
        list(_store(info).bulk_operations.values()),
        args.get("query"),
        {
            "status": lambda op: op.status,
            "id": lambda op: op.id,
            "created_at": lambda op: op.created_us,
        },
    )
    return _page(info, rows, args)


def _current_bulk(_: Any, info: Info, type: str = "QUERY") -> BulkOperation | None:
    operations = list(_store(info).bulk_operations.values())
    return operations[-1] if operations and type == "QUERY" else None


def _download_url(operation: BulkOperation, info: Info) -> str | None:
    return _result_url(operation, info) if operation.status == "COMPLETED" else None


def _partial_url(operation: BulkOperation, info: Info) -> str | None:
    """What it had found when it failed."""
    return _result_url(operation, info) if operation.status == "FAILED" else None


def _result_url(operation: BulkOperation, info: Info) -> str | None:
    if not operation.object_count:
        return None
    session: Session = info.context
    until_us = session.now_us + int(session.store.settings.bulk_url_seconds * 1_000_000)
    return f"{operation.base_url}/bulk/{operation.id}.jsonl?until={until_us}"


BULK: dict[str, Resolver] = {
    "id": lambda op, _: gid("BulkOperation", op.id),
    "type": lambda _, __: "QUERY",
    "errorCode": lambda op, _: op.error_code,
    "createdAt": lambda op, _: moment(op.created_us),
    "completedAt": lambda op, _: moment(op.completed_us),
    "objectCount": lambda op, _: str(op.object_count),
    "rootObjectCount": lambda op, _: str(op.root_object_count),
    "fileSize": lambda op, _: None if op.file_size is None else str(op.file_size),
    "url": _download_url,
    "partialDataUrl": _partial_url,
}


# --- anything by its id -------------------------------------------------------------------------------------


def _by_table(table: str) -> Callable[[Store, str, str], Any]:
    def find(store: Store, text: str, kind: str) -> Any:
        return getattr(store, table).get(number_of(text, kind) or 0)

    return find


def _find_item(store: Store, text: str, kind: str) -> Item | None:
    variant = store.variant_by_item.get(number_of(text, kind) or 0)
    return None if variant is None else Item(variant)


FINDERS: dict[str, Callable[[Store, str, str], Any]] = {
    "InventoryItem": _find_item,
    "InventoryLevel": lambda store, text, _: find_level(store, text),
    "ProductVariant": _by_table("variants"),
    "Product": _by_table("products"),
    "Order": _by_table("orders"),
    "Location": _by_table("locations"),
    "InventoryAdjustmentGroup": _by_table("groups"),
    "BulkOperation": _by_table("bulk_operations"),
    "WebhookSubscription": _by_table("subscriptions"),
}


def _node(_: Any, info: Info, id: str) -> Any:
    kind = id.removeprefix("gid://shopify/").split("/", 1)[0]
    finder = FINDERS.get(kind)
    return None if finder is None else finder(_store(info), id, kind)


def _nodes(_: Any, info: Info, ids: list[str]) -> list[Any]:
    return [_node(None, info, one) for one in ids]


def _one(kind: str) -> Resolver:
    def resolve(_: Any, info: Info, id: str) -> Any:
        return FINDERS[kind](_store(info), id, kind)

    return resolve


QUERY: dict[str, Resolver] = {
    "shop": _shop,
    "app": _app,
    "currentAppInstallation": _installation,
    "publicApiVersions": _versions,
    "locations": _locations,
    "location": _location,
    "productVariants": _variants,
    "productVariant": _one("ProductVariant"),
    "products": _products,
    "product": _one("Product"),
    "inventoryItems": _items,
    "inventoryItem": _item,
    "inventoryLevel": _one("InventoryLevel"),
    "orders": _orders,
    "order": _one("Order"),
    "webhookSubscriptions": _subscriptions,
    "webhookSubscription": _one("WebhookSubscription"),
    "bulkOperations": _bulk_operations,
    "bulkOperation": _one("BulkOperation"),
    "currentBulkOperation": _current_bulk,
    "node": _node,
    "nodes": _nodes,
}

RESOLVERS: dict[str, dict[str, Resolver]] = {
    "QueryRoot": QUERY,
    "Location": LOCATION,
    "ProductVariant": VARIANT,
    "Product": PRODUCT,
    "InventoryItem": ITEM,
    "InventoryLevel": LEVEL,
    "InventoryQuantity": CELL,
    "InventoryAdjustmentGroup": GROUP,
    "Order": ORDER,
    "LineItem": LINE,
    "Refund": REFUND,
    "RefundLineItem": REFUND_LINE,
    "Fulfillment": FULFILLMENT,
    "FulfillmentLineItem": FULFILLMENT_LINE,
    "FulfillmentOrder": FULFILLMENT_ORDER,
    "FulfillmentOrderLineItem": FULFILLMENT_ORDER_LINE,
    "WebhookSubscription": SUBSCRIPTION,
    "BulkOperation": BULK,
}

TYPE_NAMES: dict[type, str] = {
    Item: "InventoryItem",
    Level: "InventoryLevel",
    Variant: "ProductVariant",
    Product: "Product",
    Order: "Order",
    Location: "Location",
    AdjustmentGroup: "InventoryAdjustmentGroup",
    BulkOperation: "BulkOperation",
    Subscription: "WebhookSubscription",
    RefundLine: "RefundLineItem",
}

# Any of these scopes opens a root field; `write_x` implies `read_x`.
SCOPES: dict[str, tuple[str, ...]] = {
    "locations": ("read_locations", "read_inventory"),
    "location": ("read_locations", "read_inventory"),
    "productVariants": ("read_products",),
    "productVariant": ("read_products",),
    "products": ("read_products",),
    "product": ("read_products",),
    "inventoryItems": ("read_inventory", "read_products"),
    "inventoryItem": ("read_inventory", "read_products"),
    "inventoryLevel": ("read_inventory",),
    "orders": ("read_orders",),
    "order": ("read_orders",),
    "inventorySetQuantities": ("write_inventory",),
    "inventoryAdjustQuantities": ("write_inventory",),
    "inventoryMoveQuantities": ("write_inventory",),
    "inventoryActivate": ("write_inventory",),
    "inventoryDeactivate": ("write_inventory",),
}
