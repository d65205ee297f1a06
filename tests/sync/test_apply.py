"""From inbox rows to ledger, through the real database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, transaction
from django.db.models.functions import Now
from redis import Redis

from channels import connect, credentials, mapping
from channels.models import (
    Channel,
    ChannelState,
    Credential,
    EventState,
    InboxEvent,
    Listing,
    ListingLevel,
    StoreLocation,
)
from channels.protocol import Connector, Paced, PolledOrder, Refused, Unavailable
from inventory.models import BomLine, Movement, Shortage, Sku, SkuKind
from locations import matrix
from locations.models import GroupLocation
from locations.models import Mapping as Draws
from locations.pace import Propagation
from sync import apply as applying
from sync import catalogue, live, sweep
from sync.apply import Applied, apply_batch
from sync.decide import Envelope, Verdict
from sync.invariants import violations
from sync.models import DirtySku, OrderLine
from sync.publish import publish_batch
from sync.tables import Tables
from synctec.lib import sql
from synctec.lib.redlock import Redlock
from synctec.lib.secret import Secret
from tests.engine import engine
from tests.factories import (
    NOON,
    Shop,
    Trade,
    deliver,
    later,
    level_body,
    make_trade,
    order_body,
    polled_body,
    refund_body,
)
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def apply(trade: Trade, stores: Mapping[Channel, Connector] | None = None) -> Applied:
    total = Applied()
    while (done := apply_batch(engine(NOON, stores), merchant_id=trade.merchant.pk)).claimed:
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


@pytest.mark.parametrize(
    ("shown", "desired", "sold", "put_back", "expected"),
    [
        (2, 0, 3, 1, 0),  # it shows one less than nothing, then nothing: no unit of the pool was given to it
        (2, 0, 3, 3, 2),
        (5, 5, 2, 2, 5),
        (5, 7, 6, 1, 1),  # one of the two that it was to get besides is sold
    ],
)
def test_what_comes_back_to_a_store_is_offered_there_as_far_as_it_shows_it(
    alder: Trade, shown: int, desired: int, sold: int, put_back: int, expected: int
) -> None:
    north = alder.shops["north"]
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(base=shown, desired=desired)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", sold)))
    apply(alder)
    refund = refund_body(1, 0, put_back, "cancel")
    left = order_body(north, 1, ("MUG", sold), at=40, current=(sold - put_back,), refunds=(refund,))

    deliver(north, "orders/updated", left)
    apply(alder)

    level = north.level("MUG")
    assert (level.reported, level.desired) == (shown - sold + put_back, expected)


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

    mapping.map_listing(listing=listing, sku=alder.skus["MUG"], user=None)
    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "")
    assert alder.stock("MUG").committed == 2


def unmapped_level_body(shop: Shop, item: int) -> dict[str, object]:
    return {**level_body(shop, "MUG", 1), "inventory_item_id": item}


def order_with_a_tip(shop: Shop, order_id: int, *lines: tuple[str, int]) -> dict[str, object]:
    """Its last line is no variant of the store's."""
    body = order_body(shop, order_id, *lines, ("TIP", 1))
    items: Any = body["line_items"]
    items[-1]["variant_id"] = None
    return body


def test_a_mapping_takes_up_what_waited_for_it_and_not_all_that_was_ever_unmapped(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    for shop, code in ((north, "MUG"), (south, "MUG"), (north, "TEE")):
        mapping.map_listing(listing=shop.listings[code], sku=None, user=None)
    waiting = [
        deliver(north, "orders/create", order_body(north, 1, ("MUG", 2))),
        deliver(north, "orders/updated", order_body(north, 1, ("MUG", 1), at=20)),
        deliver(north, "orders/create", order_with_a_tip(north, 2, ("MUG", 1))),
        deliver(north, "orders/create", order_body(north, 3, ("TEE", 1), ("MUG", 1))),
    ]
    others = [
        deliver(north, "inventory_levels/update", level_body(north, "MUG", 8)),
        deliver(north, "inventory_levels/update", unmapped_level_body(north, 555)),
        deliver(north, "orders/create", order_body(north, 4, ("TEE", 1))),
        deliver(north, "orders/create", order_body(north, 5, ("OTHER", 1))),
        deliver(north, "orders/create", order_with_a_tip(north, 6)),
        deliver(south, "orders/create", order_body(south, 7, ("MUG", 1))),
        deliver(south, "orders/create", order_with_a_tip(south, 8, ("TEE", 1))),
    ]
    apply(alder)
    assert alder.stock("MUG").committed == 0

    mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)

    taken_up = InboxEvent.objects.filter(state=EventState.PENDING).order_by("pk")
    assert [event.pk for event in taken_up] == [event.pk for event in waiting]
    apply(alder)
    assert alder.stock("MUG").committed == 3
    assert all(reason.startswith("unmapped ") for _, reason in map(outcome, others))


