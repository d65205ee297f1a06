"""Alerts from the database's facts to what people are told: one per cause, no storm, and the end of it is told, too."""

from __future__ import annotations

import random
import threading
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from channels import protocol, steering, subscriptions
from channels.models import (
    BatchState,
    Channel,
    ChannelState,
    Credential,
    EventState,
    InboxEvent,
    ListingLevel,
    Push,
    PushBatch,
    PushState,
    SubscriptionCheck,
)
from inventory.models import BomLine, Shortage, Sku, SkuKind, StockLevel, Warehouse
from merchants import notices, targets
from merchants.models import (
    Merchant,
    NoticeKind,
    Notification,
    NotificationMessage,
    NotificationTarget,
    Severity,
    TargetWay,
)
from merchants.targets import Wishes
from sync import letters
from sync.alerts import deeds, evaluate, questions
from sync.alerts.questions import Observed
from sync.alerts.rules import BY_NAME, CALM, RELIEF
from sync.models import (
    Alert,
    AlertState,
    AuditResult,
    Heartbeat,
    HeldLevel,
    HeldState,
    HoldKind,
    ProcessBeat,
    PushHold,
    ReconcileRun,
    RuleCheck,
    RuleOverride,
    RunState,
    SizeSample,
)
from tests.factories import NOON, Trade, add_warehouse, deliver, later, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def trade(settings: Any) -> Trade:
    """Alder, whose every trouble is told to one address."""
    settings.EMAIL_HOST = "mail.test"
    trade = make_trade()
    Channel.objects.update(created_at=NOON)
    ListingLevel.objects.update(waiting_since=None)
    hear(trade.merchant)
    return trade


def hear(merchant: Merchant, name: str = "Shop") -> NotificationTarget:
    target, _ = targets.create(
        merchant=merchant,
        name=name,
        way=TargetWay.EMAIL,
        address="shop@alder.test",
        wishes=Wishes(minimum_severity=Severity.INFO, kinds=NoticeKind.values, hourly_max=60),
        user=None,
    )
    NotificationTarget.objects.update(next_attempt_at=NOON)
    return target


def all_well(at: float) -> None:
    """Beat and workers go on."""
    Heartbeat.objects.update_or_create(name="beat", defaults={"beat_at": later(at)})
    ProcessBeat.objects.update_or_create(
        name="worker-1@here", defaults={"started_at": NOON, "progressed_at": later(at)}
    )


def look(at: float, *, well: bool = True, observed: Observed | None = None) -> None:
    """Evaluate, and tell whoever is due, as of that second."""
    if well:
        all_well(at)
    assert evaluate.evaluate(now=later(at), observed=observed) is not None
    for target_id in notices.due(later(at)):
        notices.deliver(target_id, now=lambda: later(at), rng=random.Random(1))


def looks(start: float, end: float, *, every: float = 30, **options: Any) -> None:
    """Evaluate again and again."""
    second = start
    while second <= end:
        look(second, **options)
        second += every


def open_alerts() -> list[tuple[str, str]]:
    """Rule and state of what is open, in the order in which it was raised."""
    return list(Alert.objects.exclude(state="recovered").order_by("pk").values_list("rule", "state"))


def subjects_told() -> list[str]:
    """What letters say on the outside; a thin space is a space in a header."""
    return [letter.subject.replace("\u202f", " ") for letter in outbox.outbox]


def kill_events(trade: Trade, number: int, shop: str = "north") -> None:
    event = deliver(trade.shops[shop], "orders/create", b"{}")
    InboxEvent.objects.filter(pk=event.pk).delete()
    InboxEvent.objects.bulk_create(
        InboxEvent(
            merchant=trade.merchant,
            channel=trade.shops[shop].channel,
            topic="orders/create",
            webhook_id=str(uuid.uuid4()),
            body_kept_on=NOON.date(),
            body_sha256=b"",
            hlc=0,
            received_at=NOON,
            correlation_id=uuid.uuid4(),
            state=EventState.DEAD,
            reason="malformed: id: expected a number",
            settled_at=NOON,
        )
        for _ in range(number)
    )
    letters.keep()


