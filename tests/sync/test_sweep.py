"""What no doorbell announced is found; and what the beat's tasks do with it."""

from __future__ import annotations

import pkgutil
from datetime import timedelta
from importlib import import_module
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import IntegrityError, OperationalError
from django.db.models.functions import Now
from django.utils.timezone import now as django_now
from django_celery_beat.models import PeriodicTask
from structlog.testing import capture_logs

from channels.models import BatchState, Channel, ChannelState, InboxEvent, Listing, ListingLevel, PushBatch
from channels.protocol import NotAuthorized, Throttled, Unavailable
from inventory import holding, holds
from inventory import migrations as inventory_migrations
from inventory.holds import Ask
from inventory.models import Hold, HoldState, StockLevel
from merchants.models import AuditEvent
from sync import migrations as sync_migrations
from sync import outage, sweep, tasks
from sync.apply import apply_batch
from sync.models import DirtySku, Heartbeat
from sync.ports import DOUBTFUL
from synctec.celery import app
from synctec.lib import clock
from tests.engine import engine, ref
from tests.factories import NOON, Trade, deliver, later, make_trade, order_body

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def test_there_is_nothing_to_do_when_all_is_quiet(alder: Trade) -> None:
    assert sweep.sweep(now=NOON) == sweep.Found()
    assert Heartbeat.objects.get().beat_at == NOON


def test_events_nobody_rang_for_are_found(alder: Trade) -> None:
    deliver(alder.shops["north"], "orders/create", order_body(alder.shops["north"], 1, ("MUG", 1)))

    assert sweep.sweep(now=NOON).merchants_to_apply == [alder.merchant.pk]


def test_a_level_that_shows_too_much_is_found(alder: Trade) -> None:
    south = alder.shops["south"]
    ListingLevel.objects.filter(listing=south.listings["MUG"]).update(desired=3, next_push_at=Now())

    assert sweep.sweep(now=NOON).channels_to_push == [south.channel.pk]


@pytest.mark.parametrize("state", [ChannelState.PAUSED, ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED])
def test_a_channel_that_is_not_active_is_not_pushed(alder: Trade, state: str) -> None:
    south = alder.shops["south"]
    ListingLevel.objects.filter(listing=south.listings["MUG"]).update(desired=3, next_push_at=Now())
    Channel.objects.filter(pk=south.channel.pk).update(state=state)

    assert sweep.sweep(now=NOON).channels_to_push == []


def test_a_suspect_level_is_found_when_it_is_due(alder: Trade) -> None:
    south = alder.shops["south"]
    levels = ListingLevel.objects.filter(listing=south.listings["MUG"])
    levels.update(suspect_since=NOON, next_check_at=Now() + timedelta(hours=1))
    assert sweep.sweep(now=NOON).channels_to_check == []

    levels.update(next_check_at=Now())

    assert sweep.sweep(now=NOON).channels_to_check == [south.channel.pk]


