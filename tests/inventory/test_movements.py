"""Movements from warehouse systems, tills and ERPs, through the API."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from inventory import counts, movements
from inventory.models import Cause, Movement, Sku, SkuKind, Warehouse
from sync.invariants import violations
from sync.models import DirtySku
from tests.factories import NOON, Trade, later
from tests.inventory.conftest import Program

pytestmark = pytest.mark.django_db


def line(key: str, **said: Any) -> dict[str, Any]:
    return {"key": key, "type": "receipt", "sku": "MUG", "warehouse": "MAIN", "quantity": 5} | said


def statuses(results: list[dict[str, Any]]) -> list[str]:
    return [result["status"] for result in results]


def test_every_type_of_movement_is_booked_with_its_cause(wms: Program, alder: Trade) -> None:
    DirtySku.objects.all().delete()

    results = wms.post_lines(
        "movements",
        line("1", reference="PO 7"),
        line("2", type="adjustment", quantity=-2, reason="cycle count"),
        line("3", type="damage", quantity=3, reason="dropped"),
        line("4", type="return", quantity=1),
        line("5", sku="TEE", warehouse="SECOND", effective_at="2026-11-20T10:00:00+01:00"),
    )

    assert statuses(results) == ["applied"] * 5
    assert [result["on_hand"] for result in results] == [11, 11, 11, 11, 5]
    assert alder.stock("MUG").on_hand == 10 + 5 - 2 - 3 + 1
    booked = Movement.objects.order_by("-pk")[:5][::-1]
    assert [(movement.cause, movement.delta, movement.source) for movement in booked] == [
        (Cause.RECEIPT, 5, wms.key.prefix),
        (Cause.ADJUSTMENT, -2, wms.key.prefix),
        (Cause.DAMAGE, -3, wms.key.prefix),
        (Cause.RETURN, 1, wms.key.prefix),
        (Cause.RECEIPT, 5, wms.key.prefix),
    ]
    assert booked[0].reference == "PO 7"
    assert booked[4].effective_at.isoformat() == "2026-11-20T09:00:00+00:00"
    assert set(DirtySku.objects.values_list("sku__code", flat=True)) == {"MUG", "TEE"}
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": "5"}, "quantity"),
        ({"quantity": 2**31}, "quantity"),
        ({"quantity": 100_000_001}, "quantity"),
        ({"type": "damage", "reason": "  "}, "reason"),
        ({"type": "adjustment"}, "reason"),
        ({"type": "theft"}, "type"),
        ({"sku": "NOPE"}, "sku"),
        ({"sku": "SET"}, "sku"),
        ({"warehouse": "NOPE"}, "warehouse"),
        ({"warehouse": "OLD"}, "warehouse"),
        ({"key": ""}, "key"),
        ({"key": "k" * 81}, "key"),
        ({"effective_at": "2026-11-20T10:00:00"}, "effective_at"),
        ({"effective_at": "2099-11-20T10:00:00Z"}, "effective_at"),
        ({"qty": 5}, "qty"),
    ],
)
def test_a_refused_line_names_its_field_and_keeps_no_other_back(
    wms: Program, alder: Trade, said: dict[str, Any], field: str
) -> None:
    Sku.objects.create(merchant=alder.merchant, code="SET", kind=SkuKind.BUNDLE)
    Warehouse.objects.create(merchant=alder.merchant, code="OLD", name="Old", is_active=False)

    results = wms.post_lines("movements", line("bad") | said, line("good"))

    assert statuses(results) == ["refused", "applied"]
    assert [error["field"] for error in results[0]["errors"]] == [field]
    assert alder.stock("MUG").on_hand == 15


@pytest.mark.parametrize("line_of_nothing", [None, 5, "x", [], {}])
def test_a_line_that_is_none_is_refused(wms: Program, alder: Trade, line_of_nothing: Any) -> None:
    results = wms.post_lines("movements", line_of_nothing, line("good"))

    assert statuses(results) == ["refused", "applied"]


@pytest.mark.parametrize("bad", [line("bad", sku="NOPE"), line("bad", quantity="x"), line("good", quantity=6)])
def test_all_or_nothing_books_nothing_when_one_line_is_refused(wms: Program, alder: Trade, bad: dict[str, Any]) -> None:
    answer = wms.post("movements", {"mode": "all_or_nothing", "lines": [line("good"), bad]})

    assert answer.status_code == 422
    assert statuses(answer.json()["results"]) == ["not_applied", "refused"]
    assert alder.stock("MUG").on_hand == 10
    assert wms.post_lines("movements", line("good"), mode="all_or_nothing")[0]["status"] == "applied"


def test_a_batch_sent_again_is_a_duplicate_line_by_line(wms: Program, alder: Trade) -> None:
    batch = [
        line("1"),
        line("2", type="damage", quantity=1, reason="wet"),
        line("3", effective_at="2026-11-20T10:00:00Z"),
    ]
    assert statuses(wms.post_lines("movements", *batch)) == ["applied"] * 3

    again = wms.post_lines("movements", *batch, line("4"))

    assert statuses(again) == ["duplicate", "duplicate", "duplicate", "applied"]
    assert alder.stock("MUG").on_hand == 10 + 5 - 1 + 5 + 5


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"sku": "TEE"}, "sku"),
        ({"warehouse": "SECOND"}, "sku"),
        ({"quantity": 6}, "quantity"),
        ({"type": "return"}, "type"),
        ({"reference": "PO 8"}, "reference"),
        ({"reason": "other"}, "reason"),
        ({"effective_at": "2026-11-20T10:00:01Z"}, "effective_at"),
    ],
)
def test_a_key_used_for_something_else_is_refused_by_name(
    wms: Program, alder: Trade, said: dict[str, Any], field: str
) -> None:
    first = line("1", reference="PO 7", effective_at="2026-11-20T10:00:00Z")
    wms.post_lines("movements", first)

    (refused,) = wms.post_lines("movements", first | said)
    (twice, other) = wms.post_lines("movements", line("2"), line("2", quantity=9))

    assert (refused["status"], refused["errors"][0]["field"]) == ("refused", field)
    assert "'1' was used before" in refused["errors"][0]["detail"]
    assert (twice["status"], other["status"]) == ("applied", "refused")
    assert alder.stock("MUG").on_hand == 20


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"mode": "sometimes", "lines": [line("1")]}, 400),
        ({"mode": "per_line", "lines": []}, 400),
        ({"mode": "per_line", "lines": [line(str(n)) for n in range(1001)]}, 400),
        ({"mode": "per_line", "lines": "x"}, 400),
        ({"mode": "per_line", "lines": [line("1")], "dry": True}, 400),
        ([], 400),
        (b"{", 400),
        (b"[" + b" " * (5 * 1024 * 1024) + b"]", 413),
    ],
)
def test_a_body_that_is_no_batch_is_refused_as_a_whole(wms: Program, alder: Trade, body: Any, status: int) -> None:
    answer = wms.post("movements", body)

    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    assert alder.stock("MUG").on_hand == 10


def test_a_thousand_lines_take_no_more_statements_than_ten(
    wms: Program, alder: Trade, django_assert_max_num_queries: Any
) -> None:
    wms.get("key")
    lines = [line(str(number), sku=("MUG", "TEE")[number % 2], quantity=1) for number in range(1000)]

    with django_assert_max_num_queries(20):
        results = wms.post_lines("movements", *lines)

    assert statuses(results) == ["applied"] * 1000
    assert (alder.stock("MUG").on_hand, alder.stock("TEE").on_hand) == (510, 505)


def test_units_beyond_all_sense_are_refused(wms: Program, alder: Trade) -> None:
    many = [line(str(number), quantity=100_000_000) for number in range(11)]

    results = wms.post_lines("movements", *many)

    assert Counter(statuses(results)) == {"applied": 9, "refused": 2}


def test_another_merchants_names_mean_nothing(wms: Program, birch: Trade) -> None:
    Sku.objects.create(merchant=birch.merchant, code="CUP")
    Warehouse.objects.create(merchant=birch.merchant, code="THEIRS", name="Theirs")

    results = wms.post_lines("movements", line("1", sku="CUP"), line("2", warehouse="THEIRS"), line("3"))

    assert statuses(results) == ["refused", "refused", "applied"]
    assert birch.stock("MUG").on_hand == 7


def test_two_merchants_may_use_the_same_line_keys(wms: Program, birch: Trade) -> None:
    assert statuses(wms.post_lines("movements", line("1"))) == ["applied"]
    assert statuses(Program(birch.merchant).post_lines("movements", line("1"))) == ["applied"]


@pytest.mark.django_db(transaction=True)
def test_of_many_identical_batches_at_the_same_moment_one_is_booked(wms: Program, alder: Trade) -> None:
    start = threading.Barrier(10)
    results: list[tuple[str, ...]] = []

    def send() -> None:
        start.wait()
        results.extend(tuple(statuses(wms.post_lines("movements", line("a"), line("b", sku="TEE")))) for _ in range(5))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(results) == {("applied", "applied"): 1, ("duplicate", "duplicate"): 49}
    assert (alder.stock("MUG").on_hand, alder.stock("TEE").on_hand) == (15, 10)


@pytest.mark.django_db(transaction=True)
def test_one_key_on_different_levels_at_the_same_moment_is_booked_once(alder: Trade) -> None:
    start, results = threading.Barrier(8), []

    def send(sku: str) -> None:
        start.wait()
        said = movements.Reported("same", movements.Kind.RECEIPT, sku, "MAIN", 1)
        (outcome,) = movements.report(
            merchant_id=alder.merchant.pk,
            lines=[said],
            reporter=movements.Reporter(),
            all_or_nothing=False,
            now=NOON,
        )
        results.append(outcome.status)
        connection.close()

    threads = [threading.Thread(target=send, args=(("MUG", "TEE")[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(results) == {"applied": 1, "duplicate": 3, "refused": 4}
    assert alder.stock("MUG").on_hand + alder.stock("TEE").on_hand == 16


def test_a_whole_request_may_be_repeated_too(wms: Program, alder: Trade) -> None:
    batch = {"mode": "per_line", "lines": [line("1")]}

    first, again = wms.post("movements", batch, once="k"), wms.post("movements", batch, once="k")

    assert (again.content, again["Idempotency-Replayed"]) == (first.content, "true")
    assert wms.post("movements", {"mode": "per_line", "lines": [line("2")]}, once="k").status_code == 422


def test_by_a_clock_ahead_of_ours_nothing_happened_later_than_now(wms: Program, alder: Trade) -> None:
    """Four minutes ahead, they receive at "12:04" and count at "12:06": their count saw what they had received."""
    ahead, now = timedelta(minutes=4), timezone.now()
    received = line("r", quantity=100, effective_at=(now + ahead).isoformat())
    counted = {"key": "c", "sku": "MUG", "warehouse": "MAIN", "quantity": 110}

    assert statuses(wms.post_lines("movements", received)) == ["applied"]
    assert statuses(wms.post_lines("movements", received)) == ["duplicate"]
    wms.post_lines("counts", counted | {"counted_at": (now + ahead + timedelta(seconds=30)).isoformat()})

    assert alder.stock("MUG").on_hand == 110
    booked = Movement.objects.get(idempotency_key="move:r:on_hand")
    assert booked.effective_at <= booked.created_at + timedelta(seconds=1)


def test_a_key_is_its_own_whatever_counts_have_made_of_others(alder: Trade) -> None:
    reporter = movements.Reporter()
    count = counts.Counted("c", "MUG", "MAIN", 10, NOON)
    counts.take(merchant_id=alder.merchant.pk, counts=[count], reporter=reporter, all_or_nothing=True, now=NOON)

    def report(key: str, effective_at: datetime) -> movements.Status:
        said = movements.Reported(key, movements.Kind.RECEIPT, "MUG", "MAIN", 5, effective_at=effective_at)
        [outcome] = movements.report(
            merchant_id=alder.merchant.pk, lines=[said], reporter=reporter, all_or_nothing=False, now=later(90)
        )
        return outcome.status

    assert report("A", later(-60)) == movements.Status.APPLIED
    assert alder.stock("MUG").on_hand == 10
    assert report("A:counted", later(60)) == movements.Status.APPLIED
    assert alder.stock("MUG").on_hand == 15
    assert list(violations(when_quiet=False)) == []