def test_a_listing_that_is_mapped_is_read_since_what_webhooks_told_of_its_level_was_set_aside(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 4))
    apply(alder)
    assert north.level("MUG").suspect_since is None

    mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)

    assert (north.level("MUG").suspect_reason, north.level("TEE").suspect_reason) == ("mapped", "")
    assert south.level("MUG").suspect_since is None


def test_a_location_that_is_mapped_takes_up_its_orders_and_has_its_levels_read(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    cells = matrix.matrix_of(alder.group)
    of_south = {cell: priority for cell, priority in cells.items() if cell[0] == south.location.pk}
    matrix.set_matrix(group=alder.group, cells=of_south, user=None, now=NOON)
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    sale = deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    level = deliver(north, "inventory_levels/update", level_body(north, "MUG", 8))
    tip = deliver(south, "orders/create", order_with_a_tip(south, 2))
    apply(alder)
    assert outcome(sale) == (EventState.IGNORED, "unmapped location of the sale")
    assert outcome(level) == (EventState.IGNORED, f"unmapped location {north.location.remote_id}")

    matrix.set_matrix(group=alder.group, cells=cells, user=None, now=NOON)

    assert [outcome(event)[0] for event in (sale, level, tip)] == ["pending", "ignored", "ignored"]
    assert (north.level("MUG").suspect_reason, south.level("MUG").suspect_reason) == ("mapped", "")
    apply(alder)
    assert alder.stock("MUG").committed == 2


def _of_a_variant_that_is_gone(body: dict[str, object], code: str = "MUG") -> dict[str, object]:
    items: Any = body["line_items"]
    items[0] |= {"variant_id": None, "sku": code}
    return body


@pytest.mark.parametrize("code", ["MUG", "BLUE-MUG"])
def test_a_sale_of_a_variant_that_was_deleted_before_we_heard_of_it_is_booked_by_its_sku(
    alder: Trade, code: str
) -> None:
    north = alder.shops["north"]
    Listing.objects.filter(pk=north.listings["MUG"].pk).update(deleted_at=NOON, remote_sku="BLUE-MUG")
    event = deliver(north, "orders/create", _of_a_variant_that_is_gone(order_body(north, 1, ("MUG", 2)), code))

    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "")
    assert alder.stock("MUG").committed == 2
    assert OrderLine.objects.get().listing == north.listings["MUG"]
    assert list(violations(when_quiet=False)) == []


def test_a_sku_that_nobody_knows_waits_for_a_listing_of_that_name(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", _of_a_variant_that_is_gone(order_body(north, 1, ("MUG", 2)), "OLD"))
    apply(alder)
    assert outcome(event) == (EventState.IGNORED, "unmapped SKU OLD")
    Listing.objects.filter(pk=north.listings["MUG"].pk).update(remote_sku="OLD", sku=None)

    mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)
    apply(alder)

    assert outcome(event)[0] == EventState.APPLIED
    assert alder.stock("MUG").committed == 2


