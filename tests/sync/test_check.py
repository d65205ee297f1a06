"""Suspect levels: read, held, settled."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, repeat
from time import sleep
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from pytest_django.fixtures import Settings

from channels import mapping, onboarding
from channels.models import BatchState, Channel, InboxEvent, Listing, ListingLevel, Push, PushBatch, PushState
from channels.protocol import LevelState, OrderPage, Paced, PolledOrder, Unavailable
from inventory.models import Movement, Shortage, StockLevel, Warehouse
from locations.models import LocationGroup, Mapping
from sync import passes
from sync.check import Checked, check_channel
from sync.invariants import violations
from sync.models import Drift, DriftAction, OrderLine, ReconcileRun, RunState
from sync.passes import reconcile
from sync.publish import publish_batch
from sync.reconcile import compare_levels, poll_orders
from sync.tables.upkeep import mark_dirty
from synctec.lib import sql
from tests.engine import engine, ref
from tests.factories import (
    NOON,
    Shop,
    Trade,
    add_warehouse,
    deliver,
    later,
    level_body,
    make_trade,
    order_body,
    polled_body,
)
from tests.fakes import FakeChannel
from tests.sync.test_apply import apply

pytestmark = pytest.mark.django_db(transaction=True)


NO_SAMPLE: dict[str, None] = dict.fromkeys(
    ("sample", "since_sample", "sample_pushed", "sampled_from", "sampled_until", "sampled_ahead")
)


@pytest.fixture(autouse=True)
def _lag(settings: Settings) -> None:
    settings.AUDIT_LAG_SECONDS = 60
    settings.RECONCILE_OVERLAP_SECONDS = 600


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def north(alder: Trade) -> Shop:
    return alder.shops["north"]


@pytest.fixture
def store(north: Shop) -> FakeChannel:
    return FakeChannel.of(north)


def check(shop: Shop, store: FakeChannel, now: datetime = NOON) -> Checked:
    ListingLevel.objects.filter(suspect_since__isnull=False).update(next_check_at=Now())
    return check_channel(engine(now, {shop.channel: store}), channel=ref(shop.channel))


def suspect(shop: Shop, code: str) -> None:
    engine().books.suspect_unsuspected([shop.level(code).pk], "test", NOON)


def test_a_merchants_loss_is_held_at_once_and_adopted_when_the_orders_are_complete(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")

    check(north, store)
    held = alder.stock("MUG")
    assert (held.on_hand, held.held, held.available) == (10, 4, 6)
    assert check(north, store, later(61)).needs_orders
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    done = check(north, store, later(63))

    assert done.adopted == 1
    stock, level = alder.stock("MUG"), north.level("MUG")
    assert (stock.on_hand, stock.held, stock.available) == (6, 0, 6)
    assert (level.reported, level.suspect_since, level.sample, level.held) == (6, None, None, 0)
    drift = Drift.objects.get()
    assert (drift.expected, drift.actual, drift.action) == (10, 6, DriftAction.ADOPTED)
    assert Movement.objects.filter(cause="channel_edit", account="on_hand", delta=-4).count() == 1


def settle(north: Shop, store: FakeChannel) -> Checked:
    """Read the suspect, then the orders up to it, then it again."""
    check(north, store)
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    return check(north, store, later(63))


def test_missing_units_are_held_in_a_warehouse_that_has_them(alder: Trade, north: Shop, store: FakeChannel) -> None:
    loft = add_warehouse(alder, "LOFT", {"MUG": 20})
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(base=30)
    store.levels[store.where(north, "MUG")] = 18
    suspect(north, "MUG")

    check(north, store)

    assert (alder.stock("MUG").held, alder.stock("MUG", loft).held) == (0, 12)


def test_a_loss_is_taken_from_all_warehouses_that_have_units_before_any_is_short(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    loft = add_warehouse(alder, "LOFT", {"MUG": 20})
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(base=30)
    store.levels[store.where(north, "MUG")] = 3
    suspect(north, "MUG")

    done = settle(north, store)

    assert done.adopted == 1
    assert [alder.stock("MUG", warehouse).on_hand for warehouse in (alder.warehouse, loft)] == [3, 0]
    assert not StockLevel.objects.filter(held__gt=0).exists()
    assert not Shortage.objects.exists()
    assert list(violations(when_quiet=False)) == []


def test_a_suspicion_of_more_than_there_is_declares_no_shortage(alder: Trade, north: Shop, store: FakeChannel) -> None:
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(base=12)
    store.levels[store.where(north, "MUG")] = 0
    suspect(north, "MUG")

    check(north, store)

    assert alder.stock("MUG").available == -2
    assert not Shortage.objects.exists()
    assert list(violations(when_quiet=False)) == []


def test_nothing_is_held_in_a_warehouse_that_is_switched_off(alder: Trade, north: Shop, store: FakeChannel) -> None:
    loft = add_warehouse(alder, "LOFT", {"MUG": 10})
    Warehouse.objects.filter(pk=alder.warehouse.pk).update(is_active=False)
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")

    check(north, store)

    assert (alder.stock("MUG").held, alder.stock("MUG", loft).held) == (0, 4)


def test_a_merchants_gain_is_overridden(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.levels[store.where(north, "MUG")] = 13
    suspect(north, "MUG")

    check(north, store)
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(63))

    level = north.level("MUG")
    assert alder.stock("MUG").available == 10
    assert (level.shown, level.desired) == (13, 10)
    assert Drift.objects.get().action == DriftAction.OVERRIDDEN


def test_a_sale_whose_webhook_was_lost_is_found_by_reading_the_orders(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 8))
    apply(alder)
    check(north, store)
    assert alder.stock("MUG").held == 2
    body = polled_body(north, 77, "MUG", 2)
    store.orders = [PolledOrder("77", later(10), body)]

    read, recovered = poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    apply(alder)
    check(north, store, later(63))

    stock = alder.stock("MUG")
    assert (read, recovered) == (1, 1)
    assert (stock.committed, stock.held, stock.available) == (2, 0, 8)
    assert north.level("MUG").suspect_since is None
    assert not Drift.objects.exists()


def test_polling_twice_recovers_an_order_once(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]

    poll_orders(engine(later(20), {north.channel: store}), channel=ref(north.channel))
    read, recovered = poll_orders(engine(later(30), {north.channel: store}), channel=ref(north.channel))

    assert (read, recovered) == (1, 0)
    assert InboxEvent.objects.filter(topic="orders/polled").count() == 1
    assert Channel.objects.get(pk=north.channel.pk).orders_watermark == later(10)


class TornList(FakeChannel):
    """Lists one order where it stood before its latest change, and falls silent before the next page."""

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
        if cursor is not None:
            raise Unavailable("no second page")
        return OrderPage(tuple(self.orders), "next")


def test_an_order_that_changed_just_now_does_not_tell_how_far_the_list_was_read(north: Shop) -> None:
    old = PolledOrder("77", later(10), polled_body(north, 77, "MUG", 1, at=10))
    changed = PolledOrder("78", later(5_000), polled_body(north, 78, "MUG", 1, at=5_000))
    torn = TornList.of(north)
    torn.orders = [old, changed]

    with pytest.raises(Unavailable):
        poll_orders(engine(later(5_001), {north.channel: torn}), channel=ref(north.channel))

    assert InboxEvent.objects.filter(topic="orders/polled").count() == 2
    channel = Channel.objects.get(pk=north.channel.pk)
    assert (channel.orders_watermark, channel.orders_cut_short_at) == (NOON, later(10))


def test_a_poll_that_is_cut_short_gets_further_the_next_time(north: Shop) -> None:
    """More orders within the overlap than a poll can read at a stretch, then peace."""
    pages_left = 0

    class Paged(FakeChannel):
        def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
            nonlocal pages_left
            if not pages_left:
                raise Paced("The channel's budget is used up for 3.1 s.", code="PACED", retry_after=3.1)
            pages_left -= 1
            found = [order for order in self.orders if order.version >= since]
            start = int(cursor or 0)
            return OrderPage(tuple(found[start : start + 5]), str(start + 5) if start + 5 < len(found) else None)

    store = Paged.of(north)
    store.orders = [
        PolledOrder(str(order), later(order), polled_body(north, order, "MUG", 1, at=order)) for order in range(1, 31)
    ]
    stored = []
    for attempt in range(1, 5):
        pages_left = 2
        with nullcontext() if attempt == 4 else pytest.raises(Paced):
            poll_orders(engine(later(3600 * attempt), {north.channel: store}), channel=ref(north.channel))
        stored.append(InboxEvent.objects.filter(topic="orders/polled").count())

    # Each begins with the order that the one before it has ended with.
    assert stored == [10, 19, 28, 30]
    channel = Channel.objects.get(pk=north.channel.pk)
    assert (channel.orders_watermark, channel.orders_cut_short_at) == (later(30), None)
    assert channel.orders_read_at == later(3600 * 4)


def test_a_poll_that_is_cut_short_within_the_overlap_reads_the_rest_of_it(north: Shop) -> None:
    store = FakeChannel.of(north)
    store.orders = [PolledOrder("1", later(500), polled_body(north, 1, "MUG", 1, at=500))]
    poll_orders(engine(later(510), {north.channel: store}), channel=ref(north.channel))
    torn = TornList.of(north)
    torn.orders = [PolledOrder("2", later(100), polled_body(north, 2, "MUG", 1, at=100))]  # listed late
    with pytest.raises(Unavailable):
        poll_orders(engine(later(4_000), {north.channel: torn}), channel=ref(north.channel))
    late = PolledOrder("3", later(200), polled_body(north, 3, "MUG", 1, at=200))  # before the watermark
    store.orders = [*torn.orders, late, *store.orders]

    read, recovered = poll_orders(engine(later(8_000), {north.channel: store}), channel=ref(north.channel))

    assert (read, recovered) == (3, 1)


def test_a_comparison_that_is_cut_short_goes_round_from_there_the_next_time(north: Shop) -> None:
    reads_left = 1
    asked: list[str] = []

    class Tired(FakeChannel):
        def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
            nonlocal reads_left
            if not reads_left:
                raise Unavailable("It went down.")
            reads_left -= 1
            asked.extend(inventory_item_ids)
            return super().read_levels(inventory_item_ids)

    store = Tired.of(north)
    store.capabilities = replace(store.capabilities, levels_per_read=1)
    store.sell(north, "TEE", 1)
    mug, tee = (north.listings[code].inventory_item_id for code in ("MUG", "TEE"))
    with pytest.raises(Unavailable):
        reconcile(engine(NOON, {north.channel: store}), channel=north.channel)

    reads_left = 1
    with pytest.raises(Unavailable):
        reconcile(engine(NOON, {north.channel: store}), channel=north.channel)
    assert (asked, north.level("TEE").suspect_reason) == ([mug, tee], "reconciliation differs")
    reads_left = 2
    run = reconcile(engine(NOON, {north.channel: store}), channel=north.channel)

    assert run is not None
    assert (asked[2:], run.state, run.levels_read) == ([mug, tee], "done", 2)


def test_an_audit_reads_no_order_of_long_ago(alder: Trade, north: Shop) -> None:
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    apply(alder)
    OrderLine.objects.update(updated_at=NOON)
    sql.execute(
        """
        INSERT INTO sync_orderline (merchant_id, channel_id, order_id, line_id, order_name, remote_variant_id, listing_id,
            sku_id, listing_level_id, store_location_id, facts, desired_committed, desired_on_hand, applied_committed,
            applied_on_hand, postings, waiting_for, correlation_id, updated_at)
        SELECT merchant_id, channel_id, 'old ' || n, line_id, order_name, remote_variant_id, listing_id, sku_id,
            listing_level_id, store_location_id, facts, 0, 0, 0, 0, 1, '', correlation_id, %s
        FROM sync_orderline, generate_series(1, 500) n
        """,
        [NOON - timedelta(days=400)],
    )
    sql.execute("ANALYZE sync_orderline")
    read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'sync_orderline'"

    with transaction.atomic():
        [(before,)] = sql.rows(read)
        taken, _ = engine().books.taken_since(north.level("MUG").pk, later(-60), later(-30), later(-60))
        [(after,)] = sql.rows(read)

    assert (taken, after - before) == (1, 1)


def test_a_reading_during_which_an_order_is_applied_waits_for_the_next(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    suspect(north, "MUG")

    def meanwhile() -> None:
        deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
        apply(alder)

    store.while_reading = meanwhile
    check(north, store)

    level = north.level("MUG")
    assert (level.sample, level.reported, alder.stock("MUG").held) == (10, 8, 0)
    assert level.suspect_since is not None
    store.while_reading = None
    store.sell(north, "MUG", 2)
    assert check(north, store).explained == 1


def test_a_clock_that_is_set_back_while_a_level_is_read_costs_no_reading(north: Shop, store: FakeChannel) -> None:
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")
    ListingLevel.objects.update(next_check_at=Now())
    moments = chain([NOON], repeat(later(-30)))
    set_back = replace(engine(NOON, {north.channel: store}), now=lambda: next(moments))

    check_channel(set_back, channel=ref(north.channel))

    level = north.level("MUG")
    assert (level.sample, level.sampled_from, level.sampled_until) == (6, NOON, NOON)


def test_a_sample_that_is_still_to_come_is_taken_anew(alder: Trade, north: Shop, store: FakeChannel) -> None:
    """Its clock was set back since: nobody can tell when it was taken."""
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")
    check(north, store, later(3600))
    Channel.objects.update(orders_read_at=later(7200))

    done = check(north, store, NOON)

    assert done.waiting == 1
    assert north.level("MUG").sampled_until == NOON
    assert alder.stock("MUG").held == 4


def test_a_sample_is_audited_by_the_clocks_of_its_own_moment(alder: Trade, north: Shop, store: FakeChannel) -> None:
    """Ours is set back by four minutes between the sample and its audit: the sale before the sample stays before it."""
    store.sell(north, "MUG", 1)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    apply(alder)
    store.levels[store.where(north, "MUG")] -= 2
    suspect(north, "MUG")
    store.clock = later(20)
    check(north, store, later(-220))
    Channel.objects.update(orders_read_at=later(-140))
    store.clock = None

    done = check(north, store, later(-130))

    assert done.adopted == 1
    assert Drift.objects.get().expected - Drift.objects.get().actual == 2


def test_orders_that_are_still_to_be_read_tell_nothing(north: Shop) -> None:
    read = engine().books.orders_applied_since
    Channel.objects.update(orders_read_at=Now() + timedelta(minutes=1))
    assert read(north.channel.pk) is None

    Channel.objects.update(orders_read_at=Now() - timedelta(minutes=1))

    assert read(north.channel.pk) is not None


def test_a_reader_whose_clock_is_ahead_has_read_nothing_for_certain(north: Shop) -> None:
    now = timezone.now()
    books = engine().books
    books.orders_read(north.channel.pk, now)
    assert books.orders_applied_since(north.channel.pk) == now

    books.orders_read(north.channel.pk, now + timedelta(minutes=1))

    assert books.orders_applied_since(north.channel.pk) is None


def test_reconciliation_makes_only_differing_levels_suspect(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.levels[store.where(north, "TEE")] = 1

    found = compare_levels(engine(NOON, {north.channel: store}), channel=ref(north.channel))

    assert found == 1
    assert north.level("TEE").suspect_reason == "reconciliation differs"
    assert north.level("MUG").suspect_since is None


def test_a_pass_counts_what_it_read_and_found(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]
    store.levels[store.where(north, "TEE")] = 1

    run = reconcile(engine(later(20), {north.channel: store}), channel=north.channel)

    assert run is not None
    assert (run.state, run.orders_read, run.orders_recovered, run.levels_read, run.levels_suspect) == (
        "done",
        1,
        1,
        2,
        1,
    )


def test_a_pass_counts_each_order_once_of_which_nothing_or_less_was_known(alder: Trade, north: Shop) -> None:
    for order, at in ((70, 10), (71, 10), (72, 10)):
        deliver(north, "orders/create", order_body(north, order, ("MUG", 1), at=at))
    apply(alder)

    class Paged(FakeChannel):
        def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
            half = len(self.orders) // 2
            return OrderPage(tuple(self.orders[half:] if cursor else self.orders[:half]), None if cursor else "next")

    def polled(order: int, at: float, units: int = 1) -> PolledOrder:
        return PolledOrder(str(order), later(at), polled_body(north, order, "MUG", units, at=at))

    store = Paged.of(north)
    # Told of; told of in an older version; heard of from nobody; and that one again, changed while the list was read.
    store.orders = [
        polled(70, 10),
        polled(71, 30, 2),
        polled(77, 12),
        polled(72, 10),
        polled(77, 40, 2),
        polled(78, 12),
    ]

    first = reconcile(engine(later(50), {north.channel: store}), channel=north.channel)
    again = reconcile(engine(later(60), {north.channel: store}), channel=north.channel)

    assert first is not None
    assert again is not None
    assert (first.orders_read, first.orders_recovered) == (6, 3)
    assert (again.orders_read, again.orders_recovered) == (6, 0)


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_pass_is_held_while_a_page_takes_its_time_but_not_for_ever(
    north: Shop, store: FakeChannel, monkeypatch: pytest.MonkeyPatch, is_stuck: bool
) -> None:
    monkeypatch.setattr(passes, "LEASE", timedelta(seconds=0.5))
    monkeypatch.setattr(passes, "RENEWED_EVERY", timedelta(seconds=0.1))
    monkeypatch.setattr(passes, "PAGE_MAX", timedelta(seconds=0 if is_stuck else 60))
    read_levels = store.read_levels
    others: list[Any] = []

    def read_slowly(items: Sequence[str]) -> tuple[LevelState, ...]:
        if not others:
            others.append("waiting")
            sleep(1.5)
            others[:] = [reconcile(engine(NOON, {north.channel: store}), channel=north.channel)]
        return read_levels(items)

    monkeypatch.setattr(store, "read_levels", read_slowly)

    mine = reconcile(engine(NOON, {north.channel: store}), channel=north.channel)

    assert mine is not None
    assert (mine.state, others == [None]) == (RunState.DONE, not is_stuck)
    assert ReconcileRun.objects.count() == 1


def test_a_level_read_for_the_first_time_takes_the_reading_as_its_base(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(base=0, source_at=None, confirmed_at=None)
    store.levels[store.where(north, "MUG")] = 25
    suspect(north, "MUG")

    check(north, store)

    level = north.level("MUG")
    assert (level.base, level.suspect_since) == (25, None)
    assert alder.stock("MUG").available == 10


def test_an_item_that_is_no_longer_stocked_is_not_published(alder: Trade, north: Shop, store: FakeChannel) -> None:
    del store.levels[store.where(north, "MUG")]
    suspect(north, "MUG")

    check(north, store)
    publish_batch(engine(), merchant_id=alder.merchant.pk)

    level = north.level("MUG")
    assert (level.is_stocked, level.desired) == (False, None)
    assert level.gone_at is not None


def in_split(alder: Trade) -> None:
    """Units are divided, and every level says so: five mugs each, and two tees."""
    LocationGroup.objects.update(policy="split")
    for shop in alder.shops.values():
        for code, units in (("MUG", 5), ("TEE", 2)):
            ListingLevel.objects.filter(pk=shop.level(code).pk).update(base=units, desired=units)


def desired_after_publishing(alder: Trade, shop: Shop) -> int | None:
    mark_dirty(merchant_id=alder.merchant.pk, sku_ids=[alder.skus["MUG"].pk], correlation_id=uuid4(), now=NOON)
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    return shop.level("MUG").desired


@pytest.mark.parametrize("way", ["deleted", "no longer stocked"])
def test_what_a_store_no_longer_counts_is_given_to_others_once_it_is_known_what_it_sold(
    alder: Trade, north: Shop, store: FakeChannel, way: str
) -> None:
    in_split(alder)
    del store.levels[store.where(north, "MUG")]
    if way == "deleted":
        deliver(north, "products/delete", {"id": int(north.listings["MUG"].remote_product_id)})
        apply(alder)
    else:
        suspect(north, "MUG")
    check(north, store)
    while_unknown = desired_after_publishing(alder, alder.shops["south"])
    still_waits = check(north, store, later(61)).needs_orders
    store.orders = [PolledOrder("1", later(10), polled_body(north, 1, "MUG", 2))]
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(63))
    before_it_was_applied = north.level("MUG").gone_at
    apply(alder)
    check(north, store, later(64))

    level = north.level("MUG")
    assert still_waits
    assert before_it_was_applied is not None
    assert (level.gone_at, level.suspect_since, level.is_stocked) == (None, None, False)
    assert (while_unknown, desired_after_publishing(alder, alder.shops["south"])) == (5, 8)
    assert desired_after_publishing(alder, north) is None
    assert list(violations(when_quiet=False)) == []


def test_others_do_without_what_an_item_shows_that_is_back_before_its_orders_are_known(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    in_split(alder)
    del store.levels[store.where(north, "MUG")]
    suspect(north, "MUG")
    check(north, store)
    store.levels[store.where(north, "MUG")] = 8
    check(north, store, later(5))

    assert desired_after_publishing(alder, alder.shops["south"]) == 2
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(63))
    level = north.level("MUG")
    assert (level.gone_at, level.is_stocked, level.reported) == (None, True, 8)
    assert (desired_after_publishing(alder, north), alder.shops["south"].level("MUG").desired) == (5, 5)


def test_an_older_reading_does_not_make_a_deleted_level_one_that_is_counted(
    alder: Trade, north: Shop, store: FakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_split(alder)
    store.levels[store.where(north, "MUG")] = 5
    suspect(north, "MUG")
    read_levels = store.read_levels

    def read_and_stand_still(items: Sequence[str]) -> tuple[LevelState, ...]:
        shown = read_levels(items)
        poll_orders(engine(later(65), {north.channel: store}), channel=ref(north.channel))
        onboarding.retire_listings(Listing.objects.filter(pk=north.listings["MUG"].pk), now=later(67))
        return shown

    monkeypatch.setattr(store, "read_levels", read_and_stand_still)
    times = chain([NOON, NOON], repeat(later(68)))

    ListingLevel.objects.filter(suspect_since__isnull=False).update(next_check_at=Now())
    check_channel(replace(engine(NOON, {north.channel: store}), now=lambda: next(times)), channel=ref(north.channel))

    level = north.level("MUG")
    assert (level.gone_at, level.is_stocked) == (later(67), False)
    assert level.suspect_since is not None


def test_holds_get_nothing_of_what_the_only_store_may_have_sold_before_it_was_gone(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    in_split(alder)
    alder.shops["south"].level("MUG").delete()
    del store.levels[store.where(north, "MUG")]
    suspect(north, "MUG")
    check(north, store)

    desired_after_publishing(alder, north)
    while_unknown = alder.stock("MUG").quota
    poll_orders(engine(later(62), {north.channel: store}), channel=ref(north.channel))
    check(north, store, later(63))
    desired_after_publishing(alder, north)

    assert (while_unknown, alder.stock("MUG").quota) == (5, None)


def test_a_suspect_whose_listing_was_unmapped_does_not_hold_up_the_others(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    suspect(north, "MUG")
    suspect(north, "TEE")
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    store.levels[store.where(north, "MUG")] = 6

    done = check(north, store)

    assert (done.read, done.explained, done.waiting) == (2, 1, 1)
    assert (north.level("MUG").sample, north.level("MUG").held) == (6, 0)
    assert north.level("TEE").suspect_since is None


def test_a_sale_that_waits_for_its_mapping_is_not_taken_for_a_loss(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.levels[store.where(north, "MUG")] = 8
    suspect(north, "MUG")
    check(north, store)
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))
    apply(alder)

    settle(north, store)
    unmapped = alder.stock("MUG")
    mapping.map_listing(listing=north.listings["MUG"], sku=alder.skus["MUG"], user=None)
    apply(alder)

    assert (unmapped.on_hand, unmapped.held) == (10, 0)
    assert alder.stock("MUG").available == 8
    assert not Drift.objects.exists()


def test_a_reading_that_tells_nothing_gives_back_nothing_of_a_listing_that_was_unmapped(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")
    check(north, store)
    mapping.map_listing(listing=north.listings["MUG"], sku=None, user=None)
    where = ListingLevel.objects.filter(pk=north.level("MUG").pk)

    def meanwhile() -> None:
        where.update(pushed=F("pushed") + 1, base=F("base") - 1, version=F("version") + 1)

    store.while_reading = meanwhile
    check(north, store)

    assert (alder.stock("MUG").held, north.level("MUG").held) == (4, 4)
    store.while_reading = None
    check(north, store)
    assert (alder.stock("MUG").held, north.level("MUG").held) == (0, 0)


def test_a_suspect_without_a_stock_level_of_its_own_holds_nothing(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    Mapping.objects.filter(store_location=north.location).delete()
    store.levels[store.where(north, "MUG")] = 6
    suspect(north, "MUG")

    assert check(north, store).waiting == 1
    assert StockLevel.objects.get(sku=alder.skus["MUG"]).held == 0


def test_held_units_are_given_back_by_a_reading_and_never_forgotten(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    suspect(north, "MUG")
    check(north, store)
    assert alder.stock("MUG").held == 2
    # A refused write throws the reading away, and the merchant puts the units back before the next.
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(**NO_SAMPLE, suspect_reason="changed before our write")
    store.sell(north, "MUG", -2)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 10))

    apply(alder)
    assert north.level("MUG").suspect_since is not None
    check(north, store)

    level = north.level("MUG")
    assert (level.suspect_since, level.held, alder.stock("MUG").held) == (None, 0, 0)


def test_held_units_are_given_back_when_the_order_explains_a_newer_webhook(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    suspect(north, "MUG")
    check(north, store)
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(**NO_SAMPLE)
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 8))
    apply(alder)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)
    check(north, store)

    stock = alder.stock("MUG")
    assert (stock.committed, stock.held, stock.available) == (2, 0, 8)
    assert north.level("MUG").suspect_since is None


def test_a_write_without_an_answer_is_settled_when_the_item_is_gone(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    level = north.level("MUG")
    batch = PushBatch.objects.create(
        id="00000000-0000-7000-8000-000000000001",
        merchant=alder.merchant,
        channel=north.channel,
        state=BatchState.UNRESOLVED,
        lease_token=1,
    )
    Push.objects.create(
        merchant=alder.merchant,
        channel=north.channel,
        batch=batch,
        position=0,
        listing_level=level,
        from_quantity=10,
        to_quantity=7,
    )
    del store.levels[store.where(north, "MUG")]
    suspect(north, "MUG")

    check(north, store)

    assert Push.objects.get().state == PushState.REJECTED
    assert north.level("MUG").is_stocked is False


def test_an_item_that_is_stocked_again_starts_from_its_reading_and_costs_the_pool_nothing(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    del store.levels[store.where(north, "MUG")]
    suspect(north, "MUG")
    check(north, store)
    store.activate_level(
        inventory_item_id=north.listings["MUG"].inventory_item_id, location_id=north.location.remote_id, key="k"
    )
    deliver(north, "inventory_levels/connect", level_body(north, "MUG", 0))

    apply(alder)
    settle(north, store)
    publish_batch(engine(), merchant_id=alder.merchant.pk)

    level = north.level("MUG")
    assert (level.is_stocked, level.suspect_since, level.reported, level.desired) == (True, None, 0, 10)
    assert alder.stock("MUG").available == 10


def test_a_store_that_counts_an_item_again_is_read_and_written_to_again(alder: Trade, north: Shop) -> None:
    @dataclass
    class Uncounting(FakeChannel):
        is_tracked: bool = False

        def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
            states = super().read_levels(inventory_item_ids)
            return states if self.is_tracked else tuple(replace(state, available=None) for state in states)

    def tell(is_tracked: bool) -> None:
        uncounting.is_tracked = is_tracked
        item = {"id": int(north.listings["MUG"].inventory_item_id), "sku": "MUG", "tracked": is_tracked}
        deliver(north, "inventory_items/update", item)
        apply(alder)
        settle(north, uncounting)
        publish_batch(engine(), merchant_id=alder.merchant.pk)

    uncounting = Uncounting.of(north)
    tell(is_tracked=False)
    level = north.level("MUG")
    assert (level.is_stocked, level.suspect_since, level.desired) == (False, None, None)
    uncounting.levels[uncounting.where(north, "MUG")] = 3  # nobody cared

    tell(is_tracked=True)

    level = north.level("MUG")
    assert (level.is_stocked, level.suspect_since, level.reported, level.desired) == (True, None, 3, 10)
    assert alder.stock("MUG").available == 10


def test_a_webhook_before_the_first_reading_does_not_make_it_a_second_one(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(
        base=0, source_at=None, confirmed_at=None, suspect_since=NOON, suspect_reason="never read"
    )
    store.levels[store.where(north, "MUG")] = -2
    deliver(north, "inventory_levels/update", level_body(north, "MUG", -2))

    apply(alder)
    check(north, store)

    level = north.level("MUG")
    assert (level.base, level.suspect_since) == (-2, None)
    assert alder.stock("MUG").available == 10


def test_a_unit_that_only_a_reading_shows_is_not_given_to_its_store() -> None:
    """Once the reading turns out to be older than a sale it would be a raise, and nobody has made room for it."""
    trade = make_trade(policy="split", stock_of={"MUG": 3})
    north, south = (trade.shops[name] for name in ("north", "south"))
    ListingLevel.objects.filter(pk=south.level("MUG").pk).update(base=1, desired=1)
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(
        base=1,
        desired=1,
        suspect_since=NOON,
        sample=3,
        since_sample=-1,
        sample_pushed=0,
        sampled_ahead=timedelta(0),
        sampled_from=NOON,
        sampled_until=NOON,
    )
    mark_dirty(merchant_id=trade.merchant.pk, sku_ids=None, correlation_id=uuid4(), now=NOON)

    publish_batch(engine(), merchant_id=trade.merchant.pk)

    level = north.level("MUG")
    assert (level.reported, level.shown, level.desired) == (1, 2, 1)
