"""Which merchants a person may see, and what they may do there.

Whoever asks for another tenant's page gets the same 404 as for a page that does not exist: an answer of
"forbidden" would tell that it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from functools import wraps
from typing import Concatenate, ParamSpec

import structlog
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from merchants.models import Member, Merchant, Role, User
from merchants.quiet_hours import zone

P = ParamSpec("P")

#: Each role may do what the ones after it may.
_RANKS = (Role.OWNER, Role.MANAGER, Role.VIEWER)


@dataclass(frozen=True, slots=True)
class Seat:
    """A person's place at one merchant."""

    merchant: Merchant
    role: Role

    def may(self, role: Role) -> bool:
        """Whether this seat allows what `role` allows."""
        return _RANKS.index(self.role) <= _RANKS.index(role)


@dataclass(frozen=True, slots=True)
class Seats:
    """All of a person's places, by the merchants' names, and the one the request is about."""

    current: Seat
    every: tuple[Seat, ...]

    def at(self, merchant_id: int) -> Seat:
        """The seat at a merchant.

        Raises:
            Http404: the person has none there.
        """
        for seat in self.every:
            if seat.merchant.pk == merchant_id:
                return seat
        raise Http404("No such merchant.")


def seats_of(user: User | AnonymousUser) -> tuple[Seat, ...]:
    """The active merchants a person is a member of, by name. Being staff adds none."""
    if not isinstance(user, User):
        return ()
    members = (
        Member.objects.filter(user=user, merchant__is_active=True)
        .select_related("merchant")
        .order_by("merchant__name", "merchant_id")
    )
    return tuple(Seat(merchant=member.merchant, role=Role(member.role)) for member in members)


def choose_seat(seats: tuple[Seat, ...], slug: str) -> Seat:
    """The seat at the merchant with this slug, or the first one when no merchant is named.

    Raises:
        Http404: the person is no member of the merchant, or there is none of that name.
    """
    if not slug and seats:
        return seats[0]
    for seat in seats:
        if seat.merchant.slug == slug:
            return seat
    raise Http404("No such merchant.")


def member_page(
    minimum: Role = Role.VIEWER,
) -> Callable[
    [Callable[Concatenate[HttpRequest, Seats, P], HttpResponse]],
    Callable[Concatenate[HttpRequest, P], HttpResponse],
]:
    """A decorator: the view is given the person's `Seats`, chosen by `?merchant=<slug>`.

    Not signed in: the login page (or 401 and a reload for a request of htmx). Member of nothing: a page that
    says so. A stranger to the merchant: 404. A role below `minimum`: 403.
    """

    def decorate(
        view: Callable[Concatenate[HttpRequest, Seats, P], HttpResponse],
    ) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if not request.user.is_authenticated:
                return _ask_to_sign_in(request)
            every = seats_of(request.user)
            slug = request.GET.get("merchant", "")
            if not every and not slug:
                return render(request, "merchants/no_merchant.html", status=403)
            seats = Seats(current=choose_seat(every, slug), every=every)
            if not seats.current.may(minimum):
                raise PermissionDenied(f"This needs the role of {minimum.label.lower()} or above.")
            structlog.contextvars.bind_contextvars(merchant_id=seats.current.merchant.pk)
            with timezone.override(clock_of(seats.current.merchant)):
                return view(request, seats, *args, **kwargs)

        return guarded

    return decorate


def clock_of(merchant: Merchant) -> tzinfo:
    """The merchant's own clock, by which its pages tell times; UTC when its name means nothing here."""
    return zone(merchant.timezone)


def _ask_to_sign_in(request: HttpRequest) -> HttpResponse:
    if request.headers.get("HX-Request") == "true":
        # A redirect would put the login page inside the table; reloading the page leads there properly.
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    return redirect_to_login(request.get_full_path(), login_url="login")
