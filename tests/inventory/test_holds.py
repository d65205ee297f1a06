"""Holds: reserved, extended, committed, released, expired; under threads, with and without Redis."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection, transaction

from channels.models import Listing
from inventory import availability, counts, holding, holds, recipes, stock
from inventory.holds import Answer, Ask, Commitment, Fulfilment, Order, Refusal
from inventory.ledger import Entry
from inventory.models import (
    BomLine,
    Cause,
    Hold,
    HoldPart,
    HoldState,
    Movement,
    Shortage,
    Sku,
    SkuKind,
    StockLevel,
    Strategy,
    Warehouse,
)
from inventory.movements import Reporter
from locations import matrix
from locations.models import Mapping
from sync.apply import apply_batch
from sync.invariants import violations
from sync.models import DirtySku
from tests.engine import engine
from tests.factories import NOON, Trade, deliver, later, make_trade, order_body, refund_body

pytestmark = pytest.mark.django_db

#: For threads, which see what is committed and nothing else.
committed = pytest.mark.django_db(transaction=True)

THREADS = 16


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture(autouse=True)
def _sound(db: None) -> Iterator[None]:
    """Whatever a test does to holds, the books are right afterwards."""
    yield
    assert list(violations(when_quiet=False)) == []


def hold(trade: Trade, *asks: Ask, at: float = 0, all_or_nothing: bool = False) -> list[Answer]:
    return holding.hold(asks, merchant_id=trade.merchant.pk, now=later(at), all_or_nothing=all_or_nothing)


def held(trade: Trade, *ask: Any, at: float = 0, **more: Any) -> holds.Held:
    [answer] = hold(trade, Ask(*ask, **more), at=at)
    assert answer.held is not None, answer
    return answer.held


def commit(
    trade: Trade, hold_id: int, order: Order | None = None, *, at: float = 1, is_handed_over: bool = False
) -> Answer:
    channel, order_id = order or (None, "")
    commitment = Commitment(hold_id, channel, order_id, is_handed_over=is_handed_over)
    return holds.commit([commitment], merchant_id=trade.merchant.pk, now=later(at))[0]


def fulfil(trade: Trade, hold_id: int, *, at: float = 2, effective_at: datetime | None = None) -> Answer:
    fulfilment = Fulfilment(hold_id, effective_at)
    return holds.fulfil([fulfilment], merchant_id=trade.merchant.pk, now=later(at))[0]


def cancel(trade: Trade, hold_id: int, *, at: float = 2) -> Answer:
    return holds.cancel([hold_id], merchant_id=trade.merchant.pk, now=later(at))[0]


def north_order(trade: Trade, order_id: str = "1001") -> Order:
    """An order of the shop North."""
    return trade.shops["north"].channel.pk, order_id


def tell(trade: Trade, topic: str, body: dict[str, Any]) -> None:
    """North tells of something, and it is applied."""
    deliver(trade.shops["north"], topic, body)
    apply_batch(engine(later(60)), merchant_id=trade.merchant.pk)


def tell_order(trade: Trade, *lines: tuple[str, int], **how: Any) -> None:
    tell(trade, "orders/updated", order_body(trade.shops["north"], 1001, *lines, **how))


def ended_at(hold_id: int) -> datetime | None:
    return Hold.objects.get(pk=hold_id).ended_at


def use(trade: Trade, *strategies: str) -> None:
    """Give the SKUs these strategies in turn."""
    for place, sku in enumerate(trade.skus.values()):
        Sku.objects.filter(pk=sku.pk).update(strategy=strategies[place % len(strategies)])


def make_bundle(trade: Trade, code: str, parts: dict[str, int], strategy: str = Strategy.ATOMIC) -> Sku:
    bundle = Sku.objects.create(merchant=trade.merchant, code=code, kind=SkuKind.BUNDLE, strategy=strategy)
    for part, quantity in parts.items():
        component = trade.skus.get(part) or Sku.objects.get(merchant=trade.merchant, code=part)
        BomLine.objects.create(merchant=trade.merchant, bundle=bundle, component=component, quantity=quantity)
    return bundle


def second_warehouse(trade: Trade, stock_of: dict[str, int]) -> Warehouse:
    warehouse = Warehouse.objects.create(merchant=trade.merchant, code="EAST", name="East")
    quantities = {(trade.skus[code].pk, warehouse.pk): units for code, units in stock_of.items()}
    stock.open_stock(merchant_id=trade.merchant.pk, quantities=quantities, now=NOON)
    return warehouse


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Do it so many times from THREADS threads that begin together."""
    begin = threading.Barrier(THREADS)

    def work(me: int) -> list[Any]:
        begin.wait(30)
        try:
            return [act(number) for number in range(me, count, THREADS)]
        finally:
            connection.close()

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(work, range(THREADS)) for result in results]


# --- holding ----------------------------------------------------------------------------------------------------