def test_a_custom_item_is_ignored_and_waits_for_nothing(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", _of_a_variant_that_is_gone(order_body(north, 1, ("MUG", 2)), ""))

    apply(alder)

    state, reason = outcome(event)
    assert state == EventState.IGNORED
    assert reason.startswith("custom item")
    assert not OrderLine.objects.exclude(waiting_for="").exists()


def test_an_order_that_its_store_was_at_work_on_for_a_moment_tells_how_long_news_takes(alder: Trade) -> None:
    north = alder.shops["north"]
    told_late = order_body(north, 1, ("MUG", 1), at=8)  # placed at 5
    touched_later = order_body(north, 2, ("MUG", 1), at=60)
    for body in (told_late, touched_later):
        event = deliver(north, "orders/updated", body)
        InboxEvent.objects.filter(pk=event.pk).update(received_at=later(70 if body is touched_later else 10))

    apply_batch(engine(later(80)), merchant_id=alder.merchant.pk)

    channel = Channel.objects.get(pk=north.channel.pk)
    assert channel.inbound_observed_at == later(80)
    assert channel.inbound_seconds == Propagation().observed(2.0, later(80)).seconds


def test_a_mapping_reads_what_waits_for_it_and_not_all_that_was_ever_set_aside(alder: Trade) -> None:
    north = alder.shops["north"]
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    deliver(north, "orders/create", order_with_a_tip(north, 2))
    deliver(north, "inventory_levels/update", unmapped_level_body(north, 555))
    apply(alder)
    sql.execute(
        """
        INSERT INTO channels_inboxevent (merchant_id, channel_id, topic, webhook_id, body_kept_on, body_sha256, hlc,
            received_at, correlation_id, state, reason, settled_at)
        SELECT merchant_id, channel_id, topic, n::text, body_kept_on, body_sha256, hlc, received_at,
            gen_random_uuid(), state, reason, settled_at
        FROM channels_inboxevent, generate_series(1, 2000) n WHERE topic = 'inventory_levels/update' OR reason LIKE '%%TIP'
        """
    )
    sql.execute(
        """
        INSERT INTO sync_orderline (merchant_id, channel_id, order_id, line_id, order_name, remote_variant_id, facts,
            desired_committed, desired_on_hand, waiting_for, latest_event_id, correlation_id)
        SELECT merchant_id, channel_id, 'old ' || n, line_id, order_name, remote_variant_id, facts, desired_committed,
            desired_on_hand, waiting_for, latest_event_id, correlation_id
        FROM sync_orderline, generate_series(1, 2000) n WHERE waiting_for LIKE '%%TIP'
        """
    )
    sql.execute("ANALYZE channels_inboxevent, sync_orderline")
    rows_read = """
        SELECT sum(seq_tup_read + idx_tup_fetch)::int FROM pg_stat_xact_user_tables
        WHERE relname IN ('channels_inboxevent', 'sync_orderline')
    """

    with transaction.atomic():
        [(before,)] = sql.rows(rows_read)
        mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)
        [(after,)] = sql.rows(rows_read)

    assert InboxEvent.objects.filter(state=EventState.PENDING).count() == 1
    assert after - before < 20


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


def test_an_older_echo_after_a_newer_difference_in_one_batch_clears_nothing(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 4, at=30))  # somebody took 6 away
    late = deliver(north, "inventory_levels/update", level_body(north, "MUG", 10, at=20))

    apply(alder)

    assert outcome(late) == (EventState.IGNORED, "superseded: newer than this is known")
    assert north.level("MUG").suspect_since is not None


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_an_echo_of_the_same_second_clears_nothing(alder: Trade, in_one_batch: bool) -> None:
    north = alder.shops["north"]
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 4, at=30))
    if not in_one_batch:
        apply(alder)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 10, at=30))  # earlier within that second

    apply(alder)

    level = north.level("MUG")
    assert (level.suspect_since is not None, level.suspect_available) == (True, 4)


@pytest.mark.parametrize("in_one_batch", [True, False])
def test_an_echo_of_a_later_second_clears_the_suspicion(alder: Trade, in_one_batch: bool) -> None:
    north = alder.shops["north"]
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 4, at=30))
    if not in_one_batch:
        apply(alder)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 10, at=31))

    apply(alder)

    assert north.level("MUG").suspect_since is None


def test_a_number_told_of_a_level_that_was_not_stocked_is_read(alder: Trade) -> None:
    north = alder.shops["north"]
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(is_stocked=False)
    event = deliver(north, "inventory_levels/update", level_body(north, "MUG", 10, at=30))

    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "to be read")
    assert north.level("MUG").suspect_since is not None


