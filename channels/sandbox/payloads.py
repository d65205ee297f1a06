"""Bodies of webhooks, with the keys of the official samples (version 2026-07). Pure: a store in, JSON values
out.

Timestamps have whole seconds and the store's offset; ids are numbers. What the sandbox does not model
(customers, addresses, taxes) is null, empty or zero where the samples allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from channels.sandbox.records import (
    Delivery,
    Fulfillment,
    Order,
    OrderLine,
    Refund,
    Variant,
    gid,
    level_gid,
)
from channels.sandbox.store import Store

Json = dict[str, Any]


def body_of(store: Store, delivery: Delivery, *, merged: bool) -> Json:
    """What to send. `merged`: a level shows its value of now instead of the one it had when the change
    happened.
    """
    build = _BUILDERS[delivery.subject[0]]
    body = build(store, delivery, merged)
    subscription = store.subscriptions.get(delivery.subscription_id)
    if subscription is not None and subscription.include_fields:
        body = {name: value for name, value in body.items() if name in subscription.include_fields}
    return body


def triggered_at(us: int) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{us % 1_000_000:06d}000Z"


@lru_cache(maxsize=4096)
def _stamp(second: int, offset_minutes: int) -> str:
    return datetime.fromtimestamp(second, timezone(timedelta(minutes=offset_minutes))).isoformat()


def stamp(store: Store, us: int) -> str:
    """`2026-11-21T09:00:00-05:00`: what bodies carry."""
    return _stamp(us // 1_000_000, store.settings.utc_offset_minutes)


def _stamp_or_none(store: Store, us: int | None) -> str | None:
    return None if us is None else stamp(store, us)


def _level(store: Store, delivery: Delivery, merged: bool) -> Json:
    _, item_id, location_id = delivery.subject
    if delivery.topic == "inventory_levels/disconnect":
        return {"inventory_item_id": item_id, "location_id": location_id}
    level = store.levels.get((item_id, location_id))
    values = delivery.captured or {}
    if level is not None and (merged or not values):
        number = store.locations[location_id].level_number
        values = {
            "available": level.available,
            "updated_us": level.updated_us,
            "gid": level_gid(number, item_id),
        }
    variant = store.variant_by_item.get(item_id)
    return {
        "inventory_item_id": item_id,
        "location_id": location_id,
        "available": values["available"] if variant is None or variant.tracked else None,
        "updated_at": stamp(store, values["updated_us"]),
        "admin_graphql_api_id": values["gid"],
    }


def _item(store: Store, delivery: Delivery, merged: bool) -> Json:
    variant = store.variant_by_item.get(delivery.subject[1])
    if variant is None:
        return _deleted_item(store, delivery, merged)
    return {
        "id": variant.item_id,
        "sku": variant.sku,
        "created_at": stamp(store, variant.created_us),
        "updated_at": stamp(store, variant.updated_us),
        "requires_shipping": True,
        "cost": None,
        "country_code_of_origin": None,
        "province_code_of_origin": None,
        "harmonized_system_code": None,
        "tracked": variant.tracked,
        "country_harmonized_system_codes": [],
        "weight_value": 0.0,
        "weight_unit": "lb",
        "admin_graphql_api_id": gid("InventoryItem", variant.item_id),
    }


def _deleted_item(store: Store, delivery: Delivery, merged: bool) -> Json:
    item_id = delivery.subject[1]
    return {
        "id": item_id,
        "country_code_of_origin": None,
        "province_code_of_origin": None,
        "harmonized_system_code": None,
        "country_harmonized_system_codes": [],
        "admin_graphql_api_id": gid("InventoryItem", item_id),
    }


def _deleted(store: Store, delivery: Delivery, merged: bool) -> Json:
    return {"id": delivery.subject[1]}


def _location(store: Store, delivery: Delivery, merged: bool) -> Json:
    location = store.locations.get(delivery.subject[1])
    if location is None:
        return {"id": delivery.subject[1]}
    return {
        "id": location.id,
        "name": location.name,
        "address1": "1 Sandbox Street",
        "address2": None,
        "city": "Ottawa",
        "zip": "K1N 5T5",
        "province": "Ontario",
        "country": "CA",
        "phone": None,
        "created_at": stamp(store, location.created_us),
        "updated_at": stamp(store, location.updated_us),
        "country_code": "CA",
        "country_name": "Canada",
        "province_code": "ON",
        "legacy": False,
        "active": location.active,
        "admin_graphql_api_id": gid("Location", location.id),
    }


def _product(store: Store, delivery: Delivery, merged: bool) -> Json:
    product = store.products.get(delivery.subject[1])
    if product is None:
        return {"id": delivery.subject[1]}
    variants = [store.variants[number] for number in product.variant_ids]
    newest_first = sorted(variants, key=lambda variant: -variant.updated_us)
    return {
        "admin_graphql_api_id": gid("Product", product.id),
        "body_html": None,
        "created_at": stamp(store, product.created_us),
        "handle": handle_of(product.title),
        "id": product.id,
        "product_type": "",
        "published_at": stamp(store, product.created_us),
        "template_suffix": None,
        "title": product.title,
        "updated_at": stamp(store, product.updated_us),
        "vendor": store.name,
        "status": product.status.lower(),
        "published_scope": "web",
        "tags": "",
        "variants": [_variant(store, v, n) for n, v in enumerate(variants[:100], 1)],
        "options": [],
        "images": [],
        "image": None,
        "media": [],
        "variant_gids": [
            {
                "admin_graphql_api_id": gid("ProductVariant", v.id),
                "updated_at": datetime.fromtimestamp(v.updated_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            }
            for v in newest_first
        ],
        "has_variants_that_requires_components": any(v.requires_components for v in variants),
        "category": None,
    }


def handle_of(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split()) or "product"


def _variant(store: Store, variant: Variant, position: int) -> Json:
    quantity = store.sellable(variant)
    return {
        "admin_graphql_api_id": gid("ProductVariant", variant.id),
        "barcode": variant.barcode or None,
        "compare_at_price": None,
        "created_at": stamp(store, variant.created_us),
        "id": variant.id,
        "inventory_policy": variant.policy.lower(),
        "position": position,
        "price": variant.price,
        "product_id": variant.product_id,
        "sku": variant.sku,
        "taxable": True,
        "title": variant.title,
        "updated_at": stamp(store, variant.updated_us),
        "option1": variant.title,
        "option2": None,
        "option3": None,
        "image_id": None,
        "inventory_item_id": variant.item_id,
        "inventory_quantity": quantity,
        "old_inventory_quantity": quantity,
    }


def _cents(price: str) -> int:
    whole, _, part = price.partition(".")
    return int(whole or 0) * 100 + int((part + "00")[:2])


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _money(store: Store, cents: int) -> Json:
    money = {"amount": _amount(cents), "currency_code": store.settings.currency}
    return {"shop_money": money, "presentment_money": money}


def _order(store: Store, delivery: Delivery, merged: bool) -> Json:
    return order_body(store, store.orders[delivery.subject[1]])


def order_body(store: Store, order: Order) -> Json:
    """The whole order, as every order topic carries it."""
    ordered = sum(_cents(line.price) * line.quantity for line in order.lines)
    current = sum(_cents(line.price) * line.current_quantity for line in order.lines)
    nothing = _money(store, 0)
    created = stamp(store, order.created_us)
    return {
        "id": order.id,
        "admin_graphql_api_id": gid("Order", order.id),
        "app_id": None,
        "browser_ip": None,
        "buyer_accepts_marketing": False,
        "cancel_reason": order.cancel_reason,
        "cancelled_at": _stamp_or_none(store, order.cancelled_us),
        "cart_token": None,
        "checkout_token": None,
        "client_details": None,
        "closed_at": None,
        "confirmation_number": None,
        "confirmed": True,
        "contact_email": None,
        "created_at": created,
        "currency": store.settings.currency,
        "current_shipping_price_set": nothing,
        "current_subtotal_price": _amount(current),
        "current_subtotal_price_set": _money(store, current),
        "current_total_additional_fees_set": None,
        "current_total_discounts": "0.00",
        "current_total_discounts_set": nothing,
        "current_total_duties_set": None,
        "current_total_price": _amount(current),
        "current_total_price_set": _money(store, current),
        "current_total_tax": "0.00",
        "current_total_tax_set": nothing,
        "customer_locale": "en",
        "device_id": None,
        "discount_codes": [],
        "duties_included": False,
        "email": "",
        "estimated_taxes": False,
        "financial_status": financial_status(order).lower(),
        "fulfillment_status": _fulfillment_status(order),
        "landing_site": None,
        "landing_site_ref": None,
        "location_id": None,
        "merchant_business_entity_id": "MTU0ODM4MDAwOQ",
        "merchant_of_record_app_id": None,
        "name": order.name,
        "note": None,
        "note_attributes": [],
        "number": order.number - 1000,
        "order_number": order.number,
        "order_status_url": f"https://{store.domain}/{store.shop_id}/orders/{order.id}/authenticate",
        "original_total_additional_fees_set": None,
        "original_total_duties_set": None,
        "payment_gateway_names": ["bogus"],
        "phone": None,
        "po_number": None,
        "presentment_currency": store.settings.currency,
        "processed_at": created,
        "reference": None,
        "referring_site": None,
        "source_identifier": None,
        "source_name": order.source,
        "source_url": None,
        "subtotal_price": _amount(ordered),
        "subtotal_price_set": _money(store, ordered),
        "tags": "",
        "tax_exempt": False,
        "tax_lines": [],
        "taxes_included": False,
        "test": False,
        "token": f"{order.id:x}",
        "total_cash_rounding_payment_adjustment_set": nothing,
        "total_cash_rounding_refund_adjustment_set": nothing,
        "total_discounts": "0.00",
        "total_discounts_set": nothing,
        "total_line_items_price": _amount(ordered),
        "total_line_items_price_set": _money(store, ordered),
        "total_outstanding": "0.00",
        "total_price": _amount(ordered),
        "total_price_set": _money(store, ordered),
        "total_shipping_price_set": nothing,
        "total_tax": "0.00",
        "total_tax_set": nothing,
        "total_tip_received": "0.00",
        "total_weight": 0,
        "updated_at": stamp(store, order.updated_us),
        "user_id": None,
        "billing_address": None,
        "customer": None,
        "discount_applications": [],
        "fulfillments": [fulfillment_body(store, order, f) for f in order.fulfillments],
        "line_items": [_order_line(store, line) for line in order.lines],
        "line_item_groups": [],
        "payment_terms": None,
        "refunds": [refund_body(store, order, refund) for refund in order.refunds],
        "returns": [],
        "shipping_address": None,
        "shipping_lines": [],
    }


def financial_status(order: Order) -> str:
    """PAID, PARTIALLY_REFUNDED or REFUNDED: sandbox shoppers pay at once."""
    refunded = sum(line.quantity for refund in order.refunds for line in refund.lines)
    if not refunded:
        return "PAID"
    return "REFUNDED" if all(line.current_quantity == 0 for line in order.lines) else "PARTIALLY_REFUNDED"


def _fulfillment_status(order: Order) -> str | None:
    if not order.fulfillments:
        return None
    return "partial" if any(line.unfulfilled for line in order.lines) else "fulfilled"


def _line_core(store: Store, line: OrderLine) -> Json:
    """The keys a line has wherever it appears."""
    exists = line.variant_id in store.variants
    return {
        "id": line.id,
        "admin_graphql_api_id": gid("LineItem", line.id),
        "fulfillable_quantity": line.unfulfilled,
        "fulfillment_service": "manual",
        "fulfillment_status": _line_status(line),
        "gift_card": False,
        "grams": 0,
        "name": line.title,
        "price": line.price,
        "price_set": _money(store, _cents(line.price)),
        "product_exists": exists,
        "product_id": line.product_id if exists else None,
        "properties": [],
        "quantity": line.quantity,
        "requires_shipping": True,
        "sku": line.sku,
        "taxable": True,
        "title": line.title,
        "total_discount": "0.00",
        "total_discount_set": _money(store, 0),
        "variant_id": line.variant_id if exists else None,
        "variant_inventory_management": "shopify" if line.location_id is not None else None,
        "variant_title": None,
        "vendor": store.name,
        "tax_lines": [],
        "duties": [],
        "discount_allocations": [],
    }


def _line_status(line: OrderLine) -> str | None:
    if not line.fulfilled:
        return None
    return "partial" if line.unfulfilled else "fulfilled"


def _order_line(store: Store, line: OrderLine) -> Json:
    return _line_core(store, line) | {
        "attributed_staffs": [],
        "current_quantity": line.current_quantity,
        "sales_line_item_group_id": None,
    }


def _refund(store: Store, delivery: Delivery, merged: bool) -> Json:
    order = store.orders[delivery.subject[1]]
    refund = next(r for r in order.refunds if r.id == delivery.subject[2])
    return refund_body(store, order, refund)


def refund_body(store: Store, order: Order, refund: Refund) -> Json:
    rows = []
    for row in refund.lines:
        line = order.line(row.line_id)
        assert line is not None
        cents = _cents(line.price) * row.quantity
        rows.append(
            {
                "id": row.id,
                "quantity": row.quantity,
                "line_item_id": row.line_id,
                "location_id": row.location_id,
                "restock_type": row.restock_type,
                "subtotal": cents / 100,
                "total_tax": 0.0,
                "subtotal_set": _money(store, cents),
                "total_tax_set": _money(store, 0),
                "line_item": _line_core(store, line),
            }
        )
    return {
        "id": refund.id,
        "order_id": order.id,
        "created_at": stamp(store, refund.created_us),
        "note": refund.note,
        "user_id": None,
        "processed_at": stamp(store, refund.created_us),
        "duties": [],
        "total_duties_set": _money(store, 0),
        "return": None,
        "refund_shipping_lines": [],
        "restock": any(row.restock_type != "no_restock" for row in refund.lines),
        "admin_graphql_api_id": gid("Refund", refund.id),
        "order_adjustments": [],
        "refund_line_items": rows,
        "transactions": [],
    }


def _fulfillment(store: Store, delivery: Delivery, merged: bool) -> Json:
    order = store.orders[delivery.subject[1]]
    found = next(f for f in order.fulfillments if f.id == delivery.subject[2])
    return fulfillment_body(store, order, found)


def fulfillment_body(store: Store, order: Order, fulfillment: Fulfillment) -> Json:
    moment = stamp(store, fulfillment.created_us)
    lines = []
    for _, line_id, quantity in fulfillment.lines:
        line = order.line(line_id)
        assert line is not None
        lines.append(_line_core(store, line) | {"quantity": quantity})
    return {
        "id": fulfillment.id,
        "order_id": order.id,
        "status": "success",
        "created_at": moment,
        "service": "manual",
        "updated_at": moment,
        "tracking_company": None,
        "shipment_status": None,
        "location_id": fulfillment.location_id,
        "origin_address": None,
        "email": "",
        "destination": None,
        "line_items": lines,
        "tracking_number": None,
        "tracking_numbers": [],
        "tracking_url": None,
        "tracking_urls": [],
        "receipt": {},
        "name": f"{order.name}.{fulfillment.number}",
        "admin_graphql_api_id": gid("Fulfillment", fulfillment.id),
    }


def _edit(store: Store, delivery: Delivery, merged: bool) -> Json:
    order = store.orders[delivery.subject[1]]
    edit = next(e for e in order.edits if e.id == delivery.subject[2])
    moment = stamp(store, edit.created_us)
    return {
        "order_edit": {
            "id": edit.id,
            "app_id": None,
            "created_at": moment,
            "committed_at": moment,
            "notify_customer": False,
            "order_id": order.id,
            "staff_note": "",
            "user_id": None,
            "line_items": {
                "additions": [{"id": number, "delta": delta} for number, delta in edit.additions],
                "removals": [{"id": number, "delta": delta} for number, delta in edit.removals],
            },
            "discounts": {"line_item": {"additions": [], "removals": []}},
            "shipping_lines": {"additions": [], "removals": []},
        }
    }


def _bulk(store: Store, delivery: Delivery, merged: bool) -> Json:
    operation = store.bulk_operations[delivery.subject[1]]
    return {
        "admin_graphql_api_id": gid("BulkOperation", operation.id),
        "completed_at": _stamp_or_none(store, operation.completed_us),
        "created_at": stamp(store, operation.created_us),
        "error_code": operation.error_code.lower() if operation.error_code else None,
        "status": operation.status.lower(),
        "type": "query",
    }


def _compliance(store: Store, delivery: Delivery, merged: bool) -> Json:
    captured = delivery.captured or {}
    if "payload" in captured:
        payload: Json = captured["payload"]
        return payload
    shop = {"shop_id": store.shop_id, "shop_domain": store.domain}
    customer = {"id": 191167, "email": "someone@example.com", "phone": "555-625-1199"}
    if delivery.topic == "customers/data_request":
        request = {"orders_requested": [], "customer": customer, "data_request": {"id": delivery.seq}}
        return shop | request
    if delivery.topic == "customers/redact":
        return shop | {"customer": customer, "orders_to_redact": []}
    return shop


def _shop(store: Store, delivery: Delivery, merged: bool) -> Json:
    currency = store.settings.currency
    return {
        "id": store.shop_id,
        "name": store.name,
        "email": f"owner@{store.handle}.example",
        "domain": store.domain,
        "province": "Ontario",
        "country": "CA",
        "address1": "1 Sandbox Street",
        "zip": "K1N 5T5",
        "city": "Ottawa",
        "source": None,
        "phone": "",
        "latitude": None,
        "longitude": None,
        "primary_locale": "en",
        "address2": None,
        "created_at": stamp(store, store.created_us),
        "updated_at": stamp(store, store.now_us),
        "country_code": "CA",
        "country_name": "Canada",
        "currency": currency,
        "customer_email": f"owner@{store.handle}.example",
        "timezone": "(GMT-05:00) Eastern Time (US & Canada)",
        "iana_timezone": "America/New_York",
        "shop_owner": "Sandbox Owner",
        "money_format": "${{amount}}",
        "money_with_currency_format": "${{amount}} " + currency,
        "weight_unit": "kg",
        "province_code": "ON",
        "taxes_included": False,
        "auto_configure_tax_inclusivity": None,
        "tax_shipping": None,
        "county_taxes": True,
        "plan_display_name": "Sandbox",
        "plan_name": "partner_test",
        "has_discounts": False,
        "has_gift_cards": False,
        "myshopify_domain": store.domain,
        "google_apps_domain": None,
        "google_apps_login_enabled": None,
        "money_in_emails_format": "${{amount}}",
        "money_with_currency_in_emails_format": "${{amount}} " + currency,
        "eligible_for_payments": True,
        "requires_extra_payments_agreement": False,
        "password_enabled": False,
        "has_storefront": True,
        "finances": True,
        "primary_location_id": next(iter(store.locations), None),
        "checkout_api_supported": True,
        "multi_location_enabled": True,
        "setup_required": False,
        "pre_launch_enabled": False,
        "enabled_presentment_currencies": [currency],
        "marketing_sms_consent_enabled_at_checkout": False,
        "transactional_sms_disabled": False,
    }


_BUILDERS: dict[str, Callable[[Store, Delivery, bool], Json]] = {
    "level": _level,
    "item": _item,
    "deleted_item": _deleted_item,
    "deleted": _deleted,
    "location": _location,
    "product": _product,
    "order": _order,
    "refund": _refund,
    "fulfillment": _fulfillment,
    "edit": _edit,
    "bulk": _bulk,
    "compliance": _compliance,
    "shop": _shop,
}
