"""Availability in Redis: written through by version, noticed when it is lost or old, and never trusted for long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings

from inventory import availability, holding, stock
from inventory.availability import Gate, Reading, Shelf, Wish
from inventory.holds import Ask
from inventory.models import StockLevel
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade(shops=())


@pytest.fixture
def server() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def dead_redis(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A Redis that is not there; tells how often it was called."""
    calls: list[int] = []

    class Nobody(redis.Connection):
        def connect(self) -> None:
            calls.append(1)
            raise redis.ConnectionError

    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Nobody))
    monkeypatch.setattr(availability, "_access", availability._Access())
    monkeypatch.setattr(availability, "_redis", lambda: client)
    monkeypatch.setattr(availability, "_script", client.register_script)
    return calls


#: As if every shelf of a hash had been written at that moment (ms).
_AGE_SHELVES = """
local stored = redis.call('HGETALL', KEYS[1])
for i = 1, #stored, 2 do
  if stored[i] ~= 'at' then
    local shelf = cmsgpack.unpack(stored[i + 1])
    shelf[5] = tonumber(ARGV[1])
    redis.call('HSET', KEYS[1], stored[i], cmsgpack.pack(shelf))
  end
end
"""


def read(trade: Trade, code: str = "MUG") -> Reading:
    sku_id = trade.skus[code].pk
    return availability.read(trade.merchant.pk, [sku_id])[sku_id]


def units(trade: Trade) -> list[int]:
    return [shelf.available for shelf in read(trade).shelves]


def adjust(trade: Trade, delta: int) -> None:
    stock.adjust(
        merchant_id=trade.merchant.pk,
        sku_id=trade.skus["MUG"].pk,
        warehouse_id=trade.warehouse.pk,
        delta=delta,
        reason="found",
        user=None,
        now=NOON,
    )


def behind_its_back(trade: Trade, on_hand: int) -> None:
    """A change that was never written through: what a crash between commit and write leaves."""
    StockLevel.objects.filter(pk=trade.stock("MUG").pk).update(on_hand=on_hand)


def ask_gate(trade: Trade, quantity: int) -> tuple[Gate, int]:
    [answer] = availability.ask_gate(trade.merchant.pk, [Wish({trade.skus["MUG"].pk: 1}, quantity)], now=NOON)
    return answer


def test_every_commit_is_written_through_and_read_without_the_ledger(
    alder: Trade, django_assert_num_queries: Any
) -> None:
    assert units(alder) == [10]
    adjust(alder, 5)

    with django_assert_num_queries(0):
        reading = read(alder)

    assert [(shelf.available, shelf.seq) for shelf in reading.shelves] == [(15, 2)]
    assert 0 <= reading.age_seconds <= availability.TRUSTED_SECONDS


def test_an_older_version_never_overwrites_a_newer_one(alder: Trade) -> None:
    assert units(alder) == [10]
    sku_id, warehouse_id = alder.skus["MUG"].pk, alder.warehouse.pk

    availability.write_through(alder.merchant.pk, [Shelf(sku_id, warehouse_id, 9, 7, None)])
    availability.write_through(alder.merchant.pk, [Shelf(sku_id, warehouse_id, 8, 99, None)])

    assert units(alder) == [7]