@committed
@pytest.mark.parametrize("strategy", Strategy.values)
def test_units_are_held_until_there_are_none_left(alder: Trade, strategy: str) -> None:
    use(alder, strategy)

    first = held(alder, "MUG", 7, reference="cart 9")
    [refused] = hold(alder, Ask("MUG", 4))

    assert (refused.refusal, refused.available) == (Refusal.UNAVAILABLE, 3)
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (7, 3)
    assert first.expires_at == NOON + timedelta(minutes=15)
    movement = Movement.objects.get(correlation_id=first.correlation_id)
    assert (movement.account, movement.delta, movement.cause) == ("held", 7, Cause.RESERVATION)
    assert movement.reference == "cart 9"
    assert DirtySku.objects.filter(correlation_id=first.correlation_id, sku=alder.skus["MUG"]).exists()
    assert holds.find([first.hold_id], merchant_id=alder.merchant.pk) == {first.hold_id: first}


@committed
@pytest.mark.parametrize("strategy", Strategy.values)
def test_of_200_who_want_the_last_unit_one_gets_it(strategy: str) -> None:
    alder = make_trade(stock_of={"MUG": 1}, shops=())
    use(alder, strategy)

    answers = at_once(200, lambda _: hold(alder, Ask("MUG", 1))[0])

    assert sum(answer.held is not None for answer in answers) == 1
    assert {answer.refusal for answer in answers} == {None, Refusal.UNAVAILABLE}
    assert alder.stock("MUG").held == 1


@committed
@pytest.mark.parametrize("disturbance", ["none", "flush", "dead"])
def test_strategies_and_bundles_mixed_on_shared_components_never_exceed(
    monkeypatch: pytest.MonkeyPatch, disturbance: str
) -> None:
    alder = make_trade(stock_of={"MUG": 40, "TEE": 40, "HAT": 40}, shops=())
    use(alder, *Strategy.values)
    make_bundle(alder, "SET", {"MUG": 2, "TEE": 1}, Strategy.ATOMIC)
    make_bundle(alder, "PAIR", {"TEE": 1, "HAT": 2}, Strategy.OPTIMISTIC)
    make_bundle(alder, "BOX", {"SET": 1, "HAT": 1}, Strategy.PESSIMISTIC)
    codes = ("MUG", "SET", "PAIR", "TEE", "BOX", "HAT")

    def act(number: int) -> Answer:
        if number == 60 and disturbance == "flush":
            redis.Redis.from_url(settings.REDIS_URL).flushall()
        if number == 60 and disturbance == "dead":
            nobody = redis.Redis(host="127.0.0.1", port=1, socket_timeout=0.1, socket_connect_timeout=0.1)
            monkeypatch.setattr(availability, "_redis", lambda: nobody)
            monkeypatch.setattr(availability, "_script", nobody.register_script)
        return hold(alder, Ask(codes[number % len(codes)], 1 + number % 2))[0]

    answers = at_once(180, act)

    given = Counter[str]()
    for answer in answers:
        if answer.held is not None:
            given.update({part.sku: part.quantity for part in answer.held.parts})
    for code in alder.skus:
        level = alder.stock(code)
        assert level.held == given[code]
        assert level.available >= 0
    # Somebody was refused, so something is used up: a component that every refused request needs.
    assert any(alder.stock(code).available < 4 for code in alder.skus)


def test_a_bundle_is_held_with_all_its_components_or_not_at_all(alder: Trade) -> None:
    make_bundle(alder, "SET", {"MUG": 2, "TEE": 1})

    first = held(alder, "SET", 4)
    [refused] = hold(alder, Ask("SET", 2))

    assert {(part.sku, part.quantity) for part in first.parts} == {("MUG", 8), ("TEE", 4)}
    assert (refused.refusal, refused.available) == (Refusal.UNAVAILABLE, 1)
    assert (alder.stock("MUG").held, alder.stock("TEE").held) == (8, 4)


def test_a_hold_comes_whole_from_one_warehouse_unless_it_may_be_split(alder: Trade) -> None:
    second_warehouse(alder, {"MUG": 6})

    assert hold(alder, Ask("MUG", 12))[0].available == 10
    assert [part.warehouse for part in held(alder, "MUG", 5).parts] == ["MAIN"]
    assert [part.warehouse for part in held(alder, "MUG", 5).parts] == ["EAST"]  # most of it by now
    ordered = held(alder, "MUG", 1, warehouses=("MAIN", "EAST"))
    assert [part.warehouse for part in ordered.parts] == ["MAIN"]
    split = held(alder, "MUG", 5, split=True)
    assert [(part.warehouse, part.quantity) for part in split.parts] == [("MAIN", 4), ("EAST", 1)]


def test_what_is_not_known_is_refused_by_name(alder: Trade) -> None:
    answers = hold(alder, Ask("NONE", 1), Ask("MUG", 1, warehouses=("NOWHERE",)), Ask("MUG", 1))

    assert [answer.refusal for answer in answers] == [Refusal.UNKNOWN_SKU, Refusal.UNKNOWN_WAREHOUSE, None]


