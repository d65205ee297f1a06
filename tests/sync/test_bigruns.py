"""Runs that would change too much at once: held, passed by what is sold, confirmed or put right."""

from __future__ import annotations

import pytest
from django.db.models.functions import Now

from channels.models import Channel, ListingLevel
from inventory import stock
from inventory.models import StockLevel
from locations import matrix
from locations.models import Mapping
from merchants.models import AuditEvent
from sync import bigruns
from sync.invariants import violations
from sync.models import DirtySku, HeldLevel, HeldState, HoldState, PushHold
from sync.publish import publish_batch
from sync.push import push_channel
from synctec.lib import sql
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, add_warehouse, deliver, make_trade, order_body
from tests.fakes import FakeChannel
from tests.sync.test_apply import apply

pytestmark = pytest.mark.django_db(transaction=True)

CODES = [f"SKU-{number:03}" for number in range(100)]


@pytest.fixture
def alder() -> Trade:
    return make_trade(stock_of=dict.fromkeys(CODES, 10))


@pytest.fixture
def south(alder: Trade) -> Shop:
    return alder.shops["south"]


def settle(trade: Trade) -> None:
    """Publish all there is, and judge what is watched until nothing follows."""
    for _ in range(10):
        while publish_batch(engine(), merchant_id=trade.merchant.pk).skus:
            pass
        if not bigruns.judge_all() and not DirtySku.objects.exists():
            return
    pytest.fail("it never came to rest")


def push(shop: Shop, store: FakeChannel) -> None:
    Channel.objects.filter(pk=shop.channel.pk).update(next_call_at=Now())
    push_channel(engine(stores={shop.channel: store}), channel=ref(shop.channel))


def adjust(trade: Trade, code: str, delta: int) -> None:
    stock.adjust(
        merchant_id=trade.merchant.pk,
        sku_id=trade.skus[code].pk,
        warehouse_id=trade.warehouse.pk,
        delta=delta,
        reason="a bad import",
        user=None,
        now=NOON,
    )


def lose_mapping(trade: Trade, shop: Shop, codes: list[str]) -> None:
    """Units of these SKUs lie in another warehouse, which the shop does not draw on any more."""
    annex = add_warehouse(trade, "ANNEX", dict.fromkeys(codes, 10))
    for code in codes:
        adjust(trade, code, -10)
    while publish_batch(engine(), merchant_id=trade.merchant.pk).skus:
        pass
    HeldLevel.objects.all().delete()
    Mapping.objects.filter(store_location=shop.location, warehouse=annex).delete()
    matrix.announce(trade.merchant.pk, NOON)


def shown(store: FakeChannel, shop: Shop, codes: list[str]) -> list[int]:
    return [store.levels[FakeChannel.where(shop, code)] for code in codes]


def test_a_lost_mapping_of_a_third_of_the_catalogue_is_held_and_goes_once_it_is_confirmed(
    alder: Trade, south: Shop
) -> None:
    lost, store = CODES[:30], FakeChannel.of(south)
    lose_mapping(alder, south, lost)

    settle(alder)
    push(south, store)

    hold = PushHold.objects.get()
    assert (hold.state, hold.channel, hold.zeroed, hold.changed, hold.of_levels) == ("held", south.channel, 30, 30, 100)
    assert shown(store, south, lost) == [10] * 30
    assert store.writes == []
    assert {(row["first"], row["shown"], row["wished"]) for row in bigruns.preview(hold, limit=100)} == {(10, 10, 0)}

    bigruns.confirm(hold_id=hold.pk, user=None, reason="that warehouse is closed")
    settle(alder)
    push(south, store)

    assert shown(store, south, lost) == [0] * 30
    hold.refresh_from_db()
    assert hold.state == HoldState.CONFIRMED
    assert AuditEvent.objects.filter(action="push_hold.confirm", reason="that warehouse is closed").exists()
    assert not list(violations(when_quiet=False))


def test_what_is_sold_passes_a_hold_at_once(alder: Trade, south: Shop) -> None:
    lost, store, north = CODES[:30], FakeChannel.of(south), alder.shops["north"]
    lose_mapping(alder, south, lost)
    settle(alder)
    deliver(north, "orders/create", order_body(north, 1, (lost[0], 3), (CODES[50], 2)))
    apply(alder)
    settle(alder)

    push(south, store)

    assert shown(store, south, [lost[0], lost[1], CODES[50]]) == [7, 10, 8]
    assert PushHold.objects.get().state == HoldState.HELD

    # Sold out: nothing is left to be held.
    deliver(north, "orders/create", order_body(north, 2, (lost[0], 7), at=20))
    apply(alder)
    settle(alder)
    push(south, store)

    assert shown(store, south, [lost[0]]) == [0]
    assert HeldLevel.objects.get(listing_level=south.level(lost[0])).state == HeldState.RELEASED


def test_a_sale_of_the_held_store_itself_is_not_taken_off_twice(alder: Trade, south: Shop) -> None:
    lost, store = CODES[:30], FakeChannel.of(south)
    lose_mapping(alder, south, lost)
    settle(alder)
    store.sell(south, lost[0], 4)
    deliver(south, "orders/create", order_body(south, 1, (lost[0], 4)))
    apply(alder)
    settle(alder)

    push(south, store)

    assert shown(store, south, [lost[0]]) == [6]
    assert store.writes == []


