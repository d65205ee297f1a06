"""What guarded stores show follows what becomes of the others: outages, pauses, and how fast news travels."""

from __future__ import annotations

import pytest

from channels import connect, credentials, steering
from channels.models import Channel, ChannelState, ListingLevel
from channels.protocol import NotAuthorized, Unavailable
from inventory import stock
from locations.models import LocationGroup
from sync import outage, sweep
from sync.apply import apply_batch
from sync.models import DirtySku
from sync.publish import publish_batch
from sync.reconcile import poll_orders
from synctec.lib.secret import Secret
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    """Two shops that show all ten mugs, in a group that guards them; whatever they sell is told within two seconds."""
    trade = make_trade(policy="guard")
    Channel.objects.update(inbound_seconds=1, inbound_observed_at=NOON, outbound_seconds=1, outbound_observed_at=NOON)
    DirtySku.objects.all().delete()
    return trade


def publish(trade: Trade) -> None:
    publish_batch(engine(), merchant_id=trade.merchant.pk)


def marked(trade: Trade) -> set[str]:
    """The SKUs that are to be published."""
    skus = set(DirtySku.objects.values_list("sku__code", flat=True))
    DirtySku.objects.all().delete()
    return skus


def window(trade: Trade) -> float:
    """The seconds that news is taken to travel in the group."""
    return engine().books.load_groups([trade.group.pk])[trade.group.pk].window_seconds


def desired(shop: Shop) -> int | None:
    return shop.level("MUG").desired


def test_while_a_shop_is_paused_the_others_do_without_what_it_may_sell(alder: Trade) -> None:
    north, south = alder.shops.values()

    steering.pause(channel=north.channel, user=None)
    publish(alder)
    assert (desired(north), desired(south)) == (10, 8)

    steering.resume(channel=north.channel, user=None, now=later(60))
    publish(alder)
    assert desired(south) == 10


def test_a_channel_that_refuses_our_credentials_is_out_of_reach_at_once(alder: Trade) -> None:
    north, south = alder.shops.values()

    outage.note_failure(engine(), ref(north.channel), NotAuthorized("token revoked"))
    publish(alder)

    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.NEEDS_AUTH
    assert desired(south) == 8