def test_another_merchants_skus_do_not_exist(alder: Trade) -> None:
    birch = make_trade("Birch", stock_of={"PEN": 3})
    mine = held(birch, "PEN", 1)

    assert hold(alder, Ask("PEN", 1))[0].refusal is Refusal.UNKNOWN_SKU
    assert commit(alder, mine.hold_id).refusal is Refusal.UNKNOWN_HOLD
    assert holds.release([mine.hold_id], merchant_id=alder.merchant.pk, now=NOON)[0].refusal is Refusal.UNKNOWN_HOLD
    assert birch.stock("PEN").held == 1


def test_all_or_nothing_is_nothing_when_one_is_refused(alder: Trade) -> None:
    answers = hold(alder, Ask("MUG", 1), Ask("TEE", 6), Ask("TEE", 5), all_or_nothing=True)

    assert [answer.refusal for answer in answers] == [Refusal.NOT_ALONE, Refusal.UNAVAILABLE, Refusal.NOT_ALONE]
    assert not Hold.objects.exists()
    assert all(answer.held for answer in hold(alder, Ask("MUG", 1), Ask("TEE", 5), all_or_nothing=True))


@committed
def test_what_a_repeated_request_does_not_take_is_free_for_the_next_at_once() -> None:
    alder = make_trade(shops=(), stock_of={"MUG": 2})
    first = held(alder, "MUG", 1, key="k")
    availability.read(alder.merchant.pk, [alder.skus["MUG"].pk])

    assert held(alder, "MUG", 1, key="k").hold_id == first.hold_id
    assert held(alder, "MUG", 1).hold_id != first.hold_id


@committed
def test_what_a_batch_that_is_refused_as_a_whole_does_not_take_is_free_for_the_next_at_once() -> None:
    alder = make_trade(shops=(), stock_of={"MUG": 2, "TEE": 5})
    availability.read(alder.merchant.pk, [sku.pk for sku in alder.skus.values()])

    answers = hold(alder, Ask("MUG", 2), Ask("TEE", 6), all_or_nothing=True)

    assert [answer.refusal for answer in answers] == [Refusal.NOT_ALONE, Refusal.UNAVAILABLE]
    assert held(alder, "MUG", 2).quantity == 2


@committed
@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_what_a_repeated_request_does_not_take_is_free_for_others_of_its_batch(all_or_nothing: bool) -> None:
    alder = make_trade(shops=(), stock_of={"MUG": 2})
    first = held(alder, "MUG", 1, key="k")
    availability.read(alder.merchant.pk, [alder.skus["MUG"].pk])

    again, new = hold(alder, Ask("MUG", 1, key="k"), Ask("MUG", 1), all_or_nothing=all_or_nothing)

    assert again.is_replay
    assert again.held is not None
    assert again.held.hold_id == first.hold_id
    assert new.held is not None
    assert alder.stock("MUG").available == 0


@committed
def test_what_a_decision_that_fails_does_not_take_is_free_for_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alder = make_trade(shops=(), stock_of={"MUG": 2})
    availability.read(alder.merchant.pk, [alder.skus["MUG"].pk])

    def never_rests(*_: object, **__: object) -> None:
        raise stock.Moved

    with monkeypatch.context() as broken:
        broken.setattr(holding, "_look", never_rests)
        with pytest.raises(stock.Moved):
            held(alder, "MUG", 2)

    assert held(alder, "MUG", 2).quantity == 2


def test_a_quota_limits_holds_and_comes_back_with_a_release_only(alder: Trade) -> None:
    StockLevel.objects.filter(pk=alder.stock("MUG").pk).update(quota=4)

    first, second = held(alder, "MUG", 1), held(alder, "MUG", 2)
    assert hold(alder, Ask("MUG", 2))[0].available == 1

    holds.release([first.hold_id], merchant_id=alder.merchant.pk, now=NOON)
    commit(alder, second.hold_id)
    assert (alder.stock("MUG").quota, alder.stock("MUG").available) == (2, 8)


@pytest.mark.parametrize(
    "ask",
    [Ask("MUG", 0), Ask("MUG", 1, lifetime=timedelta(0)), Ask("MUG", 1, lifetime=timedelta(hours=25))],
)
def test_what_is_no_hold_is_an_error(alder: Trade, ask: Ask) -> None:
    with pytest.raises(ValueError, match="hold"):
        hold(alder, ask)


# --- once -------------------------------------------------------------------------------------------------------


@committed
@pytest.mark.parametrize("strategy", Strategy.values)
def test_fifty_times_the_same_request_at_once_is_one_hold(alder: Trade, strategy: str) -> None:
    use(alder, strategy)

    answers = at_once(50, lambda _: hold(alder, Ask("MUG", 10, "cart-1"))[0])

    assert {answer.held.hold_id if answer.held else None for answer in answers} == {Hold.objects.get().pk}
    assert sum(not answer.is_replay for answer in answers) == 1
    # All of it is gone, and still the request that took it is told so.
    assert hold(alder, Ask("MUG", 10, "cart-1"))[0].held == answers[0].held
    assert hold(alder, Ask("MUG", 9, "cart-1"))[0].refusal is Refusal.KEY_REUSED
    assert hold(alder, Ask("MUG", 9, "cart-2"))[0].refusal is Refusal.UNAVAILABLE


