"""What Shopify delivers: is it signed, whose is it, what does it say.

Facts used: topics and payloads of the classic webhooks and their official samples (version 2026-07); header
families of the classic webhooks (`X-Shopify-*`) and of the Events that succeed them (`shopify-*`), signed
alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from channels.connectors.shopify.orders import read_order, read_polled_order, read_refund
from channels.connectors.shopify.parsing import (
    JsonObject,
    read_document,
    read_flag,
    read_moment_or_none,
    read_quantity,
    read_remote_id,
    read_text,
)
from channels.connectors.shopify.sieve import DOES_NOT_FIT, ORDER, REFUND, Sieve
from channels.protocol import (
    AppUninstalled,
    BulkFinished,
    CatalogueTouched,
    ComplianceRequest,
    Delivery,
    Event,
    ItemTouched,
    LevelTouched,
    LocationTouched,
    MalformedEvent,
    OrderDeleted,
    OrderTouched,
    Uninteresting,
)
from synctec.lib.secret import Secret
from synctec.lib.signing import verify_base64

#: Our own topic: the body is a node of the GraphQL read of an order.
ORDERS_POLLED = "orders/polled"

_HEADER_FAMILIES = ("x-shopify-", "shopify-")
_TOPIC = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PRINTABLE = re.compile(r"[!-~]+")


class ShopifyEventReader:
    """The inbound half of the connector."""

    def read_order_id(self, said: str) -> str:
        """The bare number, from 1001 or gid://shopify/Order/1001. Raises MalformedEvent."""
        order_id = read_remote_id(said, "order", kind="Order")
        if int(order_id) <= 0:
            raise MalformedEvent("order: expected the id of an Order", code="malformed")
        return order_id

    def authenticate(self, *, headers: Mapping[str, str], body: bytes, secrets: Sequence[Secret | str]) -> bool:
        """Whether the raw bytes are signed with any of the app's secrets (two while they are rotated)."""
        return verify_base64(body, _header(headers, "hmac-sha256"), secrets)

    def read_delivery(self, headers: Mapping[str, str]) -> Delivery:
        """The envelope. Topic, shop and delivery id must be there: nothing can be filed without."""
        try:
            triggered_at = read_moment_or_none(_header(headers, "triggered-at") or None, "triggered-at")
        except MalformedEvent:
            triggered_at = None  # informative only; losing the delivery for it would be worse
        return Delivery(
            topic=_required(headers, "topic", _TOPIC, 100).lower(),
            account=_required(headers, "shop-domain", _DOMAIN, 255).lower(),
            webhook_id=_required(headers, "webhook-id", _PRINTABLE, 255),
            event_id=_optional(headers, "event-id", 255),
            api_version=_optional(headers, "api-version", 32),
            triggered_at=triggered_at,
        )

    def interpret(self, *, topic: str, body: bytes) -> tuple[Event, ...]:
        """What the event says; topics we do not use are Uninteresting, unread."""
        read = _READERS.get(topic)
        if read is None:
            return (Uninteresting(f"topic not used: {topic[:100]}"),)
        return (read(_document(topic, body)),)


def _document(topic: str, body: bytes) -> JsonObject:
    """The body, of large ones only what their reader looks at. Raises MalformedEvent."""
    sieve = _SIEVES.get(topic)
    if sieve is not None:
        try:
            return sieve(body)
        except DOES_NOT_FIT:
            pass  # read with care below, in the words of which it is refused, or taken all the same
    return read_document(body)


def _header(headers: Mapping[str, str], name: str) -> str:
    for family in _HEADER_FAMILIES:
        value = headers.get(family + name)
        if value:
            return value
    return ""


def _required(headers: Mapping[str, str], name: str, shape: re.Pattern[str], length_max: int) -> str:
    value = _header(headers, name)
    if not value:
        raise MalformedEvent(f"header x-shopify-{name}: missing", code="malformed")
    if len(value) > length_max or not shape.fullmatch(value):
        raise MalformedEvent(f"header x-shopify-{name}: not of the expected form", code="malformed")
    return value


def _optional(headers: Mapping[str, str], name: str, length_max: int) -> str:
    value = _header(headers, name)
    return value if len(value) <= length_max and _PRINTABLE.fullmatch(value) else ""


# --- one reader per kind of body ----------------------------------------------------------------------------


def _read_order_edit(document: JsonObject) -> Event:
    edit = document.get("order_edit")
    order_id = edit.get("order_id") if type(edit) is dict else None
    # It tells line ids and differences only; the order itself says what is true now.
    return OrderTouched(read_remote_id(order_id, "order_edit.order_id", kind="Order"), "edited")


