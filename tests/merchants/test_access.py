"""Who may see and do what."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from merchants.access import Seat, Seats, choose_seat, clock_of, member_page, seats_of
from merchants.models import Member, Merchant, Role, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def olive() -> User:
    return User.objects.create_user(username="olive", email="olive@example.com", password="pw")


def join(person: User, name: str, role: Role, *, is_active: bool = True) -> Merchant:
    merchant = Merchant.objects.create(name=name, slug=name.lower(), is_active=is_active, timezone="Asia/Tokyo")
    Member.objects.create(merchant=merchant, user=person, role=role)
    return merchant


def ask(person: User, query: str = "") -> HttpRequest:
    request = RequestFactory().get(f"/{query}")
    request.user = person
    return request


@member_page(minimum=Role.MANAGER)
def name_of_merchant(request: HttpRequest, seats: Seats) -> HttpResponse:
    return HttpResponse(f"{seats.current.merchant.name} {timezone.get_current_timezone_name()}")


def test_seats_are_those_at_active_merchants_by_name(olive: User) -> None:
    join(olive, "Birch", Role.VIEWER)
    join(olive, "Alder", Role.OWNER)
    join(olive, "Closed", Role.OWNER, is_active=False)
    Merchant.objects.create(name="Strange", slug="strange")

    seats = seats_of(olive)

    assert [(seat.merchant.name, seat.role) for seat in seats] == [
        ("Alder", Role.OWNER),
        ("Birch", Role.VIEWER),
    ]


def test_nobody_has_no_seats() -> None:
    assert seats_of(AnonymousUser()) == ()


def test_the_first_seat_is_taken_when_none_is_asked_for(olive: User) -> None:
    join(olive, "Alder", Role.OWNER)

    assert choose_seat(seats_of(olive), "").merchant.name == "Alder"


def test_a_merchant_one_is_no_member_of_does_not_exist(olive: User) -> None:
    join(olive, "Alder", Role.OWNER)
    Merchant.objects.create(name="Strange", slug="strange")

    with pytest.raises(Http404):
        choose_seat(seats_of(olive), "strange")


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.OWNER, [True, True, True]),
        (Role.MANAGER, [False, True, True]),
        (Role.VIEWER, [False, False, True]),
    ],
)
def test_each_role_may_do_what_the_ones_below_it_may(role: Role, may: list[bool]) -> None:
    seat = Seat(merchant=Merchant(), role=role)

    assert [seat.may(needed) for needed in (Role.OWNER, Role.MANAGER, Role.VIEWER)] == may


def test_a_page_is_shown_by_the_merchants_own_clock(olive: User) -> None:
    join(olive, "Alder", Role.MANAGER)

    assert name_of_merchant(ask(olive)).content == b"Alder Asia/Tokyo"


def test_a_role_that_is_too_low_is_refused(olive: User) -> None:
    join(olive, "Alder", Role.VIEWER)

    with pytest.raises(PermissionDenied):
        name_of_merchant(ask(olive))


def test_the_merchant_is_chosen_by_the_address(olive: User) -> None:
    join(olive, "Alder", Role.VIEWER)
    join(olive, "Birch", Role.OWNER)

    assert name_of_merchant(ask(olive, "?merchant=birch")).content == b"Birch Asia/Tokyo"


@pytest.mark.parametrize("name", ["", "Nowhere/Land", "../../etc/passwd", "/etc/passwd"])
def test_a_timezone_that_means_nothing_is_utc(name: str) -> None:
    assert str(clock_of(Merchant(timezone=name))) == "UTC"
