"""Who watches the watchdog: whatever is dead, somebody notices, and people hear of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import OperationalError
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from merchants import notices, targets
from merchants.models import Merchant, NoticeKind, Notification, NotificationTarget, TargetWay
from merchants.targets import Wishes
from sync import beating, tasks, watch
from sync.alerts import evaluate
from sync.models import Alert, Heartbeat, ProcessBeat, RuleCheck

pytestmark = pytest.mark.django_db(transaction=True)


class Rung(list[str]):
    """Messages that were handed to the broker; none is, while it is away."""

    is_away = False

    def note(self, *_: Any, **__: Any) -> None:
        if self.is_away:
            raise ConnectionError("no broker")
        self.append("sweep")


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> Rung:
    known = Rung()
    monkeypatch.setattr(tasks.sweep, "apply_async", known.note)
    monkeypatch.setattr(watch._tellers, "submit", lambda tell, target: tell(target))
    monkeypatch.setattr(notices, "on_told", [])
    return known


@pytest.fixture
def operator(settings: Any) -> NotificationTarget:
    settings.EMAIL_HOST = "mail.test"
    merchant = Merchant.objects.create(name="Alder", slug="alder")
    target, _ = targets.create(
        merchant=merchant,
        name="Operator",
        way=TargetWay.EMAIL,
        address="night@alder.test",
        wishes=Wishes(kinds=[NoticeKind.MACHINE]),
        user=None,
    )
    return target


def silent_for(**ages: float) -> None:
    """When beat, the sweep, the evaluation and the workers were last seen, in seconds before now."""
    now = timezone.now()
    for name, age in ages.items():
        if name == "workers":
            ProcessBeat.objects.create(name="worker-1@here", started_at=now, progressed_at=now - timedelta(seconds=age))
        else:
            Heartbeat.objects.update_or_create(name=name, defaults={"beat_at": now - timedelta(seconds=age)})


def pass_time(seconds: float) -> None:
    """Everything that is known happened so much longer ago."""
    Notification.objects.update(created_at=timezone.now() - timedelta(seconds=seconds))
    NotificationTarget.objects.update(next_attempt_at=timezone.now() - timedelta(seconds=seconds))


def test_while_beat_and_workers_are_alive_nothing_is_done(rung: Rung) -> None:
    silent_for(beat=2, sweep=2, alerts=30, workers=2)

    watch.look()

    assert rung == []
    assert not RuleCheck.objects.exists()


def test_a_dead_beat_is_noticed_swept_for_raised_and_told(rung: Rung, operator: NotificationTarget) -> None:
    silent_for(beat=100, sweep=100, alerts=100, workers=2)

    watch.look()

    assert Alert.objects.get(rule="beat_silent").state == "firing"
    assert rung == ["sweep"]
    assert not outbox.outbox, "workers are there to tell it"


def test_with_workers_dead_as_well_the_process_that_notices_tells_it_itself(
    rung: Rung, operator: NotificationTarget
) -> None:
    silent_for(beat=200, sweep=200, alerts=200, workers=200)
    watch.look()
    pass_time(90)

    watch.look()

    assert {alert.rule for alert in Alert.objects.filter(state="firing")} == {"beat_silent", "workers_silent"}
    assert [letter.to for letter in outbox.outbox] == [["night@alder.test"]]
    assert "No worker has done anything" in outbox.outbox[0].body
    assert "The schedule (celery-beat) has started nothing" in outbox.outbox[0].body


def test_without_a_broker_it_is_told_all_the_same(
    rung: Rung, operator: NotificationTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung.is_away = True
    monkeypatch.setattr(evaluate, "_is_broker_away", lambda: True)
    silent_for(beat=200, sweep=200, alerts=200, workers=200)
    watch.look()
    Alert.objects.update(since=timezone.now() - timedelta(seconds=90))
    Heartbeat.objects.filter(name="alerts").update(beat_at=timezone.now() - timedelta(seconds=100))
    watch.look()
    pass_time(90)

    watch.look()

    assert [letter.subject for letter in outbox.outbox] == ["[Alder] ◆ Critical: The broker does not answer"]


def test_a_step_that_fails_does_not_keep_the_others_from_being_made(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ValueError("no")

    monkeypatch.setattr(evaluate, "evaluate_now", broken)
    silent_for(sweep=100, alerts=100)

    watch.look()

    assert rung == ["sweep"]


def test_a_database_that_is_away_kills_nobody(rung: Rung, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(evaluate, "is_stale", away)
    monkeypatch.setattr(notices, "due", away)
    monkeypatch.setattr(Heartbeat.objects, "filter", away)

    watch.look()

    assert rung == []


def test_the_broker_of_the_tests_answers() -> None:
    assert evaluate.observe().is_broker_away is False
    assert abs(evaluate.observe().clock_ahead_seconds) < 1


class TestProgressOfWorkers:
    @pytest.fixture(autouse=True)
    def _no_worker_afterwards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watch._Worker, "name", "")
        monkeypatch.setattr(watch._Worker, "noted_at", 0.0)
        monkeypatch.setattr(watch, "start", lambda: None)

    def test_a_process_that_is_no_worker_says_nothing(self) -> None:
        watch._task_ended()

        assert not ProcessBeat.objects.exists()

    def test_a_worker_says_that_it_has_ended_a_task_now_and_then(self) -> None:
        watch._worker_begins(sender="worker-1@here")
        watch._worker_is_ready()
        ProcessBeat.objects.update(progressed_at=timezone.now() - timedelta(hours=1))
        watch._task_ended()
        first = ProcessBeat.objects.get()
        watch._task_ended()

        assert (timezone.now() - first.progressed_at).total_seconds() < 60
        assert ProcessBeat.objects.get().progressed_at == first.progressed_at

    def test_one_that_is_stopped_is_not_missed_and_one_that_begins_again_is_there(self) -> None:
        watch._worker_begins(sender="worker-1@here")
        watch._worker_is_ready()
        watch._worker_ends()
        assert ProcessBeat.objects.get().stopped_at is not None

        watch._worker_is_ready()
        assert ProcessBeat.objects.get().stopped_at is None

    def test_it_says_how_its_clock_runs(self, rung: Rung) -> None:
        watch._worker_begins(sender="worker-1@here")
        watch._worker_is_ready()
        ProcessBeat.objects.update(clock_ahead_seconds=99)

        watch.look()

        assert abs(ProcessBeat.objects.get().clock_ahead_seconds) < 1


class TestBeat:
    def test_the_schedule_says_that_it_makes_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler, entry = _scheduler()
        monkeypatch.setattr(tasks.sweep, "apply_async", lambda *_, **__: None)

        scheduler.apply_async(entry, advance=False)

        assert (timezone.now() - Heartbeat.objects.get(name="beat").beat_at).total_seconds() < 60

    def test_a_broker_that_takes_nothing_is_no_progress(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler, entry = _scheduler()

        def away(*_: Any, **__: Any) -> None:
            raise ConnectionError("no broker")

        monkeypatch.setattr(tasks.sweep, "apply_async", away)

        with pytest.raises(Exception, match="Couldn't apply"):
            scheduler.apply_async(entry, advance=False)

        assert not Heartbeat.objects.exists()


def _scheduler() -> tuple[beating.Scheduler, Any]:
    from synctec.celery import app

    interval = IntervalSchedule.objects.create(every=3, period="seconds")
    task = PeriodicTask.objects.create(name="sweep", task="sync.tasks.sweep", interval=interval)
    scheduler = beating.Scheduler(app, lazy=True)
    return scheduler, scheduler.Entry(task, app=app)