def test_when_all_is_well_nobody_is_told_anything(trade: Trade) -> None:
    looks(0, 300)

    assert not Alert.objects.exists()
    assert not Notification.objects.exists()
    assert RuleCheck.objects.filter(failing_since=None).count() == len(BY_NAME)


class TestStorms:
    def test_a_thousand_dead_letters_are_one_message(self, trade: Trade) -> None:
        kill_events(trade, 1000)

        looks(0, 1800, every=120)

        assert open_alerts() == [("dead_letters", "firing")]
        assert subjects_told() == ["[Alder] ◆ Critical: 1 000 events or writes of North were given up"]

    def test_a_thousand_dead_letters_one_after_the_other_are_a_few(self, trade: Trade) -> None:
        for turn in range(25):
            kill_events(trade, 40)
            look(turn * 120)

        assert Alert.objects.count() == 1
        # The first, that it became critical, and once more within the hour at most.
        assert 1 <= len(outbox.outbox) <= 3
        assert Alert.objects.get().value == 1000

    def test_ten_channels_with_dead_letters_at_once_are_one_message(self, settings: Any) -> None:
        settings.EMAIL_HOST = "mail.test"
        trade = make_trade(shops=tuple(f"shop-{number}" for number in range(10)))
        hear(trade.merchant)
        for shop in trade.shops:
            kill_events(trade, 5, shop)

        looks(0, 300, every=60)

        assert Alert.objects.filter(state="firing").count() == 10
        assert len(outbox.outbox) == 1
        assert "and 9 more" in outbox.outbox[0].subject

    def test_an_outage_swallows_what_follows_from_it(self, trade: Trade) -> None:
        channel = trade.shops["north"].channel
        Channel.objects.filter(pk=channel.pk).update(failing_since=NOON, last_error="503", created_at=NOON)
        deliver(trade.shops["north"], "orders/create", b"{}")
        ListingLevel.objects.filter(listing=trade.shops["north"].listings["MUG"]).update(
            desired=3, push_failures=5, last_error="503", waiting_since=NOON, next_push_at=Now() + timedelta(days=1)
        )
        letters.keep()

        looks(0, 420)

        told = {(alert.rule, alert.cause) for alert in Alert.objects.filter(state="firing")}
        cause = f"channel_outage channel:{channel.pk}"
        assert ("channel_outage", "") in told
        assert ("queue_lag", cause) in told
        assert ("dead_letters", cause) in told
        assert subjects_told() == ["[Alder] ▲ Warning: North has not answered for 2.5 min"]
        assert "It says: 503" in outbox.outbox[0].body

    def test_what_outlasts_the_outage_is_told_once_it_is_over(self, trade: Trade) -> None:
        channel = trade.shops["north"].channel
        Channel.objects.filter(pk=channel.pk).update(failing_since=NOON)
        kill_events(trade, 3)
        looks(0, 240)
        outbox.outbox.clear()

        Channel.objects.filter(pk=channel.pk).update(failing_since=None)
        looks(270, 270 + (CALM + RELIEF).total_seconds() + 120, every=60)

        assert subjects_told() == [
            "[Alder] ✓ Recovered: Over: North has not answered for 4.0 min",
            "[Alder] ▲ Warning: 3 events or writes of North were given up",
        ]


def test_the_end_is_told(trade: Trade) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    InboxEvent.objects.all().delete()
    letters.keep()
    looks(150, 600, every=60)

    alert = Alert.objects.get()
    assert alert.state == AlertState.RECOVERED
    assert alert.recovered_at == later(150) + CALM
    assert subjects_told()[-1] == "[Alder] ✓ Recovered: Over: 2 events or writes of North were given up"
    assert len(outbox.outbox) == 2


def test_a_cause_that_comes_back_is_a_new_alert(trade: Trade) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    InboxEvent.objects.all().delete()
    letters.keep()
    looks(150, 600, every=60)
    kill_events(trade, 1)
    looks(630, 900, every=60)

    assert [alert.state for alert in Alert.objects.order_by("pk")] == ["recovered", "firing"]


