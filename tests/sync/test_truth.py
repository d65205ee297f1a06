"""Passes, the log of what they found and why, and the alarm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from pytest_django.fixtures import Settings

from channels import steering
from channels.models import Channel, ListingLevel
from channels.protocol import LevelState, Paced, PolledOrder
from merchants.models import AuditEvent
from sync import due, passes
from sync.check import check_channel
from sync.explain import explain
from sync.invariants import violations
from sync.models import Cause, Difference, Drift, DriftAction, ReconcileRun, RunKind, RunState
from sync.passes import reconcile
from sync.publish import publish_batch
from sync.push import push_channel
from sync.reconcile import poll_orders
from sync.reports import figures
from synctec.lib import clock
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body, polled_body
from tests.fakes import FakeChannel
from tests.sync.test_apply import apply

pytestmark = pytest.mark.django_db(transaction=True)

CODES = [f"MUG-{number}" for number in range(40)]


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


def run_pass(shop: Shop, store: FakeChannel, now: datetime) -> ReconcileRun:
    run = reconcile(engine(now, {shop.channel: store}), channel=shop.channel)
    assert run is not None
    return run


def settle(trade: Trade, shop: Shop, store: FakeChannel, now: datetime) -> None:
    """What the workers do within some two minutes of a pass."""
    working = engine(now, {shop.channel: store})
    apply(trade)
    for seconds in (0, 62, 64):
        working = engine(now + timedelta(seconds=seconds), {shop.channel: store})
        ListingLevel.objects.filter(suspect_since__isnull=False).update(next_check_at=Now())
        check_channel(working, channel=ref(shop.channel))
        poll_orders(working, channel=ref(shop.channel))
        apply(trade)
    explain(now=now + timedelta(seconds=70))


def drifts(**wanted: object) -> list[tuple[str, str, int]]:
    return [
        (drift.cause, drift.action, drift.actual - drift.expected)
        for drift in Drift.objects.filter(**wanted).order_by("listing_level_id", "id")
    ]


# --- what was found, and why --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thirty_planted_drifts_of_five_kinds_are_found_and_explained_rightly_and_repeated_ones_flagged() -> None:
    trade = make_trade(stock_of=dict.fromkeys(CODES, 10))
    north = trade.shops["north"]
    Channel.objects.update(drift_alarm_levels=1_000)
    store = FakeChannel.of(north)
    planted: dict[str, tuple[str, int]] = {}
    for turn, code in enumerate(CODES[:30]):
        kind, units, where = turn % 5, 1 + turn % 3, store.where(north, code)
        if kind == 0:  # an order whose webhook was lost
            store.levels[where] -= units
            store.orders.append(PolledOrder(str(turn), later(10), polled_body(north, turn, code, units)))
            planted[code] = (Cause.RECOVERED_ORDER, -units)
        elif kind == 1:  # somebody takes units
            store.levels[where] -= units
            planted[code] = (Cause.BY_HAND, -units)
        elif kind == 2:  # somebody adds units
            store.levels[where] += units
            planted[code] = (Cause.BY_HAND, units)
        elif kind == 3:  # a lower of ours that was given up comes true
            level = ListingLevel.objects.filter(listing=north.listings[code])
            level.update(doubtful_lowers=[units], doubtful_lowers_at=[later(-60)])
            store.levels[where] -= units
            planted[code] = (Cause.LATE_WRITE, -units)
        else:  # the store no longer stocks it
            del store.levels[where]
            planted[code] = (Cause.NOT_STOCKED, -10)

    run = run_pass(north, store, later(200))
    settle(trade, north, store, later(200))

    found = {
        drift.listing_level.listing.remote_sku: (drift.cause, drift.actual - drift.expected)
        for drift in Drift.objects.select_related("listing_level__listing")
    }
    assert found == planted
    assert Drift.objects.count() == 30
    assert set(Drift.objects.values_list("run_id", flat=True)) == {run.pk}
    assert (run.levels_read, run.levels_suspect, run.orders_recovered) == (40, 30, 6)
    assert not Difference.objects.exists()
    told = figures(trade.merchant, NOON.date())
    assert {cause: counts["findings"] for cause, counts in told["by_cause"].items()} == {
        "recovered_order": 6, "by_hand": 12, "late_write": 6, "not_stocked": 6
    }  # fmt: skip
    assert (told["accuracy"], told["orders_recovered"], told["offenders"]) == (25.0, 6, [])

    again = [code for code in CODES[:30] if planted[code] == (Cause.BY_HAND, -2)]
    publish_batch(engine(), merchant_id=trade.merchant.pk)
    store = FakeChannel.of(north)
    for code in CODES:
        if not north.level(code).is_stocked:
            del store.levels[store.where(north, code)]
    for code in again:
        store.levels[store.where(north, code)] -= 1
    run_pass(north, store, later(2_000))
    settle(trade, north, store, later(2_000))

    offenders = figures(trade.merchant, NOON.date())["offenders"]
    assert sorted(one["sku"] for one in offenders) == sorted(again)
    assert {one["times"] for one in offenders} == {2}
    assert list(violations(when_quiet=False)) == []


def test_an_order_read_before_its_webhook_came_is_told_as_in_flight(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]

    run_pass(north, store, later(20))
    settle(alder, north, store, later(20))
    explain(now=later(200))

    assert drifts() == [(Cause.ORDER_IN_FLIGHT, DriftAction.EXPLAINED, -2)]


def test_an_order_that_a_webhook_has_told_of_is_not_recovered_by_reading_it_again(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    deliver(north, "orders/create", order_body(north, 77, ("MUG", 2)))
    apply(alder)
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]

    run_pass(north, store, later(200))
    settle(alder, north, store, later(200))

    assert drifts() == []


def test_a_sale_whose_webhook_comes_while_the_level_is_being_checked_is_in_flight(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    run_pass(north, store, later(20))
    deliver(north, "orders/create", order_body(north, 77, ("MUG", 2)))

    settle(alder, north, store, later(20))

    assert drifts() == [(Cause.ORDER_IN_FLIGHT, DriftAction.EXPLAINED, -2)]


def test_a_number_that_the_next_reading_does_not_show_was_passing(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.levels[store.where(north, "MUG")] = 7
    run_pass(north, store, later(20))
    store.levels[store.where(north, "MUG")] = 10

    settle(alder, north, store, later(20))

    assert drifts() == [(Cause.PASSING, DriftAction.EXPLAINED, -3)]


def test_what_is_partly_an_order_and_partly_a_hand_is_told_as_both(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    store.sell(north, "MUG", 2)
    store.levels[store.where(north, "MUG")] -= 3
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]

    run_pass(north, store, later(200))
    settle(alder, north, store, later(200))

    assert sorted(drifts()) == [
        (Cause.BY_HAND, DriftAction.ADOPTED, -3),
        (Cause.RECOVERED_ORDER, DriftAction.EXPLAINED, -2),
    ]


def test_a_difference_waits_until_its_level_is_settled(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.levels[store.where(north, "MUG")] = 6

    run = run_pass(north, store, later(200))
    explain(now=later(210))

    waiting = Difference.objects.get()
    assert (waiting.run_id, waiting.expected, waiting.actual, waiting.previous_confirmed_at) == (run.pk, 10, 6, NOON)
    assert drifts() == []


def test_explaining_twice_or_at_once_says_everything_once(alder: Trade, north: Shop, store: FakeChannel) -> None:
    store.sell(north, "MUG", 2)
    store.orders = [PolledOrder("77", later(10), polled_body(north, 77, "MUG", 2))]
    store.levels[store.where(north, "TEE")] = 3
    run_pass(north, store, later(200))
    settle(alder, north, store, later(200))

    assert explain(now=later(300)) == 0

    assert len(drifts()) == 2


def test_rows_in_flight_are_judged_as_of_their_moment(alder: Trade, north: Shop, store: FakeChannel) -> None:
    """While the store answers, a sale is booked: what it showed before says nothing of the level's books after."""

    def sells_meanwhile() -> None:
        store.while_reading = None
        store.sell(north, "MUG", 2)
        deliver(north, "orders/create", order_body(north, 77, ("MUG", 2)))
        apply(alder)

    store.while_reading = sells_meanwhile

    run = run_pass(north, store, later(20))

    assert (run.levels_read, run.levels_suspect) == (2, 0)
    assert not Difference.objects.exists()


