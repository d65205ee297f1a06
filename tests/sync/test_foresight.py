"""A large change of settings is shown before it is saved, and is not held once more when it was meant."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from channels.models import Channel, ListingLevel
from locations import matrix
from locations.models import LocationGroup, PublishingRule
from merchants.models import AuditEvent, Member, Role, User
from sync import foresight
from sync.invariants import violations
from sync.models import DirtySku, HeldLevel, HoldState, PushHold
from tests.factories import NOON, Trade, make_trade
from tests.fakes import FakeChannel
from tests.locations.test_admin import save_group
from tests.sync.test_bigruns import CODES, adjust, push, settle

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade(shops=("north", "south", "east"), stock_of=dict.fromkeys(CODES, 10))


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    user = User.objects.create_user(username="m", email="manager@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    return user


@pytest.fixture
def stores(alder: Trade) -> dict[str, FakeChannel]:
    return {name: FakeChannel.of(shop) for name, shop in alder.shops.items()}


def change(client: Client, trade: Trade, **fields: Any) -> Any:
    return save_group(client, trade.group, cells=dict(matrix.matrix_of(trade.group)), **fields)


def go_on(client: Client, address: str, page: str, **more: str) -> Any:
    """Press the button of the page that asks."""
    hidden = re.findall(r'<input type="hidden" name="([^"]+)"(?: value="([^"]*)")?', page)
    said = {name: unescape(value) for name, value in hidden if name != "csrfmiddlewaretoken"}
    return client.post(address, said | more)


def address_of(group: LocationGroup) -> str:
    return reverse("admin:locations_locationgroup_change", args=[group.pk])


def push_all(trade: Trade, stores: dict[str, FakeChannel]) -> None:
    for _ in range(3):
        for name, shop in trade.shops.items():
            push(shop, stores[name])
        settle(trade)


def test_a_policy_that_lowers_much_is_shown_first_and_changes_nothing_yet(
    client: Client, manager: User, alder: Trade
) -> None:
    before = AuditEvent.objects.count()

    page = change(client, alder, policy="split").content.decode()

    assert "This changes much: look before it is saved" in page
    assert page.count("100 of 100 levels are lowered, 0 of them to zero") == 3
    alder.group.refresh_from_db()
    assert alder.group.policy == "shared"
    assert not DirtySku.objects.exists()
    assert not PushHold.objects.exists()
    assert AuditEvent.objects.count() == before


def test_what_was_seen_and_confirmed_is_not_held_and_becomes_true(
    client: Client, manager: User, alder: Trade, stores: dict[str, FakeChannel]
) -> None:
    page = change(client, alder, policy="split").content.decode()
    foreseen = dict(HeldLevel.objects.values_list("listing_level", "to_quantity"))
    assert foreseen == {}

    saved = go_on(client, address_of(alder.group), page, reason="no more overselling")

    assert saved.status_code == 302
    alder.group.refresh_from_db()
    assert alder.group.policy == "split"
    told = dict(PushHold.objects.values_list("channel__name", "state"))
    assert told == dict.fromkeys(("North", "South", "East"), HoldState.CONFIRMED)
    hold = PushHold.objects.first()
    assert hold is not None
    assert (hold.decided_by, hold.decision_reason, hold.reason.split(":")[0]) == (
        manager,
        "no more overselling",
        "Location group Everywhere",
    )
    settle(alder)
    push_all(alder, stores)
    assert not PushHold.objects.filter(state=HoldState.HELD).exists()
    shown = sorted(store.levels[FakeChannel.where(alder.shops[name], "SKU-000")] for name, store in stores.items())
    assert shown == [3, 3, 4]
    assert not list(violations(when_quiet=False))


def test_the_way_back_raises_much_and_is_asked_about_likewise(
    client: Client, manager: User, alder: Trade, stores: dict[str, FakeChannel]
) -> None:
    go_on(client, address_of(alder.group), change(client, alder, policy="split").content.decode())
    settle(alder)
    push_all(alder, stores)
    alder.group.refresh_from_db()

    page = change(client, alder, policy="shared").content.decode()
    assert "0 of 100 levels are lowered, 0 of them to zero; 100 are raised" in page
    assert go_on(client, address_of(alder.group), page).status_code == 302

    settle(alder)
    push_all(alder, stores)
    assert not PushHold.objects.filter(state=HoldState.HELD).exists()
    assert set(ListingLevel.objects.values_list("desired", flat=True)) == {10}


def test_a_raise_that_must_wait_for_others_was_confirmed_with_the_rest(
    client: Client, manager: User, alder: Trade, stores: dict[str, FakeChannel]
) -> None:
    go_on(client, address_of(alder.group), change(client, alder, policy="split").content.decode())
    settle(alder)
    push_all(alder, stores)
    alder.group.refresh_from_db()
    add = reverse("admin:locations_publishingrule_add")

    page = client.post(add, {"channel": alder.shops["north"].channel.pk, "cap": "0"}).content.decode()
    assert "100 of 100 levels are lowered, 100 of them to zero" in page
    assert page.count("0 of 100 levels are lowered, 0 of them to zero; 100 are raised") == 2
    go_on(client, add, page)
    settle(alder)
    push_all(alder, stores)

    assert not PushHold.objects.filter(state=HoldState.HELD).exists()
    assert [alder.shops[name].level("SKU-000").desired for name in alder.shops] == [0, 5, 5]


def test_a_change_that_is_not_large_is_saved_without_a_question(client: Client, manager: User, alder: Trade) -> None:
    assert change(client, alder, name="Wherever").status_code == 302
    assert change(client, alder, routing="most_stock").status_code == 302
    Channel.objects.update(big_run_levels=500)
    assert change(client, alder, policy="split").status_code == 302
    assert not PushHold.objects.exists()


def test_what_has_moved_since_it_was_looked_at_is_shown_again(client: Client, manager: User, alder: Trade) -> None:
    page = change(client, alder, policy="split").content.decode()
    for code in CODES[:60]:
        adjust(alder, code, -9)
    settle(alder)
    for hold in PushHold.objects.all():
        hold.levels.update(state="released", settled_at=NOON)
    ListingLevel.objects.filter(listing__sku__code__in=CODES[:60]).update(base=1, desired=1)

    again = go_on(client, address_of(alder.group), page)

    assert again.status_code == 200
    assert "would change by now, not 300: look again" in again.content.decode()
    alder.group.refresh_from_db()
    assert alder.group.policy == "shared"


def test_a_rule_for_a_whole_channel_is_asked_about_too(
    client: Client, manager: User, alder: Trade, stores: dict[str, FakeChannel]
) -> None:
    north = alder.shops["north"].channel
    add = reverse("admin:locations_publishingrule_add")

    page = client.post(add, {"channel": north.pk, "cap": "0"}).content.decode()
    assert "100 of 100 levels are lowered, 100 of them to zero" in page
    assert "South" not in page.split("admin-table")[1].split("</table>")[0]
    assert not PublishingRule.objects.exists()
    assert go_on(client, add, page).status_code == 302

    settle(alder)
    assert not PushHold.objects.filter(state=HoldState.HELD).exists()
    assert set(ListingLevel.objects.filter(channel=north).values_list("desired", flat=True)) == {0}


def test_a_rule_for_one_sku_looks_at_that_one_only(client: Client, manager: User, alder: Trade) -> None:
    with_one = foresight.foresee(alder.merchant.pk, [alder.skus["SKU-000"].pk])
    PublishingRule.objects.create(
        merchant=alder.merchant, channel=alder.shops["north"].channel, sku=alder.skus["SKU-000"], cap=0
    )

    foreseen = foresight.foresee(alder.merchant.pk, [alder.skus["SKU-000"].pk])

    assert with_one.channels == ()
    assert [(told.name, told.lowered, told.zeroed, told.is_large) for told in foreseen.channels] == [
        ("North", 1, 1, False)
    ]


def test_a_store_in_shadow_mode_is_told_nothing(client: Client, manager: User, alder: Trade) -> None:
    Channel.objects.filter(name="North").update(is_shadow=True, shadow_since=NOON)

    page = change(client, alder, policy="split").content.decode()

    assert "North" not in page.split("admin-table")[1].split("</table>")[0]