class TestAClockThatIsSetBack:
    """What the database's clock said an hour ahead of now, at the sweep before."""

    @pytest.fixture(autouse=True)
    def _swept_before(self, alder: Trade) -> None:
        engine().books.mind_clock()
        Heartbeat.objects.filter(name="clock").update(beat_at=Now() + timedelta(hours=1))

    def test_what_is_put_off_waits_no_longer_than_it_would_have(self, alder: Trade) -> None:
        north = alder.shops["north"]
        in_an_hour = Now() + timedelta(hours=1, seconds=-1)
        deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
        InboxEvent.objects.update(next_attempt_at=in_an_hour)
        levels = ListingLevel.objects.filter(listing=north.listings["MUG"])
        levels.update(desired=3, next_push_at=in_an_hour, suspect_since=NOON, next_check_at=in_an_hour)
        Channel.objects.filter(pk=north.channel.pk).update(next_call_at=in_an_hour)

        engine().books.mind_clock()

        assert sweep.sweep(now=NOON) == sweep.Found(
            merchants_to_apply=[alder.merchant.pk],
            channels_to_push=[north.channel.pk],
            channels_to_check=[north.channel.pk],
        )

    def test_a_write_without_an_answer_is_asked_about_again(self, alder: Trade) -> None:
        channel = alder.shops["north"].channel
        PushBatch.objects.create(
            id=uuid4(),
            merchant=alder.merchant,
            channel=channel,
            state=BatchState.UNKNOWN,
            lease_token=1,
            next_attempt_at=Now() + timedelta(minutes=59),
            sent_at=Now(),
        )

        engine().books.mind_clock()

        assert sweep.sweep(now=NOON).channels_to_push == [channel.pk]

    def test_it_is_noticed_once(self, alder: Trade) -> None:
        engine().books.mind_clock()
        levels = ListingLevel.objects.filter(listing=alder.shops["north"].listings["MUG"])
        levels.update(next_push_at=Now() + timedelta(minutes=15))

        engine().books.mind_clock()

        assert levels.filter(next_push_at__gt=Now() + timedelta(minutes=14)).count() == levels.count() > 0

    def test_samples_are_taken_anew_and_doubts_are_as_old_as_they_were(self, alder: Trade) -> None:
        levels = ListingLevel.objects.filter(listing=alder.shops["north"].listings["MUG"])
        an_hour_ahead = Now() + timedelta(hours=1)
        levels.update(
            suspect_since=NOON,
            sample=7,
            since_sample=0,
            sample_pushed=0,
            sampled_ahead=timedelta(0),
            sampled_from=NOON,
            sampled_until=NOON,
            doubtful_from=an_hour_ahead,
            doubtful_until=an_hour_ahead,
            doubtful_lowers=[3],
            doubtful_lowers_at=[django_now() + timedelta(hours=1)],
        )

        engine().books.mind_clock()

        level = levels.get()
        assert (level.sample, level.since_sample, level.sampled_from) == (None, None, None)
        assert level.doubtful_from is not None
        assert abs(level.doubtful_from - django_now()) < timedelta(minutes=1)
        assert abs(level.doubtful_lowers_at[0] - django_now()) < timedelta(minutes=1)

    def test_a_doubt_lasts_no_longer_than_a_request_can(self, alder: Trade) -> None:
        levels = ListingLevel.objects.filter(listing=alder.shops["north"].listings["MUG"])
        levels.update(doubtful_by=1, doubtful_until=Now() + timedelta(hours=1))

        engine().books.mind_clock()

        assert levels.filter(doubtful_until__gt=Now() + DOUBTFUL).count() == 0
        assert levels.filter(doubtful_until__gt=Now() + DOUBTFUL - timedelta(seconds=30)).count() == levels.count() > 0


def test_a_channel_that_fails_rests_longer_each_time(alder: Trade) -> None:
    channel = alder.shops["south"].channel

    outage.note_failure(engine(), ref(channel), Unavailable("down"))

    channel.refresh_from_db()
    assert (channel.failures, channel.last_error, channel.state) == (1, "down", ChannelState.ACTIVE)


def test_what_the_others_show_is_computed_anew_as_an_outage_goes_on() -> None:
    channel = make_trade(policy="guard").shops["south"].channel
    told = []

    for failure in range(1, 18):
        DirtySku.objects.all().delete()
        outage.note_failure(engine(), ref(channel), Unavailable("down"))
        if DirtySku.objects.exists():
            told.append(failure)

    assert told == [2, 4, 8, 16]


def test_being_throttled_is_no_failure(alder: Trade) -> None:
    channel = alder.shops["south"].channel

    outage.note_failure(engine(), ref(channel), Throttled("wait", retry_after=9))

    channel.refresh_from_db()
    assert channel.failures == 0


def test_a_channel_that_refuses_our_credentials_waits_for_a_person(alder: Trade) -> None:
    channel = alder.shops["south"].channel

    outage.note_failure(engine(), ref(channel), NotAuthorized("scope missing"))

    channel.refresh_from_db()
    assert (channel.state, channel.state_reason) == (ChannelState.NEEDS_AUTH, "scope missing")
    assert AuditEvent.objects.filter(action="channel.needs_auth").count() == 1


def test_every_scheduled_task_exists() -> None:
    # Tests with transactions of their own empty the table that the migration filled.
    for package in (sync_migrations, inventory_migrations):
        for found in pkgutil.iter_modules(package.__path__):
            migration = import_module(f"{package.__name__}.{found.name}")
            if hasattr(migration, "create_schedule"):
                migration.create_schedule(apps, None)
    app.loader.import_default_modules()

    scheduled = set(PeriodicTask.objects.exclude(name="celery.backend_cleanup").values_list("task", flat=True))

    assert scheduled == {
        "sync.tasks.sweep",
        "sync.tasks.reconcile_all",
        "sync.tasks.check_webhooks",
        "sync.tasks.audit",
        "sync.tasks.explain",
        "sync.tasks.report",
        "sync.tasks.forget_bodies",
        "sync.tasks.forget_history",
        "sync.tasks.keep_scores",
        "sync.tasks.compare_shadows",
        "sync.tasks.evaluate_alerts",
        "merchants.tasks.sweep_targets",
        "inventory.tasks.sweep_endpoints",
        "inventory.tasks.forget_old",
    }
    assert scheduled <= set(app.tasks)


