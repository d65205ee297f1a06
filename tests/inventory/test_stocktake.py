"""Counting: any order of arrival ends in the same number, by the pure arithmetic and by the database."""

from __future__ import annotations

import random
import uuid
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory import counts, ledger, movements, stock, stocktake
from inventory.models import Movement, StockCount
from inventory.stocktake import Change, Count
from sync.invariants import violations
from tests.factories import NOON, Trade, later

SECONDS = st.integers(0, 8)
COUNTS = st.lists(
    st.builds(lambda at, key, units: Count(later(at), f"{key}", units), SECONDS, st.uuids(), st.integers(0, 20)),
    max_size=4,
)
CHANGES = st.lists(st.builds(lambda at, units: Change(later(at), units), SECONDS, st.integers(-9, 9)), max_size=8)


def arrive(history: list[Count | Change]) -> ledger.Balance:
    """What the books say after these arrive in this order, by the ledger's own arithmetic."""
    balance = ledger.Balance(1, 0, 0, 0, 0)
    base: Count | None = None
    changes: list[Change] = []
    for number, item in enumerate(history):
        if isinstance(item, Change):
            changes.append(item)
            _post(balance, "receipt", number, item.effective_at, item.units)
        elif base is None or item > base:
            base = item
            since = sum(change.units for change in changes if change.effective_at > item.counted_at)
            units = stocktake.correction(quantity=item.quantity, changed_since=since, books=balance.on_hand)
            _post(balance, ledger.COUNT, number, item.counted_at, units)
            balance.counted_at = item.counted_at
    return balance


def _post(balance: ledger.Balance, cause: str, number: int, at: datetime, units: int) -> None:
    lacking = [ledger.OpenShortage(1, 1, -balance.available)] if balance.available < 0 else []
    entry = ledger.Entry(1, cause, str(number), "", uuid.UUID(int=0), at, on_hand=units)
    ledger.post({1: balance}, [entry], lacking)


@given(COUNTS, CHANGES, st.randoms(use_true_random=False))
def test_any_order_of_arrival_ends_in_the_same_number(
    taken: list[Count], changes: list[Change], rng: random.Random
) -> None:
    history: list[Count | Change] = [*taken, *changes]
    rng.shuffle(history)

    assert arrive(history).on_hand == stocktake.on_hand(taken, changes)


@given(COUNTS, CHANGES)
def test_a_newest_count_alone_decides_what_was_before_it(taken: list[Count], changes: list[Change]) -> None:
    final = Count(later(9), "z", 7)

    assert stocktake.on_hand([*taken, final], changes) == 7


def test_what_happened_at_the_very_moment_of_a_count_was_seen_by_it() -> None:
    assert stocktake.absorbs(NOON, NOON)
    assert not stocktake.absorbs(NOON, NOON + timedelta(microseconds=1))
    assert not stocktake.absorbs(None, NOON)


def test_without_a_count_the_changes_are_all_there_is() -> None:
    assert stocktake.on_hand([], [Change(NOON, 3), Change(NOON, -1)]) == 2


def test_a_shipment_the_count_has_seen_leaves_on_hand_and_takes_committed() -> None:
    balance = ledger.Balance(1, 10, 2, 0, 5, counted_at=NOON)
    shipment = ledger.Entry(1, "shipment", "k", "#1", uuid.UUID(int=0), later(-5), on_hand=-2, committed=-2)

    posting = ledger.post({1: balance}, [shipment])

    assert (balance.on_hand, balance.committed, balance.seq) == (10, 0, 8)
    assert [(line.account, line.delta, line.entry.cause) for line in posting.lines] == [
        ("on_hand", -2, "shipment"),
        ("committed", -2, "shipment"),
        ("on_hand", 2, "count"),
    ]
    assert len({line.idempotency_key for line in posting.lines}) == 3


# --- the same, written to PostgreSQL ------------------------------------------------------------------------


def take(trade: Trade, key: str, quantity: int, at: float, **said: str) -> counts.Outcome:
    counted = counts.Counted(key, said.get("sku", "MUG"), "MAIN", quantity, later(at), said.get("reason", ""))
    (outcome,) = counts.take(
        merchant_id=trade.merchant.pk,
        counts=[counted],
        reporter=movements.Reporter(),
        all_or_nothing=False,
        now=later(3600),
    )
    return outcome


