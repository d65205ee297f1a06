"""The cast of the tests: a merchant with a warehouse, two shops that share its stock, and a stranger.

Alder sells mugs and tees in its shops North and South, from one warehouse. Birch is another merchant, who must see
nothing of it.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from channels import bodies
from channels.models import Channel, ChannelKind, ChannelState, InboxEvent, Listing, ListingLevel, StoreLocation
from inventory import stock
from inventory.models import Sku, StockLevel, Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping
from merchants.models import Merchant
from sync import live, publish

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    """A moment that long after noon."""
    return NOON + timedelta(seconds=seconds)


@dataclass
class Shop:
    """A channel with one location."""

    channel: Channel
    location: StoreLocation
    listings: dict[str, Listing] = field(default_factory=dict)

    def level(self, code: str) -> ListingLevel:
        """The shop's level of a SKU, fresh from the database."""
        return ListingLevel.objects.get(listing=self.listings[code])


@dataclass
class Trade:
    """A merchant's whole set-up."""

    merchant: Merchant
    warehouse: Warehouse
    group: LocationGroup
    skus: dict[str, Sku]
    shops: dict[str, Shop]

    def stock(self, code: str, warehouse: Warehouse | None = None) -> StockLevel:
        """The SKU's stock in the warehouse, or in another, fresh from the database."""
        return StockLevel.objects.get(sku=self.skus[code], warehouse=warehouse or self.warehouse)


def make_trade(
    name: str = "Alder",
    *,
    shops: tuple[str, ...] = ("north", "south"),
    stock_of: dict[str, int] | None = None,
    policy: str = "shared",
) -> Trade:
    """A merchant whose shops show all of its stock, everything published and confirmed."""
    quantities = stock_of or {"MUG": 10, "TEE": 5}
    slug = name.lower()
    merchant = Merchant.objects.create(name=name, slug=slug)
    warehouse = Warehouse.objects.create(merchant=merchant, code="MAIN", name=f"{name}'s warehouse")
    group = LocationGroup.objects.create(merchant=merchant, name="Everywhere", policy=policy)
    GroupWarehouse.objects.create(merchant=merchant, group=group, warehouse=warehouse)
    skus = {code: Sku.objects.create(merchant=merchant, code=code, title=code.title()) for code in quantities}
    trade = Trade(merchant, warehouse, group, skus, {})
    for shop in shops:
        trade.shops[shop] = _make_shop(trade, shop, quantities)
    stock.open_stock(
        merchant_id=merchant.pk,
        quantities={(skus[code].pk, warehouse.pk): quantity for code, quantity in quantities.items()},
        now=NOON,
    )
    publish.publish_batch(live.engine(), merchant_id=merchant.pk)
    return trade


def _make_shop(trade: Trade, name: str, quantities: dict[str, int]) -> Shop:
    channel = Channel.objects.create(
        merchant=trade.merchant,
        kind=ChannelKind.SHOPIFY,
        name=name.title(),
        account=f"{name}-{trade.merchant.slug}.myshopify.com",
        state=ChannelState.ACTIVE,
        orders_counted_from=later(-3600),
        orders_watermark=NOON,
    )
    location = StoreLocation.objects.create(
        merchant=trade.merchant, channel=channel, remote_id=str(9000 + channel.pk), name="Shop floor"
    )
    GroupLocation.objects.create(merchant=trade.merchant, group=trade.group, store_location=location)
    Mapping.objects.create(
        merchant=trade.merchant, group=trade.group, store_location=location, warehouse=trade.warehouse, priority=1
    )
    shop = Shop(channel, location)
    for code, quantity in quantities.items():
        shop.listings[code] = Listing.objects.create(
            merchant=trade.merchant,
            channel=channel,
            sku=trade.skus[code],
            remote_variant_id=f"{channel.pk}{trade.skus[code].pk}1",
            remote_product_id=f"{channel.pk}{trade.skus[code].pk}0",
            inventory_item_id=f"{channel.pk}{trade.skus[code].pk}2",
            remote_sku=code,
            title=code.title(),
        )
        ListingLevel.objects.create(
            merchant=trade.merchant,
            channel=channel,
            listing=shop.listings[code],
            store_location=location,
            base=quantity,
            desired=quantity,
            source_at=NOON,
            confirmed_at=NOON,
        )
    return shop


