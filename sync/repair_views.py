"""The pages of those who look after the sync: what waits for somebody, the event log, jobs under way."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from channels.models import Channel, EventState, InboxEvent
from locations.models import LocationGroup
from merchants.access import Seats, clock_of, member_page
from merchants.models import Role, User
from merchants.pages import own_page
from sync import jobs, letters, remedies, replays, resync, tasks
from sync.models import JOB_UNDER_WAY, DeadLetter, Job, JobState, LetterState
from synctec.lib import clock

LETTERS_PER_PAGE = 100
EVENTS_PER_PAGE = 100
JOBS_PER_PAGE = 50
_FILTERS = ("ids", "channel", "topic", "states", "reason", "about", "since", "until")
_SINCE = (("1", "the past hour"), ("24", "the past 24 hours"), ("168", "the past 7 days"))


# --- dead letters -------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_safe
@member_page()
def dead_letters(request: HttpRequest, seats: Seats) -> HttpResponse:
    """What waits for somebody, grouped by cause, with what it means and what to press."""
    merchant = seats.current.merchant
    groups = letters.groups(merchant.pk)
    dismissed = DeadLetter.objects.filter(merchant=merchant, state=LetterState.DISMISSED, ended_at=None)
    context = _context(request, seats) | {
        "groups": [{"group": group, **_choice(group), "fix_url": _fix_url(request, group.remedy)} for group in groups],
        "open": sum(group.open for group in groups),
        "retried": sum(group.retried for group in groups),
        "dismissed": dismissed.select_related("channel", *_LETTER).order_by("-pk")[:LETTERS_PER_PAGE],
        "jobs": _jobs_of(seats)[:5],
        "since_choices": _SINCE,
    }
    return render(request, "sync/dead_letters.html", context)


_LETTER = ("listing_level__listing", "listing_level__store_location")


def _choice(group: letters.Group) -> dict[str, str]:
    """How the group is named in addresses."""
    return {"query": urlencode({"channel": group.channel.pk, "cause": group.cause, "code": group.code})}


def _fix_url(request: HttpRequest, remedy: remedies.Remedy) -> str:
    """The admin's page where it is mended, or nothing for those whom it would turn away."""
    if not remedy.page or not getattr(request.user, "is_staff", False):
        return ""
    try:
        url = reverse(f"admin:{remedy.page}_changelist")
    except NoReverseMatch:
        return ""
    return f"{url}?{remedy.query}" if remedy.query else url