@pytest.fixture
def store(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> FakeChannel:
    """What stands behind the shop North's connector, with a token to it."""
    north = alder.shops["north"]
    credentials.store(north.channel, client_id="app", access_token=Secret("shpat_new"))
    store = FakeChannel.of(north)
    monkeypatch.setattr(connect, "connector_for", lambda channel: store)
    return store


def test_an_uninstalled_app_stops_the_channel_once_its_token_is_refused(alder: Trade, store: FakeChannel) -> None:
    north = alder.shops["north"]
    store.is_installed = False
    event = deliver(north, "app/uninstalled", {"id": 1})

    apply(alder)

    assert outcome(event)[0] == EventState.APPLIED
    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.UNINSTALLED
    assert not Credential.objects.get(channel=north.channel).sealed_access_token


def test_a_late_uninstall_does_not_wipe_what_was_installed_since(alder: Trade, store: FakeChannel) -> None:
    north = alder.shops["north"]
    event = deliver(north, "app/uninstalled", {"id": 1})  # repeated by Shopify, for up to four hours

    apply(alder)

    state, reason = outcome(event)
    assert (state, reason.split(":")[0]) == (EventState.IGNORED, "superseded")
    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.ACTIVE
    assert Credential.objects.get(channel=north.channel).sealed_access_token


def test_an_uninstall_waits_while_the_store_does_not_say_whether_it_is_so(
    alder: Trade, store: FakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]

    def silent() -> frozenset[str]:
        raise Unavailable("timed out")

    monkeypatch.setattr(store, "read_scopes", silent)
    event = deliver(north, "app/uninstalled", {"id": 1})

    apply(alder)

    assert outcome(event) == (EventState.PENDING, "waits for the channel: timed out")
    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.ACTIVE


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


def test_an_event_that_kills_its_workers_is_tried_alone_and_dead_in_the_end(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]
    suspect = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    poison = deliver(north, "orders/create", order_body(north, 2, ("MUG", 1)))
    sale = deliver(north, "orders/create", order_body(north, 3, ("MUG", 1)))
    InboxEvent.objects.filter(pk=suspect.pk).update(attempts=applying.CLAIMS_MAX)
    InboxEvent.objects.filter(pk=poison.pk).update(attempts=applying.POISON_CLAIMS)
    batches: list[int] = []
    together = applying._apply_together

    def counted(*told: Any) -> None:
        batches.append(len(told[2]))
        together(*told)

    monkeypatch.setattr(applying, "_apply_together", counted)

    apply(alder)

    assert outcome(poison) == (EventState.DEAD, f"poison: {applying.POISON_CLAIMS} workers died over it")
    assert (outcome(suspect)[0], outcome(sale)[0], batches) == (EventState.APPLIED, EventState.APPLIED, [1, 1])


def test_an_event_that_may_kill_its_workers_is_left_alone_for_longer_each_time(alder: Trade) -> None:
    north = alder.shops["north"]
    claims = [
        0,
        applying.SUSPECT_CLAIMS - 1,
        applying.SUSPECT_CLAIMS,
        applying.SUSPECT_CLAIMS + 1,
        applying.POISON_CLAIMS,
    ]
    for order, attempts in enumerate(claims, 1):
        event = deliver(north, "orders/create", order_body(north, order, ("MUG", 1)))
        InboxEvent.objects.filter(pk=event.pk).update(attempts=attempts)

    with transaction.atomic():
        [(now,)] = sql.rows("SELECT now()")
        claimed = engine().books.claim_events(alder.merchant.pk, 10, applying.LEASES)

    assert [(event.leased_until - now).total_seconds() for event in claimed] == [8, 8, 16, 32, 256]


def test_sales_survive_two_minutes_of_a_database_that_cannot_write(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]
    events = [deliver(north, "orders/create", order_body(north, order, ("MUG", 1))) for order in range(1, 4)]

    def full(*_: object) -> None:
        raise OperationalError("could not extend file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "post", full)
        for _ in range(15):  # as leases run out, every 8 s
            InboxEvent.objects.filter(state="pending").update(next_attempt_at=Now())
            with pytest.raises(OperationalError):
                apply_batch(engine(), merchant_id=alder.merchant.pk)
        assert set(InboxEvent.objects.values_list("state", "attempts")) == {("pending", 0)}
    InboxEvent.objects.filter(state="pending").update(next_attempt_at=Now())

    apply(alder)

    assert [outcome(event) for event in events] == [("applied", "")] * 3
    assert alder.stock("MUG").available == 7


def test_an_event_that_the_database_cannot_apply_holds_up_no_other(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]
    events = [deliver(north, "orders/create", order_body(north, order, ("MUG", 1))) for order in range(1, 8)]
    write_lines = Tables.write_lines

    def cancelled(self: Tables, merchant: int, lines: Any, now: datetime) -> None:
        if any(line.key[1] == "4" for line in lines):
            raise OperationalError("canceling statement due to statement timeout")
        write_lines(self, merchant, lines, now)

    monkeypatch.setattr(Tables, "write_lines", cancelled)
    minutes = timedelta(minutes=5)

    with pytest.raises(OperationalError):
        apply_batch(engine(NOON + minutes), merchant_id=alder.merchant.pk)
    InboxEvent.objects.filter(next_attempt_at__lt=Now() + timedelta(seconds=30)).update(next_attempt_at=Now())
    apply_batch(engine(NOON + minutes), merchant_id=alder.merchant.pk)

    states = [outcome(event)[0] for event in events]
    assert states == ["applied"] * 3 + ["pending"] + ["applied"] * 3
    assert outcome(events[3])[1] == "OperationalError: canceling statement due to statement timeout"
    assert InboxEvent.objects.get(pk=events[3].pk).attempts == 0


def test_a_product_that_the_database_cannot_take_holds_up_no_other(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]
    sick, sound = (deliver(north, "products/update", {"id": number}) for number in (1, 2))

    def apply_product(events: object, envelope: Envelope, now: datetime) -> Verdict:
        if envelope.event_id == sick.pk:
            raise OperationalError("canceling statement due to statement timeout")
        return Verdict(EventState.APPLIED)

    monkeypatch.setattr(catalogue, "read_untold", lambda events, channel_id: events)
    monkeypatch.setattr(catalogue, "apply", apply_product)
    much_later = engine(NOON + timedelta(minutes=5))

    with pytest.raises(OperationalError):
        apply_batch(much_later, merchant_id=alder.merchant.pk)
    InboxEvent.objects.filter(next_attempt_at__lt=Now() + timedelta(seconds=30)).update(next_attempt_at=Now())
    apply_batch(much_later, merchant_id=alder.merchant.pk)

    assert (outcome(sick)[0], outcome(sound)[0]) == (EventState.PENDING, EventState.APPLIED)


def test_only_claims_that_nothing_became_of_are_given_back(alder: Trade) -> None:
    north = alder.shops["north"]
    ours, failed, taken_over = (
        deliver(north, "orders/create", order_body(north, order, ("MUG", 1))) for order in range(1, 4)
    )
    books = engine().books
    claims = books.claim_events(alder.merchant.pk, 10, applying.LEASES)
    books.retry_event(failed.pk, timedelta(seconds=1), "failed")
    InboxEvent.objects.filter(pk=taken_over.pk).update(next_attempt_at=Now())
    assert len(books.claim_events(alder.merchant.pk, 10, applying.LEASES)) == 1

    books.give_back_events(claims, timedelta(), "")

    attempts = dict(InboxEvent.objects.values_list("id", "attempts"))
    assert attempts == {ours.pk: 0, failed.pk: 1, taken_over.pk: 2}
    assert [claim.envelope.event_id for claim in books.claim_events(alder.merchant.pk, 10, applying.LEASES)] == [
        ours.pk
    ]


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
        apply_batch(engine(), merchant_id=alder.merchant.pk)
        return len(statements)

    few, many = needed(2, 100), needed(40, 200)

    # One more at most, to read the shortages that the second batch adds to.
    assert 10 < few <= many <= few + 1


def test_a_refund_of_a_waiting_line_does_not_keep_it_waiting_once_it_is_mapped(alder: Trade) -> None:
    north = alder.shops["north"]
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3), ("TEE", 1)))
    apply(alder)
    deliver(north, "refunds/create", refund_body(1, 0, 1, "cancel"))
    apply(alder)
    assert alder.stock("MUG").committed == 0

    mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)
    apply(alder)

    assert alder.stock("MUG").committed == 2
    assert not OrderLine.objects.exclude(waiting_for="").exists()


