"""What is over is forgotten in time; what is open, or what the books stand on, never is."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as shipped
from django.contrib.sessions.models import Session
from django.db import DEFAULT_DB_ALIAS, connections
from structlog.testing import capture_logs

from channels.models import CallHour, EventState, InboxEvent, Outage, Push, PushBatch, PushState
from merchants.models import Severity
from sync import letters, reports, retention
from sync.invariants import violations
from sync.models import (
    Alert,
    AlertState,
    BufferUse,
    DailyReport,
    DeadLetter,
    Drift,
    HeldLevel,
    HeldState,
    HoldKind,
    HoldState,
    Job,
    JobState,
    PushHold,
    ReconcileRun,
    ReportMail,
    RunKind,
    RunState,
    ScorecardDay,
    ShadowReport,
)
from sync.tasks import forget_history
from synctec.lib import sql
from tests.factories import Shop, Trade, make_trade
from tests.sync.happened import event, push
from tests.sync.test_reports import member

pytestmark = pytest.mark.django_db

NOW = datetime(2126, 7, 15, 12, 0, tzinfo=UTC)


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def north(alder: Trade) -> Shop:
    return alder.shops["north"]


def letter(shop: Shop, ended_at: datetime | None, *, job: Job | None = None, state: str = "recovered") -> DeadLetter:
    dead = event(shop, ago(400), state=EventState.DEAD)
    newest = DeadLetter.objects.latest("pk")
    if ended_at is not None:
        InboxEvent.objects.filter(pk=dead.pk).update(state=EventState.APPLIED)
    is_dismissed = state == "dismissed"
    DeadLetter.objects.filter(pk=newest.pk).update(
        ended_at=ended_at,
        state=state,
        retried_by_job=job,
        dismissed_at=ago(390) if is_dismissed else None,
        dismissed_because="known" if is_dismissed else "",
    )
    return newest


def job(trade: Trade, finished_at: datetime | None) -> Job:
    return Job.objects.create(
        merchant=trade.merchant,
        kind="resync",
        state=JobState.DONE if finished_at else JobState.WAITING,
        finished_at=finished_at,
        correlation_id=uuid.uuid4(),
    )


def passed(shop: Shop, at: datetime, *, kind: str = RunKind.PASS, state: str = RunState.DONE) -> ReconcileRun:
    return ReconcileRun.objects.create(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        kind=kind,
        state=state,
        started_at=at,
        finished_at=None if state == RunState.RUNNING else at,
    )


def drift(shop: Shop, at: datetime, action: str, *, run: ReconcileRun | None = None) -> Drift:
    return Drift.objects.create(
        merchant_id=shop.channel.merchant_id,
        channel=shop.channel,
        listing_level=shop.level("MUG"),
        expected=10,
        actual=9,
        action=action,
        cause="passing" if action == "explained" else "by_hand",
        correlation_id=uuid.uuid4(),
        found_at=at,
        run=run,
    )


def left(model: Any) -> set[Any]:
    return set(model.objects.values_list("pk", flat=True))


def test_letters_that_live_stay_and_jobs_stay_as_long_as_their_letters(alder: Trade, north: Shop) -> None:
    old, busy, recent = job(alder, ago(100)), job(alder, ago(100)), job(alder, ago(10))
    waiting = job(alder, None)
    kept = {
        letter(north, None, state="open").pk,
        letter(north, None, state="dismissed").pk,
        letter(north, ago(80), job=busy).pk,
    }
    letter(north, ago(100), job=old)
    letter(north, ago(100), state="dismissed")

    assert retention.forget(now=NOW) == {"dead letters that ended": 2, "jobs that ended": 1}

    assert left(DeadLetter) == kept
    assert left(Job) == {busy.pk, recent.pk, waiting.pk}


def test_findings_that_changed_stock_or_wait_for_an_answer_stay_with_their_pass(north: Shop) -> None:
    held, empty, told = passed(north, ago(300)), passed(north, ago(300)), passed(north, ago(300))
    newest = passed(north, ago(200))
    failed = passed(north, ago(190), state=RunState.FAILED)
    full = passed(north, ago(300), kind=RunKind.FULL)
    kept = {
        drift(north, ago(300), "adopted", run=held).pk,
        drift(north, ago(300), "asked").pk,
        drift(north, ago(100), "explained").pk,
    }
    drift(north, ago(300), "explained", run=told)
    drift(north, ago(300), "overridden")

    done = retention.forget(now=NOW)

    assert done == {"findings that changed no stock": 2, "reconciliations": 2}
    assert left(Drift) == kept
    assert left(ReconcileRun) == {held.pk, newest.pk, failed.pk, full.pk}
    assert {empty.pk, told.pk}.isdisjoint(left(ReconcileRun))


def test_the_latest_pass_that_was_done_stays_however_old(north: Shop) -> None:
    latest = passed(north, ago(1_000))
    passed(north, ago(900), state=RunState.RUNNING)

    retention.forget(now=NOW)

    assert latest.pk in left(ReconcileRun)


def test_holds_that_were_decided_go_with_their_levels_and_open_ones_stay(alder: Trade, north: Shop) -> None:
    def hold(state: str, decided_at: datetime | None, level_state: str, code: str) -> PushHold:
        made = PushHold.objects.create(
            merchant=alder.merchant,
            channel=north.channel,
            kind=HoldKind.BIG_RUN,
            state=state,
            reason="much",
            decided_at=decided_at,
        )
        HeldLevel.objects.create(
            merchant=alder.merchant,
            channel=north.channel,
            listing_level=north.level(code),
            hold=made,
            state=level_state,
            kind="zero",
            from_quantity=10,
            to_quantity=0,
            sold_from=ago(300),
            settled_at=decided_at,
        )
        return made

    hold(HoldState.CONFIRMED, ago(200), HeldState.CONFIRMED, "TEE")
    recent = hold(HoldState.CANCELLED, ago(10), HeldState.RELEASED, "TEE")
    waiting = hold(HoldState.HELD, None, HeldState.HELD, "MUG")

    retention.forget(now=NOW)

    assert left(PushHold) == {recent.pk, waiting.pk}
    assert HeldLevel.objects.count() == 2


def test_refused_pushes_go_with_their_batches_and_what_was_confirmed_stays(north: Shop) -> None:
    cause = event(north, ago(200))
    confirmed = push(north, "MUG", cause, after=timedelta(0), by=0)
    shared = push(north, "MUG", cause, after=timedelta(0), state=PushState.REJECTED, error_code="NOT_FOUND")
    Push.objects.filter(pk=shared.pk).update(batch=confirmed.batch_id, position=1)
    alone = push(north, "TEE", cause, after=timedelta(0), state=PushState.REJECTED, error_code="NOT_FOUND")
    PushBatch.objects.filter(pk=shared.batch_id).delete()
    recent = push(north, "TEE", event(north, ago(5)), after=timedelta(0), state=PushState.REJECTED)
    under_way = push(north, "TEE", cause, after=None)

    assert retention.forget(now=NOW) == {"refused pushes": 2}

    assert left(Push) == {confirmed.pk, recent.pk, under_way.pk}
    assert left(PushBatch) == {confirmed.batch_id, recent.batch_id, under_way.batch_id}
    assert alone.batch_id not in left(PushBatch)


def test_hours_outages_days_and_comparisons_go_by_their_own_settings(alder: Trade, north: Shop) -> None:
    of_north = {"merchant": alder.merchant, "channel": north.channel}
    used = {"levels": 1, "entered": 0, "below_zero": 0, "used": 0, "size": 1}
    user = member(alder)
    for days in (100, 10):
        CallHour.objects.create(**of_north, hour=ago(days), urgency=0)
        BufferUse.objects.create(**of_north, hour=ago(days), **used)
        Outage.objects.create(**of_north, began_at=ago(days), ended_at=ago(days), cause="no_answer")
    still = Outage.objects.create(**of_north, began_at=ago(1_000), cause="no_answer")
    for days in (200, 20):
        ShadowReport.objects.create(**of_north, day=ago(days).date(), compared_at=ago(days))
    for days in (800, 700):
        ScorecardDay.objects.create(**of_north, day=ago(days).date(), facts={}, computed_at=ago(days))
        report = DailyReport.objects.create(merchant=alder.merchant, day=ago(days).date(), figures={})
        ReportMail.objects.create(merchant=alder.merchant, report=report, user=user, sent_at=ago(days))

    assert retention.forget(now=NOW) == {
        "comparisons in shadow mode": 1,
        "hours of calls": 1,
        "outages": 1,
        "hours of buffers": 1,
        "days of the scorecard": 1,
        "daily reports": 2,  # and its mail
    }

    assert still.pk in left(Outage)
    for model in (CallHour, BufferUse, ShadowReport, ScorecardDay, DailyReport, ReportMail):
        assert model.objects.count() == 1, model


def test_alerts_that_recovered_go_and_those_that_last_stay() -> None:
    def alert(subject: str, state: str, recovered_at: datetime | None) -> Alert:
        return Alert.objects.create(
            rule="backlog_growth",
            subject=subject,
            severity=Severity.WARNING,
            state=state,
            title="much",
            value=1,
            worst=1,
            since=ago(400),
            raised_at=ago(400),
            recovered_at=recovered_at,
        )

    alert("a", AlertState.RECOVERED, ago(200))
    recent = alert("b", AlertState.RECOVERED, ago(20))
    lasting = alert("c", AlertState.FIRING, None)

    assert retention.forget(now=NOW) == {"alerts that recovered": 1}
    assert left(Alert) == {recent.pk, lasting.pk}


def test_zero_days_keep_for_ever(north: Shop, alder: Trade, settings: Any) -> None:
    settings.REPAIR_DAYS = settings.FINDING_DAYS = settings.TRAFFIC_DAYS = settings.SCORE_DAYS = 0
    letter(north, ago(3_000))
    job(alder, ago(3_000))
    drift(north, ago(3_000), "explained")

    assert retention.forget(now=NOW) == {}
    assert retention.reaches(ago(3_000), now=NOW)


def test_a_second_run_finds_nothing_and_batches_are_bounded(north: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        drift(north, ago(300), "explained")

    with capture_logs() as logs:
        assert retention.forget(now=NOW) == {"findings that changed no stock": 5}

    [line] = [line for line in logs if line["event"] == "retention.forgotten"]
    assert (line["what"], line["rows"]) == ("findings that changed no stock", 5)
    assert retention.forget(now=NOW) == {}


@pytest.mark.django_db(transaction=True)
def test_two_at_work_at_once_wait_for_nobody(north: Shop) -> None:
    busy, free = drift(north, ago(300), "explained"), drift(north, ago(300), "explained")
    other = connections.create_connection(DEFAULT_DB_ALIAS)
    try:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM sync_drift WHERE id = %s FOR UPDATE", [busy.pk])

        assert retention.forget(now=NOW) == {"findings that changed no stock": 1}
        assert left(Drift) == {busy.pk}
        assert free.pk not in left(Drift)
    finally:
        other.close()

    assert retention.forget(now=NOW) == {"findings that changed no stock": 1}


def test_what_cannot_be_deleted_keeps_nothing_else(north: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(before: datetime, limit: int) -> int:
        raise RuntimeError

    drift(north, ago(300), "explained")
    broken = retention.Kept("that", "REPAIR_DAYS", fail)
    monkeypatch.setattr(retention, "KEPT", (broken, *retention.KEPT))

    assert retention.forget(now=NOW) == {"findings that changed no stock": 1}


def test_sessions_that_expired_go_whatever_the_settings() -> None:
    Session.objects.create(session_key="old", session_data="", expire_date=ago(1))
    Session.objects.create(session_key="new", session_data="", expire_date=ago(-1))

    assert retention.forget(now=NOW) == {"sessions that expired": 1}
    assert left(Session) == {"new"}


def test_a_day_whose_facts_are_gone_is_not_computed_anew(alder: Trade, north: Shop) -> None:
    day = ago(200).date()
    DailyReport.objects.create(merchant=alder.merchant, day=day, figures={"findings": 7})

    with pytest.raises(reports.FactsForgotten, match="FINDING_DAYS"):
        reports.write(alder.merchant, day, now=NOW)

    assert DailyReport.objects.get(day=day).figures == {"findings": 7}
    assert reports.write(alder.merchant, date(2126, 7, 1), now=NOW).figures["findings"] == 0


def test_the_task_runs_and_the_books_hold(north: Shop) -> None:
    letter(north, ago(0) - timedelta(days=80_000))
    drift(north, datetime(2020, 1, 1, tzinfo=UTC), "explained")

    forget_history()
    letters.keep()

    assert not Drift.objects.exists()
    assert not list(violations(when_quiet=False))


@pytest.mark.parametrize("setting", ["REPAIR_DAYS", "FINDING_DAYS", "TRAFFIC_DAYS", "SCORE_DAYS"])
def test_every_setting_has_rows_and_a_default_beyond_what_pages_read(setting: str) -> None:
    assert [kept for kept in retention.KEPT if kept.setting == setting]
    assert getattr(shipped, setting) >= shipped.DAYS_READ_BACK


def test_the_old_ones_are_found_by_an_index(north: Shop) -> None:
    sql.execute("SET LOCAL enable_seqscan = off")
    for statement in (
        "EXPLAIN SELECT id FROM sync_deadletter WHERE ended_at < now() ORDER BY ended_at LIMIT 500",
        "EXPLAIN SELECT id FROM channels_push WHERE state = 'rejected' AND settled_at < now() ORDER BY settled_at LIMIT 500",
    ):
        plan = "\n".join(line for (line,) in sql.rows(statement))
        assert "_by_age" in plan
