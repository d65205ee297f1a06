"""The pages of the daily reports."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from merchants.access import Seats, clock_of, member_page
from merchants.models import Member, User
from merchants.pages import own_page
from sync import reports
from sync.models import DailyReport, ReconcileRun, RunState
from sync.views import admin_url

DAYS_SHOWN = 30


def _today(seats: Seats) -> date:
    return timezone.now().astimezone(clock_of(seats.current.merchant)).date()


def _user_of(request: HttpRequest) -> User:
    """Who is signed in; `member_page` lets nobody else come so far."""
    assert isinstance(request.user, User)
    return request.user


def _query(seats: Seats) -> str:
    """What keeps an address at the merchant that the page is about."""
    return "?" + urlencode({"merchant": seats.current.merchant.slug}) if len(seats.every) > 1 else ""


@own_page
@never_cache
@require_safe
@member_page()
def days(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The latest days, newest first, and the passes that are under way."""
    merchant = seats.current.merchant
    stored = DailyReport.objects.filter(merchant=merchant).order_by("-day")[:DAYS_SHOWN]
    running = ReconcileRun.objects.filter(merchant=merchant, state=RunState.RUNNING).select_related("channel")
    wants = Member.objects.filter(merchant=merchant, user=_user_of(request), wants_daily_report=True).exists()
    context = {
        "seats": seats,
        "query": _query(seats),
        "today": _today(seats),
        "reports": [{"day": report.day, "figures": report.figures} for report in stored],
        "running": [_progress(run) for run in running],
        "wants_mail": wants,
        "runs_url": admin_url(request, "sync_reconcilerun", "changelist"),
        "channels_url": admin_url(request, "channels_channel", "changelist"),
    }
    return render(request, "sync/reports.html", context)


def _progress(run: ReconcileRun) -> dict[str, Any]:
    return {
        "run": run,
        "percent": min(100, 100 * run.levels_read // run.levels_total) if run.levels_total else 0,
        "is_waiting": bool(run.snapshot_id) and not run.levels_read,
    }


@own_page
@never_cache
@require_safe
@member_page()
def day(request: HttpRequest, seats: Seats, day: date) -> HttpResponse:
    """One day: what was found and why, by channel, hour and kind of goods."""
    figures = _figures(seats, day)
    context = {
        "seats": seats,
        "query": _query(seats),
        "day": day,
        "is_today": day == _today(seats),
        "figures": figures,
        "causes": reports.causes_of(figures),
        "hours": [{"hour": hour, "findings": count} for hour, count in enumerate(figures["by_hour"]) if count],
        "previous": day - timedelta(days=1),
        "next": day + timedelta(days=1) if day < _today(seats) else None,
        "drifts_url": admin_url(request, "sync_drift", "changelist"),
    }
    return render(request, "sync/report.html", context)


@own_page
@never_cache
@require_safe
@member_page()
def day_csv(request: HttpRequest, seats: Seats, day: date) -> HttpResponse:
    """Every finding of one day, for a spreadsheet."""
    _refuse_days_to_come(seats, day)
    response = HttpResponse(reports.findings_csv(seats.current.merchant, day), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = (
        f'attachment; filename="findings-{seats.current.merchant.slug}-{day.isoformat()}.csv"'
    )
    return response


def _figures(seats: Seats, day: date) -> reports.Figures:
    _refuse_days_to_come(seats, day)
    return reports.of_day(seats.current.merchant, day)


def _refuse_days_to_come(seats: Seats, day: date) -> None:
    if not date(2000, 1, 1) <= day <= _today(seats):
        raise Http404("No such day.")


@own_page
@require_POST
@member_page()
def want_mail(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The member wants the report by e-mail every morning, or no longer."""
    wants = request.POST.get("wants") == "yes"
    Member.objects.filter(merchant=seats.current.merchant, user=_user_of(request)).update(wants_daily_report=wants)
    messages.success(request, "You will get it by e-mail every morning." if wants else "No more reports by e-mail.")
    return redirect(reverse("reports") + _query(seats))