def test_an_order_that_was_set_aside_while_its_listing_was_mapped_is_taken_up_by_the_sweep(alder: Trade) -> None:
    north = alder.shops["north"]
    Listing.objects.filter(pk=north.listings["MUG"].pk).update(sku=None)
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    apply(alder)
    sweep.take_up_placeable_lines()
    assert outcome(event)[0] == EventState.IGNORED

    # As if the mapping had been committed a moment before: what it took up was not set aside yet.
    Listing.objects.filter(pk=north.listings["MUG"].pk).update(sku=alder.skus["MUG"])
    sweep.take_up_placeable_lines()
    found = sweep.sweep(now=NOON)
    apply(alder)

    assert found.merchants_to_apply == [alder.merchant.pk]
    assert outcome(event) == (EventState.APPLIED, "")
    assert alder.stock("MUG").committed == 2
    assert sweep.take_up_placeable_lines() == 0


def test_an_order_that_waits_for_a_location_is_taken_up_by_the_sweep(alder: Trade) -> None:
    north = alder.shops["north"]
    Draws.objects.filter(store_location=north.location).delete()
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    apply(alder)
    sweep.take_up_placeable_lines()
    assert outcome(event) == (EventState.IGNORED, "unmapped location of the sale")

    Draws.objects.create(
        merchant=alder.merchant, group=alder.group, store_location=north.location, warehouse=alder.warehouse
    )
    sweep.take_up_placeable_lines()
    apply(alder)

    assert outcome(event)[0] == EventState.APPLIED
    assert alder.stock("MUG").committed == 2


