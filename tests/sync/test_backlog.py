"""After a long outage: ten thousand events wait, and not one of them is lost, doubled or stuck."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter

import pytest
from django.db.models.functions import Now

from channels import bodies
from channels.models import Channel, InboxEvent, ListingLevel
from sync.apply import apply_batch
from sync.invariants import violations
from sync.publish import publish_batch
from sync.push import push_channel
from tests.channels.cast import all_at_once
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, make_trade, order_body, refund_body
from tests.fakes import FakeChannel

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

ORDERS, CANCELLED, DOUBLED = 8_000, 1_000, 1_000
OPENING = 12_000


def waiting(shop: Shop, topic: str, body: dict[str, object]) -> tuple[InboxEvent, bytes]:
    event = InboxEvent(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        topic=topic,
        webhook_id=str(uuid.uuid4()),
        body_kept_on=bodies.day_of(NOON),
        body_sha256=b"",
        hlc=0,
        received_at=NOON,
        correlation_id=uuid.uuid4(),
    )
    return event, json.dumps(body).encode()


def test_a_backlog_of_10_000_events_drains_and_nothing_is_lost() -> None:
    trade = make_trade(stock_of={"MUG": OPENING, "TEE": OPENING})
    stores = {name: FakeChannel.of(shop) for name, shop in trade.shops.items()}
    sold, events = what_happened(trade, stores, random.Random(1))
    bodies.keep(
        InboxEvent.objects.bulk_create([event for event, _ in events], batch_size=1_000), [body for _, body in events]
    )

    def drain() -> None:
        while apply_batch(engine(), merchant_id=trade.merchant.pk).claimed:
            """Until nobody finds any more."""

    all_at_once(2, drain)
    drain()

    assert len(events) == ORDERS + CANCELLED + DOUBLED
    states = Counter(InboxEvent.objects.values_list("state", flat=True))
    assert states.total() == len(events)
    assert set(states) == {"applied", "ignored"}
    assert all(reason.startswith("superseded") for reason in reasons("ignored"))
    assert {code: trade.stock(code).committed for code in sold} == sold
    assert list(violations(when_quiet=False)) == []

    show(trade, stores)

    for name, shop in trade.shops.items():
        for code, units in sold.items():
            assert stores[name].levels[FakeChannel.where(shop, code)] == OPENING - units
    assert [len(store.writes) for store in stores.values()] == [1, 1]


def what_happened(
    trade: Trade, stores: dict[str, FakeChannel], rng: random.Random
) -> tuple[dict[str, int], list[tuple[InboxEvent, bytes]]]:
    """Orders, some cancelled, in both stores: the units really sold, and what the stores told of it, in any order."""
    sold: dict[str, int] = dict.fromkeys(trade.skus, 0)
    events: list[tuple[InboxEvent, bytes]] = []
    for number in range(1, ORDERS + 1):
        name, code, units = rng.choice(list(stores)), rng.choice(list(sold)), rng.randint(1, 3)
        shop = trade.shops[name]
        placed = order_body(shop, number, (code, units))
        events.append(waiting(shop, "orders/create", placed))
        if number <= DOUBLED:
            events.append(waiting(shop, "orders/updated", placed))
        if number > ORDERS - CANCELLED:
            back = refund_body(number, 0, units, "cancel")
            gone = order_body(shop, number, (code, units), at=30, current=(0,), cancelled=True, refunds=(back,))
            events.append(waiting(shop, "orders/cancelled", gone))
        else:
            sold[code] += units
            stores[name].sell(shop, code, units)
    rng.shuffle(events)
    return sold, events


def reasons(state: str) -> list[str]:
    return list(InboxEvent.objects.filter(state=state).values_list("reason", flat=True))


def show(trade: Trade, stores: dict[str, FakeChannel]) -> None:
    """Publish, and push once to each store."""
    publish_batch(engine(), merchant_id=trade.merchant.pk)
    Channel.objects.update(next_call_at=Now())
    ListingLevel.objects.update(next_push_at=Now())
    for name, shop in trade.shops.items():
        push_channel(engine(stores={shop.channel: stores[name]}), channel=ref(shop.channel))