# --- one pass at a time -------------------------------------------------------------------------------------------


class Paged(FakeChannel):
    """One listing a call; something may happen before a call."""

    before_reading: Callable[[], None] | None = None

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        if self.before_reading is not None:
            self.before_reading()
        asked.append(tuple(inventory_item_ids))
        return super().read_levels(inventory_item_ids)


asked: list[tuple[str, ...]] = []


@pytest.fixture
def paged(north: Shop) -> Paged:
    asked.clear()
    paged = Paged.of(north)
    paged.capabilities = type(paged.capabilities)(
        compare_and_set=True, idempotency_keys=True, rows_per_write=250, levels_per_read=1, orders_per_read=50
    )
    return paged


def items(shop: Shop, *codes: str) -> list[tuple[str, ...]]:
    return [(shop.listings[code].inventory_item_id,) for code in codes]


def test_who_comes_while_somebody_is_at_a_pass_leaves_it_to_them(north: Shop, paged: Paged) -> None:
    others: list[ReconcileRun | None] = []

    def another_comes() -> None:
        paged.before_reading = None
        others.append(reconcile(engine(NOON, {north.channel: paged}), channel=north.channel))

    paged.before_reading = another_comes

    assert run_pass(north, paged, NOON).state == RunState.DONE
    assert others == [None]
    row = {"merchant": north.channel.merchant, "channel": north.channel, "started_at": NOON}
    ReconcileRun.objects.create(**row)
    with pytest.raises(IntegrityError), transaction.atomic():
        ReconcileRun.objects.create(**row)


