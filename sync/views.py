"""The pages: the live board and the stories behind its numbers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from locations.models import LocationGroup
from merchants.access import Seats, clock_of, member_page
from merchants.models import Role
from merchants.pages import own_page
from sync import board as boards
from sync import story as stories

#: A story whose events are this recent may still grow; its page asks again until it is finished.
STORY_GROWS_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Address:
    """The state of the board's page, all of it in its address."""

    merchant: str
    group: str
    search: str
    sort: boards.Sort
    page: int

    def url(self, name: str = "board", **changes: Any) -> str:
        """The address with some parts changed; a change other than the page's starts at the first page."""
        if "page" not in changes and changes:
            changes["page"] = 1
        state = replace(self, **changes)
        query = {
            "merchant": state.merchant,
            "group": state.group,
            "q": state.search,
            "sort": "" if state.sort == boards.Sort.CODE else str(state.sort),
            "page": "" if state.page == 1 else str(state.page),
        }
        told = urlencode({key: value for key, value in query.items() if value})
        return reverse(name) + (f"?{told}" if told else "")


def _address(request: HttpRequest, seats: Seats, group: LocationGroup | None) -> Address:
    asked_page = request.GET.get("page", "")
    sort = request.GET.get("sort", "")
    return Address(
        merchant=seats.current.merchant.slug if len(seats.every) > 1 else "",
        group=str(group.pk) if group and request.GET.get("group") else "",
        search=request.GET.get("q", "").replace("\0", "").strip()[:100],
        sort=boards.Sort(sort) if sort in set(boards.Sort) else boards.Sort.CODE,
        page=min(boards.PAGE_MAX, max(1, int(asked_page))) if asked_page.isascii() and asked_page.isdigit() else 1,
    )


@own_page
@never_cache
@require_safe
@member_page()
def board(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The live page."""
    groups = boards.groups_of(seats.current.merchant.pk)
    group = _chosen(groups, request.GET.get("group", ""))
    address = _address(request, seats, group)
    context: dict[str, Any] = {"seats": seats, "groups": groups, "group": group, "address": address}
    if group is None:
        return render(request, "sync/board.html", context | _empty_links(request))
    view = _view(address, group)
    return render(
        request,
        "sync/board.html",
        context | _live(request, seats, address, boards.show(view, boards.look(view))),
    )


@own_page
@never_cache
@require_safe
@member_page()
def live(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The part of the live page that changes; 304 while its fingerprint is the one the page has."""
    group = _chosen(boards.groups_of(seats.current.merchant.pk), request.GET.get("group", ""))
    if group is None:
        raise Http404("No such group.")
    address = _address(request, seats, group)
    view = _view(address, group)
    glance = boards.look(view)
    etag = f'"{glance.fingerprint}"'
    if request.headers.get("If-None-Match") == etag:
        return HttpResponse(status=304, headers={"ETag": etag})
    context = {
        "seats": seats,
        "group": group,
        "address": address,
        **_live(request, seats, address, boards.show(view, glance)),
    }
    response = render(request, "sync/_live.html", context)
    response.headers["ETag"] = etag
    return response


def _chosen(groups: tuple[LocationGroup, ...], asked: str) -> LocationGroup | None:
    """The group asked for, or the first one.

    Raises:
        Http404: it is not one of the merchant's.
    """
    if not asked:
        return groups[0] if groups else None
    for group in groups:
        if str(group.pk) == asked:
            return group
    raise Http404("No such group.")


def _view(address: Address, group: LocationGroup) -> boards.View:
    return boards.View(
        merchant_id=group.merchant_id,
        group_id=group.pk,
        search=address.search,
        sort=address.sort,
        page=address.page,
    )


def _live(request: HttpRequest, seats: Seats, address: Address, shown: boards.Board) -> dict[str, Any]:
    needs = [
        {
            "tone": need.tone,
            "text": need.text,
            "url": _page_url(need.page, address)
            if need.page
            else admin_url(request, need.admin_page, need.act, need.query, row=need.row),
        }
        for need in shown.needs
    ]
    return {
        "board": shown,
        "needs": needs,
        "now": timezone.now(),
        "live_url": address.url("live", page=address.page),
        "by_code_url": address.url(sort=boards.Sort.CODE),
        "by_change_url": address.url(sort=boards.Sort.CHANGE),
        "previous_url": address.url(page=address.page - 1) if address.page > 1 else "",
        "next_url": address.url(page=address.page + 1) if shown.has_next else "",
        "everything_url": address.url(search=""),
        "first_row": (address.page - 1) * boards.SKUS_PER_PAGE + 1,
        "last_row": (address.page - 1) * boards.SKUS_PER_PAGE + len(shown.rows),
        # Only an empty group needs to know.
        "has_channels": not shown.columns and boards.has_channels(seats.current.merchant.pk),
        **_empty_links(request),
    }


def _page_url(page: str, address: Address) -> str:
    return reverse(page) + (f"?{urlencode({'merchant': address.merchant})}" if address.merchant else "")


def _empty_links(request: HttpRequest) -> dict[str, str]:
    """Where the empty states lead."""
    return {
        "add_group_url": admin_url(request, "locations_locationgroup", "add"),
        "groups_url": admin_url(request, "locations_locationgroup", "changelist"),
        "add_channel_url": admin_url(request, "channels_channel", "add"),
        "channels_url": admin_url(request, "channels_channel", "changelist"),
        "add_sku_url": admin_url(request, "inventory_sku", "add"),
    }


def admin_url(request: HttpRequest, page: str, what: str, query: str = "", *, row: int | None = None) -> str:
    """The admin's page, or nothing for those whom it would turn away."""
    if not getattr(request.user, "is_staff", False):
        return ""
    try:
        url = reverse(f"admin:{page}_{what}", args=[] if row is None else [row])
    except NoReverseMatch:
        return ""
    return f"{url}?{query}" if query else url


# --- stories ------------------------------------------------------------------------------------------------


@own_page
@never_cache
@require_safe
@member_page()
def story(request: HttpRequest, seats: Seats, correlation_id: uuid.UUID) -> HttpResponse:
    """Everything that followed from one event. While it may grow, the page asks for that again."""
    told = stories.tell(correlation_id, merchant_ids=[seat.merchant.pk for seat in seats.every])
    if told is None:
        raise Http404("No such story.")
    now = timezone.now()
    seat = seats.at(told.merchant_id)
    is_growing = not told.is_finished and (now - told.started_at).total_seconds() < STORY_GROWS_SECONDS
    context = {
        "seats": seats,
        "seat": seat,
        "story": told,
        "now": now,
        "may_read_bodies": seat.may(Role.MANAGER),
        "is_growing": is_growing,
    }
    is_part = request.headers.get("HX-Request") == "true"
    with timezone.override(clock_of(seat.merchant)):
        return render(request, "sync/_story.html" if is_part else "sync/story.html", context)


@own_page
@never_cache
@require_safe
@member_page()
def find_story(request: HttpRequest, seats: Seats) -> HttpResponse:
    """Search; a single story found is opened at once. Without a question: the newest events."""
    query = request.GET.get("q", "").replace("\0", "").strip()[:200]
    merchant_ids = [seat.merchant.pk for seat in seats.every]
    found = stories.find(query, merchant_ids=merchant_ids)
    if len(found) == 1:
        return redirect("story", correlation_id=found[0].correlation_id)
    newest = () if query else boards.newest_events(seats.current.merchant.pk)
    context = {"seats": seats, "query": query, "found": found, "events": newest, "now": timezone.now()}
    return render(request, "sync/find_story.html", context)
