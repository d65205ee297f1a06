"""Pages about what a channel is told: shadow mode, held changes, restoring. They show first and ask before they act."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from channels.models import Channel
from merchants.access import Seat, Seats, clock_of, member_page
from merchants.models import Role, User
from merchants.pages import own_page
from sync import bigruns, comparison, rewind, shadow, tasks, words
from sync.models import HoldKind, HoldState, PushHold, ShadowReport, ShadowWrite
from synctec.lib.spreadsheet import as_csv

#: Rows of a table on a page; the CSV has all that are kept.
ROWS_SHOWN = 200
WRITES_SHOWN = 50
HOLDS_PER_PAGE = 50
#: Numbers of the form: what PostgreSQL's bigint can be compared with.
ID_MAX = 2**63 - 1


def _channel(seats: Seats, channel_id: int) -> tuple[Channel, Seat]:
    """The channel and the person's seat at its merchant.

    Raises:
        Http404: there is none, or it is another tenant's.
    """
    channel = Channel.objects.filter(pk=channel_id).select_related("merchant").first() if channel_id <= ID_MAX else None
    if channel is None:
        raise Http404("No such channel.")
    return channel, seats.at(channel.merchant_id)


def _require_manager(seat: Seat) -> None:
    if not seat.may(Role.MANAGER):
        raise PermissionDenied("This needs the role of manager or above.")


def _acting(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def _reason(request: HttpRequest) -> str:
    return request.POST.get("reason", "").replace("\0", "").strip()[:500]


# --- shadow mode ----------------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@member_page()
def shadow_page(request: HttpRequest, seats: Seats, channel_id: int) -> HttpResponse:
    """What a channel in shadow mode would be told, against what it shows; entering the mode; comparing now."""
    channel, seat = _channel(seats, channel_id)
    if request.method == "POST":
        _require_manager(seat)
        _change_shadow(request, channel)
        return HttpResponseRedirect(reverse("shadow", args=[channel.pk]))
    reports = list(ShadowReport.objects.filter(channel=channel).order_by("-day").defer("rows")[:31])
    report = _report(channel, request.GET.get("day", ""))
    context = {
        "seats": seats,
        "seat": seat,
        "channel": channel,
        "may_change": seat.may(Role.MANAGER),
        "report": report,
        "reports": reports,
        "reasons": [(comparison.WORDS[comparison.Reason(name)], count) for name, count in report.reasons.items()]
        if report
        else [],
        "rows": _rows_in_words(report, ROWS_SHOWN),
        "writes": ShadowWrite.objects.filter(channel=channel)
        .select_related("listing_level__listing__sku", "listing_level__store_location")
        .order_by("-pk")[:WRITES_SHOWN],
        "now": timezone.now(),
    }
    with timezone.override(clock_of(seat.merchant)):
        return render(request, "sync/shadow.html", context)


def _change_shadow(request: HttpRequest, channel: Channel) -> None:
    if request.POST.get("act") == "compare":
        if channel.is_shadow:
            tasks.ring_compare_shadow(channel.pk)
            messages.success(request, "The store is being read and compared; the report is here within a minute or so.")
        else:
            messages.error(request, f"{channel} is not in shadow mode: there is nothing to compare.")
        return
    if not _reason(request):
        messages.error(request, "Give a reason: it is shown in the audit trail.")
        return
    try:
        shadow.enter(channel=channel, user=_acting(request), reason=_reason(request))
    except shadow.CannotSwitch as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{channel} is in shadow mode: nothing is written to it.")


def _report(channel: Channel, day: str) -> ShadowReport | None:
    """The report of a day, or the latest.

    Raises:
        Http404: the day is none, or has no report.
    """
    reports = ShadowReport.objects.filter(channel=channel).order_by("-day")
    if not day:
        return reports.first()
    found = reports.filter(day=_day(day)).first()
    if found is None:
        raise Http404("No report of that day.")
    return found


def _day(text: str) -> date:
    try:
        day = parse_date(text)
    except ValueError:
        day = None
    if day is None:
        raise Http404("Not a day.")
    return day


def _rows_in_words(report: ShadowReport | None, limit: int | None = None) -> list[dict[str, Any]]:
    rows = report.rows[:limit] if report else []
    return [row | {"why": comparison.WORDS[comparison.Reason(row["reason"])]} for row in rows]


@own_page
@never_cache
@require_safe
@member_page()
def shadow_csv(request: HttpRequest, seats: Seats, channel_id: int) -> HttpResponse:
    """The differences of a report as a file."""
    channel, _ = _channel(seats, channel_id)
    report = _report(channel, request.GET.get("day", ""))
    if report is None:
        raise Http404("Nothing was compared yet.")
    body = as_csv(
        ("SKU", "Title", "Location", "Would show", "Shows", "Likely reason"),
        [
            (row["sku"], row["title"], row["place"], row["intended"], row["actual"], row["why"])
            for row in _rows_in_words(report)
        ],
    )
    name = f"shadow-{channel.pk}-{report.day:%Y-%m-%d}.csv"
    return HttpResponse(
        body,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@own_page
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@member_page()
def go_live_page(request: HttpRequest, seats: Seats, channel_id: int) -> HttpResponse:
    """The first writes of going live; and going live."""
    channel, seat = _channel(seats, channel_id)
    _require_manager(seat)
    if request.method == "POST":
        expected = request.POST.get("expected", "")
        if not _reason(request):
            messages.error(request, "Give a reason: it is shown in the audit trail.")
        elif not (expected.isascii() and expected.isdigit() and len(expected) < 10):
            messages.error(request, "The number of first writes is missing: look at them again and confirm below.")
        else:
            try:
                first = shadow.go_live(
                    channel=channel, user=_acting(request), reason=_reason(request), expected=int(expected)
                )
            except shadow.CannotSwitch as error:
                messages.error(request, str(error))
            else:
                tasks.ring_push(channel.pk)
                tasks.ring_publish(channel.merchant_id)
                messages.success(request, f"{channel} is live: {words.count(first.writes, 'level')} to be written.")
                return HttpResponseRedirect(reverse("shadow", args=[channel.pk]))
        return HttpResponseRedirect(reverse("go_live", args=[channel.pk]))
    if not channel.is_shadow:
        return HttpResponseRedirect(reverse("shadow", args=[channel.pk]))
    context = {
        "seats": seats,
        "seat": seat,
        "channel": channel,
        "first": shadow.first_pushes(channel, limit=ROWS_SHOWN),
        "report": _report(channel, ""),
    }
    return render(request, "sync/go_live.html", context)


# --- held changes ---------------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_safe
@member_page()
def holds_page(request: HttpRequest, seats: Seats) -> HttpResponse:
    """All holds of a merchant, those that wait first."""
    holds = PushHold.objects.filter(merchant=seats.current.merchant).select_related("channel", "decided_by")
    waiting = list(holds.filter(state=HoldState.HELD).order_by("-pk")[:HOLDS_PER_PAGE])
    page = Paginator(holds.exclude(state=HoldState.HELD).order_by("-pk"), HOLDS_PER_PAGE).get_page(
        request.GET.get("page")
    )
    return render(request, "sync/holds.html", {"seats": seats, "waiting": waiting, "page": page})


@own_page
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@member_page()
def hold_page(request: HttpRequest, seats: Seats, hold_id: int) -> HttpResponse:
    """What is held, why, and what can be done about it."""
    hold = (
        PushHold.objects.filter(pk=hold_id).select_related("channel", "decided_by").first()
        if hold_id <= ID_MAX
        else None
    )
    if hold is None:
        raise Http404("No such hold.")
    seat = seats.at(hold.merchant_id)
    if request.method == "POST":
        _require_manager(seat)
        _decide(request, hold)
        return HttpResponseRedirect(reverse("hold", args=[hold.pk]))
    context = {
        "seats": seats,
        "seat": seat,
        "hold": hold,
        "is_open": hold.state == HoldState.HELD,
        "is_restore": hold.kind == HoldKind.RESTORE,
        "may_decide": seat.may(Role.MANAGER),
        "rows": bigruns.preview(hold, limit=ROWS_SHOWN),
        "count": hold.levels.count(),
    }
    with timezone.override(clock_of(seat.merchant)):
        return render(request, "sync/hold.html", context)


def _decide(request: HttpRequest, hold: PushHold) -> None:
    act = {"confirm": bigruns.confirm, "look_again": bigruns.look_again}.get(request.POST.get("act", ""))
    if act is None:
        messages.error(request, "Choose what to do: confirm, or look again.")
    elif not _reason(request):
        messages.error(request, "Give a reason: it is shown in the audit trail.")
    else:
        try:
            act(hold_id=hold.pk, user=_acting(request), reason=_reason(request))
        except bigruns.AlreadyDecided as error:
            messages.error(request, str(error))
        else:
            tasks.ring_publish(hold.merchant_id)
            messages.success(request, "Done: the levels are being published.")


# --- restoring ------------------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@member_page()
def restore_page(request: HttpRequest, seats: Seats, channel_id: int) -> HttpResponse:
    """What a channel showed before a moment; and having it show that again."""
    channel, seat = _channel(seats, channel_id)
    _require_manager(seat)
    with timezone.override(clock_of(seat.merchant)):
        asked = (request.POST if request.method == "POST" else request.GET).get("before", "")
        before, problem = _moment(asked)
        if request.method == "POST" and before is not None:
            try:
                hold = rewind.restore(
                    channel=channel, before=before, user=_acting(request), reason=_reason(request), now=timezone.now()
                )
            except rewind.CannotRestore as error:
                problem = str(error)
            else:
                tasks.ring_publish(channel.merchant_id)
                messages.success(request, "The former numbers are being written.")
                return HttpResponseRedirect(reverse("hold", args=[hold.pk]))
        former = rewind.preview(channel=channel, before=before) if before is not None else []
        context = {
            "seats": seats,
            "seat": seat,
            "channel": channel,
            "asked": asked,
            "before": before,
            "problem": problem,
            "former": former[:ROWS_SHOWN],
            "count": len(former),
        }
        return render(request, "sync/restore.html", context)


def _moment(text: str) -> tuple[datetime | None, str]:
    """A moment by the merchant's clock, or what is wrong with it. Nothing asked is nothing wrong."""
    if not text:
        return None, ""
    try:
        moment = parse_datetime(text)
        if moment is not None and timezone.is_naive(moment):
            moment = timezone.make_aware(moment)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        return None, f"“Before” must be a date and time such as 2026-11-29 14:30, not “{text[:40]}”."
    return moment, ""