def test_a_batch_that_names_a_key_twice_holds_once(alder: Trade) -> None:
    first, again, other = hold(alder, Ask("MUG", 1, "a"), Ask("MUG", 1, "a"), Ask("TEE", 1, "a"))

    assert again.held == first.held
    assert other.refusal is Refusal.KEY_REUSED
    assert Hold.objects.count() == 1


# --- expiry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", Strategy.values)
def test_what_has_expired_is_free_for_the_next_at_once(alder: Trade, strategy: str) -> None:
    use(alder, strategy)
    old = held(alder, "MUG", 10)
    assert hold(alder, Ask("MUG", 1), at=899)[0].refusal is Refusal.UNAVAILABLE

    new = held(alder, "MUG", 10, at=900)

    assert holds.find([old.hold_id], merchant_id=alder.merchant.pk)[old.hold_id].state == HoldState.RELEASED
    assert (alder.stock("MUG").held, new.state) == (10, HoldState.ACTIVE)
    assert not Shortage.objects.exists()


def test_a_component_held_by_an_expired_bundle_is_free_for_whoever_wants_it(alder: Trade) -> None:
    make_bundle(alder, "SET", {"MUG": 2, "TEE": 1})
    held(alder, "SET", 5)

    held(alder, "TEE", 5, at=900)

    assert (alder.stock("MUG").held, alder.stock("TEE").held) == (0, 5)


def test_the_sweep_releases_what_nobody_asked_about(alder: Trade) -> None:
    held(alder, "MUG", 4)
    held(alder, "TEE", 1, lifetime=timedelta(hours=1))

    assert holds.sweep(now=later(899)) == 0
    assert holds.sweep(now=later(900)) == 1
    assert holds.sweep(now=later(900)) == 0

    assert (alder.stock("MUG").held, alder.stock("TEE").held) == (0, 1)


def test_an_extended_hold_lives_on_and_an_expired_one_is_not_extended(alder: Trade) -> None:
    first = held(alder, "MUG", 4)

    def extend(at: float, minutes: int) -> Answer:
        return holds.extend(
            [first.hold_id], merchant_id=alder.merchant.pk, now=later(at), lifetime=timedelta(minutes=minutes)
        )[0]

    longer = extend(600, 30)
    shorter = extend(600, 1)

    assert longer.held is not None
    assert longer.held.expires_at == later(600 + 1800)
    assert shorter.held == longer.held
    assert holds.sweep(now=later(2399)) == 0
    assert extend(2400, 30).refusal is Refusal.EXPIRED


# --- committing -------------------------------------------------------------------------------------------------


def test_without_an_order_a_commit_books_the_sale(alder: Trade) -> None:
    first = held(alder, "MUG", 4)

    done = commit(alder, first.hold_id)
    again = commit(alder, first.hold_id)

    assert done.held is not None
    assert (done.held.state, done.held.ended_at) == (HoldState.COMMITTED, later(1))
    assert again.held == done.held
    assert again.is_replay
    level = alder.stock("MUG")
    assert (level.held, level.committed, level.available) == (0, 4, 6)
    assert Movement.objects.filter(cause=Cause.SALE, correlation_id=first.correlation_id).count() == 2


