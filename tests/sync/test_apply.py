"""From inbox rows to ledger, through the real database."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import pytest

from channels.models import EventState, InboxEvent, Listing
from inventory.models import BomLine, Movement, Shortage, Sku, SkuKind
from sync import hooks
from sync.apply import Applied, apply_batch
from sync.models import DirtySku, OrderLine
from synctec.lib import sql
from tests.factories import NOON, Trade, deliver, later, level_body, make_trade, order_body, refund_body

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def apply(trade: Trade) -> Applied:
    total = Applied()
    while (done := apply_batch(merchant_id=trade.merchant.pk, now=NOON, rng=random.Random(1))).claimed:
        total.claimed += done.claimed
        total.settled += done.settled
        total.failed += done.failed
        if done.claimed == done.busy + done.failed:
            break
    return total


def outcome(event: InboxEvent) -> tuple[str, str]:
    event.refresh_from_db()
    return event.state, event.reason


def test_a_sale_commits_units_and_lowers_its_own_store_without_a_push(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", order_body(north, 1001, ("MUG", 3)))

    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "")
    stock = alder.stock("MUG")
    assert (stock.on_hand, stock.committed, stock.available) == (10, 3, 7)
    assert (north.level("MUG").reported, alder.shops["south"].level("MUG").reported) == (7, 10)
    [movement] = Movement.objects.filter(cause="sale")
    assert (movement.account, movement.delta, movement.balance_after, movement.reference) == (
        "committed",
        3,
        3,
        "#1001",
    )
    assert movement.correlation_id == event.correlation_id
    assert list(DirtySku.objects.values_list("sku__code", "correlation_id")) == [("MUG", event.correlation_id)]


def test_the_same_event_under_new_ids_changes_nothing(alder: Trade) -> None:
    north = alder.shops["north"]
    body = order_body(north, 1001, ("MUG", 3))
    events = [deliver(north, "orders/create", body) for _ in range(4)]

    apply(alder)

    assert alder.stock("MUG").committed == 3
    assert Movement.objects.filter(cause="sale").count() == 1
    assert sorted(outcome(event)[0] for event in events) == ["applied", "ignored", "ignored", "ignored"]


@pytest.mark.parametrize("arrival", list(permutations(range(4))))
def test_events_of_an_order_end_alike_in_any_order(alder: Trade, arrival: tuple[int, ...]) -> None:
    north = alder.shops["north"]
    refund = refund_body(1001, 0, 1, "cancel")
    story = [
        ("orders/create", order_body(north, 1001, ("MUG", 4), ("TEE", 1), at=10)),
        ("orders/updated", order_body(north, 1001, ("MUG", 4), ("TEE", 1), at=20, current=(3, 1), refunds=(refund,))),
        ("refunds/create", refund),
        (
            "orders/updated",
            order_body(north, 1001, ("MUG", 4), ("TEE", 1), at=30, current=(3, 1), refunds=(refund,), shipped=(3, 0)),
        ),
    ]

    for place in arrival:
        deliver(north, *story[place])
        apply(alder)

    mug, tee = alder.stock("MUG"), alder.stock("TEE")
    assert (mug.on_hand, mug.committed, mug.available) == (7, 0, 7)
    assert (tee.on_hand, tee.committed) == (5, 1)
    assert north.level("MUG").reported == 7


def test_the_last_unit_sold_in_two_stores_at_once_is_a_shortage_of_one() -> None:
    alder = make_trade(stock_of={"MUG": 1})
    north, south = alder.shops["north"], alder.shops["south"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    deliver(south, "orders/create", order_body(south, 2, ("MUG", 1)))

    apply(alder)

    assert alder.stock("MUG").available == -1
    [shortage] = Shortage.objects.all()
    assert (shortage.quantity, shortage.quantity_covered, shortage.reference) == (1, 0, "#2")


def test_cancelling_covers_the_shortage(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 10)))
    deliver(south, "orders/create", order_body(south, 2, ("MUG", 2)))
    apply(alder)
    refund = refund_body(1, 0, 10, "cancel")
    deliver(
        north,
        "orders/cancelled",
        order_body(north, 1, ("MUG", 10), at=40, current=(0,), cancelled=True, refunds=(refund,)),
    )

    apply(alder)

    assert alder.stock("MUG").available == 8
    shortage = Shortage.objects.get()
    assert (shortage.quantity, shortage.quantity_covered, shortage.covered_at) == (2, 2, NOON)


def test_a_bundle_takes_its_components_and_marks_every_bundle_that_shares_one() -> None:
    alder = make_trade(stock_of={"MUG": 10, "TEE": 5, "SET": 0, "DUO": 0})
    north = alder.shops["north"]
    for code in ("SET", "DUO"):
        Sku.objects.filter(code=code).update(kind=SkuKind.BUNDLE)
    for bundle, component, quantity in (("SET", "MUG", 2), ("SET", "TEE", 1), ("DUO", "MUG", 2)):
        BomLine.objects.create(
            merchant=alder.merchant, bundle=alder.skus[bundle], component=alder.skus[component], quantity=quantity
        )
    deliver(north, "orders/create", order_body(north, 1, ("SET", 2)))

    apply(alder)

    assert (alder.stock("MUG").committed, alder.stock("TEE").committed) == (4, 2)
    assert north.level("SET").order_effects == -2
    assert set(DirtySku.objects.values_list("sku__code", flat=True)) == {"MUG", "TEE", "SET", "DUO"}


def test_an_unmapped_variant_waits_and_is_taken_up_by_a_replay(alder: Trade) -> None:
    north = alder.shops["north"]
    listing = north.listings["MUG"]
    Listing.objects.filter(pk=listing.pk).update(sku=None)
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)

    assert outcome(event) == (EventState.IGNORED, f"unmapped variant {listing.remote_variant_id}")
    assert OrderLine.objects.get().waiting_for == f"variant {listing.remote_variant_id}"
    assert alder.stock("MUG").committed == 0

    Listing.objects.filter(pk=listing.pk).update(sku=alder.skus["MUG"])
    hooks.replay_waiting(alder.merchant.pk)
    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "")
    assert alder.stock("MUG").committed == 2


def test_an_order_from_before_the_channel_was_connected_is_in_the_opening_stock(alder: Trade) -> None:
    north = alder.shops["north"]
    north.channel.orders_counted_from = later(7)
    north.channel.save()
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)

    assert outcome(event)[0] == EventState.IGNORED
    assert alder.stock("MUG").committed == 0


def test_a_level_webhook_that_shows_what_is_expected_is_an_echo(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "inventory_levels/update", level_body(north, "MUG", 10))

    apply(alder)

    assert outcome(event) == (EventState.IGNORED, "echo: as expected")
    assert north.level("MUG").suspect_since is None


def test_a_level_webhook_and_its_order_in_one_batch_explain_each_other(alder: Trade) -> None:
    north = alder.shops["north"]
    level = deliver(north, "inventory_levels/update", level_body(north, "MUG", 8))
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)

    assert outcome(level) == (EventState.IGNORED, "echo: as expected")
    assert north.level("MUG").suspect_since is None


def test_a_level_webhook_ahead_of_its_order_makes_suspect_until_the_order_comes(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "inventory_levels/update", level_body(north, "MUG", 8))
    apply(alder)
    level = north.level("MUG")
    assert outcome(event) == (EventState.APPLIED, "shows 8, expected 10: to be read")
    assert (level.suspect_available, level.reported) == (8, 10)
    assert alder.stock("MUG").available == 10

    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    apply(alder)

    assert (north.level("MUG").suspect_since, north.level("MUG").reported) == (None, 8)


def test_a_level_webhook_older_than_what_is_known_is_superseded(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "inventory_levels/update", level_body(north, "MUG", 3, at=-5))

    apply(alder)

    assert outcome(event) == (EventState.IGNORED, "superseded: newer than this is known")


@pytest.mark.parametrize(
    "body", [b"", b"\x00\xff", b"[]", b"{}", b'{"id": 1e400}', b'{"id": true, "line_items": 3}', b"[" * 5000]
)
def test_nonsense_is_dead_with_a_reason_and_blocks_nothing(alder: Trade, body: bytes) -> None:
    north = alder.shops["north"]
    nonsense = deliver(north, "orders/create", body)
    good = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))

    apply(alder)

    state, reason = outcome(nonsense)
    assert state == EventState.DEAD
    assert reason.startswith("malformed: ")
    assert outcome(good)[0] == EventState.APPLIED


def test_an_event_that_kills_its_workers_is_dead_after_six(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    InboxEvent.objects.filter(pk=event.pk).update(attempts=6)

    apply(alder)

    assert outcome(event) == (EventState.DEAD, "poison: 6 workers died over it")


def test_a_topic_nobody_uses_is_ignored_visibly(alder: Trade) -> None:
    event = deliver(alder.shops["north"], "themes/publish", {"id": 1})

    apply(alder)

    state, reason = outcome(event)
    assert state == EventState.IGNORED
    assert "themes/publish" in reason


def test_the_number_of_statements_does_not_grow_with_the_batch(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    north = alder.shops["north"]
    statements: list[str] = []
    execute = sql._PreparingCursor.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(sql._PreparingCursor, "execute", counted)

    def needed(orders: int, first: int) -> int:
        for order in range(first, first + orders):
            deliver(north, "orders/create", order_body(north, order, ("MUG", 1)))
        statements.clear()
        apply_batch(merchant_id=alder.merchant.pk, now=NOON, rng=random.Random(1))
        return len(statements)

    few, many = needed(2, 100), needed(40, 200)

    # One more at most, to read the shortages that the second batch adds to.
    assert 10 < few <= many <= few + 1