def test_a_cancellation_gives_back_to_a_warehouse_that_the_location_no_longer_draws_on(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))
    apply(alder)
    Draws.objects.filter(store_location=north.location).delete()
    more = deliver(north, "orders/updated", order_body(north, 1, ("MUG", 4), at=20))
    apply(alder)
    assert outcome(more) == (EventState.IGNORED, f"unmapped location without a warehouse: {north.location.pk}")
    assert OrderLine.objects.get().store_location_id == north.location.pk

    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 4), at=30, current=(1,)))
    apply(alder)

    assert alder.stock("MUG").committed == 1
    assert OrderLine.objects.get().waiting_for == ""
    assert list(violations(when_quiet=False)) == []


def test_a_bundle_whose_components_changed_gives_back_the_ones_it_took() -> None:
    alder = make_trade(stock_of={"MUG": 10, "TEE": 5, "CAP": 5, "SET": 0})
    north = alder.shops["north"]
    Sku.objects.filter(code="SET").update(kind=SkuKind.BUNDLE)
    for component, quantity in (("MUG", 2), ("TEE", 1)):
        BomLine.objects.create(
            merchant=alder.merchant, bundle=alder.skus["SET"], component=alder.skus[component], quantity=quantity
        )
    deliver(north, "orders/create", order_body(north, 1, ("SET", 2)))
    apply(alder)
    BomLine.objects.filter(component=alder.skus["MUG"]).update(quantity=3)
    BomLine.objects.filter(component=alder.skus["TEE"]).update(component=alder.skus["CAP"])

    deliver(north, "orders/updated", order_body(north, 1, ("SET", 2), at=20, current=(1,)))
    apply(alder)

    assert [alder.stock(code).committed for code in ("MUG", "TEE", "CAP")] == [2, 1, 0]
    assert list(violations(when_quiet=False)) == []


def test_a_line_added_to_a_known_order_is_placed_by_reading_it(alder: Trade) -> None:
    north = alder.shops["north"]
    first, second = north.location, _second_location(alder, north)
    store = FakeChannel()
    event = deliver(north, "orders/polled", polled_body(north, 1, "MUG", 1))
    apply(alder)
    assert outcome(event)[0] == EventState.APPLIED
    north.location = second
    body = polled_body(north, 1, "TEE", 1, at=20).replace(b"LineItem/100", b"LineItem/101")
    store.orders = [PolledOrder("1", later(20), body)]

    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 1), ("TEE", 1), at=20))
    apply(alder, {north.channel: store})

    assert dict(OrderLine.objects.values_list("sku__code", "store_location")) == {"MUG": first.pk, "TEE": second.pk}


def _second_location(alder: Trade, shop: Shop) -> StoreLocation:
    location = StoreLocation.objects.create(
        merchant=alder.merchant, channel=shop.channel, remote_id="777", name="Upstairs"
    )
    GroupLocation.objects.create(merchant=alder.merchant, group=alder.group, store_location=location)
    Draws.objects.create(merchant=alder.merchant, group=alder.group, store_location=location, warehouse=alder.warehouse)
    return location


def test_products_of_a_silent_store_hold_up_no_sale_and_cost_no_attempt(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    asked: list[int] = []

    def silent(events: object, channel_id: int) -> object:
        asked.append(OrderLine.objects.count())
        raise Unavailable("timed out")

    monkeypatch.setattr(catalogue, "read_untold", silent)
    products = [deliver(south, "products/update", {"id": number}) for number in range(1, 6)]
    sale = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))

    apply_batch(engine(), merchant_id=alder.merchant.pk)

    assert outcome(sale)[0] == EventState.APPLIED
    assert asked == [1]
    for product in products:
        product.refresh_from_db()
        assert (product.state, product.attempts) == (EventState.PENDING, 0)