def add_warehouse(trade: Trade, code: str, quantities: dict[str, int]) -> Warehouse:
    """One more warehouse of the merchant, on which every shop draws after all others."""
    warehouse = Warehouse.objects.create(merchant=trade.merchant, code=code, name=code.title())
    GroupWarehouse.objects.create(merchant=trade.merchant, group=trade.group, warehouse=warehouse)
    for shop in trade.shops.values():
        Mapping.objects.create(
            merchant=trade.merchant,
            group=trade.group,
            store_location=shop.location,
            warehouse=warehouse,
            priority=1 + Mapping.objects.filter(store_location=shop.location).count(),
        )
    stock.open_stock(
        merchant_id=trade.merchant.pk,
        quantities={(trade.skus[sku].pk, warehouse.pk): quantity for sku, quantity in quantities.items()},
        now=NOON,
    )
    return warehouse


def deliver(shop: Shop, topic: str, body: dict[str, object] | bytes, *, webhook_id: str | None = None) -> InboxEvent:
    """Put a webhook into the inbox, as the endpoint does once it has verified it."""
    event = InboxEvent.objects.create(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        topic=topic,
        webhook_id=webhook_id or str(uuid.uuid4()),
        body_kept_on=bodies.day_of(NOON),
        body_sha256=b"",
        hlc=0,
        received_at=NOON,
        correlation_id=uuid.uuid4(),
    )
    bodies.keep([event], [body if isinstance(body, bytes) else json.dumps(body).encode()])
    return event


def order_body(
    shop: Shop,
    order_id: int,
    *lines: tuple[str, int],
    at: float = 10,
    current: tuple[int, ...] | None = None,
    cancelled: bool = False,
    refunds: tuple[dict[str, object], ...] = (),
    shipped: tuple[int, ...] = (),
) -> dict[str, object]:
    """An order as Shopify's orders/* webhooks show it; `lines` are (SKU code, quantity), `at` the version's second."""
    line_items = [
        {
            "id": order_id * 100 + place,
            "variant_id": int(shop.listings[code].remote_variant_id) if code in shop.listings else 404,
            "product_id": 1,
            "sku": code,
            "quantity": quantity,
            "current_quantity": current[place] if current else quantity,
        }
        for place, (code, quantity) in enumerate(lines)
    ]
    return {
        "id": order_id,
        "name": f"#{order_id}",
        "created_at": later(5).isoformat(),
        "updated_at": later(at).isoformat(),
        "cancelled_at": later(at).isoformat() if cancelled else None,
        "test": False,
        "location_id": None,
        "line_items": line_items,
        "fulfillments": [
            {
                "id": order_id * 1000,
                "status": "success",
                "line_items": [
                    {"id": order_id * 100 + place, "quantity": quantity} for place, quantity in enumerate(shipped)
                ],
            }
        ]
        if shipped
        else [],
        "refunds": list(refunds),
    }


def refund_body(order_id: int, place: int, quantity: int, restock: str, *, refund_id: int = 1) -> dict[str, object]:
    """A refund of one line, as in refunds/create and inside orders."""
    return {
        "id": order_id * 10 + refund_id,
        "order_id": order_id,
        "created_at": later(20).isoformat(),
        "processed_at": later(20).isoformat(),
        "restock": restock != "no_restock",
        "refund_line_items": [
            {
                "id": order_id * 10000 + refund_id,
                "quantity": quantity,
                "line_item_id": order_id * 100 + place,
                "location_id": None,
                "restock_type": restock,
            }
        ],
    }


def level_body(shop: Shop, code: str, available: int, *, at: float = 10) -> dict[str, object]:
    """An inventory_levels/update webhook."""
    return {
        "inventory_item_id": int(shop.listings[code].inventory_item_id),
        "location_id": int(shop.location.remote_id),
        "available": available,
        "updated_at": later(at).isoformat(),
    }


def polled_body(shop: Shop, order_id: int, code: str, quantity: int, *, at: float = 10) -> bytes:
    """An order of one line as the GraphQL read shows it, assigned to the shop's location."""
    line = {"id": f"gid://shopify/LineItem/{order_id * 100}"}
    node: dict[str, object] = {
        "id": f"gid://shopify/Order/{order_id}",
        "name": f"#{order_id}",
        "createdAt": later(5).isoformat(),
        "updatedAt": later(at).isoformat(),
        "cancelledAt": None,
        "test": False,
        "lineItems": {
            "nodes": [
                line
                | {
                    "sku": code,
                    "quantity": quantity,
                    "currentQuantity": quantity,
                    "variant": {"id": f"gid://shopify/ProductVariant/{shop.listings[code].remote_variant_id}"},
                }
            ]
        },
        "refunds": [],
        "fulfillments": [],
        "fulfillmentOrders": {
            "nodes": [
                {
                    "status": "OPEN",
                    "assignedLocation": {"location": {"id": f"gid://shopify/Location/{shop.location.remote_id}"}},
                    "lineItems": {"nodes": [{"lineItem": line, "totalQuantity": quantity}]},
                }
            ]
        },
    }
    return json.dumps(node).encode()
