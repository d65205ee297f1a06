"""A channel restored to what it showed before a moment."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from channels.models import Push
from locations.models import LocationGroup
from merchants.models import AuditEvent
from sync import bigruns, rewind
from sync.models import HoldState, PushHold
from tests.factories import Shop, Trade, deliver, make_trade, order_body
from tests.fakes import FakeChannel
from tests.sync.test_apply import apply
from tests.sync.test_bigruns import adjust, push, settle

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade(stock_of={"MUG": 10, "TEE": 5, "CAP": 20})


@pytest.fixture
def south(alder: Trade) -> Shop:
    return alder.shops["south"]


@pytest.fixture
def store(south: Shop) -> FakeChannel:
    return FakeChannel.of(south)


def spoil(trade: Trade, shop: Shop, store: FakeChannel) -> datetime:
    """A bad import takes two SKUs away and is pushed; returns the moment before."""
    before = timezone.now() - timedelta(minutes=1)
    adjust(trade, "MUG", -10)
    adjust(trade, "TEE", -4)
    settle(trade)
    push(shop, store)
    assert numbers(shop, store) == {"MUG": 0, "TEE": 1, "CAP": 20}
    return before


def numbers(shop: Shop, store: FakeChannel) -> dict[str, int]:
    return {code: store.levels[FakeChannel.where(shop, code)] for code in shop.listings}


def restore(shop: Shop, before: datetime) -> PushHold:
    return rewind.restore(
        channel=shop.channel, before=before, user=None, reason="the import was wrong", now=timezone.now()
    )


def test_a_channel_shows_again_what_it_did_until_it_is_let_go(alder: Trade, south: Shop, store: FakeChannel) -> None:
    before = spoil(alder, south, store)
    former = rewind.preview(channel=south.channel, before=before)
    assert [(level.code, level.shown, level.then, level.pushed, level.restored) for level in former] == [
        ("MUG", 0, 10, -10, 10),
        ("TEE", 1, 5, -4, 5),
    ]

    hold = restore(south, before)
    settle(alder)
    push(south, store)

    assert numbers(south, store) == {"MUG": 10, "TEE": 5, "CAP": 20}
    assert AuditEvent.objects.filter(action="channel.restore", reason="the import was wrong").exists()
    # Nothing that is computed meanwhile takes it away.
    adjust(alder, "MUG", 1)
    settle(alder)
    push(south, store)
    assert numbers(south, store)["MUG"] == 10

    bigruns.confirm(hold_id=hold.pk, user=None, reason="the stock was put right")
    settle(alder)
    push(south, store)
    assert numbers(south, store) == {"MUG": 1, "TEE": 1, "CAP": 20}


def test_what_was_sold_since_is_not_restored_nor_kept(alder: Trade, south: Shop, store: FakeChannel) -> None:
    north = alder.shops["north"]
    before = spoil(alder, south, store)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))
    apply(alder)
    Push.objects.update(created_at=F("created_at") - timedelta(seconds=1))
    assert rewind.preview(channel=south.channel, before=before)[0].restored == 7

    rewind.restore(channel=south.channel, before=before, user=None, reason="wrong", now=timezone.now())
    settle(alder)
    push(south, store)
    assert numbers(south, store)["MUG"] == 7

    deliver(north, "orders/create", order_body(north, 2, ("MUG", 2), at=20))
    apply(alder)
    settle(alder)
    push(south, store)
    assert numbers(south, store)["MUG"] == 5


def test_where_units_are_divided_no_more_is_shown_than_there_is(alder: Trade, south: Shop, store: FakeChannel) -> None:
    before = spoil(alder, south, store)
    LocationGroup.objects.update(policy="split")

    restore(south, before)
    settle(alder)
    push(south, store)

    assert numbers(south, store)["MUG"] == 0
    assert numbers(south, store)["TEE"] <= 1


def test_a_restore_says_why_it_cannot_be(alder: Trade, south: Shop, store: FakeChannel) -> None:
    before = spoil(alder, south, store)
    now = timezone.now()

    with pytest.raises(rewind.CannotRestore, match="moment in the past"):
        rewind.restore(channel=south.channel, before=now, user=None, reason="x", now=now)
    with pytest.raises(rewind.CannotRestore, match="reason"):
        rewind.restore(channel=south.channel, before=before, user=None, reason=" ", now=now)
    with pytest.raises(rewind.CannotRestore, match="Nothing that was written"):
        rewind.restore(channel=alder.shops["north"].channel, before=before, user=None, reason="x", now=now)
    restore(south, before)
    with pytest.raises(rewind.CannotRestore, match="restored already"):
        restore(south, before)

    assert PushHold.objects.filter(state=HoldState.HELD).count() == 1