def test_ringing_never_fails_when_the_broker_is_away(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(tasks.apply, "delay", refuse)
    monkeypatch.setattr(tasks, "_broker_rests_until", 0.0)

    tasks.ring_apply(alder.merchant.pk)

    assert tasks._broker_rests_until > 0


@pytest.fixture
def broken(alder: Trade) -> Trade:
    """Birch, which has as much to do as Alder; but its stock says that nothing is held, and its holds cannot end."""
    birch = make_trade("Birch")
    for trade in (birch, alder):
        north = trade.shops["north"]
        holding.hold([Ask("MUG", 4)], merchant_id=trade.merchant.pk, now=NOON)
        Listing.objects.filter(pk=north.listings["TEE"].pk).update(sku=None)
        deliver(north, "orders/create", order_body(north, 1, ("TEE", 2)))
        apply_batch(engine(later(10)), merchant_id=trade.merchant.pk)
        Listing.objects.filter(pk=north.listings["TEE"].pk).update(sku=trade.skus["TEE"])
    StockLevel.objects.filter(merchant=birch.merchant).update(held=0)
    return birch


def test_what_is_wrong_with_one_merchant_keeps_the_sweep_from_no_other(
    alder: Trade, broken: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(tasks, "ring_apply", rung.append)
    monkeypatch.setattr(clock, "now", lambda: later(3600))

    tasks.sweep()

    assert alder.stock("MUG").held == 0
    assert Hold.objects.get(merchant=alder.merchant).state == HoldState.RELEASED
    assert Hold.objects.get(merchant=broken.merchant).state == HoldState.ACTIVE
    assert set(rung) == {alder.merchant.pk, broken.merchant.pk}


def test_lines_that_cannot_be_taken_up_keep_the_sweep_from_nothing_else(
    alder: Trade, broken: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_up = sweep._take_up

    def refuse(merchant_id: int) -> int:
        if merchant_id == broken.merchant.pk:
            raise IntegrityError("a row that no update may touch")
        return take_up(merchant_id)

    monkeypatch.setattr(sweep, "_take_up", refuse)

    assert sweep.take_up_placeable_lines() == 1


def test_a_step_that_fails_is_logged_and_the_next_ones_are_taken(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> int:
        raise ValueError("a row that nobody can read")

    rung: list[int] = []
    monkeypatch.setattr(tasks, "ring_apply", rung.append)
    monkeypatch.setattr(holds, "sweep", fail)
    deliver(alder.shops["north"], "orders/create", order_body(alder.shops["north"], 1, ("MUG", 1)))

    with capture_logs() as logged:
        tasks.sweep()

    assert rung == [alder.merchant.pk]
    assert [(line["event"], line["step"]) for line in logged] == [("step.failed", "sweep holds")]


def test_a_merchant_with_many_expired_holds_keeps_the_sweep_from_no_other(alder: Trade) -> None:
    birch = make_trade("Birch")
    for seconds, trade in enumerate((birch, birch, birch, alder)):
        holding.hold([Ask("MUG", 1)], merchant_id=trade.merchant.pk, now=later(seconds))

    assert holds.sweep(now=later(3600), limit=2) == 3

    assert alder.stock("MUG").held == 0


def test_webhooks_of_a_channel_that_make_no_sense_keep_those_of_no_other_from_being_checked(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = (shop.channel for shop in alder.shops.values())
    checked: list[int] = []

    def check(channel: Channel) -> None:
        checked.append(channel.pk)
        if channel == north:
            raise LookupError("an answer without subscriptions")

    monkeypatch.setattr(tasks, "_check_webhooks", check)

    tasks.check_webhooks()

    assert set(checked) == {north.pk, south.pk}


def test_while_the_database_is_away_a_store_waits_for_the_next_sweep_and_its_bell_can_be_rung(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel_id = alder.shops["north"].channel.pk
    bell = tasks._bell("push")
    assert bell.press(str(channel_id))

    def away(*_: object, **__: object) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(Channel.objects, "filter", away)
    with capture_logs() as logged:
        for task in (tasks.push, tasks.check, tasks.poll, tasks.reconcile, tasks.full_sync, tasks.activate):
            task(channel_id)

    assert [(line["event"], line["channel_id"]) for line in logged] == [("task.database_away", channel_id)] * 6
    assert bell.press(str(channel_id))


def test_a_store_that_is_no_longer_there_is_no_error(alder: Trade) -> None:
    with capture_logs() as logged:
        tasks.check(0)
        tasks.push(0)

    assert logged == []