def test_what_has_been_acknowledged_is_not_told_again_but_its_end_is(trade: Trade) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    alert = Alert.objects.get()
    deeds.acknowledge(alert.pk, merchant_id=trade.merchant.pk, note="On it", now=later(130), user=None)
    kill_events(trade, 20)
    looks(150, 2 * 3600, every=600)
    assert len(outbox.outbox) == 1

    InboxEvent.objects.all().delete()
    letters.keep()
    looks(7300, 7800, every=60)

    assert len(outbox.outbox) == 2
    alert.refresh_from_db()
    assert (alert.state, alert.note, alert.acknowledged_at) == ("recovered", "On it", later(130))


def test_what_is_put_off_is_told_when_the_time_is_over(trade: Trade) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    deeds.snooze(Alert.objects.get().pk, merchant_id=trade.merchant.pk, until=later(1000), now=later(130), user=None)

    looks(150, 990, every=120)
    assert len(outbox.outbox) == 1
    looks(1000, 1200)

    assert subjects_told()[1:] == ["[Alder] ▲ Warning: Still: 2 events or writes of North were given up"]


def test_a_deed_to_an_alert_that_is_over_is_refused(trade: Trade) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    alert = Alert.objects.get()
    Alert.objects.update(state=AlertState.RECOVERED, recovered_at=NOON)

    with pytest.raises(deeds.DeedRefused):
        deeds.acknowledge(alert.pk, merchant_id=trade.merchant.pk, note="", now=NOON, user=None)
    with pytest.raises(Alert.DoesNotExist):
        deeds.acknowledge(alert.pk, merchant_id=trade.merchant.pk + 1, note="", now=NOON, user=None)


def test_a_merchant_may_have_other_thresholds_and_switch_rules_off(trade: Trade) -> None:
    kill_events(trade, 2)
    override = RuleOverride.objects.create(merchant=trade.merchant, rule="dead_letters", raise_at=3)
    looks(0, 300, every=60)
    assert not Alert.objects.exists()

    RuleOverride.objects.filter(pk=override.pk).update(raise_at=2)
    looks(330, 600, every=60)
    assert open_alerts() == [("dead_letters", "firing")]

    RuleOverride.objects.filter(pk=override.pk).update(is_on=False)
    looks(630, 700)
    assert open_alerts() == []
    assert len(outbox.outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_two_who_evaluate_at_once_make_one_alert(trade: Trade) -> None:
    kill_events(trade, 2)
    all_well(0)
    evaluate.evaluate(now=NOON)
    all_well(90)
    results: list[object] = []
    begin = threading.Barrier(4)

    def work() -> None:
        begin.wait()
        try:
            results.append(evaluate.evaluate(now=later(90)))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 4
    assert open_alerts() == [("dead_letters", "firing")]
    assert Notification.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_who_evaluates(trade: Trade) -> None:
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('alerts', 0))")
            holds.set()
            done.wait(30)
            cursor.execute("ROLLBACK")
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)

    assert evaluate.evaluate(now=NOON) is None
    done.set()
    holder.join()


