"""Bodies of events: sealed, apart, and forgotten day by day, but not while somebody waits for them."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from pytest_django.fixtures import Settings

from channels import bodies, mapping
from channels.models import EventState, InboxEvent
from sync.apply import apply_batch
from synctec.lib import sql
from synctec.lib.crypto import Tampered, generate_key
from tests.engine import engine
from tests.factories import NOON, Shop, Trade, deliver, make_trade, order_body

pytestmark = pytest.mark.django_db

TODAY = bodies.day_of(NOON)
LATER = TODAY + timedelta(days=30)


@pytest.fixture
def alder() -> Trade:
    return make_trade(shops=("north", "south"))


@pytest.fixture
def north(alder: Trade) -> Shop:
    return alder.shops["north"]


def apply(trade: Trade) -> None:
    InboxEvent.objects.filter(state=EventState.PENDING).update(next_attempt_at=NOON)
    apply_batch(engine(), merchant_id=trade.merchant.pk)


def days() -> list[date]:
    return [day for (day,) in sql.rows("SELECT DISTINCT kept_on FROM channels_inboxbody ORDER BY 1")]


def partitions() -> set[str]:
    return {
        name for (name,) in sql.rows("SELECT relid::text FROM pg_partition_tree('channels_inboxbody') WHERE isleaf")
    }


def test_a_body_cannot_be_read_off_the_disk(north: Shop) -> None:
    event = deliver(north, "orders/create", b'{"email": "olive@example.com"}' * 50)

    [(sealed,)] = sql.rows("SELECT sealed FROM channels_inboxbody")

    assert b"olive" not in bytes(sealed)
    assert bodies.read(event) == b'{"email": "olive@example.com"}' * 50


def test_a_body_moved_to_another_channel_does_not_open(alder: Trade, north: Shop) -> None:
    event = deliver(north, "orders/create", b"{}")
    south = alder.shops["south"]
    InboxEvent.objects.filter(pk=event.pk).update(channel=south.channel)

    with pytest.raises(bodies.Unreadable, match="was changed or belongs elsewhere"):
        bodies.read(InboxEvent.objects.get())
    with pytest.raises(Tampered):
        bodies.unseal(bodies.sealed({event.pk: TODAY})[event.pk], channel_id=south.channel.pk)
    apply(alder)
    event = InboxEvent.objects.get()
    assert event.state == EventState.DEAD
    assert event.reason.startswith("unreadable: its body was tampered with")


def test_an_event_whose_key_was_taken_off_the_ring_waits_for_it(alder: Trade, north: Shop, settings: Settings) -> None:
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    ring = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = f"other:{generate_key()}"

    apply(alder)

    event = InboxEvent.objects.get()
    assert (event.state, event.attempts) == (EventState.PENDING, 0)
    assert "not on the ring" in event.reason
    settings.CREDENTIAL_KEYS = f"other:{generate_key()},{ring}"
    apply(alder)
    assert InboxEvent.objects.get().state == EventState.APPLIED
    assert alder.stock("MUG").committed == 2


def test_old_bodies_are_dropped_and_what_waits_is_carried_along(alder: Trade, north: Shop) -> None:
    bodies.make_room(TODAY)
    listing = north.listings["MUG"]
    deliver(north, "orders/create", order_body(north, 1, ("TEE", 1)))
    mapping.map_listing(listing=listing, sku=None, user=None)
    deliver(north, "orders/create", order_body(north, 2, ("MUG", 2)))
    deliver(north, "orders/create", b"no json")
    apply(alder)
    pending = deliver(north, "orders/create", order_body(north, 3, ("TEE", 1)))
    done, unmapped, dead, _ = InboxEvent.objects.order_by("pk")

    assert bodies.forget(before=TODAY, today=LATER) == 0
    assert bodies.forget(before=TODAY + timedelta(days=1), today=LATER) == 1

    assert days() == [LATER]
    with pytest.raises(bodies.Unreadable, match="not kept any more"):
        bodies.read(InboxEvent.objects.get(pk=done.pk))
    for event in (unmapped, dead, pending):
        assert bodies.read(InboxEvent.objects.get(pk=event.pk))
    mapping.map_listing(listing=listing, sku=alder.skus["MUG"], user=None)
    apply(alder)
    assert alder.stock("MUG").committed == 2


def test_what_was_kept_outside_of_its_days_is_forgotten_likewise(alder: Trade, north: Shop) -> None:
    """Nobody had made room when it came."""
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    apply(alder)
    waiting = deliver(north, "orders/create", order_body(north, 2, ("MUG", 1)))
    bodies.make_room(TODAY - timedelta(days=3))
    assert f"channels_inboxbody_{TODAY:%Y%m%d}" not in partitions()

    # The three days before it, for which there was room, were empty.
    assert bodies.forget(before=TODAY + timedelta(days=1), today=LATER) == 3 + 1

    assert days() == [LATER]
    assert bodies.read(InboxEvent.objects.get(pk=waiting.pk))


def test_room_is_made_once() -> None:
    assert bodies.make_room(LATER) == 8
    assert bodies.make_room(LATER) == 0
    assert bodies.make_room(LATER + timedelta(days=1)) == 1


def test_an_event_whose_body_is_gone_is_dead_and_says_so(alder: Trade, north: Shop) -> None:
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    sql.execute("DELETE FROM channels_inboxbody")

    apply(alder)

    event = InboxEvent.objects.get()
    assert event.state == EventState.DEAD
    assert event.reason == "unreadable: its body is not kept any more: reconciliation reads what became of the order"


def test_a_deleted_event_takes_its_body_along(alder: Trade, north: Shop) -> None:
    deliver(north, "orders/create", b"{}")
    kept = deliver(north, "orders/create", b"[]")

    InboxEvent.objects.exclude(pk=kept.pk).delete()

    assert sql.rows("SELECT event_id FROM channels_inboxbody") == [(kept.pk,)]
