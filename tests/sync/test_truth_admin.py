"""What people press about passes, alarms and reports."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from channels import steering
from channels.models import Channel
from merchants.models import AuditEvent, Member, Role, User
from sync.models import Cause, DailyReport, Drift, DriftAction, ReconcileRun, RunState
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def sign_in(client: Client, trade: Trade, role: Role = Role.MANAGER) -> User:
    email = f"{role}@{trade.merchant.slug}.test"
    user = User.objects.create_user(username=email, email=email, password="x", is_staff=True)
    Member.objects.create(merchant=trade.merchant, user=user, role=role)
    client.force_login(user)
    return user


def running(trade: Trade) -> ReconcileRun:
    return ReconcileRun.objects.create(
        merchant=trade.merchant,
        channel=trade.shops["north"].channel,
        started_at=NOON,
        leased_until=Now() + timedelta(minutes=1),
        levels_total=20,
        levels_read=5,
    )


def test_a_manager_cancels_a_pass_with_a_reason(client: Client, alder: Trade) -> None:
    user, run = sign_in(client, alder), running(alder)
    page = reverse("admin:sync_reconcilerun_cancel", args=[run.pk])

    assert "5 of 20" in client.get(page).content.decode()
    assert not ReconcileRun.objects.filter(cancel_requested_at__isnull=False).exists()
    client.post(page, {"reason": "the store is being moved"})

    run = ReconcileRun.objects.get(cancel_requested_at__isnull=False)
    assert (run.cancelled_by, run.state) == (user, RunState.RUNNING)
    assert AuditEvent.objects.get(action="reconcile.cancel").reason == "the store is being moved"


def test_what_is_over_is_not_offered_to_be_cancelled(client: Client, alder: Trade) -> None:
    sign_in(client, alder)
    run = running(alder)
    page, cancel = (reverse(f"admin:sync_reconcilerun_{name}", args=[run.pk]) for name in ("change", "cancel"))
    assert cancel in client.get(page).content.decode()

    ReconcileRun.objects.update(state=RunState.DONE, finished_at=Now())

    assert cancel not in client.get(page).content.decode()
    # Whoever has the page open still is told.
    assert client.post(cancel, {"reason": "late"}).status_code == 302
    assert not ReconcileRun.objects.filter(cancel_requested_at__isnull=False).exists()


@pytest.mark.parametrize("role", [Role.VIEWER, None])
def test_who_may_not_manage_cancels_nothing(client: Client, alder: Trade, role: Role | None) -> None:
    sign_in(client, alder if role else make_trade("Birch"), role or Role.OWNER)
    run = running(alder)

    answer = client.post(reverse("admin:sync_reconcilerun_cancel", args=[run.pk]), {"reason": "x"})

    run.refresh_from_db()
    assert run.cancel_requested_at is None
    assert answer.status_code in (302, 403, 404)


def test_after_an_alarm_somebody_who_has_looked_lets_raises_go_on(client: Client, alder: Trade) -> None:
    user, channel = sign_in(client, alder), alder.shops["north"].channel
    page = reverse("admin:channels_channel_resume_raises", args=[channel.pk])
    assert (
        "Let raises go on"
        not in client.get(reverse("admin:channels_channel_change", args=[channel.pk])).content.decode()
    )
    steering.pause_raises(channel_id=channel.pk, reason="30 of 40 levels differ", now=NOON)
    shown = client.get(reverse("admin:channels_channel_change", args=[channel.pk])).content.decode()
    assert "30 of 40 levels differ" in shown
    assert "Let raises go on" in shown

    client.post(page, {"reason": "it was a count"})

    assert Channel.objects.get(pk=channel.pk).raises_paused_at is None
    event = AuditEvent.objects.get(action="channel.resume_raises")
    assert (event.user, event.reason) == (user, "it was a count")


def test_a_drift_that_came_again_is_flagged_in_the_list(client: Client, alder: Trade) -> None:
    sign_in(client, alder)
    level = alder.shops["north"].level("MUG")
    for days in (0, 10, 40):
        Drift.objects.create(
            merchant=alder.merchant,
            channel=alder.shops["north"].channel,
            listing_level=level,
            expected=10,
            actual=8,
            action=DriftAction.ADOPTED,
            cause=Cause.BY_HAND,
            correlation_id="00000000-0000-7000-8000-000000000001",
            found_at=NOON - timedelta(days=days),
        )

    shown = client.get(reverse("admin:sync_drift_changelist")).content.decode()

    assert shown.count("2 times") == 1
    assert "3 times" not in shown


def test_a_report_is_computed_anew(client: Client, alder: Trade, settings: Any) -> None:
    settings.FINDING_DAYS = 0
    sign_in(client, alder)
    report = DailyReport.objects.create(merchant=alder.merchant, day=NOON.date(), figures={"findings": 99})

    client.post(reverse("admin:sync_dailyreport_compute_anew", args=[report.pk]), {"reason": "late orders"})

    report.refresh_from_db()
    assert report.figures["findings"] == 0
    assert AuditEvent.objects.filter(action="daily_report.compute").count() == 1