def test_what_was_put_right_is_let_go_by_itself(alder: Trade, south: Shop) -> None:
    lost, store = CODES[:30], FakeChannel.of(south)
    lose_mapping(alder, south, lost)
    settle(alder)
    annex = StockLevel.objects.filter(sku=alder.skus[lost[0]]).exclude(warehouse=alder.warehouse).get().warehouse
    Mapping.objects.create(
        merchant=alder.merchant, group=alder.group, store_location=south.location, warehouse=annex, priority=2
    )
    matrix.announce(alder.merchant.pk, NOON)

    settle(alder)
    push(south, store)

    assert PushHold.objects.get().state == HoldState.CANCELLED
    assert set(HeldLevel.objects.values_list("state", flat=True)) == {HeldState.RELEASED}
    assert store.writes == []


def test_looking_again_holds_again_what_was_not_mended(alder: Trade, south: Shop) -> None:
    lose_mapping(alder, south, CODES[:30])
    settle(alder)
    bigruns.look_again(hold_id=PushHold.objects.get().pk, user=None, reason="mended, I think")

    settle(alder)

    assert list(PushHold.objects.order_by("pk").values_list("state", flat=True)) == ["cancelled", "held"]
    assert south.level(CODES[0]).desired == 10


def test_a_decision_is_made_once(alder: Trade, south: Shop) -> None:
    lose_mapping(alder, south, CODES[:30])
    settle(alder)
    hold = PushHold.objects.get()
    bigruns.confirm(hold_id=hold.pk, user=None, reason="yes")

    with pytest.raises(bigruns.AlreadyDecided):
        bigruns.look_again(hold_id=hold.pk, user=None, reason="no")

    assert PushHold.objects.get().state == HoldState.CONFIRMED


def test_a_catalogue_that_sells_out_is_not_held(alder: Trade, south: Shop) -> None:
    north, store = alder.shops["north"], FakeChannel.of(south)
    for number, code in enumerate(CODES[:40]):
        deliver(north, "orders/create", order_body(north, number + 1, (code, 10)))
    apply(alder)
    settle(alder)

    push(south, store)

    assert shown(store, south, CODES[:40]) == [0] * 40
    assert not PushHold.objects.exists()
    assert not HeldLevel.objects.exists()


def test_few_changes_by_hand_go_at_once_and_many_small_batches_do_not_slip_through(alder: Trade, south: Shop) -> None:
    store = FakeChannel.of(south)
    for code in CODES[:40]:
        # One by one, each published and pushed before the next: no batch is ever big.
        adjust(alder, code, -10)
        settle(alder)
        push(south, store)

    assert shown(store, south, CODES[:40]).count(0) == 20
    assert {hold.channel for hold in PushHold.objects.filter(state="held")} == {
        shop.channel for shop in alder.shops.values()
    }
    hold = PushHold.objects.get(channel=south.channel)
    assert hold.levels.count() == 20
    assert {row["cause"] for row in bigruns.preview(hold, limit=100)} == {"Manual adjustment"}


def test_a_run_below_the_share_goes_through_as_a_whole(alder: Trade, south: Shop) -> None:
    Channel.objects.update(big_run_zero_percent=50, big_run_levels=5)
    store = FakeChannel.of(south)
    for code in CODES[:30]:
        adjust(alder, code, -10)
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    assert HeldLevel.objects.filter(state=HeldState.WATCHED).count() == 60

    settle(alder)
    push(south, store)

    assert shown(store, south, CODES[:30]) == [0] * 30
    assert not PushHold.objects.exists()


def test_a_run_is_not_judged_while_part_of_it_is_to_be_published(alder: Trade, south: Shop) -> None:
    Channel.objects.update(big_run_levels=5)
    for code in CODES[:10]:
        adjust(alder, code, -10)
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    for code in CODES[10:40]:
        adjust(alder, code, -10)

    assert bigruns.judge_all() == []
    assert set(HeldLevel.objects.values_list("state", flat=True)) == {HeldState.WATCHED}

    # A mark that nobody takes does not keep the run waiting for ever.
    sql.execute("UPDATE sync_heldlevel SET created_at = now() - interval '2 minutes'")
    assert bigruns.judge_all() != []


def test_a_channel_that_does_not_hold_is_told_everything(alder: Trade, south: Shop) -> None:
    Channel.objects.update(holds_big_runs=False)
    store = FakeChannel.of(south)
    for code in CODES[:60]:
        adjust(alder, code, -10)
    settle(alder)

    push(south, store)

    assert shown(store, south, CODES[:60]) == [0] * 60
    assert not HeldLevel.objects.exists()


def test_restocking_from_nothing_is_never_held(alder: Trade, south: Shop) -> None:
    store = FakeChannel.of(south)
    for code in CODES:
        store.levels[FakeChannel.where(south, code)] = 0
    ListingLevel.objects.filter(channel=south.channel).update(base=0, desired=0)
    for code in CODES:
        adjust(alder, code, 5)
    settle(alder)

    push(south, store)

    assert shown(store, south, CODES) == [15] * 100
    assert not PushHold.objects.filter(channel=south.channel).exists()
