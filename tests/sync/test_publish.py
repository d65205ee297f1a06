"""What stores should show: quotas of holds, and warehouses that are switched off."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from channels import mapping
from inventory.models import Warehouse
from locations import matrix
from locations.models import GroupWarehouse, Mapping
from merchants.models import User
from sync.publish import publish_batch
from tests.engine import engine
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db


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