def test_a_pass_whose_worker_was_killed_goes_on_where_it_stood_once_the_lease_has_run_out(
    north: Shop, paged: Paged
) -> None:
    def dies() -> None:
        if asked:
            raise KeyboardInterrupt

    paged.before_reading = dies
    with pytest.raises(KeyboardInterrupt):
        run_pass(north, paged, NOON)
    paged.before_reading = None
    assert reconcile(engine(NOON, {north.channel: paged}), channel=north.channel) is None
    ReconcileRun.objects.update(leased_until=Now())

    run = run_pass(north, paged, NOON)

    assert (run.state, run.levels_read, ReconcileRun.objects.count()) == (RunState.DONE, 2, 1)
    assert asked == items(north, "MUG", "TEE")


def test_whoever_lost_the_lease_writes_nothing_more(north: Shop, paged: Paged) -> None:
    store_shows = paged.levels[paged.where(north, "TEE")] - 1
    paged.levels[paged.where(north, "TEE")] = store_shows

    def is_taken_over() -> None:
        if asked:
            paged.before_reading = None
            ReconcileRun.objects.update(leased_until=Now())
            run_pass(north, paged, NOON)

    paged.before_reading = is_taken_over

    run = run_pass(north, paged, NOON)

    assert (run.state, run.levels_read, run.levels_suspect) == (RunState.DONE, 2, 1)
    assert Difference.objects.count() == 1


