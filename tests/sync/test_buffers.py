"""How deep stock has fallen into the buffers, read back from the ledger."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from inventory.models import Account, Cause, Movement, StockLevel
from locations.models import PublishingRule
from sync import buffers
from sync.models import BufferUse
from tests.factories import Trade, add_warehouse, make_trade

pytestmark = pytest.mark.django_db

#: Behind whatever the set-up has moved today.
HOUR = datetime(2126, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def trade() -> Trade:
    """Ten mugs; North keeps five of them back."""
    trade = make_trade()
    PublishingRule.objects.create(merchant=trade.merchant, channel=trade.shops["north"].channel, buffer_units=5)
    return trade


_transactions = iter(range(10_000_000, 20_000_000))


def move(
    trade: Trade, code: str, minutes: float, *, on_hand: int = 0, committed: int = 0, level: StockLevel | None = None
) -> None:
    """One transaction on a stock level, so long after the hour began."""
    stock = level or trade.stock(code)
    at, transaction = HOUR + timedelta(minutes=minutes), next(_transactions)
    for account, delta in ((Account.ON_HAND, on_hand), (Account.COMMITTED, committed)):
        if not delta:
            continue
        stock.seq += 1
        setattr(stock, account.value, getattr(stock, account.value) + delta)
        Movement.objects.create(
            merchant_id=stock.merchant_id,
            stock_level=stock,
            seq=stock.seq,
            account=account,
            delta=delta,
            balance_after=getattr(stock, account.value),
            cause=Cause.SALE,
            idempotency_key=str(uuid.uuid4()),
            correlation_id=uuid.uuid4(),
            effective_at=at,
            created_at=at,
            transaction_id=transaction,
        )
    StockLevel.objects.filter(pk=stock.pk).update(seq=stock.seq, on_hand=stock.on_hand, committed=stock.committed)


def used(trade: Trade, hour: datetime = HOUR, shop: str = "north") -> tuple[int, int, int, int, int] | None:
    buffers.read_hour(hour)
    row = BufferUse.objects.filter(channel=trade.shops[shop].channel, hour=hour).first()
    return None if row is None else (row.levels, row.entered, row.below_zero, row.used, row.size)


def test_stock_above_the_buffer_uses_nothing_of_it(trade: Trade) -> None:
    move(trade, "MUG", 5, committed=5)

    assert used(trade) == (2, 0, 0, 0, 5)
    assert used(trade, shop="south") is None


def test_each_fall_into_the_buffer_and_below_zero_is_counted_with_its_depth(trade: Trade) -> None:
    for minutes, units in ((5, 8), (10, 1), (15, -7), (20, 6), (25, 4), (30, -12)):
        move(trade, "MUG", minutes, committed=units)

    # available: 2, 1, 8, 2, -2, 10
    assert used(trade) == (2, 2, 1, 5, 5)


def test_what_was_is_found_although_it_is_over_and_more_has_happened_since(trade: Trade) -> None:
    move(trade, "MUG", 5, committed=7)
    move(trade, "MUG", 10, on_hand=20)
    move(trade, "MUG", 70, committed=30)

    assert used(trade) == (2, 1, 0, 2, 5)
    assert used(trade, HOUR + timedelta(hours=1)) == (2, 1, 1, 5, 5)
    assert used(trade) == (2, 1, 0, 2, 5), "read again"


def test_an_hour_in_which_nothing_moved_stands_where_it_stood(trade: Trade) -> None:
    move(trade, "MUG", -30, committed=8)
    move(trade, "MUG", 90, committed=-8)

    assert used(trade) == (2, 0, 0, 3, 5)


def test_a_shipment_moves_two_accounts_at_once_and_never_dips_between(trade: Trade) -> None:
    move(trade, "MUG", 5, committed=5)
    move(trade, "MUG", 10, on_hand=-5, committed=-5)

    assert used(trade) == (2, 0, 0, 0, 5)


def test_all_warehouses_that_the_store_draws_on_stand_behind_the_buffer(trade: Trade) -> None:
    second = add_warehouse(trade, "SECOND", {"MUG": 10})
    move(trade, "MUG", 5, committed=10)
    move(trade, "MUG", 10, committed=8, level=trade.stock("MUG", second))

    assert used(trade) == (2, 1, 0, 3, 5)


def test_the_most_specific_rule_says_how_large_a_buffer_is(trade: Trade) -> None:
    north = trade.shops["north"]
    PublishingRule.objects.create(merchant=trade.merchant, channel=north.channel, sku=trade.skus["MUG"], buffer_units=8)
    PublishingRule.objects.create(
        merchant=trade.merchant, channel=north.channel, listing=north.listings["TEE"], buffer_units=0
    )
    move(trade, "MUG", 5, committed=3)

    assert used(trade) == (1, 1, 0, 1, 8)


def test_hours_that_were_missed_are_read_later(trade: Trade) -> None:
    assert buffers.read_hours(now=HOUR + timedelta(minutes=5)) == 1
    assert buffers.read_hours(now=HOUR + timedelta(hours=3, minutes=5)) == 3
    assert buffers.read_hours(now=HOUR + timedelta(hours=3, minutes=50)) == 1

    assert BufferUse.objects.count() == 4
