"""Transfers between warehouses, through the API."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Sum
from django.utils import timezone

from inventory.models import Cause, Movement, StockLevel, Transfer, TransferLine
from merchants.models import ActorKind, AuditEvent
from sync.invariants import violations
from tests.factories import Trade
from tests.inventory.conftest import Program

pytestmark = pytest.mark.django_db


def send(wms: Program, *lines: tuple[str, int], **said: Any) -> Any:
    body = {
        "origin": "MAIN",
        "destination": "SECOND",
        "lines": [{"sku": sku, "quantity": units} for sku, units in lines],
    }
    return wms.post("transfers", body | said)


def receive(wms: Program, reference: str, *lines: tuple[str, int], once: str | None = None) -> Any:
    body = {"lines": [{"sku": sku, "quantity": units} for sku, units in lines]} if lines else {}
    return wms.post(f"transfers/{reference}/receipts", body, once=once)


def cancel(wms: Program, reference: str) -> Any:
    return wms.post(f"transfers/{reference}/cancellation", {"reason": "truck broke down"})


def there(trade: Trade, code: str) -> int:
    """Units on hand in the second warehouse."""
    found = StockLevel.objects.filter(sku=trade.skus[code], warehouse__code="SECOND").first()
    return found.on_hand if found else 0


def units(trade: Trade, code: str) -> int:
    """Every unit of a SKU, wherever it is: in warehouses and in transit."""
    rows = TransferLine.objects.filter(sku=trade.skus[code])
    sums = rows.aggregate(sent=Sum("quantity"), received=Sum("received"), returned=Sum("returned"))
    in_transit = (sums["sent"] or 0) - (sums["received"] or 0) - (sums["returned"] or 0)
    return trade.stock(code).on_hand + there(trade, code) + in_transit


def test_what_is_sent_is_in_no_warehouse_until_it_is_received(wms: Program, alder: Trade) -> None:
    sent = send(wms, ("MUG", 4), ("TEE", 1), reference="van 3")

    assert sent.status_code == 201
    assert sent.json()["state"] == "in_transit"
    assert sent.json()["lines"][0] == {"sku": "MUG", "quantity": 4, "received": 0, "returned": 0, "in_transit": 4}
    assert (alder.stock("MUG").available, there(alder, "MUG"), units(alder, "MUG")) == (6, 0, 10)
    reference = sent.json()["id"]

    partly = receive(wms, reference, ("MUG", 3))
    assert (partly.status_code, partly.json()["state"]) == (200, "in_transit")
    assert (there(alder, "MUG"), units(alder, "MUG")) == (3, 10)

    whole = receive(wms, reference)
    assert whole.json()["state"] == "received"
    assert whole.json()["closed_at"]
    assert (there(alder, "MUG"), there(alder, "TEE"), units(alder, "MUG")) == (4, 1, 10)
    assert list(violations(when_quiet=False)) == []


def test_a_cancelled_transfer_takes_back_what_is_in_transit_only(wms: Program, alder: Trade) -> None:
    reference = send(wms, ("MUG", 4)).json()["id"]
    receive(wms, reference, ("MUG", 1))

    cancelled = cancel(wms, reference)

    assert cancelled.json()["state"] == "cancelled"
    assert cancelled.json()["lines"][0] == {"sku": "MUG", "quantity": 4, "received": 1, "returned": 3, "in_transit": 0}
    assert (alder.stock("MUG").on_hand, there(alder, "MUG")) == (9, 1)
    assert cancel(wms, reference).status_code == 200
    assert receive(wms, reference).status_code == 422
    assert (alder.stock("MUG").on_hand, there(alder, "MUG")) == (9, 1)
    causes = list(Movement.objects.order_by("pk").values_list("cause", flat=True))[-3:]
    assert causes == [Cause.TRANSFER_OUT, Cause.TRANSFER_IN, Cause.TRANSFER_BACK]


@pytest.mark.parametrize(
    ("lines", "said", "field"),
    [
        ([("MUG", 11)], {}, "lines[0].quantity"),
        ([("MUG", 0)], {}, "lines[0].quantity"),
        ([("MUG", 1), ("MUG", 1)], {}, "lines[1].sku"),
        ([("NOPE", 1)], {}, "lines[0].sku"),
        ([], {}, "lines"),
        ([("MUG", 1)], {"origin": "NOPE"}, "origin"),
        ([("MUG", 1)], {"destination": "NOPE"}, "destination"),
        ([("MUG", 1)], {"destination": "MAIN"}, "destination"),
        ([("MUG", 1)], {"state": "received"}, "state"),
    ],
)
def test_a_transfer_that_cannot_be_names_the_field(
    wms: Program, alder: Trade, lines: list[tuple[str, int]], said: dict[str, Any], field: str
) -> None:
    refused = send(wms, *lines, **said)

    assert refused.status_code in (400, 422)
    assert field in [error["field"] for error in refused.json()["errors"]]
    assert not Transfer.objects.exists()
    assert alder.stock("MUG").on_hand == 10


def test_units_that_left_already_may_be_sent_beyond_the_books(wms: Program, alder: Trade) -> None:
    assert send(wms, ("MUG", 12), allow_shortage=True).status_code == 201
    assert alder.stock("MUG").available == -2
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize(
    ("lines", "field"),
    [([("MUG", 5)], "lines[0].quantity"), ([("TEE", 1)], "lines[0].sku"), ([("MUG", 1), ("MUG", 1)], "lines[1].sku")],
)
def test_more_than_is_in_transit_does_not_arrive(
    wms: Program, alder: Trade, lines: list[tuple[str, int]], field: str
) -> None:
    reference = send(wms, ("MUG", 4)).json()["id"]

    refused = receive(wms, reference, *lines)

    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert there(alder, "MUG") == 0


def test_a_repeated_request_moves_nothing_again(wms: Program, alder: Trade) -> None:
    reference = send(wms, ("MUG", 4)).json()["id"]

    first, again = (receive(wms, reference, ("MUG", 1), once="r1") for _ in range(2))

    assert first.content == again.content
    assert there(alder, "MUG") == 1


def test_without_an_idempotency_key_nothing_is_sent(alder: Trade, wms: Program, client: Any) -> None:
    refused = client.post("/api/v1/transfers", "{}", content_type="application/json", headers=wms._headers)

    assert refused.status_code == 400
    body = {"origin": "MAIN", "destination": "SECOND", "lines": [{"sku": "MUG", "quantity": 1}]}
    refused = client.post("/api/v1/transfers", body, content_type="application/json", headers=wms._headers)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert not Transfer.objects.exists()


def test_deeds_are_on_the_trail_under_the_key(wms: Program, alder: Trade) -> None:
    reference = send(wms, ("MUG", 4)).json()["id"]
    receive(wms, reference)

    events = AuditEvent.objects.filter(object_type="inventory.transfer").order_by("pk")
    assert [(event.action, event.actor_kind, event.api_key) for event in events] == [
        ("transfer.send", ActorKind.API, wms.key),
        ("transfer.receive", ActorKind.API, wms.key),
    ]


def test_the_list_is_read_page_by_page(wms: Program, alder: Trade) -> None:
    ids = [send(wms, ("MUG", 1)).json()["id"] for _ in range(5)]
    cancel(wms, ids[0])

    first = wms.get("transfers", limit=3).json()
    second = wms.get("transfers", limit=3, cursor=first["next"]).json()
    under_way = wms.get("transfers", state="in_transit").json()

    assert [transfer["id"] for transfer in first["transfers"] + second["transfers"]] == ids[::-1]
    assert second["next"] is None
    assert [transfer["id"] for transfer in under_way["transfers"]] == ids[:0:-1]
    for query in ({"limit": 0}, {"limit": 251}, {"cursor": "x"}, {"state": "lost"}, {"page": 2}):
        assert wms.get("transfers", **query).status_code == 400


def test_another_merchants_transfer_does_not_exist(wms: Program, alder: Trade, birch: Trade) -> None:
    theirs = send(Program(birch.merchant), ("MUG", 2)).json()["id"]

    for reference in (theirs, str(uuid.uuid4())):
        assert wms.get(f"transfers/{reference}").status_code == 404
        assert receive(wms, reference).status_code == 404
        assert cancel(wms, reference).status_code == 404
    assert wms.get("transfers").json()["transfers"] == []
    assert Transfer.objects.get().state == "in_transit"


def test_what_arrived_before_a_count_is_not_added_to_it(wms: Program, alder: Trade) -> None:
    reference = send(wms, ("MUG", 4), effective_at="2026-11-20T08:00:00Z").json()["id"]
    wms.post_lines("counts", {"key": "there", "sku": "MUG", "warehouse": "SECOND", "quantity": 4})
    wms.post_lines("counts", {"key": "here", "sku": "MUG", "warehouse": "MAIN", "quantity": 6})

    # They had arrived when somebody counted; the paper reached the office afterwards.
    body = {"effective_at": "2026-11-20T09:00:00Z"}
    assert wms.post(f"transfers/{reference}/receipts", body).status_code == 200

    assert (alder.stock("MUG").on_hand, there(alder, "MUG")) == (6, 4)
    assert Transfer.objects.get().sent_at.isoformat() == "2026-11-20T08:00:00+00:00"
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize("step", ["send", "receive"])
def test_nothing_is_sent_or_received_in_the_future(wms: Program, alder: Trade, step: str) -> None:
    ahead = (timezone.now() + timedelta(hours=1)).isoformat()
    if step == "send":
        answer = send(wms, ("MUG", 4), effective_at=ahead)
    else:
        reference = send(wms, ("MUG", 4)).json()["id"]
        answer = wms.post(f"transfers/{reference}/receipts", {"effective_at": ahead})

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["effective_at"]
    assert there(alder, "MUG") == 0


def test_units_beyond_all_sense_are_refused_on_both_sides(wms: Program, alder: Trade) -> None:
    hundred_million = 100_000_000
    answers = [send(wms, ("MUG", hundred_million), allow_shortage=True) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [201] * 10 + [422]
    assert answers[-1].json()["errors"][0]["field"] == "lines[0].quantity"

    wms.post_lines("counts", {"key": "c", "sku": "MUG", "warehouse": "SECOND", "quantity": hundred_million})
    received = [receive(wms, answer.json()["id"]) for answer in answers[:10]]
    assert [answer.status_code for answer in received] == [200] * 9 + [422]
    assert received[-1].json()["errors"][0]["field"] == "lines[0].quantity"
