"""Holds: reserved, extended, committed, released, expired; under threads, with and without Redis."""

from __future__ import annotations

from datetime import timedelta

import pytest

from inventory import holds
from inventory.holds import Ask, Refusal
from inventory.models import Strategy
from sync.invariants import violations
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def hold(trade: Trade, *asks: Ask, **options: object) -> list[holds.Answer]:
    return holds.hold(asks, merchant_id=trade.merchant.pk, now=NOON, **options)


@pytest.mark.parametrize("strategy", Strategy.values)
def test_units_are_held_until_there_are_none_left(alder: Trade, strategy: str) -> None:
    for sku in alder.skus.values():
        sku.strategy = strategy
        sku.save()

    first, second = hold(alder, Ask("MUG", 7)), hold(alder, Ask("MUG", 4))

    assert first[0].held is not None
    assert second[0].refusal is Refusal.UNAVAILABLE
    assert second[0].available == 3
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (7, 3)
    assert list(violations(when_quiet=False)) == []
    assert first[0].held.expires_at == NOON + timedelta(minutes=15)