@committed
def test_committed_to_an_order_it_stays_held_until_the_order_is_booked(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    assert commit(alder, first.hold_id, north_order(alder)).held is not None
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (4, 6)
    holds.sweep(now=later(86400))
    assert ended_at(first.hold_id) is None

    tell_order(alder, ("MUG", 4))

    assert ended_at(first.hold_id) == later(60)
    level = alder.stock("MUG")
    assert (level.held, level.committed, level.available) == (0, 4, 6)
    assert commit(alder, first.hold_id, north_order(alder)).is_replay


@committed
def test_an_order_booked_before_the_commit_leaves_nothing_held(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    tell_order(alder, ("MUG", 4))

    done = commit(alder, first.hold_id, north_order(alder))

    assert done.held is not None
    assert done.held.ended_at == later(1)
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (0, 4)


@committed
def test_a_refund_that_is_told_before_its_order_ends_no_hold(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id, north_order(alder))

    tell(alder, "refunds/create", refund_body(1001, 0, 1, "no_restock"))
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (4, 6)

    tell_order(alder, ("MUG", 4))
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (0, 6)


@committed
def test_an_order_that_cannot_be_placed_ends_its_hold_once_it_can(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id, north_order(alder))
    cells = list(Mapping.objects.filter(store_location=alder.shops["north"].location))
    Mapping.objects.filter(store_location=alder.shops["north"].location).delete()

    tell_order(alder, ("MUG", 4))
    holds.sweep(now=later(60))
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (4, 0)

    Mapping.objects.bulk_create(cells)
    matrix.announce(alder.merchant.pk, later(60))
    apply_batch(engine(later(60)), merchant_id=alder.merchant.pk)
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (0, 4)


@committed
@pytest.mark.parametrize("is_told_first", [False, True])
def test_of_two_lines_the_one_that_waits_ends_no_hold(alder: Trade, is_told_first: bool) -> None:
    mugs, tees = held(alder, "MUG", 1), held(alder, "TEE", 4)
    Listing.objects.filter(pk=alder.shops["north"].listings["TEE"].pk).update(sku=None)
    if is_told_first:
        tell_order(alder, ("MUG", 1), ("TEE", 4))
    for each in (mugs, tees):
        commit(alder, each.hold_id, north_order(alder))
    if not is_told_first:
        tell_order(alder, ("MUG", 1), ("TEE", 4))
    holds.sweep(now=later(60))

    assert ended_at(mugs.hold_id) is not None
    assert ended_at(tees.hold_id) is None
    assert (alder.stock("MUG").held, alder.stock("TEE").held) == (0, 4)


@committed
@pytest.mark.parametrize("is_told_first", [False, True])
@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_an_order_of_which_nothing_is_left_to_book_ends_its_hold(alder: Trade, how: str, is_told_first: bool) -> None:
    """Bought and cancelled while webhooks were lost: the first that is heard of it is its end."""
    make_bundle(alder, "SET", {"MUG": 2})
    first = held(alder, "MUG", 4)
    DirtySku.objects.all().delete()

    def tell_end() -> None:
        if how == "deleted":
            tell(alder, "orders/delete", {"id": 1001})
        else:
            tell_order(alder, ("MUG", 4), at=20, cancelled=True, refunds=(refund_body(1001, 0, 4, "cancel"),))

    if is_told_first:
        tell_end()
    commit(alder, first.hold_id, north_order(alder))
    if not is_told_first:
        tell_end()

    assert ended_at(first.hold_id) is not None
    assert (alder.stock("MUG").held, alder.stock("MUG").available) == (0, 10)
    assert set(DirtySku.objects.values_list("sku__code", flat=True)) == {"MUG", "SET"}


@committed
def test_what_is_held_for_an_order_elsewhere_is_published_when_it_is_given_back(alder: Trade) -> None:
    """The order takes what its store's warehouse has; the hold had taken it from another."""
    second_warehouse(alder, {"MUG": 6})
    first = held(alder, "MUG", 4, warehouses=("EAST",))
    commit(alder, first.hold_id, north_order(alder))
    DirtySku.objects.all().delete()

    tell_order(alder, ("MUG", 4))

    east = StockLevel.objects.get(sku=alder.skus["MUG"], warehouse__code="EAST")
    assert (east.held, east.available, alder.stock("MUG").committed) == (0, 6, 4)
    assert DirtySku.objects.filter(correlation_id=first.correlation_id, sku=alder.skus["MUG"]).exists()


@pytest.fixture
def _apply_that_overlooks_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that had asked for them a moment before they were committed."""
    monkeypatch.setattr(holds, "levels_held_for_orders", lambda **_: set())


@committed
@pytest.mark.usefixtures("_apply_that_overlooks_holds")
def test_the_sweep_ends_a_hold_whose_order_was_booked_past_it(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id, north_order(alder))
    tell_order(alder, ("MUG", 4))
    assert alder.stock("MUG").held == 4
    assert "no_hold_waits_in_vain" in [violation.name for violation in violations(when_quiet=True)]

    assert holds.sweep(now=later(3)) == 1

    assert alder.stock("MUG").held == 0
    assert "no_hold_waits_in_vain" not in [violation.name for violation in violations(when_quiet=True)]


@committed
@pytest.mark.usefixtures("_apply_that_overlooks_holds")
def test_holds_that_wait_for_good_keep_the_sweep_from_no_other(alder: Trade) -> None:
    first = held(alder, "MUG", 1)
    commit(alder, first.hold_id, north_order(alder))
    for number in (1, 2, 3, 2001, 2002, 2003):
        commit(alder, held(alder, "MUG", 1).hold_id, north_order(alder, str(number)))
    tell_order(alder, ("MUG", 1))

    assert sum(holds.sweep(now=later(3), limit=2) for _ in range(4)) == 1

    assert ended_at(first.hold_id) is not None
    assert alder.stock("MUG").held == 6


@committed
def test_the_sweep_leaves_a_hold_that_was_committed_while_it_was_on_its_way(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = held(alder, "MUG", 4)
    sweep_merchant = holds._sweep_merchant

    def commit_and_sweep(merchant_id: int, hold_ids: Sequence[int], now: datetime) -> int:
        assert hold_ids == [first.hold_id]
        assert commit(alder, first.hold_id, north_order(alder), at=901).refusal is None
        return sweep_merchant(merchant_id, hold_ids, now)

    monkeypatch.setattr(holds, "_sweep_merchant", commit_and_sweep)

    assert holds.sweep(now=later(900)) == 0

    assert ended_at(first.hold_id) is None
    assert alder.stock("MUG").held == 4


def test_the_auditor_sees_a_hold_that_ended_before_its_order_was_booked(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id, north_order(alder))
    Hold.objects.update(ended_at=later(2))

    assert "holds_end_with_what_they_wait_for" in [violation.name for violation in violations(when_quiet=False)]

    Hold.objects.update(ended_at=None)


@pytest.mark.parametrize("is_swept", [False, True])
def test_an_expired_hold_is_committed_if_its_units_are_still_there(alder: Trade, is_swept: bool) -> None:
    first = held(alder, "MUG", 8)
    if is_swept:
        holds.sweep(now=later(900))

    done = commit(alder, first.hold_id, at=901)

    assert done.held is not None
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (0, 8)


def test_an_expired_hold_is_held_again_for_an_order_on_its_way(alder: Trade) -> None:
    first = held(alder, "MUG", 8)
    holds.sweep(now=later(900))

    assert commit(alder, first.hold_id, north_order(alder), at=901).held is not None

    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (8, 0)


def test_an_expired_hold_whose_units_are_gone_is_refused(alder: Trade) -> None:
    first = held(alder, "MUG", 8)
    held(alder, "MUG", 5, at=900)

    refused = commit(alder, first.hold_id, at=901)

    assert refused.refusal is Refusal.EXPIRED
    assert (alder.stock("MUG").held, alder.stock("MUG").committed) == (5, 0)


def test_a_hold_ends_once(alder: Trade) -> None:
    released, sold = held(alder, "MUG", 1), held(alder, "MUG", 1)
    ids = [released.hold_id, sold.hold_id]
    holds.release(ids[:1], merchant_id=alder.merchant.pk, now=later(1))
    commit(alder, ids[1], north_order(alder, "1"))

    assert commit(alder, ids[0]).refusal is Refusal.RELEASED
    assert commit(alder, ids[1], north_order(alder, "2")).refusal is Refusal.COMMITTED
    assert commit(alder, ids[1]).refusal is Refusal.COMMITTED
    assert commit(alder, 10**9).refusal is Refusal.UNKNOWN_HOLD
    assert commit(alder, ids[1], (10**9, "1")).refusal is Refusal.UNKNOWN_CHANNEL
    assert commit(alder, ids[1], north_order(alder, "order one")).refusal is Refusal.NO_ORDER_ID
    again, refused = holds.release(ids, merchant_id=alder.merchant.pk, now=later(2))
    assert (again.is_replay, refused.refusal) == (True, Refusal.COMMITTED)
    extended = holds.extend(ids, merchant_id=alder.merchant.pk, now=later(2))
    assert [answer.refusal for answer in extended] == [Refusal.RELEASED, Refusal.COMMITTED]


@pytest.mark.parametrize("said", ["1001", "gid://shopify/Order/1001"])
def test_however_an_order_is_named_it_is_the_same(alder: Trade, said: str) -> None:
    first = held(alder, "MUG", 1)

    done = commit(alder, first.hold_id, north_order(alder, said))

    assert done.held is not None
    assert done.held.order_id == "1001"
    assert commit(alder, first.hold_id, north_order(alder, "gid://shopify/Order/1001")).is_replay


@pytest.mark.parametrize("said", ["#1001", "gid://shopify/DraftOrder/1001", "0", "-1", "9" * 20, "1001 "])
def test_what_no_order_can_be_called_is_refused(alder: Trade, said: str) -> None:
    first = held(alder, "MUG", 1)

    assert commit(alder, first.hold_id, north_order(alder, said)).refusal is Refusal.NO_ORDER_ID
    assert Hold.objects.get().state == HoldState.ACTIVE


def test_an_order_needs_its_channel(alder: Trade) -> None:
    with pytest.raises(ValueError, match="channel"):
        holds.commit([Commitment(1, None, "1001")], merchant_id=alder.merchant.pk, now=NOON)


def test_an_order_is_not_handed_over_by_us(alder: Trade) -> None:
    with pytest.raises(ValueError, match="shipped"):
        commit(alder, 1, north_order(alder), is_handed_over=True)


# --- sales without an order -------------------------------------------------------------------------------------


def count(trade: Trade, units: int, *, at: float) -> None:
    counted = counts.Counted(f"count at {at}", "MUG", "MAIN", units, later(at))
    counts.take(
        merchant_id=trade.merchant.pk, counts=[counted], reporter=Reporter(), all_or_nothing=False, now=later(at)
    )


def test_what_was_sold_leaves_with_its_fulfilment(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id)

    done = fulfil(alder, first.hold_id)

    assert done.held is not None
    assert (done.held.state, done.held.closed_at) == (HoldState.FULFILLED, later(2))
    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.available) == (6, 0, 6)
    shipped = Movement.objects.filter(cause=Cause.SHIPMENT, correlation_id=first.correlation_id)
    assert {(each.account, each.delta, each.effective_at) for each in shipped} == {
        ("on_hand", -4, later(2)),
        ("committed", -4, later(2)),
    }
    assert fulfil(alder, first.hold_id, at=3).is_replay
    assert commit(alder, first.hold_id, at=3).is_replay


def test_a_till_sells_and_hands_over_at_once_and_a_count_afterwards_agrees(alder: Trade) -> None:
    first = held(alder, "MUG", 4)

    done = commit(alder, first.hold_id, is_handed_over=True)

    assert done.held is not None
    assert (done.held.state, done.held.committed_at, done.held.closed_at) == (HoldState.FULFILLED, later(1), later(1))
    count(alder, 6, at=100)
    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.held, level.available) == (6, 0, 0, 6)
    assert not Movement.objects.filter(cause=Cause.COUNT).exists()
    assert commit(alder, first.hold_id, at=3, is_handed_over=True).is_replay


def test_a_sale_may_turn_out_to_be_handed_over_with_the_next_commit(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id)

    done = commit(alder, first.hold_id, is_handed_over=True)

    assert done.held is not None
    assert done.held.state == HoldState.FULFILLED
    assert alder.stock("MUG").on_hand == 6


def test_an_expired_hold_that_is_there_still_is_handed_over(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    holds.sweep(now=later(900))

    commit(alder, first.hold_id, at=901, is_handed_over=True)

    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.held, level.available) == (6, 0, 0, 6)


def test_what_had_left_before_a_count_is_not_taken_off_it(alder: Trade) -> None:
    """The till was offline; meanwhile somebody counted the shelf."""
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id)
    count(alder, 6, at=100)

    fulfil(alder, first.hold_id, at=200, effective_at=later(50))

    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.available) == (6, 0, 6)


def test_a_clock_that_is_a_little_ahead_means_now_and_one_far_ahead_is_refused(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id)

    assert fulfil(alder, first.hold_id, effective_at=later(2000)).refusal is Refusal.IN_THE_FUTURE
    fulfil(alder, first.hold_id, effective_at=later(60))

    assert {each.effective_at for each in Movement.objects.filter(cause=Cause.SHIPMENT)} == {later(2)}


def test_a_cancelled_sale_gives_its_units_back_with_their_quota(alder: Trade) -> None:
    StockLevel.objects.filter(pk=alder.stock("MUG").pk).update(quota=4)
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id)
    DirtySku.objects.all().delete()

    done = cancel(alder, first.hold_id)

    assert done.held is not None
    assert (done.held.state, done.held.closed_at) == (HoldState.CANCELLED, later(2))
    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.available, level.quota) == (10, 0, 10, 4)
    assert Movement.objects.filter(cause=Cause.CANCEL, correlation_id=first.correlation_id).count() == 1
    assert DirtySku.objects.filter(sku=alder.skus["MUG"]).exists()
    assert cancel(alder, first.hold_id, at=3).is_replay


def test_a_sale_ends_once_and_only_what_was_sold_without_an_order_ends_here(alder: Trade) -> None:
    active, ordered, shipped, cancelled, released = (held(alder, "MUG", 1).hold_id for _ in range(5))
    commit(alder, ordered, north_order(alder))
    commit(alder, shipped, is_handed_over=True)
    commit(alder, cancelled)
    cancel(alder, cancelled)
    holds.release([released], merchant_id=alder.merchant.pk, now=later(2))
    ids = [active, ordered, shipped, cancelled, released]

    assert [fulfil(alder, hold_id).refusal for hold_id in (*ids, 10**9, 2**63)] == [
        Refusal.NOT_COMMITTED,
        Refusal.COMMITTED,
        None,
        Refusal.CANCELLED,
        Refusal.RELEASED,
        Refusal.UNKNOWN_HOLD,
        Refusal.UNKNOWN_HOLD,
    ]
    assert [cancel(alder, hold_id).refusal for hold_id in (*ids, 2**63)] == [
        Refusal.NOT_COMMITTED,
        Refusal.COMMITTED,
        Refusal.FULFILLED,
        None,
        Refusal.RELEASED,
        Refusal.UNKNOWN_HOLD,
    ]
    assert commit(alder, cancelled).refusal is Refusal.CANCELLED
    assert commit(alder, shipped, north_order(alder)).refusal is Refusal.FULFILLED
    extended = holds.extend([shipped, cancelled], merchant_id=alder.merchant.pk, now=later(3))
    assert [answer.refusal for answer in extended] == [Refusal.FULFILLED, Refusal.CANCELLED]
    freed = holds.release([shipped, cancelled], merchant_id=alder.merchant.pk, now=later(3))
    assert [answer.refusal for answer in freed] == [Refusal.FULFILLED, Refusal.CANCELLED]
    level = alder.stock("MUG")
    assert (level.on_hand, level.committed, level.held) == (9, 0, 2)


# --- together ---------------------------------------------------------------------------------------------------


def test_all_or_nothing_holds_for_endings_too(alder: Trade) -> None:
    first = held(alder, "MUG", 1)

    answers = holds.release([first.hold_id, 10**9], merchant_id=alder.merchant.pk, now=later(1), all_or_nothing=True)

    assert [answer.refusal for answer in answers] == [Refusal.NOT_ALONE, Refusal.UNKNOWN_HOLD]
    assert alder.stock("MUG").held == 1


@committed
def test_commits_and_releases_of_one_hold_at_once_end_it_once(alder: Trade) -> None:
    first = held(alder, "MUG", 4)

    def act(number: int) -> Answer:
        if number % 2:
            return commit(alder, first.hold_id)
        return holds.release([first.hold_id], merchant_id=alder.merchant.pk, now=later(1))[0]

    answers = at_once(32, act)

    assert sum(answer.refusal is None and not answer.is_replay for answer in answers) == 1
    assert alder.stock("MUG").held == 0


def test_inside_a_transaction_a_hold_is_part_of_it(alder: Trade) -> None:
    def hold_and_fail() -> None:
        with transaction.atomic():
            held(alder, "MUG", 4)
            raise LookupError

    with pytest.raises(LookupError):
        hold_and_fail()

    assert alder.stock("MUG").held == 0
    assert not HoldPart.objects.exists()


def test_a_recipe_that_was_changed_a_moment_ago_is_the_one_that_counts(alder: Trade) -> None:
    bundle = make_bundle(alder, "SET", {"MUG": 1})
    held(alder, "SET", 1)
    BomLine.objects.filter(bundle=bundle).update(quantity=3)
    assert recipes.remembered(alder.merchant.pk, ["SET"])["SET"].parts == {alder.skus["MUG"].pk: 1}

    assert held(alder, "SET", 2).parts[0].quantity == 6


@committed
def test_an_optimistic_decision_is_taken_anew_when_something_moved(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(alder, Strategy.OPTIMISTIC)
    claim, rounds = stock.claim, iter([True, False])

    def overtake() -> None:
        held(alder, "MUG", 9)
        connection.close()

    def be_overtaken_and_claim(balances: Any) -> None:
        if next(rounds, False):
            Sku.objects.filter(code="MUG").update(strategy=Strategy.PESSIMISTIC)
            recipes._recipes.clear()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(overtake).result()
        claim(balances)

    monkeypatch.setattr(stock, "claim", be_overtaken_and_claim)

    [answer] = hold(alder, Ask("MUG", 2))

    assert (answer.refusal, answer.available) == (Refusal.UNAVAILABLE, 1)


def test_a_release_by_hand_leaves_a_trace_and_frees_what_waits_for_an_order(alder: Trade) -> None:
    first = held(alder, "MUG", 4)
    commit(alder, first.hold_id, north_order(alder))

    def by_hand() -> bool:
        return holds.release_by_hand(
            merchant_id=alder.merchant.pk, hold_id=first.hold_id, reason="never paid", user=None, now=later(9)
        )

    assert by_hand()
    assert not by_hand()
    assert alder.stock("MUG").held == 0
    assert commit(alder, first.hold_id, north_order(alder), at=1000).refusal is Refusal.RELEASED


@pytest.mark.parametrize("first_end", ["swept", "by hand"])
def test_a_hold_that_ended_and_was_held_again_for_an_order_is_released_by_hand(alder: Trade, first_end: str) -> None:
    first = held(alder, "MUG", 4)

    def by_hand(at: float) -> bool:
        return holds.release_by_hand(
            merchant_id=alder.merchant.pk, hold_id=first.hold_id, reason="never paid", user=None, now=later(at)
        )

    if first_end == "swept":
        holds.sweep(now=later(901))
    else:
        assert by_hand(901)
    assert commit(alder, first.hold_id, north_order(alder), at=902).held is not None
    assert alder.stock("MUG").held == 4

    assert by_hand(9000)

    assert alder.stock("MUG").held == 0


def test_held_units_are_never_below_those_of_a_check(alder: Trade) -> None:
    """Units that a check holds are no business of holds: an entry on `held` that is not theirs stays."""
    first = held(alder, "MUG", 4)
    with transaction.atomic():
        balances = stock.lock_balances([alder.stock("MUG").pk])
        entry = Entry(alder.stock("MUG").pk, Cause.CHECK, "check:1", "", first.correlation_id, NOON, held=2)
        stock.post(merchant_id=alder.merchant.pk, balances=balances, entries=[entry], now=NOON)

    holds.release([first.hold_id], merchant_id=alder.merchant.pk, now=later(1))

    assert alder.stock("MUG").held == 2
    with transaction.atomic():
        balances = stock.lock_balances([alder.stock("MUG").pk])
        stock.post(
            merchant_id=alder.merchant.pk,
            balances=balances,
            entries=[replace(entry, key="check:2", held=-2)],
            now=NOON,
        )