def _read_order_deletion(document: JsonObject) -> Event:
    return OrderDeleted(read_remote_id(document.get("id"), "id", kind="Order"))


def _read_refund(document: JsonObject) -> Event:
    refund = read_refund(document)
    return refund if refund.refunds else Uninteresting("a refund of money, no units")


def _read_level(document: JsonObject) -> LevelTouched:
    available = document.get("available")
    return LevelTouched(
        inventory_item_id=read_remote_id(document.get("inventory_item_id"), "inventory_item_id"),
        location_id=read_remote_id(document.get("location_id"), "location_id"),
        available=None if available is None else read_quantity(available, "available"),
        source_at=read_moment_or_none(document.get("updated_at"), "updated_at"),
    )


def _read_connected_level(document: JsonObject) -> Event:
    level = _read_level(document)
    return LevelTouched(level.inventory_item_id, level.location_id, level.available, level.source_at, is_stocked=True)


def _read_disconnected_level(document: JsonObject) -> Event:
    level = _read_level(document)
    return LevelTouched(level.inventory_item_id, level.location_id, None, level.source_at, is_stocked=False)


def _read_product(document: JsonObject) -> Event:
    # The variants in it say neither whether they are tracked nor whether they are bundles, and stop after
    # 100.
    return CatalogueTouched(read_remote_id(document.get("id"), "id", kind="Product"), is_deleted=False, variants=None)


def _read_product_deletion(document: JsonObject) -> Event:
    return CatalogueTouched(read_remote_id(document.get("id"), "id", kind="Product"), is_deleted=True, variants=None)


def _read_item(document: JsonObject) -> Event:
    tracked = document.get("tracked")
    return ItemTouched(
        inventory_item_id=read_remote_id(document.get("id"), "id", kind="InventoryItem"),
        is_deleted=False,
        sku=read_text(document.get("sku"), "sku"),
        is_tracked=None if tracked is None else read_flag(tracked, "tracked"),
    )


def _read_item_deletion(document: JsonObject) -> Event:
    return ItemTouched(read_remote_id(document.get("id"), "id", kind="InventoryItem"), is_deleted=True)


def _read_location(document: JsonObject) -> Event:
    return LocationTouched(
        location_id=read_remote_id(document.get("id"), "id", kind="Location"),
        name=read_text(document.get("name"), "name"),
        is_active=read_flag(document.get("active"), "active"),
    )


def _read_location_deletion(document: JsonObject) -> Event:
    location_id = read_remote_id(document.get("id"), "id", kind="Location")
    return LocationTouched(location_id, name="", is_active=False, is_deleted=True)


def _read_bulk_operation(document: JsonObject) -> Event:
    operation_id = read_remote_id(document.get("admin_graphql_api_id"), "admin_graphql_api_id", kind="BulkOperation")
    return BulkFinished(operation_id, read_text(document.get("status"), "status").lower())


_READERS: dict[str, Callable[[JsonObject], Event]] = {
    "inventory_levels/update": _read_level,
    "inventory_levels/connect": _read_connected_level,
    "inventory_levels/disconnect": _read_disconnected_level,
    "orders/create": read_order,
    "orders/updated": read_order,
    "orders/cancelled": read_order,
    "orders/paid": read_order,
    "orders/fulfilled": read_order,
    "orders/partially_fulfilled": read_order,
    "orders/edited": _read_order_edit,
    "orders/delete": _read_order_deletion,
    ORDERS_POLLED: read_polled_order,
    "refunds/create": _read_refund,
    "products/create": _read_product,
    "products/update": _read_product,
    "products/delete": _read_product_deletion,
    "inventory_items/create": _read_item,
    "inventory_items/update": _read_item,
    "inventory_items/delete": _read_item_deletion,
    "locations/create": _read_location,
    "locations/update": _read_location,
    "locations/activate": _read_location,
    "locations/deactivate": _read_location,
    "locations/delete": _read_location_deletion,
    "app/uninstalled": lambda document: AppUninstalled(),
    "bulk_operations/finish": _read_bulk_operation,
    "customers/data_request": lambda document: ComplianceRequest("customers/data_request"),
    "customers/redact": lambda document: ComplianceRequest("customers/redact"),
    "shop/redact": lambda document: ComplianceRequest("shop/redact"),
}

_SIEVES: dict[str, Sieve] = {
    **{topic: ORDER for topic, read in _READERS.items() if read is read_order},
    "refunds/create": REFUND,
}

#: Topics whose bodies `interpret` reads.
TOPICS_READ = frozenset(_READERS)
