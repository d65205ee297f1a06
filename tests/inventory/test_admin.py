"""SKUs, bundles and adjustments in the admin."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from inventory import stock
from inventory.models import BomLine, Cause, Movement, Sku, SkuKind
from merchants.models import AuditEvent, Member, Role, User
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder", stock_of={"MUG": 10, "TEE": 5, "HAT": 3})


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    user = User.objects.create_user(username="m", email="manager@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    return user


def adjust(client: Client, trade: Trade, code: str, **answers: Any) -> Any:
    """Fill in and send the page that adjusts one stock level."""
    path = reverse("admin:inventory_stocklevel_adjust_level", args=[trade.stock(code).pk])
    return client.post(path, {"warehouse": trade.warehouse.pk, "once": str(uuid4()), **answers})


def save_sku(client: Client, sku: Sku, kind: str, *components: tuple[Sku, int]) -> Any:
    """Send the page of a SKU with these components."""
    data: dict[str, Any] = {
        "code": sku.code,
        "title": sku.title,
        "barcode": "",
        "kind": kind,
        "strategy": sku.strategy,
    }
    known = list(BomLine.objects.filter(bundle=sku).order_by("pk"))
    data |= {"bom_lines-TOTAL_FORMS": len(components), "bom_lines-INITIAL_FORMS": len(known)}
    for place, (component, quantity) in enumerate(components):
        line = known[place] if place < len(known) else None
        data |= {
            f"bom_lines-{place}-component": component.pk,
            f"bom_lines-{place}-quantity": quantity,
            f"bom_lines-{place}-id": line.pk if line else "",
            f"bom_lines-{place}-bundle": sku.pk,
        }
    return client.post(reverse("admin:inventory_sku_change", args=[sku.pk]), data)


def make_bundle(trade: Trade, code: str, *parts: Sku) -> Sku:
    bundle = Sku.objects.create(merchant=trade.merchant, code=code, kind=SkuKind.BUNDLE)
    for part in parts:
        BomLine.objects.create(merchant=trade.merchant, bundle=bundle, component=part, quantity=1)
    return bundle


def test_an_adjustment_writes_a_movement_with_its_reason(client: Client, manager: User, alder: Trade) -> None:
    response = adjust(client, alder, "MUG", change="-3", reason="dropped in aisle 3")

    assert response.status_code == 302
    assert alder.stock("MUG").on_hand == 7
    movement = Movement.objects.latest("pk")
    assert (movement.delta, movement.cause, movement.reason) == (-3, Cause.ADJUSTMENT, "dropped in aisle 3")
    assert movement.user == manager
    event = AuditEvent.objects.get(action="stock.adjust")
    assert (event.before, event.after, event.user) == ({"on_hand": 10}, {"on_hand": 7}, manager)


def test_a_count_is_posted_as_its_difference_from_the_books(client: Client, manager: User, alder: Trade) -> None:
    adjust(client, alder, "TEE", counted="8", reason="cycle count")

    assert alder.stock("TEE").on_hand == 8
    assert Movement.objects.latest("pk").delta == 3


def test_a_count_that_agrees_with_the_books_posts_nothing(client: Client, manager: User, alder: Trade) -> None:
    before = Movement.objects.count()

    response = adjust(client, alder, "TEE", counted="5", reason="cycle count")

    assert response.status_code == 302
    assert Movement.objects.count() == before


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({"change": "5"}, "This field is required"),
        ({"change": "5", "reason": "   "}, "This field is required"),
        ({"reason": "why not"}, "Fill in one of the two"),
        ({"change": "1", "counted": "9", "reason": "both"}, "Fill in one of the two"),
        ({"change": "0", "reason": "nothing"}, "changes nothing"),
        ({"change": "9999999999999", "reason": "huge"}, "less than or equal"),
        ({"counted": "-1", "reason": "negative"}, "greater than or equal"),
    ],
)
def test_an_adjustment_that_is_not_clear_is_refused(
    answers: dict[str, str], complaint: str, client: Client, manager: User, alder: Trade
) -> None:
    before = Movement.objects.count()

    response = adjust(client, alder, "MUG", **answers)

    assert response.status_code == 200
    assert complaint in response.content.decode()
    assert Movement.objects.count() == before
    assert alder.stock("MUG").on_hand == 10


def test_a_doubled_click_posts_once(client: Client, manager: User, alder: Trade) -> None:
    once = str(uuid4())

    adjust(client, alder, "MUG", change="2", reason="found", once=once)
    adjust(client, alder, "MUG", change="2", reason="found", once=once)

    assert alder.stock("MUG").on_hand == 12


def test_a_stranger_can_not_adjust(client: Client, alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    stranger = User.objects.create_user(username="s", email="s@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=birch.merchant, user=stranger, role=Role.OWNER)
    client.force_login(stranger)

    response = adjust(client, alder, "MUG", change="-3", reason="mischief")

    assert response.status_code == 404
    assert alder.stock("MUG").on_hand == 10


def test_a_bundle_can_not_be_adjusted(client: Client, manager: User, alder: Trade) -> None:
    bundle = make_bundle(alder, "SET", alder.skus["MUG"])

    page = client.get(reverse("admin:inventory_sku_adjust_stock", args=[bundle.pk]), follow=True)

    assert "adjust its components" in page.content.decode()


def test_the_page_of_a_sku_shows_stock_listings_and_movements(client: Client, manager: User, alder: Trade) -> None:
    adjust(client, alder, "MUG", change="-3", reason="dropped in aisle 3")

    page = client.get(reverse("admin:inventory_sku_change", args=[alder.skus["MUG"].pk])).content.decode()

    assert "Alder&#x27;s warehouse" in page
    assert "dropped in aisle 3" in page
    assert "North" in page
    assert f"/story/{Movement.objects.latest('pk').correlation_id}/" in page


def test_a_bundle_is_made_of_components_and_published(
    client: Client, manager: User, alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(stock, "on_change", [lambda *about: told.append(about[:2])])
    bundle = make_bundle(alder, "SET", alder.skus["MUG"])

    response = save_sku(client, bundle, "bundle", (alder.skus["MUG"], 2), (alder.skus["TEE"], 1))

    assert response.status_code == 302
    assert dict(BomLine.objects.filter(bundle=bundle).values_list("component__code", "quantity")) == {
        "MUG": 2,
        "TEE": 1,
    }
    assert told == [(alder.merchant.pk, [bundle.pk])]
    assert {event.action for event in AuditEvent.objects.all()} == {"bomline.create", "bomline.change"}


def test_a_bundle_that_would_contain_itself_is_refused_with_the_way_round(
    client: Client, manager: User, alder: Trade
) -> None:
    inner = make_bundle(alder, "INNER", alder.skus["MUG"])
    middle = make_bundle(alder, "MIDDLE", inner)
    outer = make_bundle(alder, "OUTER", middle)

    response = save_sku(client, inner, "bundle", (outer, 1))

    assert response.status_code == 200
    assert "INNER &gt; OUTER &gt; MIDDLE &gt; INNER" in response.content.decode()
    assert BomLine.objects.get(bundle=inner).component == alder.skus["MUG"]


def test_bundles_nested_too_deep_are_refused_with_the_way_down(client: Client, manager: User, alder: Trade) -> None:
    inner = make_bundle(alder, "B1", alder.skus["MUG"])
    for level in range(2, 5):
        inner = make_bundle(alder, f"B{level}", inner)
    above = make_bundle(alder, "TOP", alder.skus["TEE"])
    make_bundle(alder, "TIPTOP", above)

    response = save_sku(client, above, "bundle", (inner, 1))

    assert response.status_code == 200
    assert "TIPTOP &gt; TOP &gt; B4 &gt; B3 &gt; B2 &gt; B1 &gt; MUG" in response.content.decode()
    assert BomLine.objects.get(bundle=above).component == alder.skus["TEE"]


def test_a_bundle_of_itself_is_refused(client: Client, manager: User, alder: Trade) -> None:
    bundle = make_bundle(alder, "SET", alder.skus["MUG"])

    response = save_sku(client, bundle, "bundle", (bundle, 1))

    assert response.status_code == 200
    assert "SET &gt; SET" in response.content.decode()


def test_a_stocked_sku_has_no_components_and_a_bundle_has_some(client: Client, manager: User, alder: Trade) -> None:
    bundle = make_bundle(alder, "SET")

    with_components = save_sku(client, alder.skus["HAT"], "stocked", (alder.skus["MUG"], 1))
    without = save_sku(client, bundle, "bundle")

    assert "A stocked SKU has no components" in with_components.content.decode()
    assert "A bundle needs at least one component" in without.content.decode()


def test_a_sku_with_stock_can_not_become_a_bundle(client: Client, manager: User, alder: Trade) -> None:
    response = save_sku(client, alder.skus["HAT"], "bundle", (alder.skus["MUG"], 1))

    assert "3 units of this SKU are on hand" in response.content.decode()
    assert Sku.objects.get(code="HAT").kind == SkuKind.STOCKED


def test_a_component_of_another_merchant_is_refused(client: Client, manager: User, alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    bundle = make_bundle(alder, "SET", alder.skus["MUG"])

    response = save_sku(client, bundle, "bundle", (birch.skus["TEE"], 1))

    assert response.status_code == 200
    assert "Select a valid choice" in response.content.decode()
    assert BomLine.objects.get(bundle=bundle).component == alder.skus["MUG"]