def test_a_pass_that_began_in_the_middle_and_gave_way_goes_round_once(north: Shop, paged: Paged) -> None:
    first = north.listings["MUG"].pk
    ReconcileRun.objects.create(
        merchant=north.channel.merchant,
        channel=north.channel,
        started_at=NOON,
        finished_at=NOON,
        state=RunState.FAILED,
        compared_to=first,
    )
    working = engine(NOON, {north.channel: paged})

    run = reconcile(working, channel=north.channel, shift=timedelta(0))
    assert run is not None
    assert (run.state, asked) == (RunState.RUNNING, items(north, "TEE"))
    run = reconcile(working, channel=north.channel, shift=timedelta(0))
    assert run is not None
    run = run if run.state == RunState.DONE else reconcile(working, channel=north.channel)

    assert run is not None
    assert (run.state, run.levels_read, asked) == (RunState.DONE, 2, items(north, "TEE", "MUG"))


def test_a_channel_that_asks_to_wait_has_its_pass_rest(north: Shop, paged: Paged) -> None:
    def waits() -> None:
        if asked:
            raise Paced("The channel's budget is used up for 3.1 s.", code="PACED", retry_after=3.1)

    paged.before_reading = waits
    with pytest.raises(Paced):
        run_pass(north, paged, NOON)

    paged.before_reading = None
    run = passes.under_way(north.channel.pk)
    assert run is not None
    assert (run.state, run.levels_read, run.error) == (RunState.RUNNING, 1, "")
    assert timedelta(0) < run.leased_until - clock.now() <= timedelta(seconds=3.1)
    assert due.due(now=clock.now()) == [due.Due(channel, RunKind.PASS) for channel in others(north)]
    ReconcileRun.objects.update(leased_until=Now())
    assert due.due(now=clock.now())[0] == due.Due(north.channel.pk, RunKind.PASS)
    assert run_pass(north, paged, NOON).levels_read == 2


def others(shop: Shop) -> list[int]:
    return list(Channel.objects.exclude(pk=shop.channel.pk).values_list("pk", flat=True))


def test_a_pass_is_cancelled_at_its_next_page(north: Shop, paged: Paged) -> None:
    def is_cancelled() -> None:
        passes.cancel(run_id=ReconcileRun.objects.get().pk, user=None, now=NOON)

    paged.before_reading = is_cancelled

    run = run_pass(north, paged, NOON)

    assert (run.state, run.levels_read) == (RunState.CANCELLED, 1)
    assert not passes.cancel(run_id=run.pk, user=None, now=NOON)


def test_a_pass_that_nobody_is_at_is_cancelled_at_once(north: Shop) -> None:
    run = ReconcileRun.objects.create(merchant=north.channel.merchant, channel=north.channel, started_at=NOON)

    assert passes.cancel(run_id=run.pk, user=None, now=NOON)

    run.refresh_from_db()
    assert run.state == RunState.CANCELLED


def test_how_often_is_what_the_schedule_says_and_no_more_than_a_few_run_at_once() -> None:
    trade = make_trade(shops=tuple(f"shop{number}" for number in range(9)), stock_of={"MUG": 1})
    task, _ = PeriodicTask.objects.get_or_create(
        task=due.SCHEDULE,
        defaults={"name": "every", "interval": IntervalSchedule.objects.create(every=2, period="hours")},
    )
    every, _ = IntervalSchedule.objects.get_or_create(every=4, period="hours")
    task.interval = every
    task.save()

    assert due.interval() == timedelta(hours=4)
    assert len(due.due(now=NOON)) == due.AT_ONCE
    ReconcileRun.objects.create(
        merchant=trade.merchant,
        channel=trade.shops["shop0"].channel,
        started_at=NOON,
        leased_until=clock.now() + timedelta(minutes=1),
    )
    assert len(due.due(now=NOON)) == due.AT_ONCE - 1
    task.enabled = False
    task.save()
    assert due.due(now=NOON) == []


# --- the alarm ----------------------------------------------------------------------------------------------------