def test_a_question_that_fails_leaves_its_alerts_and_is_told_itself(
    trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_events(trade, 2)
    looks(0, 120)
    slow = {**questions.QUESTIONS, "dead_letters": _too_slow}
    monkeypatch.setattr(evaluate, "QUESTIONS", slow)
    monkeypatch.setattr(evaluate, "STATEMENT_TIMEOUT_SECONDS", 0.05)

    looks(150, 600, every=60)

    assert open_alerts() == [("dead_letters", "firing"), ("rules_not_asked", "firing")]
    assert "dead_letters" in str(Alert.objects.get(rule="rules_not_asked").members)


def _too_slow(now: datetime, observed: Observed) -> list[questions.Finding]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")
    return []


def told_of(rule: str) -> Alert:
    """The one alert of this rule that is firing."""
    return Alert.objects.get(rule=rule, state="firing")


class TestTheInstallation:
    def test_a_beat_that_stands_still_is_raised_whoever_evaluates(self, trade: Trade) -> None:
        look(0)
        ProcessBeat.objects.update(progressed_at=later(80))

        look(90, well=False)

        assert told_of("beat_silent").merchant_id is None
        assert [alert.rule for alert in Alert.objects.exclude(state="pending")] == ["beat_silent"]
        assert subjects_told() == ["[Alder] ◆ Critical: The schedule (celery-beat) has started nothing for 90.0 s"]

    def test_a_beat_that_never_began_is_missed_as_well(self, trade: Trade) -> None:
        look(0, well=False)
        look(30, well=False)
        assert not Alert.objects.filter(rule="beat_silent").exists()

        look(60, well=False)

        assert told_of("beat_silent").value == 60

    def test_workers_that_do_nothing(self, trade: Trade) -> None:
        look(0)
        Heartbeat.objects.update(beat_at=later(100))

        look(100, well=False)

        assert told_of("workers_silent").value == 100

    def test_one_worker_among_several(self, trade: Trade) -> None:
        ProcessBeat.objects.create(name="worker-2@here", started_at=NOON, progressed_at=NOON)
        ProcessBeat.objects.create(name="worker-3@here", started_at=NOON, progressed_at=NOON, stopped_at=NOON)

        looks(30, 330, every=60)

        assert told_of("worker_silent").title == "worker-2@here has done nothing for 5.5 min, while others have"
        looks(3600, 3900)
        assert Alert.objects.get(rule="worker_silent").state == "recovered"

    def test_a_broker_that_is_away_is_the_cause_of_the_silence(self, trade: Trade) -> None:
        look(0)
        looks(30, 300, well=False, observed=Observed(is_broker_away=True))

        assert {alert.rule: alert.cause for alert in Alert.objects.filter(state="firing")} == {
            "broker_away": "",
            "beat_silent": "broker_away installation",
            "workers_silent": "broker_away installation",
        }
        assert len(outbox.outbox) == 1

    def test_an_invariant_that_is_broken_tells_nothing_of_whose_it_is(self, trade: Trade) -> None:
        AuditResult.objects.create(
            name="books_add_up",
            checked_at=NOON,
            seconds=1,
            broken_since=NOON,
            offender={"merchant": 77, "sku": "canary"},
        )

        look(0)

        alert = told_of("invariant_broken")
        assert (alert.title, alert.members) == ("An invariant is broken", [["books_add_up", "does not hold"]])
        assert "canary" not in outbox.outbox[0].body

    def test_an_audit_that_does_not_come(self, trade: Trade) -> None:
        AuditResult.objects.create(name="books_add_up", checked_at=later(-4 * 3600), seconds=1)

        look(0)

        assert told_of("audit_overdue").value == 4

    def test_a_clock_that_is_wrong(self, trade: Trade) -> None:
        looks(0, 150, observed=Observed(machine="here", clock_ahead_seconds=-7))

        assert told_of("clock_differs").title == "The clock of here differs from the database's by 7.00 s"

    def test_growth_of_the_database_of_what_waits_and_of_redis(self, trade: Trade) -> None:
        gigabyte = 1 << 30
        for hours, size, waiting in ((-25, 10, 0), (-0.5, 12, 0)):
            SizeSample.objects.create(
                taken_at=later(hours * 3600), database_bytes=size * gigabyte, inbox_waiting=waiting, outbox_waiting=0
            )
        SizeSample.objects.create(
            taken_at=later(-1),
            database_bytes=13 * gigabyte,
            inbox_waiting=4000,
            outbox_waiting=2000,
            redis_bytes=96,
            redis_bytes_max=100,
        )

        found = {
            name: questions.QUESTIONS[name](NOON, Observed())[0].value
            for name in ("database_growth", "backlog_growth", "redis_memory")
        }

        assert found == {"database_growth": 30, "backlog_growth": 6000, "redis_memory": 96}

    def test_sizes_are_sampled_every_few_minutes(self, trade: Trade) -> None:
        looks(0, 600, observed=Observed(redis_bytes=5, redis_bytes_max=0))

        assert SizeSample.objects.count() == 3
        assert SizeSample.objects.latest("taken_at").redis_bytes == 5


class TestChannels:
    @pytest.mark.parametrize("state", [ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED])
    def test_one_that_does_not_let_us_in(self, trade: Trade, state: ChannelState) -> None:
        Channel.objects.filter(name="North").update(state=state, state_reason="token revoked")

        look(0)

        assert told_of("authorization").severity == "critical"
        assert "token revoked" in outbox.outbox[0].body

    def test_a_permission_that_ends_and_cannot_be_renewed(self, trade: Trade) -> None:
        for shop, renewed_by in (("north", ""), ("south", "refresh_token")):
            Credential.objects.create(
                merchant=trade.merchant,
                channel=trade.shops[shop].channel,
                access_token_expires_at=later(48 * 3600),
                **({f"sealed_{renewed_by}": "v1.x.y"} if renewed_by else {}),
            )

        look(0)

        assert told_of("token_expiring").title == "The permission of North ends in 48.0 h"

    @pytest.mark.parametrize("renewed_by", ["refresh_token", "client_secret"])
    def test_a_permission_that_renews_itself_is_none_of_anybodys_business(self, trade: Trade, renewed_by: str) -> None:
        Credential.objects.create(
            merchant=trade.merchant,
            channel=trade.shops["north"].channel,
            access_token_expires_at=later(3600),
            **{f"sealed_{renewed_by}": "v1.x.y"},
        )

        look(0)

        assert not Alert.objects.exists()

    def test_one_that_is_not_written_to_for_long(self, trade: Trade) -> None:
        Channel.objects.filter(name="North").update(state=ChannelState.PAUSED)
        ListingLevel.objects.filter(listing=trade.shops["north"].listings["MUG"]).update(desired=3, waiting_since=NOON)

        looks(3540, 3660)

        assert told_of("writing_stopped").subject == f"channel:{trade.shops['north'].channel.pk}"

    def test_one_that_was_not_compared_for_long(self, trade: Trade) -> None:
        ReconcileRun.objects.create(
            merchant=trade.merchant,
            channel=trade.shops["south"].channel,
            state=RunState.DONE,
            started_at=later(9 * 3600),
            finished_at=later(9 * 3600),
        )

        look(10 * 3600)

        assert told_of("reconcile_overdue").title == "North was last compared 10.0 h ago"

    def test_a_subscription_that_was_lost_until_the_gap_is_read(
        self, trade: Trade, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        channel = trade.shops["north"].channel
        found = protocol.SubscriptionReport(present=("refunds/create",), created=("orders/create",))
        _connector_says(monkeypatch, found)
        subscriptions.check(channel, now=later(3600))
        look(3600)
        assert told_of("subscription_lost").title == "North had lost a webhook subscription"

        _run(trade, state=RunState.DONE, at=3000)  # began before the repair
        looks(3630, 4000, every=60)
        assert told_of("subscription_lost").better_since is None

        _run(trade, state=RunState.DONE, at=3700)
        looks(4020, 4400, every=60)

        assert Alert.objects.get(rule="subscription_lost").state == "recovered"

    def test_a_subscription_that_cannot_be_made_again(self, trade: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
        channel = trade.shops["north"].channel
        _connector_says(monkeypatch, protocol.SubscriptionReport(present=("orders/create",)))
        subscriptions.check(channel, now=later(0))
        failed = protocol.SubscriptionReport(failed=(("orders/create", "lacks read_orders"),))
        _connector_says(monkeypatch, failed)
        subscriptions.check(channel, now=later(3600))
        subscriptions.check(channel, now=later(7200))

        look(7200)

        assert "lacks read_orders" in told_of("subscription_lost").text
        known = SubscriptionCheck.objects.get()
        assert (known.gap_from, known.checked_at, known.repaired_at) == (NOON, later(7200), None)

    def test_a_drift_alarm_lasts_until_raises_go_on(self, trade: Trade) -> None:
        channel = trade.shops["north"].channel
        ReconcileRun.objects.create(
            merchant=trade.merchant, channel=channel, levels_read=60, levels_suspect=3, is_alarming=True
        )
        steering.pause_raises(channel_id=channel.pk, reason="3 of 60 levels differ", now=NOON)

        look(60)
        assert told_of("drift_alarm").value == pytest.approx(5)

        steering.resume_raises(channel_id=channel.pk, user=None, reason="an import by hand")
        looks(120, 400)
        assert Alert.objects.get(rule="drift_alarm").state == AlertState.RECOVERED

    def test_held_changes_of_a_channel_are_one_alert(self, trade: Trade) -> None:
        shop = trade.shops["north"]
        hold = PushHold.objects.create(
            merchant=trade.merchant, channel=shop.channel, kind=HoldKind.BIG_RUN, reason="2 of 2 levels to zero"
        )
        for listing in shop.listings.values():
            HeldLevel.objects.create(
                merchant=trade.merchant,
                channel=shop.channel,
                listing_level=listing.levels.get(),
                hold=hold,
                state=HeldState.HELD,
                kind="zero",
                from_quantity=10,
                to_quantity=0,
                sold_from=NOON,
            )

        look(60)

        assert told_of("changes_held").value == len(shop.listings)

    def test_a_channel_in_shadow_mode_is_behind_on_purpose(self, trade: Trade) -> None:
        shop = trade.shops["north"]
        Channel.objects.filter(pk=shop.channel.pk).update(is_shadow=True, shadow_since=NOON, created_at=NOON)
        ListingLevel.objects.filter(listing=shop.listings["MUG"]).update(desired=3, waiting_since=NOON)

        looks(0, 3600)

        assert not Alert.objects.filter(rule__in=["writing_stopped", "accuracy"]).exists()


def _connector_says(monkeypatch: pytest.MonkeyPatch, report: protocol.SubscriptionReport) -> None:
    class Connector:
        def ensure_webhooks(self, callback_url: str) -> protocol.SubscriptionReport:
            return report

    monkeypatch.setattr("channels.connect.connector_for", lambda _: Connector())


def _run(trade: Trade, *, state: RunState, at: float) -> None:
    ReconcileRun.objects.create(
        merchant=trade.merchant,
        channel=trade.shops["north"].channel,
        state=state,
        started_at=later(at),
        finished_at=later(at + 10),
    )


class TestKeepingStep:
    def test_events_that_wait(self, trade: Trade) -> None:
        deliver(trade.shops["north"], "orders/create", b"{}")

        looks(0, 120)

        assert told_of("queue_lag").title == "The oldest event of North has waited for 2.0 min"

    def test_numbers_that_arrive_late(self, trade: Trade) -> None:
        shop = trade.shops["north"]
        batch = PushBatch.objects.create(
            id=uuid.uuid4(), merchant=trade.merchant, channel=shop.channel, state=BatchState.DONE, lease_token=1
        )
        Push.objects.bulk_create(
            Push(
                merchant=trade.merchant,
                channel=shop.channel,
                batch=batch,
                position=place,
                listing_level=shop.level("MUG"),
                from_quantity=1,
                to_quantity=0,
                state=PushState.CONFIRMED,
                caused_at=NOON - timedelta(seconds=100 if place >= 90 else 1),
                settled_at=NOON,
            )
            for place in range(100)
        )

        looks(0, 240)

        assert told_of("sync_latency").title == "One in twenty numbers reaches North after more than 1.7 min"
        # One cause, one message.
        assert told_of("sync_latency_worst").cause == f"sync_latency channel:{shop.channel.pk}"
        assert len(outbox.outbox) == 1

    def test_numbers_that_are_wrong(self, trade: Trade) -> None:
        ListingLevel.objects.filter(listing=trade.shops["north"].listings["MUG"]).update(
            suspect_since=NOON, suspect_reason="reading"
        )

        looks(0, 60)
        assert not Alert.objects.filter(rule="accuracy").exists()
        looks(90, 1200, every=60)

        assert told_of("accuracy").title == "50.0 % of North's numbers are right"
        assert told_of("accuracy").severity == "critical"

    def test_a_target_that_fails_is_told_to_the_others_only(self, trade: Trade) -> None:
        broken = hear(trade.merchant, name="Broken")
        NotificationTarget.objects.filter(pk=broken.pk).update(failing_since=NOON, next_attempt_at=later(86_400))

        looks(0, 120)

        assert told_of("target_failing").title == "Broken has not taken what it was told for 2.0 min"
        assert [notice.target.name for notice in Notification.objects.all()] == ["Shop"]


class TestStock:
    def test_every_new_shortage_is_told_within_minutes_and_not_each_by_itself(self, trade: Trade) -> None:
        for number in range(20):
            Shortage.objects.create(
                merchant=trade.merchant,
                stock_level=trade.stock("MUG"),
                quantity=1,
                cause="sale",
                reference=f"#10{number}",
                correlation_id=uuid.uuid4(),
                occurred_at=NOON,
            )
            look(60 * number)

        assert open_alerts() == [("shortage", "firing")]
        assert len(outbox.outbox) == 2
        assert "MUG: 1 short in Alder's warehouse, #1010" in outbox.outbox[1].body

    def test_what_is_low_is_one_alert_that_lists_it(self, trade: Trade) -> None:
        Sku.objects.filter(code="MUG").update(low_stock_at=10)
        Sku.objects.filter(code="TEE").update(low_stock_at=4)
        look(0)
        assert told_of("low_stock").members == [["MUG", "MUG: 10 available, low at 10"]]

        StockLevel.objects.filter(sku=trade.skus["TEE"]).update(on_hand=1)
        StockLevel.objects.filter(sku=trade.skus["MUG"]).update(on_hand=8)
        looks(60, 600, every=60)

        alert = told_of("low_stock")
        assert alert.title == "2 SKUs are low"
        assert [said for _, said in alert.members] == ["TEE: 1 available, low at 4", "MUG: 8 available, low at 10"]
        assert len(outbox.outbox) == 1
        looks(6 * 3600, 6 * 3600 + 60)
        assert subjects_told()[1] == "[Alder] ▲ Warning: Still: 2 SKUs are low"

    def test_a_bundle_has_what_its_parts_make_in_one_warehouse(self, trade: Trade) -> None:
        merchant = trade.merchant
        bundle = Sku.objects.create(merchant=merchant, code="SET", kind=SkuKind.BUNDLE, low_stock_at=3)
        BomLine.objects.create(merchant=merchant, bundle=bundle, component=trade.skus["MUG"], quantity=2)
        BomLine.objects.create(merchant=merchant, bundle=bundle, component=trade.skus["TEE"], quantity=1)
        look(0)
        assert not Alert.objects.exists()  # five of them

        StockLevel.objects.filter(sku=trade.skus["MUG"]).update(on_hand=5)
        add_warehouse(trade, "SECOND", {"MUG": 3, "TEE": 0})  # makes none more
        look(60)

        assert told_of("low_stock").members == [["SET", "SET: 2 available, low at 3"]]

    def test_a_warehouse_that_is_switched_off_has_nothing(self, trade: Trade) -> None:
        Sku.objects.filter(code="MUG").update(low_stock_at=2)
        Warehouse.objects.update(is_active=False)

        look(0)

        assert told_of("low_stock").members == [["MUG", "MUG: 0 available, low at 2"]]

    def test_the_reorder_point_follows_from_how_fast_it_sells_bundles_included(self, trade: Trade) -> None:
        merchant = trade.merchant
        bundle = Sku.objects.create(merchant=merchant, code="SET", kind=SkuKind.BUNDLE)
        BomLine.objects.create(merchant=merchant, bundle=bundle, component=trade.skus["MUG"], quantity=2)
        listing = trade.shops["south"].listings["TEE"]
        listing.sku = bundle
        listing.save()
        trade.shops["north"].listings["MUG"].levels.update(usual_units=1.0, sold_at=NOON)
        listing.levels.update(usual_units=0.5, sold_at=NOON)
        # Two mugs a day: one by itself, two in every other set. Four days and a reserve of three: eleven.
        Sku.objects.filter(code="MUG").update(lead_time_days=4, safety_stock=3)

        look(0)

        alert = told_of("reorder")
        assert alert.members == [["MUG", "MUG: order 9 (10 available, to be ordered at 11)"]]
        assert alert.severity == "info"


def test_what_is_told_is_a_row_before_it_is_a_message(trade: Trade) -> None:
    kill_events(trade, 1)
    all_well(0)
    evaluate.evaluate(now=NOON)
    all_well(60)
    evaluate.evaluate(now=later(60))

    notice = Notification.objects.get()
    assert (notice.message, notice.key) == (None, f"alert {Alert.objects.get().pk} 1")
    assert not NotificationMessage.objects.exists()
    assert timezone.is_aware(notice.created_at)
