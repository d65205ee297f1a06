"""From desired to shown, through the real database and a store in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from channels import mapping
from channels.models import BatchState, Channel, ListingLevel, Push, PushBatch, PushState
from channels.protocol import ChannelError, OutcomeUnknown, Paced, PolledOrder, Refused, Throttled, Unavailable
from sync import push
from sync.check import Checked, check_channel
from sync.models import Drift
from sync.publish import publish_batch
from sync.push import Pushed, claim_batch, push_channel
from sync.reconcile import poll_orders
from sync.tables import Tables
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body, polled_body
from tests.fakes import FakeChannel
from tests.sync.test_apply import apply

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def south(alder: Trade) -> Shop:
    return alder.shops["south"]


@pytest.fixture
def store(south: Shop) -> FakeChannel:
    return FakeChannel.of(south)


def sell_in_north(alder: Trade, quantity: int, order: int = 1) -> None:
    """A sale in the other shop, applied and published."""
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, order, ("MUG", quantity)))
    apply(alder)
    publish_batch(engine(), merchant_id=alder.merchant.pk)


def run(shop: Shop, store: FakeChannel) -> Pushed:
    Channel.objects.filter(pk=shop.channel.pk).update(next_call_at=Now())
    ListingLevel.objects.filter(channel=shop.channel).update(next_push_at=Now())
    return push_channel(engine(stores={shop.channel: store}), channel=ref(shop.channel))


def let_leases_run_out() -> None:
    """And date what the database has dated by the engine's clock, which stands still here."""
    PushBatch.objects.filter(next_attempt_at__isnull=False).update(next_attempt_at=Now(), created_at=NOON)


def check(shop: Shop, store: FakeChannel, now: datetime = NOON) -> Checked:
    ListingLevel.objects.filter(suspect_since__isnull=False).update(next_check_at=Now())
    return check_channel(engine(now, {shop.channel: store}), channel=ref(shop.channel))


def audit(shop: Shop, store: FakeChannel) -> None:
    """Read the level, then the orders up to well after that, then settle."""
    check(shop, store)
    poll_orders(engine(later(200), {shop.channel: store}), channel=ref(shop.channel))
    check(shop, store)


def test_a_sale_lowers_every_other_store_and_not_its_own(alder: Trade, south: Shop, store: FakeChannel) -> None:
    north = alder.shops["north"]
    north_store = FakeChannel.of(north)
    north_store.sell(north, "MUG", 3)
    sell_in_north(alder, 3)

    run(south, store)
    run(north, north_store)

    assert store.levels[store.where(south, "MUG")] == 7
    assert north_store.writes == []
    level = south.level("MUG")
    assert (level.reported, level.shown, level.desired, level.pushed) == (7, 7, 7, -3)
    pushed = Push.objects.get()
    assert (pushed.from_quantity, pushed.to_quantity, pushed.state) == (10, 7, PushState.CONFIRMED)
    assert len(pushed.correlation_ids) == 1


def test_many_sales_of_a_sku_are_one_write(alder: Trade, south: Shop, store: FakeChannel) -> None:
    for order in range(1, 6):
        sell_in_north(alder, 1, order)

    run(south, store)

    [(_, changes)] = store.writes
    assert [(change.from_quantity, change.to_quantity) for change in changes] == [(10, 5)]
    assert len(Push.objects.get().correlation_ids) == 5


