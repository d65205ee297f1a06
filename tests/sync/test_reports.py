"""The daily report: its figures, its pages, its mails."""

from __future__ import annotations

import csv
import io
import smtplib
from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.test import Client
from django.urls import reverse

from merchants.models import Member, Role, User
from sync import reports
from sync.models import Cause, DailyReport, Drift, DriftAction, ReconcileRun, ReportMail, RunState
from tests.factories import NOON, Trade, later, make_trade

pytestmark = pytest.mark.django_db

TODAY = NOON.date()
NEXT_MORNING = NOON + timedelta(hours=19)  # seven o'clock


@pytest.fixture
def alder(settings: Any) -> Trade:
    settings.EMAIL_HOST = "mail.synctec.test"
    return make_trade(stock_of={"MUG-RED": 10, "MUG-BLUE": 5, "TEE": 3})


def passed(trade: Trade, shop: str, *, read: int, suspect: int, at: datetime = NOON, **more: Any) -> ReconcileRun:
    return ReconcileRun.objects.create(
        merchant=trade.merchant,
        channel=trade.shops[shop].channel,
        state=more.pop("state", RunState.DONE),
        started_at=at,
        finished_at=at,
        levels_read=read,
        levels_suspect=suspect,
        **more,
    )


def drifted(
    trade: Trade, shop: str, code: str, units: int, *, cause: Cause = Cause.BY_HAND, at: datetime = NOON
) -> Drift:
    level = trade.shops[shop].level(code)
    return Drift.objects.create(
        merchant=trade.merchant,
        channel=trade.shops[shop].channel,
        listing_level=level,
        expected=10,
        actual=10 + units,
        action=DriftAction.ADOPTED if cause == Cause.BY_HAND else DriftAction.EXPLAINED,
        cause=cause,
        explanation="=why",
        correlation_id=uuid4(),
        found_at=at,
    )


def member(trade: Trade, email: str = "ann@alder.test", *, wants: bool = True) -> User:
    user = User.objects.create_user(username=email, email=email, password="x")
    Member.objects.create(merchant=trade.merchant, user=user, role=Role.VIEWER, wants_daily_report=wants)
    return user


def test_a_day_is_told_by_cause_channel_hour_and_kind_of_goods(alder: Trade) -> None:
    passed(alder, "north", read=60, suspect=3, is_alarming=True)
    passed(alder, "south", read=40, suspect=0)
    passed(alder, "south", read=0, suspect=0, state=RunState.FAILED)
    passed(alder, "north", read=500, suspect=9, at=NOON - timedelta(days=1))
    drifted(alder, "north", "MUG-RED", -2)
    drifted(alder, "north", "MUG-BLUE", 3)
    drifted(alder, "south", "TEE", -1, cause=Cause.RECOVERED_ORDER, at=NOON + timedelta(hours=2))
    drifted(alder, "south", "TEE", -1, at=NOON + timedelta(days=1))

    told = reports.figures(alder.merchant, TODAY)

    assert (told["compared"], told["right"], told["accuracy"]) == (100, 97, 97.0)
    assert (told["passes"], told["alarms"]) == ({"done": 2, "failed": 1}, 1)
    assert (told["findings"], told["orders_recovered"]) == (3, 1)
    assert told["by_cause"] == {
        "by_hand": {"findings": 2, "units": 5},
        "recovered_order": {"findings": 1, "units": 1},
    }
    assert [(one["channel"], one["accuracy"], one["findings"]) for one in told["by_channel"]] == [
        ("North", 95.0, 2),
        ("South", 100.0, 1),
    ]
    assert {hour: count for hour, count in enumerate(told["by_hour"]) if count} == {12: 2, 14: 1}
    assert told["by_kind"] == [{"kind": "MUG", "findings": 2}, {"kind": "TEE", "findings": 1}]


