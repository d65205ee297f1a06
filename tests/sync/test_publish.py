"""What stores should show: quotas of holds, and warehouses that are switched off."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from channels import mapping
from inventory.models import Shortage, Warehouse
from locations import matrix
from locations.models import GroupWarehouse, Mapping
from merchants.models import User
from sync.apply import apply_batch
from sync.invariants import violations
from sync.publish import publish_batch
from tests.engine import engine
from tests.factories import NOON, Trade, add_warehouse, deliver, later, make_trade, order_body

pytestmark = pytest.mark.django_db(transaction=True)


def publish(trade: Trade) -> None:
    publish_batch(engine(), merchant_id=trade.merchant.pk)


@pytest.mark.parametrize("how", ["group dissolved", "warehouse left", "listings unmapped"])
def test_holds_get_back_what_no_policy_divides_any_more(how: str) -> None:
    alder = make_trade(policy="split")
    assert alder.stock("MUG").quota == 0
    if how == "group dissolved":
        alder.group.delete()
    elif how == "warehouse left":
        Mapping.objects.all().delete()
        GroupWarehouse.objects.all().delete()
    if how == "listings unmapped":
        for shop in alder.shops.values():
            mapping.map_listing(listing=shop.listings["MUG"], sku=None, user=None)
    else:
        matrix.announce(alder.merchant.pk, NOON)

    publish(alder)

    assert alder.stock("MUG").quota is None


def test_of_a_warehouse_that_is_switched_off_nothing_is_offered(client: Client) -> None:
    alder = make_trade()
    client.force_login(User.objects.create_superuser(username="root", email="root@synctec.test", password="x"))
    page = reverse("admin:inventory_warehouse_change", args=[alder.warehouse.pk])
    said = {"merchant": alder.merchant.pk, "code": alder.warehouse.code, "name": alder.warehouse.name}

    assert client.post(page, said).status_code == 302
    assert not Warehouse.objects.get().is_active
    publish(alder)
    assert {shop.level("MUG").desired for shop in alder.shops.values()} == {0}
    assert alder.stock("MUG").on_hand == 10

    assert client.post(page, said | {"is_active": "on"}).status_code == 302
    publish(alder)
    assert {shop.level("MUG").desired for shop in alder.shops.values()} == {10}


@pytest.fixture
def moving() -> tuple[Trade, Warehouse]:
    """Alder moves out of its warehouse, which is switched off, into another with five mugs."""
    alder = make_trade()
    annex = add_warehouse(alder, "ANNEX", {"MUG": 5})
    Warehouse.objects.filter(pk=alder.warehouse.pk).update(is_active=False)
    publish(alder)
    return alder, annex


def test_a_sale_takes_nothing_from_a_warehouse_that_is_switched_off(moving: tuple[Trade, Warehouse]) -> None:
    alder, annex = moving
    north, south = alder.shops.values()
    assert (north.level("MUG").desired, south.level("MUG").desired) == (5, 5)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))

    apply_batch(engine(later(10)), merchant_id=alder.merchant.pk)
    publish(alder)

    assert (alder.stock("MUG").available, alder.stock("MUG", annex).available) == (10, 2)
    assert south.level("MUG").desired == 2


def test_units_sold_beyond_the_warehouses_in_use_are_short_whatever_lies_in_one_that_is_off(
    moving: tuple[Trade, Warehouse],
) -> None:
    alder, annex = moving
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 7)))

    apply_batch(engine(later(10)), merchant_id=alder.merchant.pk)

    assert alder.stock("MUG", annex).available == -2
    assert Shortage.objects.get().quantity == 2
    assert list(violations(when_quiet=False)) == []


def test_a_cancelled_sale_goes_back_to_its_warehouse_even_if_that_was_switched_off_since() -> None:
    alder = make_trade()
    annex = add_warehouse(alder, "ANNEX", {"MUG": 5})
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))
    apply_batch(engine(later(10)), merchant_id=alder.merchant.pk)
    Warehouse.objects.filter(pk=alder.warehouse.pk).update(is_active=False)
    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=20, current=(0,)))

    apply_batch(engine(later(30)), merchant_id=alder.merchant.pk)

    assert (alder.stock("MUG").available, alder.stock("MUG", annex).available) == (10, 5)


def test_where_every_warehouse_is_switched_off_what_was_sold_leaves_the_first() -> None:
    alder = make_trade()
    Warehouse.objects.update(is_active=False)
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))

    apply_batch(engine(later(10)), merchant_id=alder.merchant.pk)

    assert alder.stock("MUG").committed == 3
    assert not Shortage.objects.exists()
