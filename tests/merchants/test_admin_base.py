"""Who sees and changes what in the admin, and the trace that each change leaves."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from channels.models import InboxEvent, Push, PushBatch
from inventory.models import Hold, Movement, Shortage, Sku, StockLevel, Warehouse
from merchants.models import AuditEvent, Member, Merchant, Role, User
from sync.models import Allocation, DirtySku, Drift, OrderLine, ReconcileRun
from tests.factories import Trade, make_trade

pytestmark = pytest.mark.django_db

READ_ONLY = (
    Movement,
    StockLevel,
    Shortage,
    Hold,
    InboxEvent,
    Push,
    PushBatch,
    AuditEvent,
    OrderLine,
    Allocation,
    Drift,
    DirtySku,
    ReconcileRun,
)


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder")


@pytest.fixture
def superuser(client: Client) -> User:
    user = User.objects.create_superuser(username="root", email="root@synctec.test", password="x")
    client.force_login(user)
    return user


def sign_in_member(client: Client, merchant: Merchant, role: Role) -> User:
    """A member of one merchant who may enter the admin."""
    user = User.objects.create_user(username=role, email=f"{role}@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=merchant, user=user, role=role)
    client.force_login(user)
    return user


def url(model: Any, page: str = "changelist", *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_every_model_of_ours_is_registered() -> None:
    from django.apps import apps

    ours = {
        model
        for app in ("merchants", "inventory", "channels", "locations", "sync")
        for model in apps.get_app_config(app).get_models()
    }

    missing = {model.__name__ for model in ours - set(admin.site._registry)}

    # Credentials are never shown; the others are parts of what they belong to, and on its page.
    parts = {
        "Attempt",
        "BomLine",
        "GroupLocation",
        "GroupWarehouse",
        "HoldPart",
        "Mapping",
        "Notification",
        "Placement",
        "SubscriptionCheck",
        "TransferLine",
    }
    assert missing == {"Credential"} | parts


@pytest.mark.parametrize("model", READ_ONLY, ids=lambda model: model.__name__)
def test_nobody_adds_changes_or_deletes_what_the_engine_wrote(
    model: Any, client: Client, superuser: User, alder: Trade
) -> None:
    key = "00000000-0000-0000-0000-000000000001" if model is PushBatch else 1

    added = client.post(url(model, "add"), {})
    deleted = client.post(url(model, "delete", key), {"post": "yes"})

    assert added.status_code == 403
    assert deleted.status_code == 403
    model_admin = admin.site._registry[model]
    request = added.wsgi_request
    assert not model_admin.has_change_permission(request)
    assert "delete_selected" not in model_admin.get_actions(request)


def test_a_movement_can_not_be_deleted_by_a_superuser(client: Client, superuser: User, alder: Trade) -> None:
    movement = Movement.objects.earliest("pk")

    response = client.post(url(Movement, "delete", movement.pk), {"post": "yes"})

    assert response.status_code == 403
    assert Movement.objects.filter(pk=movement.pk).exists()


def test_a_stock_level_can_not_be_changed_by_posting_to_its_page(client: Client, superuser: User, alder: Trade) -> None:
    level = alder.stock("MUG")

    response = client.post(url(StockLevel, "change", level.pk), {"on_hand": "999"})

    assert response.status_code == 403
    assert alder.stock("MUG").on_hand == 10


def test_a_member_sees_the_rows_of_their_merchant_only(client: Client, alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",), stock_of={"SECRET-SKU": 3})
    sign_in_member(client, alder.merchant, Role.VIEWER)

    listed = client.get(url(Sku)).content.decode()
    foreign_page = client.get(url(Sku, "change", birch.skus["SECRET-SKU"].pk))

    assert "MUG" in listed
    assert "SECRET-SKU" not in listed
    assert foreign_page.status_code == 302
    for model in (StockLevel, Movement):
        page = client.get(url(model), {"q": "SECRET-SKU"})
        assert page.context["cl"].result_list == []


def test_a_stranger_without_a_merchant_sees_no_row(client: Client, alder: Trade) -> None:
    stranger = User.objects.create_user(username="s", email="s@synctec.test", password="x", is_staff=True)
    client.force_login(stranger)

    for model in (Sku, Movement, StockLevel, Warehouse, InboxEvent):
        assert client.get(url(model)).context["cl"].result_list == []


def test_a_viewer_may_look_but_not_change(client: Client, alder: Trade) -> None:
    sign_in_member(client, alder.merchant, Role.VIEWER)
    sku = alder.skus["MUG"]

    page = client.get(url(Sku, "change", sku.pk))
    changed = client.post(url(Sku, "change", sku.pk), {"code": "NEW", "kind": "stocked"})
    adjusted = client.post(url(Sku, "adjust_stock", sku.pk), {})

    assert page.status_code == 200
    assert changed.status_code == 403
    assert adjusted.status_code == 403
    assert Sku.objects.get(pk=sku.pk).code == "MUG"


def test_a_member_may_not_manage_people_or_the_schedule(client: Client, alder: Trade) -> None:
    sign_in_member(client, alder.merchant, Role.OWNER)

    assert client.get(url(User)).status_code == 403
    assert client.get("/admin/django_celery_beat/periodictask/").status_code == 403
    assert client.get(url(Member, "add")).status_code == 403


def test_a_new_row_becomes_the_members_own_merchants(client: Client, alder: Trade) -> None:
    sign_in_member(client, alder.merchant, Role.MANAGER)

    response = client.post(url(Warehouse, "add"), {"code": "EAST", "name": "East", "is_active": "on"})

    assert response.status_code == 302
    assert Warehouse.objects.get(code="EAST").merchant == alder.merchant


def test_a_code_that_the_merchant_has_already_is_refused_in_the_form(client: Client, alder: Trade) -> None:
    sign_in_member(client, alder.merchant, Role.MANAGER)

    response = client.post(url(Warehouse, "add"), {"code": "MAIN", "name": "Another", "is_active": "on"})

    assert response.status_code == 200
    assert "already exists" in response.content.decode()
    assert Warehouse.objects.filter(code="MAIN").count() == 1


def test_a_change_is_recorded_with_before_and_after(client: Client, superuser: User, alder: Trade) -> None:
    warehouse = alder.warehouse

    client.post(url(Warehouse, "change", warehouse.pk), {"code": "MAIN", "name": "Renamed", "is_active": "on"})

    event = AuditEvent.objects.get(action="warehouse.change")
    assert (event.merchant, event.user) == (alder.merchant, superuser)
    assert event.before == {"name": "Alder's warehouse"}
    assert event.after == {"name": "Renamed"}


def test_saving_without_a_change_leaves_no_trace(client: Client, superuser: User, alder: Trade) -> None:
    warehouse = alder.warehouse

    client.post(url(Warehouse, "change", warehouse.pk), {"code": "MAIN", "name": warehouse.name, "is_active": "on"})

    assert not AuditEvent.objects.filter(action="warehouse.change").exists()


def test_a_deletion_is_recorded(client: Client, superuser: User, alder: Trade) -> None:
    empty = Warehouse.objects.create(merchant=alder.merchant, code="OLD", name="Old barn")

    response = client.post(url(Warehouse, "delete", empty.pk), {"post": "yes"})

    assert response.status_code == 302
    event = AuditEvent.objects.get(action="warehouse.delete")
    assert event.before["name"] == "Old barn"
    assert event.object_label == "Old barn"


def test_an_autocomplete_field_offers_rows_of_the_merchant_only(client: Client, superuser: User, alder: Trade) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    query = {"app_label": "channels", "model_name": "listing", "field_name": "sku", "term": "MUG"}

    of_alder = client.get("/admin/autocomplete/", {**query, "of_merchant": str(alder.merchant.pk)}).json()

    assert [row["id"] for row in of_alder["results"]] == [str(alder.skus["MUG"].pk)]
    assert str(birch.skus["MUG"].pk) not in str(of_alder)


def test_the_first_page_and_the_menu_are_shown(client: Client, superuser: User, alder: Trade) -> None:
    page = client.get("/admin/").content.decode()

    assert "What needs somebody" in page
    assert url(Movement) in page