def move(trade: Trade, key: str, units: int, at: float) -> None:
    said = movements.Reported(key, movements.Kind.ADJUSTMENT, "MUG", "MAIN", units, "why", "", later(at))
    (outcome,) = movements.report(
        merchant_id=trade.merchant.pk,
        lines=[said],
        reporter=movements.Reporter(),
        all_or_nothing=False,
        now=later(3600),
    )
    assert outcome.status == movements.Status.APPLIED


@pytest.mark.parametrize("seed", range(12))
def test_the_database_ends_where_the_arithmetic_says(alder: Trade, seed: int) -> None:
    rng = random.Random(seed)
    taken = [Count(later(rng.randint(0, 8)), f"c{number}", rng.randint(0, 20)) for number in range(rng.randint(0, 4))]
    changes = [Change(later(rng.randint(0, 8)), rng.choice([-7, -3, 2, 6])) for _ in range(rng.randint(0, 6))]
    history: list[Count | Change] = [*taken, *changes]
    rng.shuffle(history)

    for number, item in enumerate(history):
        at = ((item.counted_at if isinstance(item, Count) else item.effective_at) - NOON).total_seconds()
        if isinstance(item, Count):
            take(alder, item.key, item.quantity, at)
        else:
            move(alder, f"m{number}", item.units, at)

    opening = Change(NOON, 10)
    assert alder.stock("MUG").on_hand == stocktake.on_hand(taken, [opening, *changes])
    assert list(violations(when_quiet=False)) == []


def test_a_late_older_count_is_superseded_and_kept(alder: Trade) -> None:
    assert (take(alder, "new", 8, 20).status, alder.stock("MUG").on_hand) == ("applied", 8)

    late = take(alder, "old", 3, 10)

    assert (late.status, late.correction, alder.stock("MUG").on_hand) == ("superseded", None, 8)
    assert list(StockCount.objects.order_by("pk").values_list("state", "correction")) == [
        ("applied", -2),
        ("superseded", 0),
    ]


def test_a_late_older_movement_is_written_down_and_not_added(alder: Trade) -> None:
    take(alder, "count", 8, 20)

    move(alder, "before", 4, 19)
    move(alder, "after", 1, 21)

    assert alder.stock("MUG").on_hand == 9
    written = Movement.objects.order_by("-pk")[:3][::-1]
    assert [(movement.delta, movement.cause) for movement in written] == [
        (4, "adjustment"),
        (-4, "count"),
        (1, "adjustment"),
    ]


def test_a_count_that_agrees_moves_nothing_and_still_is_the_base(alder: Trade) -> None:
    before = Movement.objects.count()

    assert take(alder, "count", 10, 20).correction == 0
    move(alder, "before", 4, 19)

    assert alder.stock("MUG").on_hand == 10
    assert Movement.objects.count() == before + 2


def test_the_same_count_again_is_a_duplicate_and_another_under_its_key_refused(alder: Trade) -> None:
    take(alder, "count", 8, 20)
    move(alder, "later", 5, 30)

    assert take(alder, "count", 8, 20).status == "duplicate"
    for other in (take(alder, "count", 9, 20), take(alder, "count", 8, 21), take(alder, "count", 8, 20, sku="TEE")):
        assert other.status == "refused"
        assert "was used before" in other.errors[0]["detail"]
    assert alder.stock("MUG").on_hand == 13


def test_of_two_counts_of_one_level_in_a_batch_the_newer_one_counts(alder: Trade) -> None:
    said = [counts.Counted(key, "MUG", "MAIN", units, later(at)) for key, units, at in (("a", 4, 20), ("b", 6, 10))]

    outcomes = counts.take(
        merchant_id=alder.merchant.pk, counts=said, reporter=movements.Reporter(), all_or_nothing=True, now=later(60)
    )

    assert [outcome.status for outcome in outcomes] == ["applied", "superseded"]
    assert alder.stock("MUG").on_hand == 4


def test_a_preview_books_nothing(alder: Trade) -> None:
    (outcome,) = counts.preview(
        merchant_id=alder.merchant.pk, counts=[counts.Counted("p", "MUG", "MAIN", 4, later(20))], now=later(60)
    )

    assert (outcome.status, outcome.correction) == ("applied", -6)
    assert alder.stock("MUG").on_hand == 10
    assert not StockCount.objects.exists()


def test_a_manual_adjustment_after_the_count_is_added(alder: Trade) -> None:
    take(alder, "count", 8, 20)

    stock.adjust(
        merchant_id=alder.merchant.pk,
        sku_id=alder.skus["MUG"].pk,
        warehouse_id=alder.warehouse.pk,
        delta=2,
        reason="found",
        user=None,
        now=later(40),
    )

    assert alder.stock("MUG").on_hand == 10
