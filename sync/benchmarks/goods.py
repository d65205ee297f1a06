"""A merchant to measure with: stores, SKUs, bundles, stock and listings by the ten thousand, made in SQL."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection, transaction

from channels import credentials
from channels.models import Channel, ChannelKind, ChannelState, StoreLocation
from inventory.models import Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping
from merchants.models import Merchant
from sync.benchmarks.numbers import ITEM_BASE, LOCATION_BASE, STORE, UNITS
from synctec.lib.secret import Secret

CLIENT_SECRET = "only-for-benches-of-a-throw-away-stack"  # noqa: S105  # signs nothing outside of it
#: Components of each bundle, and how many SKUs share a bundle's parts.
PARTS = 3


class NotEmpty(Exception):
    """The database holds somebody's data."""


@dataclass(frozen=True, slots=True)
class Store:
    """One store of the bench's merchant."""

    number: int
    channel: Channel
    location_remote_id: int

    def variant_id(self, sku_number: int) -> int:
        """The store's own id of a SKU; SKUs count from 1, bundles on after them."""
        return STORE * self.number + sku_number

    def item_id(self, sku_number: int) -> int:
        """The store's inventory item of a SKU."""
        return STORE * (self.number + ITEM_BASE) + sku_number


@dataclass(frozen=True, slots=True)
class Goods:
    """What was made. SKUs 1 to `skus` are stocked, the next `bundles` are bundles of `PARTS` of them each."""

    merchant_id: int
    stores: tuple[Store, ...]
    skus: int
    bundles: int


def stock_up(*, stores: int, skus: int, bundles: int) -> Goods:
    """Make the merchant with everything mapped, published and in step.

    Raises:
        NotEmpty: there is a merchant in this database.
    """
    if Merchant.objects.exists():
        raise NotEmpty("A bench writes into an empty database only; `manage.py bench` makes one and throws it away.")
    with transaction.atomic():
        merchant = Merchant.objects.create(name="Bench", slug="bench")
        warehouse = Warehouse.objects.create(merchant=merchant, code="MAIN", name="Main")
        group = LocationGroup.objects.create(merchant=merchant, name="All")
        GroupWarehouse.objects.create(merchant=merchant, group=group, warehouse=warehouse)
        opened = tuple(_open_store(merchant, group, warehouse, number) for number in range(1, stores + 1))
        _fill(merchant.pk, warehouse.pk, skus, bundles)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return Goods(merchant.pk, opened, skus, bundles)


def _open_store(merchant: Merchant, group: LocationGroup, warehouse: Warehouse, number: int) -> Store:
    channel = Channel.objects.create(
        merchant=merchant,
        kind=ChannelKind.SHOPIFY,
        name=f"Store {number}",
        account=f"store-{number}.myshopify.com",
        state=ChannelState.ACTIVE,
    )
    credentials.store(channel, client_id=f"app-{number}", client_secret=Secret(CLIENT_SECRET))
    remote_id = LOCATION_BASE + number
    place = StoreLocation.objects.create(merchant=merchant, channel=channel, remote_id=str(remote_id), name="Here")
    GroupLocation.objects.create(merchant=merchant, group=group, store_location=place)
    Mapping.objects.create(merchant=merchant, group=group, store_location=place, warehouse=warehouse)
    return Store(number, channel, remote_id)


def _fill(merchant_id: int, warehouse_id: int, skus: int, bundles: int) -> None:
    """SKUs, bundles, opening stock, listings and their levels. Foreign keys hold by construction and are not checked
    row by row."""
    steps = (
        "SET LOCAL session_replication_role = replica",
        f"""
        INSERT INTO inventory_sku (merchant_id, code, title, barcode, kind)
        SELECT {merchant_id}, 'SKU-' || n, 'Good ' || n, '', CASE WHEN n > {skus} THEN 'bundle' ELSE 'stocked' END
        FROM generate_series(1, {skus + bundles}) n
        """,
        f"""
        INSERT INTO inventory_bomline (merchant_id, bundle_id, component_id, quantity)
        SELECT {merchant_id}, bundle.id, component.id, 1 + part % 2
        FROM generate_series(0, {bundles - 1}) n CROSS JOIN generate_series(0, {min(PARTS, skus) - 1}) part
        JOIN inventory_sku bundle ON bundle.code = 'SKU-' || ({skus} + 1 + n)
        JOIN inventory_sku component ON component.code = 'SKU-' || (1 + (n * 2 + part) % {skus})
        """,
        f"""
        INSERT INTO inventory_stocklevel (merchant_id, sku_id, warehouse_id, on_hand, seq)
        SELECT {merchant_id}, id, {warehouse_id}, {UNITS}, 1 FROM inventory_sku WHERE kind = 'stocked'
        """,
        f"""
        INSERT INTO inventory_movement (merchant_id, stock_level_id, seq, account, delta, balance_after, cause,
            idempotency_key, reference, correlation_id, effective_at)
        SELECT {merchant_id}, id, 1, 'on_hand', {UNITS}, {UNITS}, 'opening', 'opening:' || id || ':on_hand', '',
            gen_random_uuid(), now()
        FROM inventory_stocklevel
        """,
        f"""
        INSERT INTO channels_listing (merchant_id, channel_id, sku_id, remote_variant_id, remote_product_id,
            inventory_item_id, remote_sku, title, barcode)
        SELECT {merchant_id}, store.id, sku.id, {STORE} * store.number + sku.number, sku.number,
            {STORE} * (store.number + {ITEM_BASE}) + sku.number, sku.code, sku.title, ''
        FROM (SELECT id, substr(name, 7)::bigint AS number FROM channels_channel) store
        CROSS JOIN (SELECT id, code, title, substr(code, 5)::bigint AS number FROM inventory_sku ORDER BY id) sku
        """,
        f"""
        INSERT INTO channels_listinglevel (merchant_id, channel_id, listing_id, store_location_id, base, desired)
        SELECT {merchant_id}, listing.channel_id, listing.id, place.id, {UNITS}, {UNITS}
        FROM channels_listing listing JOIN channels_storelocation place ON place.channel_id = listing.channel_id
        """,
    )  # numbers of our own, no text from anywhere
    with connection.cursor() as cursor:
        for step in steps:
            cursor.execute(step)