def test_slow_readings_of_products_hand_back_what_their_claim_does_not_cover(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north = alder.shops["north"]
    clock = Clock()

    def slow(events: object, channel_id: int) -> object:
        clock.now += timedelta(seconds=2)
        return events

    monkeypatch.setattr(catalogue, "read_untold", slow)
    monkeypatch.setattr(catalogue, "apply", lambda *told: Verdict(EventState.APPLIED))
    products = [deliver(north, "products/update", {"id": number}) for number in range(1, 6)]

    done = apply_batch(replace(engine(), now=clock), merchant_id=alder.merchant.pk)

    assert (done.claimed, done.settled, done.busy) == (5, 3, 2)
    assert [outcome(product)[0] for product in products] == ["applied"] * 3 + ["pending"] * 2
    assert InboxEvent.objects.get(pk=products[-1].pk).attempts == 0


def test_sales_do_not_wait_for_an_order_that_must_be_read_first(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    committed: list[int] = []

    class Silent(FakeChannel):
        def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
            committed.append(alder.stock("MUG").committed)
            raise Unavailable("timed out")

    edited = deliver(south, "orders/edited", {"order_edit": {"order_id": 5}})
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))

    apply(alder, {south.channel: Silent()})

    assert committed[0] == 1
    assert outcome(edited)[0] == EventState.PENDING


@dataclass
class Clock:
    """A clock that others move."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Readable(FakeChannel):
    """A store with an order of one mug under any number that is asked for."""

    shop: Shop | None = None

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        assert self.shop is not None
        return tuple(PolledOrder(order, later(10), polled_body(self.shop, int(order), "MUG", 1)) for order in order_ids)


def _to_be_read(trade: Trade, shop: Shop, orders: int) -> list[InboxEvent]:
    """Sales of a store with two locations, which do not tell where they are taken from."""
    _second_location(trade, shop)
    return [deliver(shop, "orders/create", order_body(shop, order, ("MUG", 1))) for order in range(1, orders + 1)]


def test_orders_that_were_read_before_the_budget_ended_are_applied(alder: Trade) -> None:
    north = alder.shops["north"]
    budget = 0

    class Tight(Readable):
        def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
            nonlocal budget
            if not budget:
                raise Paced("The channel's budget is used up for 2.3 s.", code="PACED", retry_after=2.3)
            budget -= 1
            return super().read_orders(order_ids)

    store = Tight(shop=north, capabilities=replace(FakeChannel.capabilities, orders_per_read=2))
    _to_be_read(alder, north, 5)
    pending = []

    for _ in range(3):  # each time the budget has grown back for one reading
        budget = 1
        InboxEvent.objects.filter(state="pending").update(next_attempt_at=Now())
        apply_batch(engine(NOON, {north.channel: store}), merchant_id=alder.merchant.pk)
        pending.append(list(InboxEvent.objects.filter(state="pending").values_list("attempts", flat=True)))

    assert pending == [[0, 0, 0], [0], []]


def test_an_order_that_cannot_be_read_fails_no_other(alder: Trade) -> None:
    north = alder.shops["north"]

    class Choosy(Readable):
        def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
            if "6" in order_ids:
                raise Refused("Order 6 cannot be shown.")
            return super().read_orders(order_ids)

    store = Choosy(shop=north)
    events = _to_be_read(alder, north, 9)

    done = apply_batch(engine(NOON, {north.channel: store}), merchant_id=alder.merchant.pk)

    assert [outcome(event)[0] for event in events] == ["applied"] * 5 + ["pending"] + ["applied"] * 3
    assert outcome(events[5])[1] == "Refused: Order 6 cannot be shown."
    assert (done.settled, done.failed) == (8, 1)


def test_slow_readings_of_orders_hand_back_what_their_claim_does_not_cover(alder: Trade) -> None:
    north = alder.shops["north"]
    clock = Clock()

    class Slow(Readable):
        def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
            clock.now += timedelta(seconds=3)
            return super().read_orders(order_ids)

    store = Slow(shop=north, capabilities=replace(FakeChannel.capabilities, orders_per_read=1))
    events = _to_be_read(alder, north, 5)

    done = apply_batch(replace(engine(NOON, {north.channel: store}), now=clock), merchant_id=alder.merchant.pk)

    assert (done.claimed, done.settled, done.busy) == (5, 2, 3)
    assert [outcome(event)[0] for event in events] == ["applied"] * 2 + ["pending"] * 3
    assert set(InboxEvent.objects.filter(state="pending").values_list("attempts", flat=True)) == {0}


def test_events_are_not_dead_while_their_orders_are_being_read(alder: Trade) -> None:
    """A reading that outlasts its claim: others claim the same events, again and again."""
    north = alder.shops["north"]
    readers = 0

    class Slow(Readable):
        def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
            nonlocal readers
            readers += 1
            if readers < 14:
                InboxEvent.objects.filter(state="pending").update(next_attempt_at=Now())
                apply_batch(engine(NOON, {north.channel: self}), merchant_id=alder.merchant.pk)
            return super().read_orders(order_ids)

    store = Slow(shop=north)
    [event] = _to_be_read(alder, north, 1)

    apply_batch(engine(NOON, {north.channel: store}), merchant_id=alder.merchant.pk)

    assert (outcome(event)[0], readers) == (EventState.APPLIED, 14)


def test_a_claim_reads_the_pending_events_and_not_the_whole_inbox(alder: Trade) -> None:
    north = alder.shops["north"]
    for number in range(30):
        deliver(north, "orders/create", order_body(north, 1001 + number, ("MUG", 1)))
    sql.execute("ANALYZE channels_inboxevent")  # all of it waits: reading it all would be the cheapest by far
    read_whole = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'channels_inboxevent'"

    with transaction.atomic():
        [(scans_before, _)] = sql.rows(read_whole)
        assert len(engine(NOON).books.claim_events(alder.merchant.pk, 20, applying.LEASES)) == 20
        [(scans_after, by_index)] = sql.rows(read_whole)

    assert scans_after == scans_before
    assert by_index


class Reluctant:
    """Locks of which one key is another worker's, until somebody waits for it, or for good."""

    is_degraded = False

    def __init__(self, key: str, *, lets_go: bool) -> None:
        self.asked: list[tuple[tuple[str, ...], bool]] = []
        self.keys: set[str] = set()
        self._key = key
        self._lets_go = lets_go

    @contextmanager
    def try_lock(self, keys: Sequence[str], *, patient: bool = False) -> Iterator[Any]:
        self.asked.append((tuple(keys), patient))
        self.keys = {key for key in keys if key != self._key or (patient and self._lets_go)}
        yield self