def test_a_removed_app_is_out_of_reach_at_once(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    north, south = alder.shops.values()
    store = FakeChannel.of(north)
    store.is_installed = False
    monkeypatch.setattr(connect, "connector_for", lambda channel: store)
    credentials.store(north.channel, client_id="app", access_token=Secret("shpat_old"))
    deliver(north, "app/uninstalled", {"id": 1})

    apply_batch(engine(), merchant_id=alder.merchant.pk)
    publish(alder)

    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.UNINSTALLED
    assert desired(south) == 8


def test_what_a_channel_out_of_reach_may_sell_stays_its_own_however_short_it_has_been_so(alder: Trade) -> None:
    north, south = alder.shops.values()
    south.channel.refresh_from_db()
    outage.note_failure(engine(), ref(north.channel), NotAuthorized("token revoked"))

    targets = engine().books.load_targets([alder.skus["MUG"].pk])

    north.channel.refresh_from_db()
    since = {target.channel_id: target.failing_since for target in targets}
    assert since == {north.channel.pk: north.channel.created_at, south.channel.pk: None}


@pytest.mark.parametrize("state", [ChannelState.PAUSED, ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED])
def test_nobody_waits_for_news_of_a_channel_that_is_not_written_to(alder: Trade, state: ChannelState) -> None:
    north = alder.shops["north"].channel
    Channel.objects.filter(pk=north.pk).update(inbound_seconds=300, outbound_seconds=200)
    assert window(alder) == 500

    Channel.objects.filter(pk=north.pk).update(state=state)

    assert window(alder) == 2


def test_a_channel_whose_news_becomes_slow_has_the_whole_group_published(alder: Trade) -> None:
    books, north = engine().books, alder.shops["north"]
    north.listings["TEE"].delete()

    books.note_inbound_lag({north.channel.pk: 9.0}, later(1))

    assert window(alder) == 10
    assert marked(alder) == {"MUG", "TEE"}


@pytest.mark.parametrize("seconds", [0.5, 1.8])
def test_news_that_is_hardly_slower_has_nothing_published(alder: Trade, seconds: float) -> None:
    engine().books.note_inbound_lag({alder.shops["north"].channel.pk: seconds}, later(60))

    assert marked(alder) == set()


def test_a_channel_that_is_not_the_slowest_has_nothing_published(alder: Trade) -> None:
    north, south = alder.shops.values()
    Channel.objects.filter(pk=south.channel.pk).update(inbound_seconds=100)

    engine().books.note_inbound_lag({north.channel.pk: 50.0}, later(1))

    assert marked(alder) == set()


@pytest.mark.parametrize("fields", [{"policy": "split"}, {"policy": "shared"}, {"guard_units": 5}])
def test_slow_news_has_nothing_published_where_no_threshold_follows_it(alder: Trade, fields: dict[str, object]) -> None:
    LocationGroup.objects.filter(pk=alder.group.pk).update(**fields)

    engine().books.note_inbound_lag({alder.shops["north"].channel.pk: 300.0}, later(1))

    assert marked(alder) == set()


def test_a_channel_that_is_resumed_after_failures_is_asked_no_more_than_others(alder: Trade) -> None:
    north = alder.shops["north"]
    for _ in range(2):
        outage.note_failure(engine(), ref(north.channel), Unavailable("down"))
    steering.pause(channel=north.channel, user=None)
    north.channel.refresh_from_db()
    steering.resume(channel=north.channel, user=None, now=later(-60))

    poll_orders(engine(later(1), {north.channel: FakeChannel.of(north)}), channel=ref(north.channel))

    assert sweep.sweep(now=later(2)).channels_to_poll == []


def test_what_is_bought_many_at_once_is_divided_while_one_such_order_could_oversell_it() -> None:
    alder = make_trade(policy="guard", stock_of={"MUG": 45})
    Channel.objects.update(inbound_seconds=1, inbound_observed_at=NOON, outbound_seconds=1, outbound_observed_at=NOON)
    north, south = alder.shops.values()
    for number, units in enumerate((20, 10), 1):
        deliver(north, "orders/create", order_body(north, number, ("MUG", units)))
    apply_batch(engine(later(10)), merchant_id=alder.merchant.pk)

    publish_batch(engine(later(7 * 86_400)), merchant_id=alder.merchant.pk)

    assert north.level("MUG").largest_sale == 20
    assert alder.stock("MUG").available == 15
    shown = [desired(shop) or 0 for shop in (north, south)]
    assert sum(shown) <= 15
    assert min(shown) > 0


def test_units_are_divided_by_what_each_shop_usually_sells() -> None:
    alder = make_trade(policy="split", stock_of={"MUG": 40})
    LocationGroup.objects.filter(pk=alder.group.pk).update(weighting="velocity")
    north, south = alder.shops.values()
    for number, (shop, units) in enumerate(((north, 17), (south, 2), (north, 12)), 1):
        deliver(shop, "orders/create", order_body(shop, number, ("MUG", units)))
        apply_batch(engine(later(number)), merchant_id=alder.merchant.pk)
    ListingLevel.objects.update(desired=0, pushed=0, order_effects=0, base=0)
    stock.adjust(
        merchant_id=alder.merchant.pk,
        sku_id=alder.skus["MUG"].pk,
        warehouse_id=alder.warehouse.pk,
        delta=24,
        reason="delivered",
        user=None,
        now=later(10),
    )

    publish(alder)

    assert alder.stock("MUG").available == 33
    # One unit of weight besides what it usually sells: 30 to 3.
    assert (desired(north), desired(south)) == (30, 3)
