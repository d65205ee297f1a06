"""Any sequence of what can happen to holds, against a model of a few lines."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from inventory import holding, holds, stock
from inventory.holds import Ask, Commitment, Fulfilment, Refusal
from inventory.models import BomLine, Sku, SkuKind, StockLevel, Strategy
from sync.invariants import violations
from tests.factories import NOON, Trade, make_trade

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.hypothesis]

_number = itertools.count()

#: What one of each holds.
PARTS = {"MUG": {"MUG": 1}, "TEE": {"TEE": 1}, "SET": {"MUG": 2, "TEE": 1}}


class Machine(RuleBasedStateMachine):
    """The model: units on hand and sold, and of each hold its parts, until when it lives and whether it still does."""

    def __init__(self) -> None:
        super().__init__()
        self.valkey = redis.Redis.from_url(settings.REDIS_URL)
        self.trade = make_merchant()
        self.now = NOON
        self.free = {code: self.trade.stock(code).available for code in ("MUG", "TEE")}
        self.alive: dict[int, tuple[str, int, Any]] = {}
        self.ended: dict[int, str] = {}
        self.sold: dict[int, tuple[str, int]] = {}

    def teardown(self) -> None:
        self.valkey.close()

    def expire(self) -> None:
        """What has expired is free."""
        for hold_id, (code, quantity, until) in list(self.alive.items()):
            if until <= self.now:
                self.end(hold_id, "expired")
                self.give(code, quantity)

    def end(self, hold_id: int, how: str) -> None:
        del self.alive[hold_id]
        self.ended[hold_id] = how

    def give(self, code: str, quantity: int) -> None:
        for part, units in PARTS[code].items():
            self.free[part] += units * quantity

    def has(self, code: str, quantity: int) -> bool:
        return all(self.free[part] >= units * quantity for part, units in PARTS[code].items())

    @property
    def merchant_id(self) -> int:
        return self.trade.merchant.pk

    @rule(code=st.sampled_from(sorted(PARTS)), quantity=st.integers(1, 6), minutes=st.integers(1, 30))
    def hold(self, code: str, quantity: int, minutes: int) -> None:
        self.expire()
        ask = Ask(code, quantity, lifetime=timedelta(minutes=minutes))
        [answer] = holding.hold([ask], merchant_id=self.merchant_id, now=self.now)
        assert (answer.held is not None) == self.has(code, quantity)
        if answer.held:
            self.give(code, -quantity)
            self.alive[answer.held.hold_id] = (code, quantity, answer.held.expires_at)

    @precondition(lambda self: self.alive or self.ended)
    @rule(data=st.data(), minutes=st.integers(1, 60))
    def extend(self, data: st.DataObject, minutes: int) -> None:
        hold_id = self.some(data)
        lifetime = timedelta(minutes=minutes)
        [answer] = holds.extend([hold_id], merchant_id=self.merchant_id, now=self.now, lifetime=lifetime)
        code, quantity, until = self.alive.get(hold_id, ("", 0, self.now))
        assert (answer.refusal is None) == (until > self.now)
        if answer.refusal is None:
            self.alive[hold_id] = (code, quantity, max(until, self.now + lifetime))

    @precondition(lambda self: self.alive or self.ended)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        hold_id = self.some(data)
        [answer] = holds.release([hold_id], merchant_id=self.merchant_id, now=self.now)
        if hold_id in self.alive:
            code, quantity, until = self.alive[hold_id]
            self.end(hold_id, "released" if until > self.now else "expired")
            self.give(code, quantity)
            assert answer.held is not None
        sold = {Refusal.COMMITTED, Refusal.FULFILLED, Refusal.CANCELLED}
        assert (answer.refusal in sold) == (self.ended[hold_id] == "sold")

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Of what lives, and of what has expired without anybody's noticing."""
        hold_id = data.draw(st.sampled_from(sorted(self.alive)))
        [answer] = holds.commit([Commitment(hold_id)], merchant_id=self.merchant_id, now=self.now)
        stored = holds.find([hold_id], merchant_id=self.merchant_id)[hold_id]
        assert stored == answer.held
        # Whether it was released by somebody else's decision is not for the model to say; if not, it must be sold.
        if self.alive[hold_id][2] > self.now:
            assert answer.refusal is None
        if answer.refusal is None:
            self.sold[hold_id] = (self.alive[hold_id][0], self.alive[hold_id][1])
            self.end(hold_id, "sold")
        else:
            code, quantity, _ = self.alive[hold_id]
            self.end(hold_id, "expired")
            self.give(code, quantity)

    @precondition(lambda self: self.sold)
    @rule(data=st.data(), is_shipped=st.booleans(), minutes_ago=st.integers(0, 10))
    def close(self, data: st.DataObject, is_shipped: bool, minutes_ago: int) -> None:
        """What was sold leaves, or comes back; saying so twice changes nothing."""
        hold_id = data.draw(st.sampled_from(sorted(self.sold)))
        code, quantity = self.sold.pop(hold_id)
        fulfilment = Fulfilment(hold_id, self.now - timedelta(minutes=minutes_ago))
        for is_replay in (False, True):
            if is_shipped:
                [answer] = holds.fulfil([fulfilment], merchant_id=self.merchant_id, now=self.now)
            else:
                [answer] = holds.cancel([hold_id], merchant_id=self.merchant_id, now=self.now)
            assert (answer.refusal, answer.is_replay) == (None, is_replay)
        if not is_shipped:
            self.give(code, quantity)

    @rule(minutes=st.integers(1, 20))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def sweep(self) -> None:
        self.expire()
        holds.sweep(now=self.now)

    @rule(code=st.sampled_from(["MUG", "TEE"]), units=st.integers(1, 4))
    def adjust(self, code: str, units: int) -> None:
        stock.adjust(
            merchant_id=self.merchant_id,
            sku_id=self.trade.skus[code].pk,
            warehouse_id=self.trade.warehouse.pk,
            delta=units,
            reason="found",
            user=None,
            now=self.now,
        )
        self.free[code] += units

    @rule()
    def flush(self) -> None:
        self.valkey.flushall()

    @rule(code=st.sampled_from(sorted(PARTS)), strategy=st.sampled_from(Strategy.values))
    def choose(self, code: str, strategy: str) -> None:
        Sku.objects.filter(merchant=self.trade.merchant, code=code).update(strategy=strategy)

    def some(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted({*self.alive, *self.ended})))

    @invariant()
    def units_add_up(self) -> None:
        """Units that are free for the model are available, but for what has expired and is noticed later."""
        levels = StockLevel.objects.filter(merchant=self.trade.merchant).values_list("sku__code", "available")
        for code, available in levels:
            late = sum(
                PARTS[held][code] * quantity
                for held, quantity, until in self.alive.values()
                if until <= self.now and code in PARTS[held]
            )
            assert 0 <= available <= self.free[code] + late
        stored = holds.find(list(self.alive), merchant_id=self.merchant_id).values()
        assert all(held.state == "active" for held in stored if held.expires_at > self.now)


def make_merchant() -> Trade:
    """A merchant of its own for every run: what is committed stays, in PostgreSQL and in Redis."""
    trade = make_trade(f"M{next(_number)}", stock_of={"MUG": 8, "TEE": 5}, shops=())
    bundle = Sku.objects.create(merchant=trade.merchant, code="SET", kind=SkuKind.BUNDLE)
    for part, quantity in PARTS["SET"].items():
        BomLine.objects.create(merchant=trade.merchant, bundle=bundle, component=trade.skus[part], quantity=quantity)
    return trade


def test_any_sequence_of_acts_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            # Each step is a decision or two of a real PostgreSQL.
            max_examples=hypothesis_settings().max_examples // 50,
            stateful_step_count=25,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert list(violations(when_quiet=False)) == []
