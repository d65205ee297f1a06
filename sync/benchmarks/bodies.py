"""Webhook bodies of real size: what a practice store says of an order, with the customer that it leaves out.

A body is rendered once by the sandbox with numbers that occur nowhere else; an order then costs a few replacements.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from channels.sandbox import catalogue, orders, payloads
from channels.sandbox.store import Access, Store

_ORDER, _LINE, _VARIANT = 7_000_000_000_001, 7_000_000_000_002, 7_000_000_000_003
_PLACED = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
_NAME = "#1001"

#: As long as those in Shopify's own samples; nobody's.
_ADDRESS = {
    "first_name": "Example",
    "address1": "123 Example Street, Building 4",
    "phone": "+1-555-0100-200",
    "city": "Fakecity",
    "zip": "123456",
    "province": "Ontario",
    "country": "Canada",
    "last_name": "Shopper",
    "address2": "Flat 17, second entrance from the courtyard",
    "company": "Example Company Ltd",
    "latitude": 45.416311,
    "longitude": -75.68683,
    "name": "Example Shopper",
    "country_code": "CA",
    "province_code": "ON",
}
_CLIENT = {
    "accept_language": "en-CA,en;q=0.9,fr-CA;q=0.8",
    "browser_height": 900,
    "browser_ip": "192.0.2.7",
    "browser_width": 1440,
    "session_hash": None,
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
}


class OrderBodies:
    """Renders the body of `orders/create` for an order of `lines` lines."""

    def __init__(self, lines: int = 1) -> None:
        self._text = json.dumps(_sample(lines))

    def body(self, *, order_id: int, variant_ids: list[int]) -> bytes:
        """The body of a new order: a unit of each variant, one variant per line."""
        text = self._text.replace(str(_ORDER), str(order_id)).replace(_NAME, f"#{order_id % 1_000_000}")
        for number, variant_id in enumerate(variant_ids):
            text = text.replace(str(_LINE + 10 * number), str(order_id * 10 + number))
            text = text.replace(str(_VARIANT + 10 * number), str(variant_id))
        return text.encode()


def _sample(lines: int) -> dict[str, Any]:
    now_us = int(_PLACED.timestamp()) * 1_000_000
    store = Store("bench", "Bench", 1, now_us, Access("", ""))
    store.now_us = now_us
    store.next_id = 8_000_000_000_000
    catalogue.add_location(store, now_us, name="Here")
    goods = [
        {"sku": f"SKU-{n}", "title": "Large / Ash", "product": f"Good {n}", "price": "24.00", "levels": {"Here": 9}}
        for n in range(lines)
    ]
    catalogue.add_variants(store, now_us, variants=goods)
    orders.place_order(store, now_us, lines=[{"sku": row["sku"], "quantity": 1} for row in goods])
    (order,) = store.orders.values()
    document = payloads.order_body(store, order)
    replaced = {order.id: _ORDER}
    replaced |= {line.id: _LINE + 10 * n for n, line in enumerate(order.lines)}
    replaced |= {line.variant_id: _VARIANT + 10 * n for n, line in enumerate(order.lines)}
    text = json.dumps(document)
    for ours, marked in replaced.items():
        text = text.replace(str(ours), str(marked))
    text = text.replace(order.name, _NAME)
    marked_document: dict[str, Any] = json.loads(text)
    return marked_document | {
        "billing_address": _ADDRESS,
        "shipping_address": _ADDRESS,
        "client_details": _CLIENT,
        "customer": {
            "id": 115310627314723954,
            "created_at": None,
            "updated_at": None,
            "state": "disabled",
            "note": None,
            "verified_email": True,
            "multipass_identifier": None,
            "tax_exempt": False,
            "phone": None,
            "currency": "USD",
            "tax_exemptions": [],
            "admin_graphql_api_id": "gid://shopify/Customer/115310627314723954",
            "default_address": _ADDRESS
            | {"id": 715243470612851245, "customer_id": 115310627314723954, "default": True},
        },
    }
