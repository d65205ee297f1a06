"""Transfers, counts and webhook endpoints in the admin."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from inventory import delivery
from inventory.models import (
    EndpointState,
    StockCount,
    StockLevel,
    Transfer,
    Warehouse,
    WebhookDelivery,
    WebhookEndpoint,
)
from merchants.models import AuditEvent, Member, Role, User
from tests.factories import Trade
from tests.inventory.conftest import Program

pytestmark = pytest.mark.django_db

SEND = reverse("admin:inventory_transfer_send_units")
COUNT = reverse("admin:inventory_stockcount_enter_counts")
ADD = reverse("admin:inventory_webhookendpoint_add_endpoint")


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    user = User.objects.create_user("m", "m@synctec.test", "x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    return user


def place(trade: Trade, code: str) -> int:
    return Warehouse.objects.get(merchant=trade.merchant, code=code).pk


def send(client: Client, trade: Trade, units: str, **said: Any) -> Any:
    answers = {
        "origin": place(trade, "MAIN"),
        "destination": place(trade, "SECOND"),
        "units": units,
        "once": str(uuid4()),
    }
    return client.post(SEND, answers | said)


def page_of(row: Any, name: str = "change") -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{name}", args=[row.pk])


# --- transfers ----------------------------------------------------------------------------------------------


def test_a_transfer_is_sent_received_in_part_and_cancelled(client: Client, manager: User, alder: Trade) -> None:
    once = str(uuid4())
    for _ in range(2):
        assert send(client, alder, "MUG, 4\nTEE, 1", once=once).status_code == 302
    transfer = Transfer.objects.get()
    assert alder.stock("MUG").on_hand == 6
    shown = client.get(page_of(transfer)).content.decode()
    assert "MUG" in shown

    receive = page_of(transfer, "receive_units")
    assert "4 in transit" in client.get(receive).content.decode()
    answers = {f"line_{line.pk}": {"MUG": 3, "TEE": 0}[line.sku.code] for line in transfer.lines.all()}
    arrived = str(uuid4())
    for _ in range(2):
        assert client.post(receive, answers | {"once": arrived}).status_code in (200, 302)
    assert StockLevel.objects.get(sku=alder.skus["MUG"], warehouse__code="SECOND").on_hand == 3

    cancel = page_of(transfer, "cancel_transfer")
    assert client.post(cancel, {"reason": ""}).status_code == 200
    client.post(cancel, {"reason": "van broke down"})
    transfer.refresh_from_db()
    assert transfer.state == "cancelled"
    assert (alder.stock("MUG").on_hand, alder.stock("TEE").on_hand) == (7, 5)
    assert AuditEvent.objects.get(action="transfer.cancel").user == manager


@pytest.mark.parametrize(
    ("units", "complaint"),
    [("MUG, 11", "are available"), ("NOPE, 1", "There is no SKU"), ("MUG", "Line 1: write a SKU"), ("", "required")],
)
def test_a_transfer_that_cannot_be_is_explained(
    client: Client, manager: User, alder: Trade, units: str, complaint: str
) -> None:
    page = send(client, alder, units)

    assert (page.status_code, complaint in page.content.decode()) == (200, True)
    assert not Transfer.objects.exists()


def test_another_merchants_transfer_and_warehouse_do_not_exist(
    client: Client, manager: User, alder: Trade, birch: Trade
) -> None:
    assert send(client, alder, "MUG, 1", destination=place(birch, "SECOND")).status_code == 200
    assert not Transfer.objects.exists()
    body = {"origin": "MAIN", "destination": "SECOND", "lines": [{"sku": "MUG", "quantity": 1}]}
    Program(birch.merchant).post("transfers", body)
    theirs = Transfer.objects.get()

    for name in ("receive_units", "cancel_transfer"):
        assert client.post(page_of(theirs, name), {"reason": "x"}).status_code == 404


# --- counts -------------------------------------------------------------------------------------------------


def enter(client: Client, trade: Trade, page: Any = None, **said: Any) -> Any:
    """Send the page of counts; with `page`, as it came back from the comparison."""
    fields = (
        dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.content.decode())) if page else {}
    )
    fields.pop("csrfmiddlewaretoken", None)
    answers = {"warehouse": place(trade, "MAIN"), "reason": "yearly count", **said}
    if not page:
        answers |= {"once": str(uuid4()), "counted_at": timezone.now().strftime("%Y-%m-%dT%H:%M:%S.%f%z")}
    return client.post(COUNT, fields | answers)


def test_counts_are_compared_first_and_booked_when_seen(client: Client, manager: User, alder: Trade) -> None:
    compared = enter(client, alder, sheet="MUG, 7\nTEE, 5")

    shown = compared.content.decode()
    assert "7 counted, -3 against the books" in shown
    assert "5 counted, as the books say" in shown
    assert not StockCount.objects.exists()

    booked = enter(client, alder, compared, sheet="MUG, 7\nTEE, 5")

    assert booked.status_code == 302
    assert (alder.stock("MUG").on_hand, alder.stock("TEE").on_hand) == (7, 5)
    assert [(count.correction, count.user) for count in StockCount.objects.order_by("-correction")] == [
        (0, manager),
        (-3, manager),
    ]
    assert client.get(reverse("admin:inventory_stockcount_changelist")).status_code == 200
    assert client.get(page_of(StockCount.objects.earliest("pk"))).status_code == 200


def test_a_sheet_changed_after_it_was_compared_is_compared_again(client: Client, manager: User, alder: Trade) -> None:
    compared = enter(client, alder, sheet="MUG, 7")

    again = enter(client, alder, compared, sheet="MUG, 1")

    assert "1 counted, -9 against the books" in again.content.decode()
    assert alder.stock("MUG").on_hand == 10


def test_a_file_is_read_and_each_bad_line_named(client: Client, manager: User, alder: Trade) -> None:
    file = SimpleUploadedFile("count.csv", b"\xef\xbb\xbfSKU;Counted\r\nMUG;8\r\nTEE;5\r\n")
    assert "8 counted, -2 against the books" in enter(client, alder, file=file).content.decode()

    bad = SimpleUploadedFile("count.csv", b"MUG;8\nTEE;many\nMUG;9")
    shown = enter(client, alder, file=bad).content.decode()
    assert "Line 2: " in shown
    assert "Line 3: " in shown
    for broken in (b"PK\x03\x04\xff\xfe", b"x" * 200_001, b""):
        assert enter(client, alder, file=SimpleUploadedFile("count.xlsx", broken)).status_code == 200
    assert "Line 1: There is no SKU" in enter(client, alder, sheet="CUP, 1").content.decode()
    assert not StockCount.objects.exists()


# --- webhook endpoints --------------------------------------------------------------------------------------


@pytest.fixture
def endpoint(alder: Trade) -> WebhookEndpoint:
    return delivery.create(merchant=alder.merchant, url="https://wms.alder.example/hook", user=None)[0]


def test_an_endpoint_is_added_and_its_secret_shown_once(client: Client, manager: User, alder: Trade) -> None:
    key = Program(alder.merchant).key
    answers = {"merchant": alder.merchant.pk, "url": "https://wms.alder.example/hook", "skipped_key": key.pk}

    page = client.post(ADD, answers)

    (secret,) = re.findall(r"whsec_[\w+/]+=*", page.content.decode())
    added = WebhookEndpoint.objects.get()
    assert added.skipped_key == key
    assert secret not in client.get(page_of(added)).content.decode()
    assert "This address is told already" in client.post(ADD, answers).content.decode()


@pytest.mark.parametrize("url", ["http://wms.alder.example/", "https://127.0.0.1/", "nonsense", ""])
def test_an_address_that_is_not_told_is_refused(client: Client, manager: User, alder: Trade, url: str) -> None:
    page = client.post(ADD, {"merchant": alder.merchant.pk, "url": url})

    assert page.status_code == 200
    assert not WebhookEndpoint.objects.exists()


def test_an_endpoint_is_switched_off_and_on_and_given_a_new_secret(
    client: Client, manager: User, endpoint: WebhookEndpoint
) -> None:
    for name, state in (("switch_off_page", EndpointState.OFF), ("switch_on_page", EndpointState.ACTIVE)):
        assert client.get(page_of(endpoint, name)).status_code == 200
        client.post(page_of(endpoint, name), {"reason": "tidying"})
        endpoint.refresh_from_db()
        assert endpoint.state == state

    assert client.get(page_of(endpoint, "rotate_page")).status_code == 200
    assert "whsec_" in client.post(page_of(endpoint, "rotate_page")).content.decode()
    endpoint.refresh_from_db()
    assert endpoint.previous_until is not None


def test_a_silent_endpoint_is_on_the_first_page(client: Client, manager: User, endpoint: WebhookEndpoint) -> None:
    WebhookEndpoint.objects.update(state=EndpointState.FAILED, state_reason="It failed for five days")

    shown = client.get(reverse("admin:index")).content.decode()

    assert re.search(r"Silent endpoints", shown)
    assert "state__exact=failed" in shown


def test_messages_are_shown(client: Client, manager: User, endpoint: WebhookEndpoint) -> None:
    message = WebhookDelivery.objects.create(
        merchant=endpoint.merchant,
        endpoint=endpoint,
        message_id="msg_1",
        changes=1,
        body='{"type": "stock.changed"}',
        to_transaction=1,
        to_movement=1,
    )

    assert "msg_1" in client.get(page_of(endpoint)).content.decode()
    assert "stock.changed" in client.get(page_of(message)).content.decode()
    assert client.get(reverse("admin:inventory_webhookdelivery_changelist"), {"q": "msg_1"}).status_code == 200


def test_another_merchants_endpoint_does_not_exist(client: Client, manager: User, birch: Trade) -> None:
    theirs, _ = delivery.create(merchant=birch.merchant, url="https://wms.birch.example/hook", user=None)

    assert theirs.url not in client.get(reverse("admin:inventory_webhookendpoint_changelist")).content.decode()
    for name in ("switch_off_page", "switch_on_page", "rotate_page"):
        assert client.post(page_of(theirs, name), {"reason": ""}).status_code == 404
    client.post(ADD, {"merchant": birch.merchant.pk, "url": "https://x.example/"})
    assert WebhookEndpoint.objects.count() == 1