def test_days_and_hours_are_the_merchants_own(alder: Trade) -> None:
    alder.merchant.timezone = "Asia/Tokyo"
    alder.merchant.save()
    drifted(alder, "north", "TEE", -1, at=datetime(2026, 11, 20, 15, 30, tzinfo=NOON.tzinfo))

    told = reports.figures(alder.merchant, date(2026, 11, 21))

    assert (told["findings"], told["by_hour"][0]) == (1, 1)
    assert reports.figures(alder.merchant, TODAY)["findings"] == 0


def test_listings_that_drift_again_are_told_and_those_read_too_early_are_not(alder: Trade) -> None:
    for days in (0, 10, 29, 31):
        drifted(alder, "north", "MUG-RED", -1, at=NOON - timedelta(days=days))
        drifted(alder, "north", "TEE", -1, cause=Cause.PASSING, at=NOON - timedelta(days=days))
    drifted(alder, "south", "MUG-RED", -1)

    (offender,) = reports.figures(alder.merchant, TODAY)["offenders"]

    assert (offender["sku"], offender["channel"], offender["times"]) == ("MUG-RED", "North", 3)


def test_a_report_is_written_in_the_morning_after_once_and_may_be_computed_anew(alder: Trade) -> None:
    passed(alder, "north", read=60, suspect=3)
    birch = make_trade("Birch")
    assert reports.write_due(now=NOON + timedelta(hours=13)) == 0  # of the day before, when nothing was

    assert reports.write_due(now=NEXT_MORNING) == 1
    assert reports.write_due(now=NEXT_MORNING) == 0
    drifted(alder, "north", "TEE", -1)

    report = DailyReport.objects.get()
    assert (report.merchant, report.day, report.figures["findings"]) == (alder.merchant, TODAY, 0)
    assert reports.of_day(alder.merchant, TODAY)["findings"] == 0
    assert reports.write(alder.merchant, TODAY, now=NEXT_MORNING).figures["findings"] == 1
    assert not DailyReport.objects.filter(merchant=birch.merchant).exists()


def test_those_who_want_it_get_it_once(alder: Trade) -> None:
    passed(alder, "north", read=60, suspect=3, is_alarming=True)
    member(alder)
    member(alder, "bob@alder.test", wants=False)
    member(make_trade("Birch"), "carl@birch.test")
    reports.write_due(now=NEXT_MORNING)

    assert reports.send_due(now=NEXT_MORNING) == 1
    assert reports.send_due(now=NEXT_MORNING) == 0

    (sent,) = mail.outbox
    assert sent.to == ["ann@alder.test"]
    assert "95.0 % of 60 levels" in sent.body
    assert "/reports/2026-11-20/?merchant=alder" in sent.body


class Broken(EmailBackend):
    """A mail server that is away."""

    def send_messages(self, messages: Any) -> int:
        raise smtplib.SMTPServerDisconnected("gone")


def test_a_failing_mail_server_is_noted_and_asked_again_ever_more_rarely(alder: Trade, settings: Any) -> None:
    passed(alder, "north", read=60, suspect=3)
    member(alder)
    reports.write_due(now=NEXT_MORNING)
    working, settings.EMAIL_BACKEND = settings.EMAIL_BACKEND, f"{__name__}.Broken"

    assert reports.send_due(now=NEXT_MORNING) == 0
    waiting = ReportMail.objects.get()
    assert (waiting.attempts, waiting.error) == (1, "The mail server did not take it: SMTPServerDisconnected")
    assert waiting.next_attempt_at == NEXT_MORNING + timedelta(minutes=10)
    assert reports.send_due(now=NEXT_MORNING) == 0
    assert ReportMail.objects.get().attempts == 1

    settings.EMAIL_BACKEND = working
    assert reports.send_due(now=NEXT_MORNING + timedelta(minutes=10)) == 1
    assert ReportMail.objects.get().error == ""