def test_a_reading_is_trusted_for_so_long_and_then_taken_anew(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    assert units(alder) == [10]
    behind_its_back(alder, 3)
    assert units(alder) == [10]

    monkeypatch.setattr(availability, "TRUSTED_SECONDS", 0.0)
    while units(alder) == [10]:
        """Until the clock of Redis has moved on by a millisecond."""

    monkeypatch.setattr(availability, "TRUSTED_SECONDS", 10.0)
    assert units(alder) == [3]


@pytest.mark.parametrize(("age_seconds", "is_trusted"), [(9.5, True), (10.001, False)])
def test_nothing_read_is_older_than_ten_seconds(
    alder: Trade, server: redis.Redis, age_seconds: float, is_trusted: bool
) -> None:
    assert units(alder) == [10]
    behind_its_back(alder, 3)
    seconds, microseconds = server.time()
    read_at = seconds * 1000 + microseconds // 1000 - int(age_seconds * 1000)
    key = availability._key(alder.merchant.pk, alder.skus["MUG"].pk)
    server.hset(key, "at", read_at)
    # What a shelf was written after would be younger than the reading, and stay.
    server.eval(_AGE_SHELVES, 1, key, read_at)

    reading = read(alder)

    assert [shelf.available for shelf in reading.shelves] == [10 if is_trusted else 3]
    assert reading.age_seconds <= 10
    assert (reading.age_seconds >= 9.5) is is_trusted


def test_a_flushed_redis_is_filled_again(alder: Trade, server: redis.Redis) -> None:
    assert units(alder) == [10]
    behind_its_back(alder, 3)

    server.flushall()

    assert units(alder) == [3]


def test_a_redis_that_came_back_with_old_data_is_not_trusted(alder: Trade, server: redis.Redis) -> None:
    """As after a restore: the hash is there, with a higher version even, and its own stamp tells that it is old."""
    assert units(alder) == [10]
    sku_id, key = alder.skus["MUG"].pk, availability._key(alder.merchant.pk, alder.skus["MUG"].pk)
    availability.write_through(alder.merchant.pk, [Shelf(sku_id, alder.warehouse.pk, 99, 77, None)])
    assert units(alder) == [77]
    at = int(server.hget(key, "at") or 0)
    server.hset(key, "at", at - 11_000)
    written = availability._script(availability._READ)
    assert written(keys=[key])[1][0] == at - 11_000

    # What was written after the hash was last known to be right is younger than this reading, and stays for now.
    assert units(alder) == [10]
    assert ask_gate(alder, 78)[0] is not Gate.OPEN


def test_without_redis_postgresql_answers_and_is_asked_instead(alder: Trade, dead_redis: list[int]) -> None:
    assert units(alder) == [10]
    adjust(alder, 2)
    [answer] = holding.hold([Ask("MUG", 12)], merchant_id=alder.merchant.pk, now=NOON)
    [refused] = holding.hold([Ask("MUG", 1)], merchant_id=alder.merchant.pk, now=NOON)

    assert answer.held is not None
    assert refused.available == 0
    assert units(alder) == [0]
    assert len(dead_redis) == 1  # then it was left alone for a while


def test_what_a_transaction_has_not_committed_is_not_written(alder: Trade) -> None:
    from django.db import transaction

    def adjust_and_fail() -> None:
        with transaction.atomic():
            adjust(alder, 5)
            assert units(alder) == [15]
            raise LookupError

    with pytest.raises(LookupError):
        adjust_and_fail()

    assert units(alder) == [10]


def test_the_gate_refuses_what_is_not_there_and_counts_what_it_let_through(alder: Trade) -> None:
    assert ask_gate(alder, 11) == (Gate.UNSURE, 10)  # the opening stock was written through, and nothing read yet
    assert units(alder) == [10]

    assert ask_gate(alder, 11) == (Gate.REFUSED, 10)
    assert ask_gate(alder, 7) == (Gate.OPEN, 10)
    assert ask_gate(alder, 4) == (Gate.REFUSED, 3)
    adjust(alder, 1)  # a newer version knows better than the count
    assert ask_gate(alder, 11) == (Gate.OPEN, 11)


def test_what_the_gate_let_through_and_nobody_decided_is_forgotten(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert units(alder) == [10]
    assert ask_gate(alder, 10)[0] is Gate.OPEN
    assert ask_gate(alder, 1) == (Gate.REFUSED, 0)

    monkeypatch.setattr(availability, "TAKEN_SECONDS", 0.0)
    while ask_gate(alder, 10)[0] is Gate.REFUSED:
        """Until a millisecond has passed."""


def test_the_gate_is_not_sure_once_a_hold_may_have_expired(alder: Trade) -> None:
    assert units(alder) == [10]
    holding.hold([Ask("MUG", 10)], merchant_id=alder.merchant.pk, now=NOON - timedelta(minutes=14))
    assert ask_gate(alder, 1) == (Gate.REFUSED, 0)

    holding.hold([Ask("TEE", 1)], merchant_id=alder.merchant.pk, now=NOON)
    answer = holding.hold([Ask("MUG", 10)], merchant_id=alder.merchant.pk, now=NOON + timedelta(minutes=1))[0]

    assert answer.held is not None


def test_a_quota_bounds_the_gate(alder: Trade) -> None:
    StockLevel.objects.filter(pk=alder.stock("MUG").pk).update(quota=3)
    availability.forget(alder.merchant.pk, [alder.skus["MUG"].pk])
    [shelf] = read(alder).shelves

    assert (shelf.available, shelf.quota, shelf.holdable) == (10, 3, 3)
    assert ask_gate(alder, 4) == (Gate.REFUSED, 3)
