"""The pages of alerts: what is open, what was, what to do about it, and who is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from merchants import notices, targets
from merchants.access import Seats, member_page
from merchants.models import Member, NotificationTarget, Role, Severity, TargetState, User
from merchants.pages import own_page
from sync.alerts import deeds, listing
from sync.models import Alert, AlertState
from synctec.lib import clock

#: From the button's name to how long an alert is put off.
SNOOZES = {"1h": timedelta(hours=1), "8h": timedelta(hours=8), "1d": timedelta(days=1), "7d": timedelta(days=7)}
_SNOOZE_WORDS = {"1h": "an hour", "8h": "8 hours", "1d": "a day", "7d": "a week"}


class OwnWishesForm(forms.Form):
    """What a person wants to be told by e-mail."""

    tell_from = forms.ChoiceField(choices=[("", "nothing"), *Severity.choices], required=False)


class NoteForm(forms.Form):
    """What somebody who is at it wants others to know."""

    note = forms.CharField(max_length=500, required=False)


@own_page
@never_cache
@require_safe
@member_page()
def alerts(request: HttpRequest, seats: Seats) -> HttpResponse:
    """What is open, what was, the rules, and who is told."""
    merchant = seats.current.merchant
    own = _own_target(request, seats)
    told = listing.targets_of(merchant.pk)
    context: dict[str, Any] = {
        "seats": seats,
        "lines": listing.open_lines(merchant.pk),
        "history": listing.history(merchant.pk),
        "rules": listing.rule_lines(merchant.pk),
        "targets": told,
        "is_anybody_told": any(target.state == TargetState.ACTIVE for target in told),
        "own": own,
        "tell_from": own.minimum_severity if own and own.state == TargetState.ACTIVE else "",
        "severities": Severity.choices,
        "may_act": seats.current.may(Role.MANAGER),
        "is_staff": getattr(request.user, "is_staff", False),
        "now": clock.now(),
    }
    return render(request, "sync/alerts.html", context)


@own_page
@never_cache
@require_safe
@member_page()
def alert(request: HttpRequest, seats: Seats, alert_id: int) -> HttpResponse:
    """One alert: what it means, what it consists of, what to do."""
    shown = _alert_of(seats, alert_id)
    followers = Alert.objects.filter(
        listing.is_seen([seat.merchant.pk for seat in seats.every]), cause=f"{shown.rule} {shown.subject}"
    ).exclude(state__in=[AlertState.PENDING, AlertState.RECOVERED])
    cause = None
    if shown.cause and shown.state != AlertState.RECOVERED:
        rule, _, subject = shown.cause.partition(" ")
        cause = Alert.objects.filter(rule=rule, subject=subject).exclude(state=AlertState.RECOVERED).first()
    context = {
        "seats": seats,
        "alert": shown,
        "rule": listing.rule_of(shown),
        "followers": followers if shown.state != AlertState.RECOVERED else [],
        "cause": cause,
        "snoozes": _SNOOZE_WORDS.items(),
        "may_act": _may_act(request, seats, shown) and shown.state != AlertState.RECOVERED,
        "now": clock.now(),
    }
    return render(request, "sync/alert.html", context)


@require_POST
@member_page()
def acknowledge(request: HttpRequest, seats: Seats, alert_id: int) -> HttpResponse:
    """Somebody is at it."""
    shown = _alert_to_act_on(request, seats, alert_id)
    form = NoteForm(request.POST)
    if not form.is_valid():
        messages.error(request, "A note has 500 characters at most.")
        return redirect("alert", alert_id=alert_id)
    try:
        deeds.acknowledge(
            alert_id,
            merchant_id=shown.merchant_id,
            note=form.cleaned_data["note"],
            now=clock.now(),
            user=_person(request),
        )
    except deeds.DeedRefused as refused:
        messages.info(request, str(refused))
    else:
        messages.success(request, "You are at it: nobody is told of it again, unless it becomes critical.")
    return redirect("alert", alert_id=alert_id)


@require_POST
@member_page()
def snooze(request: HttpRequest, seats: Seats, alert_id: int) -> HttpResponse:
    """Not now."""
    shown = _alert_to_act_on(request, seats, alert_id)
    span = SNOOZES.get(request.POST.get("for", ""))
    if span is None:
        messages.error(request, "Choose for how long.")
        return redirect("alert", alert_id=alert_id)
    now = clock.now()
    try:
        deeds.snooze(alert_id, merchant_id=shown.merchant_id, until=now + span, now=now, user=_person(request))
    except deeds.DeedRefused as refused:
        messages.info(request, str(refused))
    else:
        messages.success(request, "Put off. If it is still there then, it is told.")
    return redirect("alert", alert_id=alert_id)


@require_POST
@member_page()
def tell_me(request: HttpRequest, seats: Seats) -> HttpResponse:
    """What the person wants to be told by e-mail at this merchant; with `test`, a letter to try it."""
    person, back = _person(request), _alerts_url(seats)
    own = _own_target(request, seats)
    if "test" in request.POST:
        if own is None:
            messages.info(request, "Choose first what you want to be told.")
        else:
            answer = notices.send_test(own, user=person, now=clock.now)
            say = messages.success if answer.is_acknowledged else messages.error
            say(request, f"Test to {person.email}: {answer.says}")
        return redirect(back)
    form = OwnWishesForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the offered answers.")
    elif form.cleaned_data["tell_from"]:
        member = Member.objects.get(merchant=seats.current.merchant, user=person)
        wishes = targets.Wishes(minimum_severity=form.cleaned_data["tell_from"], kinds=targets.USUAL_KINDS)
        targets.tell_member(member, wishes=wishes, user=person, now=clock.now())
        messages.success(request, f"Alerts go to {person.email} from now on.")
    elif own is not None:
        targets.switch_off(own, user=person)
        messages.success(request, "You are told nothing by e-mail.")
    return redirect(back)


def _alerts_url(seats: Seats) -> str:
    slug = f"?merchant={seats.current.merchant.slug}" if len(seats.every) > 1 else ""
    return reverse("alerts") + slug


def _own_target(request: HttpRequest, seats: Seats) -> NotificationTarget | None:
    own = NotificationTarget.objects.filter(member__user=_person(request), merchant=seats.current.merchant)
    return own.select_related("merchant", "member__user").first()


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User), "member_page lets in nobody else"
    return request.user


def _alert_of(seats: Seats, alert_id: int) -> Alert:
    """Raises Http404: there is none that the person may see."""
    told = Alert.objects.filter(listing.is_seen([seat.merchant.pk for seat in seats.every]))
    found = (
        told.exclude(state=AlertState.PENDING).select_related("acknowledged_by", "channel").filter(pk=alert_id).first()
    )
    if found is None:
        raise Http404("No such alert.")
    return found


def _may_act(request: HttpRequest, seats: Seats, shown: Alert) -> bool:
    """Managers act for their merchant; about the installation those who run it."""
    if shown.merchant_id is None:
        return bool(getattr(request.user, "is_superuser", False))
    return seats.at(shown.merchant_id).may(Role.MANAGER)


def _alert_to_act_on(request: HttpRequest, seats: Seats, alert_id: int) -> Alert:
    shown = _alert_of(seats, alert_id)
    if not _may_act(request, seats, shown):
        raise PermissionDenied("This needs the role of manager or above; about the installation, a superuser.")
    return shown
