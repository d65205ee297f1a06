import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.ledger import Balance, Entry, OpenShortage, post

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def entry(*, on_hand: int = 0, committed: int = 0, held: int = 0, level: int = 1) -> Entry:
    return Entry(level, "sale", str(uuid.uuid4()), "#1", uuid.uuid4(), NOW, on_hand, committed, held)


def test_posting_chains_balances_and_sequence_numbers() -> None:
    balance = Balance(1, on_hand=10, committed=0, held=0, seq=4)

    posting = post({1: balance}, [entry(committed=3), entry(committed=-3, on_hand=-3)])

    assert [(line.account, line.delta, line.balance_after, line.seq) for line in posting.lines] == [
        ("committed", 3, 3, 5),
        ("on_hand", -3, 7, 6),
        ("committed", -3, 0, 7),
    ]
    assert balance == Balance(1, on_hand=7, committed=0, held=0, seq=7)


def test_a_shipment_of_the_last_unit_is_no_shortage() -> None:
    balance = Balance(1, on_hand=1, committed=1, held=0, seq=2)

    posting = post({1: balance}, [entry(committed=-1, on_hand=-1)])

    assert posting.shortages == []
    assert balance.available == 0


def test_selling_beyond_stock_makes_a_shortage_of_the_missing_units_only() -> None:
    balance = Balance(1, on_hand=2, committed=0, held=0, seq=1)

    posting = post({1: balance}, [entry(committed=5)])

    assert [(shortage.open_units, shortage.covered_units) for shortage in posting.shortages] == [(3, 0)]
    assert balance.available == -3


def test_new_stock_covers_the_oldest_shortage_first() -> None:
    balance = Balance(1, on_hand=0, committed=5, held=0, seq=9)
    older, newer = OpenShortage(71, 1, 2), OpenShortage(72, 1, 3)

    posting = post({1: balance}, [entry(on_hand=3)], [older, newer])

    assert [(shortage.id, shortage.covered_units, shortage.open_units) for shortage in posting.covered] == [
        (71, 2, 0),
        (72, 1, 2),
    ]


def test_units_that_are_only_held_are_not_short_until_they_are_sold() -> None:
    balance = Balance(1, on_hand=3, committed=0, held=0, seq=1)

    held = post({1: balance}, [entry(held=5)])
    sold = post({1: balance}, [entry(committed=5, held=-5)])

    assert held.shortages == []
    assert [shortage.open_units for shortage in sold.shortages] == [2]


def test_a_balance_of_committed_units_below_zero_is_refused() -> None:
    with pytest.raises(AssertionError, match="below zero"):
        post({1: Balance(1, on_hand=5, committed=1, held=0, seq=1)}, [entry(committed=-2)])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_open_shortages_are_always_what_was_sold_beyond_stock(changes: list[tuple[int, int, int]]) -> None:
    balance = Balance(1, on_hand=3, committed=0, held=0, seq=0)
    entries = [entry(on_hand=on_hand, committed=committed, held=held) for on_hand, committed, held in changes]

    posting = post({1: balance}, entries)

    assert sum(shortage.open_units for shortage in posting.shortages) == max(0, balance.committed - balance.on_hand)
    assert [line.seq for line in posting.lines] == list(range(1, balance.seq + 1))
    assert balance.on_hand == 3 + sum(line.delta for line in posting.lines if line.account == "on_hand")