def test_an_answer_lost_after_applying_is_fetched_again_under_the_same_key(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost after"]
    sell_in_north(alder, 3)

    run(south, store)
    assert south.level("MUG").reported == 10
    assert PushBatch.objects.get().state == BatchState.UNKNOWN
    let_leases_run_out()
    run(south, store)

    [(first_key, first), (second_key, second)] = store.writes
    assert (first_key, first) == (second_key, second)
    assert south.level("MUG").reported == 7
    assert store.levels[store.where(south, "MUG")] == 7


def test_a_request_lost_before_applying_is_executed_once_by_its_repeat(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost before"]
    sell_in_north(alder, 3)

    run(south, store)
    let_leases_run_out()
    run(south, store)

    assert store.levels[store.where(south, "MUG")] == 7
    assert PushBatch.objects.get().state == BatchState.DONE


def test_while_a_write_has_no_answer_no_other_is_sent_about_its_level(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost after"]
    sell_in_north(alder, 3)
    run(south, store)
    sell_in_north(alder, 1, order=2)

    run(south, store)

    assert len(store.writes) == 1


def test_a_store_that_forgot_the_key_is_read_and_the_write_found_applied(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.forgets_keys = True
    store.capabilities = replace(store.capabilities, idempotency_keys=False)
    store.faults = ["lost after"]
    sell_in_north(alder, 3)
    run(south, store)
    let_leases_run_out()
    run(south, store)
    assert PushBatch.objects.get().state == BatchState.UNRESOLVED
    assert Push.objects.get().state == PushState.OPEN

    audit(south, store)

    assert Push.objects.get().state == PushState.CONFIRMED
    level = south.level("MUG")
    assert (level.reported, level.desired, level.suspect_since, alder.stock("MUG").held) == (7, 7, None, 0)


def test_a_repeat_that_comes_too_late_proves_nothing(alder: Trade, south: Shop, store: FakeChannel) -> None:
    """The number may have been changed by a sale, or by the first sending itself: the store is read."""
    store.faults = ["lost before"]
    sell_in_north(alder, 3)
    run(south, store)
    let_leases_run_out()
    store.sell(south, "MUG", 1)

    run(south, store)

    assert (PushBatch.objects.get().state, Push.objects.get().state) == (BatchState.DONE, PushState.REJECTED)
    level = south.level("MUG")
    assert (level.doubtful_by, level.doubtful_lowers, level.suspect_since is None) == (0, [3], False)
    assert [level.doubtful_from] == level.doubtful_lowers_at == [PushBatch.objects.get().created_at]
    assert level.doubtful_until == later(200)


def test_a_lower_whose_repeat_is_called_late_by_the_lower_itself_costs_the_pool_nothing(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    """Seen on a live store: same key, same rows, after a success whose answer was lost."""
    store.forgets_keys = True
    store.faults = ["lost after"]
    sell_in_north(alder, 3)
    run(south, store)
    let_leases_run_out()
    run(south, store)

    audit(south, store)

    stock = alder.stock("MUG")
    assert (stock.on_hand, stock.held, stock.available) == (10, 0, 7)
    level = south.level("MUG")
    assert (level.reported, level.doubtful_lowers, level.suspect_since) == (7, [], None)
    assert not Drift.objects.exists()


def test_of_a_single_unit_nobody_knows_who_took_it(alder: Trade, south: Shop, store: FakeChannel) -> None:
    """Our lower, or somebody's hand: too few are offered, and somebody is told."""
    store.forgets_keys = True
    store.faults = ["lost after"]
    sell_in_north(alder, 1)
    run(south, store)
    let_leases_run_out()
    run(south, store)

    audit(south, store)

    assert alder.stock("MUG").on_hand == 9
    drift = Drift.objects.get()
    assert (drift.action, drift.is_ambiguous) == ("adopted", True)
    assert "came true all the same" in drift.explanation


def test_a_write_is_in_doubt_for_as_long_as_its_last_sending_may_be_on_its_way(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost before"] * 13
    sell_in_north(alder, 3)
    for _ in range(13):
        PushBatch.objects.update(sent_at=Now() - timedelta(seconds=180))
        run(south, store)
        let_leases_run_out()

    audit(south, store)

    until = south.level("MUG").doubtful_until
    assert until is not None
    assert until > timezone.now() + timedelta(seconds=150)


def test_a_key_that_its_channel_may_have_forgotten_is_not_used_again(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost after"]
    sell_in_north(alder, 3)
    run(south, store)
    let_leases_run_out()
    yesterday = timezone.now() - timedelta(hours=24)
    PushBatch.objects.update(created_at=yesterday)

    push_channel(replace(engine(stores={south.channel: store}), now=timezone.now), channel=ref(south.channel))

    assert len(store.writes) == 1
    assert PushBatch.objects.get().state == BatchState.UNRESOLVED
    assert south.level("MUG").suspect_since is not None


def test_nothing_is_raised_on_top_of_a_raise_that_may_still_come_true(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    where = ListingLevel.objects.filter(pk=south.level("MUG").pk)
    where.update(doubtful_by=1, doubtful_until=Now() + timedelta(seconds=100), desired=12)
    assert run(south, store).batches == 0

    where.update(desired=9)
    assert run(south, store).confirmed == 1

    where.update(desired=12, doubtful_until=None, doubtful_by=None)
    assert run(south, store).confirmed == 1
    assert store.levels[store.where(south, "MUG")] == 12


def test_a_raise_that_may_have_come_true_is_in_doubt_until_its_level_was_audited(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    """That it cannot come true any more does not tell that it has not; nor does a number as before: it may have been sold."""
    where = ListingLevel.objects.filter(pk=south.level("MUG").pk)
    where.update(doubtful_by=1, doubtful_from=NOON, doubtful_until=NOON, desired=12)

    engine().books.end_doubts()
    check(south, store, later(1))
    assert run(south, store).batches == 0
    assert where.get().doubtful_by == 1
    poll_orders(engine(later(62), {south.channel: store}), channel=ref(south.channel))
    check(south, store, later(63))

    level = where.get()
    assert (level.doubtful_by, level.doubtful_until, level.suspect_since, level.base) == (None, None, None, 10)
    assert run(south, store).confirmed == 1


def test_a_raise_that_came_true_and_was_sold_is_not_given_to_others_as_well(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    """Its store shows what it showed before, as if neither had happened; and nobody has told of the sale."""
    where = ListingLevel.objects.filter(pk=south.level("MUG").pk)
    where.update(doubtful_by=2, doubtful_from=NOON, doubtful_until=NOON)
    store.orders = [PolledOrder("77", NOON, polled_body(south, 77, "MUG", 2))]

    engine().books.end_doubts()
    check(south, store, later(30))
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    assert where.get().doubtful_by == 2
    poll_orders(engine(later(91), {south.channel: store}), channel=ref(south.channel))
    apply(alder)
    check(south, store, later(92))

    level, stock = where.get(), alder.stock("MUG")
    assert (level.doubtful_by, level.base, level.reported) == (None, 12, 10)
    assert (stock.on_hand, stock.committed, stock.available) == (10, 2, 8)


def test_a_sale_under_way_is_never_overwritten(alder: Trade, south: Shop, store: FakeChannel) -> None:
    store.sell(south, "MUG", 2)
    sell_in_north(alder, 3)

    done = run(south, store)

    assert done.stale == 1
    assert store.levels[store.where(south, "MUG")] == 8
    assert south.level("MUG").suspect_reason == "changed before our write"


def test_after_a_stale_write_nothing_is_sent_until_the_level_is_read(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.sell(south, "MUG", 2)
    sell_in_north(alder, 3)
    run(south, store)

    run(south, store)
    assert len(store.writes) == 1
    check(south, store)

    # Two units are missing for a reason not known yet: they leave the pool at once, everywhere.
    assert alder.stock("MUG").available == 5
    publish_batch(engine(), merchant_id=alder.merchant.pk)
    run(south, store)
    assert store.levels[store.where(south, "MUG")] == 5

    deliver(south, "orders/create", order_body(south, 2, ("MUG", 2)))
    apply(alder)
    check(south, store)
    publish_batch(engine(), merchant_id=alder.merchant.pk)

    stock, level = alder.stock("MUG"), south.level("MUG")
    assert (stock.available, stock.held, stock.committed) == (5, 0, 5)
    assert (level.shown, level.desired, level.suspect_since) == (5, 5, None)


def test_rows_refused_by_the_store_do_not_hold_up_the_others(alder: Trade, south: Shop, store: FakeChannel) -> None:
    north = alder.shops["north"]
    store.refused = {store.where(south, "MUG")}
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1), ("TEE", 1)))
    apply(alder)
    publish_batch(engine(), merchant_id=alder.merchant.pk)

    push_channel(engine(stores={south.channel: store}), channel=ref(south.channel))

    assert store.levels[store.where(south, "TEE")] == 4
    assert south.level("MUG").last_error.startswith("NON_MUTABLE_INVENTORY_ITEM")
    assert south.level("MUG").shown == 10


@pytest.mark.parametrize("error", [Unavailable("down"), Paced("our own budget", retry_after=3.0)])
def test_a_channel_that_cannot_be_written_rests_and_keeps_its_work(
    alder: Trade, south: Shop, store: FakeChannel, error: ChannelError
) -> None:
    store.faults = [error]
    sell_in_north(alder, 3)

    done = run(south, store)

    south.channel.refresh_from_db()
    assert done.wait_seconds > 0
    assert south.channel.last_error == str(error)
    assert south.level("MUG").waiting_correlation_ids != []
    assert Push.objects.get().state == PushState.REJECTED
    run(south, store)
    assert store.levels[store.where(south, "MUG")] == 7


def test_a_write_that_the_channel_throttled_is_sent_again_under_the_same_key(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = [Throttled("slow down", retry_after=3.0)]
    sell_in_north(alder, 3)

    run(south, store)
    let_leases_run_out()
    run(south, store)

    [(first_key, _), (second_key, _)] = store.writes
    assert first_key == second_key
    assert store.levels[store.where(south, "MUG")] == 7


def test_a_batch_that_is_refused_without_blame_shrinks_until_the_culprit_stands_alone(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = [Refused("no")]
    sell_in_north(alder, 3)

    run(south, store)

    level = south.level("MUG")
    assert level.push_failures == 1
    assert level.next_push_at > later(0)


def test_a_sender_whose_lease_was_taken_over_has_nothing_to_say(alder: Trade, south: Shop, store: FakeChannel) -> None:
    sell_in_north(alder, 3)
    sleeper = claim_batch(engine(), ref(south.channel), 250)
    assert sleeper is not None
    let_leases_run_out()
    run(south, store)
    before = south.level("MUG").version

    push._send(engine(), ref(south.channel), store, sleeper, Pushed())

    assert south.level("MUG").version == before
    assert south.level("MUG").reported == 7


@pytest.mark.parametrize(("has_keys", "attempts"), [(True, 13), (False, 6)])
def test_a_write_that_is_never_answered_is_left_to_a_reading_later_where_its_key_can_be_asked(
    alder: Trade, south: Shop, store: FakeChannel, has_keys: bool, attempts: int
) -> None:
    store.capabilities = replace(store.capabilities, idempotency_keys=has_keys)
    store.faults = ["lost before"] * attempts
    sell_in_north(alder, 3)

    for _ in range(attempts):
        assert PushBatch.objects.exclude(state=BatchState.UNKNOWN).first() is None
        run(south, store)
        let_leases_run_out()

    assert PushBatch.objects.get().state == BatchState.UNRESOLVED
    audit(south, store)
    assert Push.objects.get().state == PushState.REJECTED
    run(south, store)
    assert store.levels[store.where(south, "MUG")] == 7


def test_the_database_itself_refuses_a_second_open_push_of_a_level(alder: Trade, south: Shop) -> None:
    sell_in_north(alder, 3)
    batch = claim_batch(engine(), ref(south.channel), 250)
    assert batch is not None
    second = Push.objects.get()
    second.pk, second.position = None, 1

    with pytest.raises(IntegrityError, match="push_one_open_per_level"), transaction.atomic():
        second.save(force_insert=True)


def test_decreases_go_first(alder: Trade, south: Shop, store: FakeChannel) -> None:
    ListingLevel.objects.filter(listing=south.listings["TEE"]).update(desired=9)
    sell_in_north(alder, 3)
    store.capabilities = type(store.capabilities)(True, True, 1, 250, 50)

    run(south, store)

    assert [change.inventory_item_id for _, changes in store.writes for change in changes] == [
        south.listings["MUG"].inventory_item_id,
        south.listings["TEE"].inventory_item_id,
    ]


def test_a_suspect_level_is_never_raised(alder: Trade, south: Shop, store: FakeChannel) -> None:
    ListingLevel.objects.filter(listing=south.listings["TEE"]).update(
        desired=9, suspect_since=NOON, suspect_available=4, next_check_at=Now() + timedelta(hours=1)
    )

    run(south, store)

    assert store.writes == []


def test_no_channel_error_is_lost(alder: Trade, south: Shop, store: FakeChannel) -> None:
    store.faults = [OutcomeUnknown("gone", retry_after=7.0)]
    sell_in_north(alder, 3)

    run(south, store)

    assert PushBatch.objects.get().error == "gone"


def test_a_repeat_that_is_refused_as_a_whole_is_left_to_a_reading_and_holds_up_nothing(
    alder: Trade, south: Shop, store: FakeChannel
) -> None:
    store.faults = ["lost after", Refused("no")]
    sell_in_north(alder, 3)
    run(south, store)
    let_leases_run_out()

    done = run(south, store)

    assert len(store.writes) == 2
    assert (PushBatch.objects.get().state, done.has_suspects) == (BatchState.UNRESOLVED, True)
    audit(south, store)
    assert Push.objects.get().state == PushState.CONFIRMED
    assert (south.level("MUG").reported, south.level("MUG").suspect_since) == (7, None)


def test_a_listing_that_is_unmapped_while_it_is_published_is_not_written(
    alder: Trade, south: Shop, store: FakeChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_rules = Tables.load_rules

    def unmapped_meanwhile(self: Tables, *args: Any) -> Any:
        mapping.map_listing(listing=south.listings["MUG"], sku=None, user=None)
        return find_rules(self, *args)

    monkeypatch.setattr(Tables, "load_rules", unmapped_meanwhile)
    sell_in_north(alder, 3)

    run(south, store)

    assert south.level("MUG").desired is None
    assert store.writes == []
