"""What the pages call things. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from channels.protocol import Restock
from sync.register import Register

_TOPICS = {
    "orders/create": "Order placed",
    "orders/paid": "Order paid",
    "orders/updated": "Order changed",
    "orders/edited": "Order edited",
    "orders/cancelled": "Order cancelled",
    "orders/fulfilled": "Order shipped",
    "orders/partially_fulfilled": "Order partly shipped",
    "orders/delete": "Order deleted",
    "refunds/create": "Refund",
    "inventory_levels/update": "Stock changed",
    "inventory_levels/connect": "Stocked at a location",
    "inventory_levels/disconnect": "No longer stocked at a location",
    "inventory_items/create": "Inventory item added",
    "inventory_items/update": "Inventory item changed",
    "inventory_items/delete": "Inventory item deleted",
    "products/create": "Product added",
    "products/update": "Product changed",
    "products/delete": "Product deleted",
    "locations/create": "Location added",
    "locations/update": "Location changed",
    "locations/delete": "Location deleted",
    "locations/activate": "Location switched on",
    "locations/deactivate": "Location switched off",
    "app/uninstalled": "App removed from the store",
    "bulk_operations/finish": "Bulk operation finished",
    "customers/data_request": "Privacy: data asked for",
    "customers/redact": "Privacy: customer to be erased",
    "shop/redact": "Privacy: shop to be erased",
}


def topic_in_words(topic: str) -> str:
    """`orders/create` as a merchant would say it; an unknown topic by its own words."""
    known = _TOPICS.get(topic)
    if known:
        return known
    subject, _, verb = topic.partition("/")
    words = f"{subject} {verb}".replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def ago(at: datetime, now: datetime) -> str:
    """How long ago, in one short word: "now", "8 s", "3 min", "2 h", "4 d"."""
    seconds = max(0, int((now - at).total_seconds()))
    if seconds < 2:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def duration(span: timedelta) -> str:
    """A time span with three digits or so: "84 ms", "1.24 s", "12.4 s", "3.1 min"."""
    ms = span.total_seconds() * 1000
    if abs(ms) < 999.5:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if abs(seconds) < 10:
        return f"{seconds:.2f} s"
    if abs(seconds) < 100:
        return f"{seconds:.1f} s"
    if abs(seconds) < 6_000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3_600:.1f} h"


def count(number: int, noun: str, *, plural: str = "", limit: int | None = None) -> str:
    """ "1 event", "3 events"; at `limit` or above "500+ events", since nobody counted further."""
    word = noun if number == 1 else plural or f"{noun}s"
    if limit is not None and number >= limit:
        return f"{grouped(limit)}+ {word}"
    return f"{grouped(number)} {word}"


def grouped(number: int) -> str:
    """Digits in groups of three, by thin spaces that do not break."""
    return f"{number:,}".replace(",", "\u202f")


def signed(number: int) -> str:
    """With its sign, minus as a minus."""
    return f"+{number}" if number > 0 else f"\u2212{-number}" if number < 0 else "0"


_RESTOCK_WORDS = {
    Restock.CANCEL: "put back",
    Restock.RETURN: "returned",
    Restock.NONE: "not put back",
    Restock.LEGACY: "put back",
}


def register_in_words(register: Register) -> list[str]:
    """What is known of an order line, one fact an item."""
    facts = []
    said = register.said
    if said is not None:
        facts.append(f"{said.ordered} ordered")
        if said.removed:
            facts.append(f"{said.removed} taken out of the order")
        if said.shipped:
            facts.append(f"{said.shipped} shipped")
    facts += [f"{refund.quantity} refunded, {_RESTOCK_WORDS[refund.restock]}" for refund in register.refunds]
    if register.cancelled_at is not None:
        facts.append("cancelled")
    if register.is_deleted:
        facts.append("deleted in the store")
    if register.counted_at is not None:
        facts.append("older than the opening stock: only what happened since counts")
    if register.needs_reading:
        facts.append("two different things were said within one second: to be read")
    return facts or ["nothing but its number is known yet"]
