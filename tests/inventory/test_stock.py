"""Writing stock: levels and their movements together."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.db import IntegrityError

from inventory import stock
from inventory.models import Movement, Shortage, StockLevel
from merchants.models import AuditEvent
from sync.invariants import violations
from sync.models import DirtySku
from synctec.lib import sql
from synctec.lib.ids import uuid7
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def adjust(trade: Trade, delta: int, *, reason: str = "found a box", key: str | None = None) -> None:
    stock.adjust(
        merchant_id=trade.merchant.pk,
        sku_id=trade.skus["MUG"].pk,
        warehouse_id=trade.warehouse.pk,
        delta=delta,
        reason=reason,
        user=None,
        now=NOON,
        idempotency_key=key,
    )


def test_an_adjustment_moves_the_level_writes_its_movement_and_its_record(alder: Trade) -> None:
    adjust(alder, 4)

    assert alder.stock("MUG").on_hand == 14
    movement = Movement.objects.latest("pk")
    assert (movement.delta, movement.balance_after, movement.seq, movement.reason) == (4, 14, 2, "found a box")
    record = AuditEvent.objects.get(action="stock.adjust")
    assert (record.before, record.after, record.reason) == ({"on_hand": 10}, {"on_hand": 14}, "found a box")
    assert list(DirtySku.objects.values_list("sku__code", flat=True)) == ["MUG"]


def test_an_adjustment_below_zero_is_a_shortage_and_the_next_one_covers_it(alder: Trade) -> None:
    adjust(alder, -12)
    short = Shortage.objects.get()
    assert (short.quantity, short.quantity_covered) == (2, 0)

    adjust(alder, 5)

    short.refresh_from_db()
    assert (short.quantity_covered, short.covered_at) == (2, NOON)
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize("reason", ["", "   "])
def test_without_a_reason_nothing_moves(alder: Trade, reason: str) -> None:
    with pytest.raises(stock.InsufficientReason):
        adjust(alder, 1, reason=reason)

    assert alder.stock("MUG").on_hand == 10


def test_a_change_of_nothing_is_refused(alder: Trade) -> None:
    with pytest.raises(ValueError, match="changes nothing"):
        adjust(alder, 0)


def test_the_same_key_moves_units_once(alder: Trade) -> None:
    adjust(alder, 3, key="delivery-7")

    with pytest.raises(IntegrityError, match="movement_applied_once"):
        adjust(alder, 3, key="delivery-7")

    assert alder.stock("MUG").on_hand == 13


def test_opening_stock_is_booked_once(alder: Trade) -> None:
    level = (alder.skus["MUG"].pk, alder.warehouse.pk)

    booked = stock.open_stock(merchant_id=alder.merchant.pk, quantities={level: 99}, now=NOON)

    assert booked == 0
    assert StockLevel.objects.get(sku=alder.skus["MUG"]).on_hand == 10


def test_upgrading_covers_the_newest_shortages_that_were_only_held(alder: Trade) -> None:
    level = alder.stock("MUG")
    StockLevel.objects.filter(pk=level.pk).update(committed=14, held=5)
    made = [
        Shortage.objects.create(
            merchant=alder.merchant,
            stock_level=level,
            quantity=quantity,
            cause="sale",
            correlation_id=uuid7(),
            occurred_at=NOON,
        )
        for quantity in (3, 4, 2)
    ]
    migration = import_module("inventory.migrations.0011_shortages_are_sales")

    sql.execute(migration.COVER_WHAT_WAS_ONLY_HELD)

    for shortage in made:
        shortage.refresh_from_db()
    assert [(shortage.quantity_covered, shortage.covered_at is not None) for shortage in made] == [
        (0, False),
        (3, False),
        (2, True),
    ]
