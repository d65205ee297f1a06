"""Holds and availability over HTTP."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from inventory import holding, holds
from inventory.holds import Ask
from inventory.models import BomLine, Hold, Movement, Sku, SkuKind
from merchants import keys
from merchants.models import ApiKey, AuditEvent, Member, Role, Scope, User
from tests.factories import NOON, Trade, later, make_trade

pytestmark = pytest.mark.django_db

_count = itertools.count()

#: What can be done with a hold.
ACTS = ("extend", "commit", "fulfil", "cancel", "release")


@pytest.fixture
def alder() -> Trade:
    return make_trade(shops=())


class Till:
    """A program with a key of the merchant."""

    def __init__(self, trade: Trade) -> None:
        scopes = (Scope.STOCK_READ, Scope.HOLDS_WRITE)
        _, secret = keys.create(merchant=trade.merchant, name="till", scopes=scopes, expires_at=None, user=None)
        self.headers = {"authorization": f"Bearer {secret.reveal()}"}

    def get(self, path: str, **query: Any) -> Any:
        return Client().get(f"/api/v1/{path}", query, headers=self.headers)

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        headers = self.headers | {"idempotency-key": key or f"key-{next(_count)}"}
        return Client().post(f"/api/v1/{path}", body or {}, content_type="application/json", headers=headers)


@pytest.fixture
def till(alder: Trade) -> Till:
    return Till(alder)


def test_a_hold_is_made_shown_extended_and_committed(alder: Trade, till: Till) -> None:
    made = till.post("holds", {"sku": "MUG", "quantity": 4, "reference": "cart 7", "expires_in": 60})
    hold = made.json()

    assert made.status_code == 201
    assert (hold["state"], hold["order"], hold["ended_at"]) == ("active", None, None)
    assert hold["parts"] == [{"sku": "MUG", "warehouse": "MAIN", "quantity": 4}]
    assert till.get(f"holds/{hold['id']}").json() == hold

    extended = till.post(f"holds/{hold['id']}/extend", {"expires_in": 3600}).json()
    assert extended["expires_at"] > hold["expires_at"]
    sold = till.post(f"holds/{hold['id']}/commit", {"reference": "receipt 7"}).json()
    assert (sold["state"], sold["reference"]) == ("committed", "receipt 7")
    assert till.post(f"holds/{hold['id']}/release").status_code == 409
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (0, 4)


def test_a_sale_without_an_order_is_fulfilled_or_cancelled(alder: Trade, till: Till) -> None:
    lines = [{"sku": "MUG", "quantity": 1} for _ in range(4)]
    ids = [line["hold"]["id"] for line in till.post("holds/batch", {"holds": lines}).json()["results"]]
    till.post("holds/batch/commit", {"holds": [{"id": hold_id} for hold_id in ids[:3]]})

    handed_over = till.post(f"holds/{ids[3]}/commit", {"handed_over": True}).json()
    shipped = till.post(f"holds/{ids[0]}/fulfil", {"effective_at": "2026-01-01T00:00:00+01:00"}).json()
    cancelled = till.post(f"holds/{ids[1]}/cancel").json()
    fulfil_lines = [{"id": hold_id} for hold_id in ids]
    many = till.post("holds/batch/fulfil", {"holds": fulfil_lines}).json()["results"]
    none = till.post("holds/batch/cancel", {"holds": [ids[1], ids[2]], "mode": "all_or_nothing"})

    assert (handed_over["state"], handed_over["closed_at"]) == ("fulfilled", handed_over["committed_at"])
    assert (shipped["state"], cancelled["state"]) == ("fulfilled", "cancelled")
    assert [line.get("reason") for line in many] == [None, "hold-cancelled", None, None]
    assert [line["reason"] for line in none.json()["results"]] == ["another-was-refused", "hold-fulfilled"]
    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.held) == (7, 0, 0)


def test_refusals_say_the_way_out(till: Till) -> None:
    hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]

    early = till.post(f"holds/{hold_id}/cancel").json()
    till.post(f"holds/{hold_id}/commit")
    sold = till.post(f"holds/{hold_id}/release").json()
    tomorrow = till.post(f"holds/{hold_id}/fulfil", {"effective_at": "2099-01-01T00:00:00Z"})

    assert (early["type"], "release it" in early["detail"]) == ("urn:synctec:problem:hold-not-committed", True)
    assert (sold["type"], "cancel it" in sold["detail"]) == ("urn:synctec:problem:hold-committed", True)
    assert (tomorrow.status_code, tomorrow.json()["errors"][0]["field"]) == (422, "effective_at")


def test_an_order_is_named_as_its_channel_does() -> None:
    north = make_trade("Cedar")
    till = Till(north)
    channel = north.shops["north"].channel.pk
    hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]

    def commit(order: dict[str, Any], **more: Any) -> Any:
        return till.post(f"holds/{hold_id}/commit", {"order": order} | more)

    no_order = commit({"channel": channel, "id": "#1001"})
    no_channel = commit({"channel": 2**63 - 1, "id": "1001"})
    handed_over = commit({"channel": channel, "id": "1001"}, handed_over=True)
    done = commit({"channel": channel, "id": "gid://shopify/Order/1001"})
    released = till.post(f"holds/{hold_id}/release")

    assert (no_order.status_code, no_order.json()["errors"][0]["field"]) == (422, "order.id")
    assert (no_channel.status_code, no_channel.json()["errors"][0]["field"]) == (422, "order.channel")
    assert (handed_over.status_code, handed_over.json()["errors"][0]["field"]) == (400, "handed_over")
    assert done.json()["order"] == {"channel": channel, "id": "1001"}
    assert "ship or cancel the order there" in released.json()["detail"]


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 10**30])
def test_a_number_that_no_hold_has_is_not_found(till: Till, number: int) -> None:
    assert till.get(f"holds/{number}").status_code == 404
    for act in ACTS:
        assert till.post(f"holds/{number}/{act}").status_code == 404


def test_ids_of_holds_may_have_63_bits(till: Till) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval('inventory_hold_id_seq', %s)", [2**31])
    hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]
    lines = {"commit": [{"id": hold_id}], "fulfil": [{"id": hold_id}]}

    for act in ACTS:
        answer = till.post(f"holds/batch/{act}", {"holds": lines.get(act, [hold_id])})
        assert answer.json()["results"][0]["hold"]["id"] == hold_id
    assert till.post("holds/batch/release", {"holds": [2**63]}).status_code == 400


def test_the_ledger_says_which_key_made_and_ended_a_hold(till: Till) -> None:
    for end in ({"handed_over": True}, None):
        hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]
        till.post(f"holds/{hold_id}/commit", end)
    till.post(f"holds/{hold_id}/cancel")
    till.post(f"holds/{till.post('holds', {'sku': 'MUG', 'quantity': 1}).json()['id']}/release")
    expired = holding.hold(
        [Ask("MUG", 1, source="st_other")], merchant_id=Hold.objects.get(pk=hold_id).merchant_id, now=NOON
    )
    assert expired[0].held is not None
    holds.sweep(now=later(901))

    prefix = ApiKey.objects.get().prefix
    assert set(Hold.objects.values_list("source", flat=True)) == {prefix, "st_other"}
    by_source = Counter(Movement.objects.exclude(cause="opening").values_list("source", flat=True))
    assert by_source == {prefix: 11, "st_other": 1, "": 1}


def test_what_is_not_there_is_refused_with_how_many_are(till: Till) -> None:
    refused = till.post("holds", {"sku": "MUG", "quantity": 11})

    assert refused.status_code == 409
    assert refused["Content-Type"] == "application/problem+json"
    assert (refused.json()["type"], refused.json()["available"]) == ("urn:synctec:problem:unavailable", 10)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"sku": "MUG"}, "quantity"),
        ({"sku": "MUG", "quantity": 0}, "quantity"),
        ({"sku": "MUG", "quantity": True}, "quantity"),
        ({"sku": "MUG", "quantity": 10**12}, "quantity"),
        ({"sku": "MUG", "quantity": 1, "expires_in": 86401}, "expires_in"),
        ({"sku": "MUG", "quantity": 1, "warehouse": "MAIN"}, "warehouse"),
        ({"sku": "MUG", "quantity": 1, "warehouses": [7]}, "warehouses[0]"),
    ],
)
def test_what_cannot_be_read_is_refused_by_field(till: Till, body: Any, field: str) -> None:
    refused = till.post("holds", body)

    assert refused.status_code == 400
    assert field in [error["field"] for error in refused.json()["errors"]]
    assert not Hold.objects.exists()


def test_the_same_key_is_the_same_hold_and_another_body_is_refused(till: Till) -> None:
    body = {"sku": "MUG", "quantity": 10}
    first, again = till.post("holds", body, key="k"), till.post("holds", body, key="k")

    assert again.json() == first.json()
    assert again["Idempotency-Replayed"] == "true"
    assert till.post("holds", {**body, "quantity": 1}, key="k").status_code == 422
    assert (
        Client().post("/api/v1/holds", body, content_type="application/json", headers=till.headers).status_code == 400
    )


@pytest.mark.django_db(transaction=True)
def test_fifty_times_the_same_request_at_once_is_one_hold(till: Till) -> None:
    def ask(_: int) -> Any:
        try:
            answer = till.post("holds", {"sku": "MUG", "quantity": 10}, key="k")
            return answer.status_code, answer.json()["id"]
        finally:
            connection.close()

    with ThreadPoolExecutor(10) as pool:
        answers = set(pool.map(ask, range(50)))

    assert answers == {(201, Hold.objects.get().pk)}


def test_a_batch_answers_line_by_line_or_does_nothing(alder: Trade, till: Till) -> None:
    lines = [{"sku": "MUG", "quantity": 4}, {"sku": "TEE", "quantity": 6}, {"sku": "NONE", "quantity": 1}]

    nothing = till.post("holds/batch", {"holds": lines, "mode": "all_or_nothing"})
    assert nothing.status_code == 409
    assert [line["reason"] for line in nothing.json()["results"]] == [
        "another-was-refused",
        "unavailable",
        "unknown-sku",
    ]
    assert alder.stock("MUG").held == 0

    first = till.post("holds/batch", {"holds": lines}, key="b")
    assert [line["status"] for line in first.json()["results"]] == ["done", "refused", "refused"]
    assert first.json()["results"][1]["available"] == 5
    assert till.post("holds/batch", {"holds": lines}, key="b").content == first.content
    assert alder.stock("MUG").held == 4


def test_many_are_extended_committed_and_released_at_once(alder: Trade, till: Till) -> None:
    lines = [{"sku": "MUG", "quantity": 1} for _ in range(3)]
    ids = [line["hold"]["id"] for line in till.post("holds/batch", {"holds": lines}).json()["results"]]

    extended = till.post("holds/batch/extend", {"holds": ids, "expires_in": 7200}).json()["results"]
    sold = till.post("holds/batch/commit", {"holds": [{"id": ids[0]}, {"id": 10**9}]}).json()["results"]
    released = till.post("holds/batch/release", {"holds": ids}).json()["results"]

    assert [line["status"] for line in extended] == ["done"] * 3
    assert [line.get("reason") for line in sold] == [None, "unknown-hold"]
    assert [line.get("reason") for line in released] == ["hold-committed", None, None]
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (0, 1)


def test_holds_are_listed_page_by_page(till: Till) -> None:
    ids = [till.post("holds", {"sku": code, "quantity": 1}).json()["id"] for code in ("MUG", "TEE", "MUG")]
    till.post(f"holds/{ids[0]}/release")

    first = till.get("holds", limit=2).json()
    rest = till.get("holds", limit=2, cursor=first["next"]).json()

    assert [hold["id"] for hold in first["holds"] + rest["holds"]] == ids[::-1]
    assert [hold["id"] for hold in till.get("holds", sku="MUG", state="active").json()["holds"]] == [ids[2]]
    assert till.get("holds", state="lost").status_code == 400


def test_nobody_reaches_another_merchants_holds(till: Till) -> None:
    stranger = Till(make_trade("Birch", shops=()))
    hold_id = till.post("holds", {"sku": "MUG", "quantity": 1}).json()["id"]

    assert stranger.get(f"holds/{hold_id}").status_code == 404
    for act in ACTS:
        assert stranger.post(f"holds/{hold_id}/{act}").status_code == 404
    assert stranger.get("holds").json()["holds"] == []
    assert Hold.objects.get().state == "active"


def test_availability_is_told_per_warehouse_and_of_bundles(alder: Trade, till: Till) -> None:
    bundle = Sku.objects.create(merchant=alder.merchant, code="SET", kind=SkuKind.BUNDLE)
    for code, quantity in (("MUG", 2), ("TEE", 1)):
        BomLine.objects.create(merchant=alder.merchant, bundle=bundle, component=alder.skus[code], quantity=quantity)
    till.post("holds", {"sku": "MUG", "quantity": 3})

    answer = till.get("availability", sku=["MUG", "SET", "NONE"]).json()

    assert answer["unknown"] == ["NONE"]
    mug, kit = answer["skus"]
    assert mug["warehouses"] == [{"warehouse": "MAIN", "available": 7, "holdable": 7, "version": 2}]
    assert (mug["available"], mug["available_split"], mug["holdable"]) == (7, 7, 7)
    assert kit["warehouses"] == [{"warehouse": "MAIN", "available": 3, "holdable": 3, "version": None}]
    assert kit["available"] == 3
    assert 0 <= kit["age_seconds"] <= 10
    assert till.get("availability").status_code == 400
    assert till.get("availability", sku="MUG", warehouse="MAIN").status_code == 400


def test_in_the_admin_a_hold_is_released_with_a_reason(client: Client, alder: Trade, till: Till) -> None:
    user = User.objects.create_user(username="m", email="m@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    hold = Hold.objects.get(pk=till.post("holds", {"sku": "MUG", "quantity": 4}).json()["id"])
    path = reverse("admin:inventory_hold_release_hold", args=[hold.pk])

    assert "Release 4 x MUG" in client.get(path).content.decode()
    assert alder.stock("MUG").held == 4
    client.post(path, {"reason": "customer rang"})

    assert alder.stock("MUG").held == 0
    event = AuditEvent.objects.get(action="hold.release")
    assert (event.reason, event.user, event.after) == ("customer rang", user, {"state": "released"})
    for held in ("yes", "order", "late", "no"):
        assert client.get(reverse("admin:inventory_hold_changelist"), {"held": held}).status_code == 200


@pytest.mark.parametrize("act", ["", "release", "commit"])
def test_five_hundred_holds_go_into_a_batch_and_not_one_more(act: str) -> None:
    alder = make_trade(shops=(), stock_of={"MUG": 1000})
    till = Till(alder)
    new = [{"sku": "MUG", "quantity": 1}] * 501
    made = till.post("holds/batch", {"holds": new[:500]})
    ids = [line["hold"]["id"] for line in made.json()["results"]]
    lines: list[Any] = (
        new if not act else [*ids, ids[0]] if act == "release" else [{"id": one} for one in (*ids, ids[0])]
    )
    path = f"holds/batch/{act}" if act else "holds/batch"

    refused = till.post(path, {"holds": lines})

    assert (made.status_code, refused.status_code) == (200, 400)
    assert alder.stock("MUG").held == 500
    assert till.post(path, {"holds": lines[:500]}).status_code == 200
    assert alder.stock("MUG").held == (1000 if not act else 0)


@pytest.mark.django_db(transaction=True)
def test_a_batch_whose_key_is_in_flight_is_a_conflict_and_holds_nothing(
    alder: Trade, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_begun, may_end = threading.Event(), threading.Event()
    hold = holding.hold

    def hold_slowly(*asks: Any, **how: Any) -> Any:
        is_begun.set()
        assert may_end.wait(20)
        return hold(*asks, **how)

    monkeypatch.setattr(holding, "hold", hold_slowly)
    body = {"holds": [{"sku": "MUG", "quantity": 4}]}

    def ask() -> Any:
        try:
            return till.post("holds/batch", body, key="cart 7")
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as other:
        first = other.submit(ask)
        assert is_begun.wait(20)
        meanwhile = till.post("holds/batch", body, key="cart 7")
        may_end.set()

    again = till.post("holds/batch", body, key="cart 7")
    assert (first.result().status_code, meanwhile.status_code, again.status_code) == (200, 409, 200)
    assert again.json() == first.result().json()
    assert alder.stock("MUG").held == 4