def test_a_mail_is_given_up_after_many_attempts_or_when_it_is_not_wanted_any_more(alder: Trade, settings: Any) -> None:
    passed(alder, "north", read=60, suspect=3)
    bob, ann = member(alder, "bob@alder.test"), member(alder)
    reports.write_due(now=NEXT_MORNING)
    Member.objects.filter(user=bob).update(wants_daily_report=False)
    ReportMail.objects.filter(user=ann).update(attempts=reports.MAIL_ATTEMPTS - 1)
    settings.EMAIL_HOST = ""

    assert reports.send_due(now=NEXT_MORNING) == 0

    errors = {row.user_id: (row.error, row.given_up_at is not None) for row in ReportMail.objects.all()}
    assert errors[ann.pk] == ("No mail server is set. Set EMAIL_HOST.", True)
    assert errors[bob.pk] == (reports.UNWANTED, True)


# --- pages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ann(client: Client, alder: Trade) -> User:
    user = member(alder, wants=False)
    client.force_login(user)
    return user


def test_the_pages_tell_the_day(client: Client, alder: Trade, ann: User) -> None:
    passed(alder, "north", read=60, suspect=3)
    drifted(alder, "north", "MUG-RED", -2)
    reports.write(alder.merchant, TODAY, now=NEXT_MORNING)
    ReconcileRun.objects.create(
        merchant=alder.merchant,
        channel=alder.shops["south"].channel,
        started_at=NOON,
        has_orders=True,
        levels_read=5,
        levels_total=20,
    )

    listed = client.get(reverse("reports")).content.decode()
    day = client.get(reverse("report", kwargs={"day": TODAY})).content.decode()

    assert "95.0 % of 60 levels right" in listed
    assert "5 of 20 levels read" in listed
    assert "Changed in the store by hand" in day
    assert "Friday, 20 November 2026" in day


def test_an_empty_day_says_what_to_look_at(client: Client, ann: User) -> None:
    day = client.get(reverse("report", kwargs={"day": date(2020, 1, 1)}))

    assert "Nothing was compared on this day" in day.content.decode()


@pytest.mark.parametrize("address", ["/reports/2999-01-01/", "/reports/1800-01-01/", "/reports/2026-02-30/"])
def test_a_day_that_is_none_is_no_page(client: Client, ann: User, address: str) -> None:
    assert client.get(address).status_code == 404


def test_the_table_of_a_day_computes_nothing_in_a_spreadsheet(client: Client, alder: Trade, ann: User) -> None:
    drifted(alder, "north", "MUG-RED", -2)
    drifted(alder, "north", "MUG-RED", -1, at=later(1))

    answer = client.get(reverse("report_csv", kwargs={"day": TODAY}))

    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert [(row["SKU"], row["difference"], row["times in 30 days"]) for row in rows] == [
        ("MUG-RED", "-2", "1"),
        ("MUG-RED", "-1", "2"),
    ]
    assert rows[0]["explanation"] == "'=why"
    assert rows[0]["cause"] == "Changed in the store by hand"


def test_a_stranger_sees_nothing_of_it(client: Client, alder: Trade) -> None:
    drifted(alder, "north", "MUG-RED", -2)
    client.force_login(member(make_trade("Birch"), "carl@birch.test"))

    for name, keys in (("reports", {}), ("report", {"day": TODAY}), ("report_csv", {"day": TODAY})):
        assert client.get(reverse(name, kwargs=keys) + "?merchant=alder").status_code == 404
        assert "MUG-RED" not in client.get(reverse(name, kwargs=keys)).content.decode()


def test_a_member_turns_the_mail_on_and_off(client: Client, ann: User) -> None:
    assert client.get(reverse("report_mail")).status_code == 405
    for answer, expected in (("yes", True), ("no", False)):
        assert client.post(reverse("report_mail"), {"wants": answer}).status_code == 302
        assert Member.objects.get(user=ann).wants_daily_report is expected