def alarm(shop: Shop, *, percent: int = 2, levels: int = 1) -> None:
    Channel.objects.filter(pk=shop.channel.pk).update(drift_alarm_percent=percent, drift_alarm_levels=levels)


@pytest.mark.parametrize(
    ("percent", "levels", "expected"), [(2, 1, True), (2, 10, False), (50, 1, False), (49, 1, True)]
)
def test_the_alarm_is_raised_over_a_share_of_the_levels_and_a_number_of_them(
    north: Shop, store: FakeChannel, percent: int, levels: int, expected: bool
) -> None:
    alarm(north, percent=percent, levels=levels)
    store.levels[store.where(north, "TEE")] = 1

    run = run_pass(north, store, NOON)

    channel = Channel.objects.get(pk=north.channel.pk)
    assert run.is_alarming is expected
    assert (channel.raises_paused_at is not None) is expected
    assert AuditEvent.objects.filter(action="channel.pause_raises").count() == int(expected)


def test_after_an_alarm_lowers_go_on_and_raises_wait_for_a_clean_pass(
    alder: Trade, north: Shop, store: FakeChannel
) -> None:
    alarm(north)
    store.levels[store.where(north, "TEE")] = 1
    run_pass(north, store, NOON)
    store.levels[store.where(north, "TEE")] = 5
    settle(alder, north, store, NOON)
    mug, tee = (ListingLevel.objects.filter(pk=north.level(code).pk) for code in ("MUG", "TEE"))
    mug.update(desired=12, next_push_at=Now())
    tee.update(desired=3, next_push_at=Now())
    working = engine(later(100), {north.channel: store})

    push_channel(working, channel=ref(north.channel))
    assert [store.levels[store.where(north, code)] for code in ("MUG", "TEE")] == [10, 3]

    run = run_pass(north, store, later(200))
    push_channel(working, channel=ref(north.channel))

    assert not run.is_alarming
    assert Channel.objects.get(pk=north.channel.pk).raises_paused_at is None
    assert store.levels[store.where(north, "MUG")] == 12


def test_somebody_who_has_looked_lets_raises_go_on(alder: Trade, north: Shop) -> None:
    steering.pause_raises(channel_id=north.channel.pk, reason="too much differs", now=NOON)
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(desired=12, next_push_at=Now())
    pick = engine().books.out_of_sync
    with transaction.atomic():
        assert pick(north.channel.pk, 10) == []

    assert steering.resume_raises(channel_id=north.channel.pk, user=None, reason="it was a count")

    with transaction.atomic():
        assert [level.desired for level in pick(north.channel.pk, 10)] == [12]
    assert not steering.resume_raises(channel_id=north.channel.pk, user=None, reason="again")
    assert AuditEvent.objects.get(action="channel.resume_raises").before == {"reason": "too much differs"}


def test_units_are_not_given_to_a_store_whose_raises_are_paused() -> None:
    trade = make_trade(policy="split", stock_of={"MUG": 10})
    shown = {"north": 2, "south": 2}
    for name, units in shown.items():
        ListingLevel.objects.filter(pk=trade.shops[name].level("MUG").pk).update(base=units, desired=units)

    steering.pause_raises(channel_id=trade.shops["north"].channel.pk, reason="too much differs", now=NOON)
    publish_batch(engine(), merchant_id=trade.merchant.pk)

    assert trade.shops["north"].level("MUG").desired == 2
    assert trade.shops["south"].level("MUG").desired == 8
    assert list(violations(when_quiet=False)) == []


def test_an_alarming_pass_says_so_before_it_has_read_everything(north: Shop, paged: Paged) -> None:
    alarm(north)
    paged.levels[paged.where(north, "MUG")] = 1
    seen: list[bool] = []

    def looks() -> None:
        seen.append(Channel.objects.get(pk=north.channel.pk).raises_paused_at is not None)

    paged.before_reading = looks

    run_pass(north, paged, NOON)

    assert (seen[0], seen[-1]) == (False, True)