@own_page
@never_cache
@require_safe
@member_page()
def letter_group(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The letters of one group, newest first."""
    said = _letter_choice(request.GET)
    rows = letters.living(seats.current.merchant.pk).select_related("channel", *_LETTER).order_by("-pk")
    if said.get("channel", "").isdigit():
        rows = rows.filter(channel_id=int(said["channel"][:18]))
    rows = rows.filter(**{name: said[name] for name in ("cause", "code") if name in said})
    found = list(rows[: LETTERS_PER_PAGE + 1])
    if not found:
        return redirect(_address("dead_letters", seats))
    remedy = remedies.remedy(found[0].cause, found[0].code)
    context = _context(request, seats) | {
        "letters": [(row, letters.subject(row)) for row in found[:LETTERS_PER_PAGE]],
        "has_more": len(found) > LETTERS_PER_PAGE,
        "limit": LETTERS_PER_PAGE,
        "remedy": remedy,
        "fix_url": _fix_url(request, remedy),
        "query": urlencode(said),
    }
    return render(request, "sync/letter_group.html", context)


@own_page
@never_cache
@require_safe
@member_page()
def letter(request: HttpRequest, seats: Seats, letter_id: int) -> HttpResponse:
    """One letter and what it went through."""
    row = _letter(seats, letter_id)
    seat = seats.at(row.merchant_id)
    remedy = remedies.remedy(row.cause, row.code)
    context = _context(request, seats) | {
        "letter": row,
        "subject": letters.subject(row),
        "attempts": letters.attempts(row),
        "remedy": remedy,
        "fix_url": _fix_url(request, remedy),
        "is_manager": seat.may(Role.MANAGER),
    }
    with timezone.override(clock_of(seat.merchant)):
        return render(request, "sync/dead_letter.html", context)


@own_page
@never_cache
@require_POST
@member_page()
def act_on_letter(request: HttpRequest, seats: Seats, letter_id: int, act: str) -> HttpResponse:
    """Try one again, dismiss it with a reason, or take that back."""
    row = _letter(seats, letter_id)
    _need_manager(seats, row.merchant_id)
    user = _user(request)
    try:
        if act == "retry":
            for channel_id in letters.retry(letter=row, user=user):
                transaction.on_commit(partial(tasks.ring_push, channel_id))
        elif act == "dismiss":
            reason = request.POST.get("reason", "").replace("\0", "")
            letters.dismiss(letter=row, reason=reason, user=user, now=clock.now())
        elif act == "reopen":
            letters.reopen(letter=row, user=user)
        else:
            raise Http404("There is no such button.")
    except letters.CannotChange as error:
        return _refused(request, seats, str(error), reverse("dead_letter", args=[row.pk]))
    return redirect("dead_letter", letter_id=row.pk)


def _letter(seats: Seats, letter_id: int) -> DeadLetter:
    """A letter of one of the person's merchants. Raises Http404."""
    rows = DeadLetter.objects.filter(merchant_id__in=[seat.merchant.pk for seat in seats.every])
    row = rows.select_related("channel", "dismissed_by", "retried_by_job", *_LETTER)
    found = row.filter(pk=letter_id).first() if letter_id < 2**63 else None
    if found is None:
        raise Http404("There is no such dead letter.")
    return found


@own_page
@never_cache
@member_page(Role.MANAGER)
def retry_letters(request: HttpRequest, seats: Seats) -> HttpResponse:
    """What would be tried again, and then trying it, as a job."""
    said = _letter_choice(request.POST if request.method == "POST" else request.GET)
    hours = said.pop("hours", "")
    if hours and hours.isascii() and hours.isdigit() and len(hours) < 6:
        said["since"] = (clock.now() - timedelta(hours=int(hours))).isoformat()
    return _preview_or_start(
        request, seats, kind=letters.RETRY.name, said=said, title="Try again", back=_address("dead_letters", seats)
    )


def _letter_choice(query: QueryDict) -> dict[str, str]:
    told = {name: query.get(name, "").replace("\0", "") for name in ("channel", "cause", "code", "since", "hours")}
    # An empty code is one too: that of causes which need none.
    return {name: text for name, text in told.items() if text or (name == "code" and name in query)}


# --- the event log ------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_safe
@member_page()
def events(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The event log: whatever arrived, newest first, by all that the address says."""
    merchant = seats.current.merchant
    said = _event_filter(request.GET)
    error = ""
    rows = InboxEvent.objects.none()
    try:
        parameters = replays.read(merchant.pk, _told_by(said, seats)) if said else {}
        rows = replays.find(merchant.pk, parameters)
    except jobs.BadParameters as refused:
        error = f"{_LABELS.get(refused.name, refused.name)}: {refused}"
    found = list(rows.select_related("channel").order_by("-pk")[: EVENTS_PER_PAGE + 1])
    context = _context(request, seats) | {
        "said": said,
        "error": error,
        "events": found[:EVENTS_PER_PAGE],
        "has_more": len(found) > EVENTS_PER_PAGE,
        "limit": EVENTS_PER_PAGE,
        "channels": Channel.objects.filter(merchant=merchant).order_by("name"),
        "states": [EventState.APPLIED, EventState.IGNORED, EventState.DEAD],
        "query": urlencode(said),
    }
    return render(request, "sync/events.html", context, status=400 if error else 200)


@own_page
@never_cache
@member_page(Role.MANAGER)
def replay(request: HttpRequest, seats: Seats) -> HttpResponse:
    """What a replay of these events would touch, and then the replay, as a job."""
    said = _event_filter(request.POST if request.method == "POST" else request.GET)
    return _preview_or_start(
        request,
        seats,
        kind=replays.REPLAY.name,
        said=_told_by(said, seats),
        hidden=said,
        title="Apply events again",
        back=f"{_address('events', seats)}{'&' if len(seats.every) > 1 else '?'}{urlencode(said)}",
        note="Always safe: an order event is the state of an order, so stock is moved only if that was not known yet.",
    )


_LABELS = {"ids": "Event ids", "about": "Order or SKU", "states": "State"}


def _event_filter(query: QueryDict) -> dict[str, str]:
    return {name: text for name in _FILTERS if (text := query.get(name, "").replace("\0", "").strip()[:8_000])}


def _told_by(said: Mapping[str, str], seats: Seats) -> dict[str, Any]:
    """The filter as a job takes it: ids apart, and times by the merchant's clock."""
    told: dict[str, Any] = dict(said)
    if "ids" in told:
        told["ids"] = told["ids"].replace(",", " ").split()
    for name in ("since", "until"):
        try:
            moment = parse_datetime(told.get(name, ""))
        except ValueError:
            moment = None
        if moment is not None and moment.tzinfo is None:
            told[name] = moment.replace(tzinfo=clock_of(seats.current.merchant)).isoformat()
    return told


# --- reading again ------------------------------------------------------------------------------------------


@own_page
@never_cache
@member_page(Role.MANAGER)
def resync_page(request: HttpRequest, seats: Seats) -> HttpResponse:
    """Have a SKU, a channel or a group read again, and written where it differs."""
    merchant = seats.current.merchant
    query = request.POST if request.method == "POST" else request.GET
    said = {name: query.get(name, "").replace("\0", "").strip()[:200] for name in ("sku", "channel", "group")}
    context = _context(request, seats) | {
        "said": said,
        "channels": Channel.objects.filter(merchant=merchant).order_by("name"),
        "groups": LocationGroup.objects.filter(merchant=merchant).order_by("name"),
    }
    if request.method == "POST":
        try:
            asked = resync.ask(
                merchant_id=merchant.pk,
                said=said,
                user=_user(request),
                reason=request.POST.get("why", "").replace("\0", "").strip()[:500],
            )
        except (jobs.BadParameters, jobs.NothingToDo) as refused:
            return render(request, "sync/resync.html", context | {"error": str(refused)}, status=400)
        if asked.job is not None:
            return redirect(f"{reverse('job', args=[asked.job.pk])}")
        for channel_id in asked.channels:
            tasks.ring_check(channel_id)
        tasks.ring_publish(merchant.pk)
        context["done"] = asked.levels
    return render(request, "sync/resync.html", context)


# --- jobs ---------------------------------------------------------------------------------------------------


def _preview_or_start(
    request: HttpRequest,
    seats: Seats,
    *,
    kind: str,
    said: Mapping[str, Any],
    title: str,
    back: str,
    note: str = "",
    hidden: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Ask before a job is made: how many it is about, and a button."""
    merchant = seats.current.merchant
    context = _context(request, seats) | {
        "title": title,
        "hidden": hidden if hidden is not None else said,
        "back": back,
        "note": note,
    }
    try:
        if request.method == "POST" and request.POST.get("sure") == "yes":
            reason = request.POST.get("why", "").replace("\0", "").strip()[:500]
            job = jobs.create(merchant_id=merchant.pk, kind=kind, said=said, user=_user(request), reason=reason)
            return redirect("job", job_id=job.pk)
        context["preview"] = jobs.preview(merchant_id=merchant.pk, kind=kind, said=said)
    except jobs.BadParameters as error:
        return render(
            request,
            "sync/job_preview.html",
            context | {"error": f"{_LABELS.get(error.name, error.name)}: {error}"},
            status=400,
        )
    except jobs.NothingToDo as error:
        return render(request, "sync/job_preview.html", context | {"error": str(error)})
    return render(request, "sync/job_preview.html", context)


@own_page
@never_cache
@require_safe
@member_page()
def job_list(request: HttpRequest, seats: Seats) -> HttpResponse:
    """Jobs, newest first."""
    found = _jobs_of(seats)[:JOBS_PER_PAGE]
    return render(request, "sync/jobs.html", _context(request, seats) | {"jobs": found})


def _jobs_of(seats: Seats) -> list[tuple[Job, str]]:
    rows = Job.objects.filter(merchant=seats.current.merchant).select_related("created_by", "api_key").order_by("-pk")
    return [(job, jobs.title_of(job)) for job in rows[:JOBS_PER_PAGE]]


@own_page
@never_cache
@require_safe
@member_page()
def job(request: HttpRequest, seats: Seats, job_id: int) -> HttpResponse:
    """One job. While it is under way, the page asks for the part that changes."""
    found = _job(seats, job_id)
    seat = seats.at(found.merchant_id)
    context = _context(request, seats) | {
        "job": found,
        "title": jobs.title_of(found),
        "is_under_way": found.state in JOB_UNDER_WAY,
        "may_cancel": found.state in (JobState.WAITING, JobState.RUNNING) and seat.may(Role.MANAGER),
        "now": clock.now(),
    }
    is_part = request.headers.get("HX-Request") == "true"
    with timezone.override(clock_of(seat.merchant)):
        return render(request, "sync/_job.html" if is_part else "sync/job.html", context)


@own_page
@never_cache
@require_POST
@member_page()
def cancel_job(request: HttpRequest, seats: Seats, job_id: int) -> HttpResponse:
    """End a job after the batch under way."""
    found = _job(seats, job_id)
    _need_manager(seats, found.merchant_id)
    jobs.cancel(job=found, user=_user(request))
    return redirect("job", job_id=found.pk)


def _job(seats: Seats, job_id: int) -> Job:
    """A job of one of the person's merchants. Raises Http404."""
    rows = Job.objects.filter(merchant_id__in=[seat.merchant.pk for seat in seats.every])
    found = rows.select_related("created_by", "api_key").filter(pk=job_id).first() if job_id < 2**63 else None
    if found is None:
        raise Http404("There is no such job.")
    return found


# --- what they share ----------------------------------------------------------------------------------------


def _context(request: HttpRequest, seats: Seats) -> dict[str, Any]:
    return {
        "seats": seats,
        "merchant": seats.current.merchant.slug if len(seats.every) > 1 else "",
        "is_manager": seats.current.may(Role.MANAGER),
    }


def _address(name: str, seats: Seats) -> str:
    """A page about the same merchant."""
    query = f"?{urlencode({'merchant': seats.current.merchant.slug})}" if len(seats.every) > 1 else ""
    return reverse(name) + query


def _need_manager(seats: Seats, merchant_id: int) -> None:
    if not seats.at(merchant_id).may(Role.MANAGER):
        raise PermissionDenied("This needs the role of manager or above.")


def _user(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _refused(request: HttpRequest, seats: Seats, error: str, back: str) -> HttpResponse:
    context = _context(request, seats) | {"title": "Nothing was changed", "error": error, "back": back}
    return render(request, "sync/job_preview.html", context, status=409)