@pytest.mark.parametrize("lets_go", [True, False])
def test_what_another_worker_is_busy_with_is_waited_for_once_the_rest_is_applied(alder: Trade, lets_go: bool) -> None:
    north = alder.shops["north"]
    mug, tee = (f"sku:{alder.skus[code].pk}" for code in ("MUG", "TEE"))
    waits = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    free = deliver(north, "orders/create", order_body(north, 2, ("TEE", 1)))
    locks = Reluctant(mug, lets_go=lets_go)

    done = apply_batch(replace(engine(), locks=locks), merchant_id=alder.merchant.pk)

    assert locks.asked == [(tuple(sorted((mug, tee))), False), ((mug,), True)]
    assert (done.claimed, done.settled, done.busy) == (2, 2 if lets_go else 1, 0 if lets_go else 1)
    assert outcome(free)[0] == EventState.APPLIED
    assert outcome(waits)[0] == (EventState.APPLIED if lets_go else EventState.PENDING)
    assert InboxEvent.objects.get(pk=waits.pk).attempts == (1 if lets_go else 0)
    assert alder.stock("MUG").committed == (1 if lets_go else 0)


def test_a_patient_worker_waits_with_no_lock_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Redlock([Redis.from_url(url) for url in settings.REDLOCK_URLS])
    held = other.try_lock(["sku:1"])
    free_meanwhile: list[bool] = []

    def wait(_: float) -> None:
        with other.try_lock(["sku:2"]) as tried:
            free_meanwhile.append(bool(tried.keys))
        held.release()

    monkeypatch.setattr(live, "sleep", wait)
    try:
        with live.engine().locks.try_lock(["sku:1", "sku:2"], patient=True) as locked:
            assert locked.keys == {"sku:1", "sku:2"}
        assert free_meanwhile == [True]
    finally:
        held.release()
        other.close()


def test_patience_ends_with_what_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Redlock([Redis.from_url(url) for url in settings.REDLOCK_URLS])
    monkeypatch.setattr(live, "PATIENCE_SECONDS", 0.0)
    try:
        with other.try_lock(["sku:1"]), live.engine().locks.try_lock(["sku:1", "sku:2"], patient=True) as locked:
            assert locked.keys == {"sku:2"}
    finally:
        other.close()
